/* SPDX-License-Identifier: MIT */
/*
 * Publication: nobody ever sees half a segment. What is not published is its creator's alone and goes with him; what is
 * published or replaced is there whole, in one step, alone or with others; and who waits for a name is woken once.
 */
#include <fcntl.h>
#include <poll.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

#define PAGE 4096
#define FOREVER UINT64_MAX

/* Several users, where we may be several. */
static const struct identity alice = { .uid = 61001, .gid = 61001 };
static const struct identity bob = { .uid = 61002, .gid = 61002 };

static struct shmd_segment *create_unpublished(struct shmd *who, const char *name, uint64_t size_bytes, uint32_t mode) {
        const struct shmd_create_options options = { .mode = mode };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(who, shmd_create(who, name, size_bytes, SHMD_UNPUBLISHED, &options, &segment));
        ck_assert_int_eq(shmd_created(segment), 1);
        return segment;
}

/* One whose first bytes are a text. */
static struct shmd_segment *write_unpublished(const char *name, const char *text, uint32_t mode) {
        struct shmd_segment *segment = create_unpublished(connection, name, PAGE, mode);

        strcpy(client_map(segment), text);
        return segment;
}

static void publish_text(const char *name, const char *text, uint32_t mode) {
        struct shmd_segment *segment = write_unpublished(name, text, mode);

        ASSERT_OK(connection, shmd_publish(segment, 0));
        shmd_close(segment);
}

static void check_text(struct shmd *who, const char *name, const char *text) {
        struct shmd_segment *segment = client_open(who, name, SHMD_READ_ONLY);

        ck_assert_str_eq(client_map(segment), text);
        shmd_close(segment);
}

/* Of our own user, waits and watches together. */
static uint64_t count_waits(void) {
        return client_status(connection).my_watches.used;
}

static int deny_to_visit(const struct shmd_holder *holder, void *userdata) {
        (void) holder;
        (void) userdata;
        ck_abort_msg("a holder was shown");
        return 0;
}

/* --- nobody else's --- */

/* Whoever he is: no road leads to it. */
static void check_not_opened(struct shmd *who, uint64_t id) {
        struct shmd_segment *segment = NULL;

        ck_assert_int_eq(client_try_open(who, "hidden", SHMD_READ_ONLY), -ENOENT);
        ck_assert_int_eq(client_try_open(who, "hidden", SHMD_READ_WRITE), -ENOENT);
        ck_assert_int_eq(shmd_open_id(who, id, SHMD_READ_ONLY, &segment), -ENOENT);
        ck_assert_int_eq(shmd_open_id(who, id, SHMD_READ_WRITE | SHMD_PRIVATE, &segment), -ENOENT);
        ck_assert_ptr_null(segment);
        ck_assert(!client_exists(who, "hidden"));
        ck_assert_uint_eq(client_count(who, NULL, 0), 0);
}

static void look_as_stranger(int channel, void *userdata) {
        struct shmd *own = client_connect();
        uint64_t id = *(uint64_t *) userdata;

        check_not_opened(own, id);
        ck_assert(!client_id_exists(own, id));
        ck_assert_uint_eq(client_count(own, NULL, SHMD_LIST_UNLINKED), 0);
        ck_assert_int_eq(shmd_holders(own, id, deny_to_visit, NULL), -ENOENT);
        ck_assert_int_eq(shmd_unlink_id(own, id), -ENOENT);
        ck_assert_int_eq(shmd_chmod_id(own, id, 0600), -ENOENT);
        ck_assert_int_eq(shmd_rename_id(own, id, "mine"), -ENOENT);
        ck_assert_int_eq(shmd_freeze_id(own, id), -ENOENT);
        ck_assert_int_eq(shmd_resize_id(own, id, 1), -ENOENT);
        ck_assert_int_eq(shmd_set_lifetime_id(own, id, SHMD_LIFETIME_PERSIST, 0), -ENOENT);
        step_send(channel, 'd');
        shmd_disconnect(own);
}

