/* SPDX-License-Identifier: MIT */
/*
 * What each thread has of a segment's locks: its own mutexes, mapped as sync.h says.
 *
 * Owns these mappings. A locker is found by its thread's serial, without a lock: those that there are stay in their list until the hold
 * ends, and so do their first pages. It belongs to one thread at a time; when that has ended, to another one that comes new.
 */
#include "sync.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

_Thread_local unsigned long thread_serial = THREAD_UNKNOWN;

unsigned long thread_serial_new(void) {
        static atomic_ulong last;

        thread_serial = (atomic_fetch_add(&last, 1) + 1) * HOT_STATES;
        return thread_serial;
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

bool mutexes_are_usable(void) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        (void) pthread_once(&once, model_init);
        return model.usable;
}

/* --- mappings --- */

static void straddled_set_up(struct straddled *straddled) {
        memcpy((char *) straddled->mutex + WORD_FROM_END, (const char *) &model.mutex + WORD_FROM_END,
               sizeof(model.mutex) - WORD_FROM_END);
}

/* What is mapped already and shared is mapped once more, as it is there: of no size, it stays where it is, says mremap(2). */
static int map_again(void *page, size_t page_size, char *where) {
        return mremap(page, 0, page_size, MREMAP_MAYMOVE | MREMAP_FIXED, where) == MAP_FAILED ? negative_errno() : 0;
}

static void straddled_unmap(struct straddled *straddled) {
        if (straddled->pages)
                (void) munmap(straddled->pages, straddled->size);
        straddled->pages = NULL;
}

/* That page, a private page behind it, and, unless it is NULL, another one behind that. 0 or -ENOMEM. */
static int straddled_map(struct straddled *straddled, void *page, void *last, size_t page_size) {
        size_t size = (last ? 3 : 2) * page_size;
        char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int r;

        if (pages == MAP_FAILED)
                return negative_errno();
        straddled->pages = pages;
        straddled->size = size;
        straddled->word = (atomic_uint *) (void *) (pages + page_size - WORD_FROM_END);
        straddled->mutex = (pthread_mutex_t *) (void *) straddled->word;
        r = map_again(page, page_size, pages);
        if (r == 0 && last)
                r = map_again(last, page_size, pages + 2 * page_size);
        if (r < 0)
                straddled_unmap(straddled);
        return r;
}

static bool slot_is_mapped(const struct locker *locker, unsigned index) {
        for (const struct slot *slot = locker->slots; slot; slot = slot->next)
                if (slot->index == index)
                        return true;
        return false;
}

int locker_add_slot(struct locker *locker, struct slot **ret_slot) {
        struct sync *sync = locker->sync;
        struct meeting_page *meeting = atomic_load(&sync->meeting);
        struct slot *slot;
        unsigned index = 0;
        int r;

        while (index < SLOTS && (slot_is_mapped(locker, index) || (atomic_load(slot_word(sync, meeting, index)) & WORD_TID) != 0))
                index++;
        if (index == SLOTS)
                return -EBUSY;
        slot = calloc(1, sizeof(*slot));
        if (!slot)
                return -ENOMEM;
        slot->index = index;
        r = straddled_map(&slot->lock, (char *) meeting + (index + 2) * sync->page_size, NULL, sync->page_size);
        if (r < 0) {
                free(slot);
                return r;
        }
        straddled_set_up(&slot->lock);
        slot->next = locker->slots;
        locker->slots = slot;
        *ret_slot = slot;
        return 0;
}

/* --- lockers --- */

/* What the thread that had it before has left in it is of no meaning: the kernel is through with its list. */
static void locker_begin(struct locker *locker) {
        struct sync *sync = locker->sync;
        struct hot *hot = locker->hot;

        straddled_set_up(&locker->lock);
        for (struct slot *slot = locker->slots; slot; slot = slot->next) {
                straddled_set_up(&slot->lock);
                slot->broken = false;
        }
        locker->special = 0;
        locker->broken = locker->stands_back = false;
        locker->tid = (pid_t) syscall(SYS_gettid);
        hot->meeting = atomic_load(&sync->meeting);
        hot->slot = NULL;
        hot->slot_mutex = NULL;
        hot->idle = sync->writable ? HOT_READY : HOT_IDLE;
        hot->locker = locker;
        hot_set_state(hot, hot->idle);
        atomic_store_explicit(&locker->serial, thread_serial, memory_order_release);
}

/* Its last access comes before the kernel says so. ThreadSanitizer does not know that: there it is never said. */
static bool has_ended(const struct locker *locker) {
#ifdef __SANITIZE_THREAD__
        (void) locker;
        return false;
#else
        return locker->tid == (pid_t) syscall(SYS_gettid) ||
               (syscall(SYS_tgkill, getpid(), locker->tid, 0) < 0 && errno == ESRCH);
#endif
}

