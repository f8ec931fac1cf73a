/* SPDX-License-Identifier: MIT */
/*
 * The lock of a segment, exclusive and shared, and its condition.
 *
 * Exclusive: a robust mutex in the lock page. Who has it then waits until no slot is locked; nobody locks one meanwhile, as
 * the mutex is. Shared: a robust mutex of one's own, in a slot that nobody else uses; then a look whether the exclusive one is
 * locked: if so, back, and wait. Either side changes its own word before it looks at the other's, and both
 * changes are full barriers: at least one of two that come at once sees the other. Exclusive lockers go first.
 *
 * Death: the kernel marks the words of a thread that has died, and wakes one who waits in the kernel for it. A dead reader's
 * slot is simply free. Of a dead writer the next exclusive holder is told by the mutex, and writes that into the page,
 * until somebody marks it consistent; readers that wait look each DEATH_LATENCY_USEC, as they may not be
 * able to write into the word that they wait for.
 *
 * The condition is a counter that each signal changes, and on which those who wait sleep. pthread_cond_t would not do: a
 * process that dies inside leaves it locked for all others, and it holds state that others could corrupt.
 * Who dies here leaves at most a mark that somebody waits.
 */
#include "sync.h"

#include <limits.h>
#include <signal.h>
#include <sys/syscall.h>

/* Called without a detour, as all are bound at the beginning anyway: a detour is a good part of what there is to do. */
extern __typeof__(pthread_mutex_trylock) pthread_mutex_trylock __attribute__((__noplt__));
extern __typeof__(pthread_mutex_unlock) pthread_mutex_unlock __attribute__((__noplt__));

#define DEATH_LATENCY_USEC UINT64_C(50000)
#define PAUSE_USEC UINT64_C(1000)

static bool word_is_locked(unsigned word) {
        return (word & WORD_TID) != 0;
}

static bool is_over(uint64_t deadline_usec) {
        return deadline_usec != UINT64_MAX && now_usec() >= deadline_usec;
}

