/* SPDX-License-Identifier: MIT */
/* Locks, rings and snapshots, a thousand at a time, and the same by the C library and the kernel alone. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "rows.h"
#include "shmd.h"

#define TIMES 1000u
#define SNAPSHOT 64u /* bytes */

/* --- without shmd --- */

static int refuse_errno(struct series *series, const char *call, int error) {
        return series_refuse(series, error, "%s: %s", call, strerror(-error));
}

int plain_mutex_setup(struct series *series) {
        pthread_mutexattr_t attributes;
        pthread_mutex_t *mutex;

        mutex = mmap(NULL, SEGMENT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (mutex == MAP_FAILED)
                return refuse_errno(series, "mmap", negative_errno());
        series->state = mutex;
        (void) pthread_mutexattr_init(&attributes);
        (void) pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        (void) pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        (void) pthread_mutex_init(mutex, &attributes);
        (void) pthread_mutexattr_destroy(&attributes);
        return 0;
}

int plain_mutex_run(struct series *series) {
        int r = 0;

        for (unsigned i = 0; i < TIMES; i++) {
                r |= pthread_mutex_lock(series->state);
                r |= pthread_mutex_unlock(series->state);
        }
        return r == 0 ? 0 : series_refuse(series, -EIO, "pthread_mutex_lock or unlock");
}

void plain_mutex_teardown(struct series *series) {
        if (series->state)
                (void) munmap(series->state, SEGMENT_SIZE);
}

int eventfd_setup(struct series *series) {
        int *fd = malloc(sizeof(*fd));

        if (!fd)
                return refuse_errno(series, "malloc", -ENOMEM);
        series->state = fd;
        *fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        return *fd < 0 ? refuse_errno(series, "eventfd", negative_errno()) : 0;
}

int eventfd_run(struct series *series) {
        const uint64_t one = 1;

        for (unsigned i = 0; i < TIMES; i++)
                if (write(*(int *) series->state, &one, sizeof(one)) != sizeof(one))
                        return refuse_errno(series, "write", negative_errno());
        return 0;
}

void eventfd_teardown(struct series *series) {
        if (series->state)
                close_fd(*(int *) series->state);
        free(series->state);
}

/* --- shmd --- */

struct sync_row {
        struct shmd *connection, *other;
        struct shmd_segment *segment, *others;
        uint32_t bell;
};

static int connect_and_open(struct series *series, bool create, struct shmd **ret_connection, struct shmd_segment **ret_segment) {
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        char name[64];
        int r;

        (void) snprintf(name, sizeof(name), "bench/%s/%s", series->row->id, placement_name(series->placement));
        r = shmd_connect(series_server(series)->socket_path, ret_connection);
        if (r < 0)
                return refuse_errno(series, "shmd_connect", r);
        if (create)
                r = shmd_create(*ret_connection, name, SEGMENT_SIZE, SHMD_EXCLUSIVE, &options, ret_segment);
        else
                r = shmd_open(*ret_connection, name, SHMD_READ_ONLY, ret_segment);
        if (r == 0)
                r = shmd_prepare_locks(*ret_segment);
        return r < 0 ? refuse_errno(series, "shmd_create, shmd_open or shmd_prepare_locks", r) : 0;
}

int sync_setup(struct series *series) {
        struct sync_row *row = calloc(1, sizeof(*row));
        int r;

        if (!row)
                return refuse_errno(series, "malloc", -ENOMEM);
        series->state = row;
        r = connect_and_open(series, true, &row->connection, &row->segment);
        if (r == 0)
                r = connect_and_open(series, false, &row->other, &row->others);
        if (r < 0)
                return r;
        r = shmd_bell_open(row->others, &row->bell);
        if (r == 0)
                r = shmd_bell_fd(row->others);
        return r < 0 ? refuse_errno(series, "shmd_bell_open", r) : 0;
}

void sync_teardown(struct series *series) {
        struct sync_row *row = series->state;

        if (!row)
                return;
        shmd_disconnect(row->connection);
        shmd_disconnect(row->other);
        free(row);
}

static int lock_run(struct series *series, unsigned flags) {
        struct shmd_segment *segment = ((struct sync_row *) series->state)->segment;
        int r = 0;

        for (unsigned i = 0; i < TIMES; i++) {
                r |= shmd_lock(segment, flags, SHMD_FOREVER);
                r |= shmd_unlock(segment);
        }
        return r == 0 ? 0 : series_refuse(series, -EIO, "shmd_lock or shmd_unlock");
}

int sync_lock_run(struct series *series) {
        return lock_run(series, SHMD_LOCK_EXCLUSIVE);
}

int sync_share_run(struct series *series) {
        return lock_run(series, SHMD_LOCK_SHARED);
}

int sync_ring_run(struct series *series) {
        const struct sync_row *row = series->state;
        int r = 0;

        for (unsigned i = 0; i < TIMES; i++)
                r |= shmd_bell_ring(row->segment, row->bell);
        return r == 0 ? 0 : series_refuse(series, -EIO, "shmd_bell_ring");
}

int sync_read_run(struct series *series) {
        const struct sync_row *row = series->state;
        char copy[SNAPSHOT];
        int r = 0;

        for (unsigned i = 0; i < TIMES; i++)
                r |= shmd_read_copy(row->others, 0, copy, sizeof(copy), SHMD_FOREVER);
        return r == 0 ? 0 : series_refuse(series, -EIO, "shmd_read_copy");
}
