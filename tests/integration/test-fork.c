/* SPDX-License-Identifier: MIT */
/*
 * fork and threads. A child may use what it inherited: memory at once, the connection by getting one of its own
 * at first use. Whatever either of them does, the other does not notice.
 */
#include <pthread.h>
#include <sys/prctl.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

static struct shmd *connection, *watcher;
static struct shmd_segment *segment;

static void setup(void) {
        daemon_setup();
        /* Grandchildren whose parent has died are ours to wait for. */
        ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        watcher = client_connect();
        connection = client_connect();
        segment = client_create(connection, "forked", 4096, SHMD_LIFETIME_HOLDERS);
        strcpy(client_map(segment), "before the fork");
}

static void teardown(void) {
        shmd_close(segment);
        connection = shmd_disconnect(connection);
        watcher = shmd_disconnect(watcher);
        daemon_teardown();
}

static void use_memory(int channel, void *userdata) {
        (void) userdata;
        ck_assert_str_eq(client_map(segment), "before the fork");
        strcpy(client_map(segment), "from the child");
        step_send(channel, 'w');
        step_expect(channel, 'e');
        ck_assert_str_eq(client_map(segment), "from the parent");
}

START_TEST(test_memory) {
        struct child child;

        child_start_inheriting(&child, use_memory, NULL);
        step_expect(child.channel, 'w');
        ck_assert_str_eq(client_map(segment), "from the child");
        strcpy(client_map(segment), "from the parent");
        step_send(child.channel, 'e');
        child_join(&child);
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 1);
}
END_TEST

static void use_connection(int channel, void *userdata) {
        struct shmd_segment *own;

        (void) userdata;
        ck_assert_uint_eq(client_stat(connection, "forked").id, shmd_id(segment));
        ck_assert_uint_eq(client_status(connection).connections, 4); /* the harness, watcher, parent, and this */
        own = client_create(connection, "by-the-child", 4096, SHMD_LIFETIME_HOLDERS);
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 2);
        step_send(channel, 'u');
        step_expect(channel, 'e');
        shmd_close(own);
        shmd_disconnect(connection);
}

/* The child's holds count for themselves; and it is told apart from its parent. */
START_TEST(test_connection) {
        struct child child;

        child_start_inheriting(&child, use_connection, NULL);
        step_expect(child.channel, 'u');
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 2);
        ck_assert_uint_eq(client_stat(connection, "by-the-child").creator_pid, child.pid);
        step_send(child.channel, 'e');
        child_join(&child);
        TEST_UNTIL(client_stat(connection, "forked").holders == 1, "the child's hold to end");
        ck_assert(!client_exists(connection, "by-the-child"));
        ck_assert_str_eq(client_map(segment), "before the fork");
}
END_TEST

#define CALLS 300

static void call_a_lot(const char *name) {
        for (int i = 0; i < CALLS; i++) {
                uint64_t id = client_stat(connection, name).id;

                ck_assert_str_eq(client_stat_id(connection, id).name, name);
                shmd_close(client_create(connection, i % 2 ? "temporary/a" : "temporary/b", 1, SHMD_LIFETIME_PERSIST));
                ASSERT_OK(connection, shmd_unlink(connection, i % 2 ? "temporary/a" : "temporary/b"));
        }
}

static void call_as_child(int channel, void *userdata) {
        struct shmd_segment *other;

        (void) userdata;
        step_expect(channel, 'g');
        other = client_open(connection, "second", SHMD_READ_ONLY);
        for (int i = 0; i < CALLS; i++)
                ck_assert_str_eq(client_stat_id(connection, client_stat(connection, "second").id).name, "second");
        shmd_close(other);
        shmd_disconnect(connection);
}

/* Both at once: with one socket between them they would get each other's answers. */
START_TEST(test_both_at_once) {
        struct shmd_segment *second = client_create(connection, "second", 4096, SHMD_LIFETIME_PERSIST);
        struct child child;

        child_start_inheriting(&child, call_as_child, NULL);
        step_send(child.channel, 'g');
        call_a_lot("forked");
        child_join(&child);
        shmd_close(second);
}
END_TEST

static void close_everything(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        shmd_close(segment);
        shmd_disconnect(connection);
}

