/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <unistd.h>

static bool is_limited(const struct shmd_use *use) {
        return use->maximum != UINT64_MAX; /* as shmd_status(3) has it; zero is a limit */
}

enum store_state store_state(const struct shmd_status *status) {
        if (!status->store)
                return STORE_OFF;
        return status->store_failing_usec > 0 ? STORE_FAILING : STORE_OK;
}

const char *store_state_name(enum store_state state) {
        static const char *const names[] = { [STORE_OFF] = "off", [STORE_OK] = "ok", [STORE_FAILING] = "failing" };

        return names[state];
}

static const char *store_failure_words(const struct shmd_status *status) {
        switch (status->store_failure) {
        case SHMD_STORE_FAILURE_LOG:
                return "the log of the segments' records can not grow";
        case SHMD_STORE_FAILURE_MANAGER:
                return "the service manager does not keep, or not take, what it is given";
        default: /* of a newer daemon */
                return "for an unknown reason";
        }
}

struct account_row {
        const char *name;
        const struct shmd_use *use;
        bool bytes;
};

enum { ACCOUNT_ROWS = 5 };

static void account_rows(const struct shmd_status *status, struct account_row rows[ACCOUNT_ROWS]) {
        rows[0] = (struct account_row) { "bytes", &status->my_bytes, true };
        rows[1] = (struct account_row) { "segments", &status->my_segments, false };
        rows[2] = (struct account_row) { "holds", &status->my_holds, false };
        rows[3] = (struct account_row) { "connections", &status->my_connections, false };
        rows[4] = (struct account_row) { "watches", &status->my_watches, false };
}

/* --- as JSON --- */

static struct json_object *use_to_json(const struct shmd_use *use) {
        struct json_object *object = json_new_object();

        json_add_number(object, "used", use->used);
        if (is_limited(use))
                json_add_number(object, "maximum", use->maximum);
        else
                json_add(object, "maximum", NULL);
        return object;
}

static struct json_object *account_to_json(const struct shmd_status *status) {
        struct json_object *object = json_new_object();
        struct account_row rows[ACCOUNT_ROWS];

        account_rows(status, rows);
        for (size_t i = 0; i < ACCOUNT_ROWS; i++)
                json_add(object, rows[i].name, use_to_json(rows[i].use));
        return object;
}

static int add_user_to_json(const struct shmd_account *account, void *userdata) {
        struct json_object *object = json_new_object();

        json_add_number(object, "uid", account->uid);
        json_add_string(object, "user", user_name(account->uid));
        json_add(object, "bytes", use_to_json(&account->bytes));
        json_add(object, "segments", use_to_json(&account->segments));
        json_add(object, "holds", use_to_json(&account->holds));
        json_add(object, "connections", use_to_json(&account->connections));
        json_add(object, "watches", use_to_json(&account->watches));
        json_append(userdata, object);
        return 0;
}

static void add_store_to_json(struct json_object *object, const struct shmd_status *status) {
        json_add_bool(object, "store", status->store);
        json_add_number(object, "store_entries", status->store_entries);
        json_add_string(object, "store_state", store_state_name(store_state(status)));
        if (store_state(status) == STORE_FAILING) {
                json_add_number(object, "store_failing_since_usec", status->store_failing_usec);
                json_add_string(object, "store_failure", store_failure_words(status));
        } else {
                json_add(object, "store_failing_since_usec", NULL);
                json_add(object, "store_failure", NULL);
        }
}

