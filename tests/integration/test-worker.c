/* SPDX-License-Identifier: MIT */
/*
 * The threads for what takes long, and who gets them: daemon/worker.h, in the test's own process; then through the daemon,
 * with descriptors whose close(2) takes as long as their sender likes.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "raw.h"
#include "test.h"
#include "worker.h"

/* --- by itself --- */

#define THREADS 4u
#define USER_MAX 2u

static struct event_base *base;
static struct worker worker;
static sem_t gate; /* what jobs wait for that block */
static atomic_uint running, most;
static unsigned done;
static unsigned order[64];

struct test_job {
        struct job job; /* first */
        unsigned number;
        bool blocks;
};

static void job_run(struct job *job) {
        unsigned now = atomic_fetch_add(&running, 1) + 1, seen = atomic_load(&most);

        while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
                ;
        if (((struct test_job *) job)->blocks)
                while (sem_wait(&gate) < 0)
                        ;
        atomic_fetch_sub(&running, 1);
}

static void job_done(struct job *job) {
        ck_assert_uint_lt(done, ELEMENTSOF(order));
        order[done++] = ((struct test_job *) job)->number;
        free(job);
}

static void submit(uid_t uid, uint64_t of, bool blocks, unsigned number) {
        struct test_job *job = calloc(1, sizeof(*job));

        ck_assert_ptr_nonnull(job);
        *job = (struct test_job) {
                .job = { .run = job_run, .done = job_done, .uid = uid, .order = of },
                .number = number,
                .blocks = blocks,
        };
        worker_submit(&worker, &job->job);
}

static void await(unsigned count) {
        while (done < count)
                ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
}

static void open_gate(unsigned count) {
        while (count-- > 0)
                sem_post(&gate);
}

static void setup_worker(void) {
        done = 0;
        atomic_store(&running, 0);
        atomic_store(&most, 0);
        ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
        base = event_base_new();
        ck_assert_ptr_nonnull(base);
        ck_assert_int_eq(worker_init(&worker, base, THREADS, USER_MAX), 0);
}

static void teardown_worker(void) {
        worker_done(&worker);
        event_base_free(base);
        sem_destroy(&gate);
}

/* One has far more to do than there are threads; the other does not wait for any of it. */
START_TEST(test_users) {
        for (unsigned i = 0; i < 20; i++)
                submit(1000, 0, true, i);
        ck_assert_uint_eq(worker_load(&worker, 1000), 20);
        for (unsigned i = 0; i < 5; i++)
                submit(1001, 0, false, 100 + i);
        await(5);
        for (unsigned i = 0; i < 5; i++)
                ck_assert_uint_ge(order[i], 100); /* in whatever order: he has two threads */
        ck_assert_uint_eq(worker_load(&worker, 1000), 20);
        ck_assert_uint_eq(worker_load(&worker, 1001), 0);
        open_gate(20);
        await(25);
        ck_assert_uint_eq(worker_load(&worker, 1000), 0);
        ck_assert_uint_le(atomic_load(&most), THREADS);
}
END_TEST

START_TEST(test_share_of_threads) {
        for (unsigned i = 0; i < 20; i++)
                submit(1000, 0, true, i);
        open_gate(20);
        await(20);
        ck_assert_uint_le(atomic_load(&most), USER_MAX);
}
END_TEST

/* Two have more to do than all threads can: a third one's turn comes before theirs come a third time. */
START_TEST(test_turns) {
        for (unsigned i = 0; i < 20; i++)
                submit(1000 + i % 2, 0, true, i);
        TEST_UNTIL(atomic_load(&running) == THREADS, "all threads to be at work");
        submit(1002, 0, false, 100);
        open_gate(3);
        await(4);
        for (unsigned i = 0; i < 4; i++)
                if (order[i] == 100)
                        order[i] = order[3], order[3] = 100;
        ck_assert_uint_eq(order[3], 100);
        open_gate(17);
        await(21);
}
END_TEST

/* What concerns one segment is done one after the other, whoever asked; another segment's jobs go on beside it. */
START_TEST(test_order) {
        submit(1000, 7, true, 0);
        for (unsigned i = 1; i < 6; i++)
                submit(1000, 7, false, i);
        submit(1001, 7, false, 6);
        submit(1000, 8, false, 50);
        await(1);
        ck_assert_uint_eq(order[0], 50);
        ck_assert_uint_eq(worker_load(&worker, 1000), 6);
        ck_assert_uint_eq(worker_load(&worker, 1001), 1);
        open_gate(1);
        await(8);
        ck_assert_uint_eq(order[1], 0);
        for (unsigned i = 2, next = 1; i < 8; i++)
                if (order[i] != 6)
                        ck_assert_uint_eq(order[i], next++);
}
END_TEST

/* The end comes when all has run that was handed over. */
START_TEST(test_end) {
        for (unsigned i = 0; i < 10; i++)
                submit(1000 + i % 3, i % 2, false, i);
}
END_TEST

/* --- through the daemon --- */

static const struct identity alice = { .uid = 65533, .gid = 65533 }, bob = { .uid = 65532, .gid = 65532 };

/* As session.c has it, of few descriptors */
#define DESCRIPTORS 2048u
#define SHARE (DESCRIPTORS / 64)
#define MAXIMUM (2 * SHARE)

