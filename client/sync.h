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
 * of mutex (robust, process-shared, error-checking), and the word is what 32- and 64-bit processes have in common. Whether the word is where we think
 * is tried before the first use. One mutex fits a page, so each shared lock has a page of its own.
 *
 * What somebody who may write these pages can do is to hold what he would otherwise be given, for ever, and to break the exclusion itself. If
 * the word of a lock that this process holds was changed, unlocking notices; the mutex is then given up in this process, with
 * its pages left mapped for ever, as the kernel's list goes through them.
 */
#pragma once

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
#define WAITERS_MAX 32u

struct lock_waiter {
        atomic_uint tid; /* 0: free */
        atomic_uint shared;
};

/* The first of the meeting pages; the second has the bells; each other one is a slot, for one shared lock. */
struct meeting_page {
        atomic_uint slots_used; /* the slots from this one on have never been used */
        _Alignas(64) atomic_uint turn; /* a futex; changes when the exclusive lock was let go while a reader waited */
        atomic_uint turn_waiting;
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
        atomic_uint *word;
        pthread_mutex_t *mutex;
};

#define WORD_FROM_END 8
#define STATE_FROM_END 16

/*
 * What locking and unlocking look at where nothing is in the way: in the private page behind the lock page, at a fixed distance from
 * the mutex, so that one pointer leads to all. The kernel wipes this page in a forked child: there nothing is ready. Each load and
 * store here counts: a mutex of the C library alone takes some thirty processor cycles.
 */
struct hot {
        atomic_ulong owner; /* which thread of this process has the exclusive lock, plus enum special; or OWNER_NONE */
        struct meeting_page *_Atomic meeting; /* NULL: there is more to ask before the exclusive lock can be taken */
        struct sync *sync;
};

/* The owner's: unlocking takes more. */
enum special {
        SPECIAL_DIRTY = 1u << 0, /* it was told that the data may be half written */
        SPECIAL_WRITING = 1u << 1, /* between begin and end of a write, */
        SPECIAL_WRITE_LOCKED = 1u << 2, /* which took the lock */
        SPECIAL_ALL = 7u,
};

/* No thread's, of those that have no serial yet neither. */
#define OWNER_NONE (~(unsigned long) SPECIAL_ALL)

#define HOT_OFFSET 32
_Static_assert(sizeof(pthread_mutex_t) - WORD_FROM_END <= HOT_OFFSET, "the private part of the mutex");

static inline pthread_mutex_t *hot_mutex(struct hot *hot) {
        return (pthread_mutex_t *) (void *) ((char *) hot - HOT_OFFSET - WORD_FROM_END);
}
static inline atomic_uint *hot_state(struct hot *hot) {
        return (atomic_uint *) (void *) ((char *) hot - HOT_OFFSET - STATE_FROM_END);
}

#define SLOT_DEAD ULONG_MAX

/* A slot that this process has mapped for locks of its own. */
struct slot {
        struct straddled lock;
        unsigned index;
        atomic_ulong holder; /* which thread has it locked; 0: none; SLOT_DEAD: it was scribbled over */
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
        int meeting_fd;          /* for slots to come */
        atomic_uint epoch;       /* of the process that the private pages are right for: process_epoch() */
        struct lock_page *lock_page;
        struct straddled lock;   /* without a mutex if held read-only */
        struct hot *hot;
        atomic_uint *state;      /* enum lock_state */
        atomic_bool broken;      /* the exclusive lock was scribbled over */
        struct meeting_page *_Atomic meeting; /* NULL: not mapped yet */
        struct slot *slots[SLOTS];
        atomic_uint slot_count;
        pthread_mutex_t slots_lock;
        uint32_t bell_number;
        uint32_t bell_seen;
        int bell_fd;             /* -EBADF: no bell */
        struct bell_cache *bells; /* of others; NULL: none rung yet */
};

/* Which thread this is: never used again, and with room for enum special; or THREAD_UNKNOWN, which is no owner. */
#define THREAD_UNKNOWN 1ul
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
 * For ThreadSanitizer, which does not see the C library change a lock word: readers and writers synchronise by looking at
 * each other's. Who lets go of either lock comes before who gets one later.
 */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define note_locked(hot) __tsan_acquire((hot))
#define note_unlocking(hot) __tsan_release((hot))
#else
#define note_locked(hot) ((void) (hot))
#define note_unlocking(hot) ((void) (hot))
#endif

/* The segment's control memory as this process has it, made if need be; the meeting pages only if they are wanted. */
int sync_prepare(struct shmd_segment *segment, bool meeting, struct sync **ret_sync);
static inline int sync_get(struct shmd_segment *segment, bool meeting, struct sync **ret_sync) {
        struct sync *sync = atomic_load_explicit(&segment->hold->sync, memory_order_acquire);

        if (__builtin_expect(!sync || atomic_load_explicit(&segment->hot, memory_order_relaxed) == &hot_none ||
                                     atomic_load_explicit(&sync->epoch, memory_order_acquire) != process_epoch() ||
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

/* Maps a page of a file with a private page behind it, for a mutex. */
int straddled_map(struct straddled *straddled, int fd, uint64_t offset, size_t page_size, bool writable);
void straddled_unmap(struct straddled *straddled, size_t page_size);

/* The word of a slot, whoever has it. */
static inline atomic_uint *slot_word(const struct sync *sync, struct meeting_page *meeting, unsigned index) {
        return (atomic_uint *) ((char *) meeting + (index + 3) * sync->page_size - WORD_FROM_END);
}
static inline struct bell_words *bell_words(const struct sync *sync, uint32_t number) {
        return (struct bell_words *) ((char *) sync->meeting + sync->page_size) + number;
}

static inline bool is_owner(const struct sync *sync) {
        return sync && (atomic_load_explicit(&sync->hot->owner, memory_order_relaxed) & ~(unsigned long) SPECIAL_ALL) == thread_self();
}
/* Of the owner alone. */
static inline unsigned special_of(const struct sync *sync) {
        return atomic_load_explicit(&sync->hot->owner, memory_order_relaxed) & SPECIAL_ALL;
}
static inline void special_set(struct sync *sync, unsigned special) {
        atomic_store_explicit(&sync->hot->owner, thread_self() | special, memory_order_relaxed);
}

/* --- waiting --- */

/* Until the word is not value any more, or a wake: 0, also without a reason; or -ETIMEDOUT. CLOCK_MONOTONIC, UINT64_MAX: never. */
int futex_wait(atomic_uint *word, unsigned value, uint64_t deadline_usec);
/* Gives how many were woken. */
int futex_wake(atomic_uint *word, int count);

uint64_t deadline_after(uint64_t timeout_usec);

/* --- lock --- */

/* What sync_free() does about locks. True if something is left that must stay mapped. */
bool lock_abandon(struct sync *sync);
/* A forked child holds nothing. */
void lock_forget(struct sync *sync);
/* Those of this thread, on memory that is prepared. Results as shmd_lock() and shmd_unlock(). */
int lock_exclusive(struct sync *sync, uint64_t timeout_usec);
int unlock_exclusive(struct sync *sync);

/* --- bell --- */

void bell_forget(struct sync *sync, bool own);
