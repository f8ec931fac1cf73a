/* SPDX-License-Identifier: MIT */
#include "top.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <libsmartcols.h>
#include <poll.h>
#include <string.h>

#define INTERVAL_DEFAULT_USEC USEC_PER_SECOND

/* --- a picture --- */

static void free_rows(struct top_row *rows, size_t count) {
        for (size_t i = 0; i < count; i++)
                free(rows[i].name);
        free(rows);
}

static void top_done(struct top *top) {
        free_rows(top->rows, top->count);
        free(top->shown);
        *top = (struct top) { 0 };
}

static int visit(const struct shmd_stat *stat, void *userdata) {
        struct top *top = userdata;

        if (top->count == top->capacity) {
                top->capacity = MAX(2 * top->capacity, (size_t) 256);
                top->rows = reallocarray(top->rows, top->capacity, sizeof(*top->rows));
                if (!top->rows)
                        fail_memory();
        }
        top->rows[top->count] = (struct top_row) {
                .id = stat->id,
                .name = strdup(stat->name),
                .size_bytes = stat->size_bytes,
                .resident_bytes = stat->resident_bytes,
                .opens = stat->opens,
                .holders = stat->holders,
                .uid = stat->uid,
                .state = stat->state,
        };
        if (!top->rows[top->count].name)
                fail_memory();
        top->resident_bytes += resident_known(stat->resident_bytes);
        top->count++;
        return 0;
}

static int compare_id(const void *a, const void *b) {
        uint64_t x = ((const struct top_row *) a)->id, y = ((const struct top_row *) b)->id;

        return (x > y) - (x < y);
}

/* Both are in the order of ids. What was not there before counts from its beginning. */
static void reckon_rates(struct top *now, const struct top *before) {
        double seconds = (double) (now->taken_usec - before->taken_usec) / (double) USEC_PER_SECOND;

        for (size_t i = 0, j = 0; before->taken_usec > 0 && seconds > 0 && i < now->count; i++) {
                struct top_row *row = &now->rows[i];
                uint32_t old = 0;

                while (j < before->count && before->rows[j].id < row->id)
                        j++;
                if (j < before->count && before->rows[j].id == row->id)
                        old = before->rows[j].opens;
                if (row->opens < old) /* another daemon, which counts anew */
                        old = 0;
                row->rate = (row->opens - old) / seconds;
                now->rate += row->rate;
        }
}

int top_take(struct ctl *ctl, struct top *top) {
        struct top now = { .order = top->order, .reverse = top->reverse };
        int r;

        r = shmd_status(ctl->connection, &now.status);
        if (r == 0)
                r = shmd_list(ctl->connection, NULL, 0, visit, &now);
        if (r == 0)
                r = shmd_list(ctl->connection, NULL, SHMD_LIST_UNLINKED, visit, &now);
        if (r != 0) {
                top_done(&now);
                return r;
        }
        now.taken_usec = now_monotonic_usec();
        if (now.count > 0)
                qsort(now.rows, now.count, sizeof(*now.rows), compare_id);
        if (now.status.instance == top->status.instance)
                reckon_rates(&now, top);
        memcpy(now.filter, top->filter, sizeof(now.filter));
        top_done(top);
        *top = now;
        top_arrange(top);
        return 0;
}

/* --- arranging --- */

static const char *const order_names[] = { "size", "resident", "holders", "opens", "name", "id" };

const char *top_order_name(enum top_order order) {
        return order_names[order];
}

static bool top_order_parse(const char *word, enum top_order *ret_order) {
        for (unsigned i = 0; i < TOP_ORDERS; i++) {
                if (strcasecmp(word, order_names[i]) == 0) {
                        *ret_order = i;
                        return true;
                }
        }
        return false;
}

static int compare_u64(uint64_t a, uint64_t b) {
        return (a > b) - (a < b);
}

/* The most first; names and ids from the beginning. */
static int compare_rows(const void *a, const void *b, void *userdata) {
        const struct top_row *x = *(struct top_row *const *) a, *y = *(struct top_row *const *) b;
        const struct top *top = userdata;
        int r = 0;

        switch (top->order) {
        case TOP_SIZE:
                r = compare_u64(y->size_bytes, x->size_bytes);
                break;
        case TOP_RESIDENT:
                r = compare_u64(resident_known(y->resident_bytes), resident_known(x->resident_bytes));
                break;
        case TOP_HOLDERS:
                r = compare_u64(y->holders, x->holders);
                break;
        case TOP_OPENS:
                r = (y->rate > x->rate) - (y->rate < x->rate);
                break;
        case TOP_NAME:
                r = strcmp(x->name, y->name);
                break;
        default:
                break;
        }
        if (r == 0)
                r = compare_u64(x->id, y->id);
        return top->reverse ? -r : r;
}

