/* SPDX-License-Identifier: MIT */
/*
 * Everybody pays for what he uses: each limit reached by a user, what he is told, what others still get, and how it
 * is given back; the configuration file, read again; administrators.
 *
 * As root clients are other users; as a normal user they are the per-user daemon's own, who has limits, too.
 */
#include <grp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

#define KIB UINT64_C(1024)

static const struct identity alice = { .uid = 65533, .gid = 65533 }, bob = { .uid = 65532, .gid = 65532 };

static char config[160];

static void configure(const char *text) {
        FILE *file;

        snprintf(config, sizeof(config), "%s/%d.conf", test_directory(), (int) getpid());
        file = fopen(config, "we");
        ck_assert_ptr_nonnull(file);
        ck_assert_int_ge(fputs(text, file), 0);
        ck_assert_int_eq(fclose(file), 0);
}

static void start(const char *text) {
        const char *const arguments[] = { "--config", config, NULL };

        configure(text);
        daemon_start(&the_daemon, &(struct daemon_options) { .arguments = arguments });
}

/* What the harness itself uses of a limit of connections: its control connection, if it is the same user. */
static unsigned own_connections;

static void child_start_limited(struct child *child, child_function function, void *userdata) {
        if (geteuid() == 0)
                child_start_as(child, &alice, function, userdata);
        else
                child_start(child, function, userdata);
}

/* To its end, as a user with limits. */
static void run_limited(child_function function, void *userdata) {
        struct child child;

        child_start_limited(&child, function, userdata);
        child_join(&child);
}

static void run_as(const struct identity *identity, child_function function, void *userdata) {
        struct child child;

        child_start_as(&child, identity, function, userdata);
        child_join(&child);
}

/* The last refusal names the limit, the use, what was asked for, and who has most of it. */
static void check_words(struct shmd *connection, const char *limit) {
        const char *words = shmd_error_message(connection);

        ck_assert_msg(strstr(words, limit), "%s: not in \"%s\"", limit, words);
        ck_assert_msg(strstr(words, "most of it: "), "who: not in \"%s\"", words);
}

static int try_numbered(struct shmd *connection, unsigned number, uint64_t size) {
        char name[32];

        snprintf(name, sizeof(name), "%u/%u", (unsigned) geteuid(), number);
        return client_try_create(connection, name, size, SHMD_EXCLUSIVE, NULL);
}

/* As many as there may be, from a number on; the refusal must be of the limit. */
static unsigned create_all(struct shmd *connection, unsigned from, uint64_t size) {
        int r = 0;

        for (unsigned i = from;; i++) {
                r = try_numbered(connection, i, size);
                if (r == 0)
                        continue;
                ck_assert_int_eq(r, -EDQUOT);
                return i - from;
        }
}

static void unlink_numbered(struct shmd *connection, unsigned from, unsigned count) {
        char name[32];

        for (unsigned i = from; i < from + count; i++) {
                snprintf(name, sizeof(name), "%u/%u", (unsigned) geteuid(), i);
                ASSERT_OK(connection, shmd_unlink(connection, name));
        }
}

/* --- each limit --- */

static void reach_bytes(int channel, void *userdata) {
        const struct shmd_create_options resizable = { .maximum_bytes = 17 * KIB };
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_create(own, "first", 48 * KIB, SHMD_LIFETIME_PERSIST);

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(client_try_create(own, "second", 16 * KIB + 1, SHMD_EXCLUSIVE, NULL), -EDQUOT);
        check_words(own, "over the limit of 64 KiB a user (48 KiB used, 16.0 KiB more asked for)");
        ck_assert(!client_exists(own, "second"));
        ck_assert_uint_eq(client_status(own).my_bytes.used, 48 * KIB);
        ck_assert_uint_eq(client_status(own).my_bytes.maximum, 64 * KIB);
        /* Of what can grow, what it can grow to */
        ck_assert_int_eq(client_try_create(own, "second", 1, SHMD_EXCLUSIVE, &resizable), -EDQUOT);
        ck_assert_int_eq(client_try_create(own, "second", 16 * KIB, SHMD_EXCLUSIVE, NULL), 0);
        ck_assert_int_eq(client_try_create(own, "third", 1, SHMD_EXCLUSIVE, NULL), -EDQUOT);

        /* Without its name it counts as long as it is there. */
        ASSERT_OK(own, shmd_unlink(own, "first"));
        ck_assert_int_eq(client_try_create(own, "third", 48 * KIB, SHMD_EXCLUSIVE, NULL), -EDQUOT);
        shmd_close(segment);
        TEST_UNTIL(client_try_create(own, "third", 48 * KIB, SHMD_EXCLUSIVE, NULL) == 0, "the charge to be given back");
        shmd_disconnect(own);
}

START_TEST(test_bytes) {
        start("[limits]\nbytes = 64K\n");
        run_limited(reach_bytes, NULL);
        daemon_stop(&the_daemon);
}
END_TEST