START_TEST(test_nobody_elses) {
        struct shmd_segment *segment = create_unpublished(connection, "hidden", PAGE, 0666), *again = NULL;
        struct shmd *other = client_connect();
        uint64_t id = shmd_id(segment);

        check_not_opened(other, id);
        /* Its owner may know of it, and by id he may do away with it; he may not have it. */
        ck_assert_uint_eq(client_count(other, NULL, SHMD_LIST_UNLINKED), 1);
        ck_assert_uint_eq(client_stat_id(other, id).state, SHMD_STATE_UNPUBLISHED);
        ck_assert_int_eq(shmd_rename_id(other, id, "elsewhere"), -ENOENT);

        /* By its name not even its creator has it. */
        ck_assert_int_eq(client_try_open(connection, "hidden", SHMD_READ_WRITE), -ENOENT);
        ASSERT_OK(connection, shmd_open_id(connection, id, SHMD_READ_ONLY, &again));
        ck_assert_uint_eq(shmd_id(again), id);
        shmd_close(again);

        ASSERT_OK(other, shmd_unlink_id(other, id));
        ck_assert_int_eq(shmd_publish(segment, 0), -ENOENT);
        ck_assert(!client_exists(connection, "hidden"));
        shmd_close(segment);
        shmd_disconnect(other);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

START_TEST(test_nobody_elses_users) {
        struct shmd_segment *segment;
        struct child child;
        uint64_t id;

        if (!test_as_root("unpublished segments and other users"))
                return;
        segment = create_unpublished(connection, "hidden", PAGE, 0666);
        id = shmd_id(segment);
        child_start_as(&child, &alice, look_as_stranger, &id);
        step_expect(child.channel, 'd');
        child_join(&child);
        shmd_close(segment);
}
END_TEST

/* The name is free for others until then. */
START_TEST(test_name_is_free) {
        struct shmd_segment *first = write_unpublished("name", "first", 0), *second = write_unpublished("name", "second", 0);

        shmd_close(client_create(connection, "name", 1, SHMD_LIFETIME_PERSIST));
        ck_assert_int_eq(shmd_publish(first, 0), -EEXIST);
        ck_assert_uint_eq(client_stat(connection, "name").size_bytes, 1);
        ck_assert_uint_eq(client_stat_id(connection, shmd_id(first)).state, SHMD_STATE_UNPUBLISHED);

        ASSERT_OK(connection, shmd_unlink(connection, "name"));
        ASSERT_OK(connection, shmd_publish(second, 0));
        ck_assert_int_eq(shmd_publish(first, 0), -EEXIST);
        check_text(connection, "name", "second");
        shmd_close(first);
        shmd_close(second);
        check_text(connection, "name", "second");
}
END_TEST

/* SHMD_EXCLUSIVE is about the creation: it is the publication that finds the name taken. */
START_TEST(test_exclusive) {
        struct shmd_segment *segment = NULL;

        publish_text("taken", "taken", 0);
        ASSERT_OK(connection, shmd_create(connection, "taken", PAGE, SHMD_UNPUBLISHED | SHMD_EXCLUSIVE, NULL, &segment));
        ck_assert_int_eq(shmd_publish(segment, 0), -EEXIST);
        check_text(connection, "taken", "taken");
        ASSERT_OK(connection, shmd_publish(segment, SHMD_REPLACE));
        check_text(connection, "taken", "");
        shmd_close(segment);
}
END_TEST

/* --- a creator that goes first leaves nothing --- */

#define MANY 20

static void create_and_wait(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segments[MANY];
        char name[32];

        for (unsigned i = 0; i < MANY; i++) {
                const struct shmd_create_options options = {
                        .lifetime = i % 4,
                        .linger_usec = i % 4 == SHMD_LIFETIME_LINGER ? 3600 * UINT64_C(1000000) : 0,
                };

                snprintf(name, sizeof(name), "creator/%u", i);
                ASSERT_OK(own, shmd_create(own, name, PAGE, SHMD_UNPUBLISHED, &options, &segments[i]));
                strcpy(client_map(segments[i]), "unfinished");
        }
        step_send(channel, 'c');
        step_expect(channel, 'g');
        if (*(const char *) userdata == 'c') {
                shmd_close_many(segments, MANY);
                client_status(own);
                step_send(channel, 'c');
                step_expect(channel, 'g');
        }
        shmd_disconnect(own);
}

static void check_nothing_left(void) {
        daemon_await_segments(&the_daemon, 0);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, 0);
        ck_assert_uint_eq(daemon_status(&the_daemon).holds, 0);
        ck_assert_uint_eq(client_status(connection).my_segments.used, 0);
        ck_assert_uint_eq(client_status(connection).my_bytes.used, 0);
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 0);
}

/* k: killed; d: disconnects; c: closes, and stays. */
static const char ends[] = { 'k', 'd', 'c' };

START_TEST(test_creator_goes) {
        char end = ends[_i];
        struct child child;

        child_start(&child, create_and_wait, &end);
        step_expect(child.channel, 'c');
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, MANY);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, MANY * PAGE);
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), MANY);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 0);
        if (end == 'k') {
                child_kill(&child);
                check_nothing_left();
                daemon_await_descriptors(&the_daemon, 1);
                return;
        }
        step_send(child.channel, 'g');
        if (end == 'c') {
                step_expect(child.channel, 'c');
                check_nothing_left();
                daemon_await_descriptors(&the_daemon, 2);
                step_send(child.channel, 'g');
        }
        child_join(&child);
        check_nothing_left();
        daemon_await_descriptors(&the_daemon, 1);
}
END_TEST

