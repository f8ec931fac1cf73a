/* SPDX-License-Identifier: MIT */
/* What a client holds already it opens again without asking; and yet it is never given what is no longer true. */
#include <pthread.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

static struct shmd *connection, *other;

static void setup(void) {
        daemon_setup();
        connection = client_connect();
        other = client_connect();
}

static void teardown(void) {
        other = shmd_disconnect(other);
        connection = shmd_disconnect(connection);
        daemon_teardown();
}

/* Stops the daemon dead; whoever asks it something now waits for ever, which the alarm turns into a failure. */
static void freeze_daemon(void) {
        daemon_pause(&the_daemon);
        alarm((unsigned) test_deadline_msec() / 1000);
}

static void thaw_daemon(void) {
        daemon_resume(&the_daemon);
        alarm(0);
}

/* Fails (by SIGALRM) if the library asks the daemon for what it has. */
START_TEST(test_no_round_trip) {
        struct shmd_segment *segments[3], *reader, *again;

        segments[0] = client_create(connection, "held", 4096, SHMD_LIFETIME_PERSIST);
        reader = client_open(connection, "held", SHMD_READ_ONLY);
        strcpy(client_map(segments[0]), "text");

        freeze_daemon();
        segments[1] = client_open(connection, "held", SHMD_READ_WRITE);
        segments[2] = client_open(connection, "/held", SHMD_READ_WRITE);
        again = client_open(connection, "held", SHMD_READ_ONLY);
        for (size_t i = 0; i < ELEMENTSOF(segments); i++) {
                ck_assert_uint_eq(shmd_id(segments[i]), shmd_id(segments[0]));
                ck_assert_uint_eq(shmd_size(segments[i]), 4096);
                ck_assert_str_eq(client_map(segments[i]), "text");
        }
        ck_assert_str_eq(client_map(again), "text");
        shmd_close(again); /* makes no round trip either */
        for (size_t i = 0; i < ELEMENTSOF(segments); i++)
                shmd_close(segments[i]);
        ck_assert_str_eq(client_map(reader), "text");
        thaw_daemon();

        TEST_UNTIL(client_stat(other, "held").holders == 1, "the closes to arrive");
        shmd_close(reader);
        TEST_UNTIL(client_stat(other, "held").holders == 0, "the closes to arrive");
}
END_TEST

/* The proof that freezing works: what is not held is asked for. */
static void *open_something_else(void *userdata) {
        *(int *) userdata = client_try_open(connection, "unknown", SHMD_READ_ONLY);
        return NULL;
}

START_TEST(test_round_trip_for_the_rest) {
        pthread_t thread;
        int result = 4711;

        freeze_daemon();
        ck_assert_int_eq(pthread_create(&thread, NULL, open_something_else, &result), 0);
        thaw_daemon();
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_int_eq(result, -ENOENT);
}
END_TEST

/* --- never stale: another client changes what this one holds --- */

static struct shmd_segment *held;

static void hold(void) {
        held = client_create(connection, "name", 4096, SHMD_LIFETIME_PERSIST);
        shmd_close(client_open(connection, "name", SHMD_READ_WRITE)); /* now it is in the cache, if anything ever is */
}

START_TEST(test_unlinked) {
        hold();
        ASSERT_OK(other, shmd_unlink(other, "name"));
        ck_assert_int_eq(client_try_open(connection, "name", SHMD_READ_WRITE), -ENOENT);
        shmd_close(held);
}
END_TEST

START_TEST(test_unlinked_by_oneself) {
        hold();
        ASSERT_OK(connection, shmd_unlink(connection, "name"));
        ck_assert_int_eq(client_try_open(connection, "name", SHMD_READ_WRITE), -ENOENT);
        shmd_close(held);
}
END_TEST

