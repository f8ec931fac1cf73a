/* SPDX-License-Identifier: MIT */
#include "emptying.h"

#include <fcntl.h>

#include "control.h"
#include "daemon.h"
#include "util.h"

/* Less is given back at once. Bytes. */
#define ELSEWHERE_BYTES (UINT64_C(128) << 10)

struct empty_job {
        struct job job;
        struct daemon *daemon;
        uint64_t carrier; /* its number: it may go meanwhile */
        uint64_t size;
        int fd, result;
        bool posix;
};

static void run(struct job *job) {
        struct empty_job *empty = (struct empty_job *) job;

        empty->result = memfd_empty(empty->fd, empty->size, empty->posix);
        empty->fd = close_fd(empty->fd);
}

static void done(struct job *job) {
        struct empty_job *empty = (struct empty_job *) job;

        if (empty->result < 0)
                carriers_pin(&empty->daemon->store.carriers, empty->carrier);
        free(empty);
}

static int empty_elsewhere(struct daemon *daemon, const struct segment *segment) {
        struct empty_job *empty = calloc(1, sizeof(*empty));

        if (!empty)
                return -ENOMEM;
        *empty = (struct empty_job) {
                .job = { .run = run, .done = done, .uid = segment->owner.uid },
                .daemon = daemon,
                .carrier = segment->custody.carrier->number,
                .size = segment->maximum,
                .posix = segment->posix,
                .fd = fcntl(segment->custody.guard_fd, F_DUPFD_CLOEXEC, 3),
        };
        if (empty->fd < 0) {
                free(empty);
                return -EMFILE;
        }
        worker_submit(&daemon->worker, &empty->job);
        return 0;
}

/* Small, and sealed against nothing that matters here. */
static int empty_control(const struct segment *segment) {
        int r = 0;

        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS && r == 0; i++)
                if (segment->custody.control_fd[i] >= 0)
                        r = memfd_empty(segment->custody.control_fd[i], control_size(i), false);
        return r;
}

/* Huge pages that were never touched stay reserved until the file goes; a file is its owner's to keep. */
static int empty_memory(struct daemon *daemon, const struct segment *segment) {
        if (segment->backing != WIRE_BACKING_MEMFD)
                return -EBUSY;
        if (segment->maximum >= ELSEWHERE_BYTES || segment->posix)
                return empty_elsewhere(daemon, segment);
        return memfd_empty(segment->custody.guard_fd, segment->maximum, segment->posix);
}

int emptying_start(struct daemon *daemon, const struct segment *segment) {
        int r = empty_memory(daemon, segment), control = empty_control(segment);

        return r < 0 ? r : control;
}