/* A descriptor of it keeps the memory, as anybody's does, but no road leads back to the name. */
START_TEST(test_descriptor_outlives_it) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = create_unpublished(other, "dup", PAGE, 0);
        int fd = dup(shmd_fd(segment));

        shmd_disconnect(other);
        daemon_settle(&the_daemon, 1);
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 1);
        ck_assert(!client_exists(connection, "dup"));
        ck_assert_int_eq(pwrite(fd, "x", 1, 0), 1);
        close(fd);
        check_nothing_left();
}
END_TEST

/* --- publication --- */

START_TEST(test_publish) {
        struct shmd_segment *segment = write_unpublished("published", "whole", 0644), *again = NULL;
        struct shmd *other = client_connect();
        uint64_t id = shmd_id(segment);

        ASSERT_OK(connection, shmd_publish(segment, 0));
        check_text(other, "published", "whole");
        ck_assert_uint_eq(client_stat(other, "published").id, id);
        ck_assert_uint_eq(client_stat(other, "published").state, SHMD_STATE_PUBLISHED);
        ck_assert_uint_eq(client_count(other, NULL, SHMD_LIST_UNLINKED), 0);

        /* Its creator finds it by its name now, without a second descriptor. */
        ASSERT_OK(connection, shmd_open(connection, "published", SHMD_READ_WRITE, &again));
        ck_assert_int_eq(shmd_fd(again), shmd_fd(segment));
        shmd_close(again);

        ck_assert_int_eq(shmd_publish(segment, 0), -ENOENT);
        ck_assert_int_eq(shmd_publish(segment, SHMD_REPLACE), -ENOENT);
        ck_assert_int_eq(shmd_publish(segment, 0x80), -EINVAL);
        shmd_close(segment);
        shmd_disconnect(other);
        check_text(connection, "published", "whole");
}
END_TEST

/* A segment that was published with holders' lifetime is ruled by it from then on. */
START_TEST(test_lifetime_begins) {
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        struct shmd *other = client_connect();
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, "ruled", PAGE, SHMD_UNPUBLISHED, &options, &segment));
        ASSERT_OK(connection, shmd_publish(segment, 0));
        client_open(other, "ruled", SHMD_READ_ONLY);
        shmd_close(segment);
        TEST_UNTIL(client_stat(connection, "ruled").holders == 1, "the close to arrive");
        shmd_disconnect(other);
        TEST_UNTIL(!client_exists(connection, "ruled"), "the last holder's end");
}
END_TEST

/* --- replacement --- */

#define READERS 8
#define REPLACEMENTS 150
#define WORDS (64 * 1024 / sizeof(uint64_t))

/* Each word is the number of the replacement; the pair's second segment has the same as the first. */
static void fill(struct shmd_segment *segment, uint64_t number) {
        uint64_t *words = client_map(segment);

        for (size_t i = 0; i < WORDS; i++)
                words[i] = number;
}

static uint64_t read_whole(struct shmd_segment *segment) {
        const uint64_t *words = client_map(segment);

        for (size_t i = 1; i < WORDS; i++)
                TEST_REQUIRE(words[i], ==, words[0]);
        return words[0];
}

static bool is_told(int channel) {
        struct pollfd item = { .fd = channel, .events = POLLIN };

        return poll(&item, 1, 0) > 0;
}

static uint64_t read_one(struct shmd *own, unsigned flags) {
        struct shmd_segment *segment = NULL;
        int r = shmd_open(own, "hot/a", flags, &segment);
        uint64_t number;

        if (r != 0)
                ck_abort_msg("a replaced name was not there: %s", shmd_error_message(own));
        number = read_whole(segment);
        shmd_close(segment);
        return number;
}

/* Both in one step: so they belong together. */
static uint64_t read_pair(struct shmd *own) {
        static const char *const names[] = { "hot/a", "hot/b" };
        struct shmd_segment *segments[2];
        uint64_t number;
        int results[2];

        ASSERT_OK(own, shmd_open_many(own, names, 2, SHMD_READ_ONLY | SHMD_PRIVATE, segments, results));
        TEST_REQUIRE(results[0], ==, 0);
        TEST_REQUIRE(results[1], ==, 0);
        number = read_whole(segments[0]);
        TEST_REQUIRE(read_whole(segments[1]), ==, number);
        shmd_close_many(segments, 2);
        return number;
}

struct reading {
        uint64_t opens, changes;
};

static void read_until_told(int channel, void *userdata) {
        unsigned kind = *(unsigned *) userdata % 3;
        struct shmd *own = client_connect();
        struct reading reading = { 0 };
        uint64_t last = 0;

        step_send(channel, 'r');
        while (!is_told(channel)) {
                uint64_t number = kind == 2 ? read_pair(own) : read_one(own, kind == 1 ? SHMD_PRIVATE : 0);

                TEST_REQUIRE(number, >=, last); /* never back to an old one */
                reading.opens++;
                reading.changes += number != last;
                last = number;
        }
        step_expect(channel, 's');
        step_send_data(channel, &reading, sizeof(reading));
        shmd_disconnect(own);
}