static void reach_segments(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *held = client_create(own, "held", 1, SHMD_LIFETIME_PERSIST), *hidden = NULL;

        (void) channel;
        (void) userdata;
        ASSERT_OK(own, shmd_create(own, "hidden", 1, SHMD_UNPUBLISHED, NULL, &hidden));
        ASSERT_OK(own, shmd_unlink(own, "held"));
        ck_assert_int_eq(try_numbered(own, 1, 1), 0);
        ck_assert_int_eq(try_numbered(own, 2, 1), -EDQUOT);
        check_words(own, "over the limit of 3 segments a user (3 used, 1 more asked for)");
        ck_assert_uint_eq(client_status(own).my_segments.used, 3);
        ck_assert_uint_eq(client_status(own).my_segments.maximum, 3);
        shmd_close(hidden);
        TEST_UNTIL(try_numbered(own, 2, 1) == 0, "what was not published to go");
        ck_assert_int_eq(try_numbered(own, 3, 1), -EDQUOT);
        shmd_close(held);
        TEST_UNTIL(try_numbered(own, 3, 1) == 0, "what was unlinked to go");
        ck_assert_int_eq(try_numbered(own, 4, 1), -EDQUOT);
        unlink_numbered(own, 1, 3);
        TEST_UNTIL(client_status(own).my_segments.used == 0, "all to go");
        ck_assert_uint_eq(create_all(own, 0, 1), 3);
        shmd_disconnect(own);
}

START_TEST(test_segments) {
        start("[limits]\nsegments = 3\n");
        run_limited(reach_segments, NULL);
        daemon_stop(&the_daemon);
}
END_TEST

static void reach_holds(int channel, void *userdata) {
        struct shmd *own = client_connect(), *other = client_connect();
        struct shmd_segment *a = client_create(own, "a", 1, SHMD_LIFETIME_PERSIST), *segment = NULL;

        (void) channel;
        (void) userdata;
        client_open(own, "a", SHMD_READ_ONLY);
        client_open(own, "a", SHMD_READ_ONLY); /* what one client has open several times counts once */
        client_create(own, "b", 1, SHMD_LIFETIME_PERSIST);
        client_open(other, "a", SHMD_READ_ONLY);
        ck_assert_uint_eq(client_status(own).my_holds.used, 3);
        ck_assert_int_eq(shmd_open(other, "b", SHMD_READ_ONLY, &segment), -EDQUOT);
        check_words(other, "over the limit of 3 holds a user (3 used, 1 more asked for)");
        ck_assert_int_eq(client_try_create(own, "c", 1, SHMD_EXCLUSIVE, NULL), -EDQUOT);
        ck_assert(!client_exists(own, "c"));
        ck_assert_uint_eq(client_status(own).my_segments.used, 2);
        shmd_disconnect(own);
        TEST_UNTIL(shmd_open(other, "b", SHMD_READ_ONLY, &segment) == 0, "the holds to end");
        (void) a;
        shmd_disconnect(other);
}

START_TEST(test_holds) {
        start("[limits]\nholds = 3\n");
        run_limited(reach_holds, NULL);
        daemon_stop(&the_daemon);
}
END_TEST

/* Who is not let in is told so, also if he has sent descriptors by then. */
static void be_turned_away_with_descriptors(void) {
        const struct shmd_wire_hello hello = { .version_min = SHMD_PROTOCOL_VERSION, .version_max = SHMD_PROTOCOL_VERSION };
        struct raw raw = RAW_INIT;
        struct raw_reply reply;
        int fds[] = { STDIN_FILENO, STDOUT_FILENO };

        raw_open(&raw, the_daemon.socket);
        (void) raw_request(&raw, SHMD_OP_HELLO, &hello, NULL, 0, fds, ELEMENTSOF(fds)); /* may be too late */
        raw_receive(&raw, &reply);
        if (reply.size == 0) /* sent when the daemon had looked, not read when it closed: the error comes before the answer */
                raw_receive(&raw, &reply);
        ck_assert_uint_ge(reply.size, sizeof(reply.header));
        ck_assert_uint_ne(reply.header.status, 0);
        ck_assert(reply.header.serial == 0 || reply.header.serial == raw.serial);
        raw_reply_done(&reply);
        raw_receive(&raw, &reply);
        ck_assert_uint_eq(reply.size, 0);
        raw_close(&raw);
}

