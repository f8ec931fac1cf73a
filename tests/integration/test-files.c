/* SPDX-License-Identifier: MIT */
/*
 * Segments that are made of regular files: the same names, rights, holds and lifetimes; the data are the file's.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "raw.h"
#include "test.h"

#define SIZE ((size_t) 3 * 4096 + 17)

static struct shmd *connection;
static char path[128];

static void setup(void) {
        daemon_setup();
        connection = client_connect();
        snprintf(path, sizeof(path), "%s/%d.data", test_directory(), (int) getpid());
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        (void) unlink(path);
        daemon_teardown();
}

/* A file of that size with a text at its beginning. */
static int make_file(const char *where, size_t size) {
        int fd = open(where, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, (off_t) size), 0);
        if (size >= 5)
                ck_assert_int_eq(pwrite(fd, "text", 5, 0), 5);
        return fd;
}

static struct shmd_segment *create_of(const char *name, int fd, unsigned flags, const struct shmd_create_options *options) {
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create_file(connection, name, fd, flags, options, &segment));
        ck_assert_ptr_nonnull(segment);
        return segment;
}

static int try_create_of(const char *name, int fd, unsigned flags, const struct shmd_create_options *options) {
        struct shmd_segment *segment = NULL;
        int r = shmd_create_file(connection, name, fd, flags, options, &segment);

        if (r != 0)
                ck_assert_ptr_null(segment);
        shmd_close(segment);
        return r;
}

