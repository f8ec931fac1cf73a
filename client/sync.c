/* SPDX-License-Identifier: MIT */
/*
 * The control memory of a segment, mapped: sync.h says what it is.
 *
 * Owns the mappings of all of it; those with a thread's mutexes are the lockers'. They are made under a lock of the process and
 * then never change until the hold ends, so that threads use them without one.
 */
#include "sync.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

_Static_assert(sizeof(atomic_uint) == 4, "a lock word has 32 bits");
_Static_assert(sizeof(struct meeting_page) <= 4096, "the first meeting page");
_Static_assert(SHMD_BELLS * sizeof(struct bell_words) <= 4096, "the second");

/* All zeros: no thread's. */
static struct hot hot_none;

void sync_begin(struct shmd_segment *segment) {
        atomic_init(&segment->hot, &hot_none);
        for (size_t i = 0; i < ELEMENTSOF(segment->hots); i++)
                atomic_init(&segment->hots[i], &hot_none);
}

/* --- waiting --- */

uint64_t deadline_after(uint64_t timeout_usec) {
        uint64_t now;

        if (timeout_usec == SHMD_FOREVER)
                return UINT64_MAX;
        now = now_usec();
        return timeout_usec < UINT64_MAX - now ? now + timeout_usec : UINT64_MAX;
}

int futex_wait(atomic_uint *word, unsigned value, uint64_t deadline_usec) {
        struct {
                long seconds, nanoseconds; /* what SYS_futex takes, on 32-bit machines too */
        } until;
        long r;

        until.seconds = (long) MIN(deadline_usec / 1000000, (uint64_t) LONG_MAX);
        until.nanoseconds = (long) (deadline_usec % 1000000 * 1000);
        /* Absolute and by CLOCK_MONOTONIC: futex(2), FUTEX_WAIT_BITSET. Read-only memory will do. */
        r = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline_usec == UINT64_MAX ? NULL : &until, NULL,
                    FUTEX_BITSET_MATCH_ANY);
        return r < 0 && errno == ETIMEDOUT ? -ETIMEDOUT : 0;
}

int futex_wake(atomic_uint *word, int count) {
        return (int) syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

/* --- from the daemon --- */

/* It is not trusted: a file that can shrink would let us die. */
static bool file_is_safe(int fd, uint64_t size) {
        int seals = fcntl(fd, F_GET_SEALS);
        struct stat st;

        return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &st) == 0 && (uint64_t) st.st_size >= size;
}

static int call_control(struct hold *hold, enum shmd_wire_control_part part, uint64_t size,
                        struct shmd_wire_control_reply *ret_control, int *ret_fd) {
        const struct shmd_wire_control control = { .id = hold->id, .part = part };
        const struct request request = { .operation = SHMD_OP_CONTROL, .body = &control };
        struct shmd *connection = hold->connection;
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        if (r < 0)
                return r;
        r = reply_read(connection, &reply, ret_control, sizeof(*ret_control));
        if (r < 0)
                return r;
        if (reply.fds_lost)
                return failure_errno(&connection->failure, -EMFILE);
        if (reply.fds->count != 1)
                return connection_break(connection);
        if (ret_control->layout != SHMD_CONTROL_LAYOUT || ret_control->size != size)
                return failure_words(&connection->failure, -EOPNOTSUPP, "the daemon's locks are of another kind");
        if (!file_is_safe(reply.fds->fd[0], size))
                return connection_break(connection);
        *ret_fd = TAKE_FD(reply.fds->fd[0]);
        return 0;
}

/* Shared, as far as it may be written. */
static int map(struct hold *hold, int fd, size_t size, bool writable, void **ret_address) {
        void *address = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);

        if (address == MAP_FAILED)
                return failure_errno(&hold->connection->failure, negative_errno());
        *ret_address = address;
        return 0;
}