static int print_json(struct ctl *ctl, const struct shmd_status *status) {
        struct json_object *object = json_new_object(), *users = json_new_array();
        char instance[TEXT_SIZE_MAX];
        int r;

        r = shmd_accounts(ctl->connection, add_user_to_json, users);
        if (r < 0)
                return fail_shmd(ctl, r, "get the users' accounts", NULL);
        snprintf(instance, sizeof(instance), "%016" PRIx64, status->instance);
        json_add_string(object, "version", status->version);
        json_add_string(object, "socket", shmd_socket_path(ctl->connection));
        json_add_number(object, "pid", status->pid);
        json_add_number(object, "uid", status->uid);
        json_add_string(object, "instance", instance); /* more bits than a number in JSON is sure to keep */
        json_add_number(object, "started_usec", status->started_usec);
        json_add_number(object, "uptime_usec", status->uptime_usec);
        if (status->watchdog_usec > 0)
                json_add_number(object, "watchdog_usec", status->watchdog_usec);
        else
                json_add(object, "watchdog_usec", NULL);
        json_add_number(object, "segments", status->segments);
        json_add_number(object, "unlinked", status->unlinked);
        json_add_number(object, "bytes", status->bytes);
        json_add_number(object, "holds", status->holds);
        json_add_number(object, "connections", status->connections);
        json_add_number(object, "descriptors", status->descriptors);
        json_add_number(object, "descriptors_max", status->descriptors_max);
        json_add_number(object, "memory_available", status->memory_available_bytes);
        json_add_number(object, "restarts", status->restarts);
        json_add_number(object, "serving_since_usec", status->serving_usec);
        add_store_to_json(object, status);
        json_add(object, "account", account_to_json(status));
        json_add(object, "users", users);
        return json_print(object);
}

/* --- as text --- */

/* Since when the segments have been there, whichever daemon had them. */
static void print_store(const struct shmd_status *status) {
        char at[TEXT_SIZE_MAX];

        printf("%-12s %s", "store:", store_state_name(store_state(status)));
        switch (store_state(status)) {
        case STORE_OFF:
                puts(": segments end with the daemon");
                return;
        case STORE_OK:
                printf(": kept by the service manager, %" PRIu32 " descriptors\n", status->store_entries);
                break;
        case STORE_FAILING:
                printf(" since %s: %s; what changes may be lost with the daemon\n", format_time(status->store_failing_usec, at),
                       store_failure_words(status));
                break;
        }
        printf("%-12s %" PRIu64 ", since %s\n", "restarts:", status->restarts, format_time(status->serving_usec, at));
}

static void print_daemon(struct ctl *ctl, const struct shmd_status *status) {
        char at[TEXT_SIZE_MAX], text[TEXT_SIZE_MAX];
        bool exact = ctl->options.bytes;

        printf("%-12s ", "daemon:");
        print_escaped(stdout, status->version);
        printf(", pid %" PRIu32 ", user %s\n%-12s ", status->pid, user_name(status->uid), "socket:");
        print_escaped(stdout, shmd_socket_path(ctl->connection));
        printf("\n%-12s %016" PRIx64, "instance:", status->instance);
        printf("\n%-12s %s", "started:", format_time(status->started_usec, at));
        printf(" (%s ago)\n", format_duration(status->uptime_usec, text));
        print_store(status);
        printf("%-12s %" PRIu64, "segments:", status->segments);
        if (status->unlinked > 0)
                printf(", %" PRIu64 " of them unlinked and still held", status->unlinked);
        printf("\n%-12s %s\n", "size:", format_size(status->bytes, exact, text));
        printf("%-12s %" PRIu64 "\n", "holds:", status->holds);
        printf("%-12s %" PRIu64 "\n", "connections:", status->connections);
        printf("%-12s %" PRIu64 " of %" PRIu64 "\n", "descriptors:", status->descriptors, status->descriptors_max);
        printf("%-12s %s available\n", "memory:", format_size(status->memory_available_bytes, exact, text));
        if (status->watchdog_usec > 0)
                printf("%-12s on: restarted after %s without a sign of life\n", "watchdog:", format_duration(status->watchdog_usec, text));
        else
                printf("%-12s off\n", "watchdog:");
}

static void format_number(uint64_t number, char buffer[TEXT_SIZE_MAX]) {
        snprintf(buffer, TEXT_SIZE_MAX, "%" PRIu64, number);
}

static void add_account_row(const struct ctl *ctl, struct libscols_table *table, const struct account_row *row) {
        char used[TEXT_SIZE_MAX], maximum[TEXT_SIZE_MAX] = "-";
        const char *cells[] = { row->name, used, maximum };

        if (row->bytes)
                format_size(row->use->used, ctl->options.bytes, used);
        else
                format_number(row->use->used, used);
        if (is_limited(row->use) && row->bytes)
                format_size(row->use->maximum, ctl->options.bytes, maximum);
        else if (is_limited(row->use))
                format_number(row->use->maximum, maximum);
        table_add_row(table, ELEMENTSOF(cells), cells);
}

