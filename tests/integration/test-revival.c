/* SPDX-License-Identifier: MIT */
/*
 * The daemon dies in a world that fails as well: killed twice, at the limit of descriptors, with a manager that has no room or has
 * lost something, with damaged logs, and with clients that come back late, pipelined, or as their children.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "harness.h"
#include "manager.h"
#include "process.h"
#include "test.h"

#define PAGE 4096u

static struct manager manager;
static struct shmd *connection;

static struct shmd *connect_here(void) {
        struct shmd *connected = NULL;

        ASSERT_OK(NULL, shmd_connect(manager.socket, &connected));
        return connected;
}

static void setup(void) {
        manager_start(&manager, NULL);
        connection = connect_here();
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        manager_stop(&manager);
}

static struct shmd_segment *create(const char *name, uint64_t size, unsigned flags, const struct shmd_create_options *options) {
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, size, SHMD_READ_WRITE | SHMD_EXCLUSIVE | flags, options, &segment));
        return segment;
}

static void create_many(const char *prefix, unsigned count) {
        char name[32];

        for (unsigned i = 0; i < count; i++) {
                snprintf(name, sizeof(name), "%s%u", prefix, i);
                shmd_close(create(name, PAGE, 0, NULL));
        }
}

/* What the daemon has told the manager, that has done. */
static bool manager_has_all(void) {
        return client_status(connection).store_entries == manager_count(&manager, "carrier-");
}

static bool store_fails_for(uint32_t failure) {
        const struct shmd_status status = client_status(connection);

        ck_assert_int_eq(status.store_failing_usec != 0, status.store_failure != SHMD_STORE_FAILURE_NONE);
        return status.store_failure == failure;
}

static unsigned count_lines(const char *text, const char *words) {
        unsigned count = 0;

        for (const char *at = text; (at = strstr(at, words)); at++)
                count++;
        return count;
}

/* That it failed, and that it works again, once each, however long it failed. */
static void check_told_once(const char *what) {
        _cleanup_free_ char *log = test_read_file(manager.log);
        char failing[96], recovered[96];

        snprintf(failing, sizeof(failing), "cannot %s: ", what);
        snprintf(recovered, sizeof(recovered), "can %s again", what);
        ck_assert_uint_eq(count_lines(log, failing), 1);
        ck_assert_uint_eq(count_lines(log, recovered), 1);
}

/* --- what had no answer, and is asked again --- */

#define TOKEN UINT64_C(0x7ea5e0f5eed)
#define SERIAL 1000u

static void greet(struct raw *raw, uint64_t token) {
        const struct shmd_wire_hello hello = { .version_min = SHMD_PROTOCOL_VERSION, .version_max = SHMD_PROTOCOL_VERSION, .token = token };
        struct raw_reply reply;

        raw_open(raw, manager.socket);
        ck_assert_int_eq((int) raw_call(raw, SHMD_OP_HELLO, &hello, NULL, 0, &reply), 0);
        raw_reply_done(&reply);
}

/* The status of an UNLINK that is said to be repeated, or is not. */
static unsigned unlink_with(struct raw *raw, const char *name, uint32_t serial, bool repeated) {
        struct {
                struct shmd_wire_header header;
                struct shmd_wire_unlink body;
                char name[32];
        } request = {
                .header = { .operation = SHMD_OP_UNLINK, .status = repeated ? SHMD_WIRE_REPEATED : 0, .serial = serial },
                .body.target.name_size = (uint16_t) strlen(name),
        };
        struct raw_reply reply;

        memcpy(request.name, name, strlen(name));
        ck_assert_int_eq(raw_send(raw, &request, offsetof(typeof(request), name) + strlen(name), NULL, 0), 0);
        raw_receive(raw, &reply);
        ck_assert_uint_gt(reply.size, 0);
        raw_reply_done(&reply);
        return reply.header.status;
}

enum meanwhile {
        KILLED,
        KILLED_TWICE,
        COMPACTED,
        MEANWHILES,
};

/* As root: of the log nothing is left that tells of what was done. */
static void compact_log(void) {
        unsigned stores;

        shmd_close(create("a", PAGE, 0, NULL));
        stores = manager.stores;
        for (unsigned i = 0; manager.stores == stores || manager_count(&manager, "state-") > 1; i++)
                ASSERT_OK(connection, shmd_rename(connection, i % 2 == 0 ? "a" : "b", i % 2 == 0 ? "b" : "a"));
}

