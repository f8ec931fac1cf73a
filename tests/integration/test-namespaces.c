/* SPDX-License-Identifier: MIT */
/*
 * Clients and daemons in user namespaces: who somebody is, is what the kernel says of him outside of his own. Needs root,
 * to be several users.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "raw.h"
#include "test.h"

static const struct identity alice = { .uid = 61001, .gid = 61001 };
static const struct identity bob = { .uid = 61002, .gid = 61002 };
static const struct identity nobody = { .uid = 65534, .gid = 61003 };
static const struct identity no_group = { .uid = 61001, .gid = 65534 };

static bool write_file(const char *path, const char *text) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t) strlen(text);

        close_fd(fd);
        return done;
}

/* Goes over to a user namespace in which the caller is root, and where there is nobody else. */
static void become_root_of_container(void) {
        char uid_map[64], gid_map[64];

        snprintf(uid_map, sizeof(uid_map), "0 %u 1", (unsigned) geteuid());
        snprintf(gid_map, sizeof(gid_map), "0 %u 1", (unsigned) getegid());
        ck_assert_int_eq(unshare(CLONE_NEWUSER), 0);
        ck_assert(write_file("/proc/self/setgroups", "deny"));
        ck_assert(write_file("/proc/self/uid_map", uid_map));
        ck_assert(write_file("/proc/self/gid_map", gid_map));
        ck_assert_int_eq(geteuid(), 0);
}

static void try_namespace(int channel, void *userdata) {
        (void) userdata;
        step_send(channel, unshare(CLONE_NEWUSER) == 0 ? '+' : '-');
}

/* Some systems do not let their users have any. */
static bool can_have_namespaces(void) {
        struct child child;
        char answer;

        if (!test_as_root("user namespaces"))
                return false;
        child_start_as(&child, &alice, try_namespace, NULL);
        step_receive_data(child.channel, &answer, 1);
        child_join(&child);
        if (answer != '+')
                test_skip("user namespaces: not for users on this system");
        return answer == '+';
}

/* --- the client in a container --- */

static void use_from_container(int channel, void *userdata) {
        struct shmd *connection;

        (void) channel;
        (void) userdata;
        become_root_of_container();
        connection = client_connect();

        /* Root there, and nobody special here. */
        ck_assert_int_eq(client_try_open(connection, "roots", SHMD_READ_ONLY), -EACCES);
        ck_assert_int_eq(shmd_unlink(connection, "roots"), -EPERM);
        ck_assert_int_eq(shmd_chmod(connection, "roots", 0666), -EPERM);
        ck_assert_int_eq(client_try_open(connection, "bobs", SHMD_READ_ONLY), -EACCES);

        /* His own user's it is that he makes and has. */
        ck_assert_int_eq(client_try_open(connection, "alices", SHMD_READ_WRITE), 0);
        shmd_close(client_create(connection, "mine", 4096, SHMD_LIFETIME_PERSIST));
        shmd_disconnect(connection);
}

static void make_bobs(int channel, void *userdata) {
        struct shmd *connection = client_connect();

        (void) channel;
        (void) userdata;
        shmd_close(client_create(connection, "bobs", 4096, SHMD_LIFETIME_PERSIST));
        shmd_disconnect(connection);
}

