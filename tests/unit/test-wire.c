/* SPDX-License-Identifier: MIT */
/* Framing: one message is one datagram, whole, with all of its descriptors, or it is an error: protocol/wire.h. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "util.h"
#include "wire.h"

static int pair[2] = { -EBADF, -EBADF };
static unsigned descriptors_before;

static unsigned count_descriptors(void) {
        DIR *directory = opendir("/proc/self/fd");
        unsigned count = 0;

        ck_assert_ptr_nonnull(directory);
        while (readdir(directory))
                count++;
        closedir(directory);
        return count;
}

static void setup(void) {
        descriptors_before = count_descriptors();
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
}

static void teardown(void) {
        pair[0] = close_fd(pair[0]);
        pair[1] = close_fd(pair[1]);
        ck_assert_uint_eq(count_descriptors(), descriptors_before);
}

static int send_fds(const int *fds, unsigned count) {
        const struct shmd_wire_header header = { .operation = 1 };

        return wire_send(pair[0], &header, NULL, 0, NULL, 0, fds, count, 0);
}

/* The same descriptor again and again: each becomes one of its own on the other side. */
static int send_many(unsigned count) {
        int fds[SHMD_DESCRIPTORS_MAX + 1];

        for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = pair[0];
        return send_fds(fds, count);
}

START_TEST(test_parts_arrive_as_one) {
        const struct shmd_wire_header header = { .operation = 7, .serial = 0x01020304 };
        const uint64_t body = 0x1122334455667788;
        char expected[sizeof(header) + sizeof(body) + 4];
        char buffer[64];
        struct wire_fds fds = WIRE_FDS_INIT;

        memcpy(expected, &header, sizeof(header));
        memcpy(expected + sizeof(header), &body, sizeof(body));
        memcpy(expected + sizeof(header) + sizeof(body), "tail", 4);

        ck_assert_int_eq(wire_send(pair[0], &header, &body, sizeof(body), "tail", 4, NULL, 0, 0), 0);
        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), sizeof(expected));
        ck_assert_mem_eq(buffer, expected, sizeof(expected));
        ck_assert_uint_eq(fds.count, 0);
}
END_TEST

START_TEST(test_boundaries_are_kept) {
        struct shmd_wire_header header = { .operation = 1 };
        char buffer[64];
        struct wire_fds fds = WIRE_FDS_INIT;

        for (size_t i = 0; i < 10; i++)
                ck_assert_int_eq(wire_send(pair[0], &header, NULL, 0, "0123456789", i, NULL, 0, 0), 0);
        for (size_t i = 0; i < 10; i++)
                ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), sizeof(header) + i);
        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, MSG_DONTWAIT), -EAGAIN);
}
END_TEST

START_TEST(test_largest_message) {
        static char tail[SHMD_MESSAGE_MAX - sizeof(struct shmd_wire_header)];
        static char buffer[SHMD_MESSAGE_MAX];
        const struct shmd_wire_header header = { .operation = 1 };
        struct wire_fds fds = WIRE_FDS_INIT;

        memset(tail, 'x', sizeof(tail));
        ck_assert_int_eq(wire_send(pair[0], &header, NULL, 0, tail, sizeof(tail), NULL, 0, 0), 0);
        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), SHMD_MESSAGE_MAX);
        ck_assert_mem_eq(buffer + sizeof(header), tail, sizeof(tail));
}
END_TEST

/* What is longer than the buffer is no message, and the next one is not harmed. */
START_TEST(test_too_long) {
        const struct shmd_wire_header header = { .operation = 1 };
        char buffer[16];
        struct wire_fds fds = WIRE_FDS_INIT;

        ck_assert_int_eq(wire_send(pair[0], &header, "0123456789", 10, NULL, 0, pair, 2, 0), 0);
        ck_assert_int_eq(wire_send(pair[0], &header, NULL, 0, NULL, 0, NULL, 0, 0), 0);
        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), -EMSGSIZE);
        ck_assert_uint_eq(fds.count, 2); /* the caller's, also now */
        wire_fds_done(&fds);
        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), sizeof(header));
}
END_TEST

START_TEST(test_descriptors) {
        static const unsigned counts[] = { 1, 2, 64, SHMD_DESCRIPTORS_MAX };
        char buffer[64];
        struct wire_fds fds = WIRE_FDS_INIT;
        struct stat sent, received;

        ck_assert_int_eq(fstat(pair[0], &sent), 0);
        ck_assert_int_eq(send_many(counts[_i]), 0);
        ck_assert_int_gt(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), 0);
        ck_assert_uint_eq(fds.count, counts[_i]);
        for (unsigned i = 0; i < fds.count; i++) {
                ck_assert_int_eq(fstat(fds.fd[i], &received), 0);
                ck_assert_uint_eq(received.st_ino, sent.st_ino);
                /* Else every program that the receiver starts has them. */
                ck_assert_int_eq(fcntl(fds.fd[i], F_GETFD), FD_CLOEXEC);
        }
        wire_fds_done(&fds);
        ck_assert_uint_eq(fds.count, 0);
}
END_TEST

START_TEST(test_too_many_descriptors) {
        char buffer[64];
        struct wire_fds fds = WIRE_FDS_INIT;

        ck_assert_int_eq(send_many(SHMD_DESCRIPTORS_MAX + 1), -EINVAL);
        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, MSG_DONTWAIT), -EAGAIN);
}
END_TEST

