/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <string.h>
#include <sys/ioctl.h>

/* No cell is longer than all labels, or a name. */
#define CELL_MAX TEXT_LABELS_MAX

/* --- columns --- */

typedef void column_function(const struct ctl *ctl, const struct shmd_stat *stat, char *cell);

#define COLUMN(name) static void column_##name(const struct ctl *ctl, const struct shmd_stat *stat, char *cell)

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
        format_size(stat->resident_bytes, ctl->options.bytes, cell);
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

COLUMN(labels) {
        (void) ctl;
        segment_labels(stat, ',', cell);
}

static const struct column {
        const char *name;
        const char *heading;
        const char *help;
        int flags;
        column_function *function;
} columns[] = {
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
        { "inode", "INODE", "inode number of its memory, as in /proc/PID/maps", SCOLS_FL_RIGHT, column_inode },
        { "labels", "LABELS", "its labels", SCOLS_FL_TRUNC, column_labels },
};
#define COLUMNS_DEFAULT 10u
#define COLUMNS_MAX (4 * ELEMENTSOF(columns))

void list_print_columns(FILE *file) {
        fputs("\nColumns (by default down to age, and less on a narrow terminal):\n", file);
        for (size_t i = 0; i < ELEMENTSOF(columns); i++)
                fprintf(file, "  %-10s  %s\n", columns[i].name, columns[i].help);
}

/* --- which ones --- */

struct listing {
        const struct ctl *ctl;
        size_t n_columns;
        const struct column *columns[COLUMNS_MAX];
        size_t widths[COLUMNS_MAX]; /* of the longest cell; in bytes, which is near enough */
        struct libscols_table *table; /* or */
        struct json_object *array;
};

static const struct column *column_find(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(columns); i++) {
                if (strcasecmp(columns[i].name, name) == 0)
                        return &columns[i];
        }
        return NULL;
}

static int fail_column(const struct ctl *ctl, const char *name) {
        char known[512] = "";

        for (size_t i = 0; i < ELEMENTSOF(columns); i++) {
                strcat(known, i > 0 ? ", " : "");
                strcat(known, columns[i].name);
        }
        return fail_usage(ctl, "unknown column \"%s\"; there are: %s", name, known);
}

static int choose_columns(struct listing *listing) {
        const char *wanted = listing->ctl->options.columns;
        _cleanup_(freep) char *copy = strdup(wanted ? wanted : "+");
        char *rest = copy, *name;

        if (!copy)
                fail_memory();
        if (*rest == '+') {
                rest++;
                while (listing->n_columns < COLUMNS_DEFAULT) {
                        listing->columns[listing->n_columns] = &columns[listing->n_columns];
                        listing->n_columns++;
                }
        }
        while ((name = strsep(&rest, ","))) {
                if (*name == 0 && listing->n_columns > 0) /* "+", or a comma too many */
                        continue;
                if (listing->n_columns == COLUMNS_MAX)
                        return fail_usage(listing->ctl, "too many columns");
                listing->columns[listing->n_columns] = column_find(name);
                if (!listing->columns[listing->n_columns++])
                        return fail_column(listing->ctl, name);
        }
        return STATUS_DONE;
}

/* --- the list --- */

static void add_row(struct listing *listing, const struct shmd_stat *stat) {
        char cells[COLUMNS_MAX][CELL_MAX];
        const char *pointers[COLUMNS_MAX];

        for (size_t i = 0; i < listing->n_columns; i++) {
                cells[i][0] = 0;
                listing->columns[i]->function(listing->ctl, stat, cells[i]);
                pointers[i] = cells[i];
                listing->widths[i] = MAX(listing->widths[i], strlen(cells[i]));
        }
        table_add_row(listing->table, listing->n_columns, pointers);
}

static int visit(const struct shmd_stat *stat, void *userdata) {
        struct listing *listing = userdata;

        if (listing->table)
                add_row(listing, stat);
        else
                json_append(listing->array, segment_to_json(stat));
        return 0;
}

/* --- a terminal too narrow for all of it --- */

/* What is left out then, first to last; nothing of the user's own choice. */
static const char *const dispensable[] = { "resident", "age", "lifetime", "mode", "state", "owner" };
/* As much of a name as shall be seen. */
#define NAME_WIDTH 24u

static size_t terminal_width(void) {
        struct winsize size;

        return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : SIZE_MAX;
}

static size_t column_width(const struct listing *listing, size_t number) {
        size_t width = listing->widths[number];

        if (listing->columns[number]->flags & SCOLS_FL_TRUNC)
                width = MIN(width, NAME_WIDTH);
        return MAX(width, strlen(listing->columns[number]->heading)) + 1;
}

/* For the default columns alone, which are the first ones of the table of all. */
static void fit_listing(struct listing *listing) {
        size_t available = terminal_width(), width = 0;

        for (size_t i = 0; i < listing->n_columns; i++)
                width += column_width(listing, i);
        for (size_t i = 0; i < ELEMENTSOF(dispensable) && width > available; i++) {
                size_t number = (size_t) (column_find(dispensable[i]) - columns);

                width -= column_width(listing, number);
                table_hide_column(listing->table, number);
        }
}

static int print_listing(struct listing *listing) {
        if (listing->array)
                return json_print(listing->array);
        if (!listing->ctl->options.columns)
                fit_listing(listing);
        return table_print(listing->table);
}

static void begin_listing(struct listing *listing) {
        if (listing->ctl->options.json) {
                listing->array = json_new_array();
                return;
        }
        listing->table = table_new(listing->ctl);
        for (size_t i = 0; i < listing->n_columns; i++)
                table_add_column(listing->table, listing->columns[i]->heading, listing->columns[i]->flags);
}

int cmd_list(struct ctl *ctl, int n_arguments, char **arguments) {
        const char *prefix = n_arguments > 0 ? arguments[0] : NULL;
        struct listing listing = { .ctl = ctl };
        int status, r;

        status = choose_columns(&listing);
        if (status == STATUS_DONE)
                status = connect_to_daemon(ctl);
        if (status != STATUS_DONE)
                return status;

        begin_listing(&listing);
        r = shmd_list(ctl->connection, prefix, 0, visit, &listing);
        if (r == 0 && ctl->options.all)
                r = shmd_list(ctl->connection, prefix, SHMD_LIST_UNLINKED, visit, &listing);
        if (r != 0)
                return fail_shmd(ctl, r, prefix ? "list" : "list segments", prefix);
        return print_listing(&listing);
}