/* Nobody keeps what this daemon had: so it is not answered from memory either. */
START_TEST(test_daemon_has_ended) {
        setup();
        hold();
        daemon_kill(&the_daemon, SIGTERM);
        ck_assert_int_eq(daemon_wait(&the_daemon), 0);
        ck_assert_int_ne(client_try_open(connection, "name", SHMD_READ_WRITE), 0);
        other = shmd_disconnect(other);
        connection = shmd_disconnect(connection);
        daemon_finish(&the_daemon);
}
END_TEST

START_TEST(test_made_anew) {
        struct shmd_segment *theirs, *mine;

        hold();
        strcpy(client_map(held), "old");
        ASSERT_OK(other, shmd_unlink(other, "name"));
        theirs = client_create(other, "name", 8192, SHMD_LIFETIME_PERSIST);
        strcpy(client_map(theirs), "new");
        mine = client_open(connection, "name", SHMD_READ_WRITE);
        ck_assert_uint_eq(shmd_id(mine), shmd_id(theirs));
        ck_assert_uint_eq(shmd_size(mine), 8192);
        ck_assert_str_eq(client_map(mine), "new");
        ck_assert_str_eq(client_map(held), "old");
        shmd_close(mine);
        shmd_close(held);
}
END_TEST

/* Nobody keeps its segments: the name is another daemon's to give. */
START_TEST(test_daemon_killed) {
        struct shmd_segment *theirs, *mine = NULL;

        hold();
        daemon_kill(&the_daemon, SIGKILL);
        (void) daemon_wait(&the_daemon);
        unlink(the_daemon.socket);
        daemon_start_again(&the_daemon, NULL);
        theirs = client_create(other, "name", 8192, SHMD_LIFETIME_PERSIST);
        TEST_UNTIL((shmd_close(mine), mine = client_open(connection, "name", SHMD_READ_WRITE), shmd_size(mine) == 8192),
                   "what the name stands for now");
        ck_assert_uint_eq(shmd_id(mine), shmd_id(theirs));
        shmd_close(mine);
        shmd_close(theirs);
        shmd_close(held);
}
END_TEST

START_TEST(test_renamed) {
        struct shmd_segment *mine;
        uint64_t id;

        hold();
        id = shmd_id(held);
        ASSERT_OK(other, shmd_rename(other, "name", "new-name"));
        ck_assert_int_eq(client_try_open(connection, "name", SHMD_READ_WRITE), -ENOENT);
        mine = client_open(connection, "new-name", SHMD_READ_WRITE);
        ck_assert_uint_eq(shmd_id(mine), id);
        shmd_close(mine);

        /* And back, and another one in its place. */
        shmd_close(client_create(other, "name", 4096, SHMD_LIFETIME_PERSIST));
        mine = client_open(connection, "name", SHMD_READ_WRITE);
        ck_assert_uint_ne(shmd_id(mine), id);
        shmd_close(mine);
        shmd_close(held);
}
END_TEST

static void open_as_before(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) userdata;
        held = client_open(own, "name", SHMD_READ_WRITE);
        ck_assert_int_eq(client_try_open(own, "name", SHMD_READ_WRITE), 0);
        step_send(channel, 'o');
        step_expect(channel, 'c');
        ck_assert_int_eq(client_try_open(own, "name", SHMD_READ_WRITE), -EACCES);
        shmd_disconnect(own);
}

/* The mode is asked anew, too: as root by a client who is not, since root may anything. */
START_TEST(test_mode_changed) {
        const struct identity somebody = { .uid = 61001, .gid = 61001 };
        struct child child;

        hold();
        ASSERT_OK(connection, shmd_chmod(connection, "name", 0666));
        if (geteuid() == 0)
                child_start_as(&child, &somebody, open_as_before, NULL);
        else
                child_start(&child, open_as_before, NULL);
        step_expect(child.channel, 'o');
        ASSERT_OK(other, shmd_chmod(other, "name", 0));
        step_send(child.channel, 'c');
        child_join(&child);
        shmd_close(held);
}
END_TEST

