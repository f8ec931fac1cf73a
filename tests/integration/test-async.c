/* SPDX-License-Identifier: MIT */
/*
 * Calls that are submitted: each is answered once, by shmd_dispatch() alone, in order; and whatever happens to the daemon, the
 * connection or the process meanwhile, none is forgotten and none is answered twice.
 */
#include <poll.h>
#include <sys/epoll.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

#define PAGE 4096
#define FOREVER UINT64_MAX

static const struct identity alice = { .uid = 61001, .gid = 61001 };

/* --- results --- */

/* One call's, and its place among all. */
struct outcome_of {
        unsigned told;
        unsigned place; /* the first that was told has 1 */
        int error;
        struct shmd_segment *segment;
        struct shmd_stat stat;
        struct shmd_status status;
        char words[256];
};

static unsigned places;

static void note(struct shmd *who, const struct shmd_result *result, void *userdata) {
        struct outcome_of *outcome = userdata;

        outcome->told++;
        outcome->place = ++places;
        outcome->error = result->error;
        outcome->segment = result->segment;
        if (result->stat)
                outcome->stat = *result->stat;
        if (result->status)
                outcome->status = *result->status;
        if (result->error < 0) {
                ck_assert_ptr_null(result->segment);
                snprintf(outcome->words, sizeof(outcome->words), "%s", shmd_error_message(who));
        }
}

static void dispatch(struct shmd *who) {
        ck_assert_int_ge(shmd_dispatch(who), 0);
}

static void dispatch_until_told(struct shmd *who, const struct outcome_of *outcome) {
        while (outcome->told == 0) {
                test_wait_readable(shmd_poll_fd(who), "an answer");
                dispatch(who);
        }
        ck_assert_uint_eq(outcome->told, 1);
}

static int result_of(const struct outcome_of *outcome) {
        dispatch_until_told(connection, outcome);
        return outcome->error;
}

/* --- each of them --- */

START_TEST(test_each) {
        const struct shmd_create_options options = { .maximum_bytes = 4 * PAGE, .labels = "a=b\n" };
        static struct outcome_of created, opened, unpublished, published, stat, mode, owner, renamed, resized, lifetime, frozen, status,
                unlinked;
        struct outcome_of *all[] = { &created, &opened, &stat, &mode, &owner, &renamed, &resized, &lifetime, &frozen, &status, &unlinked };

        ASSERT_OK(connection, shmd_create_async(connection, "each", PAGE, SHMD_EXCLUSIVE, &options, note, &created));
        ASSERT_OK(connection, shmd_open_async(connection, "each", SHMD_READ_ONLY, note, &opened));
        ASSERT_OK(connection, shmd_stat_async(connection, "each", note, &stat));
        ASSERT_OK(connection, shmd_chmod_async(connection, "each", 0640, note, &mode));
        ASSERT_OK(connection, shmd_chown_async(connection, "each", (uid_t) -1, getegid(), note, &owner));
        ASSERT_OK(connection, shmd_rename_async(connection, "each", "other", note, &renamed));
        ASSERT_OK(connection, shmd_resize_async(connection, "other", 3 * PAGE, note, &resized));
        ASSERT_OK(connection, shmd_set_lifetime_async(connection, "other", SHMD_LIFETIME_LINGER, 5000000, note, &lifetime));
        ASSERT_OK(connection, shmd_freeze_async(connection, "other", note, &frozen));
        ASSERT_OK(connection, shmd_status_async(connection, note, &status));
        ck_assert_uint_eq(places, 0); /* none before the dispatch */
        ck_assert_int_eq(result_of(&status), 0);
        for (unsigned i = 0; i + 1 < ELEMENTSOF(all); i++) {
                ck_assert_int_eq(result_of(all[i]), 0);
                ck_assert_uint_eq(all[i]->place, i + 1);
        }

        ck_assert_int_eq(shmd_created(created.segment), 1);
        ck_assert_int_eq(shmd_created(opened.segment), 0);
        ck_assert_uint_eq(shmd_id(created.segment), shmd_id(opened.segment));
        ck_assert_uint_eq(stat.stat.id, shmd_id(created.segment));
        ck_assert_str_eq(stat.stat.name, "each");
        ck_assert_str_eq(stat.stat.labels, "a=b\n");
        ck_assert_uint_eq(stat.stat.mode, 0600);
        ck_assert_uint_eq(status.status.segments, 1);
        ck_assert_uint_eq(status.status.pid, (unsigned) the_daemon.pid);
        stat.stat = client_stat(connection, "other");
        ck_assert_uint_eq(stat.stat.mode, 0640);
        ck_assert_uint_eq(stat.stat.size_bytes, 3 * PAGE);
        ck_assert_uint_eq(stat.stat.lifetime, SHMD_LIFETIME_LINGER);
        ck_assert_uint_eq(stat.stat.linger_usec, 5000000);
        ck_assert_uint_eq(stat.stat.state, SHMD_STATE_FROZEN);

        ASSERT_OK(connection, shmd_create_async(connection, "each", 7, SHMD_UNPUBLISHED, NULL, note, &unpublished));
        ck_assert_int_eq(result_of(&unpublished), 0);
        ck_assert(!client_exists(connection, "each"));
        ASSERT_OK(connection, shmd_publish_async(unpublished.segment, 0, note, &published));
        ck_assert_int_eq(result_of(&published), 0);
        ck_assert_uint_eq(client_stat(connection, "each").size_bytes, 7);
        ASSERT_OK(connection, shmd_unlink_async(connection, "each", note, &unlinked));
        ck_assert_int_eq(result_of(&unlinked), 0);
        ck_assert(!client_exists(connection, "each"));

        ck_assert_int_eq(shmd_dispatch(connection), 0);
        shmd_close(created.segment);
        shmd_close(opened.segment);
        shmd_close(unpublished.segment);
}
END_TEST