START_TEST(test_bad_descriptor) {
        const int bad = -EBADF;

        ck_assert_int_eq(send_fds(&bad, 1), -EBADF);
}
END_TEST

/* Descriptors in several control messages of one datagram are all collected. */
START_TEST(test_several_control_messages) {
        union {
                struct cmsghdr align;
                char bytes[2 * CMSG_SPACE(sizeof(int))];
        } control = { .bytes = { 0 } };
        struct shmd_wire_header header = { .operation = 1 };
        struct iovec part = { &header, sizeof(header) };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                                  .msg_controllen = sizeof(control) };
        char buffer[64];
        struct wire_fds fds = WIRE_FDS_INIT;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(c), &pair[0], sizeof(int));
        }
        ck_assert_int_eq(sendmsg(pair[0], &message, 0), sizeof(header));
        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), sizeof(header));
        ck_assert_uint_eq(fds.count, 2);
        wire_fds_done(&fds);
}
END_TEST

/* At the descriptor limit the kernel drops what does not fit and says so: a message that lost some is an error. */
START_TEST(test_lost_descriptors) {
        struct rlimit before, few;
        char buffer[64];
        struct wire_fds fds = WIRE_FDS_INIT;
        int lowest;

        ck_assert_int_eq(send_many(8), 0);
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
        lowest = dup(pair[0]);
        ck_assert_int_ge(lowest, 0);
        close(lowest);
        few = (struct rlimit) { .rlim_cur = (rlim_t) lowest + 3, .rlim_max = before.rlim_max };
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);

        ck_assert_int_eq(wire_receive(pair[1], buffer, sizeof(buffer), &fds, 0), -EBADMSG);
        ck_assert_uint_lt(fds.count, 8);
        wire_fds_done(&fds);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
}
END_TEST

/* Neither a signal nor a success: the library may not rely on how its program treats SIGPIPE. */
START_TEST(test_peer_gone) {
        char buffer[64];
        struct wire_fds fds = WIRE_FDS_INIT;

        signal(SIGPIPE, SIG_DFL);
        pair[1] = close_fd(pair[1]);
        ck_assert_int_eq(send_fds(NULL, 0), -EPIPE);
        ck_assert_int_eq(wire_receive(pair[0], buffer, sizeof(buffer), &fds, 0), 0);
}
END_TEST

START_TEST(test_full) {
        unsigned sent = 0;
        const struct shmd_wire_header header = { .operation = 1 };
        int r;

        while ((r = wire_send(pair[0], &header, NULL, 0, NULL, 0, NULL, 0, MSG_DONTWAIT)) == 0)
                ck_assert_uint_lt(sent++, 1000000);
        ck_assert_int_eq(r, -EAGAIN);
}
END_TEST

static void on_signal(int number) {
        (void) number;
}

/* Interrupts the receiver until a signal has surely hit it inside recvmsg: then sends. */
static void *interrupt_then_send(void *receiver) {
        const struct shmd_wire_header header = { .operation = 42 };

        for (int i = 0; i < 2000; i++) {
                pthread_kill(*(pthread_t *) receiver, SIGUSR1);
                sched_yield();
        }
        wire_send(pair[0], &header, NULL, 0, NULL, 0, NULL, 0, 0);
        return NULL;
}

START_TEST(test_interrupted) {
        struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART */
        pthread_t self = pthread_self(), thread;
        struct shmd_wire_header header;
        struct wire_fds fds = WIRE_FDS_INIT;

        ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
        ck_assert_int_eq(pthread_create(&thread, NULL, interrupt_then_send, &self), 0);
        ck_assert_int_eq(wire_receive(pair[1], &header, sizeof(header), &fds, 0), sizeof(header));
        ck_assert_int_eq(header.operation, 42);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

/* Each byte alone breaks the zeros, at every length. */
START_TEST(test_is_zero) {
        char bytes[24] = { 0 };

        ck_assert(wire_is_zero(NULL, 0));
        for (size_t size = 1; size <= sizeof(bytes); size++) {
                ck_assert(wire_is_zero(bytes, size));
                for (size_t i = 0; i < size; i++) {
                        bytes[i] = (char) 0x80;
                        ck_assert(!wire_is_zero(bytes, size));
                        bytes[i] = 0;
                }
        }
}
END_TEST

static Suite *wire_suite(void) {
        Suite *suite = suite_create("wire");
        TCase *tests = tcase_create("wire");

        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, test_parts_arrive_as_one);
        tcase_add_test(tests, test_boundaries_are_kept);
        tcase_add_test(tests, test_largest_message);
        tcase_add_test(tests, test_too_long);
        tcase_add_loop_test(tests, test_descriptors, 0, 4);
        tcase_add_test(tests, test_too_many_descriptors);
        tcase_add_test(tests, test_bad_descriptor);
        tcase_add_test(tests, test_several_control_messages);
        tcase_add_test(tests, test_lost_descriptors);
        tcase_add_test(tests, test_peer_gone);
        tcase_add_test(tests, test_full);
        tcase_add_test(tests, test_interrupted);
        tcase_add_test(tests, test_is_zero);
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(wire_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
