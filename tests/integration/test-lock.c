/* SPDX-License-Identifier: MIT */
/*
 * Locks and conditions of segments: between processes that are killed at any moment, while the daemon is dead, and between threads;
 * and what a holder who means ill can't do.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

#define OWN_WORD(pages) ((uint32_t *) (void *) ((char *) (pages) + sysconf(_SC_PAGESIZE) - 8))

static struct shmd *connection;
static struct shmd_segment *segment;

/* What the lock protects. */
struct data {
        uint64_t first, second; /* equal, but within a section */
        uint64_t inside;        /* who is */
        uint64_t recovered;
        uint64_t stop;
};
static struct data *data;

static void setup(void) {
        test_watch_over();
        daemon_setup();
        ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        connection = client_connect();
        segment = client_create(connection, "locked", 8192, SHMD_LIFETIME_HOLDERS);
        data = client_map(segment);
        ASSERT_OK(connection, shmd_prepare_locks(segment));
}

static void teardown(void) {
        shmd_close(segment);
        connection = shmd_disconnect(connection);
        daemon_teardown();
}

/* --- one process after the other --- */

START_TEST(test_exclusive) {
        ck_assert_int_eq(shmd_unlock(segment), -EPERM);
        ck_assert_int_eq(shmd_lock(segment, 2, 0), -EINVAL);
        for (int i = 0; i < 3; i++) {
                ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, i == 0 ? 0 : i == 1 ? SHMD_FOREVER : 1000), 0);
                ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EDEADLK);
                ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), -EDEADLK);
                ck_assert_int_eq(shmd_mark_consistent(segment), -EINVAL);
                ck_assert_int_eq(shmd_unlock(segment), 0);
        }
        ck_assert_int_eq(shmd_unlock(segment), -EPERM);
        ck_assert_int_eq(shmd_mark_consistent(segment), -EPERM);
}
END_TEST

START_TEST(test_shared) {
        for (int i = 0; i < 3; i++) {
                ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), 0);
                ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), -EDEADLK);
                ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EDEADLK);
                ck_assert_int_eq(shmd_mark_consistent(segment), -EPERM);
                ck_assert_int_eq(shmd_unlock(segment), 0);
        }
}
END_TEST

/* Connects anew, opens, locks as it is told to, until it is told to stop: 'x', 's', 'u', 'c' mark consistent. */
static void obey(int channel, void *userdata) {
        struct shmd *mine = client_connect();
        struct shmd_segment *opened = client_open(mine, "locked", userdata ? SHMD_READ_ONLY : SHMD_READ_WRITE);

        for (;;) {
                char order = 0;
                int r = 0;

                step_receive_data(channel, &order, 1);
                switch (order) {
                case 'x':
                        r = shmd_lock(opened, SHMD_LOCK_EXCLUSIVE, 0);
                        break;
                case 'X':
                        r = shmd_lock(opened, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER);
                        break;
                case 's':
                        r = shmd_lock(opened, SHMD_LOCK_SHARED, 0);
                        break;
                case 'S':
                        r = shmd_lock(opened, SHMD_LOCK_SHARED, SHMD_FOREVER);
                        break;
                case 'u':
                        r = shmd_unlock(opened);
                        break;
                case 'c':
                        r = shmd_mark_consistent(opened);
                        break;
                case 'k': /* closes with the lock held */
                        opened = shmd_close(opened);
                        break;
                default:
                        shmd_disconnect(mine);
                        return;
                }
                step_send_data(channel, &r, sizeof(r));
        }
}

static int answer(struct child *child) {
        int r = 0;

        step_receive_data(child->channel, &r, sizeof(r));
        return r;
}

static int order(struct child *child, char what) {
        step_send(child->channel, what);
        return answer(child);
}

static void dismiss(struct child *child) {
        step_send(child->channel, '.');
        child_join(child);
}

/* Who holds and who waits, as it is shown. */
struct seen {
        unsigned holders, sharers, waiters, confirmed, conditions;
        uint32_t pids[8];
};

static int see(const struct shmd_lock_user *user, void *userdata) {
        struct seen *seen = userdata;

        seen->pids[(seen->holders + seen->sharers + seen->waiters) % 8] = user->pid;
        if (user->waiting == SHMD_LOCK_CONDITION)
                seen->conditions++;
        else if (user->waiting)
                seen->waiters++;
        else if (user->shared)
                seen->sharers++;
        else
                seen->holders++;
        seen->confirmed += user->confirmed;
        return 0;
}

static struct seen look(uint32_t *ret_state) {
        struct seen seen = { 0 };

        ASSERT_OK(connection, shmd_lock_users(connection, shmd_id(segment), see, &seen, ret_state));
        return seen;
}

START_TEST(test_between_processes) {
        struct child a, b;

        child_start(&a, obey, NULL);
        child_start(&b, obey, NULL);
        ck_assert_int_eq(order(&a, 'x'), 0);
        ck_assert_int_eq(order(&b, 'x'), -EBUSY);
        ck_assert_int_eq(order(&b, 's'), -EBUSY);
        ck_assert_int_eq(order(&b, 'u'), -EPERM);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 1000), -ETIMEDOUT);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 1000), -ETIMEDOUT);
        ck_assert_int_eq(order(&a, 'u'), 0);
        ck_assert_int_eq(order(&a, 's'), 0);
        ck_assert_int_eq(order(&b, 's'), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        ck_assert_int_eq(order(&a, 'u'), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 1000), -ETIMEDOUT);
        ck_assert_int_eq(order(&b, 'u'), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        /* Those who wait get it. */
        step_send(a.channel, 'X');
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(answer(&a), 0);
        step_send(b.channel, 'S');
        ck_assert_int_eq(order(&a, 'u'), 0);
        ck_assert_int_eq(answer(&b), 0);
        dismiss(&a);
        dismiss(&b);
}
END_TEST