/* For what nobody wakes us. */
static void pause_briefly(void) {
        const struct timespec pause = { .tv_nsec = (long) PAUSE_USEC * 1000 };

        (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
}

/* --- who waits, for people to see --- */

static struct lock_waiter *waiter_enter(struct sync *sync, bool shared) {
        unsigned tid = (unsigned) syscall(SYS_gettid);

        for (unsigned pass = 0; pass < 2; pass++)
                for (unsigned i = 0; i < WAITERS_MAX; i++) {
                        struct lock_waiter *waiter = &sync->meeting->waiters[i];
                        unsigned other = atomic_load(&waiter->tid);

                        /* In a second round also the places of the dead. */
                        if (other != 0 && (pass == 0 || kill((pid_t) (other & INT_MAX), 0) == 0 || errno != ESRCH))
                                continue;
                        if (atomic_compare_exchange_strong(&waiter->tid, &other, tid)) {
                                atomic_store(&waiter->shared, shared);
                                return waiter;
                        }
                }
        return NULL;
}

static void waiter_leave(struct lock_waiter *waiter) {
        if (waiter)
                atomic_store(&waiter->tid, 0);
}

/* --- slots: shared locks --- */

/* The one that this thread has locked. */
static struct slot *slot_of(struct sync *sync, unsigned long self) {
        unsigned count = atomic_load_explicit(&sync->slot_count, memory_order_acquire);

        for (unsigned i = 0; i < count; i++)
                if (atomic_load_explicit(&sync->slots[i]->holder, memory_order_relaxed) == self)
                        return sync->slots[i];
        return NULL;
}

static bool slot_trylock(struct sync *sync, struct slot *slot) {
        atomic_uint *used = &sync->meeting->slots_used;
        unsigned value = atomic_load(used);
        int r;

        /* Before it is locked: who looks for locked slots looks at those in use. */
        while (value <= slot->index && !atomic_compare_exchange_weak(used, &value, slot->index + 1))
                ;
        r = pthread_mutex_trylock(slot->lock.mutex);
        if (r == EOWNERDEAD)
                r = pthread_mutex_consistent(slot->lock.mutex);
        return r == 0;
}

static void slot_unlock(struct sync *sync, struct slot *slot) {
        /* Another thread of ours may lock it at once. */
        atomic_store_explicit(&slot->holder, 0, memory_order_relaxed);
        note_unlocking(sync->hot);
        if (pthread_mutex_unlock(slot->lock.mutex) != 0)
                atomic_store_explicit(&slot->holder, SLOT_DEAD, memory_order_relaxed);
}

static bool slot_is_mapped(const struct sync *sync, unsigned index) {
        for (unsigned i = 0; i < sync->slot_count; i++)
                if (sync->slots[i]->index == index)
                        return true;
        return false;
}

/* Maps one that nobody has. 0; -EBUSY: there is none. */
static int slot_add(struct sync *sync, unsigned long self, struct slot **ret_slot) {
        struct slot *slot = calloc(1, sizeof(*slot));
        int r = -EBUSY;

        if (!slot)
                return -ENOMEM;
        for (unsigned i = 0; i < SLOTS && r == -EBUSY; i++) {
                if (slot_is_mapped(sync, i) || word_is_locked(atomic_load(slot_word(sync, sync->meeting, i))))
                        continue;
                slot->index = i;
                atomic_store(&slot->holder, self);
                r = straddled_map(&slot->lock, sync->meeting_fd, (i + 2) * (uint64_t) sync->page_size, sync->page_size, true);
                if (r == 0 && !slot_trylock(sync, slot)) {
                        straddled_unmap(&slot->lock, sync->page_size);
                        r = -EBUSY;
                }
        }
        if (r < 0) {
                free(slot);
                return r;
        }
        sync->slots[sync->slot_count] = slot;
        atomic_store_explicit(&sync->slot_count, sync->slot_count + 1, memory_order_release);
        *ret_slot = slot;
        return 0;
}

/* Locks one. 0; -EBUSY: all are locked; -ENOMEM. */
static int slot_take(struct sync *sync, unsigned long self, struct slot **ret_slot) {
        unsigned count = atomic_load_explicit(&sync->slot_count, memory_order_acquire);
        int r;

        for (unsigned i = 0; i < count; i++) {
                struct slot *slot = sync->slots[i];

                if (atomic_load_explicit(&slot->holder, memory_order_relaxed) == SLOT_DEAD || !slot_trylock(sync, slot))
                        continue;
                atomic_store_explicit(&slot->holder, self, memory_order_relaxed);
                *ret_slot = slot;
                return 0;
        }
        (void) pthread_mutex_lock(&sync->slots_lock);
        r = slot_add(sync, self, ret_slot);
        (void) pthread_mutex_unlock(&sync->slots_lock);
        return r;
}

/* Waits until a slot is free. It is another's, who may write anything there: so the time is looked at each time round. */
static int slot_await(atomic_uint *word, uint64_t deadline_usec) {
        unsigned value = atomic_load(word);

        while (word_is_locked(value)) {
                if (is_over(deadline_usec))
                        return -ETIMEDOUT;
                if (!(value & WORD_WAITERS) && !atomic_compare_exchange_strong(word, &value, value | WORD_WAITERS))
                        continue;
                (void) futex_wait(word, value | WORD_WAITERS, deadline_usec);
                value = atomic_load(word);
        }
        return 0;
}

/* --- exclusive --- */

static bool readers_wait_for_turn(struct hot *hot) {
        barrier_after_locked();
        return atomic_load_explicit(&atomic_load_explicit(&hot->meeting, memory_order_relaxed)->turn_waiting, memory_order_relaxed) != 0;
}

static void wake_readers(struct meeting_page *meeting) {
        atomic_store(&meeting->turn_waiting, 0);
        atomic_fetch_add(&meeting->turn, 1);
        (void) futex_wake(&meeting->turn, INT_MAX);
}

static int mutex_release(struct sync *sync) {
        struct hot *hot = sync->hot;
        int r;

        atomic_store_explicit(&hot->owner, OWNER_NONE, memory_order_relaxed);
        note_unlocking(hot);
        r = pthread_mutex_unlock(sync->lock.mutex);
        if (r != 0) {
                /* The word is not ours any more, says the C library, and has left its list as it is. */
                atomic_store(&sync->broken, true);
                atomic_store(&hot->meeting, NULL);
                return -ENOTRECOVERABLE;
        }
        if (readers_wait_for_turn(hot))
                wake_readers(sync->meeting);
        return 0;
}

#ifndef __SANITIZE_THREAD__
static int mutex_timedlock(pthread_mutex_t *mutex, uint64_t deadline_usec) {
        const struct timespec until = {
                .tv_sec = (time_t) (deadline_usec / 1000000),
                .tv_nsec = (long) (deadline_usec % 1000000 * 1000),
        };

        return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &until);
}
#else
/* ThreadSanitizer of gcc 12 knows nothing of pthread_mutex_clocklock(), and later takes the mutex for unlocked. */
static int mutex_timedlock(pthread_mutex_t *mutex, uint64_t deadline_usec) {
        int r;

        while ((r = pthread_mutex_trylock(mutex)) == EBUSY && !is_over(deadline_usec))
                pause_briefly();
        return r == EBUSY ? ETIMEDOUT : r;
}
#endif

