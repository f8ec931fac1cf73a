/* SPDX-License-Identifier: MIT */
/*
 * The lock of a segment, exclusive and shared, and its condition.
 *
 * Exclusive: a robust mutex in the lock page. Who has it then waits until no slot is locked; nobody locks one meanwhile, as
 * the mutex is. Shared: a robust mutex in a slot that nobody else has locked; then a look whether the exclusive one is
 * locked: if so, back, and wait. Either side changes its own word before it looks at the other's, and both
 * changes are full barriers: at least one of two that come at once sees the other. Exclusive lockers go first; but who let
 * go while others waited to share the lock lets one of them in before it takes it again, so that a stream of
 * exclusive lockers comes to an end.
 *
 * Death: the kernel marks the words of a thread that has died, and wakes one who waits in the kernel for it. A dead reader's
 * slot is simply free. Of a dead writer the next exclusive holder is told by the mutex, and writes that into the page,
 * until somebody marks it consistent; readers that wait look each DEATH_LATENCY_USEC, as they may not be
 * able to write into the word that they wait for. Who waits for a word that he can write looks now and then, too: a wake-up is lost if
 * who was to pass it on dies, and a third one has the lock by then; the kernel keeps its hands off that (its handle_futex_death()).
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
#if __has_attribute(__noplt__)
extern __typeof__(pthread_mutex_trylock) pthread_mutex_trylock __attribute__((__noplt__));
extern __typeof__(pthread_mutex_unlock) pthread_mutex_unlock __attribute__((__noplt__));
#endif

#define DEATH_LATENCY_USEC UINT64_C(50000)
#define DEATH_LATENCY_MAX_USEC UINT64_C(1000000) /* for who has waited for long */
#define PAUSE_USEC UINT64_C(1000)
#define STAND_BACK_USEC UINT64_C(10000) /* who was woken to share the lock may have died */

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

/* How long one call may wait, whatever for. */
struct lock_wait {
        uint64_t timeout_usec;
        uint64_t deadline_usec; /* 0: the clock was not looked at yet */
};

static uint64_t deadline_of(struct lock_wait *wait) {
        if (wait->deadline_usec == 0)
                wait->deadline_usec = deadline_after(wait->timeout_usec);
        return wait->deadline_usec;
}

/* --- who waits, for people to see --- */

static struct lock_waiter *waiter_enter(struct sync *sync, unsigned kind) {
        unsigned tid = (unsigned) syscall(SYS_gettid);

