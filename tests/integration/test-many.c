/* SPDX-License-Identifier: MIT */
/*
 * Many at once: each name with its own result, in its own place, however many of them fit a message; a client that dies in the
 * middle leaves what it would have left one by one; and others are served meanwhile.
 */
#include <poll.h>
#include <sys/resource.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

#define PAGE test_page_size()
#define MOST 1000

static const struct identity alice = { .uid = 61001, .gid = 61001 };

static struct shmd *connection;
static char names[MOST][256];
static const char *name_list[MOST];
static struct shmd_segment *segments[MOST];
static int results[MOST];
static unsigned large; /* as many as a client may have descriptors for, four lifetimes each */

#define LARGE 3000

/* A segment is a descriptor. */
static void raise_limit(void) {
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        large = (unsigned) MIN((rlim_t) LARGE, (limit.rlim_max - 100) / 2) / 4 * 4;
}

static void setup(void) {
        raise_limit();
        daemon_setup();
        connection = client_connect();
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        daemon_teardown();
}

static void make_names(unsigned count) {
        for (unsigned i = 0; i < count; i++) {
                snprintf(names[i], sizeof(names[i]), "many/%u", i);
                name_list[i] = names[i];
        }
}

/* Of the longest names there are. */
static void make_long_names(unsigned count) {
        for (unsigned i = 0; i < count; i++) {
                memset(names[i], 'n', 255);
                names[i][snprintf(names[i], sizeof(names[i]), "%u", i)] = '-';
                names[i][255] = '\0';
                name_list[i] = names[i];
        }
}

static void create_many(struct shmd *who, unsigned count, unsigned flags, const struct shmd_create_options *options) {
        struct shmd_create_item items[MOST];

        for (unsigned i = 0; i < count; i++)
                items[i] = (struct shmd_create_item) { .name = name_list[i], .size_bytes = PAGE + i, .options = options };
        ASSERT_OK(who, shmd_create_many(who, items, count, flags, segments, results));
}

static void open_many(struct shmd *who, unsigned count, unsigned flags) {
        ASSERT_OK(who, shmd_open_many(who, name_list, count, flags, segments, results));
}

static void await_holds(unsigned holds) {
        TEST_UNTIL(daemon_status(&the_daemon).holds == holds, "closes to arrive");
}

/* --- all of them --- */

static const struct {
        unsigned count;
        bool long_names;
} sizes[] = { { 1, false }, { 2, true }, { 252, false }, { 253, false }, { 254, false }, { 253, true }, { 1000, false }, { 1000, true } };

START_TEST(test_all) {
        unsigned count = sizes[_i].count;
        struct shmd *other = client_connect();

        if (sizes[_i].long_names)
                make_long_names(count);
        else
                make_names(count);
        create_many(connection, count, SHMD_EXCLUSIVE, NULL);
        for (unsigned i = 0; i < count; i++) {
                TEST_REQUIRE(results[i], ==, 0);
                TEST_REQUIRE(shmd_created(segments[i]), ==, 1);
                TEST_REQUIRE(shmd_size(segments[i]), ==, PAGE + i);
                *(unsigned *) client_map(segments[i]) = i;
        }
        shmd_close_many(segments, count);
        for (unsigned i = 0; i < count; i++)
                ck_assert_ptr_null(segments[i]);
        await_holds(0);
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, count);

        open_many(other, count, SHMD_READ_ONLY);
        for (unsigned i = 0; i < count; i++) {
                TEST_REQUIRE(results[i], ==, 0);
                TEST_REQUIRE(shmd_created(segments[i]), ==, 0);
                TEST_REQUIRE(*(unsigned *) client_map(segments[i]), ==, i); /* each in its place */
        }
        await_holds(count);
        shmd_close_many(segments, count);
        await_holds(0);
        shmd_close_many(segments, count); /* nothing twice */
        /* What the daemon keeps of such an answer is each one's own memory, still. */
        for (unsigned i = 0; i < count; i++) {
                struct shmd_segment *segment = client_open(connection, name_list[i], SHMD_READ_ONLY);

                TEST_REQUIRE(*(unsigned *) client_map(segment), ==, i);
                shmd_close(segment);
        }
        open_many(other, 0, 0);
        create_many(other, 0, 0, NULL);
        shmd_disconnect(other);
}
END_TEST

/* --- each with its own result --- */