/* The next one is told; readers, too, until it has been made good. */
START_TEST(test_dead_writer) {
        struct child a, b;

        child_start(&a, obey, NULL);
        child_start(&b, obey, NULL);
        ck_assert_int_eq(order(&a, 'x'), 0);
        step_send(b.channel, 'X');
        child_kill(&a);
        ck_assert_int_eq(answer(&b), -EOWNERDEAD);
        ck_assert_int_eq(order(&b, 'c'), 0);
        ck_assert_int_eq(order(&b, 'u'), 0);
        ck_assert_int_eq(order(&b, 'x'), 0);
        child_kill(&b);

        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), -EOWNERDEAD);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
}
END_TEST

/* Who was told and died over it leaves it no better. */
START_TEST(test_dead_again) {
        struct child a, b;

        child_start(&a, obey, NULL);
        child_start(&b, obey, NULL);
        ck_assert_int_eq(order(&a, 'x'), 0);
        child_kill(&a);
        ck_assert_int_eq(order(&b, 'x'), -EOWNERDEAD);
        child_kill(&b);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
}
END_TEST

START_TEST(test_given_up) {
        struct child a, b, reader;

        child_start(&a, obey, NULL);
        child_start(&b, obey, NULL);
        child_start(&reader, obey, segment);
        ck_assert_int_eq(order(&a, 'x'), 0);
        child_kill(&a);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EOWNERDEAD);
        step_send(b.channel, 'X');
        step_send(reader.channel, 'S');
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(answer(&b), -ENOTRECOVERABLE);
        ck_assert_int_eq(answer(&reader), -ENOTRECOVERABLE);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -ENOTRECOVERABLE);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, SHMD_FOREVER), -ENOTRECOVERABLE);
        dismiss(&b);
        dismiss(&reader);
}
END_TEST

START_TEST(test_dead_reader) {
        struct child a, b;

        child_start(&a, obey, NULL);
        child_start(&b, obey, segment);
        ck_assert_int_eq(order(&a, 's'), 0);
        ck_assert_int_eq(order(&b, 's'), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        child_kill(&a);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        child_kill(&b);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
}
END_TEST

/* Who waits for a reader is woken by its death. */
START_TEST(test_reader_dies_while_awaited) {
        struct child reader, writer;

        child_start(&reader, obey, segment);
        child_start(&writer, obey, NULL);
        ck_assert_int_eq(order(&reader, 's'), 0);
        step_send(writer.channel, 'X');
        TEST_UNTIL(shmd_lock(segment, SHMD_LOCK_SHARED, 0) == -EBUSY || shmd_unlock(segment) != 0, "the writer to wait");
        child_kill(&reader);
        ck_assert_int_eq(answer(&writer), 0);
        dismiss(&writer);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), -EOWNERDEAD); /* it ended with the lock held */
}
END_TEST

/* Given back with the segment, as if its holder had died. */
START_TEST(test_closed_while_locked) {
        struct child a, b;

        child_start(&a, obey, NULL);
        child_start(&b, obey, NULL);
        ck_assert_int_eq(order(&a, 's'), 0);
        ck_assert_int_eq(order(&a, 'k'), 0);
        ck_assert_int_eq(order(&b, 'x'), 0);
        ck_assert_int_eq(order(&b, 'k'), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        dismiss(&a);
        dismiss(&b);
}
END_TEST

/* Who may not write takes no exclusive lock, but shares it. */
START_TEST(test_read_only) {
        struct child reader;

        child_start(&reader, obey, segment);
        ck_assert_int_eq(order(&reader, 'x'), -EACCES);
        ck_assert_int_eq(order(&reader, 'X'), -EACCES);
        ck_assert_int_eq(order(&reader, 's'), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        ck_assert_int_eq(order(&reader, 'u'), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(order(&reader, 's'), -EBUSY);
        step_send(reader.channel, 'S');
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(answer(&reader), 0);
        dismiss(&reader);
}
END_TEST

/* More than there are places for: the others wait for one. */
START_TEST(test_many_readers) {
        struct child readers[64];
        int busy = 0;

        for (size_t i = 0; i < ELEMENTSOF(readers); i++) {
                child_start(&readers[i], obey, segment);
                busy += order(&readers[i], 's') == -EBUSY;
        }
        ck_assert_int_eq(busy, 2);
        step_send(readers[63].channel, 'S');
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        for (size_t i = 0; i < 62; i++)
                child_kill(&readers[i]);
        ck_assert_int_eq(answer(&readers[63]), 0);
        dismiss(&readers[62]);
        dismiss(&readers[63]);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
}
END_TEST

/* Who shares the lock is told, where he would otherwise wait for one who waits for him. */
START_TEST(test_deadlock) {
        struct child writer;

        child_start(&writer, obey, NULL);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), 0);
        step_send(writer.channel, 'X');
        TEST_UNTIL(look(NULL).waiters == 1, "the writer to wait");
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EDEADLK);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), -EDEADLK);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(answer(&writer), 0);
        dismiss(&writer);
}
END_TEST