void top_arrange(struct top *top) {
        top->shown = reallocarray(top->shown, top->count + 1, sizeof(struct top_row *));
        if (!top->shown)
                fail_memory();
        top->n_shown = 0;
        for (size_t i = 0; i < top->count; i++)
                if (!top->filter[0] || strstr(top->rows[i].name, top->filter))
                        top->shown[top->n_shown++] = &top->rows[i];
        qsort_r(top->shown, top->n_shown, sizeof(struct top_row *), compare_rows, top);
}

/* --- once --- */

#define COLUMN(name)                                                                             \
        static void cell_##name(const struct ctl *ctl, const struct top_row *row, char *cell);    \
        static void column_##name(const struct ctl *ctl, const void *item, char *cell) {           \
                cell_##name(ctl, item, cell);                                                      \
        }                                                                                          \
        static void cell_##name(const struct ctl *ctl, const struct top_row *row, char *cell)

COLUMN(id) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu64, row->id);
}

COLUMN(name) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", row->name);
}

COLUMN(size) {
        format_size(row->size_bytes, ctl->options.bytes, cell);
}

COLUMN(resident) {
        format_resident(row->resident_bytes, ctl->options.bytes, cell);
}

COLUMN(holders) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu32, row->holders);
}

COLUMN(rate) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%.1f", row->rate);
}

COLUMN(opens) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu32, row->opens);
}

COLUMN(owner) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", user_name(row->uid));
}

static const struct column columns[] = {
        { "size", "SIZE", "size", SCOLS_FL_RIGHT, column_size },
        { "resident", "RESIDENT", "how much of it exists in memory", SCOLS_FL_RIGHT, column_resident },
        { "holders", "HOLDERS", "how many clients hold it", SCOLS_FL_RIGHT, column_holders },
        { "rate", "OPENS/S", "how often it is opened, a second", SCOLS_FL_RIGHT, column_rate },
        { "owner", "OWNER", "its user", 0, column_owner },
        { "name", "NAME", "name, or the last one it had", SCOLS_FL_TRUNC, column_name },
        /* From here on by request only. */
        { "id", "ID", "number, never used again", SCOLS_FL_RIGHT, column_id },
        { "opens", "OPENS", "how often it was opened since the daemon began", SCOLS_FL_RIGHT, column_opens },
};

static const char *const dispensable[] = { "owner", "rate", "size", NULL };

const struct column_set top_columns = { columns, ELEMENTSOF(columns), 6, dispensable };

static struct json_object *row_to_json(const struct top_row *row) {
        const struct shmd_stat stat = { .state = row->state };
        struct json_object *object = json_new_object();

        json_add_number(object, "id", row->id);
        json_add_string(object, "name", row->name);
        json_add_number(object, "size", row->size_bytes);
        json_add_resident(object, row->resident_bytes);
        json_add_number(object, "uid", row->uid);
        json_add_string(object, "owner", user_name(row->uid));
        json_add_number(object, "holders", row->holders);
        json_add_string(object, "state", segment_state(&stat));
        json_add_number(object, "opens", row->opens);
        json_add(object, "opens_per_second", json_object_new_double(row->rate));
        return object;
}

static int print_once(const struct ctl *ctl, const struct top *top, struct listing *listing) {
        struct json_object *array = ctl->options.json ? json_new_array() : NULL;

        if (!array)
                listing_begin(listing);
        for (size_t i = 0; i < top->n_shown; i++) {
                if (array)
                        json_append(array, row_to_json(top->shown[i]));
                else
                        listing_add(listing, top->shown[i]);
        }
        return array ? json_print(array) : listing_print(listing);
}

/* Two pictures: a rate takes time. */
static int run_once(struct ctl *ctl, struct top *top, uint64_t interval_usec, struct listing *listing) {
        int r = top_take(ctl, top);

        if (r == 0) {
                (void) interrupt_poll(NULL, 0, interval_usec);
                interrupt_deliver();
                r = top_take(ctl, top);
        }
        return r == 0 ? print_once(ctl, top, listing) : fail_shmd(ctl, r, "list segments", NULL);
}

/* --- the command --- */

int cmd_top(struct ctl *ctl, int n_arguments, char **arguments) {
        uint64_t interval_usec = ctl->options.interval_usec ? ctl->options.interval_usec : INTERVAL_DEFAULT_USEC;
        bool once = ctl->options.once || ctl->options.json;
        struct top top = { .order = TOP_RESIDENT };
        struct listing listing;
        int status;

        if (ctl->options.sort && !top_order_parse(ctl->options.sort, &top.order))
                return fail_usage(ctl, "--sort \"%s\": not one of size, resident, holders, opens, name, id", ctl->options.sort);
        if (n_arguments > 0)
                snprintf(top.filter, sizeof(top.filter), "%s", arguments[0]);
        if (!once && (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)))
                return fail_usage(ctl, "there is no terminal: say --once");
        status = listing_choose(&listing, ctl, &top_columns);
        if (status == STATUS_DONE)
                status = connect_to_daemon(ctl);
        if (status != STATUS_DONE)
                return status;
        interrupt_catch();
        status = once ? run_once(ctl, &top, interval_usec, &listing) : top_run(ctl, &top, interval_usec);
        top_done(&top);
        return status;
}