        for (unsigned i = 0; i < WAITERS_MAX; i++) {
                struct lock_waiter *waiter = &sync->meeting->waiters[(tid + i) % WAITERS_MAX];
                unsigned other = atomic_load(&waiter->tid);

                /* The places of the dead are free, too. */
                if (other != 0 && (kill((pid_t) (other & INT_MAX), 0) == 0 || errno != ESRCH))
                        continue;
                if (atomic_compare_exchange_strong(&waiter->tid, &other, tid)) {
                        atomic_store(&waiter->kind, kind);
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

static bool slot_trylock(const struct locker *locker, const struct slot *slot) {
        atomic_uint *used = &hot_meeting(locker->hot)->slots_used;
        unsigned value = atomic_load(used);
        int r;

        if (slot->broken)
                return false;
        /* Before it is locked: who looks for locked slots looks at those in use. */
        while (value <= slot->index && !atomic_compare_exchange_weak(used, &value, slot->index + 1))
                ;
        r = pthread_mutex_trylock(slot->lock.mutex);
        if (r == EOWNERDEAD)
                r = pthread_mutex_consistent(slot->lock.mutex);
        return r == 0;
}

/* Locks one; the next time this one is tried first. 0; -EBUSY: all are locked; -ENOMEM. */
static int slot_take(struct locker *locker) {
        struct slot *slot = locker->slots;

        while (slot && !slot_trylock(locker, slot))
                slot = slot->next;
        while (!slot) {
                int r = locker_add_slot(locker, &slot);

                if (r < 0)
                        return r;
                if (!slot_trylock(locker, slot))
                        slot = NULL;
        }
        locker->hot->slot = slot;
        locker->hot->slot_mutex = slot->lock.mutex;
        return 0;
}

/* Somebody has scribbled over it: it stays in the C library's list. */
static void slot_break(struct hot *hot) {
        hot->slot->broken = true;
        hot->slot = NULL;
        hot->slot_mutex = NULL;
}

static inline void slot_release(struct hot *hot) {
        hot_set_state(hot, hot->idle);
        note_unlocking(hot);
        if (__builtin_expect(pthread_mutex_unlock(hot->slot_mutex) != 0, 0))
                slot_break(hot);
}

/*
 * Waits until a slot is free. It is another's, who may write anything there, or die over it: so the time is looked at each time round, and
 * the slot now and then.
 */
static int slot_await(atomic_uint *word, uint64_t deadline_usec) {
        uint64_t look_after = DEATH_LATENCY_USEC;
        unsigned value = atomic_load(word);

        while (word_is_locked(value)) {
                if (is_over(deadline_usec))
                        return -ETIMEDOUT;
                if (!(value & WORD_WAITERS) && !atomic_compare_exchange_strong(word, &value, value | WORD_WAITERS))
                        continue;
                (void) futex_wait(word, value | WORD_WAITERS, MIN(deadline_usec, now_usec() + look_after));
                look_after = MIN(2 * look_after, DEATH_LATENCY_MAX_USEC);
                value = atomic_load(word);
        }
        return 0;
}

/* --- exclusive --- */

/* By who has the exclusive lock, when nobody shares it: so nobody is about to note that he waits. */
static void condition_change(struct sync *sync, int count) {
        struct lock_page *page = sync->lock_page;

        atomic_fetch_add(&page->condition, 1);
        if (atomic_load(&page->condition_waiting) == 0 && atomic_load(&sync->meeting->condition_waiting) == 0)
                return;
        /* Who has noted that he waits, and does not sleep yet, will see the counter. */
        if (futex_wake(&page->condition, count) < count) {
                atomic_store(&page->condition_waiting, 0);
                atomic_store(&sync->meeting->condition_waiting, 0);
        }
}

static inline unsigned readers_wait_for_turn(struct hot *hot) {
        barrier_after_locked();
        return atomic_load_explicit(&hot_meeting(hot)->turn_waiting, memory_order_relaxed);
}

static void readers_wake(struct locker *locker) {
        struct meeting_page *meeting = hot_meeting(locker->hot);

        locker->turns_taken = atomic_load(&meeting->turns_taken);
        locker->stands_back = true;
        hot_set_state(locker->hot, HOT_IDLE);
        atomic_store(&meeting->turn_waiting, 0);
        atomic_fetch_add(&meeting->turn, 1);
        (void) futex_wake(&meeting->turn, INT_MAX);
}

/* Until one of those that were woken has the lock. */
static void stand_back(struct locker *locker, struct lock_wait *wait) {
        struct hot *hot = locker->hot;
        uint64_t until;

        locker->stands_back = false;
        hot_set_state(hot, hot->idle);
        if (wait->timeout_usec == 0)
                return;
        until = now_usec() + STAND_BACK_USEC;
        (void) futex_wait(&hot_meeting(hot)->turns_taken, locker->turns_taken, MIN(until, deadline_of(wait)));
}

/* The mutex is unlocked, or was not ours any more, says the C library, and then has left its list as it is. */
static int mutex_released(struct locker *locker, int error) {
        if (error != 0) {
                locker->broken = true;
                locker->hot->idle = HOT_IDLE;
                hot_set_state(locker->hot, HOT_IDLE);
                return -ENOTRECOVERABLE;
        }
        if (readers_wait_for_turn(locker->hot) != 0)
                readers_wake(locker);
        return 0;
}

static int mutex_release(struct locker *locker) {
        locker->special = 0;
        hot_set_state(locker->hot, locker->hot->idle);
        note_unlocking(locker->hot);
        return mutex_released(locker, pthread_mutex_unlock(locker->lock.mutex));
}

#ifndef __SANITIZE_THREAD__
static int mutex_timedlock(pthread_mutex_t *mutex, uint64_t deadline_usec) {
        const struct timespec until = {
                .tv_sec = (time_t) MIN(deadline_usec / 1000000, (uint64_t) LONG_MAX),
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
static int mutex_await(const struct locker *locker, uint64_t deadline_usec) {
        uint64_t look_after = DEATH_LATENCY_USEC;
        int r;

        for (;;) {
                r = mutex_timedlock(locker->lock.mutex, MIN(deadline_usec, now_usec() + look_after));
                if (r != EDEADLK && r != ETIMEDOUT)
                        return r;
                if (is_over(deadline_usec))
                        return ETIMEDOUT;
                if (r == EDEADLK)
                        pause_briefly();
                else
                        look_after = MIN(2 * look_after, DEATH_LATENCY_MAX_USEC);
        }
}

static int mutex_wait(struct locker *locker, struct lock_wait *wait) {
        struct lock_waiter *waiter;
        int r;

        if (wait->timeout_usec == 0)
                return EBUSY;
        waiter = waiter_enter(locker->sync, 0);
        r = mutex_await(locker, deadline_of(wait));
        waiter_leave(waiter);
        return r;
}

static int readers_wait(struct sync *sync, unsigned first, unsigned used, struct lock_wait *wait) {
        struct lock_waiter *waiter;
        int r = 0;

        if (wait->timeout_usec == 0)
                return -EBUSY;
        waiter = waiter_enter(sync, 0);
        for (unsigned i = first; i < used && r == 0; i++)
                r = slot_await(slot_word(sync, sync->meeting, i), deadline_of(wait));
        waiter_leave(waiter);
        return r;
}

static int readers_await(struct locker *locker, struct lock_wait *wait) {
        struct sync *sync = locker->sync;
        struct meeting_page *meeting = sync->meeting;
        unsigned used;

        barrier_after_locked();
        used = atomic_load_explicit(&meeting->slots_used, memory_order_acquire);
        used = MIN(used, SLOTS);
        for (unsigned i = 0; i < used; i++)
                if (word_is_locked(atomic_load_explicit(slot_word(sync, meeting, i), memory_order_acquire)))
                        return readers_wait(sync, i, used, wait);
        return 0;
}

/* A holder died: noted, before anybody can read it, in case we die, too. */
static void mutex_recover(struct locker *locker) {
        struct sync *sync = locker->sync;
        unsigned consistent = LOCK_CONSISTENT;

        (void) pthread_mutex_consistent(locker->lock.mutex);
        (void) atomic_compare_exchange_strong(sync->state, &consistent, LOCK_DIRTY);
}

static int state_result(unsigned state) {
        if (state == LOCK_CONSISTENT)
                return 0;
        return state == LOCK_DIRTY ? -EOWNERDEAD : -ENOTRECOVERABLE;
}

/* What the attempt to lock the mutex has brought, made an end of. */
static int mutex_settle(struct locker *locker, int error, struct lock_wait *wait) {
        if (error == EBUSY || error == EDEADLK)
                error = mutex_wait(locker, wait);
        if (error == EOWNERDEAD) {
                mutex_recover(locker);
                return 0;
        }
        if (error == 0)
                return 0;
        return error == ETIMEDOUT || error == EBUSY ? -error : -ENOTRECOVERABLE;
}

/* The same for all that comes after it. */
static int exclusive_settle(struct locker *locker, int error, struct lock_wait *wait) {
        int r = mutex_settle(locker, error, wait);

        if (r < 0) {
                hot_set_state(locker->hot, locker->hot->idle);
                return r;
        }
        r = readers_await(locker, wait);
        if (r == 0) {
                note_locked(locker->hot);
                r = state_result(atomic_load_explicit(locker->sync->state, memory_order_relaxed));
                special_set(locker, r == 0 ? 0 : SPECIAL_DIRTY);
                /* Who was to signal it may be the one who has died: those who wait are to find out. */
                if (r == -EOWNERDEAD)
                        condition_change(locker->sync, INT_MAX);
                if (r != -ENOTRECOVERABLE)
                        return r;
        }
        (void) mutex_release(locker);
        return r;
}

int lock_exclusive(struct locker *locker, uint64_t timeout_usec) {
        struct lock_wait wait = { .timeout_usec = timeout_usec };

        if (!locker->sync->writable)
                return -EACCES;
        /* Before the word is looked at, which might say anything. */
        if (hot_state(locker->hot) > HOT_IDLE)
                return -EDEADLK;
        if (locker->broken)
                return -ENOTRECOVERABLE;
        if (locker->stands_back)
                stand_back(locker, &wait);
        return exclusive_settle(locker, pthread_mutex_trylock(locker->lock.mutex), &wait);
}

int unlock_exclusive(struct locker *locker) {
        /* As POSIX has it: who was told and did not mark it consistent gives it up for all. */
        if (locker->special & SPECIAL_DIRTY) {
                atomic_store(locker->sync->state, LOCK_GIVEN_UP);
                condition_change(locker->sync, INT_MAX);
        }
        return mutex_release(locker);
}

/* --- shared --- */

/* With a slot locked: 0, -EOWNERDEAD, -ENOTRECOVERABLE, or -EBUSY: it is another's, exclusively. */
static int shared_result(const struct sync *sync) {
        unsigned word;

        barrier_after_locked();
        word = atomic_load_explicit(sync->word, memory_order_seq_cst);
        if (word_is_locked(word))
                return -EBUSY;
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
        if (word_is_locked(atomic_load(sync->word)))
                (void) futex_wait(&meeting->turn, turn, MIN(deadline_usec, now_usec() + DEATH_LATENCY_USEC));
        return 0;
}

/* With a slot locked. */
static int shared_settle(struct locker *locker) {
        int r = shared_result(locker->sync);

        if (r == 0 || r == -EOWNERDEAD) {
                note_locked(locker->hot);
                hot_set_state(locker->hot, HOT_SHARED);
        } else
                slot_release(locker->hot);
        return r;
}

static int shared_try(struct locker *locker, bool *ret_full) {
        int r = slot_take(locker);

        *ret_full = r == -EBUSY;
        return r < 0 ? r : shared_settle(locker);
}

__attribute__((__noinline__)) static int shared_wait(struct locker *locker, bool full, uint64_t timeout_usec) {
        struct lock_waiter *waiter = waiter_enter(locker->sync, WAITER_SHARED);
        struct meeting_page *meeting = hot_meeting(locker->hot);
        uint64_t deadline = deadline_after(timeout_usec);
        int r = -EBUSY;

        while (r == -EBUSY) {
                if (full)
                        pause_briefly();
                r = turn_await(locker->sync, deadline);
                if (r == 0)
                        r = shared_try(locker, &full);
        }
        waiter_leave(waiter);
        atomic_fetch_add(&meeting->turns_taken, 1);
        (void) futex_wake(&meeting->turns_taken, INT_MAX);
        return r;
}

static int lock_shared(struct locker *locker, uint64_t timeout_usec) {
        bool full;
        int r;

        if (hot_state(locker->hot) > HOT_IDLE)
                return -EDEADLK;
        r = shared_try(locker, &full);
        return r == -EBUSY && timeout_usec > 0 ? shared_wait(locker, full, timeout_usec) : r;
}

/* --- both --- */

__attribute__((__noinline__)) static int lock_by(struct shmd_segment *segment, unsigned flags, uint64_t timeout_usec) {
        struct locker *locker;
        struct sync *sync;
        int r;

        r = sync_get(segment, true, &sync);
        if (r == 0)
                r = locker_get(sync, &locker);
        if (r < 0)
                return r;
        locker_remember(segment, locker);
        if (flags == SHMD_LOCK_EXCLUSIVE)
                return lock_exclusive(locker, timeout_usec);
        return flags == SHMD_LOCK_SHARED ? lock_shared(locker, timeout_usec) : -EINVAL;
}

/* --- with nothing in the way: half of what there is to do, or more, is the C library's part --- */

/* With the mutex locked. */
static bool is_shared_by_anybody(const struct sync *sync) {
        struct meeting_page *meeting = atomic_load_explicit(&sync->meeting, memory_order_relaxed);
        unsigned used = atomic_load_explicit(&meeting->slots_used, memory_order_acquire);

        for (unsigned i = 0; i < MIN(used, SLOTS); i++)
                if (word_is_locked(atomic_load_explicit(slot_word(sync, meeting, i), memory_order_acquire)))
                        return true;
        return false;
}

__attribute__((__noinline__)) static int lock_go_on(struct hot *hot, int error, uint64_t timeout_usec) {
        struct lock_wait wait = { .timeout_usec = timeout_usec };

        if (error == 0 && atomic_load_explicit(hot_lock_state(hot), memory_order_relaxed) == LOCK_CONSISTENT &&
            !is_shared_by_anybody(hot->locker->sync)) {
                note_locked(hot);
                return 0;
        }

        return exclusive_settle(hot->locker, error, &wait);
}

static inline int lock_ready(struct hot *hot, uint64_t timeout_usec) {
        unsigned in_the_way;
        int error;

        hot_set_state(hot, HOT_EXCLUSIVE); /* before it is true: nobody else looks */
        error = pthread_mutex_trylock(hot_mutex(hot));
        barrier_after_locked();
        in_the_way = (unsigned) error | atomic_load_explicit(&hot_meeting(hot)->slots_used, memory_order_acquire) |
                     atomic_load_explicit(hot_lock_state(hot), memory_order_relaxed);
        if (__builtin_expect(in_the_way != 0, 0))
                return lock_go_on(hot, error, timeout_usec);
        note_locked(hot);
        return 0;
}

__attribute__((__noinline__)) static int lock_shared_go_on(struct hot *hot, int error, uint64_t timeout_usec) {
        if (error == EOWNERDEAD)
                error = pthread_mutex_consistent(hot->slot_mutex);
        if (error == 0)
                slot_release(hot);
        return lock_shared(hot->locker, timeout_usec);
}

/* In the slot of the last time, which has counted as in use since then. */
__attribute__((__noinline__)) static int lock_shared_ready(struct hot *hot, uint64_t timeout_usec) {
        unsigned word, state;
        int error;

        error = pthread_mutex_trylock(hot->slot_mutex);
        barrier_after_locked();
        word = atomic_load_explicit(hot_word(hot), memory_order_acquire);
        state = atomic_load_explicit(hot_lock_state(hot), memory_order_relaxed); /* what who let go of the word has left it as */
        if (__builtin_expect(((unsigned) error | word | state) != 0, 0))
                return lock_shared_go_on(hot, error, timeout_usec);
        note_locked(hot);
        hot_set_state(hot, HOT_SHARED);
        return 0;
}

static bool is_at(const struct hot *hot, enum hot_state state) {
        return atomic_load_explicit(&hot->state, memory_order_relaxed) == thread_serial + state;
}

static bool is_unlocked(const struct hot *hot) {
        return (atomic_load_explicit(&hot->state, memory_order_relaxed) & ~(unsigned long) HOT_IDLE) == thread_serial;
}

static bool is_ready_to_share(const struct hot *hot, unsigned flags) {
        return flags == SHMD_LOCK_SHARED && is_unlocked(hot) && hot->slot_mutex;
}

/* By another thread than the first, or for the first time. */
__attribute__((__noinline__)) static int lock_otherwise(struct shmd_segment *segment, unsigned flags, uint64_t timeout_usec) {
        struct hot *hot = hot_guess(segment);

        if (is_ready_to_share(hot, flags))
                return lock_shared_ready(hot, timeout_usec);
        if (flags == SHMD_LOCK_EXCLUSIVE && is_at(hot, HOT_READY))
                return lock_ready(hot, timeout_usec);
        return lock_by(segment, flags, timeout_usec);
}

__attribute__((__aligned__(64))) _public_ int shmd_lock(struct shmd_segment *segment, unsigned flags, uint64_t timeout_usec) {
        struct hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);

        if (__builtin_expect(flags == SHMD_LOCK_EXCLUSIVE && is_at(hot, HOT_READY), 1))
                return lock_ready(hot, timeout_usec);
        if (is_ready_to_share(hot, flags))
                return lock_shared_ready(hot, timeout_usec);
        return lock_otherwise(segment, flags, timeout_usec);
}

__attribute__((__noinline__)) static int unlock_go_on(struct hot *hot, int error) {
        return mutex_released(hot->locker, error);
}

static inline int unlock_ready(struct hot *hot) {
        int r;

        /* Nobody else's: who has it by this state may take it so, too. */
        hot_set_state(hot, HOT_READY);
        note_unlocking(hot);
        r = pthread_mutex_unlock(hot_mutex(hot));
        if (__builtin_expect(((unsigned) r | readers_wait_for_turn(hot)) != 0, 0))
                return unlock_go_on(hot, r);
        return 0;
}

__attribute__((__noinline__)) static int unlock_shared_ready(struct hot *hot) {
        slot_release(hot);
        return 0;
}

__attribute__((__noinline__)) static int unlock_otherwise(struct shmd_segment *segment) {
        struct hot *hot = hot_guess(segment);
        struct locker *locker;

        if (is_at(hot, HOT_SHARED))
                return unlock_shared_ready(hot);
        if (is_at(hot, HOT_EXCLUSIVE))
                return unlock_ready(hot);
        locker = locker_find(segment);
        if (!locker || hot_state(locker->hot) <= HOT_IDLE)
                return -EPERM;
        if (is_exclusive(locker))
                return locker->special & SPECIAL_WRITING ? -EBUSY : unlock_exclusive(locker);
        slot_release(locker->hot);
        return 0;
}

__attribute__((__aligned__(64))) _public_ int shmd_unlock(struct shmd_segment *segment) {
        struct hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);

        if (__builtin_expect(is_at(hot, HOT_EXCLUSIVE), 1))
                return unlock_ready(hot);
        if (is_at(hot, HOT_SHARED))
                return unlock_shared_ready(hot);
        return unlock_otherwise(segment);
}

_public_ int shmd_mark_consistent(struct shmd_segment *segment) {
        struct locker *locker = locker_find(segment);
        struct sync *sync;

        if (!is_exclusive(locker))
                return -EPERM;
        sync = locker->sync;
        if (atomic_load(sync->state) != LOCK_DIRTY)
                return -EINVAL;
        /* What the dead one began to write is written. */
        if (!(locker->special & SPECIAL_WRITING) && atomic_load(&sync->lock_page->sequence) % 2 != 0)
                atomic_fetch_add(&sync->lock_page->sequence, 1);
        atomic_store(sync->state, LOCK_CONSISTENT);
        special_set(locker, locker->special & ~(unsigned) SPECIAL_DIRTY);
        return 0;
}

void lock_abandon(struct locker *locker) {
        unsigned consistent = LOCK_CONSISTENT;

        if (is_exclusive(locker)) {
                (void) atomic_compare_exchange_strong(locker->sync->state, &consistent, LOCK_DIRTY);
                condition_change(locker->sync, INT_MAX);
                (void) mutex_release(locker);
        } else if (hot_state(locker->hot) == HOT_SHARED)
                slot_release(locker->hot);
}

/* --- condition --- */

static bool is_left_by_dead(const struct sync *sync) {
        unsigned word = atomic_load(sync->word);

        return !word_is_locked(word) && (word & WORD_OWNER_DIED) != 0;
}

/*
 * Who was to signal may die with the lock, and those who wait here be all that there are: nobody would come for it and wake them. So
 * they look now and then; not who shared the lock and knows already that it was left so.
 */
static int condition_await(struct sync *sync, unsigned value, bool knows_death, uint64_t deadline_usec) {
        uint64_t look_after = DEATH_LATENCY_USEC;

        while (futex_wait(&sync->lock_page->condition, value, MIN(deadline_usec, now_usec() + look_after)) == -ETIMEDOUT) {
                if (is_over(deadline_usec))
                        return -ETIMEDOUT;
                if (!knows_death && is_left_by_dead(sync))
                        return 0;
                look_after = MIN(2 * look_after, DEATH_LATENCY_MAX_USEC);
        }
        return 0;
}

_public_ int shmd_condition_wait(struct shmd_segment *segment, uint64_t timeout_usec) {
        struct locker *locker = locker_find(segment);
        bool exclusive = is_exclusive(locker), knows_death;
        struct lock_waiter *waiter;
        struct lock_page *page;
        struct sync *sync;
        unsigned value;
        int r, waited;

        if (!locker || hot_state(locker->hot) <= HOT_IDLE)
                return -EPERM;
        if (exclusive && locker->special != 0)
                return -EINVAL;
        sync = locker->sync;
        page = sync->lock_page;
        /* Noted while nobody can signal. */
        value = atomic_load(&page->condition);
        knows_death = is_left_by_dead(sync);
        atomic_store(sync->writable ? &page->condition_waiting : &sync->meeting->condition_waiting, 1);
        waiter = waiter_enter(sync, WAITER_CONDITION | (exclusive ? 0 : WAITER_SHARED));
        r = shmd_unlock(segment);
        waited = r < 0 || timeout_usec == 0 ? -ETIMEDOUT : condition_await(sync, value, knows_death, deadline_after(timeout_usec));
        waiter_leave(waiter);
        if (r < 0)
                return r;
        r = exclusive ? lock_exclusive(locker, SHMD_FOREVER) : lock_shared(locker, SHMD_FOREVER);
        return r != 0 ? r : waited;
}

static int condition_wake(struct shmd_segment *segment, int count) {
        struct locker *locker = locker_find(segment);

        if (!is_exclusive(locker))
                return -EPERM;
        condition_change(locker->sync, count);
        return 0;
}

_public_ int shmd_condition_signal(struct shmd_segment *segment) {
        return condition_wake(segment, 1);
}

_public_ int shmd_condition_broadcast(struct shmd_segment *segment) {
        return condition_wake(segment, INT_MAX);
}