/* A child that closes and disconnects what it inherited, used or not, ends nothing of its parent's. */
START_TEST(test_child_closes) {
        struct child child;

        child_start_inheriting(&child, close_everything, NULL);
        child_join(&child);
        ck_assert_str_eq(client_map(segment), "before the fork");
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 1);
        ck_assert_uint_eq(client_stat(watcher, "forked").unknown_holder, 0);
        ck_assert_uint_eq(client_status(connection).connections, 3);
        call_a_lot("forked");
}
END_TEST

static void keep_memory(int channel, void *userdata) {
        (void) userdata;
        step_send(channel, 'r');
        step_expect(channel, 'c');
        ck_assert_str_eq(client_map(segment), "before the fork");
        step_send(channel, 'k');
        step_expect(channel, 'e');
}

/* A child that never calls keeps the memory all the same: the kernel knows. */
START_TEST(test_parent_disconnects) {
        struct child child;
        uint64_t id = shmd_id(segment);

        child_start_inheriting(&child, keep_memory, NULL);
        step_expect(child.channel, 'r');
        segment = shmd_close(segment);
        connection = shmd_disconnect(connection);
        step_send(child.channel, 'c');
        step_expect(child.channel, 'k');
        ck_assert_uint_eq(client_stat_id(watcher, id).holders, 1);
        step_send(child.channel, 'e');
        child_join(&child);
        TEST_UNTIL(!client_id_exists(watcher, id), "the child's mapping to end");
}
END_TEST

/* --- the parent dies --- */

static void outlive_parent(int channel, void *userdata) {
        (void) userdata;
        prctl(PR_SET_PDEATHSIG, 0); /* the harness would kill us with it */
        step_send(channel, 'r');
        step_expect(channel, 'd'); /* the parent is dead now */
        ck_assert_str_eq(client_map(segment), "before the fork");
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 1);
        ck_assert_uint_eq(client_stat(connection, "forked").unknown_holder, 0);
        strcpy(client_map(segment), "from the orphan");
        step_send(channel, 'u');
        step_expect(channel, 'e');
        segment = shmd_close(segment);
        TEST_UNTIL(!client_exists(connection, "forked"), "the last hold to end");
        shmd_disconnect(connection);
}

/* Makes the segment, forks, hands over the child's channel and pid, and dies. */
static void be_parent(int channel, void *userdata) {
        struct child grandchild;

        (void) userdata;
        shmd_close(segment); /* what was inherited, mapping included */
        shmd_disconnect(connection);
        connection = client_connect();
        segment = client_open(connection, "forked", SHMD_READ_WRITE);
        client_map(segment);
        step_send(channel, 'o');
        step_expect(channel, 'f');
        child_start_inheriting(&grandchild, outlive_parent, NULL);
        step_expect(grandchild.channel, 'r');
        step_send_data(channel, &grandchild.pid, sizeof(grandchild.pid));
        step_send_fd(channel, grandchild.channel);
        step_expect(channel, 'n');
}

START_TEST(test_parent_dies) {
        struct child parent, orphan = { .channel = -EBADF };
        uint64_t id = shmd_id(segment);

        child_start_inheriting(&parent, be_parent, NULL);
        step_expect(parent.channel, 'o');
        segment = shmd_close(segment);
        connection = shmd_disconnect(connection); /* now that one holds it alone */
        step_send(parent.channel, 'f');
        step_receive_data(parent.channel, &orphan.pid, sizeof(orphan.pid));
        orphan.channel = step_receive_fd(parent.channel);
        child_kill(&parent);
        orphan.pidfd = process_pidfd(orphan.pid);

        ck_assert_uint_eq(client_stat_id(watcher, id).holders, 1);
        step_send(orphan.channel, 'd');
        step_expect(orphan.channel, 'u');
        ck_assert_uint_eq(client_stat_id(watcher, id).holders, 1);
        step_send(orphan.channel, 'e');
        child_join(&orphan);
        TEST_UNTIL(!client_id_exists(watcher, id), "the orphan's hold to end");
}
END_TEST

/* --- further down --- */

static void use_as_grandchild(int channel, void *userdata) {
        (void) userdata;
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 3);
        strcpy(client_map(segment), "from the grandchild");
        step_send(channel, 'g');
        step_expect(channel, 'e');
}

static void use_and_fork(int channel, void *userdata) {
        struct child child;

        (void) userdata;
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 2);
        child_start_inheriting(&child, use_as_grandchild, NULL);
        step_expect(child.channel, 'g');
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 3);
        step_send(child.channel, 'e');
        child_join(&child);
        TEST_UNTIL(client_stat(connection, "forked").holders == 2, "the grandchild's hold to end");
        step_send(channel, 'd');
}

