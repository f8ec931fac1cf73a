/* SPDX-License-Identifier: MIT */
/*
 * Bells: the holders of a segment wake each other.
 *
 * A bell is a counter in the meeting pages, which a ring raises, and which its holder sleeps on; and an eventfd, which a ring writes as
 * well while the holder polls. The holder makes the eventfd, chooses the number, and gives both to the daemon, which
 * says whether it is free and hands the eventfd to those who ring: once, then they have it. After a restart of the daemon the
 * holder does so again; until then it is not to be taken for dead. A generation in the pages tells ringers that a bell has
 * changed hands, an instance which daemon knows of it.
 *
 * Who rings raises the counter before he looks who sleeps; who sleeps says so before he looks at the counter: no ring is lost between them.
 * Who rings does not skip the eventfd because it was written already: who wrote might have died first.
 */
#include "sync.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/eventfd.h>

/* --- the daemon --- */

static int call_bell_set(struct sync *sync, uint32_t number, int fd) {
        const struct shmd_wire_bell bell = { .id = sync->hold->id, .number = number };
        const struct request request = { .operation = SHMD_OP_BELL_SET, .body = &bell, .fds = &fd };
        struct reply reply;
        int r;

        r = connection_call(sync->hold->connection, &request, &reply);
        return r < 0 ? r : reply_read_nothing(sync->hold->connection, &reply);
}

static int call_bell_get(struct sync *sync, uint32_t number, int *ret_fd) {
        const struct shmd_wire_bell bell = { .id = sync->hold->id, .number = number };
        const struct request request = { .operation = SHMD_OP_BELL_GET, .body = &bell };
        struct shmd *connection = sync->hold->connection;
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        if (r < 0)
                return r;
        r = reply_read_nothing(connection, &reply);
        if (r < 0)
                return r;
        if (reply.fds_lost)
                return failure_errno(&connection->failure, -EMFILE);
        if (reply.fds->count != 1)
                return connection_break(connection);
        *ret_fd = TAKE_FD(reply.fds->fd[0]);
        return 0;
}

/* --- one's own --- */

static atomic_uint *taken_word(const struct sync *sync, uint32_t number) {
        return &sync->meeting->bells_taken[number / 32];
}

static bool bell_is_taken(const struct sync *sync, uint32_t number) {
        return atomic_load_explicit(taken_word(sync, number), memory_order_acquire) & 1u << number % 32;
}

static void bell_set_taken(const struct sync *sync, uint32_t number, bool taken) {
        if (taken)
                atomic_fetch_or(taken_word(sync, number), 1u << number % 32);
        else
                atomic_fetch_and(taken_word(sync, number), ~(1u << number % 32));
}

/* Which daemon this connection is to; never 0. */
static uint32_t instance_of(const struct sync *sync) {
        uint64_t instance = sync->hold->connection->instance;

        return (uint32_t) (instance ^ instance >> 32) | 1;
}

/* The daemon knows of it. */
static void bell_announce(struct sync *sync, uint32_t number) {
        atomic_store(&bell_words(sync, number)->instance, instance_of(sync));
        bell_set_taken(sync, number, true);
}

static void bell_begin(struct sync *sync, uint32_t number, int fd) {
        struct bell_words *words = bell_words(sync, number);

        atomic_store(&words->polled, 0);
        atomic_store(&words->sleeping, 0);
        atomic_fetch_add(&words->generation, 1);
        sync->bell_seen = atomic_load(&words->count);
        sync->bell_number = number;
        sync->bell_fd = fd;
        bell_announce(sync, number);
}

int sync_resume(struct hold *hold) {
        struct sync *sync = atomic_load(&hold->sync);
        struct shmd_wire_bell bell = { .id = hold->id };
        struct reply reply;
        int r;

        if (!sync || sync->bell_fd < 0 || atomic_load(&sync->epoch) != process_epoch())
                return 0;
        bell.number = sync->bell_number;
        r = call_perform(hold->connection,
                         &(struct request) { .operation = SHMD_OP_BELL_SET, .body = &bell, .fds = &sync->bell_fd }, NULL, &reply);
        /* Should somebody else have the number meanwhile, or the daemon refuse, who polls is not reached any more. */
        if (r < 0 || reply.status != SHMD_OK)
                return r;
        bell_announce(sync, sync->bell_number);
        /* Rings of those who could not write to it meanwhile. */
        if (atomic_load(&bell_words(sync, sync->bell_number)->count) != sync->bell_seen)
                (void) eventfd_write(sync->bell_fd, 1);
        return 0;
}