static void repeat_unlink(int channel, void *userdata) {
        struct raw maker, raw;

        (void) userdata;
        greet(&maker, 0);
        ck_assert_uint_eq(raw_create(&maker, "done", PAGE, WIRE_LIFETIME_PERSIST, NULL, NULL), 0);
        greet(&raw, TOKEN);
        ck_assert_uint_eq(unlink_with(&raw, "done", SERIAL, false), 0);
        step_send(channel, 'u');
        step_expect(channel, 'r');
        raw_close(&raw);
        raw_close(&maker);
        /* Another's token, or none, says nothing. */
        greet(&raw, TOKEN + 1);
        ck_assert_uint_ne(unlink_with(&raw, "done", SERIAL, true), 0);
        raw_close(&raw);
        greet(&raw, TOKEN);
        ck_assert_uint_ne(unlink_with(&raw, "done", SERIAL + 1, true), 0);
        ck_assert_uint_ne(unlink_with(&raw, "done", SERIAL, false), 0);
        ck_assert_uint_eq(unlink_with(&raw, "done", SERIAL, true), 0);
        raw_close(&raw);
}

/* A client of another user than the daemon's, that has made nothing itself. */
START_TEST(test_done_once) {
        static const struct identity user = { .uid = 1234, .gid = 1234 };
        struct child child;

        if (geteuid() == 0)
                child_start_as(&child, &user, repeat_unlink, NULL);
        else
                child_start(&child, repeat_unlink, NULL);
        step_expect(child.channel, 'u');
        if (_i == COMPACTED)
                compact_log();
        manager_crash(&manager);
        if (_i == KILLED_TWICE)
                manager_crash(&manager);
        step_send(child.channel, 'r');
        child_join(&child);
}
END_TEST

#define PIPELINED 40u

static unsigned answered;

static void count_done(struct shmd *where, const struct shmd_result *result, void *userdata) {
        (void) userdata;
        if (result->error != 0)
                ck_abort_msg("%s", shmd_error_message(where));
        answered++;
}

/* Answers that came before the daemon's death count, though it died with requests unread. */
START_TEST(test_pipelined) {
        struct shmd *other = connect_here();
        char name[32];

        create_many("pipe/", PIPELINED);
        answered = 0;
        for (unsigned i = 0; i < PIPELINED; i++) {
                if (i == PIPELINED / 2) {
                        TEST_UNTIL(client_count(other, "pipe/", 0) == PIPELINED / 2, "the first half to be unlinked");
                        manager_kill(&manager, SIGSTOP);
                }
                snprintf(name, sizeof(name), "pipe/%u", i);
                ASSERT_OK(connection, shmd_unlink_async(connection, name, count_done, NULL));
        }
        manager_crash(&manager);
        /* It comes to know of it as it sends, or as it receives. */
        if (_i == 1)
                (void) client_status(connection);
        TEST_UNTIL(shmd_dispatch(connection) >= 0 && answered == PIPELINED, "all to be answered");
        shmd_disconnect(other);
}
END_TEST

/* --- who comes back --- */

static void use_and_go(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        (void) client_status(connection);
        connection = shmd_disconnect(connection);
}

/* A child that inherited what is not published yet comes back before its parent does, and goes. */
START_TEST(test_child_comes_first) {
        struct shmd_segment *segment = create("fork", PAGE, SHMD_UNPUBLISHED, NULL);
        struct child child;

        memset(client_map(segment), 'f', PAGE);
        manager_crash(&manager);
        child_start_inheriting(&child, use_and_go, NULL);
        child_join(&child);
        ASSERT_OK(connection, shmd_publish(segment, 0));
        ck_assert(client_exists(connection, "fork"));
        shmd_close(segment);
}
END_TEST

static void make_persistent(int channel, void *userdata) {
        struct shmd *own = connect_here();
        struct shmd_segment *segment = NULL;

        (void) channel;
        (void) userdata;
        ASSERT_OK(own, shmd_create(own, "orphan", PAGE, 0, NULL, &segment));
        shmd_close(segment);
        shmd_disconnect(own);
}