static void reach_connections(int channel, void *userdata) {
        struct shmd *connections[4], *more = NULL;
        int r;

        (void) channel;
        (void) userdata;
        for (unsigned i = 0; i < 4; i++)
                connections[i] = client_connect();
        ck_assert_int_eq(shmd_connect(the_daemon.socket, &more), -EDQUOT);
        ck_assert_ptr_null(more);
        check_words(NULL, own_connections ? "over the limit of 5 connections a user (5 used, 1 more asked for)"
                                            : "over the limit of 4 connections a user (4 used, 1 more asked for)");
        ck_assert_uint_eq(client_status(connections[3]).my_connections.used, 4 + own_connections);
        for (unsigned i = 0; i < 50; i++)
                be_turned_away_with_descriptors();
        shmd_disconnect(connections[2]);
        TEST_UNTIL((r = shmd_connect(the_daemon.socket, &more)) == 0, "the connection to end");
        ck_assert_int_eq(try_numbered(more, 0, 1), 0);
        shmd_disconnect(more);
        shmd_disconnect(connections[3]);
        shmd_disconnect(connections[1]);
        shmd_disconnect(connections[0]);
}

START_TEST(test_connections) {
        char text[64];

        own_connections = geteuid() == 0 ? 0 : 1;
        snprintf(text, sizeof(text), "[limits]\nconnections = %u\n", 4 + own_connections);
        start(text);
        run_limited(reach_connections, NULL);
        daemon_stop(&the_daemon);
}
END_TEST

static void ignore_event(struct shmd *from, const struct shmd_event *event, void *userdata) {
        (void) from, (void) event, (void) userdata;
}

static void note_error(struct shmd *from, const struct shmd_result *result, void *userdata) {
        (void) from;
        *(int *) userdata = result->error;
}

static void dispatch_until(struct shmd *connection, const int *changed) {
        while (*changed == 1) {
                test_wait_readable(shmd_poll_fd(connection), "a result");
                ck_assert_int_ge(shmd_dispatch(connection), 0);
        }
}

static void reach_watches(int channel, void *userdata) {
        struct shmd *own = client_connect(), *other = client_connect();
        struct shmd_segment *segment = NULL;
        uint64_t watches[2], more = 0;
        int waited = 1, refused = 1;
        uint32_t wait, another;

        (void) channel;
        (void) userdata;
        for (unsigned i = 0; i < 2; i++)
                ASSERT_OK(own, shmd_watch(own, "x", 0, ignore_event, NULL, &watches[i]));
        ASSERT_OK(own, shmd_open_wait_async(own, "never", SHMD_READ_ONLY, UINT64_MAX, note_error, &waited, &wait));
        TEST_UNTIL(client_status(own).my_watches.used == 3, "the wait to begin");
        ck_assert_int_eq(shmd_watch(other, "y", 0, ignore_event, NULL, &more), -EDQUOT);
        check_words(other, "over the limit of 3 watches and waits a user (3 used, 1 more asked for)");
        ck_assert_int_eq(shmd_open_wait(other, "never", SHMD_READ_ONLY, 1000000, &segment), -EDQUOT);
        ASSERT_OK(other, shmd_open_wait_async(other, "never", SHMD_READ_ONLY, 1000000, note_error, &refused, &another));
        dispatch_until(other, &refused);
        ck_assert_int_eq(refused, -EDQUOT);

        ASSERT_OK(own, shmd_cancel(own, wait));
        dispatch_until(own, &waited);
        ck_assert_int_eq(waited, -ECANCELED);
        ASSERT_OK(other, shmd_watch(other, "y", 0, ignore_event, NULL, &more));
        ck_assert_int_eq(shmd_open_wait(other, "never", SHMD_READ_ONLY, 1000, &segment), -EDQUOT);
        ASSERT_OK(own, shmd_unwatch(own, watches[0])); /* waits for no answer */
        ck_assert_uint_eq(client_status(own).my_watches.used, 2);
        ck_assert_int_eq(shmd_open_wait(other, "never", SHMD_READ_ONLY, 1000, &segment), -ETIMEDOUT);
        ck_assert_uint_eq(client_status(own).my_watches.used, 2);
        shmd_disconnect(own);
        TEST_UNTIL(client_status(other).my_watches.used == 1, "the watch of who has gone to go");
        shmd_disconnect(other);
}

START_TEST(test_watches) {
        start("[limits]\nwatches = 3\n");
        run_limited(reach_watches, NULL);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- others, and deaths --- */

/* Everything that there is to have. Its step: k killed. */
static void have_everything(int channel, void *userdata) {
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_CREATOR };
        struct shmd *own = client_connect();
        struct shmd_segment *segment;
        char name[32];
        uint64_t watch;

        (void) userdata;
        for (unsigned i = 0; i < 4; i++) {
                snprintf(name, sizeof(name), "%u/%u", (unsigned) geteuid(), i);
                ASSERT_OK(own, shmd_create(own, name, 16 * KIB, SHMD_EXCLUSIVE, &options, &segment));
                ASSERT_OK(own, shmd_watch(own, name, 0, ignore_event, NULL, &watch));
        }
        ck_assert_int_eq(try_numbered(own, 5, 1), -EDQUOT);
        ck_assert_int_eq(shmd_watch(own, "x", 0, ignore_event, NULL, &watch), -EDQUOT);
        step_send(channel, 'f');
        step_expect(channel, 'k');
}

