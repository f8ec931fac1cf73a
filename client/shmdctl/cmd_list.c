/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <string.h>

/* --- columns --- */

#define COLUMN(name)                                                                              \
        static void cell_##name(const struct ctl *ctl, const struct shmd_stat *stat, char *cell);  \
        static void column_##name(const struct ctl *ctl, const void *item, char *cell) {            \
                cell_##name(ctl, item, cell);                                                       \
        }                                                                                           \
        static void cell_##name(const struct ctl *ctl, const struct shmd_stat *stat, char *cell)

COLUMN(id) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu64, stat->id);
}

COLUMN(name) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", stat->name);
}

COLUMN(size) {
        format_size(stat->size_bytes, ctl->options.bytes, cell);
}

COLUMN(maximum) {
        format_size(stat->maximum_bytes, ctl->options.bytes, cell);
}

COLUMN(pagesize) {
        format_size(segment_page_bytes(stat), ctl->options.bytes, cell);
}

COLUMN(resident) {
        format_resident(stat->resident_bytes, ctl->options.bytes, cell);
}

COLUMN(owner) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", user_name(stat->uid));
}

COLUMN(group) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", group_name(stat->gid));
}

COLUMN(uid) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu32, stat->uid);
}

COLUMN(gid) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu32, stat->gid);
}

COLUMN(mode) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%04" PRIo32, stat->mode);
}

COLUMN(holders) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu32, stat->holders);
}

COLUMN(lifetime) {
        (void) ctl;
        segment_lifetime(stat, cell);
}

COLUMN(state) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", segment_state(stat));
}

COLUMN(backing) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", segment_backing(stat));
}

COLUMN(age) {
        (void) ctl;
        format_age(stat->created_usec, cell);
}

COLUMN(created) {
        (void) ctl;
        format_time(stat->created_usec, cell);
}

COLUMN(opened) {
        (void) ctl;
        if (stat->opened_usec > 0)
                format_time(stat->opened_usec, cell);
}

COLUMN(idle) {
        (void) ctl;
        if (stat->idle_usec > 0)
                format_age(stat->idle_usec, cell);
}

COLUMN(creator) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu32, stat->creator_pid);
}

COLUMN(command) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", stat->creator_command);
}

COLUMN(unit) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", stat->creator_unit);
}

COLUMN(executable) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", stat->creator_executable);
}

COLUMN(inode) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu64, stat->inode);
}

COLUMN(key) {
        (void) ctl;
        if (stat->backing == SHMD_BACKING_SYSV)
                snprintf(cell, CELL_MAX, "0x%08" PRIx32, stat->sysv_key);
}

COLUMN(shmid) {
        (void) ctl;
        if (stat->backing == SHMD_BACKING_SYSV)
                snprintf(cell, CELL_MAX, "%" PRIu32, stat->sysv_id);
}

COLUMN(attached) {
        (void) ctl;
        if (stat->backing == SHMD_BACKING_SYSV)
                snprintf(cell, CELL_MAX, "%" PRIu64, stat->sysv_attached);
}

COLUMN(labels) {
        (void) ctl;
        segment_labels(stat, ',', cell);
}

static const struct column columns[] = {
        { "id", "ID", "number, never used again", SCOLS_FL_RIGHT, column_id },
        { "name", "NAME", "name, or the last one it had", SCOLS_FL_TRUNC, column_name },
        { "size", "SIZE", "size", SCOLS_FL_RIGHT, column_size },
        { "resident", "RESIDENT", "how much of it exists in memory", SCOLS_FL_RIGHT, column_resident },
        { "owner", "OWNER", "its user", 0, column_owner },
        { "mode", "MODE", "permission bits", 0, column_mode },
        { "holders", "HOLDERS", "how many clients hold it", SCOLS_FL_RIGHT, column_holders },
        { "lifetime", "LIFETIME", "when its name goes by itself", 0, column_lifetime },
        { "state", "STATE", "unpublished, published, frozen, unlinked", 0, column_state },
        { "age", "AGE", "time since it was made", SCOLS_FL_RIGHT, column_age },
        /* From here on by request only. */
        { "group", "GROUP", "its group", 0, column_group },
        { "uid", "UID", "its user's number", SCOLS_FL_RIGHT, column_uid },
        { "gid", "GID", "its group's number", SCOLS_FL_RIGHT, column_gid },
        { "backing", "BACKING", "memfd, hugetlb, sysv, file", 0, column_backing },
        { "maximum", "MAXIMUM", "how large it can be made", SCOLS_FL_RIGHT, column_maximum },
        { "pagesize", "PAGESIZE", "size of its pages", SCOLS_FL_RIGHT, column_pagesize },
        { "created", "CREATED", "when it was made", 0, column_created },
        { "opened", "OPENED", "when it was last opened", 0, column_opened },
        { "idle", "IDLE", "for how long nobody has held it", SCOLS_FL_RIGHT, column_idle },
        { "creator", "CREATOR", "its creator's process", SCOLS_FL_RIGHT, column_creator },
        { "command", "COMMAND", "its creator's command", 0, column_command },
        { "executable", "EXECUTABLE", "its creator's program file", 0, column_executable },
        { "unit", "UNIT", "its creator's systemd unit", 0, column_unit },
        { "key", "KEY", "of a SysV segment: its key", 0, column_key },
        { "shmid", "SHMID", "of a SysV segment: its id", SCOLS_FL_RIGHT, column_shmid },
        { "attached", "ATTACHED", "of a SysV segment: how often it is attached", SCOLS_FL_RIGHT, column_attached },
        { "inode", "INODE", "inode number of its memory, as in /proc/PID/maps", SCOLS_FL_RIGHT, column_inode },
        { "labels", "LABELS", "its labels", SCOLS_FL_TRUNC, column_labels },
};

/* What a narrow terminal leaves out, first to last; nothing of the user's own choice. */
static const char *const dispensable[] = { "resident", "age", "lifetime", "mode", "state", "owner", NULL };

const struct column_set list_columns = { columns, ELEMENTSOF(columns), 10, dispensable };

/* --- the list --- */

struct listed {
        struct listing listing; /* or */
        struct json_object *array;
};

static int visit(const struct shmd_stat *stat, void *userdata) {
        struct listed *listed = userdata;

        if (listed->array)
                json_append(listed->array, segment_to_json(stat));
        else
                listing_add(&listed->listing, stat);
        return 0;
}

int cmd_list(struct ctl *ctl, int n_arguments, char **arguments) {
        const char *prefix = n_arguments > 0 ? arguments[0] : NULL;
        struct listed listed = { 0 };
        int status, r;

        status = listing_choose(&listed.listing, ctl, &list_columns);
        if (status == STATUS_DONE)
                status = connect_to_daemon(ctl);
        if (status != STATUS_DONE)
                return status;

        if (ctl->options.json)
                listed.array = json_new_array();
        else
                listing_begin(&listed.listing);
        r = shmd_list(ctl->connection, prefix, 0, visit, &listed);
        if (r == 0 && ctl->options.all)
                r = shmd_list(ctl->connection, prefix, SHMD_LIST_UNLINKED, visit, &listed);
        if (r != 0)
                return fail_shmd(ctl, r, prefix ? "list" : "list segments", prefix);
        return listed.array ? json_print(listed.array) : listing_print(&listed.listing);
}
