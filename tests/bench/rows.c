/* SPDX-License-Identifier: MIT */
/*
 * The table of what is measured: a new measurement is a row here and its functions. Rows are run in this order, and
 * in the reverse one, in turn. A row of many segments at once says how many in "segments"; one that is
 * to be measured while something else goes on starts that in its setup().
 */
#include "rows.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

const struct bench_row bench_rows[] = {
        {
                .id = "raw-open",
                .what = "shm_open, fstat, mmap, munmap, close",
                .segments = 1,
                .setup = raw_open_setup,
                .run = raw_open_run,
                .teardown = raw_open_teardown,
        },
        {
                .id = "raw-create",
                .what = "shm_open, ftruncate, mmap, touch, munmap, close, shm_unlink",
                .segments = 1,
                .run = raw_create_run,
        },
        {
                .id = "sysv-open",
                .what = "shmget, shmat, shmdt",
                .segments = 1,
                .raw = "raw-open",
                .setup = sysv_open_setup,
                .run = sysv_open_run,
                .teardown = sysv_open_teardown,
        },
        {
                .id = "sysv-create",
                .what = "shmget, shmat, touch, shmdt, IPC_RMID",
                .segments = 1,
                .raw = "raw-create",
                .setup = sysv_create_setup,
                .run = sysv_create_run,
        },
        {
                .id = "bare-open",
                .what = "bare broker: request, mmap, munmap, close",
                .server = SERVER_BROKER,
                .segments = 1,
                .raw = "raw-open",
                .setup = broker_setup,
                .run = bare_open_run,
                .teardown = broker_teardown,
        },
        {
                .id = "bare-create",
                .what = "bare broker: create, mmap, touch, munmap, close, unlink",
                .server = SERVER_BROKER,
                .segments = 1,
                .raw = "raw-create",
                .setup = broker_setup,
                .run = bare_create_run,
                .teardown = broker_teardown,
        },
        {
                .id = "bare-connect",
                .what = "bare broker: connect, request, mmap, munmap, close both",
                .server = SERVER_BROKER,
                .segments = 1,
                .raw = "raw-open",
                .setup = broker_setup,
                .run = bare_connect_run,
                .teardown = broker_teardown,
        },
        {
                .id = "same-open",
                .what = "bare broker with all system calls of shmd-open, so with a one-way release",
                .server = SERVER_BROKER,
                .segments = 1,
                .raw = "raw-open",
                .bare = "bare-open",
                .setup = broker_setup,
                .run = same_open_run,
                .teardown = broker_teardown,
        },
        {
                .id = "same-create",
                .what = "bare broker with all system calls of shmd-create",
                .server = SERVER_BROKER,
                .segments = 1,
                .raw = "raw-create",
                .bare = "bare-create",
                .setup = broker_setup,
                .run = same_create_run,
                .teardown = broker_teardown,
        },
        {
                .id = "same-connect",
                .what = "bare broker with all system calls of shmd-connect",
                .server = SERVER_BROKER,
                .segments = 1,
                .raw = "raw-open",
                .bare = "bare-connect",
                .setup = broker_setup,
                .run = same_connect_run,
                .teardown = broker_teardown,
        },
        {
                .id = "shmd-open",
                .what = "shmd_open, shmd_map, shmd_close of the last reference",
                .server = SERVER_DAEMON,
                .segments = 1,
                .raw = "raw-open",
                .bare = "bare-open",
                .same = "same-open",
                .setup = shmd_row_setup_existing,
                .run = shmd_open_run,
                .teardown = shmd_row_teardown,
        },
        {
                .id = "shmd-create",
                .what = "shmd_create, shmd_map, touch, shmd_unlink, shmd_close",
                .server = SERVER_DAEMON,
                .segments = 1,
                .raw = "raw-create",
                .bare = "bare-create",
                .same = "same-create",
                .setup = shmd_row_setup,
                .run = shmd_create_run,
                .teardown = shmd_row_teardown,
        },
        {
                .id = "shmd-connect",
                .what = "shmd_connect, shmd_open, shmd_map, close both",
                .server = SERVER_DAEMON,
                .segments = 1,
                .raw = "raw-open",
                .bare = "bare-connect",
                .same = "same-connect",
                .setup = shmd_row_setup_existing,
                .run = shmd_connect_run,
                .teardown = shmd_row_teardown,
        },
        {
                .id = "shmd-held",
                .what = "shmd_open, shmd_map, shmd_close of what is held already",
                .server = SERVER_DAEMON,
                .segments = 1,
                .raw = "raw-open",
                .bare = "bare-open",
                .setup = shmd_row_setup_held,
                .run = shmd_open_run,
                .teardown = shmd_row_teardown,
        },
        {
                .id = "shmd-posix-open",
                .what = "shmd_shm_open, fstat, mmap, munmap, close",
                .server = SERVER_DAEMON,
                .segments = 1,
                .raw = "raw-open",
                .bare = "bare-open",
                .setup = shmd_posix_open_setup,
                .run = shmd_posix_open_run,
                .teardown = shmd_posix_open_teardown,
        },
        {
                .id = "shmd-posix-create",
                .what = "shmd_shm_open, ftruncate, mmap, touch, munmap, close, unlink",
                .server = SERVER_DAEMON,
                .segments = 1,
                .raw = "raw-create",
                .bare = "bare-create",
                .run = shmd_posix_create_run,
        },
};
const size_t bench_row_count = ELEMENTSOF(bench_rows);

int series_refuse(struct series *series, int value, const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(series->reason, sizeof(series->reason), format, arguments);
        va_end(arguments);
        return value;
}

const char *placement_name(enum placement placement) {
        static const char *const names[] = {
                [PLACEMENT_NONE] = "-",
                [PLACEMENT_SAME] = "s",
                [PLACEMENT_CROSS] = "x",
        };

        return names[placement];
}

struct server *series_server(const struct series *series) {
        return &series->bench->servers[series->row->server];
}

int map_page(int fd, bool touch) {
        unsigned char *page = mmap(NULL, SEGMENT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (page == MAP_FAILED)
                return negative_errno();
        if (touch)
                *(volatile unsigned char *) page = 1;
        return munmap(page, SEGMENT_SIZE) < 0 ? negative_errno() : 0;
}