/* Nothing can end with a creator that has ended, also if it did so before the daemon. */
START_TEST(test_creator_is_gone) {
        struct child child;

        child_start(&child, make_persistent, NULL);
        child_join(&child);
        TEST_UNTIL(client_status(connection).connections == 1, "the creator to be gone");
        manager_crash(&manager);
        ck_assert_int_eq(shmd_set_lifetime(connection, "orphan", SHMD_LIFETIME_CREATOR, 0), -ESRCH);
        ck_assert(client_exists(connection, "orphan"));
}
END_TEST

static void make_two(int channel, void *userdata) {
        struct shmd *own = connect_here();
        struct shmd_segment *segment = NULL;

        (void) userdata;
        ASSERT_OK(own, shmd_create(own, "lives", PAGE, 0, NULL, &segment));
        shmd_close(segment);
        step_send(channel, 'm');
        step_expect(channel, 'e');
}

/* It lives, and has not come back: then its end counts. */
START_TEST(test_creator_is_absent) {
        struct child child;

        child_start(&child, make_two, NULL);
        step_expect(child.channel, 'm');
        manager_crash(&manager);
        ASSERT_OK(connection, shmd_set_lifetime(connection, "lives", SHMD_LIFETIME_CREATOR, 0));
        ck_assert(client_exists(connection, "lives"));
        child_kill(&child);
        TEST_UNTIL(!client_exists(connection, "lives"), "the segment to go with its creator");
}
END_TEST

/* --- the manager --- */

/* Killed at its very first start, between its first carrier and its log. */
START_TEST(test_carrier_without_log) {
        manager_end(&manager, SIGKILL);
        manager_lose(&manager, "state-1");
        manager_launch(&manager);
        shmd_close(create("kept", PAGE, 0, NULL));
        manager_crash(&manager);
        TEST_UNTIL(manager_has_all(), "empty carriers to go");
        manager_crash(&manager);
        ck_assert(client_exists(connection, "kept"));
}
END_TEST

static int try_lock(const char *name) {
        struct shmd *other = connect_here();
        struct shmd_segment *opened = client_open(other, name, SHMD_READ_WRITE);
        int r = shmd_lock(opened, SHMD_LOCK_EXCLUSIVE, 0);

        shmd_disconnect(other);
        return r;
}

/* Of a segment its lock alone is lost, which came later. There is no second one beside that which is held. */
START_TEST(test_lock_is_lost) {
        struct shmd_segment *segment = create("kept", PAGE, 0, NULL);

        create_many("others/", 10); /* else there is no reason to keep the carrier in which it came first */
        manager_crash(&manager);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        manager_end(&manager, SIGKILL);
        manager_lose(&manager, "carrier-2");
        manager_launch(&manager);
        manager_await_ready(&manager, 3);
        ck_assert_int_eq(try_lock("kept"), -ENOTRECOVERABLE);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        ck_assert_int_eq(try_lock("kept"), -ENOTRECOVERABLE);
        manager_crash(&manager);
        ck_assert_int_eq(try_lock("kept"), -ENOTRECOVERABLE);
        shmd_close(segment);
        TEST_UNTIL(try_lock("kept") == 0, "a new lock, as nobody has the other");
        manager_crash(&manager);
        ck_assert_int_eq(try_lock("kept"), -EOWNERDEAD); /* it was not unlocked */
}
END_TEST

/* It has no room for a time. What is made then is kept when there is. */
START_TEST(test_manager_is_full) {
        const unsigned count = 1200;

        manager_limit(&manager, 3, 0); /* carrier, log, generations */
        create_many("full/", count);
        TEST_UNTIL(!manager_has_all(), "carriers to be lost");
        TEST_UNTIL(store_fails_for(SHMD_STORE_FAILURE_MANAGER), "that to be shown");
        manager_limit(&manager, 0, 0);
        TEST_UNTIL(manager_has_all(), "them to be made again");
        TEST_UNTIL(store_fails_for(SHMD_STORE_FAILURE_NONE), "that to be shown");
        check_told_once("have descriptors kept by the service manager");
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "full/", 0), count);
}
END_TEST

/* Whether an operator is told so. */
static bool shmdctl_says(const char *arguments, const char *words) {
        char command[512], text[8192] = "";
        FILE *output;
        size_t n;

        snprintf(command, sizeof(command), "%s --socket %s %s", test_environment("SHMD_TEST_SHMDCTL"), manager.socket, arguments);
        output = popen(command, "re");
        ck_assert_ptr_nonnull(output);
        n = fread(text, 1, sizeof(text) - 1, output);
        text[n] = '\0';
        ck_assert_int_eq(pclose(output), 0);
        return strstr(text, words);
}