START_TEST(test_errors) {
        const struct shmd_create_options wrong = { .lifetime = 77 };
        static struct outcome_of outcomes[16], never;
        struct shmd_segment *segment = client_create(connection, "taken", PAGE, SHMD_LIFETIME_PERSIST), *hidden = NULL;
        const int expected[] = { -EEXIST, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT,
                                 -ENOENT, -ENOTSUP, -ENOENT, -EEXIST, -EEXIST };

        ASSERT_OK(connection, shmd_create(connection, "taken", PAGE, SHMD_UNPUBLISHED, NULL, &hidden));
        ASSERT_OK(connection, shmd_create_async(connection, "taken", PAGE, SHMD_EXCLUSIVE, NULL, note, &outcomes[0]));
        ASSERT_OK(connection, shmd_open_async(connection, "nothing", 0, note, &outcomes[1]));
        ASSERT_OK(connection, shmd_stat_async(connection, "nothing", note, &outcomes[2]));
        ASSERT_OK(connection, shmd_chmod_async(connection, "nothing", 0600, note, &outcomes[3]));
        ASSERT_OK(connection, shmd_chown_async(connection, "nothing", 0, 0, note, &outcomes[4]));
        ASSERT_OK(connection, shmd_rename_async(connection, "nothing", "x", note, &outcomes[5]));
        ASSERT_OK(connection, shmd_unlink_async(connection, "nothing", note, &outcomes[6]));
        ASSERT_OK(connection, shmd_resize_async(connection, "nothing", 1, note, &outcomes[7]));
        ASSERT_OK(connection, shmd_freeze_async(connection, "nothing", note, &outcomes[8]));
        ASSERT_OK(connection, shmd_set_lifetime_async(connection, "nothing", 0, 0, note, &outcomes[9]));
        ASSERT_OK(connection, shmd_resize_async(connection, "taken", 1, note, &outcomes[10]));
        ASSERT_OK(connection, shmd_publish_async(segment, 0, note, &outcomes[11]));
        ASSERT_OK(connection, shmd_publish_async(hidden, 0, note, &outcomes[12]));
        ASSERT_OK(connection, shmd_create_async(connection, "taken", PAGE, SHMD_EXCLUSIVE, NULL, note, &outcomes[13]));
        for (unsigned i = 0; i < ELEMENTSOF(expected); i++) {
                if (result_of(&outcomes[i]) != expected[i])
                        ck_abort_msg("call %u: %d (%s), expected %d", i, outcomes[i].error, outcomes[i].words, expected[i]);
                ck_assert_uint_eq(outcomes[i].place, i + 1);
                ck_assert_uint_gt(strlen(outcomes[i].words), 0);
        }

        /* What is wrong in itself is said at once, and then nothing comes. */
        ck_assert_int_eq(shmd_open_async(connection, "bad//name", 0, note, &never), -EINVAL);
        ck_assert_int_eq(shmd_open_async(connection, "name", 0x8000, note, &never), -EINVAL);
        ck_assert_int_eq(shmd_open_wait_async(connection, "", 0, 0, note, &never, NULL), -EINVAL);
        ck_assert_int_eq(shmd_create_async(connection, "name", 0, 0, NULL, note, &never), -EINVAL);
        ck_assert_int_eq(shmd_create_async(connection, "name", 1, 0, &wrong, note, &never), -EINVAL);
        ck_assert_int_eq(shmd_create_async(connection, "name", 1, SHMD_PREALLOCATE, NULL, note, &never), -EINVAL);
        ck_assert_int_eq(shmd_stat_async(connection, "", note, &never), -EINVAL);
        ck_assert_int_eq(shmd_rename_async(connection, "taken", "bad//name", note, &never), -EINVAL);
        ck_assert_int_eq(shmd_set_lifetime_async(connection, "taken", 9, 0, note, &never), -EINVAL);
        client_status(connection);
        ck_assert_int_eq(shmd_dispatch(connection), 0);
        ck_assert_uint_eq(never.told, 0);
        shmd_close(hidden);
        shmd_close(segment);
}
END_TEST