/* --- fork, exec --- */

static void use_as_child(int channel, void *userdata) {
        (void) userdata;
        ck_assert_int_eq(shmd_unlock(segment), -EPERM);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), -EBUSY);
        step_send(channel, 'b');
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        step_send(channel, 'g');
        step_expect(channel, 'u');
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), 0);
}

/* A child does not hold what its parent holds, and its end gives nothing of it back. */
START_TEST(test_fork) {
        struct child child;

        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, 0), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        child_start_inheriting(&child, use_as_child, NULL);
        step_expect(child.channel, 'b');
        ck_assert_int_eq(shmd_unlock(segment), 0);
        step_expect(child.channel, 'g');
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        step_send(child.channel, 'u');
        child_join(&child);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
}
END_TEST

static void lock_and_exec(int channel, void *userdata) {
        static const char *const arguments[] = { "cat", NULL };

        (void) userdata;
        ck_assert_int_eq(dup2(channel, STDIN_FILENO), STDIN_FILENO);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        step_send(channel, 'l');
        step_expect(channel, 'e');
        execvp(arguments[0], (char **) arguments);
        _exit(1);
}

/* The lock belongs to a thread, which exec ends. */
START_TEST(test_exec) {
        struct child child;

        child_start_inheriting(&child, lock_and_exec, NULL);
        step_expect(child.channel, 'l');
        step_send(child.channel, 'e');
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        child_kill(&child);
}
END_TEST

/* --- threads --- */

#define THREADS 4
#define SECTIONS 5000

static void section(void) {
        uint64_t self = (uint64_t) syscall(SYS_gettid);

        data->inside = self;
        data->first++;
        data->second++;
        TEST_REQUIRE(data->inside, ==, self);
        data->inside = 0;
}

static void *lock_a_lot(void *userdata) {
        (void) userdata;
        for (int i = 0; i < SECTIONS; i++) {
                TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), ==, 0);
                section();
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_SHARED, SHMD_FOREVER), ==, 0);
                TEST_REQUIRE(data->first, ==, data->second);
                TEST_REQUIRE(data->inside, ==, 0);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
        }
        return NULL;
}

static void run_threads(unsigned count, void *(*function)(void *), void *userdata) {
        pthread_t threads[THREADS];

        for (unsigned i = 0; i < count; i++)
                ck_assert_int_eq(pthread_create(&threads[i], NULL, function, userdata), 0);
        for (unsigned i = 0; i < count; i++)
                ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}

START_TEST(test_threads) {
        run_threads(THREADS, lock_a_lot, NULL);
        ck_assert_uint_eq(data->first, THREADS * SECTIONS);
        ck_assert_uint_eq(data->second, THREADS * SECTIONS);
}
END_TEST

static void *lock_and_end(void *userdata) {
        ck_assert_int_eq(shmd_lock(segment, *(unsigned *) userdata, SHMD_FOREVER), 0);
        return NULL;
}

/* A thread dies as a process does; another thread can't give back what it held. */
START_TEST(test_thread_ends) {
        unsigned shared = SHMD_LOCK_SHARED, exclusive = SHMD_LOCK_EXCLUSIVE;

        run_threads(1, lock_and_end, &shared);
        run_threads(1, lock_and_end, &exclusive);
        ck_assert_int_eq(shmd_unlock(segment), -EPERM);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
}
END_TEST

static int count_mappings(void) {
        char *maps = test_read_file("/proc/self/maps");
        int count = 0;

        for (const char *at = maps; (at = strchr(at, '\n')); at++)
                count++;
        free(maps);
        return count;
}

static void *lock_and_unlock(void *userdata) {
        (void) userdata;
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_SHARED, SHMD_FOREVER), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        return NULL;
}

/* What a thread had for its locks is of use to later ones. */
START_TEST(test_threads_come_and_go) {
        int before;

        run_threads(THREADS, lock_and_unlock, NULL);
        before = count_mappings();
        for (unsigned i = 0; i < 100; i++)
                run_threads(1, lock_and_unlock, NULL);
        if (!test_has_sanitizers())
                ck_assert_int_le(count_mappings(), before + 8);
        lock_and_unlock(NULL);
}
END_TEST

/* --- conditions --- */

#define ITEMS 2000

/* first: put, second: taken; at most 3 between them */
static void take_items(int channel, void *userdata) {
        unsigned flags = userdata ? SHMD_LOCK_SHARED : SHMD_LOCK_EXCLUSIVE;

        (void) channel;
        for (int i = 0; i < ITEMS; i++) {
                ck_assert_int_eq(shmd_lock(segment, flags, SHMD_FOREVER), 0);
                while (data->first == data->second)
                        TEST_REQUIRE(shmd_condition_wait(segment, SHMD_FOREVER), ==, 0);
                data->second++;
                TEST_REQUIRE(shmd_condition_broadcast(segment), ==, 0);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
        }
}