static void replace_pair(uint64_t number) {
        struct shmd_segment *pair[2];
        size_t failed = 99;

        pair[0] = create_unpublished(connection, "hot/a", WORDS * sizeof(uint64_t), 0);
        pair[1] = create_unpublished(connection, "hot/b", WORDS * sizeof(uint64_t), 0);
        fill(pair[0], number);
        fill(pair[1], number);
        ASSERT_OK(connection, shmd_publish_many(pair, 2, SHMD_REPLACE, &failed));
        ck_assert_uint_eq(failed, 99);
        shmd_close_many(pair, 2);
}

START_TEST(test_replace_under_readers) {
        struct child readers[READERS];
        unsigned kinds[READERS];
        uint64_t opens = 0, changes = 0;

        replace_pair(1);
        for (unsigned i = 0; i < READERS; i++) {
                kinds[i] = i;
                child_start(&readers[i], read_until_told, &kinds[i]);
        }
        for (unsigned i = 0; i < READERS; i++)
                step_expect(readers[i].channel, 'r');
        for (uint64_t number = 2; number <= REPLACEMENTS; number++)
                replace_pair(number);
        for (unsigned i = 0; i < READERS; i++) {
                struct reading reading;

                step_send(readers[i].channel, 's');
                step_receive_data(readers[i].channel, &reading, sizeof(reading));
                child_join(&readers[i]);
                opens += reading.opens;
                changes += reading.changes;
        }
        /* They did read meanwhile, and saw it change. */
        ck_assert_uint_gt(opens, READERS);
        ck_assert_uint_gt(changes, READERS);
        daemon_await_segments(&the_daemon, 2);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, 2 * WORDS * sizeof(uint64_t));
}
END_TEST

/* Whoever has the old one keeps it. */
START_TEST(test_replaced_is_kept) {
        struct shmd *other = client_connect();
        struct shmd_segment *old, *segment;

        publish_text("name", "old", 0);
        old = client_open(other, "name", SHMD_READ_ONLY);
        segment = write_unpublished("name", "new", 0);
        ASSERT_OK(connection, shmd_publish(segment, SHMD_REPLACE));
        ck_assert_str_eq(client_map(old), "old");
        ck_assert_uint_eq(client_stat_id(other, shmd_id(old)).state, SHMD_STATE_UNLINKED);
        check_text(other, "name", "new"); /* although it holds what had that name */
        check_text(connection, "name", "new");
        shmd_close(old);
        shmd_close(segment);
        daemon_await_segments(&the_daemon, 1);
        shmd_disconnect(other);
}
END_TEST

