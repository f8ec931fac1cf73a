/* SPDX-License-Identifier: MIT */
/*
 * The control memory of a segment, mapped: sync.h says what it is.
 *
 * Owns the mappings. They are made under a lock of the process and then never change until the hold ends, so that threads use
 * them without one. In a forked child the private pages are a copy of the parent's: they are set up anew at first use.
 */
#include "sync.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

_Static_assert(sizeof(atomic_uint) == 4, "a lock word has 32 bits");
_Static_assert(sizeof(struct meeting_page) <= 4096, "the first meeting page");
_Static_assert(SHMD_BELLS * sizeof(struct bell_words) <= 4096, "the second");

struct hot hot_none;
_Thread_local unsigned long thread_serial = THREAD_UNKNOWN;

unsigned long thread_serial_new(void) {
        static atomic_ulong last;

        thread_serial = (atomic_fetch_add(&last, 1) + 1) * (SPECIAL_ALL + 1);
        return thread_serial;
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

/* --- mutexes --- */

/* What the private part of each mutex is copied from. */
static struct {
        pthread_mutex_t mutex;
        bool usable;
} model;

/* Whether the first word is the lock word, and of all in front of the private part the only one that matters. */
static bool mutex_is_as_expected(void) {
        pthread_mutex_t mutex = model.mutex;
        uint32_t words[2];
        bool good;

        if (pthread_mutex_lock(&mutex) != 0)
                return false;
        memcpy(words, &mutex, sizeof(words));
        good = words[0] == (uint32_t) syscall(SYS_gettid);
        words[1] = 0xabcdef01u; /* somebody scribbles */
        memcpy(&mutex, words, sizeof(words));
        if (pthread_mutex_trylock(&mutex) != EDEADLK || pthread_mutex_unlock(&mutex) != 0)
                good = false;
        memcpy(words, &mutex, sizeof(words));
        return good && words[0] == 0;
}

static void model_init(void) {
        pthread_mutexattr_t attributes;

        if (pthread_mutexattr_init(&attributes) != 0)
                return;
        if (pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
            pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
            pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK) == 0 &&
            pthread_mutex_init(&model.mutex, &attributes) == 0)
                model.usable = mutex_is_as_expected();
        (void) pthread_mutexattr_destroy(&attributes);
}

static bool mutexes_are_usable(void) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        (void) pthread_once(&once, model_init);
        return model.usable;
}

static void straddled_set_up(struct straddled *straddled) {
        memcpy((char *) straddled->mutex + WORD_FROM_END, (const char *) &model.mutex + WORD_FROM_END,
               sizeof(model.mutex) - WORD_FROM_END);
}

int straddled_map(struct straddled *straddled, int fd, uint64_t offset, size_t page_size, bool writable) {
        int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
        char *pages;

        pages = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED)
                return negative_errno();
        if (mmap(pages, page_size, protection, MAP_SHARED | MAP_FIXED, fd, (off_t) offset) == MAP_FAILED) {
                int r = negative_errno();

                (void) munmap(pages, 2 * page_size);
                return r;
        }
        straddled->pages = pages;
        straddled->word = (atomic_uint *) (void *) (pages + page_size - WORD_FROM_END);
        straddled->mutex = writable ? (pthread_mutex_t *) (void *) (pages + page_size - WORD_FROM_END) : NULL;
        if (writable && model.usable)
                straddled_set_up(straddled);
        return 0;
}

