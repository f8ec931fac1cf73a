/* SPDX-License-Identifier: MIT */
/* Bells and sequence counters of segments: no ring is lost, no snapshot torn, whoever dies meanwhile. */
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

static struct shmd *connection;
static struct shmd_segment *segment;

static void setup(void) {
        test_watch_over();
        daemon_setup();
        ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        connection = client_connect();
        segment = client_create(connection, "rung", 65536, SHMD_LIFETIME_HOLDERS);
        ASSERT_OK(connection, shmd_prepare_locks(segment));
}

static void teardown(void) {
        shmd_close(segment);
        connection = shmd_disconnect(connection);
        daemon_teardown();
}

static bool is_readable(int fd) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

        return poll(&poll_fd, 1, 0) == 1;
}

static uint32_t open_bell(struct shmd_segment *of) {
        uint32_t number = 99;

        ASSERT_OK(connection, shmd_bell_open(of, &number));
        return number;
}

START_TEST(test_one) {
        struct shmd *other = client_connect();
        struct shmd_segment *theirs = client_open(other, "rung", SHMD_READ_ONLY);
        uint32_t mine = open_bell(segment), rings = 0;
        int fd;

        ck_assert_uint_eq(open_bell(segment), mine);
        ck_assert_uint_ne(open_bell(theirs), mine);
        ck_assert_int_eq(shmd_bell_wait(segment, 0, &rings), -EAGAIN);
        ck_assert_int_eq(shmd_bell_wait(segment, 1000, &rings), -ETIMEDOUT);
        for (int i = 0; i < 3; i++)
                ck_assert_int_eq(shmd_bell_ring(theirs, mine), 0);
        ck_assert_int_eq(shmd_bell_wait(segment, SHMD_FOREVER, &rings), 0);
        ck_assert_uint_eq(rings, 3);
        ck_assert_int_eq(shmd_bell_ring(theirs, 63), -ENOENT);
        ck_assert_int_eq(shmd_bell_ring(theirs, 64), -EINVAL);

        /* What was rung before somebody polls is not lost either. */
        ck_assert_int_eq(shmd_bell_ring(theirs, mine), 0);
        fd = shmd_bell_fd(segment);
        ck_assert(is_readable(fd));
        ck_assert_int_eq(shmd_bell_wait(segment, 0, &rings), 0);
        ck_assert_uint_eq(rings, 1);
        ck_assert(!is_readable(fd));
        ck_assert_int_eq(shmd_bell_ring(theirs, SHMD_BELL_ALL), 0);
        ck_assert(is_readable(fd));
        ck_assert_int_eq(shmd_bell_wait(segment, SHMD_FOREVER, NULL), 0);
        ck_assert_int_eq(shmd_bell_wait(theirs, 0, NULL), -EAGAIN); /* not one's own */
        ck_assert_int_eq(shmd_bell_ring(segment, SHMD_BELL_ALL), 0);
        ck_assert_int_eq(shmd_bell_wait(theirs, 0, NULL), 0);

        /* Full, as somebody has written what no ring does. */
        ck_assert_int_eq(eventfd_write(fd, UINT64_MAX - 1), 0);
        ck_assert_int_eq(shmd_bell_ring(theirs, mine), 0);
        ck_assert_int_eq(shmd_bell_wait(segment, 0, NULL), 0);
        shmd_disconnect(other);
}
END_TEST

static void open_and_wait(int channel, void *userdata) {
        struct shmd *other = client_connect();
        struct shmd_segment *theirs = client_open(other, "rung", SHMD_READ_ONLY);
        uint32_t number = 99;

        (void) userdata;
        ck_assert_int_ge(shmd_bell_fd(theirs), 0);
        ASSERT_OK(other, shmd_bell_open(theirs, &number));
        step_send_data(channel, &number, sizeof(number));
        ck_assert_int_eq(shmd_bell_wait(theirs, SHMD_FOREVER, NULL), 0);
        step_send(channel, 'w');
        step_expect(channel, 'e');
        shmd_disconnect(other);
}

/* A bell goes with its holder, and its number to the next one: what ringers remember of the dead is not rung. */
START_TEST(test_holders_come_and_go) {
        uint32_t number, again;
        struct child child;

        child_start(&child, open_and_wait, NULL);
        step_receive_data(child.channel, &number, sizeof(number));
        ck_assert_int_eq(shmd_bell_ring(segment, number), 0);
        step_expect(child.channel, 'w');
        child_kill(&child);
        (void) shmd_bell_ring(segment, SHMD_BELL_ALL);

        for (unsigned i = 0; i < 70; i++) { /* more than there are numbers */
                child_start(&child, open_and_wait, NULL);
                step_receive_data(child.channel, &again, sizeof(again));
                ck_assert_int_eq(shmd_bell_ring(segment, again), 0);
                step_expect(child.channel, 'w');
                if (i % 2)
                        child_kill(&child);
                else {
                        step_send(child.channel, 'e');
                        child_join(&child);
                }
                daemon_settle(&the_daemon, 1);
        }
}
END_TEST

