/* SPDX-License-Identifier: MIT */
/* One segment through the library and the real daemon: make, open, map, share, close. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

START_TEST(test_create) {
        struct shmd_segment *segment = client_create(connection, "video/frames", 10000, SHMD_LIFETIME_PERSIST);
        const unsigned char *bytes = client_map(segment);
        struct stat inode;

        ck_assert_int_eq(shmd_created(segment), 1);
        ck_assert_uint_gt(shmd_id(segment), 0);
        ck_assert_uint_eq(shmd_size(segment), 10000);
        ck_assert_int_eq(fstat(shmd_fd(segment), &inode), 0);
        ck_assert_int_eq(inode.st_size, 10000); /* exact: not rounded to pages */
        ck_assert_int_eq(inode.st_mode & 07777, 0600);
        ck_assert_int_eq(inode.st_uid, geteuid());
        ck_assert_int_eq(inode.st_gid, getegid());
        ck_assert_int_eq(fcntl(shmd_fd(segment), F_GETFD), FD_CLOEXEC);
        ck_assert_int_eq(fcntl(shmd_fd(segment), F_GETFL) & O_ACCMODE, O_RDWR);
        for (int i = 0; i < 10000; i++)
                if (bytes[i] != 0)
                        ck_abort_msg("byte %d is not zero", i);
        ck_assert_ptr_eq(client_map(segment), bytes); /* the same address each time */
        ck_assert_ptr_null(shmd_close(segment));
}
END_TEST

static const uint64_t sizes[] = { 1, 7, 4095, 4096, 4097, 65537, (1u << 30) + 1 };

START_TEST(test_sizes) {
        struct shmd_segment *segment = client_create(connection, "size", sizes[_i], SHMD_LIFETIME_PERSIST);
        struct shmd_segment *reader = client_open(connection, "size", SHMD_READ_ONLY);
        volatile unsigned char *bytes = client_map(segment);

        bytes[sizes[_i] - 1] = 0x5a;
        ck_assert_uint_eq(((unsigned char *) client_map(reader))[sizes[_i] - 1], 0x5a);
        ck_assert_uint_eq(shmd_size(reader), sizes[_i]);
        ck_assert_uint_eq(client_stat(connection, "size").size_bytes, sizes[_i]);
        shmd_close(reader);
        shmd_close(segment);
}
END_TEST

START_TEST(test_impossible_sizes) {
        static const uint64_t large[] = { UINT64_C(1) << 63, (UINT64_C(1) << 63) - 1, UINT64_MAX, UINT64_MAX - 4095 };

        ck_assert_int_eq(client_try_create(connection, "size", 0, 0, NULL), -EINVAL);
        for (size_t i = 0; i < ELEMENTSOF(large); i++)
                ck_assert_int_eq(client_try_create(connection, "size", large[i], 0, NULL), -EFBIG);
        ck_assert(!client_exists(connection, "size"));
}
END_TEST

