/* SPDX-License-Identifier: MIT */
/*
 * leaks: what nobody uses and nobody is likely to come back for; and what can't be judged. Changes nothing.
 */
#include "leaks.h"

static int print_json(const struct scan *scan, const struct leak_filter *filter) {
        struct json_object *array = json_new_array();

        for (size_t i = 0; i < scan->count; i++)
                if (leak_matches(&scan->finds[i], filter))
                        json_append(array, leak_to_json(&scan->finds[i]));
        return json_print(array);
}

static int print_table(struct listing *listing, const struct scan *scan, const struct leak_filter *filter) {
        listing_begin(listing);
        for (size_t i = 0; i < scan->count; i++)
                if (leak_matches(&scan->finds[i], filter))
                        listing_add(listing, &scan->finds[i]);
        return listing_print(listing);
}

int cmd_leaks(struct ctl *ctl, int n_arguments, char **arguments) {
        struct leak_filter filter = leak_filter_of(ctl);
        _cleanup_(scan_donep) struct scan scan = { 0 };
        struct listing listing;
        int status;

        (void) n_arguments;
        (void) arguments;
        if (ctl->options.all_namespaces && !ctl->options.columns)
                ctl->options.columns = "+where";
        status = listing_choose(&listing, ctl, &leak_columns);
        if (status == STATUS_DONE)
                status = leaks_scan(ctl, filter.kinds, &scan);
        if (status != STATUS_DONE)
                return status;
        return ctl->options.json ? print_json(&scan, &filter) : print_table(&listing, &scan, &filter);
}
