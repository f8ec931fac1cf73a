/* SPDX-License-Identifier: MIT */
/*
 * reclaim: frees what leaks lists: by a command line, after asking; or by the rules of the configuration file.
 *
 * What may be freed is chosen here; that nobody uses it is checked by whoever frees it: reclaim.h, and for segments of shmd
 * the daemon. Everything freed is logged.
 */
#include "leaks.h"
#include "reclaim.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>
#include <syslog.h>

/* What is to be done with a find. */
struct candidate {
        const struct scan_find *find;
        const struct rule *rule; /* or NULL */
        uint64_t min_age_usec;
        int result; /* enum reclaim_result, or a negative errno value */
        uint64_t bytes;
};

/* Of a name each byte of which is escaped */
#define DESCRIPTION_MAX 1200

struct plan {
        struct ctl *ctl;
        struct scan scan;
        struct rules rules;
        struct candidate *items;
        size_t count;
        uint64_t bytes; /* that came back, or would */
};

static void plan_donep(struct plan *plan) {
        free(plan->items);
        scan_done(&plan->scan);
        rules_done(&plan->rules);
}

static void plan_add(struct plan *plan, const struct scan_find *find, const struct rule *rule, uint64_t min_age_usec) {
        plan->items[plan->count++] = (struct candidate) { .find = find, .rule = rule, .min_age_usec = min_age_usec };
}

/* --- choosing: by filter --- */

static uint64_t age_for(const struct scan_find *find, uint64_t min_age_usec) {
        if (min_age_usec != UINT64_MAX)
                return min_age_usec;
        return find->kind == SCAN_SHMD ? LEAK_SHMD_AGE_USEC : 0;
}

static void choose_all(struct plan *plan, const struct leak_filter *filter) {
        for (size_t i = 0; i < plan->scan.count; i++) {
                const struct scan_find *find = &plan->scan.finds[i];

                if (find->verdict == SCAN_LEAKED && leak_matches(find, filter))
                        plan_add(plan, find, NULL, age_for(find, filter->min_age_usec));
        }
}

/* --- choosing: by name or id --- */

static const char *posix_name(const char *argument) {
        static const char directory[] = SCAN_DIRECTORY "/";

        if (strncmp(argument, directory, strlen(directory)) == 0)
                return argument + strlen(directory);
        return *argument == '/' ? argument + 1 : argument;
}

static bool is_meant(const struct scan_find *find, const char *argument) {
        uint64_t number;

        switch (find->kind) {
        case SCAN_POSIX:
                return strcmp(find->name, posix_name(argument)) == 0;
        case SCAN_SYSV:
                if (strncmp(argument, "0x", 2) == 0)
                        return strtoul(argument, NULL, 16) == strtoul(find->name, NULL, 16) && strtoul(argument, NULL, 16) != 0;
                return parse_id(argument, &number) && number == find->id;
        default:
                return strcmp(find->name, *argument == '/' ? argument + 1 : argument) == 0 ||
                       (parse_id(argument, &number) && number == find->id);
        }
}

static int refuse(const char *argument, const struct scan_find *find) {
        if (!find)
                return fail("cannot reclaim \"%s\": nothing that nobody uses has this name or number", argument);
        if (find->verdict == SCAN_IN_USE)
                return fail("cannot reclaim \"%s\": in use%s%s", argument, find->reason[0] ? ": " : "", find->reason);
        if (find->verdict == SCAN_UNKNOWN)
                return fail("cannot reclaim \"%s\": whether it is leaked can't be said: %s", argument, find->reason);
        return fail("cannot reclaim \"%s\": it is not of that age or user", argument);
}

static int fail_ambiguous(const struct plan *plan, const char *argument, const struct scan_find *a, const struct scan_find *b) {
        if (a->kind != b->kind)
                return fail_usage(plan->ctl, "\"%s\" is both of %s and of %s: say --kind", argument, scan_kind_name(a->kind),
                                  scan_kind_name(b->kind));
        if (a->space != b->space)
                return fail_usage(plan->ctl, "\"%s\" is in more than one namespace", argument);
        return fail_usage(plan->ctl, "\"%s\" is one's name and another one's id: say which by its id, or its name with a slash before it",
                          argument);
}