#define FOUR_OF_ALL "[limits]\nbytes = 64K\nsegments = 4\nholds = 4\nwatches = 4\n"

/* One at his limits takes nothing from another, and what he had is there for himself as soon as he is dead. */
START_TEST(test_death_and_others) {
        struct child child, other;

        start(FOUR_OF_ALL);
        for (unsigned i = 0; i < 3; i++) {
                child_start_limited(&child, have_everything, NULL);
                step_expect(child.channel, 'f');
                if (geteuid() == 0) {
                        child_start_as(&other, &bob, have_everything, NULL);
                        step_expect(other.channel, 'f');
                        child_kill(&other);
                }
                child_kill(&child);
                daemon_settle(&the_daemon, 0);
                daemon_await_segments(&the_daemon, 0);
        }
        daemon_stop(&the_daemon);
}
END_TEST

struct share {
        unsigned from, expected;
};

static void take_share(int channel, void *userdata) {
        const struct share *share = userdata;
        struct shmd *own = client_connect();

        (void) channel;
        ck_assert_uint_eq(create_all(own, share->from, 1), share->expected);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(own), " segments"));
        shmd_disconnect(own);
}

static void give_back(int channel, void *userdata) {
        const struct share *share = userdata;
        struct shmd *own = client_connect();

        (void) channel;
        unlink_numbered(own, share->from, share->expected);
        shmd_disconnect(own);
}

/* The example of shmd.conf(5), and on. */
START_TEST(test_three_quarters) {
        start("[total]\nsegments = 100\n");
        run_limited(take_share, &(struct share) { 0, 75 });
        if (test_as_root("test_three_quarters, in part")) {
                struct shmd *connection;

                run_as(&bob, take_share, &(struct share) { 0, 19 });
                run_limited(give_back, &(struct share) { 0, 40 });
                daemon_await_segments(&the_daemon, 100 - 40 - 6);
                run_as(&bob, take_share, &(struct share) { 19, 49 - 19 }); /* three quarters of 19 + 46, rounded up */
                /* Root is exempt, and leaves nothing. */
                connection = client_connect();
                for (unsigned i = 0; i < 120; i++)
                        ck_assert_int_eq(try_numbered(connection, i, 1), 0);
                run_limited(take_share, &(struct share) { 100, 0 });
                run_as(&(struct identity) { .uid = 65531, .gid = 65531 }, take_share, &(struct share) { 0, 0 });
                unlink_numbered(connection, 0, 120);
                shmd_disconnect(connection);
                daemon_await_segments(&the_daemon, 35 + 49);
                run_as(&(struct identity) { .uid = 65531, .gid = 65531 }, take_share, &(struct share) { 0, 12 });
        }
        daemon_stop(&the_daemon);
}
END_TEST

static void take_bytes(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        ck_assert_uint_eq(create_all(own, 0, KIB), *(const unsigned *) userdata);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(own), "KiB"));
        shmd_disconnect(own);
}

START_TEST(test_three_quarters_of_bytes) {
        start("[limits]\nbytes = 1M\n[total]\nbytes = 64K\n");
        run_limited(take_bytes, &(unsigned) { 48 });
        if (test_as_root("test_three_quarters_of_bytes, in part"))
                run_as(&bob, take_bytes, &(unsigned) { 12 });
        daemon_stop(&the_daemon);
}
END_TEST