/* EDEADLK can only mean that the word has our number from somebody else: of another pid namespace, or who means ill. */
static int mutex_await(struct sync *sync, uint64_t deadline_usec) {
        int r;

        for (;;) {
                if (deadline_usec == UINT64_MAX)
                        r = pthread_mutex_lock(sync->lock.mutex);
                else
                        r = mutex_timedlock(sync->lock.mutex, deadline_usec);
                if (r != EDEADLK)
                        return r;
                if (is_over(deadline_usec))
                        return ETIMEDOUT;
                pause_briefly();
        }
}

static int mutex_wait(struct sync *sync, uint64_t timeout_usec) {
        struct lock_waiter *waiter;
        int r;

        if (timeout_usec == 0)
                return EBUSY;
        waiter = waiter_enter(sync, false);
        r = mutex_await(sync, deadline_after(timeout_usec));
        waiter_leave(waiter);
        return r;
}

static int readers_wait(struct sync *sync, unsigned first, unsigned used, uint64_t timeout_usec) {
        struct lock_waiter *waiter;
        uint64_t deadline;
        int r = 0;

        if (timeout_usec == 0)
                return -EBUSY;
        deadline = deadline_after(timeout_usec);
        waiter = waiter_enter(sync, false);
        for (unsigned i = first; i < used && r == 0; i++)
                r = slot_await(slot_word(sync, sync->meeting, i), deadline);
        waiter_leave(waiter);
        return r;
}

static int readers_await(struct sync *sync, uint64_t timeout_usec) {
        struct meeting_page *meeting = sync->meeting;
        unsigned used;

        barrier_after_locked();
        used = atomic_load_explicit(&meeting->slots_used, memory_order_acquire);
        used = MIN(used, SLOTS);
        /* A thread that shares the lock would wait for itself. */
        if (used > 0 && slot_of(sync, thread_self()))
                return -EDEADLK;
        for (unsigned i = 0; i < used; i++)
                if (word_is_locked(atomic_load_explicit(slot_word(sync, meeting, i), memory_order_acquire)))
                        return readers_wait(sync, i, used, timeout_usec);
        return 0;
}

/* A holder died: noted, before anybody can read it, in case we die, too. */
static int mutex_recover(struct sync *sync) {
        unsigned consistent = LOCK_CONSISTENT;

        (void) pthread_mutex_consistent(sync->lock.mutex);
        (void) atomic_compare_exchange_strong(sync->state, &consistent, LOCK_DIRTY);
        return 0;
}

static int state_result(unsigned state) {
        if (state == LOCK_CONSISTENT)
                return 0;
        return state == LOCK_DIRTY ? -EOWNERDEAD : -ENOTRECOVERABLE;
}