static int choose_one(struct plan *plan, const struct leak_filter *filter, const char *argument) {
        const struct scan_find *found = NULL;

        for (size_t i = 0; i < plan->scan.count; i++) {
                const struct scan_find *find = &plan->scan.finds[i];

                if (!is_meant(find, argument))
                        continue;
                if (found)
                        return fail_ambiguous(plan, argument, found, find);
                found = find;
        }
        if (!found || found->verdict != SCAN_LEAKED || !leak_matches(found, filter))
                return refuse(argument, found);
        for (size_t i = 0; i < plan->count; i++)
                if (plan->items[i].find == found) /* said twice */
                        return STATUS_DONE;
        plan_add(plan, found, NULL, age_for(found, filter->min_age_usec));
        return STATUS_DONE;
}

/* --- choosing: by the rules --- */

static void choose_by_rules(struct plan *plan) {
        for (size_t i = 0; i < plan->scan.count; i++) {
                const struct scan_find *find = &plan->scan.finds[i];
                const struct rule *rule;

                if (find->verdict != SCAN_LEAKED)
                        continue;
                rule = rules_find(&plan->rules, 1u << find->kind, find->name, find->uid, leak_age_usec(find));
                if (rule)
                        plan_add(plan, find, rule, rule->age_usec);
        }
}

static unsigned kinds_of(const struct rules *rules) {
        unsigned kinds = 0;

        for (size_t i = 0; i < rules->count; i++)
                kinds |= rules->items[i].kinds;
        return kinds;
}

/* --- freeing --- */

static int free_segment(struct ctl *ctl, const struct candidate *candidate, uint64_t *ret_bytes) {
        const struct scan_find *find = candidate->find;
        int r = shmd_unlink_idle(ctl->connection, find->id, candidate->min_age_usec);

        *ret_bytes = 0;
        switch (r) {
        case 0:
                *ret_bytes = find->stamp == SHMD_BACKING_FILE ? 0 : resident_known(find->resident_bytes);
                return RECLAIM_FREED;
        case -EBUSY:
                return RECLAIM_IN_USE;
        case -ENOENT:
                return RECLAIM_GONE;
        case -EPERM:
                return RECLAIM_DENIED;
        default:
                return r;
        }
}

static void free_one(struct ctl *ctl, struct candidate *candidate) {
        if (candidate->find->kind == SCAN_SHMD)
                candidate->result = free_segment(ctl, candidate, &candidate->bytes);
        else
                candidate->result = reclaim(candidate->find, &candidate->bytes);
}

/* Escaped: names are made by anybody, and logs are made of lines. */
static const char *describe(const struct scan_find *find, char *buffer, size_t size) {
        FILE *file = fmemopen(buffer, size, "w");

        if (!file)
                fail_memory();
        fputs(scan_kind_name(find->kind), file);
        if (find->kind == SCAN_POSIX) {
                fputc(' ', file);
                print_escaped(file, find->name);
        } else {
                fprintf(file, " %" PRIu64 " (", find->id);
                print_escaped(file, find->name);
                fputc(')', file);
        }
        fclose(file);
        buffer[size - 1] = '\0';
        return buffer;
}

static int tell(const struct ctl *ctl, const struct candidate *candidate) {
        char name[DESCRIPTION_MAX], bytes[TEXT_SIZE_MAX];

        describe(candidate->find, name, sizeof(name));
        if (candidate->result == RECLAIM_FREED) {
                syslog(LOG_NOTICE, "reclaimed %s of user %" PRIu32 ", %" PRIu64 " bytes: %s", name, candidate->find->uid,
                       candidate->bytes, candidate->find->reason);
                if (!ctl->options.json) {
                        printf("freed %s, %s\n", name, format_size(candidate->bytes, ctl->options.bytes, bytes));
                }
                return STATUS_DONE;
        }
        if (candidate->result == RECLAIM_GONE)
                return STATUS_DONE; /* that is what was wanted */
        return fail("not freed: %s: %s", name,
                    candidate->result < 0 ? strerror(-candidate->result) : reclaim_result_words(candidate->result));
}

