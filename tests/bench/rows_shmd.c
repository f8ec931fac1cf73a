/* SPDX-License-Identifier: MIT */
/* shmd, as any program meets it: through shmd.h alone. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "crowd.h"
#include "rows.h"
#include "shmd.h"

#define POSIX_EXISTING "/bench-posix-existing"
#define POSIX_CREATED "/bench-posix-created"

struct shmd_row {
        struct shmd *connection;
        struct shmd_segment *held;
        unsigned segments, next; /* of a crowd */
        char name[64];
        bool exists; /* a segment of that name, made by setup */
        unsigned long created; /* so many, each under a name of its own */
};

/* error: of the call on that connection, NULL for shmd_connect() */
static int shmd_refuse(struct series *series, struct shmd *connection, const char *call, int error) {
        return series_refuse(series, error, "%s: %s (%s)", call, strerror(-error), shmd_error_message(connection));
}

int shmd_row_setup(struct series *series) {
        struct shmd_row *row = calloc(1, sizeof(*row));
        int r;

        if (!row)
                return series_refuse(series, -ENOMEM, "out of memory");
        series->state = row;
        snprintf(row->name, sizeof(row->name), "bench/%s/%s", series->row->id, placement_name(series->placement));
        r = shmd_connect(series_server(series)->socket_path, &row->connection);
        return r < 0 ? shmd_refuse(series, NULL, "shmd_connect", r) : 0;
}

int shmd_row_setup_held(struct series *series) {
        struct shmd_row *row;
        int r;

        r = shmd_row_setup(series);
        if (r < 0)
                return r;
        row = series->state;
        r = shmd_create(row->connection, row->name, SEGMENT_SIZE, SHMD_EXCLUSIVE, NULL, &row->held);
        if (r < 0)
                return shmd_refuse(series, row->connection, "shmd_create", r);
        row->exists = true;
        return 0;
}

int shmd_row_setup_existing(struct series *series) {
        struct shmd_row *row;
        int r;

        r = shmd_row_setup_held(series);
        if (r < 0)
                return r;
        row = series->state;
        row->held = shmd_close(row->held);
        return 0;
}

void shmd_row_teardown(struct series *series) {
        struct shmd_row *row = series->state;

        if (!row)
                return;
        shmd_close(row->held);
        if (row->exists)
                (void) shmd_unlink(row->connection, row->name);
        shmd_disconnect(row->connection);
        free(row);
}

static int open_and_map(struct series *series, struct shmd *connection) {
        const struct shmd_row *row = series->state;
        struct shmd_segment *segment;
        void *address;
        int r;

        r = shmd_open(connection, row->name, SHMD_READ_WRITE, &segment);
        if (r < 0)
                return shmd_refuse(series, connection, "shmd_open", r);
        r = shmd_map(segment, &address, NULL);
        if (r < 0)
                (void) shmd_refuse(series, connection, "shmd_map", r);
        shmd_close(segment);
        return r;
}

int shmd_open_run(struct series *series) {
        const struct shmd_row *row = series->state;

        return open_and_map(series, row->connection);
}

int shmd_connect_run(struct series *series) {
        struct shmd *connection;
        int r;

        r = shmd_connect(series_server(series)->socket_path, &connection);
        if (r < 0)
                return shmd_refuse(series, NULL, "shmd_connect", r);
        r = open_and_map(series, connection);
        shmd_disconnect(connection);
        return r;
}

/* Touches a new segment, takes its name away. */
static int use_and_unlink(struct series *series, struct shmd_segment *segment, const char *name) {
        const struct shmd_row *row = series->state;
        void *address;
        int r;

        r = shmd_map(segment, &address, NULL);
        if (r < 0)
                return shmd_refuse(series, row->connection, "shmd_map", r);
        *(volatile unsigned char *) address = 1;
        r = shmd_unlink(row->connection, name);
        return r < 0 ? shmd_refuse(series, row->connection, "shmd_unlink", r) : 0;
}

int shmd_create_run(struct series *series) {
        struct shmd_row *row = series->state;
        struct shmd_segment *segment;
        char name[sizeof(row->name) + 24];
        int r;

        snprintf(name, sizeof(name), "%s/%lu", row->name, row->created++);
        r = shmd_create(row->connection, name, SEGMENT_SIZE, SHMD_EXCLUSIVE, NULL, &segment);
        if (r < 0)
                return shmd_refuse(series, row->connection, "shmd_create", r);
        r = use_and_unlink(series, segment, name);
        shmd_close(segment);
        return r;
}

/* --- beside few segments and clients or many, with or without a load --- */

int shmd_row_setup_crowd(struct series *series) {
        const struct bench_row *bench_row = series->row;
        const struct crowd *crowd = &series->bench->crowds[bench_row->server];
        struct shmd_row *row;
        int r;

        r = crowd_ensure(series->bench, bench_row->server);
        if (r < 0)
                return series_refuse(series, r, "its segments and clients: %s", crowd->trouble);
        r = shmd_row_setup(series);
        if (r < 0)
                return r;
        row = series->state;
        row->segments = crowd->segments;
        crowd_name(row->name, 0);
        snprintf(series->note, sizeof(series->note), "%u segments, %u clients", crowd->segments, crowd->clients);
        return 0;
}

/* A stride that is prime: all of them come, neighbours do not. */
int shmd_open_any_run(struct series *series) {
        struct shmd_row *row = series->state;

        row->next = (row->next + 7919) % row->segments;
        crowd_name(row->name, row->next);
        return open_and_map(series, row->connection);
}

/* --- the POSIX shapes: one connection of the process, found through $SHMD_SOCKET --- */

static int refuse_errno(struct series *series, const char *call) {
        int error = negative_errno();

        return series_refuse(series, error, "%s: %s", call, strerror(-error));
}

int shmd_posix_open_setup(struct series *series) {
        /* Both placements share it. */
        _cleanup_close_ int fd = shmd_shm_open(POSIX_EXISTING, O_RDWR | O_CREAT, 0600);

        if (fd < 0)
                return refuse_errno(series, "shmd_shm_open");
        return ftruncate(fd, SEGMENT_SIZE) < 0 ? refuse_errno(series, "ftruncate") : 0;
}

int shmd_posix_open_run(struct series *series) {
        _cleanup_close_ int fd = shmd_shm_open(POSIX_EXISTING, O_RDWR, 0);
        struct stat stat;

        if (fd < 0 || fstat(fd, &stat) < 0 || map_page(fd, false) < 0)
                return refuse_errno(series, "shmd_shm_open, fstat or mmap");
        return 0;
}

void shmd_posix_open_teardown(struct series *series) {
        (void) series;
        (void) shmd_shm_unlink(POSIX_EXISTING);
}

int shmd_posix_create_run(struct series *series) {
        _cleanup_close_ int fd = shmd_shm_open(POSIX_CREATED, O_RDWR | O_CREAT | O_EXCL, 0600);

        if (fd < 0)
                return refuse_errno(series, "shmd_shm_open");
        if (ftruncate(fd, SEGMENT_SIZE) < 0 || map_page(fd, true) < 0)
                return refuse_errno(series, "ftruncate or mmap");
        fd = close_fd(fd);
        return shmd_shm_unlink(POSIX_CREATED) < 0 ? refuse_errno(series, "shmd_shm_unlink") : 0;
}