/* What the attempt to lock the mutex has brought, made an end of. */
static int mutex_settle(struct sync *sync, int error, uint64_t timeout_usec) {
        if (error == EDEADLK && is_owner(sync))
                return -EDEADLK;
        if (error == EBUSY || error == EDEADLK)
                error = mutex_wait(sync, timeout_usec);
        if (error == 0)
                return 0;
        if (error == EOWNERDEAD)
                return mutex_recover(sync);
        return error == ETIMEDOUT || error == EBUSY ? -error : -ENOTRECOVERABLE;
}

/* The same once it is locked. */
static int exclusive_settle(struct sync *sync, uint64_t timeout_usec) {
        struct hot *hot = sync->hot;
        int r;

        r = readers_await(sync, timeout_usec);
        if (r == 0) {
                note_locked(hot);
                atomic_store_explicit(&hot->owner, thread_self(), memory_order_relaxed);
                r = state_result(atomic_load_explicit(sync->state, memory_order_relaxed));
                if (r == -EOWNERDEAD)
                        special_set(sync, SPECIAL_DIRTY);
                if (r != -ENOTRECOVERABLE)
                        return r;
        }
        (void) mutex_release(sync);
        return r;
}

int lock_exclusive(struct sync *sync, uint64_t timeout_usec) {
        int r;

        if (!sync->writable)
                return -EACCES;
        if (atomic_load_explicit(&sync->broken, memory_order_relaxed))
                return -ENOTRECOVERABLE;
        r = mutex_settle(sync, pthread_mutex_trylock(sync->lock.mutex), timeout_usec);
        return r < 0 ? r : exclusive_settle(sync, timeout_usec);
}

int unlock_exclusive(struct sync *sync) {
        /* As POSIX has it: who was told and did not mark it consistent gives it up for all. */
        if (special_of(sync) & SPECIAL_DIRTY)
                atomic_store(sync->state, LOCK_GIVEN_UP);
        return mutex_release(sync);
}

/* --- shared --- */

/* With a slot locked: 0, -EOWNERDEAD, -ENOTRECOVERABLE, or -EBUSY: it is another's, exclusively. */
static int shared_result(struct sync *sync) {
        unsigned word;

        barrier_after_locked();
        word = atomic_load_explicit(sync->lock.word, memory_order_seq_cst);
        if (word_is_locked(word))
                return -EBUSY;
        note_locked(sync->hot);
        if ((word & WORD_OWNER_DIED) && atomic_load(sync->state) == LOCK_CONSISTENT)
                return -EOWNERDEAD;
        return state_result(atomic_load_explicit(sync->state, memory_order_acquire));
}

/* Until the exclusive lock may be free. */
static int turn_await(struct sync *sync, uint64_t deadline_usec) {
        struct meeting_page *meeting = sync->meeting;
        unsigned turn = atomic_load(&meeting->turn);

        if (is_over(deadline_usec))
                return -ETIMEDOUT;
        atomic_store(&meeting->turn_waiting, 1);
        if (word_is_locked(atomic_load(sync->lock.word)))
                (void) futex_wait(&meeting->turn, turn, MIN(deadline_usec, now_usec() + DEATH_LATENCY_USEC));
        return 0;
}

static int shared_try(struct sync *sync, unsigned long self, bool *ret_full) {
        struct slot *slot;
        int r;

        r = slot_take(sync, self, &slot);
        *ret_full = r == -EBUSY;
        if (r < 0)
                return r;
        r = shared_result(sync);
        if (r != 0 && r != -EOWNERDEAD)
                slot_unlock(sync, slot);
        return r;
}

__attribute__((__noinline__)) static int shared_wait(struct sync *sync, unsigned long self, bool full, uint64_t timeout_usec) {
        uint64_t deadline = deadline_after(timeout_usec);
        struct lock_waiter *waiter = waiter_enter(sync, true);
        int r = -EBUSY;

        while (r == -EBUSY) {
                if (full)
                        pause_briefly();
                r = turn_await(sync, deadline);
                if (r == 0)
                        r = shared_try(sync, self, &full);
        }
        waiter_leave(waiter);
        return r;
}