START_TEST(test_root_of_container) {
        struct shmd *connection;
        struct child child;

        if (!can_have_namespaces())
                return;
        daemon_start(&the_daemon, NULL);
        connection = client_connect();
        shmd_close(client_create(connection, "roots", 4096, SHMD_LIFETIME_PERSIST));
        shmd_close(client_create(connection, "alices", 4096, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(connection, shmd_chown(connection, "alices", alice.uid, alice.gid));
        child_start_as(&child, &bob, make_bobs, NULL);
        child_join(&child);
        child_start_as(&child, &alice, use_from_container, NULL);
        child_join(&child);
        ck_assert_uint_eq(client_stat(connection, "mine").uid, alice.uid);
        ck_assert_uint_eq(client_stat(connection, "mine").gid, alice.gid);
        ck_assert(client_exists(connection, "roots"));
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* Two containers with a root each: two users. */
static void share_from_container(int channel, void *userdata) {
        struct shmd *connection;
        char step;

        (void) userdata;
        become_root_of_container();
        connection = client_connect();
        step_receive_data(channel, &step, 1);
        if (step == 'm') {
                shmd_close(client_create(connection, "private", 4096, SHMD_LIFETIME_PERSIST));
                shmd_close(client_create(connection, "shared", 4096, SHMD_LIFETIME_PERSIST));
                ASSERT_OK(connection, shmd_chmod(connection, "shared", 0644));
        } else {
                ck_assert_int_eq(client_try_open(connection, "private", SHMD_READ_ONLY), -EACCES);
                ck_assert_int_eq(shmd_unlink(connection, "private"), -EPERM);
                ck_assert_int_eq(client_try_open(connection, "shared", SHMD_READ_ONLY), 0);
                ck_assert_int_eq(client_try_open(connection, "shared", SHMD_READ_WRITE), -EACCES);
        }
        step_send(channel, '.');
        shmd_disconnect(connection);
}

START_TEST(test_two_containers) {
        struct child one, other;

        if (!can_have_namespaces())
                return;
        daemon_start(&the_daemon, NULL);
        child_start_as(&one, &alice, share_from_container, NULL);
        child_start_as(&other, &bob, share_from_container, NULL);
        step_send(one.channel, 'm');
        step_expect(one.channel, '.');
        step_send(other.channel, 'u');
        step_expect(other.channel, '.');
        child_join(&one);
        child_join(&other);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- the daemon in a container --- */

static void in_container(void *userdata) {
        (void) userdata;
        if (unshare(CLONE_NEWUSER) < 0 || !write_file("/proc/self/setgroups", "deny") || !write_file("/proc/self/uid_map", "0 0 1") ||
            !write_file("/proc/self/gid_map", "0 0 1"))
                _exit(125);
}

/* Those whom its namespace lacks are all one number to it: they are told that they can't be served, and why is on the log. */
static void expect_refusal(int channel, void *userdata) {
        struct shmd *connection;

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(shmd_connect(the_daemon.socket, &connection), -EACCES);
}

START_TEST(test_daemon_lacks_users) {
        static const struct identity *const unknown[] = { &alice, &bob, &nobody, &no_group };
        struct shmd *connection;

        if (!can_have_namespaces())
                return;
        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = in_container });
        connection = client_connect();
        shmd_close(client_create(connection, "roots", 4096, SHMD_LIFETIME_PERSIST));
        for (size_t i = 0; i < ELEMENTSOF(unknown); i++) {
                struct child child;

                child_start_as(&child, unknown[i], expect_refusal, NULL);
                child_join(&child);
        }
        ck_assert(daemon_log_has(&the_daemon, "user namespace"));
        ck_assert_int_eq(client_try_open(connection, "roots", SHMD_READ_WRITE), 0);
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

static void expect_service(int channel, void *userdata) {
        struct shmd *connection = client_connect();

        (void) channel;
        (void) userdata;
        shmd_close(client_create(connection, "nobodys", 4096, SHMD_LIFETIME_PERSIST));
        ck_assert_uint_eq(client_stat(connection, "nobodys").uid, nobody.uid);
        shmd_disconnect(connection);
}

/* Where all users are there, 65534 is one as any other. */
START_TEST(test_nobody) {
        struct child child;

        if (!test_as_root("another user"))
                return;
        daemon_start(&the_daemon, NULL);
        child_start_as(&child, &nobody, expect_service, NULL);
        child_join(&child);
        daemon_stop(&the_daemon);
}
END_TEST

static Suite *namespaces_suite(void) {
        Suite *suite = suite_create("namespaces");
        TCase *tests = test_case(suite, "client", NULL, NULL);

        tcase_add_test(tests, test_root_of_container);
        tcase_add_test(tests, test_two_containers);

        tests = test_case(suite, "daemon", NULL, NULL);
        tcase_add_test(tests, test_daemon_lacks_users);
        tcase_add_test(tests, test_nobody);
        return suite;
}

int main(void) {
        return test_run(namespaces_suite());
}