static void check_shown(const char *state, const char *failure) {
        char metric[64];

        snprintf(metric, sizeof(metric), "shmd_store{state=\"%s\"} 1\n", state);
        ck_assert(shmdctl_says("metrics", metric));
        ck_assert(shmdctl_says("status", failure));
        ck_assert(shmdctl_says("--json status", failure));
        ck_assert(shmdctl_says("--json status", state));
}

/* It has room for no more than what it has; nothing is lost yet, but what is made soon would be. */
START_TEST(test_manager_is_nearly_full) {
        manager_limit(&manager, 3, 0);
        create_many("nearly/", 300);
        TEST_UNTIL(store_fails_for(SHMD_STORE_FAILURE_MANAGER), "that to be shown");
        check_shown("failing", "the service manager does not keep");
        manager_limit(&manager, 0, 0);
        TEST_UNTIL(store_fails_for(SHMD_STORE_FAILURE_NONE), "it to be tried again");
        check_shown("ok", "store");
        check_told_once("have descriptors kept by the service manager");
}
END_TEST

/* It reads nothing, and nobody waits for that: what is made meanwhile it is told of later. */
START_TEST(test_manager_is_stopped) {
        const unsigned count = 4000;
        bool begun, shown;

        manager_pause(&manager);
        /* There is room for some more than a carrier should have, while its successor is not known. */
        create_many("begun/", 520);
        begun = store_fails_for(SHMD_STORE_FAILURE_NONE);
        create_many("stopped/", count);
        shown = store_fails_for(SHMD_STORE_FAILURE_MANAGER);
        manager_resume(&manager);
        ck_assert(begun);
        ck_assert(shown);
        TEST_UNTIL(store_fails_for(SHMD_STORE_FAILURE_NONE), "it to be told");
        check_told_once("have descriptors kept by the service manager");
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "stopped/", 0), count);
}
END_TEST

/* --- the log --- */

static void limit_file_size(uint64_t bytes) {
        const struct rlimit limit = { bytes, RLIM_INFINITY };

        ck_assert_int_eq(prlimit(manager.pid, RLIMIT_FSIZE, &limit, NULL), 0);
}

/* As many as there is room for: each is a record. */
static unsigned create_until_refused(const char *prefix) {
        struct shmd_segment *segment = NULL;
        unsigned count;
        char name[32];

        for (count = 0; count < 100000; count++) {
                snprintf(name, sizeof(name), "%s%u", prefix, count);
                if (shmd_create(connection, name, PAGE, 0, NULL, &segment) < 0)
                        return count;
                segment = shmd_close(segment);
        }
        ck_abort_msg("the log has room without end");
        return 0;
}

/* It can't grow: what can't be recorded is not begun, and what happens by itself is recorded when there is room again. */
START_TEST(test_log_is_full) {
        struct shmd_segment *held;
        unsigned count;

        held = create("held", PAGE, SHMD_READ_WRITE, &(struct shmd_create_options) { .lifetime = SHMD_LIFETIME_HOLDERS });
        limit_file_size(1 << 20);
        count = create_until_refused("log/");
        shmd_close(held);
        TEST_UNTIL(!client_exists(connection, "held"), "it to go with its holder");
        ck_assert(store_fails_for(SHMD_STORE_FAILURE_LOG));
        check_shown("failing", "records can not grow");
        ck_assert(!client_exists(connection, "log/more"));
        limit_file_size(RLIM_INFINITY);
        TEST_UNTIL(store_fails_for(SHMD_STORE_FAILURE_NONE), "the log to be made anew");
        check_told_once("write the state log");
        shmd_close(create("log/more", PAGE, 0, NULL));
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "log/", 0), count + 1);
        ck_assert(!client_exists(connection, "held"));
}
END_TEST

/* Each of many daemons in turn left little behind. */
START_TEST(test_many_restarts) {
        const unsigned count = 40;
        char name[32];

        for (unsigned i = 0; i < count; i++) {
                snprintf(name, sizeof(name), "one/%u", i);
                shmd_close(create(name, PAGE, 0, NULL));
                manager_crash(&manager);
        }
        TEST_UNTIL(manager_has_all() && manager_count(&manager, "carrier-") <= 10, "few carriers to be left");
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "one/", 0), count);
}
END_TEST