static void submit_as_other(int channel, void *userdata) {
        static struct outcome_of outcomes[7];
        struct shmd *own = client_connect();

        (void) userdata;
        ASSERT_OK(own, shmd_open_async(own, "private", SHMD_READ_ONLY, note, &outcomes[0]));
        ASSERT_OK(own, shmd_unlink_async(own, "private", note, &outcomes[1]));
        ASSERT_OK(own, shmd_chmod_async(own, "private", 0666, note, &outcomes[2]));
        ASSERT_OK(own, shmd_rename_async(own, "private", "mine", note, &outcomes[3]));
        ASSERT_OK(own, shmd_freeze_async(own, "private", note, &outcomes[4]));
        ASSERT_OK(own, shmd_set_lifetime_async(own, "private", SHMD_LIFETIME_HOLDERS, 0, note, &outcomes[5]));
        ASSERT_OK(own, shmd_stat_async(own, "private", note, &outcomes[6]));
        dispatch_until_told(own, &outcomes[6]);
        for (unsigned i = 0; i < 7; i++) {
                ck_assert_int_eq(outcomes[i].error, i == 0 ? -EACCES : i == 6 ? 0 : -EPERM);
                if (i < 6)
                        ck_assert_ptr_nonnull(strstr(outcomes[i].words, "root"));
        }
        step_send(channel, 'd');
        shmd_disconnect(own);
}

START_TEST(test_rights) {
        struct child child;

        if (!test_as_root("submitting what one may not do"))
                return;
        shmd_close(client_create(connection, "private", PAGE, SHMD_LIFETIME_PERSIST));
        child_start_as(&child, &alice, submit_as_other, NULL);
        step_expect(child.channel, 'd');
        child_join(&child);
        ck_assert(client_exists(connection, "private"));
}
END_TEST

/* --- order --- */

#define MANY 600