START_TEST(test_condition) {
        struct child child;

        child_start_inheriting(&child, take_items, NULL);
        for (int i = 0; i < ITEMS; i++) {
                ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
                while (data->first - data->second >= 3)
                        TEST_REQUIRE(shmd_condition_wait(segment, SHMD_FOREVER), ==, 0);
                data->first++;
                TEST_REQUIRE(shmd_condition_signal(segment), ==, 0);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
        }
        child_join(&child);
        ck_assert_uint_eq(data->second, ITEMS);
        ck_assert_int_eq(shmd_condition_wait(segment, 0), -EPERM);
        ck_assert_int_eq(shmd_condition_signal(segment), -EPERM);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_condition_wait(segment, 1000), -ETIMEDOUT);
        ck_assert_int_eq(shmd_unlock(segment), 0);
}
END_TEST

/* Waits for a change, with a lock that it may share alone; steps tell when it has the lock for the first time. */
static void wait_as_reader(int channel, void *userdata) {
        struct shmd *mine = client_connect();
        struct shmd_segment *opened = client_open(mine, "locked", SHMD_READ_ONLY);
        volatile struct data *seen = client_map(opened);

        (void) userdata;
        ck_assert_int_eq(shmd_lock(opened, SHMD_LOCK_SHARED, SHMD_FOREVER), 0);
        step_send(channel, 'w');
        while (seen->first == 0)
                ck_assert_int_eq(shmd_condition_wait(opened, SHMD_FOREVER), 0);
        ck_assert_int_eq(shmd_condition_signal(opened), -EPERM);
        ck_assert_int_eq(shmd_unlock(opened), 0);
        shmd_disconnect(mine);
}