START_TEST(test_grandchild) {
        struct child child;

        child_start_inheriting(&child, use_and_fork, NULL);
        step_expect(child.channel, 'd');
        child_join(&child);
        TEST_UNTIL(client_stat(connection, "forked").holders == 1, "the child's hold to end");
        ck_assert_str_eq(client_map(segment), "from the grandchild");
}
END_TEST

static void reopen(int channel, void *userdata) {
        struct shmd_segment *again = client_open(connection, "forked", SHMD_READ_WRITE);

        (void) userdata;
        ck_assert_str_eq(client_map(again), "before the fork");
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 2);
        shmd_close(again);
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 2); /* the inherited one */
        step_send(channel, 'd');
}

/* Opening again what it inherited, its first use of the connection: it becomes a holder, once. */
START_TEST(test_child_opens_again) {
        struct child child;

        child_start_inheriting(&child, reopen, NULL);
        step_expect(child.channel, 'd');
        child_join(&child);
        TEST_UNTIL(client_stat(connection, "forked").holders == 1, "the child's hold to end");
}
END_TEST

static void find_it_gone(int channel, void *userdata) {
        step_expect(channel, 'g');
        ck_assert_int_eq(client_try_open(connection, "forked", SHMD_READ_WRITE), -ENOENT);
        ck_assert_str_eq(client_map(segment), "before the fork");
        ck_assert_uint_eq(client_stat_id(connection, *(uint64_t *) userdata).state, SHMD_STATE_UNLINKED);
        shmd_close(segment);
        shmd_disconnect(connection);
}

/* Unlinked between the fork and the child's first use. */
START_TEST(test_unlinked_meanwhile) {
        struct child child;
        uint64_t id = shmd_id(segment);

        child_start_inheriting(&child, find_it_gone, &id);
        ASSERT_OK(watcher, shmd_unlink(watcher, "forked"));
        segment = shmd_close(segment);
        step_send(child.channel, 'g');
        child_join(&child);
        TEST_UNTIL(!client_id_exists(watcher, id), "the child's hold to end");
}
END_TEST

/* --- threads --- */

static void *use_own_connection(void *userdata) {
        struct shmd *own = client_connect();
        char name[32];

        snprintf(name, sizeof(name), "thread/%d", *(int *) userdata);
        for (int i = 0; i < 200; i++) {
                struct shmd_segment *mine = client_create(own, name, 4096, SHMD_LIFETIME_PERSIST);

                strcpy(client_map(mine), name);
                ck_assert_str_eq(client_stat(own, name).name, name);
                ck_assert_int_eq(client_try_open(own, "nothing", 0), -ENOENT);
                ck_assert_str_eq(client_map(mine), name);
                ASSERT_OK(own, shmd_unlink(own, name));
                shmd_close(mine);
        }
        shmd_disconnect(own);
        return NULL;
}

/* Connections are independent: each thread has its own. */
START_TEST(test_threads) {
        pthread_t threads[8];
        int numbers[ELEMENTSOF(threads)];

        for (size_t i = 0; i < ELEMENTSOF(threads); i++) {
                numbers[i] = (int) i;
                ck_assert_int_eq(pthread_create(&threads[i], NULL, use_own_connection, &numbers[i]), 0);
        }
        for (size_t i = 0; i < ELEMENTSOF(threads); i++)
                ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        daemon_settle(&the_daemon, 2);
        ck_assert_uint_eq(client_count(watcher, "thread/", 0), 0);
}
END_TEST

static Suite *fork_suite(void) {
        Suite *suite = suite_create("fork");
        TCase *tests = test_case(suite, "fork", setup, teardown);

        tcase_add_test(tests, test_memory);
        tcase_add_test(tests, test_connection);
        tcase_add_test(tests, test_both_at_once);
        tcase_add_test(tests, test_child_closes);
        tcase_add_test(tests, test_parent_disconnects);
        tcase_add_test(tests, test_parent_dies);
        tcase_add_test(tests, test_grandchild);
        tcase_add_test(tests, test_child_opens_again);
        tcase_add_test(tests, test_unlinked_meanwhile);
        tcase_add_test(tests, test_threads);
        return suite;
}

int main(void) {
        return test_run(fork_suite());
}