static void make_theirs(int channel, void *userdata) {
        struct shmd *own = client_connect();
        const struct shmd_create_options options = { .mode = 0666 };
        struct shmd_segment *segment = NULL;

        (void) userdata;
        ASSERT_OK(own, shmd_create(own, "theirs", PAGE, 0, &options, &segment));
        step_send(channel, 'm');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

static void try_to_replace(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segments[2];
        size_t failed = 99;

        (void) userdata;
        segments[0] = create_unpublished(own, "mine", PAGE, 0);
        segments[1] = create_unpublished(own, "theirs", PAGE, 0);
        ck_assert_int_eq(shmd_publish(segments[1], SHMD_REPLACE), -EPERM);
        ck_assert_int_eq(shmd_publish(segments[1], 0), -EEXIST);
        ck_assert_int_eq(shmd_publish_many(segments, 2, SHMD_REPLACE, &failed), -EPERM);
        ck_assert_uint_eq(failed, 1);
        ck_assert(!client_exists(own, "mine"));
        step_send(channel, 'd');
        shmd_disconnect(own);
}

START_TEST(test_replace_users) {
        struct shmd_segment *segment;
        struct child maker, replacer;
        uint64_t id;

        if (!test_as_root("replacing another user's segment"))
                return;
        child_start_as(&maker, &alice, make_theirs, NULL);
        step_expect(maker.channel, 'm');
        id = client_stat(connection, "theirs").id;
        child_start_as(&replacer, &bob, try_to_replace, NULL);
        step_expect(replacer.channel, 'd');
        child_join(&replacer);
        ck_assert_uint_eq(client_stat(connection, "theirs").id, id);

        /* An administrator may. */
        segment = write_unpublished("theirs", "replaced", 0);
        ASSERT_OK(connection, shmd_publish(segment, SHMD_REPLACE));
        ck_assert_uint_eq(client_stat(connection, "theirs").id, shmd_id(segment));
        shmd_close(segment);
        step_send(maker.channel, 'e');
        child_join(&maker);
}
END_TEST

/* --- several at once --- */

#define ALL 253

static void create_all(struct shmd_segment **segments) {
        char name[32];

        for (unsigned i = 0; i < ALL; i++) {
                snprintf(name, sizeof(name), "all/%u", i);
                segments[i] = create_unpublished(connection, name, 1, 0);
        }
}

START_TEST(test_all_or_none) {
        struct shmd_segment *segments[ALL + 1], *keep;
        struct shmd *other = client_connect();
        size_t failed = 999;

        create_all(segments);
        shmd_close(client_create(other, "all/100", 1, SHMD_LIFETIME_PERSIST));

        /* A name that is taken. */
        ck_assert_int_eq(shmd_publish_many(segments, ALL, 0, &failed), -EEXIST);
        ck_assert_uint_eq(failed, 100);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 1);
        ck_assert_int_eq(shmd_publish_many(segments, ALL, 0, NULL), -EEXIST);

        /* One that comes twice. */
        keep = segments[200];
        segments[200] = create_unpublished(connection, "all/7", 1, 0);
        ck_assert_int_eq(shmd_publish_many(segments, ALL, SHMD_REPLACE, &failed), -EINVAL);
        ck_assert_uint_eq(failed, 200);
        shmd_close(segments[200]);

        /* The very segment twice. */
        segments[200] = segments[199];
        ck_assert_int_eq(shmd_publish_many(segments, ALL, SHMD_REPLACE, &failed), -EINVAL);
        ck_assert_uint_eq(failed, 200);

        /* Another connection's, and one that is published. */
        segments[200] = create_unpublished(other, "all/200", 1, 0);
        ck_assert_int_eq(shmd_publish_many(segments, ALL, SHMD_REPLACE, &failed), -EINVAL);
        ck_assert_uint_eq(failed, 200);
        shmd_close(segments[200]);
        segments[200] = client_create(connection, "published", 1, SHMD_LIFETIME_PERSIST);
        ck_assert_int_eq(shmd_publish_many(segments, ALL, SHMD_REPLACE, &failed), -ENOENT);
        ck_assert_uint_eq(failed, 200);
        ASSERT_OK(connection, shmd_unlink(connection, "published"));
        shmd_close(segments[200]);

        segments[200] = keep;
        segments[ALL] = keep;
        ck_assert_int_eq(shmd_publish_many(segments, ALL + 1, 0, &failed), -EINVAL);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 1);

        ASSERT_OK(connection, shmd_publish_many(segments, ALL, SHMD_REPLACE, &failed));
        ck_assert_uint_eq(client_count(connection, "all/", 0), ALL);
        ck_assert_uint_eq(client_stat(connection, "all/100").id, shmd_id(segments[100]));
        ASSERT_OK(connection, shmd_publish_many(segments, 0, 0, &failed));
        shmd_close_many(segments, ALL);
        shmd_disconnect(other);
        daemon_await_segments(&the_daemon, ALL);
}
END_TEST

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define WRITERS 4u

static struct shmd_segment *create_single_writer(const char *name) {
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, PAGE, SHMD_UNPUBLISHED | SHMD_SINGLE_WRITER, NULL, &segment));
        return segment;
}