START_TEST(test_all_taken) {
        struct shmd *others[64];
        struct shmd_segment *theirs = NULL;
        uint32_t number;

        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                others[i] = client_connect();
                theirs = client_open(others[i], "rung", SHMD_READ_ONLY);
                ASSERT_OK(others[i], shmd_bell_open(theirs, &number));
        }
        ck_assert_int_eq(shmd_bell_open(segment, &number), -EUSERS);
        shmd_close(theirs);
        ASSERT_OK(connection, shmd_bell_open(segment, &number));
        ck_assert_uint_eq(number, 63);
        for (size_t i = 0; i < ELEMENTSOF(others); i++)
                shmd_disconnect(others[i]);
}
END_TEST

static void fork_with_bell(int channel, void *userdata) {
        uint32_t *parents = userdata, number;

        (void) channel;
        ASSERT_OK(connection, shmd_bell_ring(segment, *parents));
        ASSERT_OK(connection, shmd_bell_open(segment, &number));
        ck_assert_uint_ne(number, *parents);
}

START_TEST(test_fork) {
        uint32_t number = open_bell(segment);
        int fd = shmd_bell_fd(segment);
        struct child child;

        child_start_inheriting(&child, fork_with_bell, &number);
        child_join(&child);
        ck_assert(is_readable(fd));
        ck_assert_int_eq(shmd_bell_wait(segment, 0, NULL), 0);
}
END_TEST

/* What would have others write elsewhere, or is another's, is not taken. */
START_TEST(test_refused) {
        const struct shmd_wire_bell mine = { .id = shmd_id(segment), .number = open_bell(segment) };
        const struct shmd_wire_bell free_one = { .id = shmd_id(segment), .number = 40 };
        const struct shmd_wire_bell none = { .id = shmd_id(segment), .number = 64 };
        struct shmd_wire_bell padded = free_one;
        int pipes[2], event = eventfd(0, 0);
        struct raw raw = RAW_INIT;
        struct raw_reply reply;

        padded.padding = 1;
        ck_assert_int_eq(pipe(pipes), 0);
        raw_connect(&raw, the_daemon.socket);
#define SET(bell, fd)                                                                          \
        ({                                                                                     \
                ck_assert_int_eq(raw_request(&raw, SHMD_OP_BELL_SET, &(bell), NULL, 0, &(fd), 1), 0); \
                raw_receive(&raw, &reply);                                                     \
                raw_reply_done(&reply);                                                        \
                reply.header.status;                                                           \
        })
        ck_assert_uint_eq(SET(free_one, event), 10); /* SHMD_NOT_HELD */
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_BELL_GET, &mine, NULL, 0, &reply), 10);
        ck_assert_uint_eq(raw_open_name(&raw, "rung", 0, NULL, NULL), 0);
        ck_assert_uint_eq(SET(free_one, pipes[1]), 3); /* SHMD_INVALID */
        ck_assert_uint_eq(SET(none, event), 3);
        ck_assert_uint_eq(SET(padded, event), 1); /* SHMD_MALFORMED */
        ck_assert_uint_eq(SET(mine, event), 11); /* SHMD_BUSY */
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_BELL_GET, &free_one, NULL, 0, &reply), 6); /* SHMD_NOT_FOUND */
        ck_assert_uint_eq(SET(free_one, event), 0);
        ck_assert_uint_eq(SET(free_one, event), 0);
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_BELL_GET, &free_one, NULL, 0, &reply), 0);
        ck_assert_uint_eq(reply.fds.count, 1);
        raw_reply_done(&reply);
        raw_close(&raw);
        close(event);
        close(pipes[0]);
        close(pipes[1]);
}
END_TEST

/* --- a million rings --- */

#define RINGERS 2
#define RINGS 500000u
#define EXCHANGES 20000u

struct task {
        uint32_t number;
        bool polls;
};

static void ring_a_lot(int channel, void *userdata) {
        const struct task *task = userdata;

        step_expect(channel, 'g');
        for (unsigned i = 0; i < RINGS; i++)
                TEST_REQUIRE(shmd_bell_ring(segment, task->number), ==, 0);
}

