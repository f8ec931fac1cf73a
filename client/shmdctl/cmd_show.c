/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <libsmartcols.h>
#include <string.h>

static const char *access_name(const struct shmd_holder *holder) {
        return holder->write ? "rw" : "ro";
}

/* --- as JSON --- */

static int visit_json(const struct shmd_holder *holder, void *userdata) {
        struct json_object *holders = userdata, *object = json_object_new_object();

        if (!object)
                return -ENOMEM;
        json_add_number(object, "pid", holder->pid);
        json_add_number(object, "uid", holder->uid);
        json_add_number(object, "gid", holder->gid);
        json_add_string(object, "command", holder->command);
        json_add_string(object, "unit", holder->unit);
        json_add_string(object, "access", access_name(holder));
        json_add_number(object, "count", holder->count);
        json_add_bool(object, "detached", holder->detached);
        json_add_number(object, "since_usec", holder->since_usec);
        return json_object_array_add(holders, object) < 0 ? -ENOMEM : 0;
}

static int show_json(struct ctl *ctl, const struct shmd_stat *stat) {
        struct json_object *object = segment_to_json(stat), *holders = json_object_new_array();
        int r;

        if (!holders)
                fail_memory();
        r = shmd_holders(ctl->connection, stat->id, visit_json, holders);
        if (r != 0 && r != -EPERM)
                return fail_shmd(ctl, r, "show the holders of", stat->name);

        json_add_number(object, "holder_count", stat->holders);
        json_add_bool(object, "holders_hidden", r == -EPERM);
        json_add(object, "holders", holders); /* an array here, where list has their number */
        return json_print(object);
}

/* --- as text --- */

static void print_field(const char *key, const char *value) {
        printf("%-10s ", key);
        print_escaped(stdout, value);
        putchar('\n');
}

static void print_size_field(const char *key, uint64_t bytes) {
        char text[TEXT_SIZE_MAX];

        printf("%-10s %s", key, format_size(bytes, false, text));
        if (bytes >= 1024)
                printf(" (%" PRIu64 " bytes)", bytes);
        putchar('\n');
}

static void print_time_field(const char *key, uint64_t usec) {
        char at[TEXT_SIZE_MAX], ago[TEXT_SIZE_MAX];

        if (usec > 0)
                printf("%-10s %s (%s ago)\n", key, format_time(usec, at), format_age(usec, ago));
}

static void print_id_field(const char *key, const char *name, uint32_t id) {
        char text[128];

        snprintf(text, sizeof(text), "%s (%" PRIu32 ")", name, id);
        print_field(key, text);
}

static void print_mode_field(uint32_t mode) {
        char letters[10];

        for (unsigned i = 0; i < 9; i++)
                letters[i] = mode & (0400u >> i) ? "rwx"[i % 3] : '-';
        letters[9] = 0;
        printf("%-10s %04" PRIo32 " (%s)\n", "mode:", mode, letters);
}

static void print_creator_field(const struct shmd_stat *stat) {
        char text[512];

        if (stat->creator_pid == 0 && !stat->creator_command[0])
                return;
        snprintf(text, sizeof(text), "%s, pid %" PRIu32 ", user %s%s%s",
                 stat->creator_command[0] ? stat->creator_command : "?", stat->creator_pid,
                 user_name(stat->creator_uid), stat->creator_unit[0] ? ", " : "", stat->creator_unit);
        print_field("creator:", text);
}

static void print_fields(const struct shmd_stat *stat) {
        char text[TEXT_LABELS_MAX];

        print_field("name:", stat->name);
        printf("%-10s %" PRIu64 "\n", "id:", stat->id);
        print_size_field("size:", stat->size_bytes);
        print_size_field("resident:", stat->resident_bytes);
        print_id_field("owner:", user_name(stat->uid), stat->uid);
        print_id_field("group:", group_name(stat->gid), stat->gid);
        print_mode_field(stat->mode);
        print_field("lifetime:", segment_lifetime(stat, text));
        print_field("state:", segment_state(stat));
        printf("%-10s %s%s\n", "backing:", segment_backing(stat), stat->posix ? ", open to ftruncate (shm_open)" : "");
        print_time_field("created:", stat->created_usec);
        print_time_field("opened:", stat->opened_usec);
        print_time_field("idle:", stat->idle_usec);
        print_creator_field(stat);
        if (stat->labels[0])
                print_field("labels:", segment_labels(stat, ' ', text));
        printf("%-10s %" PRIu32 "%s\n", "holders:", stat->holders,
               stat->unknown_holder ? ", one of them not known: open or mapped outside any connection" : "");
}

enum { HOLDER_COLUMNS = 7 };

static int visit_row(const struct shmd_holder *holder, void *userdata) {
        char pid[TEXT_SIZE_MAX] = "-", count[TEXT_SIZE_MAX], since[TEXT_SIZE_MAX], access[TEXT_SIZE_MAX];
        const char *cells[HOLDER_COLUMNS] = { pid, user_name(holder->uid), holder->command, holder->unit, access, count,
                                              since };

        if (holder->pid > 0) /* else it is not of the daemon's pid namespace */
                snprintf(pid, sizeof(pid), "%" PRIu32, holder->pid);
        snprintf(count, sizeof(count), "%" PRIu32, holder->count);
        snprintf(access, sizeof(access), "%s%s", access_name(holder), holder->detached ? ", detached" : "");
        format_age(holder->since_usec, since);
        table_add_row(userdata, HOLDER_COLUMNS, cells);
        return 0;
}

static int show_text(struct ctl *ctl, const struct shmd_stat *stat) {
        static const struct {
                const char *heading;
                int flags;
        } columns[HOLDER_COLUMNS] = {
                { "PID", SCOLS_FL_RIGHT }, { "USER", 0 },   { "COMMAND", 0 }, { "UNIT", SCOLS_FL_TRUNC },
                { "ACCESS", 0 },           { "COUNT", SCOLS_FL_RIGHT }, { "SINCE", SCOLS_FL_RIGHT },
        };
        struct libscols_table *table = table_new(ctl);
        int r;

        for (size_t i = 0; i < HOLDER_COLUMNS; i++)
                table_add_column(table, columns[i].heading, columns[i].flags);
        r = shmd_holders(ctl->connection, stat->id, visit_row, table);
        if (r != 0 && r != -EPERM)
                return fail_shmd(ctl, r, "show the holders of", stat->name);

        print_fields(stat);
        if (r == -EPERM && stat->holders > 0)
                puts("(who they are is shown to the owner and to administrators)");
        if (!scols_table_is_empty(table))
                putchar('\n');
        return table_print(table);
}

int cmd_show(struct ctl *ctl, int n_arguments, char **arguments) {
        int status = connect_to_daemon(ctl);
        struct shmd_stat stat;
        int r;

        (void) n_arguments;
        if (status != STATUS_DONE)
                return status;
        r = segment_stat(ctl, arguments[0], &stat);
        if (r != 0)
                return fail_shmd(ctl, r, "show", arguments[0]);
        return ctl->options.json ? show_json(ctl, &stat) : show_text(ctl, &stat);
}

int show_created(struct ctl *ctl, uint64_t id) {
        struct shmd_stat stat;
        int r;

        if (!ctl->options.json)
                return STATUS_DONE;
        r = shmd_stat_id(ctl->connection, id, &stat);
        return r != 0 ? fail_shmd(ctl, r, "show what was created", NULL) : show_json(ctl, &stat);
}