/* What goes with its holder has gone when the holder's next request comes, however many there were. */
START_TEST(test_names_again) {
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };

        make_names(200);
        for (int round = 0; round < 3; round++) {
                create_many(connection, 200, SHMD_EXCLUSIVE, &options);
                for (unsigned i = 0; i < 200; i++)
                        TEST_REQUIRE(results[i], ==, 0);
                shmd_close_many(segments, 200);
        }
}
END_TEST

START_TEST(test_mixed) {
        static const char *const mixed[] = { "there", "missing", "there", "held", "bad//name", "/there", "", "unreadable", "there/" };
        char too_long[300];
        struct shmd *other = client_connect();
        struct shmd_segment *held;
        unsigned count = ELEMENTSOF(mixed);

        memset(too_long, 'x', sizeof(too_long) - 1);
        too_long[sizeof(too_long) - 1] = '\0';
        shmd_close(client_create(connection, "there", PAGE, SHMD_LIFETIME_PERSIST));
        shmd_close(client_create(connection, "held", PAGE, SHMD_LIFETIME_PERSIST));
        held = client_open(other, "held", SHMD_READ_ONLY);
        for (unsigned i = 0; i < count; i++)
                name_list[i] = mixed[i];
        name_list[count++] = too_long;
        open_many(other, count, SHMD_READ_ONLY);

        ck_assert_int_eq(results[0], 0);
        ck_assert_int_eq(results[1], -ENOENT);
        ck_assert_int_eq(results[2], 0);
        ck_assert_int_eq(results[3], 0);
        ck_assert_int_eq(results[4], -EINVAL);
        ck_assert_int_eq(results[5], 0);
        ck_assert_int_eq(results[6], -EINVAL);
        ck_assert_int_eq(results[7], -ENOENT);
        ck_assert_int_eq(results[8], -EINVAL);
        ck_assert_int_eq(results[9], -ENAMETOOLONG);
        for (unsigned i = 0; i < count; i++)
                ck_assert_int_eq(segments[i] != NULL, results[i] == 0);

        /* Three times the same: one hold, one descriptor, three references. */
        ck_assert_int_eq(shmd_fd(segments[0]), shmd_fd(segments[2]));
        ck_assert_int_eq(shmd_fd(segments[0]), shmd_fd(segments[5]));
        ck_assert_int_eq(shmd_fd(segments[3]), shmd_fd(held));
        await_holds(2);
        segments[0] = shmd_close(segments[0]);
        segments[2] = shmd_close(segments[2]);
        ck_assert_ptr_nonnull(client_map(segments[5]));
        ck_assert_uint_eq(client_stat(connection, "there").holders, 1);
        shmd_close_many(segments, count);
        TEST_UNTIL(client_stat(connection, "there").holders == 0, "the close to arrive");
        ck_assert_uint_eq(client_stat(connection, "held").holders, 1);
        shmd_close(held);
        await_holds(0);
        shmd_disconnect(other);
}
END_TEST

/* Nothing but the wrong: no descriptor comes with the answer. */
START_TEST(test_none) {
        make_names(MOST);
        open_many(connection, MOST, SHMD_READ_WRITE);
        for (unsigned i = 0; i < MOST; i++) {
                TEST_REQUIRE(results[i], ==, -ENOENT);
                ck_assert_ptr_null(segments[i]);
        }
        ck_assert_int_eq(shmd_open_many(connection, name_list, 2, SHMD_EXCLUSIVE, segments, results), -EINVAL);
}
END_TEST

static void open_as_other(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) userdata;
        make_names(3);
        open_many(own, 3, SHMD_READ_WRITE);
        ck_assert_int_eq(results[0], 0);
        ck_assert_int_eq(results[1], -EACCES);
        ck_assert_int_eq(results[2], 0);
        ck_assert_uint_eq(shmd_size(segments[2]), PAGE + 2);
        step_send(channel, 'd');
        shmd_disconnect(own);
}

START_TEST(test_denied) {
        struct child child;

        if (!test_as_root("opening many of another user's"))
                return;
        make_names(3);
        create_many(connection, 3, 0, NULL);
        ASSERT_OK(connection, shmd_chmod(connection, "many/0", 0666));
        ASSERT_OK(connection, shmd_chmod(connection, "many/1", 0644));
        ASSERT_OK(connection, shmd_chmod(connection, "many/2", 0666));
        child_start_as(&child, &alice, open_as_other, NULL);
        step_expect(child.channel, 'd');
        child_join(&child);
        shmd_close_many(segments, 3);
}
END_TEST

