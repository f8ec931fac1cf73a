/* SPDX-License-Identifier: MIT */
/*
 * The sequence counter of a segment: readers that may not write anything find out whether what they have read is whole.
 *
 * The counter is odd exactly while a writer is at work, who has the exclusive lock then: so a reader sees by that lock's word
 * whether there still is one. There is no memory by which a reader could ask to be woken: it looks again after longer and longer pauses.
 */
#include "sync.h"

#include <string.h>

/* The sanitizer knows no fences: what it would say of data that are read while they are written is meant to be so. */
#if defined(__SANITIZE_THREAD__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#define SPINS 200u
#define PAUSE_MIN_NSEC 20000L
#define PAUSE_MAX_NSEC 1000000L

static unsigned state_of(const struct sync *sync) {
        return atomic_load_explicit(sync->state, memory_order_relaxed);
}

_public_ int shmd_write_begin(struct shmd_segment *segment, uint64_t timeout_usec) {
        unsigned sequence, special = SPECIAL_WRITING;
        struct locker *locker;
        struct lock_page *page;
        struct sync *sync;
        int r;

        r = sync_get(segment, true, &sync);
        if (r == 0)
                r = locker_get(sync, &locker);
        if (r < 0)
                return r;
        locker_remember(segment, locker);
        r = lock_exclusive(locker, timeout_usec);
        if (r == 0 || r == -EOWNERDEAD)
                special |= SPECIAL_WRITE_LOCKED;
        else if (r == -EDEADLK && is_exclusive(locker) && !(locker->special & SPECIAL_WRITING))
                r = state_of(sync) == LOCK_CONSISTENT ? 0 : -EOWNERDEAD;
        else
                return r;

        page = sync->lock_page;
        special_set(locker, locker->special | special);
        sequence = atomic_load_explicit(&page->sequence, memory_order_relaxed);
        if (sequence % 2 == 0) /* else a dead one has begun what we go on with */
                atomic_store_explicit(&page->sequence, sequence + 1, memory_order_relaxed);
        /* Nothing of the data may be seen before the counter is odd. */
        atomic_thread_fence(memory_order_release);
        return r;
}

_public_ int shmd_write_end(struct shmd_segment *segment) {
        struct locker *locker = locker_find(segment);
        struct lock_page *page;
        unsigned sequence, special;

        if (!is_exclusive(locker) || !(locker->special & SPECIAL_WRITING))
                return -EPERM;
        page = locker->sync->lock_page;
        special = locker->special;
        special_set(locker, special & ~(unsigned) (SPECIAL_WRITING | SPECIAL_WRITE_LOCKED));
        sequence = atomic_load_explicit(&page->sequence, memory_order_relaxed);
        if (sequence % 2 != 0 && state_of(locker->sync) == LOCK_CONSISTENT)
                atomic_store_explicit(&page->sequence, sequence + 1, memory_order_release);
        return special & SPECIAL_WRITE_LOCKED ? unlock_exclusive(locker) : 0;
}

/* The counter is odd: whether there is a writer. 0, -EOWNERDEAD, -ENOTRECOVERABLE. */
static int writer_check(const struct sync *sync, unsigned sequence) {
        const struct lock_page *page = sync->lock_page;
        unsigned word = atomic_load_explicit(sync->word, memory_order_acquire);

        if ((word & WORD_TID) != 0 || atomic_load_explicit(&page->sequence, memory_order_acquire) != sequence)
                return 0;
        return state_of(sync) == LOCK_GIVEN_UP ? -ENOTRECOVERABLE : -EOWNERDEAD;
}

