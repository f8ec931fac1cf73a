/* SPDX-License-Identifier: MIT */
/*
 * The control memory of a segment: what is in it, and how a process has it mapped.
 *
 * Two files, made by the daemon as zeros, which are a valid beginning of all that is in them:
 *
 *  - the lock page, writable only for who holds the segment read-write: the exclusive lock's word, and what only its
 *    holder changes - the lock's state, the sequence counter, the condition;
 *  - the meeting pages, writable for each holder: a word for each shared lock, what wakes those who wait, the bells.
 *
 * Holders do not trust each other further than the segment itself goes; so of what is in there nothing is ever followed, only
 * compared. That is the reason for the one trick here. A robust mutex of the C library has its lock word, which the
 * kernel knows (robust_list(2)), and pointers, which the C library follows; in memory that others write, these pointers
 * would let them write anywhere in our process. So each process lays its mutexes across the end of a shared page: the first
 * eight bytes, word and counter, are the last of that page; everything else lies in a page of the process's own, mapped right behind it:
 *
 *      | shared page                      word counter | owner kind ... pointers       private page |
 *
 * The kernel and the C library find there what they expect. Of the counter, the C library makes no use for this kind
 * of mutex (robust, process-shared, error-checking), and the word is what 32- and 64-bit processes have in common. Whether the word is
 * where we think is tried before the first use. One mutex fits a page, so each shared lock has a page of its own.
 *
 * What somebody who may write these pages can do is to hold what he would otherwise be given, for ever, and to break the exclusion
 * itself. If the word of a lock that is held was changed, unlocking notices; the mutex is then given up by its thread, with its pages
 * left mapped as long as that lives, as the kernel's list goes through them. A thread never locks a mutex that it has locked, by its
 * own account, whatever the word says; and no two threads use the same mutex: struct locker.
 */
#pragma once

#include <limits.h>
#include <pthread.h>

#include "internal.h"

/* Bits of a lock word, the kernel's: linux/futex.h. */
#define WORD_WAITERS 0x80000000u
#define WORD_OWNER_DIED 0x40000000u
#define WORD_TID 0x3fffffffu

enum lock_state {
        LOCK_CONSISTENT = 0,
        LOCK_DIRTY = 1, /* an exclusive holder died, the data may be half written */
        LOCK_GIVEN_UP = 2,
};

/* Changed only by who has the exclusive lock. The lock's state is behind it, 16 bytes from the end: in one cache line with the word. */
struct lock_page {
        _Alignas(64) atomic_uint sequence; /* odd: the data are being written */
        _Alignas(64) atomic_uint condition; /* a futex; changes with each signal */
        atomic_uint condition_waiting;      /* of who can write here: somebody waits, perhaps */
};

#define SLOTS (SHMD_CONTROL_MEETING_PAGES - 2)
#define WAITERS_MAX 128u

struct lock_waiter {
        atomic_uint tid; /* 0: free */
        atomic_uint kind;
};

/* Bits of what one waits for. */
enum waiter_kind {
        WAITER_SHARED = 1,
        WAITER_CONDITION = 2,
};

/* The first of the meeting pages; the second has the bells; each other one is a slot, for one shared lock. */
struct meeting_page {
        atomic_uint slots_used; /* the slots from this one on have never been used */
        _Alignas(64) atomic_uint turn; /* a futex; changes when the exclusive lock was let go while a reader waited */
        atomic_uint turn_waiting;
        atomic_uint turns_taken; /* a futex; changes when one who waited to share the lock got it */
        atomic_uint condition_waiting; /* the same as in the lock page, of who can't write there */
        _Alignas(64) atomic_uint bells_taken[SHMD_BELLS / 32]; /* bits; those of the dead stay until they are noticed */
        _Alignas(64) struct lock_waiter waiters[WAITERS_MAX]; /* for people to see; nothing depends on them */
};

struct bell_words {
        _Alignas(64) atomic_uint count; /* a futex; of rings */
        atomic_uint sleeping; /* on it */
        atomic_uint polled;   /* the eventfd is to be written as well */
        atomic_uint generation; /* changes with the bell's holder */
        atomic_uint instance;   /* of the daemon that its holder told of it last: folded */
};

/* A robust mutex across the end of a shared page. */
struct straddled {
        char *pages; /* NULL: not mapped */
        size_t size;
        atomic_uint *word;
        pthread_mutex_t *mutex;
};

#define WORD_FROM_END 8
#define STATE_FROM_END 16

/*
 * What locking and unlocking look at where nothing is in the way: in the private page behind the lock page, at a fixed distance from
 * the mutex; and behind it the first meeting page once more, so that one pointer leads to all. The kernel wipes the private page in a
 * forked child: there nothing is ready. Each load and store here counts, and most of all one that depends on another, as the processor
 * waits for them before it goes on to a lock word: a mutex of the C library alone takes some thirty cycles.
 */