/* In the order of their submission, however many. */
START_TEST(test_order) {
        static struct outcome_of outcomes[MANY];
        char name[32];

        for (unsigned i = 0; i < MANY; i++) {
                int r;

                snprintf(name, sizeof(name), "order/%u", i / 4);
                do {
                        if (i % 4 == 0)
                                r = shmd_create_async(connection, name, PAGE, SHMD_EXCLUSIVE, NULL, note, &outcomes[i]);
                        else if (i % 4 == 1)
                                r = shmd_stat_async(connection, name, note, &outcomes[i]);
                        else if (i % 4 == 2)
                                r = shmd_unlink_async(connection, name, note, &outcomes[i]);
                        else
                                r = shmd_open_async(connection, name, 0, note, &outcomes[i]);
                        if (r == -EAGAIN)
                                dispatch(connection);
                } while (r == -EAGAIN);
                ASSERT_OK(connection, r);
        }
        for (unsigned i = 0; i < MANY; i++) {
                TEST_REQUIRE(result_of(&outcomes[i]), ==, i % 4 == 3 ? -ENOENT : 0);
                TEST_REQUIRE(outcomes[i].place, ==, i + 1);
        }
        for (unsigned i = 0; i < MANY; i += 4)
                shmd_close(outcomes[i].segment);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

#define WAITS 50

/* Waits are overtaken by what comes later, submitted or not, and by one another. */
START_TEST(test_waits) {
        static struct outcome_of waits[WAITS], status;
        struct shmd *other = client_connect();
        char name[32];

        for (unsigned i = 0; i < WAITS; i++) {
                snprintf(name, sizeof(name), "wait/%u", i);
                ASSERT_OK(connection, shmd_open_wait_async(connection, name, SHMD_READ_WRITE, FOREVER, note, &waits[i], NULL));
        }
        ASSERT_OK(connection, shmd_status_async(connection, note, &status));
        ck_assert_int_eq(result_of(&status), 0);
        ck_assert_uint_eq(status.place, 1);
        ck_assert_uint_eq(status.status.my_watches.used, WAITS);
        shmd_close(client_create(connection, "unrelated", PAGE, SHMD_LIFETIME_PERSIST));

        for (unsigned i = WAITS; i-- > 0;) {
                uint64_t id;

                snprintf(name, sizeof(name), "wait/%u", i);
                shmd_close(client_create(other, name, PAGE + i, SHMD_LIFETIME_PERSIST));
                ck_assert_int_eq(result_of(&waits[i]), 0);
                id = client_stat(other, name).id;
                ck_assert_uint_eq(shmd_id(waits[i].segment), id);
                ck_assert_uint_eq(waits[i].place, 1 + WAITS - i);
                if (i > 0)
                        ck_assert_uint_eq(waits[i - 1].told, 0);
        }
        ck_assert_uint_eq(client_status(connection).my_watches.used, 0);
        for (unsigned i = 0; i < WAITS; i++)
                shmd_close(waits[i].segment);
        shmd_disconnect(other);
}
END_TEST

/* One waits while one waits: the call that blocks takes only what is its own. */
START_TEST(test_wait_within_wait) {
        static struct outcome_of first, second;
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_open_wait_async(connection, "first", SHMD_READ_ONLY, FOREVER, note, &first, NULL));
        ck_assert_int_eq(shmd_open_wait(connection, "second", SHMD_READ_ONLY, 1000, &segment), -ETIMEDOUT);
        ASSERT_OK(connection, shmd_create_async(connection, "first", PAGE, 0, NULL, note, &second));
        ASSERT_OK(connection, shmd_open_wait(connection, "first", SHMD_READ_ONLY, FOREVER, &segment));
        ck_assert_uint_eq(first.told + second.told, 0);
        ck_assert_int_eq(result_of(&first), 0);
        ck_assert_int_eq(result_of(&second), 0);
        ck_assert_uint_eq(shmd_id(first.segment), shmd_id(segment));
        shmd_close(first.segment);
        shmd_close(second.segment);
        shmd_close(segment);
}
END_TEST