static bool is_for_report(const struct candidate *candidate) {
        return candidate->rule && !candidate->rule->reclaim;
}

static int report(const struct ctl *ctl, const struct candidate *candidate) {
        const struct scan_find *find = candidate->find;
        char name[DESCRIPTION_MAX], size[TEXT_SIZE_MAX], age[TEXT_SIZE_MAX];

        describe(find, name, sizeof(name));
        syslog(LOG_NOTICE, "leaked: %s of user %" PRIu32 ", %" PRIu64 " bytes: %s", name, find->uid, resident_known(find->resident_bytes),
               find->reason);
        if (ctl->options.json)
                return STATUS_DONE;
        printf("leaked %s, %s, unused for %s: %s\n", name, format_resident(find->resident_bytes, ctl->options.bytes, size),
               format_duration(leak_age_usec(find), age), find->reason);
        return STATUS_DONE;
}

static int carry_out(struct plan *plan) {
        int status = STATUS_DONE;

        for (size_t i = 0; i < plan->count; i++) {
                struct candidate *candidate = &plan->items[i];
                int one;

                if (is_for_report(candidate))
                        one = report(plan->ctl, candidate);
                else {
                        free_one(plan->ctl, candidate);
                        plan->bytes += candidate->bytes;
                        one = tell(plan->ctl, candidate);
                }
                if (one != STATUS_DONE)
                        status = one;
        }
        return status;
}

/* --- what an earlier one has left --- */

/* The kernel's word for who has it is not needed: a name is given back, nothing is taken. */
static void restore_interrupted(struct plan *plan) {
        for (size_t i = 0; i < plan->scan.count; i++) {
                struct scan_find *find = &plan->scan.finds[i];
                char name[400];

                if (find->kind != SCAN_POSIX || !reclaim_is_interrupted(find->name) || reclaim_restore(find) != RECLAIM_FREED)
                        continue;
                describe(find, name, sizeof(name));
                syslog(LOG_NOTICE, "given back its name: %s of user %" PRIu32 ", which a reclaim that was interrupted had taken", name,
                       find->uid);
                if (plan->ctl->options.json)
                        continue;
                fputs("given back its name: ", stdout);
                print_escaped(stdout, name);
                fputs(", which a reclaim that was interrupted had taken\n", stdout);
        }
}

/* --- telling --- */

static const char *result_word(const struct plan *plan, const struct candidate *candidate) {
        if (plan->ctl->options.dry_run)
                return is_for_report(candidate) ? "report" : "would-free";
        if (is_for_report(candidate))
                return "report";
        return candidate->result == RECLAIM_FREED ? "freed" : candidate->result == RECLAIM_GONE ? "gone" : "kept";
}

static struct json_object *candidate_to_json(const struct plan *plan, const struct candidate *candidate) {
        struct json_object *object = leak_to_json(candidate->find);

        json_add_string(object, "result", result_word(plan, candidate));
        json_add_number(object, "freed", candidate->bytes);
        if (candidate->rule)
                json_add_string(object, "rule", candidate->rule->name);
        return object;
}

static int print_json(const struct plan *plan) {
        struct json_object *document = json_new_object(), *array = json_new_array();

        for (size_t i = 0; i < plan->count; i++)
                json_append(array, candidate_to_json(plan, &plan->items[i]));
        json_add_number(document, "freed", plan->bytes);
        json_add(document, "objects", array);
        return json_print(document);
}

static size_t print_plan(struct listing *listing, const struct plan *plan) {
        listing_begin(listing);
        for (size_t i = 0; i < plan->count; i++)
                listing_add(listing, plan->items[i].find);
        listing_print(listing);
        return plan->count;
}

static void print_total(const struct plan *plan) {
        char bytes[TEXT_SIZE_MAX];
        size_t freed = 0;

        for (size_t i = 0; i < plan->count; i++)
                freed += !is_for_report(&plan->items[i]) && plan->items[i].result == RECLAIM_FREED;
        if (plan->count > 0)
                printf("%zu freed, %s came back\n", freed, format_size(plan->bytes, plan->ctl->options.bytes, bytes));
}