/* First among those that nobody seems to have; then, as the dead leave theirs taken, among all: the daemon knows. */
static int bell_claim(struct sync *sync, int *fd) {
        for (unsigned pass = 0; pass < 2; pass++)
                for (uint32_t number = 0; number < SHMD_BELLS; number++) {
                        int r;

                        if (pass == 0 && bell_is_taken(sync, number))
                                continue;
                        r = call_bell_set(sync, number, *fd);
                        if (r < 0 && r != -EBUSY)
                                return r;
                        if (r == 0) {
                                bell_begin(sync, number, TAKE_FD(*fd));
                                return 0;
                        }
                }
        return failure_words(&sync->hold->connection->failure, -EUSERS, "all bells of the segment are taken");
}

/* The one that this process has, or a new one. */
static int bell_get_own(struct shmd_segment *segment, struct sync **ret_sync) {
        _cleanup_close_ int fd = -EBADF;
        struct sync *sync;
        int r;

        r = sync_get(segment, true, &sync);
        if (r < 0)
                return r;
        if (sync->bell_fd < 0) {
                fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
                if (fd < 0)
                        return failure_errno(&segment->hold->connection->failure, negative_errno());
                r = bell_claim(sync, &fd);
                if (r < 0)
                        return r;
        }
        *ret_sync = sync;
        return 0;
}

_public_ int shmd_bell_open(struct shmd_segment *segment, uint32_t *ret_number) {
        struct sync *sync;
        int r;

        r = bell_get_own(segment, &sync);
        if (r == 0 && ret_number)
                *ret_number = sync->bell_number;
        return r;
}

_public_ int shmd_bell_fd(struct shmd_segment *segment) {
        struct bell_words *words;
        struct sync *sync;
        int r;

        r = bell_get_own(segment, &sync);
        if (r < 0)
                return r;
        words = bell_words(sync, sync->bell_number);
        /* Rings that came before nobody has written. */
        if (atomic_exchange(&words->polled, 1) == 0 && atomic_load(&words->count) != sync->bell_seen)
                (void) eventfd_write(sync->bell_fd, 1);
        return sync->bell_fd;
}

static int bell_sleep(struct bell_words *words, unsigned seen, uint64_t deadline_usec) {
        int r = 0;

        atomic_store(&words->sleeping, 1);
        if (atomic_load(&words->count) == seen)
                r = futex_wait(&words->count, seen, deadline_usec);
        atomic_store_explicit(&words->sleeping, 0, memory_order_relaxed);
        return r;
}

_public_ int shmd_bell_wait(struct shmd_segment *segment, uint64_t timeout_usec, uint32_t *ret_rings) {
        uint64_t deadline = 0;
        struct bell_words *words;
        struct sync *sync;
        eventfd_t ignored;
        unsigned count;
        int r;

        r = bell_get_own(segment, &sync);
        if (r < 0)
                return r;
        words = bell_words(sync, sync->bell_number);
        for (;;) {
                /* Before the counter is read: what is rung after that makes it readable again. */
                if (atomic_load_explicit(&words->polled, memory_order_relaxed))
                        (void) eventfd_read(sync->bell_fd, &ignored);
                count = atomic_load(&words->count);
                if (count != sync->bell_seen)
                        break;
                if (timeout_usec == 0)
                        return -EAGAIN;
                if (r == -ETIMEDOUT)
                        return r;
                if (deadline == 0)
                        deadline = deadline_after(timeout_usec);
                r = bell_sleep(words, sync->bell_seen, deadline);
        }
        if (ret_rings)
                *ret_rings = count - sync->bell_seen;
        sync->bell_seen = count;
        return 0;
}

/* --- others' --- */