static void limit_descriptors(void *userdata) {
        const struct rlimit limit = { DESCRIPTORS, DESCRIPTORS };

        (void) userdata;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                _exit(125);
}

/* A connection whose close(2) waits for a minute, or until the other end, which nobody reads, is closed: socket(7), SO_LINGER. */
static int make_lingering(int listener, int *ret_other) {
        const struct linger linger = { .l_onoff = 1, .l_linger = 60 };
        struct sockaddr_in address;
        socklen_t size = sizeof(address);
        static const char bytes[65536];
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(getsockname(listener, (struct sockaddr *) &address, &size), 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *) &address, size), 0);
        *ret_other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        ck_assert_int_ge(*ret_other, 0);
        while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
                ;
        ck_assert_int_eq(errno, EAGAIN);
        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
        return fd;
}

static int make_listener(void) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), size = 4096;

        ck_assert_int_ge(fd, 0);
        (void) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)); /* inherited by what is accepted */
        ck_assert_int_eq(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
        ck_assert_int_eq(listen(fd, 128), 0);
        return fd;
}

/* Sends a descriptor that is of no segment, and closes it. */
static void bring(struct raw *raw, int fd) {
        const struct shmd_wire_resume body = { .id = 1, .access = SHMD_ACCESS_READ };

        ck_assert_int_eq(raw_request(raw, SHMD_OP_RESUME, &body, NULL, 0, &fd, 1), 0);
        ck_assert_int_eq(close(fd), 0);
}

/* The status that is answered, or zero if the daemon has hung up. */
static unsigned next_status(struct raw *raw) {
        struct raw_reply reply;
        unsigned status;

        raw_receive(raw, &reply);
        status = reply.size > 0 ? reply.header.status : 0;
        raw_reply_done(&reply);
        return status;
}

enum { NOT_FOUND = 6, OVER_LIMIT = 12 }; /* status.h does not go together with shmd.h */

static void bring_lingering(int channel, void *userdata) {
        int listener = make_listener(), fds[MAXIMUM + 1], others[MAXIMUM + 1];
        struct raw raw = RAW_INIT;
        struct shmd *own = client_connect();

        (void) userdata;
        raw_connect(&raw, the_daemon.socket);
        for (unsigned i = 0; i <= MAXIMUM; i++)
                fds[i] = make_lingering(listener, &others[i]);
        /* Whoever closes last waits: the daemon stands still until we have. */
        step_send(channel, 'c');
        step_expect(channel, 's');
        for (unsigned i = 0; i <= MAXIMUM; i++)
                bring(&raw, fds[i]);
        step_send(channel, 'b');
        for (unsigned i = 0; i <= MAXIMUM; i++)
                ck_assert_uint_eq(next_status(&raw), i < SHARE ? NOT_FOUND : i < MAXIMUM ? OVER_LIMIT : 0);
        /* What brings nothing is served, over another connection. */
        ck_assert_uint_ne(client_status(own).uptime_usec, 0);
        step_send(channel, 'r');
        step_expect(channel, 'e');
        for (unsigned i = 0; i <= MAXIMUM; i++)
                close(others[i]); /* what was not read is reset: nobody waits any longer */
        close(listener);
        raw_close(&raw);
        shmd_disconnect(own);
}

static void bring_some(int channel, void *userdata) {
        struct raw raw = RAW_INIT;

        (void) channel;
        (void) userdata;
        raw_connect(&raw, the_daemon.socket);
        for (unsigned i = 0; i < SHARE / 2; i++) {
                bring(&raw, open("/dev/null", O_RDONLY | O_CLOEXEC));
                ck_assert_uint_eq(next_status(&raw), NOT_FOUND);
        }
        raw_close(&raw);
}

START_TEST(test_close_that_blocks) {
        struct child child;
        int descriptors;

        if (!test_as_root("test_close_that_blocks"))
                return;
        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = limit_descriptors });
        child_start_as(&child, &alice, bring_lingering, NULL);
        step_expect(child.channel, 'c');
        daemon_pause(&the_daemon);
        step_send(child.channel, 's');
        step_expect(child.channel, 'b');
        daemon_resume(&the_daemon);
        step_expect(child.channel, 'r');
        /* Another's requests with descriptors are served, and closed, while all that is stuck. */
        descriptors = daemon_count_descriptors(&the_daemon);
        for (unsigned i = 0; i < 10; i++) {
                struct child other;

                child_start_as(&other, &bob, bring_some, NULL);
                child_join(&other);
                TEST_UNTIL(daemon_count_descriptors(&the_daemon) <= descriptors, "the other's descriptors to be closed");
        }
        step_send(child.channel, 'e');
        child_join(&child);
        daemon_stop(&the_daemon);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("worker");
        TCase *tests;

        tests = test_case(suite, "by itself", setup_worker, teardown_worker);
        tcase_add_test(tests, test_users);
        tcase_add_test(tests, test_share_of_threads);
        tcase_add_test(tests, test_turns);
        tcase_add_test(tests, test_order);
        tcase_add_test(tests, test_end);

        tests = test_case(suite, "through the daemon", NULL, NULL);
        tcase_add_test(tests, test_close_that_blocks);
        return test_run(suite);
}