/* Descriptors of one's own for each, even of the same. */
START_TEST(test_private) {
        shmd_close(client_create(connection, "one", PAGE, SHMD_LIFETIME_PERSIST));
        for (unsigned i = 0; i < 10; i++)
                name_list[i] = "one";
        open_many(connection, 10, SHMD_READ_WRITE | SHMD_PRIVATE);
        for (unsigned i = 0; i < 10; i++) {
                ck_assert_int_eq(results[i], 0);
                ck_assert_int_eq(lseek(shmd_fd(segments[i]), i, SEEK_SET), i);
        }
        for (unsigned i = 0; i < 10; i++)
                ck_assert_int_eq(lseek(shmd_fd(segments[i]), 0, SEEK_CUR), i);
        shmd_close_many(segments, 10);
        await_holds(0);
}
END_TEST

/* --- descriptors of the daemon's --- */

#define FEW_DESCRIPTORS 512
#define BATCH 253

static void limit_descriptors(void *userdata) {
        const rlim_t *most = userdata;
        const struct rlimit limit = { *most, *most };

        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                _exit(125);
}

static int try_missing(struct shmd *own, unsigned count) {
        return shmd_open_many(own, name_list, count, SHMD_PRIVATE, segments, results);
}

static void pay_for_batches(int channel, void *userdata) {
        struct shmd *own = client_connect();
        char name[32];

        (void) channel;
        (void) userdata;
        make_names(BATCH);
        /* One after the other: what each might have needed is the next one's. */
        for (unsigned round = 0; round < 5; round++) {
                ASSERT_OK(own, try_missing(own, BATCH));
                for (unsigned i = 0; i < BATCH; i++)
                        TEST_REQUIRE(results[i], ==, -ENOENT);
        }
        /* A share of what the daemon can have, of which so many are segments. */
        for (unsigned i = 0; i < 150; i++) {
                snprintf(name, sizeof(name), "own/%u", i);
                shmd_close(client_create(own, name, 1, SHMD_LIFETIME_PERSIST));
        }
        ck_assert_int_eq(try_missing(own, BATCH), -EDQUOT);
        ASSERT_OK(own, try_missing(own, BATCH / 4));
        shmd_disconnect(own);
}

/* While many are opened, their descriptors are the client's to pay for, whatever comes of it. */
START_TEST(test_charged) {
        rlim_t most = FEW_DESCRIPTORS;
        struct child child;

        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = limit_descriptors, .userdata = &most });
        if (geteuid() == 0)
                child_start_as(&child, &alice, pay_for_batches, NULL);
        else
                child_start(&child, pay_for_batches, NULL);
        child_join(&child);
        daemon_stop(&the_daemon);
}
END_TEST

#define SHARED 16

/* The daemon keeps a descriptor of each for the next who opens it, unless flags say that it is a private one. */
static void create_numbered(struct shmd *who, unsigned from, unsigned to, unsigned flags) {
        for (unsigned i = from; i < to; i++) {
                struct shmd_segment *segment = NULL;

                ASSERT_OK(who, shmd_create(who, name_list[i], PAGE, SHMD_EXCLUSIVE | SHMD_READ_WRITE | flags, NULL, &segment));
                *(unsigned *) client_map(segment) = i;
                shmd_close(segment);
        }
}

/* For reading: it keeps another one for that. */
static void open_numbered(struct shmd *who, unsigned from, unsigned to) {
        for (unsigned i = from; i < to; i++)
                shmd_close(client_open(who, name_list[i], SHMD_READ_ONLY));
}

/* Each has its own memory, or was refused. Gives how many have. */
static unsigned check_opened(unsigned count) {
        unsigned opened = 0;

        for (unsigned i = 0; i < count; i++) {
                if (results[i] != 0)
                        continue;
                TEST_REQUIRE(*(unsigned *) client_map(segments[i]), ==, i);
                opened++;
        }
        shmd_close_many(segments, count);
        /* Else it was asked a second time. */
        ck_assert(!daemon_log_has(&the_daemon, "disconnecting"));
        return opened;
}

/* The daemon's lowest unused number: a limit of that lets it have no more. */
static rlim_t lowest_unused(void) {
        char path[64];
        rlim_t number = 0;

        do
                snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int) the_daemon.pid, (unsigned) number++);
        while (access(path, F_OK) == 0 || errno != ENOENT);
        return number - 1;
}

