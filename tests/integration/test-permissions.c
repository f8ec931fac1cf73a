/* SPDX-License-Identifier: MIT */
/*
 * Several users. Needs root, to be all of them; the kernel's own answer for a file of the same owner and mode is
 * what is expected. Without root there is but one user, and the tests elsewhere cover him.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

#define OWNER 61001
#define GROUP 61100

static const struct identity owner = { .uid = OWNER, .gid = GROUP };
static const struct identity stranger = { .uid = 61002, .gid = 61002 };

static struct shmd *connection; /* root's */

static void make(const char *name, uid_t uid, gid_t gid, mode_t mode) {
        shmd_close(client_create(connection, name, 4096, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(connection, shmd_chown(connection, name, uid, gid));
        ASSERT_OK(connection, shmd_chmod(connection, name, mode));
}

/* --- open: all modes, all kinds of users, against a file --- */

static const struct {
        const char *who;
        struct identity identity;
} viewers[] = {
        { "owner", { .uid = OWNER, .gid = GROUP } },
        { "owner, in another group", { .uid = OWNER, .gid = 61999 } },
        { "group", { .uid = 61002, .gid = GROUP } },
        { "supplementary group", { .uid = 61003, .gid = 61003, .group_count = 3, .groups = { 61004, GROUP, 61005 } } },
        { "other", { .uid = 61006, .gid = 61006, .group_count = 1, .groups = { 61007 } } },
        { "root", { .uid = 0, .gid = 0 } },
};

static char file_path[128];

static int open_file(int flags) {
        int fd = open(file_path, flags | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        close(fd);
        return 0;
}

/* For each mode: the file's answers and shmd's must be the same. */
static void compare_with_file(int channel, void *userdata) {
        const char *who = userdata;
        struct shmd *own = client_connect();
        mode_t mode;

        for (;;) {
                step_receive_data(channel, &mode, sizeof(mode));
                if (mode == (mode_t) -1)
                        break;
                if (client_try_open(own, "file", SHMD_READ_ONLY) != open_file(O_RDONLY))
                        ck_abort_msg("%s, mode %04o, read-only: not as with a file (%d)", who, mode,
                                     open_file(O_RDONLY));
                if (client_try_open(own, "file", SHMD_READ_WRITE) != open_file(O_RDWR))
                        ck_abort_msg("%s, mode %04o, read-write: not as with a file (%d)", who, mode,
                                     open_file(O_RDWR));
                step_send(channel, 'd');
        }
        shmd_disconnect(own);
}

START_TEST(test_matrix) {
        const mode_t end = (mode_t) -1;
        struct child child;
        int fd;

        make("file", OWNER, GROUP, 0600);
        snprintf(file_path, sizeof(file_path), "%s/file", the_daemon.directory);
        fd = open(file_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fchown(fd, OWNER, GROUP), 0);

        child_start_as(&child, &viewers[_i].identity, compare_with_file, (void *) viewers[_i].who);
        for (mode_t mode = 0; mode <= 0666; mode++) {
                if (mode & 0111)
                        continue;
                ck_assert_int_eq(fchmod(fd, mode), 0);
                ASSERT_OK(connection, shmd_chmod(connection, "file", mode));
                step_send_data(child.channel, &mode, sizeof(mode));
                step_expect(child.channel, 'd');
        }
        step_send_data(child.channel, &end, sizeof(end));
        child_join(&child);
        close(fd);
}
END_TEST

/* --- what is born, belongs to its maker --- */

static void create_own(int channel, void *userdata) {
        const struct shmd_create_options options = { .mode = 0666 };
        struct shmd *own = client_connect();
        struct shmd_segment *segment = NULL;
        struct stat inode;

        (void) userdata;
        umask(026);
        ASSERT_OK(own, shmd_create(own, "own", 4096, SHMD_EXCLUSIVE, &options, &segment));
        ck_assert_int_eq(fstat(shmd_fd(segment), &inode), 0);
        ck_assert_uint_eq(inode.st_uid, OWNER);
        ck_assert_uint_eq(inode.st_gid, GROUP);
        ck_assert_uint_eq(inode.st_mode & 07777, 0640);
        step_send(channel, 'c');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

START_TEST(test_creator_owns) {
        struct child child;
        struct shmd_stat stat;

        child_start_as(&child, &owner, create_own, NULL);
        step_expect(child.channel, 'c');
        stat = client_stat(connection, "own");
        ck_assert_uint_eq(stat.uid, OWNER);
        ck_assert_uint_eq(stat.gid, GROUP);
        ck_assert_uint_eq(stat.mode, 0640);
        ck_assert_uint_eq(stat.creator_uid, OWNER);
        step_send(child.channel, 'e');
        child_join(&child);
}
END_TEST

/* --- strangers change nothing --- */

static unsigned count_holders;

static int count_holder(const struct shmd_holder *holder, void *userdata) {
        (void) holder;
        (void) userdata;
        count_holders++;
        return 0;
}

static void try_everything(int channel, void *userdata) {
        const uint64_t id = *(uint64_t *) userdata;
        struct shmd *own = client_connect();
        struct shmd_segment *segment = NULL;

        (void) channel;
        ck_assert_int_eq(shmd_unlink(own, "theirs"), -EPERM);
        ck_assert_int_eq(shmd_unlink_id(own, id), -EPERM);
        ck_assert_int_eq(shmd_chmod(own, "theirs", 0666), -EPERM);
        ck_assert_int_eq(shmd_chmod_id(own, id, 0666), -EPERM);
        ck_assert_int_eq(shmd_chown(own, "theirs", 61002, (gid_t) -1), -EPERM);
        ck_assert_int_eq(shmd_chown(own, "theirs", (uid_t) -1, 61002), -EPERM);
        ck_assert_int_eq(shmd_chown_id(own, id, 61002, 61002), -EPERM);
        ck_assert_int_eq(shmd_rename(own, "theirs", "mine"), -EPERM);
        ck_assert_int_eq(shmd_rename_id(own, id, "mine"), -EPERM);
        ck_assert_int_eq(shmd_holders(own, id, count_holder, NULL), -EPERM);
        ck_assert_uint_eq(count_holders, 0);
        ck_assert_int_eq(shmd_open_id(own, id, SHMD_READ_ONLY, &segment), -EACCES);
        ck_assert_int_eq(client_try_open(own, "theirs", SHMD_READ_ONLY), -EACCES);
        ck_assert_int_eq(client_try_create(own, "theirs", 1, SHMD_EXCLUSIVE, NULL), -EEXIST);
        ck_assert_int_eq(client_try_create(own, "theirs", 1, 0, NULL), -EACCES);
        /* As with files in /dev/shm, everybody sees that it is there. */
        ck_assert_uint_eq(client_count(own, NULL, 0), 1);
        ck_assert_uint_eq(client_stat(own, "theirs").uid, OWNER);
        shmd_disconnect(own);
}

START_TEST(test_strangers) {
        struct child child;
        struct shmd_stat before, after;

        make("theirs", OWNER, GROUP, 0600);
        before = client_stat(connection, "theirs");
        child_start_as(&child, &stranger, try_everything, &before.id);
        child_join(&child);
        after = client_stat(connection, "theirs");
        ck_assert_mem_eq(&before, &after, sizeof(before));
}
END_TEST

/* Write permission is no ownership: as in a sticky directory. */
static void change_writable(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(client_try_open(own, "writable", SHMD_READ_WRITE), 0);
        ck_assert_int_eq(shmd_unlink(own, "writable"), -EPERM);
        ck_assert_int_eq(shmd_chmod(own, "writable", 0600), -EPERM);
        ck_assert_int_eq(shmd_rename(own, "writable", "mine"), -EPERM);
        shmd_disconnect(own);
}

START_TEST(test_writers_do_not_own) {
        struct child child;

        make("writable", OWNER, GROUP, 0666);
        child_start_as(&child, &stranger, change_writable, NULL);
        child_join(&child);
        ck_assert(client_exists(connection, "writable"));
}
END_TEST

static void change_own(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ASSERT_OK(own, shmd_chmod(own, "own", 0640));
        ASSERT_OK(own, shmd_chown(own, "own", (uid_t) -1, 61200)); /* one of the owner's groups */
        ck_assert_uint_eq(client_stat(own, "own").gid, 61200);
        ASSERT_OK(own, shmd_chown(own, "own", OWNER, GROUP));
        ck_assert_int_eq(shmd_chown(own, "own", (uid_t) -1, 61002), -EPERM); /* not one of them */
        ck_assert_int_eq(shmd_chown(own, "own", 61002, (gid_t) -1), -EPERM);
        ck_assert_int_eq(shmd_chown(own, "own", 0, (gid_t) -1), -EPERM);
        ASSERT_OK(own, shmd_rename(own, "own", "renamed"));
        ASSERT_OK(own, shmd_unlink(own, "renamed"));
        shmd_disconnect(own);
}

START_TEST(test_owner) {
        const struct identity owner_in_groups = { .uid = OWNER, .gid = GROUP, .group_count = 1, .groups = { 61200 } };
        struct child child;

        make("own", OWNER, GROUP, 0600);
        child_start_as(&child, &owner_in_groups, change_own, NULL);
        child_join(&child);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 0);
}
END_TEST

/* --- read-only is read-only --- */

static int reopen(const struct shmd_segment *segment, int flags) {
        char path[64];
        int fd;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", shmd_fd(segment));
        fd = open(path, flags | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        close(fd);
        return 0;
}

/* Fails if the inode keeps the mode 0777 that a memfd is born with. */
static void try_to_write(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "readable", SHMD_READ_ONLY);
        struct shmd_segment *writable = client_open(own, "writable", SHMD_READ_ONLY);

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(reopen(writable, O_RDWR), 0); /* it does work, where it may */
        ck_assert_int_eq(reopen(segment, O_RDONLY), 0);
        ck_assert_int_eq(reopen(segment, O_RDWR), -EACCES);
        ck_assert_int_eq(reopen(segment, O_WRONLY), -EACCES);
        ck_assert_int_eq(fchmod(shmd_fd(segment), 0666), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(fchown(shmd_fd(segment), 61002, 61002), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(fcntl(shmd_fd(segment), F_ADD_SEALS, F_SEAL_WRITE), -1);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(fallocate(shmd_fd(segment), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        ck_assert_ptr_eq(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, shmd_fd(segment), 0), MAP_FAILED);
        shmd_disconnect(own);
}

START_TEST(test_read_only) {
        struct child child;

        make("readable", OWNER, GROUP, 0644);
        make("writable", OWNER, GROUP, 0666);
        child_start_as(&child, &stranger, try_to_write, NULL);
        child_join(&child);
}
END_TEST

/* What the owner does to the inode itself, the daemon obeys: there is one truth. */
static void chmod_inode(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "own", SHMD_READ_WRITE);

        (void) userdata;
        ck_assert_int_eq(fchmod(shmd_fd(segment), 0644), 0);
        step_send(channel, 'c');
        step_expect(channel, 'n');
        ck_assert_int_eq(fchmod(shmd_fd(segment), 0), 0);
        step_send(channel, 'c');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

static void open_by_inode(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) userdata;
        ck_assert_int_eq(client_try_open(own, "own", SHMD_READ_ONLY), 0);
        step_send(channel, 'o');
        step_expect(channel, 'n');
        ck_assert_int_eq(client_try_open(own, "own", SHMD_READ_ONLY), -EACCES);
        shmd_disconnect(own);
}

START_TEST(test_inode_is_the_truth) {
        struct child child, reader;

        make("own", OWNER, GROUP, 0600);
        child_start_as(&child, &owner, chmod_inode, NULL);
        step_expect(child.channel, 'c');
        ck_assert_uint_eq(client_stat(connection, "own").mode, 0644);
        child_start_as(&reader, &stranger, open_by_inode, NULL);
        step_expect(reader.channel, 'o');
        step_send(child.channel, 'n');
        step_expect(child.channel, 'c');
        ck_assert_uint_eq(client_stat(connection, "own").mode, 0);
        step_send(reader.channel, 'n');
        child_join(&reader);
        step_send(child.channel, 'e');
        child_join(&child);
}
END_TEST

/* --- leases and locks of a client on its own descriptors --- */

static void lease_and_lock(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "own", SHMD_READ_WRITE | SHMD_PRIVATE);
        struct shmd_segment *reader = client_open(own, "own", SHMD_READ_ONLY | SHMD_PRIVATE);

        (void) userdata;
        ck_assert_int_eq(fcntl(shmd_fd(segment), F_SETLEASE, F_WRLCK), -1);
        ck_assert_int_eq(fcntl(shmd_fd(reader), F_SETLEASE, F_RDLCK), -1);
        shmd_close(reader);
        ck_assert_int_eq(fcntl(shmd_fd(segment), F_SETLEASE, F_WRLCK), -1);
        ck_assert_int_eq(lockf(shmd_fd(segment), F_TLOCK, 0), 0);
        step_send(channel, 'l');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

/* Fails, by the 45 seconds that the kernel makes an open wait for a lease, if the daemon can be made to wait. */
START_TEST(test_leases_of_clients) {
        struct child child;
        struct shmd_segment *segment;

        make("own", OWNER, GROUP, 0600);
        child_start_as(&child, &owner, lease_and_lock, NULL);
        step_expect(child.channel, 'l');
        alarm(20 * (unsigned) test_deadline_msec() / 30000);
        segment = client_open(connection, "own", SHMD_READ_WRITE | SHMD_PRIVATE);
        shmd_close(client_open(connection, "own", SHMD_READ_ONLY));
        ASSERT_OK(connection, shmd_unlink(connection, "own"));
        alarm(0);
        shmd_close(segment);
        step_send(child.channel, 'e');
        child_join(&child);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* --- what has lost its name --- */

static void list_unlinked(int channel, void *userdata) {
        struct shmd *own = client_connect();

        step_expect(channel, 'g');
        ck_assert_uint_eq(client_count(own, NULL, SHMD_LIST_UNLINKED), *(unsigned *) userdata);
        shmd_disconnect(own);
}

START_TEST(test_list_unlinked) {
        unsigned none = 0, one = 1;
        struct child theirs, strangers;
        struct shmd_segment *first, *second;

        child_start_as(&theirs, &owner, list_unlinked, &one);
        child_start_as(&strangers, &stranger, list_unlinked, &none);
        make("owners", OWNER, GROUP, 0644);
        first = client_open(connection, "owners", SHMD_READ_ONLY);
        second = client_create(connection, "roots", 4096, SHMD_LIFETIME_PERSIST);
        ASSERT_OK(connection, shmd_unlink(connection, "owners"));
        ASSERT_OK(connection, shmd_unlink(connection, "roots"));

        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 2);
        step_send(theirs.channel, 'g');
        child_join(&theirs);
        step_send(strangers.channel, 'g');
        child_join(&strangers);
        shmd_close(first);
        shmd_close(second);
}
END_TEST

/* --- words --- */

static void read_words(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(client_try_open(own, "secret", SHMD_READ_ONLY), -EACCES);
        ck_assert_str_eq(shmd_error_message(own), "permission denied (owner root, mode 0600)");
        shmd_disconnect(own);
}

START_TEST(test_error_names_owner_and_mode) {
        struct child child;

        make("secret", 0, 0, 0600);
        child_start_as(&child, &stranger, read_words, NULL);
        child_join(&child);
}
END_TEST

static Suite *permissions_suite(void) {
        Suite *suite = suite_create("permissions");
        TCase *tests = test_case(suite, "permissions", setup, teardown);

        tcase_add_loop_test(tests, test_matrix, 0, ELEMENTSOF(viewers));
        tcase_add_test(tests, test_creator_owns);
        tcase_add_test(tests, test_strangers);
        tcase_add_test(tests, test_writers_do_not_own);
        tcase_add_test(tests, test_owner);
        tcase_add_test(tests, test_read_only);
        tcase_add_test(tests, test_inode_is_the_truth);
        tcase_add_test(tests, test_leases_of_clients);
        tcase_add_test(tests, test_list_unlinked);
        tcase_add_test(tests, test_error_names_owner_and_mode);
        return suite;
}

int main(void) {
        if (geteuid() != 0) {
                printf("needs root, to be several users\n");
                return 77;
        }
        return test_run(permissions_suite());
}