static int lock_shared(struct sync *sync, uint64_t timeout_usec) {
        unsigned long self = thread_self();
        bool full;
        int r;

        if (is_owner(sync) || slot_of(sync, self))
                return -EDEADLK;
        r = shared_try(sync, self, &full);
        return r == -EBUSY && timeout_usec > 0 ? shared_wait(sync, self, full, timeout_usec) : r;
}

/* --- both --- */

__attribute__((__noinline__)) static int lock_by(struct shmd_segment *segment, unsigned flags, uint64_t timeout_usec) {
        struct sync *sync;
        int r;

        r = sync_get(segment, true, &sync);
        if (r < 0)
                return r;
        if (flags == SHMD_LOCK_EXCLUSIVE)
                return lock_exclusive(sync, timeout_usec);
        return flags == SHMD_LOCK_SHARED ? lock_shared(sync, timeout_usec) : -EINVAL;
}

__attribute__((__noinline__)) static int lock_go_on(struct sync *sync, int error, uint64_t timeout_usec) {
        int r = mutex_settle(sync, error, timeout_usec);

        return r < 0 ? r : exclusive_settle(sync, timeout_usec);
}

/* With nothing in the way, this is all there is to do: half of it or more is the C library's part. */
_public_ int shmd_lock(struct shmd_segment *segment, unsigned flags, uint64_t timeout_usec) {
        struct hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);
        unsigned long self = thread_serial;
        struct meeting_page *meeting;
        int error;

        meeting = atomic_load_explicit(&hot->meeting, memory_order_acquire);
        if (__builtin_expect(flags != SHMD_LOCK_EXCLUSIVE || !meeting || self == THREAD_UNKNOWN, 0))
                return lock_by(segment, flags, timeout_usec);

        error = pthread_mutex_trylock(hot_mutex(hot));
        if (__builtin_expect(error != 0, 0))
                return lock_go_on(hot->sync, error, timeout_usec);
        barrier_after_locked();
        if (__builtin_expect(atomic_load_explicit(&meeting->slots_used, memory_order_acquire) != 0 ||
                                     atomic_load_explicit(hot_state(hot), memory_order_relaxed) != LOCK_CONSISTENT, 0))
                return lock_go_on(hot->sync, 0, timeout_usec);
        note_locked(hot);
        atomic_store_explicit(&hot->owner, self, memory_order_relaxed);
        return 0;
}

__attribute__((__noinline__)) static int unlock_by(struct shmd_segment *segment) {
        struct sync *sync = sync_existing(segment);
        struct slot *slot;

        if (!sync)
                return -EPERM;
        if (is_owner(sync))
                return special_of(sync) & SPECIAL_WRITING ? -EBUSY : unlock_exclusive(sync);
        slot = slot_of(sync, thread_self());
        if (!slot)
                return -EPERM;
        slot_unlock(sync, slot);
        return 0;
}

__attribute__((__noinline__)) static int unlock_go_on(struct sync *sync, int error) {
        if (error == 0) {
                wake_readers(sync->meeting);
                return 0;
        }
        /* As in mutex_release(). */
        atomic_store(&sync->broken, true);
        atomic_store(&sync->hot->meeting, NULL);
        return -ENOTRECOVERABLE;
}

_public_ int shmd_unlock(struct shmd_segment *segment) {
        struct hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);
        int r;

        if (__builtin_expect(atomic_load_explicit(&hot->owner, memory_order_relaxed) != thread_serial, 0))
                return unlock_by(segment);
        atomic_store_explicit(&hot->owner, OWNER_NONE, memory_order_relaxed);
        note_unlocking(hot);
        r = pthread_mutex_unlock(hot_mutex(hot));
        if (__builtin_expect(r == 0 && !readers_wait_for_turn(hot), 1))
                return 0;
        return unlock_go_on(hot->sync, r);
}