/* One that is nobody's. */
static struct locker *locker_reuse(struct sync *sync) {
        struct locker *locker = atomic_load(&sync->lockers);

        while (locker && atomic_load(&locker->serial) != 0 && !has_ended(locker))
                locker = locker->next;
        return locker;
}

static int locker_new(struct sync *sync, struct locker **ret_locker) {
        struct locker *locker = calloc(1, sizeof(*locker));
        int r;

        if (!locker)
                return -ENOMEM;
        locker->sync = sync;
        r = straddled_map(&locker->lock, sync->lock_page, atomic_load(&sync->meeting), sync->page_size);
        if (r == 0 && madvise(locker->lock.pages + sync->page_size, sync->page_size, MADV_WIPEONFORK) < 0) {
                r = -ENOTSUP; /* Linux before 4.14 */
                straddled_unmap(&locker->lock);
        }
        if (r < 0) {
                free(locker);
                return r;
        }
        locker->hot = (struct hot *) (void *) (locker->lock.pages + sync->page_size + HOT_OFFSET);
        locker->next = atomic_load(&sync->lockers);
        atomic_store_explicit(&sync->lockers, locker, memory_order_release);
        *ret_locker = locker;
        return 0;
}

static struct locker *locker_of_thread(struct sync *sync) {
        struct locker *locker = atomic_load_explicit(&sync->lockers, memory_order_acquire);

        while (locker && atomic_load_explicit(&locker->serial, memory_order_relaxed) != thread_serial)
                locker = locker->next;
        return locker;
}

void locker_remember(struct shmd_segment *segment, const struct locker *locker) {
        const struct hot *first = atomic_load_explicit(&segment->hot, memory_order_acquire);

        if (atomic_load_explicit(&first->state, memory_order_relaxed) == 0) /* nobody's, or of this process before it was forked */
                atomic_store_explicit(&segment->hot, locker->hot, memory_order_release);
        else if (first != locker->hot)
                atomic_store_explicit(&segment->hots[thread_serial / HOT_STATES % ELEMENTSOF(segment->hots)], locker->hot,
                                      memory_order_release);
}

int locker_get(struct sync *sync, struct locker **ret_locker) {
        struct locker *locker;
        int r = 0;

        if (thread_serial == THREAD_UNKNOWN)
                (void) thread_serial_new();
        locker = locker_of_thread(sync);
        if (!locker) {
                (void) pthread_mutex_lock(&sync->lockers_lock);
                locker = locker_reuse(sync);
                if (!locker)
                        r = locker_new(sync, &locker);
                if (r == 0)
                        locker_begin(locker);
                (void) pthread_mutex_unlock(&sync->lockers_lock);
        }
        if (r == 0)
                *ret_locker = locker;
        return r;
}

struct locker *locker_find(struct shmd_segment *segment) {
        struct hot *hot = hot_guess(segment);
        struct sync *sync;

        if (is_own(hot))
                return hot->locker;
        sync = sync_existing(segment);
        return sync ? locker_of_thread(sync) : NULL;
}

void lockers_disinherit(struct sync *sync) {
        (void) pthread_mutex_init(&sync->lockers_lock, NULL);
        for (struct locker *locker = atomic_load(&sync->lockers); locker; locker = locker->next)
                atomic_store(&locker->serial, 0);
}

/* --- their end --- */

static bool is_linked(const struct locker *locker, const struct slot *slot) {
        return slot->broken || (hot_state(locker->hot) == HOT_SHARED && locker->hot->slot == slot);
}

static void locker_free(struct locker *locker, bool in_use) {
        bool linked = in_use && (locker->broken || is_exclusive(locker));

        while (locker->slots) {
                struct slot *slot = locker->slots;

                locker->slots = slot->next;
                if (!in_use || !is_linked(locker, slot))
                        straddled_unmap(&slot->lock);
                free(slot);
        }
        if (!linked)
                straddled_unmap(&locker->lock);
        free(locker);
}

void lockers_free(struct sync *sync) {
        bool own = atomic_load(&sync->epoch) == process_epoch();
        struct locker *mine = own ? locker_of_thread(sync) : NULL;
        struct locker *locker;

        if (mine)
                lock_abandon(mine);
        while ((locker = atomic_load(&sync->lockers))) {
                atomic_store(&sync->lockers, locker->next);
                locker_free(locker, own && (locker == mine || !has_ended(locker)));
        }
        (void) pthread_mutex_destroy(&sync->lockers_lock);
}
