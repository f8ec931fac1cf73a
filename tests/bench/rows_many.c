/* SPDX-License-Identifier: MIT */
/* Many segments in one call. */
#include <stdio.h>
#include <string.h>

#include "rows.h"
#include "shmd.h"

#define MANY_MAX 253u
#define NAME_SIZE 64

struct many_row {
        struct shmd *connection;
        unsigned count;
        bool exist; /* made by setup */
        unsigned long created; /* so many times, under new names each time */
        char names[MANY_MAX][NAME_SIZE];
        const char *pointers[MANY_MAX];
        struct shmd_create_item items[MANY_MAX];
        struct shmd_segment *segments[MANY_MAX];
        int results[MANY_MAX];
};

static int many_refuse(struct series *series, const char *call, int error) {
        const struct many_row *row = series->state;

        return series_refuse(series, error, "%s: %s (%s)", call, strerror(-error), shmd_error_message(row->connection));
}

static int many_check(struct series *series, const char *call) {
        const struct many_row *row = series->state;

        for (unsigned i = 0; i < row->count; i++)
                if (row->results[i] < 0)
                        return many_refuse(series, call, row->results[i]);
        return 0;
}

int many_create_setup(struct series *series) {
        struct many_row *row = calloc(1, sizeof(*row));
        int r;

        if (!row)
                return series_refuse(series, -ENOMEM, "out of memory");
        series->state = row;
        row->count = MIN(series->row->segments, MANY_MAX);
        r = shmd_connect(series_server(series)->socket_path, &row->connection);
        return r < 0 ? many_refuse(series, "shmd_connect", r) : 0;
}

static int create_all(struct series *series, const struct shmd_create_options *options) {
        struct many_row *row = series->state;
        int r;

        row->created++;
        for (unsigned i = 0; i < row->count; i++) {
                snprintf(row->names[i], sizeof(row->names[i]), "bench/%s/%s/%lu/%u", series->row->id,
                         placement_name(series->placement), row->created, i);
                row->pointers[i] = row->names[i];
                row->items[i] = (struct shmd_create_item) { row->names[i], SEGMENT_SIZE, options };
        }
        r = shmd_create_many(row->connection, row->items, row->count, SHMD_EXCLUSIVE, row->segments, row->results);
        return r < 0 ? many_refuse(series, "shmd_create_many", r) : many_check(series, "shmd_create_many");
}

static int map_all(struct series *series, bool touch) {
        struct many_row *row = series->state;
        void *address;
        int r;

        for (unsigned i = 0; i < row->count; i++) {
                r = shmd_map(row->segments[i], &address, NULL);
                if (r < 0)
                        return many_refuse(series, "shmd_map", r);
                if (touch)
                        *(volatile unsigned char *) address = 1;
        }
        return 0;
}

static int unlink_all(struct series *series) {
        struct many_row *row = series->state;
        int r;

        for (unsigned i = 0; i < row->count; i++) {
                r = shmd_unlink(row->connection, row->names[i]);
                if (r < 0)
                        return many_refuse(series, "shmd_unlink", r);
        }
        return 0;
}

int many_open_setup(struct series *series) {
        struct many_row *row;
        int r;

        r = many_create_setup(series);
        if (r < 0)
                return r;
        row = series->state;
        row->exist = true;
        r = create_all(series, NULL);
        shmd_close_many(row->segments, row->count);
        return r;
}

void many_teardown(struct series *series) {
        struct many_row *row = series->state;

        if (!row)
                return;
        if (row->exist)
                (void) unlink_all(series);
        shmd_disconnect(row->connection);
        free(row);
}

int many_open_run(struct series *series) {
        struct many_row *row = series->state;
        int r;

        r = shmd_open_many(row->connection, row->pointers, row->count, SHMD_READ_WRITE, row->segments, row->results);
        if (r < 0)
                return many_refuse(series, "shmd_open_many", r);
        r = many_check(series, "shmd_open_many");
        if (r == 0)
                r = map_all(series, false);
        shmd_close_many(row->segments, row->count);
        return r;
}

int many_create_run(struct series *series) {
        struct many_row *row = series->state;
        int r;

        r = create_all(series, NULL);
        if (r == 0)
                r = map_all(series, true);
        if (r == 0)
                r = unlink_all(series);
        shmd_close_many(row->segments, row->count);
        return r;
}

int many_create_own_run(struct series *series) {
        static const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        struct many_row *row = series->state;
        int r;

        r = create_all(series, &options);
        if (r == 0)
                r = map_all(series, true);
        shmd_close_many(row->segments, row->count);
        return r;
}