static void check_file(const char *where, size_t offset, const char *text) {
        char found[64] = "";
        int fd = open(where, O_RDONLY | O_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(pread(fd, found, strlen(text) + 1, (off_t) offset), strlen(text) + 1);
        ck_assert_str_eq(found, text);
        close(fd);
}

/* --- as any other --- */

static void use(const char *where) {
        const struct shmd_create_options options = { .mode = 0640, .labels = "kind=file\n" };
        int fd = make_file(where, SIZE);
        struct shmd *other = client_connect();
        struct shmd_segment *segment = create_of("file", fd, SHMD_READ_WRITE | SHMD_EXCLUSIVE, &options), *theirs;
        struct shmd_stat stat;
        char *bytes = client_map(segment);

        close(fd); /* was borrowed */
        ck_assert_uint_eq(shmd_size(segment), SIZE);
        ck_assert_str_eq(bytes, "text");
        strcpy(bytes + 5000, "written");
        stat = client_stat(connection, "file");
        ck_assert_uint_eq(stat.backing, SHMD_BACKING_FILE);
        ck_assert_uint_eq(stat.size_bytes, SIZE);
        ck_assert_uint_eq(stat.uid, geteuid());
        ck_assert_uint_eq(stat.mode & 0600, 0600);
        ck_assert_uint_eq(stat.holders, 1);
        ck_assert_uint_eq(stat.truncated, 0);
        ck_assert_str_eq(stat.labels, "kind=file\n");

        theirs = client_open(other, "file", SHMD_READ_WRITE);
        ck_assert_str_eq((char *) client_map(theirs) + 5000, "written");
        strcpy((char *) client_map(theirs) + 6000, "by another");
        ck_assert_str_eq(bytes + 6000, "by another");
        ck_assert_uint_eq(client_stat(connection, "file").holders, 2);
        ck_assert_int_eq(msync(bytes, SIZE, MS_SYNC), 0);
        check_file(where, 5000, "written");
        check_file(where, 6000, "by another");

        ASSERT_OK(connection, shmd_rename(connection, "file", "renamed"));
        ASSERT_OK(connection, shmd_unlink(connection, "renamed"));
        ck_assert_str_eq(bytes + 5000, "written");
        shmd_close(segment);
        shmd_disconnect(other);
        daemon_await_segments(&the_daemon, 0);
        check_file(where, 5000, "written"); /* whose file it is stays */
}

START_TEST(test_on_disk) {
        use(path);
}
END_TEST

START_TEST(test_on_tmpfs) {
        char name[64];

        snprintf(name, sizeof(name), "/dev/shm/shmd-test-%d", (int) getpid());
        if (access("/dev/shm", W_OK) < 0) {
                test_skip("test_on_tmpfs: /dev/shm can't be written to");
                return;
        }
        use(name);
        ck_assert_int_eq(unlink(name), 0);
}
END_TEST

START_TEST(test_names) {
        int fd = make_file(path, SIZE);
        struct shmd_segment *segment = create_of("name", fd, SHMD_READ_WRITE | SHMD_EXCLUSIVE, NULL), *again;

        ck_assert_int_eq(try_create_of("name", fd, SHMD_READ_WRITE | SHMD_EXCLUSIVE, NULL), -EEXIST);
        again = create_of("name", fd, SHMD_READ_WRITE, NULL);
        ck_assert_uint_eq(shmd_id(again), shmd_id(segment));
        ck_assert_int_eq(shmd_created(again), 0);
        ck_assert_int_eq(try_create_of("bad//name", fd, SHMD_READ_WRITE, NULL), -EINVAL);
        /* The same file under two names is the same memory. */
        again = create_of("other", fd, SHMD_READ_WRITE | SHMD_EXCLUSIVE, NULL);
        strcpy(client_map(again), "both");
        ck_assert_str_eq(client_map(segment), "both");
        close(fd);
}
END_TEST

START_TEST(test_unpublished) {
        int fd = make_file(path, SIZE);
        struct shmd_segment *segment = create_of("later", fd, SHMD_READ_WRITE | SHMD_UNPUBLISHED, NULL);

        close(fd);
        ck_assert(!client_exists(connection, "later"));
        ASSERT_OK(connection, shmd_publish(segment, 0));
        ck_assert(client_exists(connection, "later"));
}
END_TEST

START_TEST(test_lifetimes) {
        const struct shmd_create_options holders = { .lifetime = SHMD_LIFETIME_HOLDERS };
        const struct shmd_create_options creator = { .lifetime = SHMD_LIFETIME_CREATOR };
        struct shmd *other = client_connect();
        int fd = make_file(path, SIZE);
        struct shmd_segment *segment = create_of("holders", fd, SHMD_READ_WRITE, &holders), *theirs = NULL;

        theirs = client_open(other, "holders", SHMD_READ_ONLY);
        shmd_close(segment);
        TEST_UNTIL(client_stat(connection, "holders").holders == 1, "the close to arrive");
        shmd_close(theirs);
        TEST_UNTIL(!client_exists(connection, "holders"), "the last holder's end");

        ASSERT_OK(other, shmd_create_file(other, "creator", fd, SHMD_READ_WRITE, &creator, &theirs));
        ck_assert(client_exists(connection, "creator"));
        shmd_disconnect(other);
        TEST_UNTIL(!client_exists(connection, "creator"), "the creator's end");
        daemon_await_segments(&the_daemon, 0);
        close(fd);
        daemon_await_descriptors(&the_daemon, 1);
}
END_TEST

static void kill_me(int channel, void *userdata) {
        const struct shmd_create_options holders = { .lifetime = SHMD_LIFETIME_HOLDERS };
        int fd = open(path, O_RDWR | O_CLOEXEC);
        struct shmd_segment *segment = NULL;
        struct shmd *own = client_connect();

        (void) userdata;
        ASSERT_OK(own, shmd_create_file(own, "deadly", fd, SHMD_READ_WRITE, &holders, &segment));
        strcpy(client_map(segment), "last words");
        step_send(channel, 'h');
        step_expect(channel, 'n');
}

/* The kernel has the data, whoever dies. */
START_TEST(test_killed) {
        struct child child;

        close(make_file(path, SIZE));
        child_start(&child, kill_me, NULL);
        step_expect(child.channel, 'h');
        ck_assert(client_exists(connection, "deadly"));
        child_kill(&child);
        TEST_UNTIL(!client_exists(connection, "deadly"), "the last holder's end");
        check_file(path, 0, "last words");
}
END_TEST

/* A daemon that comes after: the file is there, and can be brought again. */
START_TEST(test_after_the_daemon) {
        int fd = make_file(path, SIZE);
        struct shmd_segment *segment = create_of("survivor", fd, SHMD_READ_WRITE, NULL);

        strcpy(client_map(segment), "survives");
        ck_assert_int_eq(msync(client_map(segment), SIZE, MS_SYNC), 0);
        daemon_kill(&the_daemon, SIGKILL);
        daemon_wait(&the_daemon);
        ck_assert_str_eq(client_map(segment), "survives"); /* mappings go on working */
        connection = shmd_disconnect(connection);
        daemon_start_again(&the_daemon, NULL);
        connection = client_connect();
        segment = create_of("survivor", fd, SHMD_READ_WRITE, NULL);
        ck_assert_str_eq(client_map(segment), "survives");
        close(fd);
}
END_TEST

/* --- what may not be --- */

START_TEST(test_impossible) {
        const struct shmd_create_options resizable = { .maximum_bytes = 1 << 20 }, huge = { .page_bytes = 1 << 21 };
        struct shmd_segment *segment = create_of("file", make_file(path, SIZE), SHMD_READ_WRITE, NULL), *none = NULL;
        int fd = open(path, O_RDWR | O_CLOEXEC);

        ck_assert_int_eq(shmd_freeze(connection, "file"), -EOPNOTSUPP);
        ck_assert_int_eq(shmd_resize(connection, "file", 4096), -ENOTSUP);
        ck_assert_int_eq(shmd_open(connection, "file", SHMD_READ_ONLY | SHMD_PRIVATE, &none), -EOPNOTSUPP);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE | SHMD_SINGLE_WRITER, NULL), -EINVAL);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE | SHMD_PREALLOCATE, NULL), -EINVAL);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE | SHMD_PRIVATE, NULL), -EINVAL);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE, &resizable), -EINVAL);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE, &huge), -EINVAL);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 1);
        shmd_close(segment);
        close(fd);
}
END_TEST