static int map_lock(struct sync *sync) {
        size_t size = SHMD_CONTROL_LOCK_PAGES * sync->page_size;
        struct shmd_wire_control_reply control;
        _cleanup_close_ int fd = -EBADF;
        void *page = NULL;
        int r;

        r = call_control(sync->hold, SHMD_WIRE_CONTROL_LOCK, size, &control, &fd);
        if (r == 0)
                r = map(sync->hold, fd, size, control.writable, &page);
        if (r < 0)
                return r;
        sync->writable = control.writable;
        sync->lock_page = page;
        sync->word = (atomic_uint *) (void *) ((char *) page + size - WORD_FROM_END);
        sync->state = (atomic_uint *) (void *) ((char *) page + size - STATE_FROM_END);
        return 0;
}

static int map_meeting(struct sync *sync) {
        size_t size = SHMD_CONTROL_MEETING_PAGES * sync->page_size;
        struct shmd_wire_control_reply control;
        _cleanup_close_ int fd = -EBADF;
        void *pages = NULL;
        int r;

        if (!mutexes_are_usable())
                return failure_words(&sync->hold->connection->failure, -ENOTSUP, "this C library's mutexes are of another kind");
        r = call_control(sync->hold, SHMD_WIRE_CONTROL_MEETING, size, &control, &fd);
        if (r == 0)
                r = map(sync->hold, fd, size, true, &pages);
        if (r < 0)
                return r;
        atomic_store(&sync->meeting, pages);
        return 0;
}

static int sync_new(struct hold *hold, struct sync **ret_sync) {
        struct sync *sync = calloc(1, sizeof(*sync));
        int r;

        if (!sync)
                return failure_errno(&hold->connection->failure, -ENOMEM);
        sync->hold = hold;
        sync->page_size = (size_t) sysconf(_SC_PAGESIZE);
        sync->bell_fd = -EBADF;
        (void) pthread_mutex_init(&sync->lockers_lock, NULL);
        atomic_store(&sync->epoch, process_epoch());
        r = map_lock(sync);
        if (r < 0) {
                free(sync);
                return r;
        }
        atomic_store(&hold->sync, sync);
        *ret_sync = sync;
        return 0;
}

/* A forked child's: nothing is locked, and the bell is its parent's. */
static void sync_disinherit(struct sync *sync) {
        lockers_disinherit(sync);
        bell_forget(sync, false);
        atomic_store(&sync->epoch, process_epoch());
}

int sync_prepare(struct shmd_segment *segment, bool meeting, struct sync **ret_sync) {
        struct hold *hold = segment->hold;
        struct sync *sync;
        int r = 0;

        (void) pthread_mutex_lock(&process_page->sync_lock);
        sync = atomic_load(&hold->sync);
        if (!sync)
                r = sync_new(hold, &sync);
        else if (atomic_load(&sync->epoch) != process_epoch())
                sync_disinherit(sync);
        if (r == 0 && meeting && !atomic_load(&sync->meeting))
                r = map_meeting(sync);
        (void) pthread_mutex_unlock(&process_page->sync_lock);
        if (r == 0)
                *ret_sync = sync;
        return r;
}

void sync_free(struct sync *sync) {
        void *meeting;

        if (!sync)
                return;
        bell_forget(sync, atomic_load(&sync->epoch) == process_epoch());
        lockers_free(sync);
        meeting = atomic_load(&sync->meeting);
        if (meeting)
                (void) munmap(meeting, SHMD_CONTROL_MEETING_PAGES * sync->page_size);
        (void) munmap(sync->lock_page, SHMD_CONTROL_LOCK_PAGES * sync->page_size);
        free(sync);
}

_public_ int shmd_prepare_locks(struct shmd_segment *segment) {
        struct locker *locker;
        struct sync *sync;
        int r;

        r = sync_get(segment, true, &sync);
        if (r < 0)
                return r;
        r = locker_get(sync, &locker);
        return r < 0 ? failure_errno(&segment->hold->connection->failure, r) : 0;
}