/* Without the daemon: it must be in the cache. */
static void check_cached(const char *name, uint64_t id) {
        struct shmd_segment *again;

        freeze_daemon();
        again = client_open(connection, name, SHMD_READ_WRITE);
        ck_assert_uint_eq(shmd_id(again), id);
        shmd_close(again);
        thaw_daemon();
}

/* What was asked anew is remembered anew, and is one hold as before. */
START_TEST(test_asked_anew) {
        hold();
        ASSERT_OK(other, shmd_chmod(other, "name", 0600));
        shmd_close(client_open(connection, "name", SHMD_READ_WRITE));
        check_cached("name", shmd_id(held));
        ASSERT_OK(other, shmd_rename(other, "name", "new-name"));
        shmd_close(client_open(connection, "new-name", SHMD_READ_WRITE));
        check_cached("new-name", shmd_id(held));
        ck_assert_uint_eq(client_stat(other, "new-name").holders, 1);
        shmd_close(held);
        TEST_UNTIL(client_stat(other, "new-name").holders == 0, "the close to arrive");
}
END_TEST

/* What its creator has published he has by its name. */
START_TEST(test_published) {
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, "published", 1, SHMD_UNPUBLISHED | SHMD_READ_WRITE, NULL, &segment));
        ASSERT_OK(connection, shmd_publish(segment, 0));
        check_cached("published", shmd_id(segment));
        shmd_close(segment);
}
END_TEST

/* Its last holder's end takes the name away by itself. */
START_TEST(test_lifetime_over) {
        struct shmd *creator = client_connect();
        struct shmd_segment *mine;

        client_create(creator, "creator", 4096, SHMD_LIFETIME_CREATOR);
        mine = client_open(connection, "creator", SHMD_READ_WRITE);
        shmd_close(client_open(connection, "creator", SHMD_READ_WRITE));
        shmd_disconnect(creator);
        daemon_settle(&the_daemon, 2);
        ck_assert_int_eq(client_try_open(connection, "creator", SHMD_READ_WRITE), -ENOENT);
        shmd_close(mine);
}
END_TEST

/*
 * Ids whose counters share a slot disturb each other at most by a round trip. So many
 * ids that all slots were used, which takes a while.
 */
START_TEST(test_shared_slot) {
        struct shmd_segment *mine;
        uint64_t id;

        hold();
        id = shmd_id(held);
        for (unsigned i = 0; i < 2 * SHMD_GENERATION_SLOTS; i++) {
                mine = client_create(other, "slot", 1, SHMD_LIFETIME_PERSIST);
                shmd_close(mine);
                ASSERT_OK(other, shmd_unlink(other, "slot"));
        }
        mine = client_open(connection, "name", SHMD_READ_WRITE);
        ck_assert_uint_eq(shmd_id(mine), id);
        shmd_close(mine);
        ASSERT_OK(other, shmd_unlink(other, "name"));
        ck_assert_int_eq(client_try_open(connection, "name", SHMD_READ_WRITE), -ENOENT);
        shmd_close(held);
}
END_TEST

static Suite *cache_suite(void) {
        Suite *suite = suite_create("cache");
        TCase *tests = test_case(suite, "cache", setup, teardown);

        tcase_add_test(tests, test_no_round_trip);
        tcase_add_test(tests, test_round_trip_for_the_rest);
        tcase_add_test(tests, test_unlinked);
        tcase_add_test(tests, test_unlinked_by_oneself);
        tcase_add_test(tests, test_made_anew);
        tcase_add_test(tests, test_daemon_killed);
        tcase_add_test(tests, test_renamed);
        tcase_add_test(tests, test_mode_changed);
        tcase_add_test(tests, test_asked_anew);
        tcase_add_test(tests, test_published);
        tcase_add_test(tests, test_lifetime_over);
        tcase_add_test(tests, test_shared_slot);
        tests = test_case(suite, "end", NULL, NULL);
        tcase_add_test(tests, test_daemon_has_ended);
        return suite;
}

int main(void) {
        return test_run(cache_suite());
}