START_TEST(test_timeout) {
        static struct outcome_of now, soon, never;

        ASSERT_OK(connection, shmd_open_wait_async(connection, "x", SHMD_READ_ONLY, FOREVER, note, &never, NULL));
        ASSERT_OK(connection, shmd_open_wait_async(connection, "x", SHMD_READ_ONLY, 20000, note, &soon, NULL));
        ASSERT_OK(connection, shmd_open_wait_async(connection, "x", SHMD_READ_ONLY, 0, note, &now, NULL));
        ck_assert_int_eq(result_of(&now), -ETIMEDOUT);
        ck_assert_int_eq(result_of(&soon), -ETIMEDOUT);
        ck_assert_uint_lt(now.place, soon.place);
        ck_assert_uint_eq(never.told, 0);
        ck_assert_uint_eq(client_status(connection).my_watches.used, 1);
}
END_TEST

/* --- cancelling --- */

struct cancelling {
        struct outcome_of outcome;
        uint32_t wait;
};

static void cancel_another(struct shmd *who, const struct shmd_result *result, void *userdata) {
        struct cancelling *other = userdata;

        ck_assert_int_eq(result->error, 0);
        ASSERT_OK(who, shmd_cancel(who, other->wait));
}

START_TEST(test_cancel) {
        static struct cancelling cancelled, raced;
        struct shmd *other = client_connect();

        /* From within another's answer. */
        ASSERT_OK(connection, shmd_open_wait_async(connection, "x", SHMD_READ_ONLY, FOREVER, note, &cancelled.outcome, &cancelled.wait));
        ASSERT_OK(connection, shmd_status_async(connection, cancel_another, &cancelled));
        ck_assert_int_eq(result_of(&cancelled.outcome), -ECANCELED);
        ck_assert_int_eq(shmd_cancel(connection, cancelled.wait), -ENOENT);

        /* Published already, but we do not know that: one answer, whichever. */
        for (unsigned i = 0; i < 50; i++) {
                memset(&raced, 0, sizeof(raced));
                ASSERT_OK(connection, shmd_open_wait_async(connection, "race", SHMD_READ_ONLY, FOREVER, note, &raced.outcome, &raced.wait));
                if (i % 2 == 0)
                        client_status(connection);
                ASSERT_OK(other, shmd_create_async(other, "race", PAGE, 0, NULL, NULL, NULL));
                ASSERT_OK(connection, shmd_cancel(connection, raced.wait));
                (void) result_of(&raced.outcome);
                client_status(connection);
                ck_assert_int_eq(shmd_dispatch(connection), 0);
                ck_assert_uint_eq(raced.outcome.told, 1);
                ck_assert_int_eq(raced.outcome.segment != NULL, raced.outcome.error == 0);
                ck_assert(raced.outcome.error == 0 || raced.outcome.error == -ECANCELED);
                shmd_close(raced.outcome.segment);
                client_status(other);
                dispatch(other);
                ASSERT_OK(other, shmd_unlink(other, "race"));
        }
        ck_assert_uint_eq(client_status(connection).my_watches.used, 0);
        shmd_disconnect(other);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* --- within the functions --- */

#define CHAIN 200

struct chain {
        unsigned length;
        int error;
};

/* Each answer submits the next, and calls besides. */
static void go_on(struct shmd *who, const struct shmd_result *result, void *userdata) {
        struct chain *chain = userdata;
        char name[32];

        if (result->error < 0) {
                chain->error = result->error;
                return;
        }
        if (result->segment) {
                memset(client_map(result->segment), 1, PAGE);
                shmd_close(result->segment);
        }
        snprintf(name, sizeof(name), "chain/%u", chain->length);
        if (chain->length > 0)
                TEST_REQUIRE(client_exists(who, name), ==, 1);
        if (chain->length == CHAIN)
                return;
        snprintf(name, sizeof(name), "chain/%u", ++chain->length);
        ASSERT_OK(who, shmd_create_async(who, name, PAGE, 0, NULL, go_on, userdata));
}

START_TEST(test_chain) {
        struct chain chain = { 0 };

        ASSERT_OK(connection, shmd_status_async(connection, go_on, &chain));
        while (chain.length < CHAIN && chain.error == 0) {
                test_wait_readable(shmd_poll_fd(connection), "an answer");
                dispatch(connection);
        }
        ck_assert_int_eq(chain.error, 0);
        client_status(connection);
        dispatch(connection);
        ck_assert_uint_eq(client_count(connection, "chain/", 0), CHAIN);
}
END_TEST

/* --- full, gone, forked --- */

#define FLOOD 100000

static unsigned flood_told;

static void count_flood(struct shmd *who, const struct shmd_result *result, void *userdata) {
        (void) who;
        TEST_REQUIRE(result->error, ==, 0);
        TEST_REQUIRE((uintptr_t) userdata, ==, flood_told); /* in order */
        flood_told++;
}

/* A daemon that does not read: the socket fills, and who submits is told so, and loses nothing. */
START_TEST(test_full) {
        uintptr_t sent = 0;
        int r;

        daemon_pause(&the_daemon);
        while (sent < FLOOD && (r = shmd_status_async(connection, count_flood, (void *) sent)) == 0)
                sent++;
        ck_assert_int_eq(r, -EAGAIN);
        ck_assert_uint_gt(sent, 10);
        ck_assert_int_eq(shmd_status_async(connection, count_flood, (void *) sent), -EAGAIN);
        ck_assert_int_eq(shmd_dispatch(connection), 0);
        daemon_resume(&the_daemon);
        while (flood_told < sent) {
                test_wait_readable(shmd_poll_fd(connection), "an answer");
                dispatch(connection);
        }
        ASSERT_OK(connection, shmd_status_async(connection, count_flood, (void *) sent));
        client_status(connection); /* and a call that waits comes after it */
        dispatch(connection);
        ck_assert_uint_eq(flood_told, sent + 1);
        ck_assert_int_eq(shmd_dispatch(connection), 0);
}
END_TEST

/* Nobody hears of what was under way; what it would have held is held by nobody. */
START_TEST(test_disconnect) {
        static struct outcome_of outcomes[4];
        int descriptors = test_count_descriptors();
        struct shmd *other = client_connect();

        shmd_close(client_create(connection, "there", PAGE, SHMD_LIFETIME_PERSIST));
        (void) shmd_poll_fd(other);
        ASSERT_OK(other, shmd_open_async(other, "there", 0, note, &outcomes[0]));
        ASSERT_OK(other, shmd_open_wait_async(other, "never", 0, FOREVER, note, &outcomes[1], NULL));
        ASSERT_OK(other, shmd_create_async(other, "gone", PAGE, SHMD_UNPUBLISHED, NULL, note, &outcomes[2]));
        if (_i == 1)
                client_status(other); /* answered, and not told yet */
        if (_i == 2)
                daemon_pause(&the_daemon);
        ASSERT_OK(other, shmd_stat_async(other, "there", note, &outcomes[3]));
        shmd_disconnect(other);
        if (_i == 2)
                daemon_resume(&the_daemon);
        ck_assert_uint_eq(places, 0);
        daemon_settle(&the_daemon, 1);
        TEST_UNTIL(daemon_status(&the_daemon).holds == 0, "its holds to end");
        daemon_await_segments(&the_daemon, 1);
        ck_assert_uint_eq(client_status(connection).my_watches.used, 0);
        ck_assert_int_eq(test_count_descriptors(), descriptors);
}
END_TEST

static void fork_with_calls(int channel, void *userdata) {
        struct outcome_of *outcomes = userdata, own = { 0 };

        /* They are its parent's. */
        client_status(connection);
        ck_assert_int_eq(shmd_dispatch(connection), 0);
        ck_assert_uint_eq(outcomes[0].told + outcomes[1].told + outcomes[2].told, 0);
        ASSERT_OK(connection, shmd_open_async(connection, "there", SHMD_READ_ONLY, note, &own));
        ck_assert_int_eq(result_of(&own), 0);
        ck_assert_str_eq(client_map(own.segment), "text");
        step_send(channel, 'd');
        step_expect(channel, 'e');
        ck_assert_int_eq(shmd_dispatch(connection), 0);
        shmd_disconnect(connection);
}

START_TEST(test_fork) {
        static struct outcome_of outcomes[3];
        struct shmd_segment *segment = client_create(connection, "there", PAGE, SHMD_LIFETIME_PERSIST);
        struct shmd *other = client_connect();
        struct child child;

        strcpy(client_map(segment), "text");
        (void) shmd_poll_fd(connection);
        ASSERT_OK(connection, shmd_stat_async(connection, "there", note, &outcomes[0]));
        ASSERT_OK(connection, shmd_open_wait_async(connection, "later", 0, FOREVER, note, &outcomes[1], NULL));
        ASSERT_OK(connection, shmd_create_async(connection, "made", PAGE, 0, NULL, note, &outcomes[2]));
        child_start_inheriting(&child, fork_with_calls, outcomes);
        step_expect(child.channel, 'd');
        ck_assert_int_eq(result_of(&outcomes[0]), 0);
        ck_assert_int_eq(result_of(&outcomes[2]), 0);
        ck_assert_uint_eq(outcomes[1].told, 0);
        shmd_close(client_create(other, "later", PAGE, SHMD_LIFETIME_PERSIST));
        ck_assert_int_eq(result_of(&outcomes[1]), 0);
        step_send(child.channel, 'e');
        child_join(&child);
        shmd_close(outcomes[1].segment);
        shmd_close(outcomes[2].segment);
        shmd_close(segment);
        shmd_disconnect(other);
}
END_TEST

/* The daemon dies with calls under way: each is told of that once, and may be tried again when there is another. */
START_TEST(test_daemon_dies) {
        static struct outcome_of outcomes[5], again;
        int status;

        daemon_pause(&the_daemon);
        ASSERT_OK(connection, shmd_create_async(connection, "x", PAGE, 0, NULL, note, &outcomes[0]));
        ASSERT_OK(connection, shmd_unlink_async(connection, "x", note, &outcomes[1]));
        ASSERT_OK(connection, shmd_stat_async(connection, "x", note, &outcomes[2]));
        ASSERT_OK(connection, shmd_open_wait_async(connection, "x", 0, FOREVER, note, &outcomes[3], NULL));
        ASSERT_OK(connection, shmd_status_async(connection, note, &outcomes[4]));
        daemon_kill(&the_daemon, SIGKILL);
        status = daemon_wait(&the_daemon);
        ck_assert_int_ne(status, 0);
        unlink(the_daemon.socket);
        if (_i == 1)
                daemon_start_again(&the_daemon, NULL);
        if (_i == 0) {
                /* Nobody is there to be asked again. */
                for (unsigned attempt = 0; outcomes[0].told == 0 || outcomes[1].told == 0; attempt++) {
                        (void) shmd_dispatch(connection);
                        ck_assert_uint_lt(attempt, 1000);
                }
                ck_assert_int_eq(outcomes[0].error, -ECONNRESET);
                ck_assert_int_eq(outcomes[1].error, -ECONNRESET);
                ck_assert_int_eq(outcomes[2].error, -ECONNRESET);
                ck_assert_int_eq(outcomes[3].error, -ECONNRESET);
                ck_assert_int_eq(outcomes[4].error, -ECONNRESET);
                ck_assert_int_lt(shmd_stat_async(connection, "x", note, &again), 0);
                daemon_start_again(&the_daemon, NULL);
        } else {
                /* What had no answer was asked again. */
                ck_assert_int_eq(result_of(&outcomes[0]), 0);
                shmd_close(outcomes[0].segment);
                ck_assert_int_eq(result_of(&outcomes[1]), 0);
                ck_assert_int_eq(result_of(&outcomes[2]), -ENOENT);
                ck_assert_int_eq(result_of(&outcomes[4]), 0);
                ck_assert_uint_eq(outcomes[3].told, 0);
                shmd_close(client_create(connection, "x", PAGE, SHMD_LIFETIME_PERSIST));
                ck_assert_int_eq(result_of(&outcomes[3]), 0);
                shmd_close(outcomes[3].segment);
        }
        for (unsigned i = 0; i < ELEMENTSOF(outcomes); i++)
                ck_assert_uint_eq(outcomes[i].told, 1);
        ASSERT_OK(connection, shmd_stat_async(connection, "nothing", note, &again));
        ck_assert_int_eq(result_of(&again), -ENOENT);
}
END_TEST

/* --- in the program's own loop --- */

#define CONNECTIONS 8
#define ROUNDS 200

struct client_of_many {
        struct shmd *connection;
        unsigned answers;
};

static void ask_again(struct shmd *who, const struct shmd_result *result, void *userdata) {
        struct client_of_many *client = userdata;

        TEST_REQUIRE(result->error, ==, 0);
        shmd_close(result->segment);
        if (++client->answers < ROUNDS)
                ASSERT_OK(who, shmd_open_async(who, "asked", SHMD_READ_ONLY | SHMD_PRIVATE, ask_again, userdata));
}

/* Several connections, one loop. */
START_TEST(test_epoll) {
        struct client_of_many clients[CONNECTIONS] = { 0 };
        int loop = epoll_create1(EPOLL_CLOEXEC);
        unsigned done = 0;

        shmd_close(client_create(connection, "asked", PAGE, SHMD_LIFETIME_PERSIST));
        for (unsigned i = 0; i < CONNECTIONS; i++) {
                struct epoll_event item = { .events = EPOLLIN, .data.ptr = &clients[i] };

                clients[i].connection = client_connect();
                ck_assert_int_eq(epoll_ctl(loop, EPOLL_CTL_ADD, shmd_poll_fd(clients[i].connection), &item), 0);
                ASSERT_OK(clients[i].connection, shmd_open_async(clients[i].connection, "asked", 0, ask_again, &clients[i]));
        }
        while (done < CONNECTIONS) {
                struct epoll_event item;
                struct client_of_many *client;
                unsigned before;

                ck_assert_int_eq(epoll_wait(loop, &item, 1, test_deadline_msec()), 1);
                client = item.data.ptr;
                before = client->answers;
                dispatch(client->connection);
                done += before < ROUNDS && client->answers == ROUNDS;
        }
        for (unsigned i = 0; i < CONNECTIONS; i++) {
                ck_assert_uint_eq(clients[i].answers, ROUNDS);
                shmd_disconnect(clients[i].connection);
        }
        close(loop);
}
END_TEST

static Suite *async_suite(void) {
        Suite *suite = suite_create("async");
        TCase *tests = test_case(suite, "calls", setup, teardown);

        tcase_add_test(tests, test_each);
        tcase_add_test(tests, test_errors);
        tcase_add_test(tests, test_rights);
        tcase_add_test(tests, test_order);
        tcase_add_test(tests, test_chain);

        tests = test_case(suite, "waits", setup, teardown);
        tcase_add_test(tests, test_waits);
        tcase_add_test(tests, test_wait_within_wait);
        tcase_add_test(tests, test_timeout);
        tcase_add_test(tests, test_cancel);

        tests = test_case(suite, "ends", setup, teardown);
        tcase_add_test(tests, test_full);
        tcase_add_loop_test(tests, test_disconnect, 0, 3);
        tcase_add_test(tests, test_fork);
        tcase_add_loop_test(tests, test_daemon_dies, 0, 2);
        tcase_add_test(tests, test_epoll);
        return suite;
}

int main(void) {
        return test_run(async_suite());
}