/* --- limits --- */

/* Fewer descriptors than there are segments: it says so and goes, and nothing is lost for that. */
START_TEST(test_too_few_descriptors) {
        const unsigned count = 300;

        create_many("few/", count);
        manager_end(&manager, SIGKILL);
        manager_limit(&manager, 0, 128);
        manager_launch_in_vain(&manager);
        manager_limit(&manager, 0, 0);
        manager_launch(&manager);
        ck_assert_uint_eq(client_count(connection, "few/", 0), count);
}
END_TEST

/* --- memory --- */

/* Freed, but its pages are still in a carrier when the daemon is killed. */
START_TEST(test_freed_before_the_end) {
        const size_t size = 64u << 20;
        uint64_t before = test_meminfo("Shmem"), id;
        struct shmd_segment *segment;

        create_many("beside/", 5);
        segment = create("big", size, 0, NULL);
        id = shmd_id(segment);
        memset(client_map(segment), 'b', size);
        shmd_close(segment);
        ASSERT_OK(connection, shmd_freeze(connection, "big"));
        ASSERT_OK(connection, shmd_unlink(connection, "big"));
        TEST_UNTIL(!client_id_exists(connection, id), "the segment to be freed");
        manager_crash(&manager);
        TEST_UNTIL(test_meminfo("Shmem") < before + size / 2, "its memory to be given back");
        ck_assert_uint_eq(client_count(connection, "beside/", 0), 5);
}
END_TEST

/* --- damage --- */

/* Some bytes of the log, its header as well. */
static void damage_log(unsigned *seed) {
        int fd = manager_fd(&manager, "state-");
        const size_t used = 8192;
        unsigned char *base = mmap(NULL, used, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        ck_assert_ptr_ne(base, MAP_FAILED);
        for (unsigned n = (unsigned) rand_r(seed) % 20 + 1; n > 0; n--)
                base[(unsigned) rand_r(seed) % (rand_r(seed) % 2 == 0 ? 64 : used)] ^= (unsigned char) (1u << rand_r(seed) % 8);
        munmap(base, used);
}

/* Whatever is in it: the next daemon starts, and works. */
START_TEST(test_damaged_logs) {
        unsigned rounds = test_is_long() ? 1000 : 50, seed = 7;
        char name[32];

        for (unsigned i = 0; i < rounds; i++) {
                for (unsigned n = 0; n < 4; n++) {
                        snprintf(name, sizeof(name), "round%u/%u", i, n);
                        shmd_close(create(name, PAGE, n % 2 == 0 ? SHMD_UNPUBLISHED : 0, NULL));
                }
                manager_end(&manager, SIGKILL);
                damage_log(&seed);
                manager_launch(&manager);
                ck_assert_uint_lt(client_status(connection).segments, 4 * rounds + 1);
        }
}
END_TEST

int main(void) {
        Suite *suite = suite_create("revival");
        TCase *tests;

        tests = test_case(suite, "repeated", setup, teardown);
        tcase_add_loop_test(tests, test_done_once, 0, MEANWHILES);
        tcase_add_loop_test(tests, test_pipelined, 0, 2);

        tests = test_case(suite, "who comes back", setup, teardown);
        tcase_add_test(tests, test_child_comes_first);
        tcase_add_test(tests, test_creator_is_gone);
        tcase_add_test(tests, test_creator_is_absent);

        tests = test_case(suite, "manager", setup, teardown);
        tcase_add_test(tests, test_carrier_without_log);
        tcase_add_test(tests, test_manager_is_full);
        tcase_add_test(tests, test_manager_is_nearly_full);
        tcase_add_test(tests, test_manager_is_stopped);
        tcase_add_test(tests, test_lock_is_lost);
        tcase_add_test(tests, test_many_restarts);

        tests = test_case(suite, "limits", setup, teardown);
        tcase_add_test(tests, test_log_is_full);
        tcase_add_test(tests, test_too_few_descriptors);
        tcase_add_test(tests, test_freed_before_the_end);

        tests = test_case(suite, "damage", setup, teardown);
        tcase_add_test(tests, test_damaged_logs);

        return test_run(suite);
}