/* By the library, which knows in words. */
START_TEST(test_wrong_descriptors) {
        int pair[2], pipes[2], fd;

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
        ck_assert_int_eq(try_create_of("x", pair[0], SHMD_READ_WRITE, NULL), -EINVAL);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "regular file"));
        ck_assert_int_eq(try_create_of("x", pipes[0], 0, NULL), -EINVAL);
        fd = open(test_directory(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_eq(try_create_of("x", fd, 0, NULL), -EINVAL);
        close(fd);
        fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE, NULL), -EINVAL);
        close(fd);
        ck_assert_int_eq(try_create_of("x", 1000, 0, NULL), -EBADF);
        fd = make_file(path, 0);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE, NULL), -EINVAL);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "empty"));
        close(fd);
        fd = make_file(path, SIZE);
        ck_assert_int_eq(try_create_of("x", fd, 0, NULL), -EINVAL); /* open for writing, which was not asked for */
        close(fd);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE, NULL), -EINVAL);
        ck_assert_int_eq(try_create_of("x", fd, 0, NULL), -EINVAL);
        close(fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(try_create_of("x", fd, SHMD_READ_WRITE, NULL), -EINVAL);
        close(fd);
        fd = open(path, O_PATH | O_CLOEXEC);
        ck_assert_int_lt(try_create_of("x", fd, 0, NULL), 0);
        ck_assert_int_lt(try_create_of("x", fd, SHMD_READ_WRITE, NULL), 0);
        close(fd);
        for (unsigned i = 0; i < 2; i++) {
                close(pair[i]);
                close(pipes[i]);
        }
        ck_assert_uint_eq(client_count(connection, NULL, 0), 0);
}
END_TEST

/* Two descriptors as a client without the library may send them: the status, and nothing is left. */
static void check_raw(struct raw *raw, int first, int second, uint32_t flags, uint64_t size, unsigned expected) {
        const struct shmd_wire_create body = { .flags = flags, .name_size = 3, .mode = 0600, .size = size };
        const int fds[] = { first, second };
        struct raw_reply reply;

        ck_assert_int_eq(raw_request(raw, SHMD_OP_CREATE_FILE, &body, "raw", 3, fds, 2), 0);
        raw_receive(raw, &reply);
        ck_assert_uint_gt(reply.size, 0);
        ck_assert_msg(reply.header.status == expected, "status %u instead of %u (%d, %d, flags %x)", reply.header.status,
                      expected, first, second, flags);
        raw_reply_done(&reply);
        if (expected == 0)
                raw_unlink(raw, "raw");
        ck_assert(!client_exists(connection, "raw"));
}

