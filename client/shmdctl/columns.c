/* SPDX-License-Identifier: MIT */
/*
 * Tables with columns to choose from: which ones, and what a narrow terminal leaves out.
 */
#include "shmdctl.h"

#include <libsmartcols.h>
#include <string.h>
#include <sys/ioctl.h>

/* --- choosing --- */

void columns_print_help(FILE *file, const struct column_set *set) {
        fprintf(file, "\nColumns (by default down to %s, and less on a narrow terminal):\n",
                set->columns[set->n_default - 1].name);
        for (size_t i = 0; i < set->count; i++)
                fprintf(file, "  %-10s  %s\n", set->columns[i].name, set->columns[i].help);
}

static const struct column *column_find(const struct column_set *set, const char *name) {
        for (size_t i = 0; i < set->count; i++) {
                if (strcasecmp(set->columns[i].name, name) == 0)
                        return &set->columns[i];
        }
        return NULL;
}

static int fail_column(const struct ctl *ctl, const struct column_set *set, const char *name) {
        char known[512] = "";

        for (size_t i = 0; i < set->count; i++) {
                strcat(known, i > 0 ? ", " : "");
                strcat(known, set->columns[i].name);
        }
        return fail_usage(ctl, "unknown column \"%s\"; there are: %s", name, known);
}

int listing_choose(struct listing *listing, const struct ctl *ctl, const struct column_set *set) {
        const char *wanted = ctl->options.columns;
        _cleanup_(freep) char *copy = strdup(wanted ? wanted : "+");
        char *rest = copy, *name;

        *listing = (struct listing) { .ctl = ctl, .set = set };
        if (!copy)
                fail_memory();
        if (*rest == '+') {
                rest++;
                while (listing->n_columns < set->n_default) {
                        listing->columns[listing->n_columns] = &set->columns[listing->n_columns];
                        listing->n_columns++;
                }
        }
        while ((name = strsep(&rest, ","))) {
                if (*name == 0 && listing->n_columns > 0) /* "+", or a comma too many */
                        continue;
                if (listing->n_columns == COLUMNS_MAX)
                        return fail_usage(ctl, "too many columns");
                listing->columns[listing->n_columns] = column_find(set, name);
                if (!listing->columns[listing->n_columns++])
                        return fail_column(ctl, set, name);
        }
        return STATUS_DONE;
}

/* --- filling --- */

void listing_begin(struct listing *listing) {
        listing->table = table_new(listing->ctl);
        for (size_t i = 0; i < listing->n_columns; i++)
                table_add_column(listing->table, listing->columns[i]->heading, listing->columns[i]->flags);
}

void listing_add(struct listing *listing, const void *item) {
        char cells[COLUMNS_MAX][CELL_MAX];
        const char *pointers[COLUMNS_MAX];

        for (size_t i = 0; i < listing->n_columns; i++) {
                cells[i][0] = 0;
                listing->columns[i]->function(listing->ctl, item, cells[i]);
                pointers[i] = cells[i];
                listing->widths[i] = MAX(listing->widths[i], strlen(cells[i]));
        }
        table_add_row(listing->table, listing->n_columns, pointers);
}

/* --- a terminal too narrow for all of it --- */

/* As much of a name as shall be seen. */
#define NAME_WIDTH 24u

static size_t terminal_width(void) {
        struct winsize size;

        return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : SIZE_MAX;
}

static size_t column_width(const struct listing *listing, size_t number) {
        size_t width = listing->widths[number];

        if (listing->columns[number]->flags & (SCOLS_FL_TRUNC | SCOLS_FL_WRAP))
                width = MIN(width, NAME_WIDTH);
        return MAX(width, strlen(listing->columns[number]->heading)) + 1;
}

/* For the default columns alone, which are the first ones of the table of all. */
static void fit_listing(struct listing *listing) {
        const struct column_set *set = listing->set;
        size_t available = terminal_width(), width = 0;

        for (size_t i = 0; i < listing->n_columns; i++) {
                width += column_width(listing, i);
                if (listing->widths[i] <= NAME_WIDTH)
                        table_keep_column(listing->table, i);
        }
        for (const char *const *name = set->dispensable; *name && width > available; name++) {
                size_t number = (size_t) (column_find(set, *name) - set->columns);

                width -= column_width(listing, number);
                table_hide_column(listing->table, number);
        }
}

int listing_print(struct listing *listing) {
        if (!listing->ctl->options.columns)
                fit_listing(listing);
        return table_print(listing->table);
}