static int bells_cache(struct sync *sync) {
        if (sync->bells)
                return 0;
        sync->bells = calloc(SHMD_BELLS, sizeof(*sync->bells));
        if (!sync->bells)
                return failure_errno(&sync->hold->connection->failure, -ENOMEM);
        for (uint32_t i = 0; i < SHMD_BELLS; i++)
                sync->bells[i].fd = -EBADF;
        return 0;
}

/* The daemon knows of no such bell. Its holder has died, unless it was another daemon that it told: then it comes back, perhaps. */
static int bell_is_missing(struct sync *sync, uint32_t number) {
        if (atomic_load(&bell_words(sync, number)->instance) == instance_of(sync)) {
                bell_set_taken(sync, number, false);
                return -ENOENT;
        }
        sync->bells[number].asked_of = instance_of(sync);
        return -EAGAIN;
}

static int bell_lookup(struct sync *sync, uint32_t number, uint32_t generation) {
        struct bell_cache *cache;
        int fd = -EBADF, r;

        r = bells_cache(sync);
        if (r < 0)
                return r;
        cache = &sync->bells[number];
        if (cache->asked_of == instance_of(sync) && atomic_load(&bell_words(sync, number)->instance) != instance_of(sync))
                return -EAGAIN;
        r = call_bell_get(sync, number, &fd);
        if (r == -ENOENT)
                return bell_is_missing(sync, number);
        if (r < 0)
                return r;
        close_fd(cache->fd);
        cache->fd = fd;
        cache->generation = generation;
        cache->asked_of = 0;
        return 0;
}

/* Full, it is readable, too; but then somebody else must have written there what no ring writes. */
static int eventfd_ring(int fd) {
        const uint64_t one = 1;
        uint64_t ignored;

        for (;;) {
                if (__builtin_expect(write(fd, &one, sizeof(one)) == sizeof(one), 1))
                        return 0;
                if (errno == EAGAIN)
                        return read(fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN ? negative_errno() : 0;
                if (errno != EINTR)
                        return negative_errno();
        }
}

static int bell_write(struct sync *sync, struct bell_words *words, uint32_t number) {
        uint32_t generation = atomic_load(&words->generation);
        int r;

        if (__builtin_expect(!sync->bells || sync->bells[number].fd < 0 || sync->bells[number].generation != generation, 0)) {
                r = bell_lookup(sync, number, generation);
                if (r < 0)
                        return r;
        }
        return eventfd_ring(sync->bells[number].fd);
}

static int bell_ring(struct sync *sync, uint32_t number) {
        struct bell_words *words = bell_words(sync, number);

        if (!bell_is_taken(sync, number))
                return -ENOENT;
        atomic_fetch_add(&words->count, 1);
        if (atomic_load(&words->sleeping))
                (void) futex_wake(&words->count, 1);
        return atomic_load(&words->polled) ? bell_write(sync, words, number) : 0;
}

/* The dead are no failure, and who may come back hears of it then. */
static int bell_ring_all(struct sync *sync) {
        int result = 0;

        for (uint32_t number = 0; number < SHMD_BELLS; number++) {
                int r = 0;

                if (bell_is_taken(sync, number) && (sync->bell_fd < 0 || number != sync->bell_number))
                        r = bell_ring(sync, number);
                if (r < 0 && r != -ENOENT && r != -EAGAIN)
                        result = r;
        }
        return result;
}

_public_ int shmd_bell_ring(struct shmd_segment *segment, uint32_t number) {
        struct sync *sync;
        int r;

        r = sync_get(segment, true, &sync);
        if (r < 0)
                return r;
        if (number == SHMD_BELL_ALL)
                return bell_ring_all(sync);
        return number < SHMD_BELLS ? bell_ring(sync, number) : -EINVAL;
}

/* The daemon is told with the hold's end. */
void bell_forget(struct sync *sync, bool own) {
        if (own && sync->bell_fd >= 0)
                bell_set_taken(sync, sync->bell_number, false);
        sync->bell_fd = close_fd(sync->bell_fd);
        for (uint32_t i = 0; sync->bells && i < SHMD_BELLS; i++)
                close_fd(sync->bells[i].fd);
        free(TAKE_PTR(sync->bells));
}