/* "3 of 512" */
static void format_use(const struct ctl *ctl, const struct shmd_use *use, bool bytes, char buffer[3 * TEXT_SIZE_MAX]) {
        char used[TEXT_SIZE_MAX], maximum[TEXT_SIZE_MAX];

        if (bytes) {
                format_size(use->used, ctl->options.bytes, used);
                format_size(use->maximum, ctl->options.bytes, maximum);
        } else {
                format_number(use->used, used);
                format_number(use->maximum, maximum);
        }
        if (is_limited(use))
                snprintf(buffer, 3 * TEXT_SIZE_MAX, "%s of %s", used, maximum);
        else
                snprintf(buffer, 3 * TEXT_SIZE_MAX, "%s", used);
}

struct users_table {
        const struct ctl *ctl;
        struct libscols_table *table;
        unsigned others;
};

static int add_user(const struct shmd_account *account, void *userdata) {
        struct users_table *users = userdata;
        char bytes[3 * TEXT_SIZE_MAX], segments[3 * TEXT_SIZE_MAX], holds[3 * TEXT_SIZE_MAX], connections[3 * TEXT_SIZE_MAX],
             watches[3 * TEXT_SIZE_MAX];
        const char *cells[] = { user_name(account->uid), bytes, segments, holds, connections, watches };

        format_use(users->ctl, &account->bytes, true, bytes);
        format_use(users->ctl, &account->segments, false, segments);
        format_use(users->ctl, &account->holds, false, holds);
        format_use(users->ctl, &account->connections, false, connections);
        format_use(users->ctl, &account->watches, false, watches);
        table_add_row(users->table, ELEMENTSOF(cells), cells);
        users->others += account->uid != getuid();
        return 0;
}

static int print_users(struct ctl *ctl) {
        static const char *const headings[] = { "USER", "BYTES", "SEGMENTS", "HOLDS", "CONNECTIONS", "WATCHES" };
        struct users_table users = { .ctl = ctl, .table = table_new(ctl) };
        int r;

        for (size_t i = 0; i < ELEMENTSOF(headings); i++)
                table_add_column(users.table, headings[i], i > 0 ? SCOLS_FL_RIGHT : 0);
        r = shmd_accounts(ctl->connection, add_user, &users);
        if (r < 0) {
                scols_unref_table(users.table);
                return fail_shmd(ctl, r, "get the users' accounts", NULL);
        }
        if (users.others == 0) {
                scols_unref_table(users.table);
                return STATUS_DONE;
        }
        putchar('\n');
        return table_print(users.table);
}

static int print_text(struct ctl *ctl, const struct shmd_status *status) {
        struct account_row rows[ACCOUNT_ROWS];
        struct libscols_table *table = table_new(ctl);
        int printed;

        print_daemon(ctl, status);
        putchar('\n');
        table_add_column(table, "YOUR", 0);
        table_add_column(table, "USE", SCOLS_FL_RIGHT);
        table_add_column(table, "LIMIT", SCOLS_FL_RIGHT);
        account_rows(status, rows);
        for (size_t i = 0; i < ACCOUNT_ROWS; i++)
                add_account_row(ctl, table, &rows[i]);
        printed = table_print(table);
        return printed == STATUS_DONE ? print_users(ctl) : printed;
}

int cmd_status(struct ctl *ctl, int n_arguments, char **arguments) {
        int status = connect_to_daemon(ctl);
        struct shmd_status daemon;
        int r;

        (void) n_arguments;
        (void) arguments;
        if (status != STATUS_DONE)
                return status;
        r = shmd_status(ctl->connection, &daemon);
        if (r != 0)
                return fail_shmd(ctl, r, "get the status", NULL);
        return ctl->options.json ? print_json(ctl, &daemon) : print_text(ctl, &daemon);
}

int cmd_stop(struct ctl *ctl, int n_arguments, char **arguments) {
        int status = connect_to_daemon(ctl), r;

        (void) n_arguments;
        (void) arguments;
        if (status != STATUS_DONE)
                return status;
        r = shmd_stop(ctl->connection, ctl->options.purge ? SHMD_STOP_PURGE : 0);
        return r == 0 ? STATUS_DONE : fail_shmd(ctl, r, "stop the daemon", NULL);
}