static void pause_longer(unsigned round, long *nsec) {
        const struct timespec pause = { .tv_nsec = *nsec };

        if (round < SPINS) {
#if defined(__x86_64__) || defined(__i386__)
                __builtin_ia32_pause();
#endif
                return;
        }
        (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        *nsec = MIN(2 * *nsec, PAUSE_MAX_NSEC);
}

static int begin_by(const struct sync *sync, bool wait, uint64_t timeout_usec, uint32_t *ret_ticket) {
        const struct lock_page *page = sync->lock_page;
        uint64_t deadline = 0;
        long nsec = PAUSE_MIN_NSEC;
        int r;

        for (unsigned round = 0;; round++) {
                unsigned sequence = atomic_load_explicit(&page->sequence, memory_order_acquire);

                if (sequence % 2 == 0) {
                        *ret_ticket = sequence;
                        return 0;
                }
                r = writer_check(sync, sequence);
                if (r < 0)
                        return r;
                if (!wait)
                        return -EBUSY;
                if (round == 0)
                        deadline = deadline_after(timeout_usec);
                else if (deadline != UINT64_MAX && now_usec() >= deadline)
                        return -ETIMEDOUT;
                pause_longer(round, &nsec);
        }
}

_public_ int shmd_read_begin(struct shmd_segment *segment, uint64_t timeout_usec, uint32_t *ret_ticket) {
        struct sync *sync;
        int r;

        r = sync_get(segment, false, &sync);
        return r < 0 ? r : begin_by(sync, timeout_usec > 0, timeout_usec, ret_ticket);
}

static bool must_retry(const struct sync *sync, uint32_t ticket) {
        /* All that was read was read before this. */
        atomic_thread_fence(memory_order_acquire);
        return atomic_load_explicit(&sync->lock_page->sequence, memory_order_relaxed) != ticket;
}

_public_ int shmd_read_retry(struct shmd_segment *segment, uint32_t ticket) {
        struct sync *sync;

        /* It was there at the beginning; a child that was forked in between prepares what it has. */
        return sync_get(segment, false, &sync) < 0 || must_retry(sync, ticket);
}

/* What is copied may change meanwhile: so by loads that the compiler takes for what they are. */
static void copy_racing(void *to, const void *from, size_t size) {
        unsigned char *target = to;
        const unsigned char *source = from;

        for (; size > 0 && (uintptr_t) source % sizeof(unsigned long) != 0; size--)
                *target++ = __atomic_load_n(source++, __ATOMIC_RELAXED);
        for (; size >= sizeof(unsigned long); size -= sizeof(unsigned long)) {
                unsigned long word = __atomic_load_n((const unsigned long *) (const void *) source, __ATOMIC_RELAXED);

                memcpy(target, &word, sizeof(word));
                target += sizeof(word);
                source += sizeof(word);
        }
        for (; size > 0; size--)
                *target++ = __atomic_load_n(source++, __ATOMIC_RELAXED);
}

_public_ int shmd_read_copy(struct shmd_segment *segment, uint64_t offset, void *buffer, size_t size_bytes, uint64_t timeout_usec) {
        const struct hold *hold = segment->hold;
        uint64_t deadline = timeout_usec > 0 ? deadline_after(timeout_usec) : 0;
        uint32_t ticket;
        struct sync *sync;
        int r;

        r = sync_get(segment, false, &sync);
        if (r == 0 && !hold->address)
                r = hold_map(segment->hold);
        if (r < 0)
                return r;
        if (offset > hold->mapped_size || size_bytes > hold->mapped_size - offset || offset + size_bytes > hold->size)
                return -EINVAL;
        for (;;) {
                uint64_t now = timeout_usec > 0 && deadline != UINT64_MAX ? now_usec() : 0;

                r = begin_by(sync, timeout_usec > 0, deadline == UINT64_MAX ? SHMD_FOREVER : deadline - MIN(now, deadline), &ticket);
                if (r < 0)
                        return r;
                copy_racing(buffer, (const char *) hold->address + offset, size_bytes);
                if (!must_retry(sync, ticket))
                        return 0;
                if (timeout_usec == 0)
                        return -EBUSY;
                if (deadline != UINT64_MAX && now_usec() >= deadline)
                        return -ETIMEDOUT;
        }
}
