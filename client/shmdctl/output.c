/* SPDX-License-Identifier: MIT */
/*
 * Standard output. Tables are cut to the width of a terminal, and never elsewhere.
 */
#include "shmdctl.h"

#include <errno.h>
#include <json-c/json.h>
#include <libsmartcols.h>
#include <string.h>

/* Why writing failed, as the first call that noticed has it: standard I/O itself only remembers that it did. */
static int stdout_errno;

void stdout_check(void) {
        if (ferror(stdout) && stdout_errno == 0)
                stdout_errno = errno;
}

/* --- tables --- */

struct libscols_table *table_new(const struct ctl *ctl) {
        struct libscols_table *table = scols_new_table();

        if (!table)
                fail_memory();
        scols_table_enable_noheadings(table, ctl->options.no_headings);
        return table;
}

void table_add_column(struct libscols_table *table, const char *heading, int flags) {
        if (!scols_table_new_column(table, heading, 0, flags))
                fail_memory();
}

/* What is hidden need not fit. */
void table_hide_column(struct libscols_table *table, size_t number) {
        struct libscols_column *column = scols_table_get_column(table, number);

        scols_column_set_flags(column, scols_column_get_flags(column) | SCOLS_FL_HIDDEN);
}

/* What has room anyway is never made narrower for the sake of another column. */
void table_keep_column(struct libscols_table *table, size_t number) {
        struct libscols_column *column = scols_table_get_column(table, number);

        scols_column_set_flags(column, scols_column_get_flags(column) & ~(SCOLS_FL_TRUNC | SCOLS_FL_WRAP));
}

void table_add_row(struct libscols_table *table, size_t n_cells, const char *const *cells) {
        struct libscols_line *line = scols_table_new_line(table, NULL);

        if (!line)
                fail_memory();
        for (size_t i = 0; i < n_cells; i++) {
                if (scols_line_refer_data(line, i, text_for_screen(cells[i])) < 0)
                        fail_memory();
        }
}

int table_print(struct libscols_table *table) {
        int r = scols_table_is_empty(table) ? 0 : scols_print_table(table);

        stdout_check();
        scols_unref_table(table);
        if (r == -ENOMEM)
                fail_memory();
        return STATUS_DONE; /* that something could not be written shows when standard output is closed */
}

/* --- JSON --- */

static struct json_object *json_checked(struct json_object *value) {
        if (!value)
                fail_memory();
        return value;
}

struct json_object *json_new_object(void) {
        return json_checked(json_object_new_object());
}

struct json_object *json_new_array(void) {
        return json_checked(json_object_new_array());
}

void json_append(struct json_object *array, struct json_object *value) {
        if (json_object_array_add(array, value) < 0)
                fail_memory();
}

void json_add(struct json_object *object, const char *key, struct json_object *value) {
        if (json_object_object_add(object, key, value) < 0)
                fail_memory();
}

void json_add_string(struct json_object *object, const char *key, const char *value) {
        char *text = text_to_utf8(value);

        json_add(object, key, json_checked(json_object_new_string(text)));
        free(text);
}

void json_add_number(struct json_object *object, const char *key, uint64_t value) {
        json_add(object, key, json_checked(json_object_new_uint64(value)));
}

void json_add_resident(struct json_object *object, uint64_t bytes) {
        if (bytes == UINT64_MAX)
                json_add(object, "resident", NULL);
        else
                json_add_number(object, "resident", bytes);
}

void json_add_bool(struct json_object *object, const char *key, bool value) {
        json_add(object, key, json_checked(json_object_new_boolean(value)));
}

static int print_document(struct json_object *document, int flags) {
        const char *text = json_object_to_json_string_ext(document, flags | JSON_C_TO_STRING_SPACED |
                                                                             JSON_C_TO_STRING_NOSLASHESCAPE);

        if (!text)
                fail_memory();
        puts(text);
        stdout_check();
        json_object_put(document);
        return STATUS_DONE;
}

int json_print(struct json_object *document) {
        return print_document(document, JSON_C_TO_STRING_PRETTY);
}

int json_print_line(struct json_object *document) {
        return print_document(document, JSON_C_TO_STRING_PLAIN);
}

/* --- the end --- */

int stdout_close(int status) {
        stdout_check();
        if (fclose(stdout) != 0 && stdout_errno == 0)
                stdout_errno = errno;
        if (stdout_errno == 0)
                return status;
        if (stdout_errno != EPIPE && stdout_errno != EINTR) /* whoever closed the pipe knows, or interrupted us */
                fail("cannot write to standard output: %s", strerror(stdout_errno));
        return status == STATUS_DONE ? STATUS_FAILED : status;
}
