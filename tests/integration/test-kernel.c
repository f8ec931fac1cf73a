/* SPDX-License-Identifier: MIT */
/*
 * What shmd takes for granted of the kernel, without shmd: where a kernel differs, this fails, and says in what. The
 * daemon's lease.h, memfd.h and generation.c rest on these; so does the wire's limit of descriptors.
 */
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "process.h"
#include "test.h"
#include "wire.h"

static int guard; /* the daemon's own description */

static int reopen(int fd, int flags) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        return open(path, flags | O_CLOEXEC | O_NONBLOCK);
}

static void setup(void) {
        int fd = memfd_create("test-kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, 4096), 0);
        ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        guard = reopen(fd, O_RDWR);
        ck_assert_int_ge(guard, 0);
        close(fd);
        signal(SIGIO, SIG_IGN);
}

static void teardown(void) {
        close(guard);
}

/* Whether the kernel says that nobody else has it. */
static bool is_alone(void) {
        if (fcntl(guard, F_SETLEASE, F_WRLCK) < 0) {
                ck_assert_int_eq(errno, EAGAIN);
                return false;
        }
        ck_assert_int_eq(fcntl(guard, F_SETLEASE, F_UNLCK), 0);
        return true;
}

START_TEST(test_lease_tells_descriptors) {
        int fd;

        ck_assert(is_alone());
        fd = reopen(guard, O_RDWR);
        ck_assert(!is_alone());
        close(fd);
        ck_assert(is_alone());
        fd = reopen(guard, O_RDONLY);
        ck_assert(!is_alone());
        close(fd);
        ck_assert(is_alone());
}
END_TEST

START_TEST(test_lease_tells_mappings) {
        static const int accesses[] = { O_RDONLY, O_RDWR };

        for (size_t i = 0; i < ELEMENTSOF(accesses); i++) {
                int fd = reopen(guard, accesses[i]);
                void *address = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

                ck_assert_ptr_ne(address, MAP_FAILED);
                close(fd);
                ck_assert(!is_alone());
                munmap(address, 4096);
                ck_assert(is_alone());
        }
}
END_TEST

START_TEST(test_lease_tells_what_is_in_flight) {
        int pair[2], fd = reopen(guard, O_RDONLY);

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        step_send_fd(pair[0], fd);
        close(fd);
        ck_assert(!is_alone());
        fd = step_receive_fd(pair[1]);
        ck_assert(!is_alone());
        close(fd);
        ck_assert(is_alone());
        fd = reopen(guard, O_RDWR);
        step_send_fd(pair[0], fd);
        close(fd);
        ck_assert(!is_alone());
        close(pair[0]);
        close(pair[1]);
        /* Sockets with descriptors in them may be torn down a moment later. */
        TEST_UNTIL(is_alone(), "the kernel to drop what nobody can receive any more");
}
END_TEST

/* The guard stands against leases of others, so nobody can make the daemon's open wait. */
START_TEST(test_no_lease_beside_the_guard) {
        int fd = reopen(guard, O_RDWR);

        ck_assert_int_eq(fcntl(fd, F_SETLEASE, F_WRLCK), -1);
        ck_assert_int_eq(fcntl(fd, F_SETLEASE, F_RDLCK), -1);
        close(fd);
        fd = reopen(guard, O_RDONLY);
        ck_assert_int_eq(fcntl(fd, F_SETLEASE, F_RDLCK), -1);
        close(fd);
}
END_TEST

static int watch(void) {
        char path[64];
        int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

        snprintf(path, sizeof(path), "/proc/self/fd/%d", guard);
        ck_assert_int_ge(inotify_add_watch(fd, path, IN_CLOSE), 0);
        return fd;
}

static uint32_t next_event(int inotify_fd) {
        _Alignas(struct inotify_event) char buffer[4096];
        ssize_t n;

        test_wait_readable(inotify_fd, "an inotify event");
        n = read(inotify_fd, buffer, sizeof(buffer));
        ck_assert_int_ge(n, sizeof(struct inotify_event));
        return ((struct inotify_event *) buffer)->mask;
}

static bool has_event(int inotify_fd) {
        char buffer[4096];

        return read(inotify_fd, buffer, sizeof(buffer)) > 0;
}

START_TEST(test_inotify_tells_the_last_close) {
        int inotify_fd = watch();
        int fd = reopen(guard, O_RDWR), second = dup(fd);
        void *address = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

        close(fd);
        close(second);
        ck_assert(!has_event(inotify_fd)); /* the mapping is left */
        munmap(address, 4096);
        ck_assert_uint_eq(next_event(inotify_fd), IN_CLOSE_WRITE);
        close(reopen(guard, O_RDONLY));
        ck_assert_uint_eq(next_event(inotify_fd), IN_CLOSE_NOWRITE);
        ck_assert(is_alone());
        close(inotify_fd);
}
END_TEST

static void map_and_wait(int channel, void *userdata) {
        int fd = step_receive_fd(channel);

        (void) userdata;
        ck_assert_ptr_ne(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
        close(fd);
        step_send(channel, 'm');
        step_expect(channel, 'n');
}

START_TEST(test_inotify_tells_a_death) {
        int inotify_fd = watch(), fd;
        struct child child;

        child_start(&child, map_and_wait, NULL);
        fd = reopen(guard, O_RDONLY);
        step_send_fd(child.channel, fd);
        close(fd);
        step_expect(child.channel, 'm');
        ck_assert(!has_event(inotify_fd));
        ck_assert(!is_alone());
        child_kill(&child);
        ck_assert_uint_eq(next_event(inotify_fd), IN_CLOSE_NOWRITE);
        ck_assert(is_alone());
        close(inotify_fd);
}
END_TEST

/* The inode's mode decides about a reopen through /proc; a memfd is born open to all. */
START_TEST(test_mode_of_inode) {
        struct stat inode;
        int fd;

        ck_assert_int_eq(fstat(guard, &inode), 0);
        ck_assert_uint_eq(inode.st_mode & 0777, 0777);
        ck_assert_int_eq(fchmod(guard, 0400), 0);
        if (geteuid() == 0) {
                test_skip("test_mode_of_inode: root may open anything");
                return;
        }
        fd = reopen(guard, O_RDONLY);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(reopen(fd, O_RDWR), -1);
        ck_assert_int_eq(errno, EACCES);
        close(fd);
}
END_TEST

START_TEST(test_seals) {
        ck_assert_int_eq(ftruncate(guard, 0), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(ftruncate(guard, 8192), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(pwrite(guard, "x", 1, 4096), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(pwrite(guard, "x", 1, 4095), 1);
}
END_TEST

/* F_SEAL_FUTURE_WRITE: the mapping that exists writes on, and nobody else, not even by a new open. */
START_TEST(test_future_write_seal) {
        volatile char *address = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, guard, 0);
        int fd;

        ck_assert_ptr_ne((void *) address, MAP_FAILED);
        ck_assert_int_eq(fcntl(guard, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
        address[0] = 'x';
        fd = reopen(guard, O_RDWR);
        ck_assert_ptr_eq(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(pwrite(fd, "y", 1, 0), -1);
        ck_assert_int_eq(address[0], 'x');
        close(fd);
        munmap((void *) address, 4096);
}
END_TEST

/* SHMD_DESCRIPTORS_MAX is the kernel's: one more and nothing is sent. */
START_TEST(test_descriptors_of_a_message) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * (SHMD_DESCRIPTORS_MAX + 1))];
        } control;
        struct iovec part = { (void *) "x", 1 };
        int pair[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        for (unsigned count = SHMD_DESCRIPTORS_MAX; count <= SHMD_DESCRIPTORS_MAX + 1; count++) {
                struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                                          .msg_controllen = CMSG_SPACE(sizeof(int) * count) };
                struct cmsghdr *header = CMSG_FIRSTHDR(&message);

                memset(&control, 0, sizeof(control));
                header->cmsg_level = SOL_SOCKET;
                header->cmsg_type = SCM_RIGHTS;
                header->cmsg_len = CMSG_LEN(sizeof(int) * count);
                for (unsigned i = 0; i < count; i++)
                        memcpy(CMSG_DATA(header) + i * sizeof(int), &guard, sizeof(int));
                ck_assert_int_eq(sendmsg(pair[0], &message, MSG_DONTWAIT), count <= SHMD_DESCRIPTORS_MAX ? 1 : -1);
        }
        close(pair[0]);
        close(pair[1]);
}
END_TEST

static Suite *kernel_suite(void) {
        Suite *suite = suite_create("kernel");
        TCase *tests = test_case(suite, "kernel", setup, teardown);

        tcase_add_test(tests, test_lease_tells_descriptors);
        tcase_add_test(tests, test_lease_tells_mappings);
        tcase_add_test(tests, test_lease_tells_what_is_in_flight);
        tcase_add_test(tests, test_no_lease_beside_the_guard);
        tcase_add_test(tests, test_inotify_tells_the_last_close);
        tcase_add_test(tests, test_inotify_tells_a_death);
        tcase_add_test(tests, test_mode_of_inode);
        tcase_add_test(tests, test_seals);
        tcase_add_test(tests, test_future_write_seal);
        tcase_add_test(tests, test_descriptors_of_a_message);
        return suite;
}

int main(void) {
        return test_run(kernel_suite());
}