/* The daemon's seals, too: one that somebody has sealed already keeps the others from being sealed in vain. */
START_TEST(test_all_or_none_sealed) {
        struct shmd_segment *segments[WRITERS];
        size_t failed = 999;
        char name[16];

        for (unsigned i = 0; i < WRITERS; i++) {
                snprintf(name, sizeof(name), "one/%u", i);
                segments[i] = create_single_writer(name);
        }
        ck_assert_int_eq(fcntl(shmd_fd(segments[2]), F_ADD_SEALS, F_SEAL_SEAL), 0);
        ck_assert_int_eq(shmd_publish_many(segments, WRITERS, 0, &failed), -EPERM);
        ck_assert_uint_eq(failed, 2);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 0);
        for (unsigned i = 0; i < WRITERS; i++)
                ck_assert_int_eq(fcntl(shmd_fd(segments[i]), F_GET_SEALS) & F_SEAL_FUTURE_WRITE, 0);

        /* One that is sealed against writing, and then against sealing, is what it shall be. */
        shmd_close(segments[2]);
        segments[2] = create_single_writer("one/2");
        client_map(segments[2]);
        ck_assert_int_eq(fcntl(shmd_fd(segments[2]), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
        ASSERT_OK(connection, shmd_publish_many(segments, WRITERS, 0, &failed));
        for (unsigned i = 0; i < WRITERS; i++)
                ck_assert_int_ne(fcntl(shmd_fd(segments[i]), F_GET_SEALS) & F_SEAL_FUTURE_WRITE, 0);
        shmd_close_many(segments, WRITERS);
}
END_TEST

/* --- waiting --- */

#define WAITERS 50

static void wait_and_read(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = NULL;

        ASSERT_OK(own, shmd_open_wait(own, userdata, SHMD_READ_ONLY, FOREVER, &segment));
        ck_assert_str_eq(client_map(segment), "worth the wait");
        step_send(channel, 'w');
        step_expect(channel, 'e');
        /* A second answer would have broken the protocol by now. */
        client_status(own);
        ck_assert_int_eq(shmd_dispatch(own), 0);
        shmd_disconnect(own);
}

static void create_and_be_killed(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = create_unpublished(own, userdata, PAGE, 0);

        strcpy(client_map(segment), "half a t");
        step_send(channel, 'c');
        step_expect(channel, 'n'); /* never comes */
}

START_TEST(test_fifty_waiters) {
        struct child waiters[WAITERS], creator;

        for (unsigned i = 0; i < WAITERS; i++)
                child_start(&waiters[i], wait_and_read, (void *) "awaited");
        TEST_UNTIL(count_waits() == WAITERS, "all to wait");

        child_start(&creator, create_and_be_killed, (void *) "awaited");
        step_expect(creator.channel, 'c');
        child_kill(&creator);
        daemon_await_segments(&the_daemon, 0);
        ck_assert_uint_eq(count_waits(), WAITERS);
        for (unsigned i = 0; i < WAITERS; i++)
                ck_assert(!is_told(waiters[i].channel));

        publish_text("awaited", "worth the wait", 0);
        for (unsigned i = 0; i < WAITERS; i++)
                step_expect(waiters[i].channel, 'w');
        ck_assert_uint_eq(count_waits(), 0);
        ck_assert_uint_eq(client_stat(connection, "awaited").holders, WAITERS);
        for (unsigned i = 0; i < WAITERS; i++) {
                step_send(waiters[i].channel, 'e');
                child_join(&waiters[i]);
        }
}
END_TEST

/* Created at once, replaced, renamed: whatever makes the name makes it for those who wait. */
static void make_at_once(void) {
        publish_text("other", "worth the wait", 0);
        ASSERT_OK(connection, shmd_rename(connection, "other", "awaited"));
}

static void make_replacing(void) {
        struct shmd_segment *segment = write_unpublished("awaited", "worth the wait", 0);

        ASSERT_OK(connection, shmd_publish(segment, SHMD_REPLACE));
        shmd_close(segment);
}

/* There and gone in one breath, then there. Who was quick enough to have the first would have found it whole, too. */
static void make_twice(void) {
        struct shmd_segment *segment = write_unpublished("awaited", "worth the wait", 0);

        ASSERT_OK(connection, shmd_publish_async(segment, 0, NULL, NULL));
        ASSERT_OK(connection, shmd_unlink_async(connection, "awaited", NULL, NULL));
        shmd_close(segment);
        publish_text("awaited", "worth the wait", 0);
}

static void (*const makers[])(void) = { make_at_once, make_replacing, make_twice };

START_TEST(test_awaited_name_appears) {
        struct child child;

        child_start(&child, wait_and_read, (void *) "awaited");
        TEST_UNTIL(count_waits() == 1, "one to wait");
        publish_text("awaiter", "another name", 0);
        ck_assert_uint_eq(count_waits(), 1);
        makers[_i]();
        step_expect(child.channel, 'w');
        ck_assert_uint_eq(count_waits(), 0);
        step_send(child.channel, 'e');
        child_join(&child);
}
END_TEST

START_TEST(test_wait_for_what_is_there) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = NULL, *again = NULL;

        publish_text("there", "there", 0);
        ASSERT_OK(other, shmd_open_wait(other, "there", SHMD_READ_WRITE, 0, &segment));
        ck_assert_str_eq(client_map(segment), "there");
        ASSERT_OK(other, shmd_open_wait(other, "there", SHMD_READ_WRITE, FOREVER, &again)); /* without a round trip */
        ck_assert_int_eq(shmd_fd(again), shmd_fd(segment));
        shmd_disconnect(other);
}
END_TEST