struct hot {
        atomic_ulong state; /* the thread's serial plus enum hot_state; 0: nobody's */
        struct meeting_page *meeting;
        struct slot *slot; /* the one that was locked last, or is; NULL: none yet */
        pthread_mutex_t *slot_mutex; /* the slot's; NULL: there is none that could be tried at once */
        unsigned idle; /* HOT_READY or HOT_IDLE: what it is when nothing is locked */
        struct locker *locker;
};

/* Only its own thread changes it. */
enum hot_state {
        HOT_READY = 0,     /* nothing is locked, and nothing else is to be asked before the exclusive lock is tried */
        HOT_IDLE = 1,      /* nothing is locked */
        HOT_EXCLUSIVE = 2, /* and there is nothing special about it */
        HOT_SPECIAL = 3,   /* exclusive, too: enum special */
        HOT_SHARED = 4,
};
#define HOT_STATES 8ul

/* About the exclusive lock: unlocking takes more. */
enum special {
        SPECIAL_DIRTY = 1u << 0, /* the thread was told that the data may be half written */
        SPECIAL_WRITING = 1u << 1, /* between begin and end of a write, */
        SPECIAL_WRITE_LOCKED = 1u << 2, /* which took the lock */
};

/* Behind the private part of the mutex, which is not of one size everywhere. */
#define HOT_OFFSET ((sizeof(pthread_mutex_t) - WORD_FROM_END + 7) / 8 * 8)

static inline pthread_mutex_t *hot_mutex(struct hot *hot) {
        return (pthread_mutex_t *) (void *) ((char *) hot - HOT_OFFSET - WORD_FROM_END);
}
static inline atomic_uint *hot_word(struct hot *hot) {
        return (atomic_uint *) (void *) ((char *) hot - HOT_OFFSET - WORD_FROM_END);
}
static inline atomic_uint *hot_lock_state(struct hot *hot) {
        return (atomic_uint *) (void *) ((char *) hot - HOT_OFFSET - STATE_FROM_END);
}

/* The first one, behind this very page. */
static inline struct meeting_page *hot_meeting(struct hot *hot) {
#if defined(__x86_64__) || defined(__i386__)
        return (struct meeting_page *) (void *) ((char *) hot - HOT_OFFSET + 4096); /* pages have no other size there */
#else
        return hot->meeting;
#endif
}

/* A place for a shared lock, as one thread has it mapped. */
struct slot {
        struct straddled lock;
        unsigned index;
        bool broken; /* somebody has scribbled over it while it was locked */
        struct slot *next;
};

/*
 * What one thread has of a segment's locks: mutexes that no other thread uses. A mutex is linked into its thread's list in the C
 * library; if two threads had the same one, whoever makes its word zero would let both link it, and lead each into the
 * other's memory. One whose thread has ended is of use to the next.
 */
struct locker {
        struct sync *sync;
        struct straddled lock; /* with the first meeting page behind */
        struct hot *hot;
        atomic_ulong serial; /* of the thread; 0: nobody's */
        pid_t tid;
        unsigned special;    /* enum special */
        bool broken;         /* the exclusive lock was scribbled over while it was held */
        bool stands_back;    /* it let go while others waited to share the lock; seen: */
        unsigned turns_taken;
        struct slot *slots;
        struct locker *next;
};

struct bell_cache {
        int fd; /* -EBADF: not known */
        uint32_t generation;
        uint32_t asked_of; /* the daemon that does not know of it yet; 0: none */
};

struct sync {
        struct hold *hold;
        size_t page_size;
        bool writable;
        atomic_uint epoch;       /* of the process that the private pages are right for: process_epoch() */
        struct lock_page *lock_page;
        atomic_uint *word;       /* in it, of the exclusive lock */
        atomic_uint *state;      /* in it, too: enum lock_state */
        struct meeting_page *_Atomic meeting; /* NULL: not mapped yet */
        struct locker *_Atomic lockers; /* those that there are stay until the hold ends */
        pthread_mutex_t lockers_lock;
        uint32_t bell_number;
        uint32_t bell_seen;
        int bell_fd;             /* -EBADF: no bell */
        struct bell_cache *bells; /* of others; NULL: none rung yet */
};

/* Which thread this is: never used again, and with room for enum hot_state; or THREAD_UNKNOWN, which is nobody's. */
#define THREAD_UNKNOWN ULONG_MAX
extern _Thread_local unsigned long thread_serial __attribute__((__tls_model__("initial-exec"), __visibility__("hidden")));
unsigned long thread_serial_new(void);
static inline unsigned long thread_self(void) {
        return thread_serial != THREAD_UNKNOWN ? thread_serial : thread_serial_new();
}

/*
 * A seq_cst barrier between a change of a lock word by the C library and a look at another word: on x86 the
 * locked instruction that made the change is one.
 */
static inline void barrier_after_locked(void) {
#if defined(__x86_64__) || defined(__i386__)
        __asm__ __volatile__("" ::: "memory");
#else
        atomic_thread_fence(memory_order_seq_cst);
#endif
}