/* Counted, they are all there; and the one that waits for the last of them does not wait in vain. */
START_TEST(test_a_million) {
        struct task task = { .number = open_bell(segment), .polls = _i == 1 };
        struct child ringers[RINGERS];
        uint64_t total = 0;
        uint32_t rings = 0;
        int fd = task.polls ? shmd_bell_fd(segment) : -1;

        for (unsigned i = 0; i < RINGERS; i++) {
                child_start_inheriting(&ringers[i], ring_a_lot, &task);
                step_send(ringers[i].channel, 'g');
        }
        while (total < (uint64_t) RINGERS * RINGS) {
                if (task.polls) {
                        test_wait_readable(fd, "a ring");
                        if (shmd_bell_wait(segment, 0, &rings) != 0)
                                continue;
                } else
                        ck_assert_int_eq(shmd_bell_wait(segment, SHMD_FOREVER, &rings), 0);
                total += rings;
        }
        TEST_REQUIRE(total, ==, (uint64_t) RINGERS * RINGS);
        ck_assert_int_eq(shmd_bell_wait(segment, 0, NULL), -EAGAIN);
        for (unsigned i = 0; i < RINGERS; i++)
                child_join(&ringers[i]);
}
END_TEST

static void answer_rings(int channel, void *userdata) {
        const struct task *task = userdata;
        struct shmd *other = client_connect();
        struct shmd_segment *theirs = client_open(other, "rung", SHMD_READ_ONLY);
        int fd = task->polls ? shmd_bell_fd(theirs) : -1;
        uint32_t number;

        ASSERT_OK(other, shmd_bell_open(theirs, &number));
        step_send_data(channel, &number, sizeof(number));
        for (unsigned i = 0; i < EXCHANGES; i++) {
                if (task->polls)
                        test_wait_readable(fd, "a ring");
                TEST_REQUIRE(shmd_bell_wait(theirs, SHMD_FOREVER, NULL), ==, 0);
                TEST_REQUIRE(shmd_bell_ring(theirs, task->number), ==, 0);
        }
        shmd_disconnect(other);
}

/* To and fro: each ring finds somebody asleep, or about to be; once, the daemon dies meanwhile. */
START_TEST(test_to_and_fro) {
        struct task task = { .number = open_bell(segment), .polls = _i == 1 };
        struct child child;
        uint32_t theirs, rings;

        child_start(&child, answer_rings, &task);
        step_receive_data(child.channel, &theirs, sizeof(theirs));
        for (unsigned i = 0; i < EXCHANGES; i++) {
                TEST_REQUIRE(shmd_bell_ring(segment, theirs), ==, 0);
                TEST_REQUIRE(shmd_bell_wait(segment, SHMD_FOREVER, &rings), ==, 0);
                TEST_REQUIRE(rings, ==, 1);
                if (i == EXCHANGES / 2) {
                        daemon_kill(&the_daemon, SIGKILL);
                        (void) daemon_wait(&the_daemon);
                }
        }
        child_join(&child);
        daemon_start_again(&the_daemon, NULL);
}
END_TEST

/* --- sequence --- */

#define WORDS 512
#define READERS 4
#define SNAPSHOTS 5000u

static void write_on(int channel, void *userdata) {
        volatile uint64_t *words = client_map(segment);

        (void) userdata;
        step_send(channel, 'w');
        for (uint64_t n = words[0] + 1;; n++) {
                int r = shmd_write_begin(segment, SHMD_FOREVER);

                TEST_REQUIRE(r, ==, 0);
                for (unsigned i = 0; i < WORDS; i++)
                        words[i] = n;
                TEST_REQUIRE(shmd_write_end(segment), ==, 0);
        }
}

static void read_snapshots(int channel, void *userdata) {
        struct shmd *other = client_connect();
        struct shmd_segment *theirs = client_open(other, "rung", SHMD_READ_ONLY);
        const volatile uint64_t *words = client_map(theirs);
        uint64_t copy[WORDS], last = 0;
        uint32_t ticket;

        (void) userdata;
        step_expect(channel, 'g');
        for (unsigned n = 0; n < SNAPSHOTS; n++) {
                if (n % 2)
                        TEST_REQUIRE(shmd_read_copy(theirs, 0, copy, sizeof(copy), SHMD_FOREVER), ==, 0);
                else
                        do {
                                TEST_REQUIRE(shmd_read_begin(theirs, SHMD_FOREVER, &ticket), ==, 0);
                                for (unsigned i = 0; i < WORDS; i++)
                                        copy[i] = words[i];
                        } while (shmd_read_retry(theirs, ticket));
                for (unsigned i = 1; i < WORDS; i++)
                        TEST_REQUIRE(copy[i], ==, copy[0]);
                TEST_REQUIRE(copy[0], >=, last);
                last = copy[0];
        }
        TEST_REQUIRE(last, >, 0);
        shmd_disconnect(other);
}