START_TEST(test_condition_of_readers) {
        struct child readers[3];

        for (size_t i = 0; i < ELEMENTSOF(readers); i++) {
                child_start(&readers[i], wait_as_reader, NULL);
                step_expect(readers[i].channel, 'w');
        }
        child_kill(&readers[0]); /* who waits and dies is in nobody's way */
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        data->first = 1;
        ck_assert_int_eq(shmd_condition_broadcast(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        child_join(&readers[1]);
        child_join(&readers[2]);
}
END_TEST

static void wait_for_condition(int channel, void *userdata) {
        struct shmd *mine = client_connect();
        struct shmd_segment *opened = client_open(mine, "locked", userdata ? SHMD_READ_ONLY : SHMD_READ_WRITE);
        int r;

        ck_assert_int_eq(shmd_lock(opened, userdata ? SHMD_LOCK_SHARED : SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        r = shmd_condition_wait(opened, SHMD_FOREVER);
        ck_assert_int_eq(shmd_unlock(opened), 0);
        step_send_data(channel, &r, sizeof(r));
        shmd_disconnect(mine);
}

/* Shown; and not left alone when who was to signal has died. */
START_TEST(test_condition_and_death) {
        struct child waiters[2], dead;

        for (size_t i = 0; i < ELEMENTSOF(waiters); i++)
                child_start(&waiters[i], wait_for_condition, i ? segment : NULL);
        TEST_UNTIL(look(NULL).conditions == 2, "both to wait");
        ck_assert_uint_eq(look(NULL).waiters, 0);
        child_start(&dead, obey, NULL);
        ck_assert_int_eq(order(&dead, 'x'), 0);
        child_kill(&dead);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        for (size_t i = 0; i < ELEMENTSOF(waiters); i++) {
                ck_assert_int_eq(answer(&waiters[i]), 0);
                child_join(&waiters[i]);
        }
        ck_assert_uint_eq(look(NULL).conditions, 0);
}
END_TEST

static void wait_alone(int channel, void *userdata) {
        bool shared = userdata != NULL;
        struct shmd *mine = client_connect();
        struct shmd_segment *opened = client_open(mine, "locked", shared ? SHMD_READ_ONLY : SHMD_READ_WRITE);

        (void) channel;
        ck_assert_int_eq(shmd_lock(opened, shared ? SHMD_LOCK_SHARED : SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
        TEST_REQUIRE(shmd_condition_wait(opened, SHMD_FOREVER), ==, -EOWNERDEAD);
        if (!shared)
                ck_assert_int_eq(shmd_mark_consistent(opened), 0);
        ck_assert_int_eq(shmd_unlock(opened), 0);
        shmd_disconnect(mine);
}

/* Nobody else comes for the lock that its holder died with, or closed with its segment. */
START_TEST(test_condition_left_alone) {
        struct shmd *other = client_connect();
        struct shmd_segment *theirs = client_open(other, "locked", SHMD_READ_WRITE);
        struct child waiter, dead;

        child_start(&waiter, wait_alone, _i % 2 ? segment : NULL);
        TEST_UNTIL(look(NULL).conditions == 1, "it to wait");
        if (_i < 2) {
                child_start(&dead, obey, NULL);
                ck_assert_int_eq(order(&dead, 'x'), 0);
                child_kill(&dead);
        } else {
                ck_assert_int_eq(shmd_lock(theirs, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), 0);
                shmd_close(theirs);
        }
        child_join(&waiter);
        shmd_disconnect(other);
}
END_TEST

static void wait_for_the_end(int channel, void *userdata) {
        struct shmd *mine = client_connect();
        struct shmd_segment *opened = client_open(mine, "locked", SHMD_READ_ONLY);

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(shmd_lock(opened, SHMD_LOCK_SHARED, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_condition_wait(opened, SHMD_FOREVER), -ENOTRECOVERABLE);
        shmd_disconnect(mine);
}

/* So are those who knew of the death, when the lock is given up. */
START_TEST(test_condition_given_up) {
        struct child waiter, dead;

        child_start(&dead, obey, NULL);
        ck_assert_int_eq(order(&dead, 'x'), 0);
        child_kill(&dead);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EOWNERDEAD);
        child_start(&waiter, wait_for_the_end, NULL);
        TEST_UNTIL(look(NULL).waiters == 1, "it to wait for the lock");
        /* Not given up yet, but as if this one had died, too. */
        shmd_close(segment);
        segment = client_open(connection, "locked", SHMD_READ_WRITE);
        TEST_UNTIL(look(NULL).conditions == 1, "it to wait for the condition");
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        child_join(&waiter);
}
END_TEST

/* --- killed at any moment --- */

#define WORKERS 3
#define TARGET 10000
#define KILLS 200u

/* Long enough to be killed in. */
static void slow_section(void) {
        uint64_t self = (uint64_t) getpid();

        TEST_REQUIRE(data->inside, ==, 0);
        __atomic_store_n(&data->inside, self, __ATOMIC_RELAXED);
        __atomic_store_n(&data->first, data->first + 1, __ATOMIC_RELAXED);
        for (unsigned i = 0; i < 200; i++)
                TEST_REQUIRE(__atomic_load_n(&data->inside, __ATOMIC_RELAXED), ==, self);
        __atomic_store_n(&data->second, data->second + 1, __ATOMIC_RELAXED);
        __atomic_store_n(&data->inside, 0, __ATOMIC_RELAXED);
}

static void work(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        while (!__atomic_load_n(&data->stop, __ATOMIC_RELAXED)) {
                int r = shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER);

                if (r == -EOWNERDEAD) {
                        TEST_REQUIRE(data->first - data->second, <=, 1);
                        data->second = data->first;
                        data->inside = 0;
                        data->recovered++;
                        r = shmd_mark_consistent(segment);
                }
                TEST_REQUIRE(r, ==, 0);
                slow_section();
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
        }
}

static void read_along(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        while (!__atomic_load_n(&data->stop, __ATOMIC_RELAXED)) {
                int r = shmd_lock(segment, SHMD_LOCK_SHARED, SHMD_FOREVER);

                if (r == 0) {
                        TEST_REQUIRE(data->first, ==, data->second);
                        TEST_REQUIRE(data->inside, ==, 0);
                } else
                        TEST_REQUIRE(r, ==, -EOWNERDEAD);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                sched_yield();
        }
}

static uint64_t sections_done(void) {
        return __atomic_load_n(&data->first, __ATOMIC_RELAXED);
}

/* The daemon is killed halfway: nobody needs it. */
START_TEST(test_killed_at_any_moment) {
        struct child children[WORKERS + 1];
        unsigned seed = 4711, killed = 0;

        for (unsigned i = 0; i <= WORKERS; i++)
                child_start_inheriting(&children[i], i < WORKERS ? work : read_along, NULL);
        while (sections_done() < TARGET || killed < KILLS) {
                uint64_t until = sections_done() + 1 + (uint64_t) rand_r(&seed) % 100;
                unsigned victim = (unsigned) rand_r(&seed) % (WORKERS + 1);

                TEST_UNTIL(sections_done() >= until, "sections to go on");
                child_kill(&children[victim]);
                if (++killed == KILLS / 2) {
                        daemon_kill(&the_daemon, SIGKILL);
                        (void) daemon_wait(&the_daemon);
                }
                child_start_inheriting(&children[victim], victim < WORKERS ? work : read_along, NULL);
        }
        __atomic_store_n(&data->stop, 1, __ATOMIC_RELAXED);
        for (unsigned i = 0; i <= WORKERS; i++)
                child_join(&children[i]);
        ck_assert_uint_eq(data->first - data->second, 0);
        daemon_start_again(&the_daemon, NULL);
}
END_TEST

/* --- who means ill --- */

/* The descriptor of a part of the control memory, as any client can get it. */
static int control_fd(uint32_t part, uint32_t flags, struct raw *raw) {
        const struct shmd_wire_control control = { .id = shmd_id(segment), .part = part, .flags = flags };
        struct raw_reply reply;
        int fd = -EBADF;

        if (raw_call(raw, SHMD_OP_CONTROL, &control, NULL, 0, &reply) == 0 && reply.fds.count == 1)
                fd = TAKE_FD(reply.fds.fd[0]);
        raw_reply_done(&reply);
        return fd;
}

static char *control_map(struct raw *raw, uint32_t part) {
        _cleanup_close_ int fd = control_fd(part, 0, raw);
        size_t size = (part == 0 ? SHMD_CONTROL_LOCK_PAGES : SHMD_CONTROL_MEETING_PAGES) * (size_t) sysconf(_SC_PAGESIZE);
        void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        ck_assert(address != MAP_FAILED);
        return address;
}

/* Changed under its holder, a lock is of no use to it any more; but its process lives, and its other locks work. */
START_TEST(test_word_changed) {
        struct shmd_segment *other = client_create(connection, "other", 4096, SHMD_LIFETIME_HOLDERS);
        struct raw raw = RAW_INIT;
        struct child child;
        char *page;

        raw_connect(&raw, the_daemon.socket);
        ck_assert_uint_eq(raw_open_name(&raw, "locked", SHMD_WIRE_WRITE, NULL, NULL), 0);
        page = control_map(&raw, SHMD_WIRE_CONTROL_LOCK);

        ck_assert_int_eq(shmd_lock(other, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_uint_eq(*OWN_WORD(page), (uint32_t) getpid());
        *OWN_WORD(page) = 1;
        ck_assert_int_eq(shmd_unlock(segment), -ENOTRECOVERABLE);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -ENOTRECOVERABLE);
        ck_assert_int_eq(shmd_unlock(other), 0);
        ck_assert_int_eq(shmd_lock(other, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_unlock(other), 0);

        /* For others it is simply taken, until it is free. */
        child_start(&child, obey, NULL);
        ck_assert_int_eq(order(&child, 'x'), -EBUSY);
        *OWN_WORD(page) = 0;
        ck_assert_int_eq(order(&child, 'x'), 0);
        ck_assert_int_eq(order(&child, 'u'), 0);
        dismiss(&child);
        shmd_close(other);
        raw_close(&raw);
}
END_TEST

/* With our own number in it, which we did not put there, it is another's. */
START_TEST(test_word_with_our_number) {
        struct raw raw = RAW_INIT;
        char *page;

        raw_connect(&raw, the_daemon.socket);
        ck_assert_uint_eq(raw_open_name(&raw, "locked", SHMD_WIRE_WRITE, NULL, NULL), 0);
        page = control_map(&raw, SHMD_WIRE_CONTROL_LOCK);
        *OWN_WORD(page) = (uint32_t) getpid();
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EBUSY);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 5000), -ETIMEDOUT);
        ck_assert_int_eq(shmd_unlock(segment), -EPERM);
        *OWN_WORD(page) = 0;
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        raw_close(&raw);
}
END_TEST

/* A lock that is held is not locked once more, whatever its word says: the C library would link it twice. */
START_TEST(test_word_zeroed) {
        struct shmd_segment *other = client_create(connection, "other", 4096, SHMD_LIFETIME_HOLDERS);
        struct raw raw = RAW_INIT;
        char *page;

        raw_connect(&raw, the_daemon.socket);
        ck_assert_uint_eq(raw_open_name(&raw, "locked", SHMD_WIRE_WRITE, NULL, NULL), 0);
        page = control_map(&raw, SHMD_WIRE_CONTROL_LOCK);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        *OWN_WORD(page) = 0;
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EDEADLK);
        ck_assert_int_eq(shmd_write_begin(segment, 0), 0);
        ck_assert_int_eq(shmd_write_end(segment), 0);
        ck_assert_uint_eq(*OWN_WORD(page), 0);
        ck_assert_int_eq(shmd_unlock(segment), -ENOTRECOVERABLE);
        shmd_close(segment);
        for (unsigned i = 0; i < 3; i++) {
                ck_assert_int_eq(shmd_lock(other, SHMD_LOCK_EXCLUSIVE, 0), 0);
                ck_assert_int_eq(shmd_unlock(other), 0);
        }
        segment = client_open(connection, "locked", SHMD_READ_WRITE);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        shmd_close(other);
        raw_close(&raw);
}
END_TEST

struct stolen {
        char *page;
        unsigned flags;
};

/* Gets what another thread has, as its word was zeroed. */
static void *steal(void *userdata) {
        const struct stolen *stolen = userdata;

        *OWN_WORD(stolen->page) = 0;
        ck_assert_int_eq(shmd_lock(segment, stolen->flags, 0), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        return NULL;
}

/*
 * Two threads of one process then have the lock, but neither is led into the other's memory: which is unmapped when the thief has ended, as
 * its stack is our own.
 */
START_TEST(test_stolen_by_thread) {
        struct shmd_segment *other = client_create(connection, "other", 4096, SHMD_LIFETIME_HOLDERS);
        const size_t size = 1 << 20;
        struct stolen stolen = { .flags = _i ? SHMD_LOCK_SHARED : SHMD_LOCK_EXCLUSIVE };
        struct raw raw = RAW_INIT;
        pthread_attr_t attributes;
        pthread_t thread;
        void *stack;

        raw_connect(&raw, the_daemon.socket);
        ck_assert_uint_eq(raw_open_name(&raw, "locked", SHMD_WIRE_WRITE, NULL, NULL), 0);
        stolen.page = control_map(&raw, _i ? SHMD_WIRE_CONTROL_MEETING : SHMD_WIRE_CONTROL_LOCK);
        if (_i)
                stolen.page += 2 * sysconf(_SC_PAGESIZE); /* the first slot */
        stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ck_assert(stack != MAP_FAILED);
        ck_assert_int_eq(pthread_attr_init(&attributes), 0);
        ck_assert_int_eq(pthread_attr_setstack(&attributes, stack, size), 0);

        ck_assert_int_eq(shmd_lock(segment, stolen.flags, 0), 0);
        ck_assert_uint_eq(*OWN_WORD(stolen.page), (uint32_t) getpid());
        ck_assert_int_eq(pthread_create(&thread, &attributes, steal, &stolen), 0);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_int_eq(munmap(stack, size), 0);
        for (unsigned i = 0; i < 3; i++) {
                ck_assert_int_eq(shmd_lock(other, SHMD_LOCK_EXCLUSIVE, 0), 0);
                ck_assert_int_eq(shmd_unlock(other), 0);
        }
        ck_assert_int_eq(shmd_unlock(segment), _i ? 0 : -ENOTRECOVERABLE);
        ck_assert_int_eq(shmd_lock(other, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_unlock(other), 0);
        shmd_close(other);
        raw_close(&raw);
        (void) pthread_attr_destroy(&attributes);
}
END_TEST

static void scribble(int channel, void *userdata) {
        struct raw raw = RAW_INIT;
        unsigned seed = 99;
        char *pages[2];

        (void) userdata;
        raw_connect(&raw, the_daemon.socket);
        ck_assert_uint_eq(raw_open_name(&raw, "locked", SHMD_WIRE_WRITE, NULL, NULL), 0);
        for (uint32_t part = 0; part < 2; part++)
                pages[part] = control_map(&raw, part);
        step_send(channel, 's');
        for (;;) {
                size_t page = (size_t) sysconf(_SC_PAGESIZE), part = (size_t) rand_r(&seed) % 2;
                size_t pages_count = part == 0 ? 1 : 64, at = (size_t) rand_r(&seed) % (pages_count * page / 4);

                /* Often where it hurts */
                if (rand_r(&seed) % 2)
                        at = ((size_t) rand_r(&seed) % pages_count + 1) * page / 4 - 1 - (size_t) rand_r(&seed) % 2;
                ((uint32_t *) (void *) pages[part])[at] = (uint32_t) rand_r(&seed) << (rand_r(&seed) % 8);
        }
}

static void suffer_once(struct shmd_segment *opened, unsigned *seed) {
        uint32_t ticket;

        (void) shmd_lock(opened, (unsigned) rand_r(seed) % 2, (uint64_t) rand_r(seed) % 100);
        if (rand_r(seed) % 4 == 0)
                (void) shmd_lock(opened, (unsigned) rand_r(seed) % 2, 10);
        (void) shmd_mark_consistent(opened);
        if (rand_r(seed) % 4 == 0)
                (void) shmd_condition_wait(opened, 10);
        (void) shmd_unlock(opened);
        (void) shmd_write_begin(opened, 10);
        (void) shmd_condition_signal(opened);
        (void) shmd_write_end(opened);
        (void) shmd_read_begin(opened, 10, &ticket);
}

/* A thread of a process ends as others go on; and with it, what it has left of its locks. */
static void *suffer_shortly(void *userdata) {
        unsigned seed = 77;

        for (int i = 0; i < 50; i++)
                suffer_once(userdata, &seed);
        return NULL;
}

static void suffer(int channel, void *userdata) {
        struct shmd *mine = client_connect();
        struct shmd_segment *opened = client_open(mine, "locked", SHMD_READ_WRITE);
        unsigned seed = 5;
        pthread_t thread;

        (void) userdata;
        ASSERT_OK(mine, shmd_prepare_locks(opened));
        step_expect(channel, 'g');
        for (int i = 0; i < 3000; i++) {
                if (i % 50 == 0)
                        TEST_REQUIRE(pthread_create(&thread, NULL, suffer_shortly, opened), ==, 0);
                suffer_once(opened, &seed);
                (void) shmd_bell_ring(opened, SHMD_BELL_ALL);
                (void) shmd_bell_wait(opened, 10, NULL);
                if (i % 50 == 49)
                        TEST_REQUIRE(pthread_join(thread, NULL), ==, 0);
        }
        shmd_disconnect(mine);
}

/* Everything can be refused, and time can pass; but nobody crashes or hangs. */
START_TEST(test_scribbled_over) {
        struct child victims[2], villain;

        child_start(&villain, scribble, NULL);
        step_expect(villain.channel, 's');
        for (size_t i = 0; i < ELEMENTSOF(victims); i++) {
                child_start(&victims[i], suffer, NULL);
                step_send(victims[i].channel, 'g');
        }
        for (size_t i = 0; i < ELEMENTSOF(victims); i++)
                child_join(&victims[i]);
        child_kill(&villain);
}
END_TEST

/* --- what the daemon gives whom --- */

START_TEST(test_rights) {
        const struct shmd_wire_control unknown = { .id = shmd_id(segment), .part = 2 };
        struct raw_reply reply;
        struct raw raw = RAW_INIT;
        int fd;

        raw_connect(&raw, the_daemon.socket);
        ck_assert_int_lt(control_fd(SHMD_WIRE_CONTROL_LOCK, 0, &raw), 0); /* not held */
        ck_assert_uint_eq(raw_open_name(&raw, "locked", 0, NULL, NULL), 0);
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_CONTROL, &unknown, NULL, 0, &reply), 3); /* SHMD_INVALID */

        fd = control_fd(SHMD_WIRE_CONTROL_LOCK, 0, &raw);
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
        ck_assert(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
        close(fd);
        fd = control_fd(SHMD_WIRE_CONTROL_MEETING, 0, &raw);
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
        ck_assert_int_eq(ftruncate(fd, 0), -1);
        ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
        close(fd);
        fd = control_fd(SHMD_WIRE_CONTROL_MEETING, SHMD_WIRE_CONTROL_LOOK, &raw);
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
        close(fd);
        raw_close(&raw);
}
END_TEST

static void reopen_as_other(int channel, void *userdata) {
        struct raw raw = RAW_INIT;
        char path[64];
        int fd;

        (void) userdata;
        raw_connect(&raw, the_daemon.socket);
        ck_assert_uint_eq(raw_open_name(&raw, "locked", 0, NULL, NULL), 0);
        fd = control_fd(SHMD_WIRE_CONTROL_LOCK, 0, &raw);
        ck_assert_int_ge(fd, 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ck_assert_int_eq(open(path, O_RDWR), -1);
        ck_assert_int_eq(errno, EACCES);
        close(fd);
        raw_close(&raw);
        (void) channel;
}

/* A descriptor that is read-only can't be opened anew for writing. */
START_TEST(test_other_user) {
        const struct identity other = { .uid = 1234, .gid = 1234 };
        struct child child;

        if (!test_as_root("other users' control memory"))
                return;
        ASSERT_OK(connection, shmd_chmod(connection, "locked", 0644));
        child_start_as(&child, &other, reopen_as_other, NULL);
        child_join(&child);
}
END_TEST

/* It costs its owner, once, and goes with the segment. */
START_TEST(test_charged) {
        struct shmd_segment *other = client_create(connection, "other", 4096, SHMD_LIFETIME_HOLDERS);
        uint64_t before = client_status(connection).my_bytes.used;
        uint64_t pages = SHMD_CONTROL_LOCK_PAGES + SHMD_CONTROL_MEETING_PAGES;

        ASSERT_OK(connection, shmd_prepare_locks(other));
        ASSERT_OK(connection, shmd_prepare_locks(other));
        ck_assert_uint_eq(client_status(connection).my_bytes.used, before + pages * (uint64_t) sysconf(_SC_PAGESIZE));
        shmd_close(other);
        TEST_UNTIL(client_status(connection).my_bytes.used == before - 4096, "it to be given back");
}
END_TEST

START_TEST(test_users) {
        struct shmd_segment *other = client_create(connection, "other", 4096, SHMD_LIFETIME_HOLDERS);
        struct child a, b;
        uint32_t state = 99;
        struct seen seen;

        ASSERT_OK(connection, shmd_lock_users(connection, shmd_id(other), see, &seen, &state));
        ck_assert_uint_eq(state, SHMD_LOCK_UNUSED);
        shmd_close(other);
        ck_assert_uint_eq(look(&state).holders, 0);
        ck_assert_uint_eq(state, SHMD_LOCK_CONSISTENT);

        child_start(&a, obey, NULL);
        child_start(&b, obey, segment);
        ck_assert_int_eq(order(&a, 'x'), 0);
        step_send(b.channel, 'S');
        TEST_UNTIL(look(&state).waiters == 1, "the reader to wait");
        seen = look(NULL);
        ck_assert_uint_eq(seen.holders, 1);
        ck_assert_uint_eq(seen.sharers, 0);
        ck_assert_uint_eq(seen.confirmed, 2);
        ck_assert_uint_eq(seen.pids[0], (uint32_t) a.pid);
        ck_assert_uint_eq(seen.pids[1], (uint32_t) b.pid);
        child_kill(&a);
        ck_assert_int_eq(answer(&b), -EOWNERDEAD);
        seen = look(&state);
        ck_assert_uint_eq(state, SHMD_LOCK_OWNER_DIED);
        ck_assert_uint_eq(seen.holders, 0);
        ck_assert_uint_eq(seen.sharers, 1);
        ck_assert_uint_eq(seen.waiters, 0);
        child_kill(&b);
        seen = look(NULL);
        ck_assert_uint_eq(seen.sharers, 0);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), -EOWNERDEAD);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        (void) look(&state);
        ck_assert_uint_eq(state, SHMD_LOCK_GIVEN_UP);
        ck_assert_int_eq(shmd_lock_users(connection, 99999, see, &seen, NULL), -ENOENT);
}
END_TEST

static Suite *lock_suite(void) {
        Suite *suite = suite_create("lock");
        TCase *tests = test_case(suite, "lock", setup, teardown);

        tcase_add_test(tests, test_exclusive);
        tcase_add_test(tests, test_shared);
        tcase_add_test(tests, test_between_processes);
        tcase_add_test(tests, test_dead_writer);
        tcase_add_test(tests, test_dead_again);
        tcase_add_test(tests, test_given_up);
        tcase_add_test(tests, test_dead_reader);
        tcase_add_test(tests, test_reader_dies_while_awaited);
        tcase_add_test(tests, test_closed_while_locked);
        tcase_add_test(tests, test_read_only);
        tcase_add_test(tests, test_many_readers);
        tcase_add_test(tests, test_deadlock);
        tcase_add_test(tests, test_fork);
        tcase_add_test(tests, test_exec);
        tcase_add_test(tests, test_threads);
        tcase_add_test(tests, test_thread_ends);
        tcase_add_test(tests, test_condition);
        tcase_add_test(tests, test_condition_of_readers);
        tcase_add_test(tests, test_threads_come_and_go);
        tcase_add_test(tests, test_condition_and_death);
        tcase_add_loop_test(tests, test_condition_left_alone, 0, 4);
        tcase_add_test(tests, test_condition_given_up);
        tcase_add_test(tests, test_killed_at_any_moment);
        tcase_add_test(tests, test_word_changed);
        tcase_add_test(tests, test_word_with_our_number);
        tcase_add_test(tests, test_word_zeroed);
        tcase_add_loop_test(tests, test_stolen_by_thread, 0, 2);
        tcase_add_test(tests, test_scribbled_over);
        tcase_add_test(tests, test_rights);
        tcase_add_test(tests, test_other_user);
        tcase_add_test(tests, test_charged);
        tcase_add_test(tests, test_users);
        return suite;
}

int main(void) {
        return test_run(lock_suite());
}