void straddled_unmap(struct straddled *straddled, size_t page_size) {
        if (straddled->pages)
                (void) munmap(straddled->pages, 2 * page_size);
        straddled->pages = NULL;
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

static void sync_unmap(struct sync *sync) {
        struct meeting_page *meeting = atomic_load(&sync->meeting);

        straddled_unmap(&sync->lock, sync->page_size);
        for (unsigned i = 0; i < atomic_load(&sync->slot_count); i++)
                straddled_unmap(&sync->slots[i]->lock, sync->page_size);
        if (meeting)
                (void) munmap(meeting, SHMD_CONTROL_MEETING_PAGES * sync->page_size);
}

/* When the private page is new, or was copied or wiped by a fork. */
static void hot_set_up(struct sync *sync) {
        struct meeting_page *meeting = atomic_load(&sync->meeting);

        if (sync->lock.mutex && model.usable)
                straddled_set_up(&sync->lock);
        sync->hot->sync = sync;
        atomic_store(&sync->hot->owner, OWNER_NONE);
        atomic_store_explicit(&sync->hot->meeting, sync->lock.mutex ? meeting : NULL, memory_order_release);
}

static int map_lock(struct sync *sync) {
        uint64_t size = SHMD_CONTROL_LOCK_PAGES * sync->page_size;
        struct shmd_wire_control_reply control;
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = call_control(sync->hold, SHMD_WIRE_CONTROL_LOCK, size, &control, &fd);
        if (r < 0)
                return r;
        sync->writable = control.writable;
        r = straddled_map(&sync->lock, fd, 0, sync->page_size, sync->writable);
        if (r < 0)
                return failure_errno(&sync->hold->connection->failure, r);
        sync->lock_page = (struct lock_page *) (void *) sync->lock.pages;
        sync->state = (atomic_uint *) (void *) (sync->lock.pages + sync->page_size - STATE_FROM_END);
        sync->hot = (struct hot *) (void *) (sync->lock.pages + sync->page_size + HOT_OFFSET);
        if (madvise(sync->lock.pages + sync->page_size, sync->page_size, MADV_WIPEONFORK) < 0) { /* Linux before 4.14 */
                straddled_unmap(&sync->lock, sync->page_size);
                return failure_words(&sync->hold->connection->failure, -ENOTSUP, "the kernel is too old for locks");
        }
        hot_set_up(sync);
        return 0;
}

static int map_meeting(struct sync *sync) {
        size_t size = SHMD_CONTROL_MEETING_PAGES * sync->page_size;
        struct shmd_wire_control_reply control;
        _cleanup_close_ int fd = -EBADF;
        void *address;
        int r;

        if (!mutexes_are_usable())
                return failure_words(&sync->hold->connection->failure, -ENOTSUP, "this C library's mutexes are of another kind");
        r = call_control(sync->hold, SHMD_WIRE_CONTROL_MEETING, size, &control, &fd);
        if (r < 0)
                return r;
        address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (address == MAP_FAILED)
                return failure_errno(&sync->hold->connection->failure, negative_errno());
        sync->meeting_fd = TAKE_FD(fd);
        atomic_store(&sync->meeting, address);
        hot_set_up(sync);
        return 0;
}

static int sync_new(struct hold *hold, struct sync **ret_sync) {
        struct sync *sync = calloc(1, sizeof(*sync));
        int r;

        if (!sync)
                return failure_errno(&hold->connection->failure, -ENOMEM);
        sync->hold = hold;
        sync->page_size = (size_t) sysconf(_SC_PAGESIZE);
        sync->meeting_fd = sync->bell_fd = -EBADF;
        (void) pthread_mutex_init(&sync->slots_lock, NULL);
        atomic_store(&sync->epoch, process_epoch());
        (void) mutexes_are_usable(); /* the model has to be there */
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
        (void) pthread_mutex_init(&sync->slots_lock, NULL);
        for (unsigned i = 0; i < atomic_load(&sync->slot_count); i++)
                straddled_set_up(&sync->slots[i]->lock);
        lock_forget(sync);
        hot_set_up(sync);
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
        if (r == 0) {
                atomic_store_explicit(&segment->hot, sync->hot, memory_order_release);
                *ret_sync = sync;
        }
        (void) pthread_mutex_unlock(&process_page->sync_lock);
        return r;
}

void sync_free(struct sync *sync) {
        bool own;

        if (!sync)
                return;
        own = atomic_load(&sync->epoch) == process_epoch();
        bell_forget(sync, own);
        sync->meeting_fd = close_fd(sync->meeting_fd);
        /* The kernel's list of what another thread holds goes through these pages: then they stay. */
        if (!own || !lock_abandon(sync))
                sync_unmap(sync);
        for (unsigned i = 0; i < atomic_load(&sync->slot_count); i++)
                free(sync->slots[i]);
        free(sync);
}

_public_ int shmd_prepare_locks(struct shmd_segment *segment) {
        struct sync *sync;

        return sync_get(segment, true, &sync);
}