START_TEST(test_timeout) {
        struct shmd_segment *segment = NULL;
        int64_t before = test_now_msec();

        ck_assert_int_eq(shmd_open_wait(connection, "never", SHMD_READ_ONLY, 50000, &segment), -ETIMEDOUT);
        ck_assert_int_ge(test_now_msec() - before, 49);
        ck_assert_int_eq(shmd_open_wait(connection, "never", SHMD_READ_ONLY, 0, &segment), -ETIMEDOUT);
        ck_assert_int_eq(shmd_open_wait(connection, "never", SHMD_READ_ONLY, 1, &segment), -ETIMEDOUT);
        ck_assert_ptr_null(segment);
        ck_assert_uint_eq(count_waits(), 0);
        ck_assert_int_eq(shmd_open_wait(connection, "never/", SHMD_READ_ONLY, 0, &segment), -EINVAL);
        ck_assert_int_eq(shmd_open_wait(connection, "never", SHMD_EXCLUSIVE, 0, &segment), -EINVAL);

        /* Nothing is left of those waits. */
        publish_text("never", "late", 0);
        ck_assert_int_eq(shmd_dispatch(connection), 0);
        ck_assert_uint_eq(client_stat(connection, "never").holders, 0);
}
END_TEST

struct outcomes {
        unsigned count;
        int error;
};

static void note_outcome(struct shmd *who, const struct shmd_result *result, void *userdata) {
        struct outcomes *outcomes = userdata;

        (void) who;
        outcomes->count++;
        outcomes->error = result->error;
        shmd_close(result->segment);
}

static void dispatch_until(const struct outcomes *outcomes, unsigned count) {
        while (outcomes->count < count) {
                test_wait_readable(shmd_poll_fd(connection), "an answer");
                ck_assert_int_ge(shmd_dispatch(connection), 0);
        }
        ck_assert_uint_eq(outcomes->count, count);
}

START_TEST(test_cancel) {
        struct outcomes first = { 0 }, second = { 0 };
        uint32_t one, two;

        ASSERT_OK(connection, shmd_open_wait_async(connection, "one", SHMD_READ_ONLY, FOREVER, note_outcome, &first, &one));
        ASSERT_OK(connection, shmd_open_wait_async(connection, "two", SHMD_READ_ONLY, FOREVER, note_outcome, &second, &two));
        ck_assert_uint_ne(one, two);
        TEST_UNTIL(count_waits() == 2, "both to wait");
        ASSERT_OK(connection, shmd_cancel(connection, one));
        dispatch_until(&first, 1);
        ck_assert_int_eq(first.error, -ECANCELED);
        ck_assert_uint_eq(count_waits(), 1);
        ck_assert_int_eq(shmd_cancel(connection, one), -ENOENT);
        ck_assert_int_eq(shmd_cancel(connection, one + two + 1000), -ENOENT);

        publish_text("one", "one", 0);
        publish_text("two", "two", 0);
        dispatch_until(&second, 1);
        ck_assert_int_eq(second.error, 0);
        ck_assert_uint_eq(first.count, 1);
        ck_assert_int_eq(shmd_cancel(connection, two), -ENOENT);
        ck_assert_uint_eq(count_waits(), 0);
}
END_TEST

START_TEST(test_waiter_is_killed) {
        struct child child, other;

        child_start(&child, wait_and_read, (void *) "awaited");
        child_start(&other, wait_and_read, (void *) "awaited");
        TEST_UNTIL(count_waits() == 2, "both to wait");
        child_kill(&child);
        TEST_UNTIL(count_waits() == 1, "the dead one's wait to end");
        publish_text("awaited", "worth the wait", 0);
        step_expect(other.channel, 'w');
        ck_assert_uint_eq(client_stat(connection, "awaited").holders, 1);
        step_send(other.channel, 'e');
        child_join(&other);
}
END_TEST

/* --- waiting for what one may not have --- */

static void wait_in_vain(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = NULL;

        step_send(channel, 's');
        ck_assert_int_eq(shmd_open_wait(own, userdata, SHMD_READ_ONLY, FOREVER, &segment), -EACCES);
        ck_assert_ptr_null(segment);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(own), "mode 0600"));
        /* And at once, if it is there already. */
        ck_assert_int_eq(shmd_open_wait(own, userdata, SHMD_READ_ONLY, FOREVER, &segment), -EACCES);
        ck_assert_uint_eq(client_status(own).my_watches.used, 0);
        step_send(channel, 'd');
        shmd_disconnect(own);
}

static void wait_unseen(int channel, void *userdata) {
        struct shmd *own = client_connect(), *second = client_connect();
        struct outcomes outcomes = { 0 };
        uint32_t wait;

        ASSERT_OK(own, shmd_open_wait_async(own, userdata, SHMD_READ_ONLY, FOREVER, note_outcome, &outcomes, &wait));
        TEST_UNTIL(client_status(second).my_watches.used == 1, "it to wait");
        step_send(channel, 'w');
        while (outcomes.count == 0) {
                test_wait_readable(shmd_poll_fd(own), "an answer");
                ck_assert_int_ge(shmd_dispatch(own), 0);
        }
        ck_assert_int_eq(outcomes.error, -EACCES);
        step_send(channel, 'd');
        shmd_disconnect(own);
        shmd_disconnect(second);
}