#define STATUS_INVALID 3u

START_TEST(test_wrong_descriptors_raw) {
        struct raw raw = RAW_INIT;
        char other_path[160];
        int both = make_file(path, SIZE), reading = open(path, O_RDONLY | O_CLOEXEC), writing = open(path, O_WRONLY | O_CLOEXEC);
        int bare = open(path, O_PATH | O_CLOEXEC), other, other_reading, pair[2], directory, zero, memory;

        snprintf(other_path, sizeof(other_path), "%s.other", path);
        other = make_file(other_path, SIZE);
        other_reading = open(other_path, O_RDONLY | O_CLOEXEC);
        directory = open(test_directory(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
        memory = memfd_create("empty", MFD_CLOEXEC);
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        raw_connect(&raw, the_daemon.socket);

        check_raw(&raw, both, reading, SHMD_WIRE_WRITE, 0, 0);
        check_raw(&raw, reading, reading, 0, 0, 0);
        check_raw(&raw, reading, both, SHMD_WIRE_WRITE, 0, STATUS_INVALID); /* swapped */
        check_raw(&raw, both, both, SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, both, reading, 0, 0, STATUS_INVALID);
        check_raw(&raw, reading, reading, SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, writing, reading, SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, both, writing, SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, both, other_reading, SHMD_WIRE_WRITE, 0, STATUS_INVALID); /* different files */
        check_raw(&raw, bare, bare, 0, 0, STATUS_INVALID);
        check_raw(&raw, both, bare, SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, pair[0], pair[0], SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, pair[0], pair[1], 0, 0, STATUS_INVALID);
        check_raw(&raw, directory, directory, 0, 0, STATUS_INVALID);
        check_raw(&raw, zero, zero, SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, memory, memory, SHMD_WIRE_WRITE, 0, STATUS_INVALID);
        check_raw(&raw, both, reading, SHMD_WIRE_WRITE, SIZE + 1, STATUS_INVALID); /* smaller than is said */
        check_raw(&raw, both, reading, SHMD_WIRE_WRITE, SIZE, 0);
        raw_close(&raw);
        daemon_settle(&the_daemon, 1);
        daemon_await_segments(&the_daemon, 0);
        daemon_await_descriptors(&the_daemon, 1);

        close(both), close(reading), close(writing), close(bare), close(other), close(other_reading), close(pair[0]);
        close(pair[1]), close(directory), close(zero), close(memory);
        ck_assert_int_eq(unlink(other_path), 0);
}
END_TEST

/* --- read-only --- */

START_TEST(test_read_only) {
        struct shmd_segment *segment;
        int fd;

        close(make_file(path, SIZE));
        fd = open(path, O_RDONLY | O_CLOEXEC);
        segment = create_of("read", fd, SHMD_READ_ONLY | SHMD_EXCLUSIVE, NULL);
        close(fd);
        ck_assert_str_eq(client_map(segment), "text");
        ck_assert_ptr_eq(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, shmd_fd(segment), 0), MAP_FAILED);
        /* Nobody brought a descriptor that writes; so nobody gets one, his mode notwithstanding. */
        ck_assert_int_eq(client_try_open(connection, "read", SHMD_READ_WRITE), -EACCES);
        ck_assert_int_eq(client_try_open(connection, "read", SHMD_READ_ONLY), 0);
}
END_TEST

static void read_as_stranger(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment;
        char name[64];
        int fd;

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(client_try_open(own, "private", SHMD_READ_ONLY), -EACCES);
        ck_assert_int_eq(client_try_open(own, "public", SHMD_READ_WRITE), -EACCES);
        segment = client_open(own, "public", SHMD_READ_ONLY);
        fd = shmd_fd(segment);
        ck_assert_str_eq(client_map(segment), "text");
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
        ck_assert_int_eq(write(fd, "x", 1), -1);
        ck_assert_int_eq(ftruncate(fd, 0), -1);
        ck_assert_ptr_eq(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        ck_assert_int_eq(mprotect(client_map(segment), SIZE, PROT_READ | PROT_WRITE), -1);
        snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
        ck_assert_int_eq(open(name, O_RDWR | O_CLOEXEC), -1);
        ck_assert_int_eq(errno, EACCES); /* by the file's own mode */
        shmd_disconnect(own);
}

START_TEST(test_other_users) {
        const struct shmd_create_options public = { .mode = 0644 };
        struct shmd_segment *segment = NULL;
        struct child child;
        int fd;

        if (!test_as_root("test_other_users"))
                return;
        fd = make_file(path, SIZE);
        umask(022);
        segment = create_of("public", fd, SHMD_READ_WRITE, &public);
        create_of("private", fd, SHMD_READ_WRITE, NULL);
        close(fd);
        child_start_as(&child, &(struct identity) { .uid = 65533, .gid = 65533 }, read_as_stranger, NULL);
        child_join(&child);
        ck_assert_str_eq(client_map(segment), "text");
}
END_TEST

/* --- what is told afterwards --- */

START_TEST(test_truncated) {
        int fd = make_file(path, SIZE);
        struct shmd_segment *segment = create_of("short", fd, SHMD_READ_WRITE, NULL);

        strcpy(client_map(segment), "begins");
        ck_assert_uint_eq(client_stat(connection, "short").truncated, 0);
        ck_assert_int_eq(truncate(path, 4096), 0);
        ck_assert_uint_eq(client_stat(connection, "short").truncated, 1);
        ck_assert_uint_eq(client_stat(connection, "short").size_bytes, SIZE);
        ck_assert_uint_le(client_stat(connection, "short").resident_bytes, SIZE);
        ck_assert_int_eq(ftruncate(fd, (off_t) SIZE * 2), 0);
        ck_assert_uint_eq(client_stat(connection, "short").truncated, 0);
        ck_assert_str_eq(client_map(segment), "begins");
        close(fd);
}
END_TEST

START_TEST(test_charged) {
        const uint64_t before = client_status(connection).my_bytes.used;
        int fd = make_file(path, SIZE);
        struct shmd_segment *segment = create_of("charged", fd, SHMD_READ_WRITE, NULL);
        struct shmd_status status = client_status(connection);

        ck_assert_uint_eq(status.my_segments.used, 1);
        ck_assert_msg(status.my_bytes.used == before || status.my_bytes.used == before + SIZE, "%llu bytes",
                      (unsigned long long) status.my_bytes.used);
        ASSERT_OK(connection, shmd_unlink(connection, "charged"));
        shmd_close(segment);
        TEST_UNTIL(client_status(connection).my_segments.used == 0, "the charge to be given back");
        ck_assert_uint_eq(client_status(connection).my_bytes.used, before);
        close(fd);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("files");
        TCase *tests;

        tests = test_case(suite, "as any other", setup, teardown);
        tcase_add_test(tests, test_on_disk);
        tcase_add_test(tests, test_on_tmpfs);
        tcase_add_test(tests, test_names);
        tcase_add_test(tests, test_unpublished);
        tcase_add_test(tests, test_lifetimes);
        tcase_add_test(tests, test_killed);
        tcase_add_test(tests, test_after_the_daemon);

        tests = test_case(suite, "impossible", setup, teardown);
        tcase_add_test(tests, test_impossible);
        tcase_add_test(tests, test_wrong_descriptors);
        tcase_add_test(tests, test_wrong_descriptors_raw);

        tests = test_case(suite, "read-only", setup, teardown);
        tcase_add_test(tests, test_read_only);
        tcase_add_test(tests, test_other_users);

        tests = test_case(suite, "afterwards", setup, teardown);
        tcase_add_test(tests, test_truncated);
        tcase_add_test(tests, test_charged);
        return test_run(suite);
}