/*
 * For ThreadSanitizer, to which the mutexes of two threads have nothing to do with each other, and which does not see the C library
 * change a lock word. Who lets go of either lock comes before who gets one later.
 */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define note_locked(hot) __tsan_acquire((hot)->locker->sync)
#define note_unlocking(hot) __tsan_release((hot)->locker->sync)
#else
#define note_locked(hot) ((void) (hot))
#define note_unlocking(hot) ((void) (hot))
#endif

/* The segment's control memory as this process has it, made if need be; the meeting pages only if they are wanted. */
int sync_prepare(struct shmd_segment *segment, bool meeting, struct sync **ret_sync);
static inline int sync_get(struct shmd_segment *segment, bool meeting, struct sync **ret_sync) {
        struct sync *sync = atomic_load_explicit(&segment->hold->sync, memory_order_acquire);

        if (__builtin_expect(!sync || atomic_load_explicit(&sync->epoch, memory_order_acquire) != process_epoch() ||
                                     (meeting && !atomic_load_explicit(&sync->meeting, memory_order_acquire)), 0))
                return sync_prepare(segment, meeting, ret_sync);
        *ret_sync = sync;
        return 0;
}
/* What is there, of this very process; or NULL: then nothing is locked. */
static inline struct sync *sync_existing(struct shmd_segment *segment) {
        struct sync *sync = atomic_load_explicit(&segment->hold->sync, memory_order_acquire);

        return sync && atomic_load_explicit(&sync->epoch, memory_order_acquire) == process_epoch() ? sync : NULL;
}

/* The word of a slot, whoever has it. */
static inline atomic_uint *slot_word(const struct sync *sync, struct meeting_page *meeting, unsigned index) {
        return (atomic_uint *) ((char *) meeting + (index + 3) * sync->page_size - WORD_FROM_END);
}
static inline struct bell_words *bell_words(const struct sync *sync, uint32_t number) {
        return (struct bell_words *) ((char *) sync->meeting + sync->page_size) + number;
}

/* --- lockers --- */

/* Whether this C library's mutexes are such as can be laid across two pages. */
bool mutexes_are_usable(void);

/* This thread's, made if need be. The meeting pages must be mapped. 0 or -ENOMEM. */
int locker_get(struct sync *sync, struct locker **ret_locker);
/* From now on the segment finds it by itself. */
void locker_remember(struct shmd_segment *segment, const struct locker *locker);
/* NULL: it has none, and so nothing locked. */
struct locker *locker_find(struct shmd_segment *segment);
/* One more slot for it, that nobody has locked at the moment. 0; -EBUSY: there is none; -ENOMEM. */
int locker_add_slot(struct locker *locker, struct slot **ret_slot);
/* A forked child's: all are nobody's. */
void lockers_disinherit(struct sync *sync);
/* But for those that a living thread has locked: the kernel's list goes through them, so they stay mapped. */
void lockers_free(struct sync *sync);

static inline enum hot_state hot_state(const struct hot *hot) {
        return atomic_load_explicit(&hot->state, memory_order_relaxed) % HOT_STATES;
}
/* By its own thread. */
static inline void hot_set_state(struct hot *hot, unsigned state) {
        atomic_store_explicit(&hot->state, thread_serial + state, memory_order_relaxed);
}
static inline bool is_own(const struct hot *hot) {
        return atomic_load_explicit(&hot->state, memory_order_relaxed) / HOT_STATES == thread_serial / HOT_STATES;
}
/* As the segment remembers it: this thread's, another one's, or hot_none. */
static inline struct hot *hot_guess(struct shmd_segment *segment) {
        struct hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);

        if (is_own(hot))
                return hot;
        return atomic_load_explicit(&segment->hots[thread_serial / HOT_STATES % ELEMENTSOF(segment->hots)], memory_order_acquire);
}

static inline bool is_exclusive(const struct locker *locker) {
        return locker && (hot_state(locker->hot) == HOT_EXCLUSIVE || hot_state(locker->hot) == HOT_SPECIAL);
}
static inline void special_set(struct locker *locker, unsigned special) {
        locker->special = special;
        hot_set_state(locker->hot, special != 0 ? HOT_SPECIAL : HOT_EXCLUSIVE);
}

/* --- waiting --- */

/* Until the word is not value any more, or a wake: 0, also without a reason; or -ETIMEDOUT. CLOCK_MONOTONIC, UINT64_MAX: never. */
int futex_wait(atomic_uint *word, unsigned value, uint64_t deadline_usec);
/* Gives how many were woken. */
int futex_wake(atomic_uint *word, int count);

uint64_t deadline_after(uint64_t timeout_usec);

/* --- lock --- */

/* What sync_free() does first: gives back what this thread has locked, as if it had died. */
void lock_abandon(struct locker *locker);
/* Those of this thread. Results as shmd_lock() and shmd_unlock(). */
int lock_exclusive(struct locker *locker, uint64_t timeout_usec);
int unlock_exclusive(struct locker *locker);

/* --- bell --- */

void bell_forget(struct sync *sync, bool own);