START_TEST(test_root_is_exempt) {
        struct shmd *connection, *connections[4];
        uint64_t watch;

        if (!test_as_root("test_root_is_exempt"))
                return;
        start("[limits]\nbytes = 1\nsegments = 1\nholds = 1\nconnections = 1\nwatches = 1\n");
        connection = client_connect();
        for (unsigned i = 0; i < 4; i++) {
                connections[i] = client_connect();
                ck_assert_int_eq(try_numbered(connections[i], i, KIB), 0);
                ASSERT_OK(connection, shmd_watch(connection, "x", 0, ignore_event, NULL, &watch));
        }
        for (unsigned i = 0; i < 4; i++)
                shmd_disconnect(connections[i]);
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- another owner --- */

static void check_use(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        ck_assert_uint_eq(client_status(own).my_bytes.used, *(const uint64_t *) userdata);
        shmd_disconnect(own);
}

START_TEST(test_chown_moves_charges) {
        struct shmd *connection;
        struct child child;

        if (!test_as_root("test_chown_moves_charges"))
                return;
        start("[limits]\nbytes = 64K\nsegments = 2\n");
        connection = client_connect();
        shmd_close(client_create(connection, "given", 40 * KIB, SHMD_LIFETIME_PERSIST));
        shmd_close(client_create(connection, "kept", 25 * KIB, SHMD_LIFETIME_PERSIST));
        ck_assert_uint_eq(client_status(connection).my_bytes.used, 65 * KIB);
        ASSERT_OK(connection, shmd_chown(connection, "given", alice.uid, (gid_t) -1));
        ck_assert_uint_eq(client_status(connection).my_bytes.used, 25 * KIB);
        ck_assert_uint_eq(client_stat(connection, "given").uid, alice.uid);
        child_start_as(&child, &alice, check_use, &(uint64_t) { 40 * KIB });
        child_join(&child);
        /* Beyond his limit it can't be given to him, and stays as it was. */
        ck_assert_int_eq(shmd_chown(connection, "kept", alice.uid, (gid_t) -1), -EDQUOT);
        check_words(connection, "over the limit of 64 KiB a user (40 KiB used, 25 KiB more asked for)");
        ck_assert_uint_eq(client_stat(connection, "kept").uid, geteuid());
        ck_assert_uint_eq(client_status(connection).my_bytes.used, 25 * KIB);
        ck_assert_uint_eq(client_status(connection).my_segments.used, 1);
        /* And back. */
        ASSERT_OK(connection, shmd_chown(connection, "given", geteuid(), (gid_t) -1));
        ck_assert_uint_eq(client_status(connection).my_bytes.used, 65 * KIB);
        child_start_as(&child, &alice, check_use, &(uint64_t) { 0 });
        child_join(&child);
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- the file --- */

/* Waits for one notification that is not of totals alone; gives it. */
static void next_notification(char (*text)[512]) {
        do {
                ssize_t n;

                test_wait_readable(the_daemon.notify, "a notification");
                n = recv(the_daemon.notify, *text, sizeof(*text) - 1, 0);
                ck_assert_int_gt(n, 0);
                (*text)[n] = '\0';
        } while (strncmp(*text, "STATUS=", 7) == 0);
}

static void reload(const char *content) {
        char text[512];

        if (content)
                configure(content);
        daemon_kill(&the_daemon, SIGHUP);
        next_notification(&text);
        ck_assert_msg(strncmp(text, "RELOADING=1\n", 12) == 0 && strstr(text, "MONOTONIC_USEC="), "%s", text);
        next_notification(&text);
        ck_assert_msg(strncmp(text, "READY=1", 7) == 0, "%s", text);
}

static void check_limit_of_segments(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        ck_assert_uint_eq(client_status(own).my_segments.maximum, *(const uint64_t *) userdata);
        shmd_disconnect(own);
}

static void use_and_reload(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) userdata;
        ck_assert_uint_eq(create_all(own, 0, 1), 4);
        step_send(channel, '4');
        step_expect(channel, '6');
        ck_assert_uint_eq(create_all(own, 4, 1), 2);
        step_send(channel, '6');
        step_expect(channel, '2');
        /* Nothing is taken away; nothing more is given until there is less. */
        ck_assert_int_eq(try_numbered(own, 6, 1), -EDQUOT);
        check_words(own, "over the limit of 2 segments a user (6 used, 1 more asked for)");
        ck_assert_uint_eq(client_count(own, NULL, 0), 6);
        unlink_numbered(own, 0, 4);
        TEST_UNTIL(client_status(own).my_segments.used == 2, "four to go");
        ck_assert_int_eq(try_numbered(own, 6, 1), -EDQUOT);
        unlink_numbered(own, 4, 1);
        TEST_UNTIL(try_numbered(own, 6, 1) == 0, "another one to go");
        shmd_disconnect(own);
}

START_TEST(test_reload) {
        struct child child;

        start("[limits]\nsegments = 4\n");
        child_start_limited(&child, use_and_reload, NULL);
        step_expect(child.channel, '4');
        reload("[limits]\nsegments = 6\n");
        step_send(child.channel, '6');
        step_expect(child.channel, '6');
        reload("[limits]\nsegments = 2\n");
        step_send(child.channel, '2');
        child_join(&child);
        daemon_settle(&the_daemon, 0);
        /* What is gone from the file has its default again. */
        reload("# nothing\n");
        run_limited(check_limit_of_segments, &(uint64_t) { 65536 });
        reload("[limits]\nsegments = 7\n");
        /* A file that has gone altogether is a mistake, as it was named. */
        ck_assert_int_eq(unlink(config), 0);
        reload(NULL);
        run_limited(check_limit_of_segments, &(uint64_t) { 7 });
        ck_assert(daemon_log_has(&the_daemon, config));
        ck_assert(daemon_log_has(&the_daemon, "keeping the configuration"));
        daemon_stop(&the_daemon);
}
END_TEST

static const struct {
        const char *text;
        unsigned line;
        const char *words;
} mistakes[] = {
        { "[limits]\nbyte = 64K\n", 2, "no such limit: \"byte\"" },
        { "# text\n\n[limits]\nsegments = 5\nholds = many\n", 5, "\"many\"" },
        { "[limits]\nsegments = 5K\n", 2, "\"5K\"" },
        { "[limits]\nbytes = -1\n", 2, "\"-1\"" },
        { "[limits]\nbytes = 1001%\n", 2, "1001%" },
        { "[limits]\nbytes = 99999999999999999999\n", 2, "99999999999999999999" },
        { "[limits]\nbytes = 99999999T\n", 2, "99999999T" },
        { "[limits]\nbytes =\n", 2, "bytes" },
        { "[total]\nwatch = 1\n", 2, "\"watch\"" },
        { "[limit]\nbytes = 1\n", 2, "[limit]" },
        { "bytes = 1\n", 1, "before the first [section]" },
        { "[limits]\nbytes\n", 2, "" },
        { "[limits\nbytes = 1\n", 1, "" },
        { "[access]\nadministrators = no-such-group-here\n", 2, "no-such-group-here" },
        { "[access]\nadmins = root\n", 2, "\"admins\"" },
        { "[limits]\nsegments = 5\nsegments = x\nbytes = y\n", 3, "\"x\"" },
};

static void check_mistake(const char *log, size_t i) {
        char place[256];

        snprintf(place, sizeof(place), "%s:%u: ", config, mistakes[i].line);
        ck_assert_msg(strstr(log, place) && strstr(log, mistakes[i].words), "\"%s\": not told (%s%s): %s", mistakes[i].text,
                      place, mistakes[i].words, log);
}

/* Whoever starts it is told, and nothing runs. */
START_TEST(test_mistakes_at_start) {
        char socket_path[128];
        const char *const arguments[] = { test_environment("SHMD_TEST_DAEMON"), "--socket", socket_path, "--log-target", "stderr",
                                          "--config", config, NULL };
        struct outcome outcome = OUTCOME_INIT;

        snprintf(socket_path, sizeof(socket_path), "%s/%d.sock", test_directory(), (int) getpid());
        for (size_t i = 0; i < ELEMENTSOF(mistakes); i++) {
                configure(mistakes[i].text);
                process_run(arguments, NULL, NULL, &outcome);
                ck_assert(WIFEXITED(outcome.status));
                ck_assert_int_eq(WEXITSTATUS(outcome.status), 1);
                check_mistake(outcome.errors, i);
                ck_assert_int_eq(access(socket_path, F_OK), -1);
        }
        unlink(config);
        process_run(arguments, NULL, NULL, &outcome);
        ck_assert_int_eq(WEXITSTATUS(outcome.status), 1);
        ck_assert_ptr_nonnull(strstr(outcome.errors, config));
        outcome_done(&outcome);
}
END_TEST

/* One that runs says so and keeps what it had, all of it. */
START_TEST(test_mistakes_at_reload) {
        start("[limits]\nsegments = 9\n");
        for (size_t i = 0; i < ELEMENTSOF(mistakes); i++) {
                _cleanup_free_ char *log = NULL;

                ck_assert_int_eq(truncate(the_daemon.log, 0), 0);
                reload(mistakes[i].text);
                log = test_read_file(the_daemon.log);
                ck_assert_ptr_nonnull(log);
                check_mistake(log, i);
                ck_assert_ptr_nonnull(strstr(log, "keeping the configuration"));
                run_limited(check_limit_of_segments, &(uint64_t) { 9 });
        }
        reload("[limits]\nsegments = 10\n");
        run_limited(check_limit_of_segments, &(uint64_t) { 10 });
        daemon_stop(&the_daemon);
}
END_TEST

static void check_bytes(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        ck_assert_uint_eq(client_status(own).my_bytes.maximum, *(const uint64_t *) userdata);
        shmd_disconnect(own);
}

START_TEST(test_amounts) {
        static const struct {
                const char *text;
                uint64_t bytes;
        } amounts[] = {
                { "0", 0 },
                { "1", 1 },
                { "3K", 3 * KIB },
                { "2m", 2 * KIB * KIB },
                { "1G ; comment", KIB * KIB * KIB },
                { "1T", KIB * KIB * KIB * KIB },
                { "unlimited", UINT64_MAX },
        };
        char text[128];

        start("[total]\nbytes = unlimited\n");
        for (size_t i = 0; i < ELEMENTSOF(amounts); i++) {
                snprintf(text, sizeof(text), "[total]\nbytes = unlimited\n[limits]\nbytes = %s\n", amounts[i].text);
                reload(text);
                run_limited(check_bytes, &(uint64_t) { amounts[i].bytes });
        }
        daemon_stop(&the_daemon);
}
END_TEST

/* --- administrators --- */

static int count_holder(const struct shmd_holder *holder, void *userdata) {
        (void) holder;
        ++*(unsigned *) userdata;
        return 0;
}

/* Manages what is not his, and may not look into it. */
static void administrate(int channel, void *userdata) {
        const uint64_t unlinked = *(const uint64_t *) userdata;
        struct shmd *own = client_connect();
        unsigned holders = 0;

        ck_assert_int_eq(client_try_open(own, "roots", SHMD_READ_ONLY), -EACCES);
        ck_assert_int_eq(client_try_open(own, "roots", SHMD_READ_WRITE), -EACCES);
        ck_assert_int_eq(client_try_create(own, "roots", 1, 0, NULL), -EACCES);
        ck_assert_int_eq(shmd_resize(own, "roots", 2), -EACCES);
        ASSERT_OK(own, shmd_holders(own, client_stat(own, "roots").id, count_holder, &holders));
        ck_assert_uint_eq(holders, 1);
        ck_assert_uint_eq(client_count(own, NULL, SHMD_LIST_UNLINKED), 1);
        ck_assert(client_id_exists(own, unlinked));
        ASSERT_OK(own, shmd_chmod(own, "roots", 0640));
        ASSERT_OK(own, shmd_rename(own, "roots", "renamed"));
        ASSERT_OK(own, shmd_freeze(own, "renamed"));
        ASSERT_OK(own, shmd_set_lifetime(own, "renamed", SHMD_LIFETIME_PERSIST, 0));
        ASSERT_OK(own, shmd_chown(own, "renamed", bob.uid, bob.gid));
        ASSERT_OK(own, shmd_unlink(own, "second"));
        ASSERT_OK(own, shmd_unlink(own, "renamed"));
        step_send(channel, 'a');
        step_expect(channel, 'r');
        /* Who is one is decided when he connects. */
        ASSERT_OK(own, shmd_unlink(own, "third"));
        shmd_disconnect(own);
        own = client_connect();
        ck_assert_int_eq(shmd_unlink(own, "fourth"), -EPERM);
        shmd_disconnect(own);
}

static void administrate_not(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(shmd_unlink(own, "roots"), -EPERM);
        ck_assert_int_eq(shmd_rename(own, "roots", "mine"), -EPERM);
        ck_assert_int_eq(shmd_chmod(own, "roots", 0666), -EPERM);
        ck_assert_int_eq(shmd_chown(own, "roots", alice.uid, (gid_t) -1), -EPERM);
        ck_assert_int_eq(shmd_freeze(own, "roots"), -EPERM);
        ck_assert_int_eq(shmd_set_lifetime(own, "roots", SHMD_LIFETIME_HOLDERS, 0), -EPERM);
        ck_assert_uint_eq(client_count(own, NULL, SHMD_LIST_UNLINKED), 0);
        shmd_disconnect(own);
}

START_TEST(test_administrators) {
        static const char *const names[] = { "second", "third", "fourth" };
        const struct shmd_create_options resizable = { .maximum_bytes = 4096 };
        struct identity administrator = alice;
        struct group *group = getgrgid(1); /* "daemon" everywhere, and nobody's */
        struct shmd_segment *segment = NULL;
        struct shmd *connection;
        struct child child;
        char text[128];
        uint64_t unlinked;

        if (!test_as_root("test_administrators"))
                return;
        if (!group) {
                test_skip("test_administrators: there is no group 1");
                return;
        }
        administrator.groups[administrator.group_count++] = 1;
        snprintf(text, sizeof(text), "[access]\nadministrators = %s\n", group->gr_name);
        start(text);
        connection = client_connect();
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                shmd_close(client_create(connection, names[i], 1, SHMD_LIFETIME_PERSIST));
        unlinked = shmd_id(client_create(connection, "unlinked", 1, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(connection, shmd_unlink(connection, "unlinked"));
        ASSERT_OK(connection, shmd_create(connection, "roots", 1, SHMD_EXCLUSIVE, &resizable, &segment));

        child_start_as(&child, &alice, administrate_not, NULL);
        child_join(&child);
        child_start_as(&child, &administrator, administrate, &unlinked);
        step_expect(child.channel, 'a');
        ck_assert_uint_eq(client_stat_id(connection, shmd_id(segment)).uid, bob.uid);
        reload("# none\n");
        step_send(child.channel, 'r');
        child_join(&child);
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- of the daemon's process --- */

#define FILE_SIZE_LIMIT (UINT64_C(4) << 20)

static void limit_file_size(void *userdata) {
        (void) userdata;
        if (setrlimit(RLIMIT_FSIZE, &(struct rlimit) { FILE_SIZE_LIMIT, FILE_SIZE_LIMIT }) < 0)
                _exit(125);
}

/* The kernel would end a daemon that makes a larger file: with SIGXFSZ. */
START_TEST(test_file_size) {
        struct shmd *connection = NULL;
        struct shmd_segment *segment = NULL;

        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = limit_file_size });
        ASSERT_OK(NULL, shmd_connect(the_daemon.socket, &connection));
        ck_assert_int_eq(shmd_create(connection, "large", FILE_SIZE_LIMIT + 1, SHMD_READ_WRITE, NULL, &segment), -EFBIG);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "at most 4 MiB"));
        ASSERT_OK(connection, shmd_create(connection, "fits", FILE_SIZE_LIMIT, SHMD_READ_WRITE, NULL, &segment));
        shmd_close(segment);
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- descriptors that nobody receives, and a daemon without privileges --- */

#define FEW_DESCRIPTORS 512
#define DEAF 20
#define UNREAD 60

static const struct identity nobody = { .uid = 65531, .gid = 65531 };

/* The kernel then lets all that the daemon has sent and nobody has received be as many as that: unix(7), ETOOMANYREFS. */
static void drop_privileges(void *userdata) {
        const struct rlimit limit = { FEW_DESCRIPTORS, FEW_DESCRIPTORS };

        (void) userdata;
        if (chown(the_daemon.place, nobody.uid, nobody.gid) < 0 || setrlimit(RLIMIT_NOFILE, &limit) < 0)
                _exit(125);
        identity_assume(&nobody);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* lost with the credentials */
}

static void receive_descriptor(struct raw *raw) {
        struct raw_reply reply;

        raw_receive(raw, &reply);
        ck_assert_uint_gt(reply.size, 0);
        ck_assert_uint_eq(reply.header.status, 0);
        ck_assert_uint_eq(reply.fds.count, 1);
        raw_reply_done(&reply);
}

static void be_deaf(int channel, void *userdata) {
        static const char name[] = "public";
        const struct shmd_wire_open body = { .target.name_size = sizeof(name) - 1 };
        struct raw raw[DEAF];

        (void) userdata;
        for (unsigned i = 0; i < DEAF; i++) {
                raw[i] = (struct raw) RAW_INIT;
                raw_connect(&raw[i], the_daemon.socket); /* this answer has a descriptor, too */
        }
        for (unsigned i = 0; i < DEAF; i++)
                for (unsigned j = 0; j < UNREAD; j++)
                        ck_assert_int_eq(raw_request(&raw[i], SHMD_OP_OPEN, &body, name, sizeof(name) - 1, NULL, 0), 0);
        step_send(channel, 's');
        step_expect(channel, 'r');
        /* Nothing is lost: who reads gets it all. */
        for (unsigned left = DEAF * UNREAD; left > 0;) {
                struct pollfd items[DEAF];

                for (unsigned i = 0; i < DEAF; i++)
                        items[i] = (struct pollfd) { .fd = raw[i].fd, .events = POLLIN };
                ck_assert_int_gt(poll(items, DEAF, test_deadline_msec()), 0);
                for (unsigned i = 0; i < DEAF; i++)
                        if (items[i].revents != 0) {
                                receive_descriptor(&raw[i]);
                                left--;
                        }
        }
        for (unsigned i = 0; i < DEAF; i++)
                raw_close(&raw[i]);
}

static void open_some(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        for (unsigned i = 0; i < 100; i++) {
                struct shmd_segment *segment = NULL;

                ASSERT_OK(own, shmd_open(own, "public", SHMD_PRIVATE, &segment));
                shmd_close(segment);
        }
        shmd_disconnect(own);
}

START_TEST(test_unread_descriptors) {
        const struct shmd_create_options options = { .mode = 0644 };
        struct shmd_segment *segment = NULL;
        struct shmd *own;
        struct child child;

        if (!test_as_root("test_unread_descriptors"))
                return;
        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = drop_privileges });
        (void) umask(0);
        own = client_connect();
        ASSERT_OK(own, shmd_create(own, "public", 1, SHMD_EXCLUSIVE, &options, &segment));
        child_start_as(&child, &alice, be_deaf, NULL);
        step_expect(child.channel, 's');
        /* One request of each client a turn: after so many the daemon has answered all that it could. */
        for (unsigned i = 0; i < 2 * UNREAD; i++)
                (void) daemon_status(&the_daemon);
        run_as(&bob, open_some, NULL);
        step_send(child.channel, 'r');
        child_join(&child);
        shmd_close(segment);
        shmd_disconnect(own);
        daemon_stop(&the_daemon);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("limits");
        TCase *tests;

        tests = test_case(suite, "each limit", NULL, NULL);
        tcase_add_test(tests, test_bytes);
        tcase_add_test(tests, test_segments);
        tcase_add_test(tests, test_holds);
        tcase_add_test(tests, test_connections);
        tcase_add_test(tests, test_watches);
        tcase_add_test(tests, test_file_size);

        tests = test_case(suite, "others", NULL, NULL);
        tcase_add_test(tests, test_death_and_others);
        tcase_add_test(tests, test_three_quarters);
        tcase_add_test(tests, test_three_quarters_of_bytes);
        tcase_add_test(tests, test_root_is_exempt);
        tcase_add_test(tests, test_chown_moves_charges);
        tcase_add_test(tests, test_unread_descriptors);

        tests = test_case(suite, "file", NULL, NULL);
        tcase_add_test(tests, test_reload);
        tcase_add_test(tests, test_mistakes_at_start);
        tcase_add_test(tests, test_mistakes_at_reload);
        tcase_add_test(tests, test_amounts);

        tests = test_case(suite, "administrators", NULL, NULL);
        tcase_add_test(tests, test_administrators);
        return test_run(suite);
}