/* While the writer runs at full speed. */
START_TEST(test_snapshots) {
        struct child writer, readers[READERS];

        child_start_inheriting(&writer, write_on, NULL);
        step_expect(writer.channel, 'w');
        for (unsigned i = 0; i < READERS; i++)
                child_start(&readers[i], read_snapshots, NULL);
        for (unsigned i = 0; i < READERS; i++)
                step_send(readers[i].channel, 'g');
        for (unsigned i = 0; i < READERS; i++)
                child_join(&readers[i]);
        child_kill(&writer);
}
END_TEST

static void begin_to_write(int channel, void *userdata) {
        (void) userdata;
        ck_assert_int_eq(shmd_write_begin(segment, SHMD_FOREVER), 0);
        ck_assert_int_eq(shmd_write_begin(segment, 0), -EDEADLK);
        ck_assert_int_eq(shmd_unlock(segment), -EBUSY);
        step_send(channel, 'b');
        step_expect(channel, 'e');
}

/* Readers learn that it has died, and when the data are whole again. */
START_TEST(test_dead_writer) {
        struct shmd *other = client_connect();
        struct shmd_segment *theirs = client_open(other, "rung", SHMD_READ_ONLY);
        struct child writer;
        uint32_t ticket;
        char byte;

        ck_assert_int_eq(shmd_write_end(segment), -EPERM);
        ck_assert_int_eq(shmd_write_begin(theirs, 0), -EACCES);
        ck_assert_int_eq(shmd_read_copy(theirs, 65536, &byte, 1, 0), -EINVAL);
        ck_assert_int_eq(shmd_read_copy(theirs, UINT64_MAX, &byte, 1, 0), -EINVAL);
        ck_assert_int_eq(shmd_read_copy(theirs, 65535, &byte, 1, 0), 0);
        child_start_inheriting(&writer, begin_to_write, NULL);
        step_expect(writer.channel, 'b');
        ck_assert_int_eq(shmd_read_begin(theirs, 0, &ticket), -EBUSY);
        ck_assert_int_eq(shmd_read_begin(theirs, 1000, &ticket), -ETIMEDOUT);
        ck_assert_int_eq(shmd_read_copy(theirs, 0, &byte, 1, 0), -EBUSY);
        child_kill(&writer);
        ck_assert_int_eq(shmd_read_begin(theirs, SHMD_FOREVER, &ticket), -EOWNERDEAD);
        ck_assert_int_eq(shmd_read_copy(theirs, 0, &byte, 1, SHMD_FOREVER), -EOWNERDEAD);

        ck_assert_int_eq(shmd_write_begin(segment, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_read_begin(theirs, 0, &ticket), -EBUSY);
        ck_assert_int_eq(shmd_write_end(segment), 0);
        ck_assert_int_eq(shmd_read_begin(theirs, 0, &ticket), 0);
        ck_assert_int_eq(shmd_read_retry(theirs, ticket), 0);

        /* Within a lock that is held already it stays held; and who says so without writing makes it good, too. */
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_write_begin(segment, 0), 0);
        ck_assert_int_eq(shmd_write_end(segment), 0);
        ck_assert_int_eq(shmd_read_retry(theirs, ticket), 1);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        child_start_inheriting(&writer, begin_to_write, NULL);
        step_expect(writer.channel, 'b');
        child_kill(&writer);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_mark_consistent(segment), 0);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(shmd_read_begin(theirs, 0, &ticket), 0);

        /* Given up: for good. */
        child_start_inheriting(&writer, begin_to_write, NULL);
        step_expect(writer.channel, 'b');
        child_kill(&writer);
        ck_assert_int_eq(shmd_write_begin(segment, SHMD_FOREVER), -EOWNERDEAD);
        ck_assert_int_eq(shmd_write_end(segment), 0);
        ck_assert_int_eq(shmd_read_begin(theirs, SHMD_FOREVER, &ticket), -ENOTRECOVERABLE);
        shmd_disconnect(other);
}
END_TEST

static Suite *bell_suite(void) {
        Suite *suite = suite_create("bell");
        TCase *tests = test_case(suite, "bell", setup, teardown);

        tcase_add_test(tests, test_one);
        tcase_add_test(tests, test_holders_come_and_go);
        tcase_add_test(tests, test_all_taken);
        tcase_add_test(tests, test_fork);
        tcase_add_test(tests, test_refused);
        tcase_add_loop_test(tests, test_a_million, 0, 2);
        tcase_add_loop_test(tests, test_to_and_fro, 0, 2);
        tcase_add_test(tests, test_snapshots);
        tcase_add_test(tests, test_dead_writer);
        return suite;
}

int main(void) {
        return test_run(bell_suite());
}