/* There are no more descriptors in the middle of it: what is on its way to the client already is not given up for the rest. */
START_TEST(test_no_descriptors_left) {
        struct shmd *other = client_connect();
        struct rlimit before, none;

        make_names(2 * SHARED);
        create_numbered(connection, 0, SHARED, 0);
        create_numbered(connection, SHARED, 2 * SHARED, SHMD_PRIVATE);
        open_numbered(connection, 0, SHARED);
        ck_assert_int_eq(prlimit(the_daemon.pid, RLIMIT_NOFILE, NULL, &before), 0);
        none = (struct rlimit) { lowest_unused(), before.rlim_max };
        ck_assert_int_eq(prlimit(the_daemon.pid, RLIMIT_NOFILE, &none, NULL), 0);
        open_many(other, 2 * SHARED, SHMD_READ_ONLY);
        ck_assert_uint_eq(check_opened(2 * SHARED), SHARED);
        ck_assert_int_eq(prlimit(the_daemon.pid, RLIMIT_NOFILE, &before, NULL), 0);
        open_many(other, 2 * SHARED, SHMD_READ_ONLY);
        ck_assert_uint_eq(check_opened(2 * SHARED), 2 * SHARED);
        shmd_disconnect(other);
}
END_TEST

/* As many are kept open as the daemon keeps at most, a quarter of its descriptors, and all of them are on their way to the client. */
START_TEST(test_all_are_kept) {
        rlim_t most = 8 * SHARED;
        struct shmd *other;

        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = limit_descriptors, .userdata = &most });
        connection = client_connect();
        other = client_connect();
        make_names(2 * SHARED);
        create_numbered(connection, SHARED, 2 * SHARED, SHMD_PRIVATE);
        create_numbered(connection, 0, SHARED, 0);
        open_numbered(connection, 0, SHARED);
        open_many(other, 2 * SHARED, SHMD_READ_ONLY);
        ck_assert_uint_eq(check_opened(2 * SHARED), 2 * SHARED);
        shmd_disconnect(other);
        teardown();
}
END_TEST

/* --- creation --- */