_public_ int shmd_mark_consistent(struct shmd_segment *segment) {
        struct sync *sync = sync_existing(segment);
        struct lock_page *page;

        if (!is_owner(sync))
                return -EPERM;
        page = sync->lock_page;
        if (atomic_load(sync->state) != LOCK_DIRTY)
                return -EINVAL;
        /* What the dead one began to write is written. */
        if (!(special_of(sync) & SPECIAL_WRITING) && atomic_load(&page->sequence) % 2 != 0)
                atomic_fetch_add(&page->sequence, 1);
        atomic_store(sync->state, LOCK_CONSISTENT);
        special_set(sync, special_of(sync) & ~(unsigned) SPECIAL_DIRTY);
        return 0;
}

/* A word that is locked, and not by who died. */
static bool straddled_is_locked(const struct straddled *lock) {
        return word_is_locked(atomic_load(lock->word));
}

bool lock_abandon(struct sync *sync) {
        unsigned long self = thread_self();
        bool left = atomic_load(&sync->broken);
        unsigned consistent = LOCK_CONSISTENT;

        if (is_owner(sync)) {
                (void) atomic_compare_exchange_strong(sync->state, &consistent, LOCK_DIRTY);
                left |= mutex_release(sync) < 0;
        } else if (atomic_load(&sync->hot->owner) != OWNER_NONE)
                left |= straddled_is_locked(&sync->lock);
        for (unsigned i = 0; i < atomic_load(&sync->slot_count); i++) {
                struct slot *slot = sync->slots[i];

                if (atomic_load(&slot->holder) == self)
                        slot_unlock(sync, slot);
                left |= atomic_load(&slot->holder) == SLOT_DEAD ||
                        (atomic_load(&slot->holder) != 0 && straddled_is_locked(&slot->lock));
        }
        return left;
}

void lock_forget(struct sync *sync) {
        atomic_store(&sync->hot->owner, OWNER_NONE);
        atomic_store(&sync->broken, false);
        for (unsigned i = 0; i < atomic_load(&sync->slot_count); i++)
                atomic_store(&sync->slots[i]->holder, 0);
}

/* --- condition --- */

_public_ int shmd_condition_wait(struct shmd_segment *segment, uint64_t timeout_usec) {
        struct sync *sync = sync_existing(segment);
        struct lock_page *page;
        unsigned value;
        bool exclusive;
        int r, waited;

        exclusive = is_owner(sync);
        if (!exclusive && (!sync || !slot_of(sync, thread_self())))
                return -EPERM;
        page = sync->lock_page;
        if (exclusive && special_of(sync) != 0)
                return -EINVAL;
        /* Noted while nobody can signal. */
        value = atomic_load(&page->condition);
        atomic_store(sync->writable ? &page->condition_waiting : &sync->meeting->condition_waiting, 1);
        r = shmd_unlock(segment);
        if (r < 0)
                return r;
        waited = timeout_usec == 0 ? -ETIMEDOUT : futex_wait(&page->condition, value, deadline_after(timeout_usec));
        r = exclusive ? lock_exclusive(sync, SHMD_FOREVER) : lock_shared(sync, SHMD_FOREVER);
        return r != 0 ? r : waited;
}

static int condition_wake(struct shmd_segment *segment, int count) {
        struct sync *sync = sync_existing(segment);
        struct lock_page *page;

        if (!is_owner(sync))
                return -EPERM;
        page = sync->lock_page;
        atomic_fetch_add(&page->condition, 1);
        if (atomic_load(&page->condition_waiting) == 0 && atomic_load(&sync->meeting->condition_waiting) == 0)
                return 0;
        /* Who has noted that he waits, and does not sleep yet, will see the counter. */
        if (futex_wake(&page->condition, count) < count) {
                atomic_store(&page->condition_waiting, 0);
                atomic_store(&sync->meeting->condition_waiting, 0);
        }
        return 0;
}

_public_ int shmd_condition_signal(struct shmd_segment *segment) {
        return condition_wake(segment, 1);
}

_public_ int shmd_condition_broadcast(struct shmd_segment *segment) {
        return condition_wake(segment, INT_MAX);
}