/* No holder gets SIGBUS: neither owner nor anybody else can shrink it. Fails without F_SEAL_SHRINK. */
START_TEST(test_sealed) {
        struct shmd_segment *segment = client_create(connection, "sealed", 8192, SHMD_LIFETIME_PERSIST);
        int fd = shmd_fd(segment);

        ck_assert_int_eq(fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
        ck_assert_int_eq(ftruncate(fd, 4096), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(ftruncate(fd, 16384), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(pwrite(fd, "x", 1, 8192), -1); /* would grow it */
        ck_assert_int_eq(errno, EPERM);
        shmd_close(segment);
}
END_TEST

START_TEST(test_read_only) {
        struct shmd_segment *segment = client_create(connection, "ro", 4096, SHMD_LIFETIME_PERSIST);
        struct shmd_segment *reader = client_open(connection, "ro", SHMD_READ_ONLY);
        int fd = shmd_fd(reader);

        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
        ck_assert_ptr_eq(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        ck_assert_int_eq(errno, EACCES);
        ck_assert_int_eq(pwrite(fd, "x", 1, 0), -1);
        ck_assert_int_eq(mprotect(client_map(reader), 4096, PROT_READ | PROT_WRITE), -1);
        ck_assert_int_eq(errno, EACCES);
        ck_assert_int_eq(ftruncate(fd, 0), -1);
        shmd_close(reader);
        shmd_close(segment);
}
END_TEST

/* There is no room for the descriptor: then nothing is held, either. */
START_TEST(test_no_room_for_descriptor) {
        struct shmd_segment *segment = NULL;
        struct rlimit before, none;
        int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);

        shmd_close(client_create(connection, "there", 4096, SHMD_LIFETIME_PERSIST));
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
        none = (struct rlimit) { (rlim_t) lowest, before.rlim_max };
        close(lowest);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        ck_assert_int_eq(shmd_open(connection, "there", SHMD_READ_ONLY, &segment), -EMFILE);
        ck_assert_ptr_null(segment);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
        TEST_UNTIL(client_stat(connection, "there").holders == 0, "it to be given back");
        shmd_close(client_open(connection, "there", SHMD_READ_ONLY));
}
END_TEST

START_TEST(test_exclusive) {
        struct shmd_segment *segment = client_create(connection, "one", 4096, SHMD_LIFETIME_PERSIST);
        struct shmd_segment *same = NULL;

        ck_assert_int_eq(client_try_create(connection, "one", 4096, SHMD_EXCLUSIVE, NULL), -EEXIST);
        ck_assert_int_eq(client_try_create(connection, "/one", 4096, SHMD_EXCLUSIVE, NULL), -EEXIST);

        /* Without it, what is there is opened, if it is large enough. */
        ASSERT_OK(connection, shmd_create(connection, "one", 4000, SHMD_READ_WRITE, NULL, &same));
        ck_assert_int_eq(shmd_created(same), 0);
        ck_assert_uint_eq(shmd_id(same), shmd_id(segment));
        ck_assert_uint_eq(shmd_size(same), 4096);
        shmd_close(same);
        ck_assert_int_eq(client_try_create(connection, "one", 4097, 0, NULL), -EINVAL);
        shmd_close(segment);
}
END_TEST

/* The child writes what its parent sees, and sees what its parent writes. */
static void write_from_child(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "shared", SHMD_READ_WRITE);
        char *bytes = client_map(segment);

        (void) userdata;
        ck_assert_str_eq(bytes, "from the parent");
        strcpy(bytes + 100, "from the child");
        step_send(channel, 'w');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

START_TEST(test_bytes_are_shared) {
        struct shmd_segment *segment = client_create(connection, "shared", 4096, SHMD_LIFETIME_PERSIST);
        char *bytes = client_map(segment);
        struct child child;

        strcpy(bytes, "from the parent");
        child_start(&child, write_from_child, NULL);
        step_expect(child.channel, 'w');
        ck_assert_str_eq(bytes + 100, "from the child");
        ck_assert_uint_eq(client_stat(connection, "shared").holders, 2);
        step_send(child.channel, 'e');
        child_join(&child);
        shmd_close(segment);
}
END_TEST

START_TEST(test_open_errors) {
        ck_assert_int_eq(client_try_open(connection, "nothing", SHMD_READ_ONLY), -ENOENT);
        ck_assert_int_eq(client_try_open(connection, "nothing/at/all", SHMD_READ_WRITE), -ENOENT);
        ck_assert_uint_gt(strlen(shmd_error_message(connection)), 0);
        ck_assert_int_eq(client_try_open(connection, "bad//name", SHMD_READ_ONLY), -EINVAL);
        ck_assert_int_eq(client_try_open(connection, "x", 0x80000000u), -EINVAL);
}
END_TEST

START_TEST(test_bad_names) {
        static const char *const bad[] = { "", "/", "//x", "x/", "x//y", ".", "..", "x/../y", "x\ny", "\xff",
                                           "\xc2\x9b" };
        char name[300];

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                ck_assert_int_eq(client_try_create(connection, bad[i], 1, 0, NULL), -EINVAL);
                ck_assert_int_eq(client_try_open(connection, bad[i], 0), -EINVAL);
        }
        memset(name, 'n', sizeof(name));
        name[256] = '\0';
        ck_assert_int_eq(client_try_create(connection, name, 1, 0, NULL), -ENAMETOOLONG);
        name[255] = '\0';
        ck_assert_int_eq(client_try_create(connection, name, 1, 0, NULL), 0);
        ck_assert_str_eq(client_stat(connection, name).name, name);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 1);
}
END_TEST

START_TEST(test_leading_slash) {
        struct shmd_segment *segment = client_create(connection, "/shm-example", 4096, SHMD_LIFETIME_PERSIST);
        struct shmd_segment *same = client_open(connection, "shm-example", SHMD_READ_WRITE);

        ck_assert_uint_eq(shmd_id(same), shmd_id(segment));
        ck_assert_str_eq(client_stat(connection, "/shm-example").name, "shm-example");
        shmd_close(same);
        shmd_close(segment);
}
END_TEST

/* However often it is open, a client is one holder, until it has closed each. */
START_TEST(test_references) {
        struct shmd_segment *segments[5];
        struct shmd *watcher = client_connect();

        segments[0] = client_create(connection, "refs", 4096, SHMD_LIFETIME_PERSIST);
        for (size_t i = 1; i < ELEMENTSOF(segments); i++)
                segments[i] = client_open(connection, "refs", SHMD_READ_WRITE);
        for (size_t i = 0; i < ELEMENTSOF(segments); i++) {
                ck_assert_uint_eq(client_stat(watcher, "refs").holders, 1);
                strcpy(client_map(segments[i]), "still mapped");
                shmd_close(segments[i]);
        }
        TEST_UNTIL(client_stat(watcher, "refs").holders == 0, "the last close to arrive");
        ck_assert_uint_gt(client_stat(watcher, "refs").idle_usec, 0);
        shmd_disconnect(watcher);
}
END_TEST

/* A private descriptor has an offset of its own. */
START_TEST(test_private_description) {
        struct shmd_segment *segment = client_create(connection, "private", 4096, SHMD_LIFETIME_PERSIST);
        struct shmd *other = client_connect();
        struct shmd_segment *mine = client_open(connection, "private", SHMD_READ_ONLY | SHMD_PRIVATE);
        struct shmd_segment *theirs = client_open(other, "private", SHMD_READ_ONLY | SHMD_PRIVATE);

        ck_assert_int_eq(lseek(shmd_fd(mine), 17, SEEK_SET), 17);
        ck_assert_int_eq(lseek(shmd_fd(theirs), 0, SEEK_CUR), 0);
        shmd_disconnect(other);
        shmd_close(mine);
        shmd_close(segment);
}
END_TEST

/* What a program did not close goes with its connection, mappings included: ASan and the teardown see what is left. */
START_TEST(test_disconnect_closes_all) {
        struct shmd *other = client_connect();
        int before = test_count_descriptors();
        char name[32];

        for (int i = 0; i < 50; i++) {
                snprintf(name, sizeof(name), "many/%d", i);
                client_map(client_create(other, name, 4096, SHMD_LIFETIME_HOLDERS));
        }
        ck_assert_uint_eq(client_count(connection, "many/", 0), 50);
        ck_assert_int_eq(test_count_descriptors(), before + 50);
        shmd_disconnect(other);
        ck_assert_int_lt(test_count_descriptors(), before);
        daemon_settle(&the_daemon, 1);
        /* A few at a time, between other clients' requests. */
        TEST_UNTIL(client_count(connection, NULL, 0) == 0, "all of the client's segments to go");
}
END_TEST

START_TEST(test_null) {
        ck_assert_ptr_null(shmd_close(NULL));
        ck_assert_ptr_null(shmd_disconnect(NULL));
        ck_assert_ptr_nonnull(shmd_error_message(NULL));
        ck_assert_ptr_nonnull(shmd_version());
        ck_assert_str_eq(shmd_socket_path(connection), the_daemon.socket);
}
END_TEST

/* --- connecting --- */

/* Outputs stay untouched on failure. */
static int try_connect(const char *path) {
        struct shmd *other = (struct shmd *) &other;
        int r = shmd_connect(path, &other);

        ck_assert_ptr_eq(other, (struct shmd *) &other);
        ck_assert_int_lt(r, 0);
        ck_assert_uint_gt(strlen(shmd_error_message(NULL)), 0);
        return r;
}

static int listen_at(const char *path, int type) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

        strcpy(address.sun_path, path);
        ck_assert_int_eq(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
        ck_assert_int_eq(listen(fd, 8), 0);
        return fd;
}

START_TEST(test_connect_errors) {
        char path[200];
        int fd;

        snprintf(path, sizeof(path), "%s/nothing", the_daemon.directory);
        ck_assert_int_eq(try_connect(path), -ENOENT);

        snprintf(path, sizeof(path), "%s/stale", the_daemon.directory);
        close(listen_at(path, SOCK_SEQPACKET));
        ck_assert_int_eq(try_connect(path), -ECONNREFUSED);

        snprintf(path, sizeof(path), "%s/stream", the_daemon.directory);
        fd = listen_at(path, SOCK_STREAM);
        ck_assert_int_eq(try_connect(path), -EPROTO);
        close(fd);

        memset(path, 'p', sizeof(path));
        path[0] = '/';
        path[sizeof(path) - 1] = '\0';
        ck_assert_int_eq(try_connect(path), -ENAMETOOLONG);
}
END_TEST

/* What else may answer there: too short, garbage, another version's words, nothing but the end. */
static const struct {
        const char *bytes;
        size_t size;
} answers[] = {
        { "x", 1 },
        { "HTTP/1.1 400 Bad Request\r\n\r\n", 28 },
        { "\x01\x00\x00\x00\x01\x00\x00\x00", 8 },
        { "\x01\x00\x63\x00\x01\x00\x00\x00\0\0\0\0\0\0\0\0", 16 },
        { "", 0 },
};

static void answer_wrongly(int channel, void *userdata) {
        const int *which = userdata;
        char path[200], request[SHMD_MESSAGE_MAX];
        int listener, fd;

        snprintf(path, sizeof(path), "%s/impostor", the_daemon.directory);
        listener = listen_at(path, SOCK_SEQPACKET);
        step_send(channel, 'l');
        fd = accept(listener, NULL, NULL);
        ck_assert_int_ge(fd, 0);
        if (answers[*which].size > 0) {
                ck_assert_int_gt(recv(fd, request, sizeof(request), 0), 0);
                ck_assert_int_gt(send(fd, answers[*which].bytes, answers[*which].size, MSG_NOSIGNAL), 0);
        }
        close(fd);
        close(listener);
}

START_TEST(test_impostor) {
        struct child child;
        char path[200];
        int r;

        snprintf(path, sizeof(path), "%s/impostor", the_daemon.directory);
        child_start(&child, answer_wrongly, &_i);
        step_expect(child.channel, 'l');
        r = try_connect(path);
        if (answers[_i].size > 0)
                ck_assert_int_eq(r, -EPROTO);
        child_join(&child);
}
END_TEST

/* --- the daemon goes away --- */

/* It is not on the data path: what is mapped works on. Calls fail, and say so. */
START_TEST(test_daemon_killed) {
        struct shmd_segment *segment = client_create(connection, "orphan", 4096, SHMD_LIFETIME_PERSIST);
        char *bytes = client_map(segment);
        struct shmd_stat stat;

        strcpy(bytes, "before");
        daemon_kill(&the_daemon, SIGKILL);
        daemon_wait(&the_daemon);

        ck_assert_str_eq(bytes, "before");
        strcpy(bytes, "after");
        ck_assert_int_lt(shmd_stat(connection, "orphan", &stat), 0);
        ck_assert_uint_gt(strlen(shmd_error_message(connection)), 0);
        ck_assert_int_lt(client_try_create(connection, "new", 1, 0, NULL), 0);
        ck_assert_str_eq(bytes, "after");
        shmd_close(segment);

        /* A stale socket file is no obstacle for the next one, which a new connection reaches. */
        daemon_start_again(&the_daemon, NULL);
        shmd_disconnect(connection);
        connection = client_connect();
        shmd_close(client_create(connection, "new", 1, SHMD_LIFETIME_PERSIST));
}
END_TEST

/* ids are never used again: not after an unlink, and not after a restart. */
START_TEST(test_ids_rise) {
        uint64_t last = 0;

        for (int i = 0; i < 20; i++) {
                struct shmd_segment *segment = client_create(connection, "id", 1, SHMD_LIFETIME_PERSIST);

                ck_assert_uint_gt(shmd_id(segment), last);
                last = shmd_id(segment);
                shmd_close(segment);
                ASSERT_OK(connection, shmd_unlink(connection, "id"));
                if (i % 7 == 6) {
                        shmd_disconnect(connection);
                        daemon_kill(&the_daemon, i == 6 ? SIGTERM : SIGKILL);
                        daemon_wait(&the_daemon);
                        daemon_start_again(&the_daemon, NULL);
                        connection = client_connect();
                }
        }
}
END_TEST

static Suite *segment_suite(void) {
        Suite *suite = suite_create("segment");
        TCase *tests = test_case(suite, "life", setup, teardown);

        tcase_add_test(tests, test_create);
        tcase_add_loop_test(tests, test_sizes, 0, ELEMENTSOF(sizes));
        tcase_add_test(tests, test_impossible_sizes);
        tcase_add_test(tests, test_sealed);
        tcase_add_test(tests, test_read_only);
        tcase_add_test(tests, test_no_room_for_descriptor);
        tcase_add_test(tests, test_exclusive);
        tcase_add_test(tests, test_bytes_are_shared);
        tcase_add_test(tests, test_open_errors);
        tcase_add_test(tests, test_bad_names);
        tcase_add_test(tests, test_leading_slash);
        tcase_add_test(tests, test_references);
        tcase_add_test(tests, test_private_description);
        tcase_add_test(tests, test_disconnect_closes_all);
        tcase_add_test(tests, test_null);

        tests = test_case(suite, "connection", setup, teardown);
        tcase_add_test(tests, test_connect_errors);
        tcase_add_loop_test(tests, test_impostor, 0, ELEMENTSOF(answers));
        tcase_add_test(tests, test_daemon_killed);
        tcase_add_test(tests, test_ids_rise);
        return suite;
}

int main(void) {
        return test_run(segment_suite());
}