START_TEST(test_wait_without_right) {
        struct child there, early;

        if (!test_as_root("waiting for another user's segment"))
                return;
        child_start_as(&early, &alice, wait_unseen, (void *) "private");
        step_expect(early.channel, 'w');
        publish_text("private", "private", 0600);
        step_expect(early.channel, 'd');
        child_join(&early);

        child_start_as(&there, &bob, wait_in_vain, (void *) "private");
        step_expect(there.channel, 's');
        step_expect(there.channel, 'd');
        child_join(&there);
}
END_TEST

/* One's own segment, whose mode does not let one read it. */
static void own_but_unreadable(int channel, void *userdata) {
        struct shmd *own = client_connect();
        const struct shmd_create_options options = { .mode = 0200 };
        struct outcomes outcomes = { 0 };
        struct shmd_segment *segment = NULL;

        (void) userdata;
        ASSERT_OK(own, shmd_open_wait_async(own, "unreadable", SHMD_READ_ONLY, FOREVER, note_outcome, &outcomes, NULL));
        ASSERT_OK(own, shmd_create(own, "unreadable", PAGE, SHMD_UNPUBLISHED, &options, &segment));
        ASSERT_OK(own, shmd_publish(segment, 0));
        while (outcomes.count == 0) {
                test_wait_readable(shmd_poll_fd(own), "an answer");
                ck_assert_int_ge(shmd_dispatch(own), 0);
        }
        ck_assert_int_eq(outcomes.error, -EACCES);
        ck_assert_int_eq(shmd_open_wait(own, "unreadable", SHMD_READ_ONLY, FOREVER, &segment), -EACCES);
        step_send(channel, 'd');
        shmd_disconnect(own);
}

START_TEST(test_wait_for_unreadable) {
        struct child child;

        if (geteuid() == 0)
                child_start_as(&child, &alice, own_but_unreadable, NULL);
        else
                child_start(&child, own_but_unreadable, NULL);
        step_expect(child.channel, 'd');
        child_join(&child);
}
END_TEST

/* --- while the daemon does not answer --- */

/* The time is the caller's: nobody has to be alive for it to be over. What the daemon answers then is given back. */
START_TEST(test_stopped_daemon) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = NULL;
        struct outcomes outcomes = { 0 };

        daemon_pause(&the_daemon);
        ASSERT_OK(connection, shmd_create_async(connection, "stopped", PAGE, 0, NULL, note_outcome, &outcomes));
        ck_assert_int_eq(shmd_open_wait(other, "stopped", SHMD_READ_ONLY, 50000, &segment), -ETIMEDOUT);
        ck_assert_int_eq(shmd_open_wait(other, "never", SHMD_READ_ONLY, 50000, &segment), -ETIMEDOUT);
        ck_assert_ptr_null(segment);
        daemon_resume(&the_daemon);

        dispatch_until(&outcomes, 1);
        ck_assert_int_eq(outcomes.error, 0);
        TEST_UNTIL(client_status(other).my_watches.used == 0, "the other wait to end");
        TEST_UNTIL(client_status(other).holds == 0, "what nobody wants to be given back");
        check_text(other, "stopped", "");
        shmd_disconnect(other);
}
END_TEST

static Suite *publish_suite(void) {
        Suite *suite = suite_create("publish");
        TCase *tests = test_case(suite, "unpublished", setup, teardown);

        tcase_add_test(tests, test_nobody_elses);
        tcase_add_test(tests, test_nobody_elses_users);
        tcase_add_test(tests, test_name_is_free);
        tcase_add_test(tests, test_exclusive);
        tcase_add_loop_test(tests, test_creator_goes, 0, ELEMENTSOF(ends));
        tcase_add_test(tests, test_descriptor_outlives_it);

        tests = test_case(suite, "publication", setup, teardown);
        tcase_add_test(tests, test_publish);
        tcase_add_test(tests, test_lifetime_begins);
        tcase_add_test(tests, test_replace_under_readers);
        tcase_add_test(tests, test_replaced_is_kept);
        tcase_add_test(tests, test_replace_users);
        tcase_add_test(tests, test_all_or_none);
        tcase_add_test(tests, test_all_or_none_sealed);

        tests = test_case(suite, "waiting", setup, teardown);
        tcase_add_test(tests, test_fifty_waiters);
        tcase_add_loop_test(tests, test_awaited_name_appears, 0, ELEMENTSOF(makers));
        tcase_add_test(tests, test_wait_for_what_is_there);
        tcase_add_test(tests, test_timeout);
        tcase_add_test(tests, test_cancel);
        tcase_add_test(tests, test_waiter_is_killed);
        tcase_add_test(tests, test_wait_without_right);
        tcase_add_test(tests, test_wait_for_unreadable);
        tcase_add_test(tests, test_stopped_daemon);
        return suite;
}

int main(void) {
        return test_run(publish_suite());
}