/* --- asking --- */

static uint64_t resident_of(const struct plan *plan) {
        uint64_t bytes = 0;

        for (size_t i = 0; i < plan->count; i++)
                bytes += resident_known(plan->items[i].find->resident_bytes);
        return bytes;
}

static bool confirm(const struct plan *plan) {
        char answer[16] = "", bytes[TEXT_SIZE_MAX];

        fflush(stdout);
        fprintf(stderr, "Free %s %zu, %s in memory? [y/N] ", plan->count == 1 ? "this" : "these", plan->count,
                format_size(resident_of(plan), plan->ctl->options.bytes, bytes));
        return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

/* --- the command --- */

static int fill_plan(struct plan *plan, int n_arguments, char **arguments) {
        struct leak_filter filter = leak_filter_of(plan->ctl);
        int status, failure = STATUS_DONE;

        if (n_arguments > 0 && filter.min_age_usec == UINT64_MAX)
                filter.min_age_usec = 0; /* who names it means it */
        if (geteuid() != 0 && !filter.has_uid && n_arguments == 0) {
                filter.has_uid = true;
                filter.uid = geteuid();
        }
        status = leaks_scan(plan->ctl, plan->ctl->options.rules ? kinds_of(&plan->rules) : filter.kinds, &plan->scan);
        if (status != STATUS_DONE)
                return status;
        if (!plan->ctl->options.dry_run)
                restore_interrupted(plan);
        plan->items = calloc(plan->scan.count + 1, sizeof(*plan->items));
        if (!plan->items)
                fail_memory();
        if (plan->ctl->options.rules)
                choose_by_rules(plan);
        else if (n_arguments == 0)
                choose_all(plan, &filter);
        for (int i = 0; i < n_arguments; i++) {
                status = choose_one(plan, &filter, arguments[i]);
                failure = status != STATUS_DONE ? status : failure;
        }
        return failure;
}

static int check_options(const struct ctl *ctl, int n_arguments) {
        const struct options *options = &ctl->options;

        if (options->rules && (n_arguments > 0 || options->kinds || options->has_uid || options->min_age_usec != UINT64_MAX))
                return fail_usage(ctl, "with --rules it is the rules that say which");
        if (!options->rules && !options->yes && !options->dry_run && options->json)
                return fail_usage(ctl, "with --json nobody is asked: say --yes, or --dry-run to see what would be freed");
        if (!options->rules && !options->yes && !options->dry_run && !isatty(STDIN_FILENO))
                return fail_usage(ctl, "there is no terminal to ask on: say --yes, or --dry-run to see what would be freed");
        return STATUS_DONE;
}

int cmd_reclaim(struct ctl *ctl, int n_arguments, char **arguments) {
        _cleanup_(plan_donep) struct plan plan = { .ctl = ctl };
        const struct options *options = &ctl->options;
        bool asks = !options->rules && !options->yes && !options->dry_run;
        struct listing listing;
        int status, failure;

        openlog("shmdctl", LOG_PID, LOG_DAEMON);
        status = check_options(ctl, n_arguments);
        if (status == STATUS_DONE)
                status = listing_choose(&listing, ctl, &leak_columns);
        if (status == STATUS_DONE && options->rules)
                status = rules_read(ctl, &plan.rules);
        if (status != STATUS_DONE)
                return status;
        failure = fill_plan(&plan, n_arguments, arguments);
        if (failure == STATUS_USAGE || failure == STATUS_NO_DAEMON)
                return failure;

        if (!options->json && (asks || options->dry_run))
                print_plan(&listing, &plan);
        if (options->dry_run)
                return options->json ? MAX(print_json(&plan), failure) : failure;
        if (asks && plan.count == 0 && failure == STATUS_DONE)
                fputs("nothing to free\n", stderr);
        if (asks && (plan.count == 0 || !confirm(&plan)))
                return failure;
        status = carry_out(&plan);
        if (options->json)
                print_json(&plan);
        else
                print_total(&plan);
        return status != STATUS_DONE ? status : failure;
}