START_TEST(test_partly_created) {
        const struct shmd_create_options labelled = { .labels = "key=value\n", .lifetime = SHMD_LIFETIME_HOLDERS };
        const struct shmd_create_options wrong = { .lifetime = 77 };
        const struct shmd_create_item items[] = {
                { "new", PAGE, NULL },        { "taken", PAGE, NULL },   { "new", PAGE, NULL }, { "bad//name", PAGE, NULL },
                { "empty", 0, NULL },         { "huge", UINT64_MAX, NULL }, { "labelled", 1, &labelled },
                { "wrong", PAGE, &wrong },    { "last", PAGE, NULL },
        };
        const int exclusively[] = { 0, -EEXIST, -EEXIST, -EINVAL, -EINVAL, -EFBIG, 0, -EINVAL, 0 };
        const int again[] = { 0, 0, 0, -EINVAL, -EINVAL, -EFBIG, 0, -EINVAL, 0 };
        unsigned count = ELEMENTSOF(items);
        struct shmd *other = client_connect();

        shmd_close(client_create(connection, "taken", PAGE, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(connection, shmd_create_many(connection, items, count, SHMD_EXCLUSIVE, segments, results));
        for (unsigned i = 0; i < count; i++) {
                ck_assert_int_eq(results[i], exclusively[i]);
                ck_assert_int_eq(segments[i] != NULL, results[i] == 0);
        }
        ck_assert_str_eq(client_stat(connection, "labelled").labels, "key=value\n");
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 4);

        /* What is there is opened. */
        {
                struct shmd_segment *opened[ELEMENTSOF(items)];

                ASSERT_OK(other, shmd_create_many(other, items, count, 0, opened, results));
                for (unsigned i = 0; i < count; i++) {
                        ck_assert_int_eq(results[i], again[i]);
                        if (results[i] == 0)
                                ck_assert_int_eq(shmd_created(opened[i]), 0);
                }
                ck_assert_uint_eq(shmd_id(opened[0]), shmd_id(segments[0]));
                ck_assert_int_eq(shmd_fd(opened[0]), shmd_fd(opened[2]));
                shmd_close_many(opened, count);
        }
        shmd_close_many(segments, count);
        await_holds(0);
        daemon_await_segments(&the_daemon, 3);
        shmd_disconnect(other);
}
END_TEST

START_TEST(test_smaller) {
        struct shmd_create_item item = { "small", 2 * PAGE, NULL };

        shmd_close(client_create(connection, "small", PAGE, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(connection, shmd_create_many(connection, &item, 1, 0, segments, results));
        ck_assert_int_eq(results[0], -EINVAL);
}
END_TEST

/* Filled together, shown together. */
START_TEST(test_unpublished) {
        size_t failed;

        make_names(253);
        create_many(connection, 253, SHMD_UNPUBLISHED, NULL);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 0);
        for (unsigned i = 0; i < 253; i++)
                TEST_REQUIRE(results[i], ==, 0);
        ASSERT_OK(connection, shmd_publish_many(segments, 253, 0, &failed));
        ck_assert_uint_eq(client_count(connection, "many/", 0), 253);
        shmd_close_many(segments, 253);
}
END_TEST

/* In steps each: still with a result each. */
START_TEST(test_in_steps) {
        make_names(5);
        shmd_close(client_create(connection, "many/2", 1, SHMD_LIFETIME_PERSIST));
        create_many(connection, 5, SHMD_PREALLOCATE | SHMD_EXCLUSIVE, NULL);
        for (unsigned i = 0; i < 5; i++)
                ck_assert_int_eq(results[i], i == 2 ? -EEXIST : 0);
        ck_assert_uint_eq(client_stat(connection, "many/4").resident_bytes, 2 * PAGE);
        shmd_close_many(segments, 5);
}
END_TEST

/* Long names, and as many labels as there may be: few fit a message. */
START_TEST(test_long_items) {
        char labels[1025] = "key=";
        const struct shmd_create_options options = { .labels = labels };

        memset(labels + 4, 'v', sizeof(labels) - 6);
        labels[sizeof(labels) - 2] = '\n';
        make_long_names(300);
        create_many(connection, 300, SHMD_EXCLUSIVE, &options);
        for (unsigned i = 0; i < 300; i++) {
                TEST_REQUIRE(results[i], ==, 0);
                if (i % 50 == 0)
                        ck_assert_str_eq(client_stat(connection, name_list[i]).labels, labels);
        }
        shmd_close_many(segments, 300);
}
END_TEST

/* --- others, deaths --- */

static void create_large(int channel, void *userdata) {
        static const struct shmd_create_options options[] = {
                { .lifetime = SHMD_LIFETIME_HOLDERS },
                { .lifetime = SHMD_LIFETIME_CREATOR },
                { .lifetime = SHMD_LIFETIME_LINGER, .linger_usec = 1 },
                { .lifetime = SHMD_LIFETIME_PERSIST },
        };
        static struct shmd_create_item items[LARGE];
        static struct shmd_segment *made[LARGE];
        static char large_names[LARGE][24];
        static int outcomes[LARGE];
        struct shmd *own = client_connect();

        (void) userdata;
        for (unsigned i = 0; i < large; i++) {
                snprintf(large_names[i], sizeof(large_names[i]), "large/%u", i);
                items[i] = (struct shmd_create_item) { large_names[i], PAGE, &options[i % 4] };
        }
        step_send(channel, 's');
        ASSERT_OK(own, shmd_create_many(own, items, large, SHMD_EXCLUSIVE, made, outcomes));
        for (unsigned i = 0; i < large; i++)
                TEST_REQUIRE(outcomes[i], ==, 0);
        step_send(channel, 'd');
        step_expect(channel, 'e');
        shmd_close_many(made, large);
        shmd_disconnect(own);
}

static const unsigned moments[] = { 1, 17, 100, 253, 700, 2000 };

static int check_persistent(const struct shmd_stat *stat, void *userdata) {
        ck_assert_uint_eq(stat->lifetime, SHMD_LIFETIME_PERSIST);
        ck_assert_uint_eq(stat->size_bytes, PAGE);
        ck_assert_uint_eq(stat->holders, 0);
        ++*(unsigned *) userdata;
        return 0;
}

static int stop_at_others(const struct shmd_stat *stat, void *userdata) {
        (void) userdata;
        return stat->lifetime != SHMD_LIFETIME_PERSIST;
}

static bool only_persistent_are_left(unsigned *ret_count) {
        if (shmd_list(connection, NULL, 0, stop_at_others, NULL) != 0)
                return false;
        *ret_count = client_count(connection, "large/", 0);
        return daemon_status(&the_daemon).segments == *ret_count;
}

/* In the middle: what was made by then is ruled by its lifetime, and nothing else is left. */
START_TEST(test_killed) {
        unsigned left = 0, persistent;
        struct child child;

        child_start(&child, create_large, NULL);
        TEST_UNTIL(daemon_status(&the_daemon).segments >= MIN(moments[_i], large), "some to be made");
        child_kill(&child);
        daemon_settle(&the_daemon, 1);
        await_holds(0);
        TEST_UNTIL(only_persistent_are_left(&persistent), "all others to go");
        ASSERT_OK(connection, shmd_list(connection, NULL, 0, check_persistent, &left));
        ck_assert_uint_eq(left, persistent);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, (uint64_t) persistent * PAGE);
        daemon_unlink_all(&the_daemon);
        daemon_await_descriptors(&the_daemon, 1);
}
END_TEST

static bool is_told(int channel) {
        struct pollfd item = { .fd = channel, .events = POLLIN };

        return poll(&item, 1, 0) > 0;
}

/* It takes turns with others. */
START_TEST(test_others_are_served) {
        struct child child;
        unsigned served = 0, between = 0;
        uint64_t last = 0;

        child_start(&child, create_large, NULL);
        step_expect(child.channel, 's');
        while (!is_told(child.channel)) {
                uint64_t now = client_status(connection).segments;

                served++;
                between += now > last && now < large; /* answered in the middle of it */
                last = now;
        }
        step_expect(child.channel, 'd');
        ck_assert_uint_eq(client_count(connection, "large/", 0), large);
        /* A message is of 253, and is worked on in sixteen turns: were it one turn, no more answers would come between. */
        ck_assert_uint_gt(served, large / 253 + 1);
        ck_assert_uint_gt(between, large / 253 + 1);
        step_send(child.channel, 'e');
        child_join(&child);
        daemon_await_segments(&the_daemon, large / 4);
}
END_TEST

/* Without a daemon nothing is open, and all entries say so. */
START_TEST(test_daemon_goes) {
        struct shmd_segment *held;
        int status;

        make_names(10);
        create_many(connection, 10, 0, NULL);
        shmd_close_many(segments, 10);
        held = client_open(connection, "many/3", SHMD_READ_ONLY);
        daemon_kill(&the_daemon, SIGKILL);
        status = daemon_wait(&the_daemon);
        ck_assert_int_ne(status, 0);
        memset(segments, 1, sizeof(segments));
        ck_assert_int_lt(shmd_open_many(connection, name_list, 10, SHMD_READ_ONLY, segments, results), 0);
        for (unsigned i = 0; i < 10; i++)
                ck_assert_ptr_null(segments[i]);
        ck_assert_ptr_nonnull(client_map(held)); /* what was open stays */
        shmd_close(held);
        unlink(the_daemon.socket);
        daemon_start_again(&the_daemon, NULL);
        open_many(connection, 10, SHMD_READ_ONLY);
}
END_TEST

static Suite *many_suite(void) {
        Suite *suite = suite_create("many");
        TCase *tests = test_case(suite, "results", setup, teardown);

        tcase_add_loop_test(tests, test_all, 0, ELEMENTSOF(sizes));
        tcase_add_test(tests, test_mixed);
        tcase_add_test(tests, test_none);
        tcase_add_test(tests, test_denied);
        tcase_add_test(tests, test_private);

        tests = test_case(suite, "descriptors", setup, teardown);
        tcase_add_test(tests, test_no_descriptors_left);

        tests = test_case(suite, "few descriptors", NULL, NULL);
        tcase_add_test(tests, test_charged);
        tcase_add_test(tests, test_all_are_kept);

        tests = test_case(suite, "creation", setup, teardown);
        tcase_add_test(tests, test_partly_created);
        tcase_add_test(tests, test_smaller);
        tcase_add_test(tests, test_unpublished);
        tcase_add_test(tests, test_in_steps);
        tcase_add_test(tests, test_names_again);
        tcase_add_test(tests, test_long_items);

        tests = test_case(suite, "others", setup, teardown);
        tcase_add_loop_test(tests, test_killed, 0, ELEMENTSOF(moments));
        tcase_add_test(tests, test_others_are_served);
        tcase_add_test(tests, test_daemon_goes);
        return suite;
}

int main(void) {
        return test_run(many_suite());
}
