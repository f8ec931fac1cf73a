/* SPDX-License-Identifier: MIT */
/*
 * Watches: what happens to names is told in order, to whom it concerns, and so that nobody who watches ever misses a change
 * without being told that he did.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

#define PAGE 4096

static const struct identity stranger = { .uid = 61002, .gid = 61002 };

static struct shmd *connection; /* changes things */
static struct shmd *watcher;

static void setup(void) {
        daemon_setup();
        connection = client_connect();
        watcher = client_connect();
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        watcher = shmd_disconnect(watcher);
        daemon_teardown();
}

/* --- what was told --- */

#define EVENTS 128

struct record {
        struct shmd_event events[EVENTS];
        unsigned count;
        unsigned read; /* by expect() */
};

static void note(struct shmd *who, const struct shmd_event *event, void *userdata) {
        struct record *record = userdata;

        (void) who;
        ck_assert_uint_lt(record->count, EVENTS);
        record->events[record->count++] = *event;
}

static uint64_t watch(struct shmd *who, const char *prefix, unsigned flags, struct record *record) {
        uint64_t number = 0;

        ASSERT_OK(who, shmd_watch(who, prefix, flags, note, record, &number));
        ck_assert_uint_ne(number, 0);
        return number;
}

static void dispatch_some(struct shmd *who) {
        test_wait_readable(shmd_poll_fd(who), "an event");
        ck_assert_int_ge(shmd_dispatch(who), 0);
}

/* The next event of a record, which must be of that kind and name. */
static const struct shmd_event *expect(struct record *record, enum shmd_event_kind kind, const char *name) {
        const struct shmd_event *event = &record->events[record->read];

        while (record->read == record->count)
                dispatch_some(watcher);
        if (event->kind != kind || strcmp(event->name, name) != 0)
                ck_abort_msg("event %u is of kind %u, name %s; expected %u, %s", record->read, event->kind, event->name, kind, name);
        record->read++;
        return event;
}

/* All that has been done has also been told: nothing else comes. */
static void expect_nothing(struct record *record) {
        client_status(watcher);
        ck_assert_int_ge(shmd_dispatch(watcher), 0);
        if (record->count != record->read)
                ck_abort_msg("an event too many: kind %u, name %s", record->events[record->read].kind,
                             record->events[record->read].name);
}

static struct shmd_segment *create_with(const char *name, unsigned flags, uint64_t maximum_bytes) {
        const struct shmd_create_options options = { .maximum_bytes = maximum_bytes, .mode = 0644 };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, PAGE, flags, &options, &segment));
        return segment;
}

/* --- a life --- */

START_TEST(test_life) {
        struct record record = { 0 };
        uint64_t number = watch(watcher, "life/", 0, &record), id, before = 0;
        struct shmd_segment *segment = create_with("life/one", SHMD_UNPUBLISHED, 4 * PAGE);
        const struct shmd_event *event;

        id = shmd_id(segment);
        event = expect(&record, SHMD_EVENT_CREATED, "life/one");
        ck_assert_uint_eq(event->size_bytes, PAGE);
        ck_assert_uint_eq(event->uid, geteuid());
        ASSERT_OK(connection, shmd_publish(segment, 0));
        expect(&record, SHMD_EVENT_PUBLISHED, "life/one");
        ASSERT_OK(connection, shmd_resize(connection, "life/one", 3 * PAGE));
        event = expect(&record, SHMD_EVENT_RESIZED, "life/one");
        ck_assert_uint_eq(event->size_bytes, 3 * PAGE);
        ASSERT_OK(connection, shmd_rename(connection, "life/one", "life/two"));
        event = expect(&record, SHMD_EVENT_RENAMED, "life/two");
        ck_assert_str_eq(event->old_name, "life/one");
        ASSERT_OK(connection, shmd_freeze(connection, "life/two"));
        expect(&record, SHMD_EVENT_FROZEN, "life/two");
        ASSERT_OK(connection, shmd_unlink(connection, "life/two"));
        expect(&record, SHMD_EVENT_UNLINKED, "life/two");
        expect_nothing(&record);
        shmd_close(segment);
        event = expect(&record, SHMD_EVENT_FREED, "life/two");
        ck_assert_uint_eq(event->size_bytes, 3 * PAGE);
        expect_nothing(&record);

        for (unsigned i = 0; i < record.count; i++) {
                ck_assert_uint_eq(record.events[i].watch, number);
                ck_assert_uint_eq(record.events[i].id, id);
                ck_assert_uint_ge(record.events[i].time_usec, before);
                before = record.events[i].time_usec;
        }
        ck_assert_uint_gt(before, UINT64_C(1600000000000000));
}
END_TEST

/* What is created with its name is published, too; what goes by itself is unlinked first. */
START_TEST(test_short_life) {
        struct record record = { 0 };
        struct shmd_segment *segment;

        watch(watcher, NULL, 0, &record);
        segment = client_create(connection, "short", PAGE, SHMD_LIFETIME_HOLDERS);
        expect(&record, SHMD_EVENT_CREATED, "short");
        expect(&record, SHMD_EVENT_PUBLISHED, "short");
        shmd_close(client_open(connection, "short", SHMD_READ_ONLY));
        ASSERT_OK(connection, shmd_chmod(connection, "short", 0644));
        expect_nothing(&record);
        shmd_close(segment);
        expect(&record, SHMD_EVENT_UNLINKED, "short");
        expect(&record, SHMD_EVENT_FREED, "short");
        expect_nothing(&record);
}
END_TEST

/* The old one goes before the new one comes, each pair together; a reader of events never finds the name empty for long. */
START_TEST(test_replaced) {
        struct record record = { 0 };
        struct shmd_segment *old[2], *new[2];

        for (unsigned i = 0; i < 2; i++) {
                old[i] = create_with(i == 0 ? "pair/a" : "pair/b", 0, 0);
                new[i] = create_with(i == 0 ? "pair/a" : "pair/b", SHMD_UNPUBLISHED, 0);
        }
        watch(watcher, "pair/", 0, &record);
        ASSERT_OK(connection, shmd_publish_many(new, 2, SHMD_REPLACE, NULL));
        ck_assert_uint_eq(expect(&record, SHMD_EVENT_UNLINKED, "pair/a")->id, shmd_id(old[0]));
        ck_assert_uint_eq(expect(&record, SHMD_EVENT_PUBLISHED, "pair/a")->id, shmd_id(new[0]));
        ck_assert_uint_eq(expect(&record, SHMD_EVENT_UNLINKED, "pair/b")->id, shmd_id(old[1]));
        ck_assert_uint_eq(expect(&record, SHMD_EVENT_PUBLISHED, "pair/b")->id, shmd_id(new[1]));
        expect_nothing(&record);
        shmd_close(old[0]);
        expect(&record, SHMD_EVENT_FREED, "pair/a");
        expect_nothing(&record);
        for (unsigned i = 0; i < 2; i++)
                shmd_close(new[i]);
}
END_TEST

/* --- who is told what --- */

static void touch(const char *name) {
        shmd_close(client_create(connection, name, 1, SHMD_LIFETIME_PERSIST));
}

START_TEST(test_prefix_and_exact) {
        static struct record all, a, ab, exact, twice, other;

        watch(watcher, NULL, 0, &all);
        watch(watcher, "a", 0, &a);
        watch(watcher, "a/b", 0, &ab);
        watch(watcher, "/a/b", SHMD_WATCH_EXACT, &exact);
        watch(watcher, "a/b", SHMD_WATCH_EXACT, &twice);
        watch(watcher, "b", 0, &other);
        touch("a/b");
        touch("a/bc");
        touch("ac");
        touch("c");

        for (unsigned i = 0; i < 4; i++) {
                static const char *const names[] = { "a/b", "a/bc", "ac", "c" };

                expect(&all, SHMD_EVENT_CREATED, names[i]);
                expect(&all, SHMD_EVENT_PUBLISHED, names[i]);
                if (i < 3) {
                        expect(&a, SHMD_EVENT_CREATED, names[i]);
                        expect(&a, SHMD_EVENT_PUBLISHED, names[i]);
                }
                if (i < 2) {
                        expect(&ab, SHMD_EVENT_CREATED, names[i]);
                        expect(&ab, SHMD_EVENT_PUBLISHED, names[i]);
                }
        }
        expect(&exact, SHMD_EVENT_CREATED, "a/b");
        expect(&exact, SHMD_EVENT_PUBLISHED, "a/b");
        expect(&twice, SHMD_EVENT_CREATED, "a/b");
        expect(&twice, SHMD_EVENT_PUBLISHED, "a/b");
        expect_nothing(&all);
        expect_nothing(&a);
        expect_nothing(&ab);
        expect_nothing(&exact);
        expect_nothing(&twice);
        expect_nothing(&other);
        ck_assert_int_eq(shmd_watch(watcher, "", SHMD_WATCH_EXACT, note, &other, NULL), -EINVAL);
        ck_assert_int_eq(shmd_watch(watcher, "a", 0x80, note, &other, NULL), -EINVAL);
}
END_TEST

/* Into what is watched, out of it, and within. */
START_TEST(test_renamed) {
        struct record in = { 0 }, exact = { 0 };

        touch("out/x");
        watch(watcher, "in/", 0, &in);
        watch(watcher, "in/y", SHMD_WATCH_EXACT, &exact);
        ASSERT_OK(connection, shmd_rename(connection, "out/x", "in/x"));
        ASSERT_OK(connection, shmd_rename(connection, "in/x", "in/y"));
        ASSERT_OK(connection, shmd_rename(connection, "in/y", "in/yy"));
        ASSERT_OK(connection, shmd_rename(connection, "in/yy", "out/x"));
        ASSERT_OK(connection, shmd_rename(connection, "out/x", "out/z"));
        ck_assert_str_eq(expect(&in, SHMD_EVENT_RENAMED, "in/x")->old_name, "out/x");
        ck_assert_str_eq(expect(&in, SHMD_EVENT_RENAMED, "in/y")->old_name, "in/x");
        ck_assert_str_eq(expect(&in, SHMD_EVENT_RENAMED, "in/yy")->old_name, "in/y");
        ck_assert_str_eq(expect(&in, SHMD_EVENT_RENAMED, "out/x")->old_name, "in/yy");
        ck_assert_str_eq(expect(&exact, SHMD_EVENT_RENAMED, "in/y")->old_name, "in/x");
        ck_assert_str_eq(expect(&exact, SHMD_EVENT_RENAMED, "in/yy")->old_name, "in/y");
        expect_nothing(&in);
        expect_nothing(&exact);
}
END_TEST

static void watch_as_stranger(int channel, void *userdata) {
        struct record record = { 0 };
        uint64_t id;

        (void) userdata;
        watcher = client_connect();
        watch(watcher, NULL, 0, &record);
        step_send(channel, 'w');
        step_receive_data(channel, &id, sizeof(id));
        ck_assert_uint_eq(expect(&record, SHMD_EVENT_PUBLISHED, "seen")->id, id);
        step_expect(channel, 'e');
        expect_nothing(&record);
        shmd_disconnect(watcher);
}

/* Of what never had a name only its owner hears. */
START_TEST(test_unpublished) {
        struct record record = { 0 };
        struct shmd_segment *segment;
        struct child child;
        uint64_t id;

        watch(watcher, NULL, 0, &record);
        if (test_as_root("events of unpublished segments, for strangers")) {
                child_start_as(&child, &stranger, watch_as_stranger, NULL);
                step_expect(child.channel, 'w');
        }
        segment = create_with("unseen", SHMD_UNPUBLISHED, 2 * PAGE);
        expect(&record, SHMD_EVENT_CREATED, "unseen");
        ASSERT_OK(connection, shmd_resize_id(connection, shmd_id(segment), 1));
        expect(&record, SHMD_EVENT_RESIZED, "unseen");
        shmd_close(segment);
        expect(&record, SHMD_EVENT_FREED, "unseen");

        segment = create_with("seen", SHMD_UNPUBLISHED, 0);
        expect(&record, SHMD_EVENT_CREATED, "seen");
        ASSERT_OK(connection, shmd_publish(segment, 0));
        expect(&record, SHMD_EVENT_PUBLISHED, "seen");
        id = shmd_id(segment);
        if (geteuid() == 0) {
                step_send_data(child.channel, &id, sizeof(id));
                step_send(child.channel, 'e');
                child_join(&child);
        }
        expect_nothing(&record);
        shmd_close(segment);
}
END_TEST

/* --- the end of a watch --- */

START_TEST(test_unwatch) {
        struct record first = { 0 }, second = { 0 };
        uint64_t one = watch(watcher, "x", 0, &first), two = watch(watcher, "x", 0, &second);

        touch("x1");
        expect(&first, SHMD_EVENT_CREATED, "x1");
        expect(&first, SHMD_EVENT_PUBLISHED, "x1");
        touch("x2");
        client_status(watcher); /* has come, and was not told yet */
        ASSERT_OK(watcher, shmd_unwatch(watcher, one));
        ck_assert_int_eq(shmd_unwatch(watcher, one), -ENOENT);
        touch("x3");
        for (unsigned i = 1; i <= 3; i++) {
                char name[8];

                snprintf(name, sizeof(name), "x%u", i);
                expect(&second, SHMD_EVENT_CREATED, name);
                expect(&second, SHMD_EVENT_PUBLISHED, name);
        }
        expect_nothing(&first);
        expect_nothing(&second);
        ASSERT_OK(watcher, shmd_unwatch(watcher, two));
        ck_assert_uint_eq(client_status(watcher).my_watches.used, 0);
        touch("x4");
        expect_nothing(&second);
}
END_TEST

struct ending {
        uint64_t watch;
        unsigned told;
        enum shmd_event_kind at;
};

static void end_myself(struct shmd *who, const struct shmd_event *event, void *userdata) {
        struct ending *ending = userdata;

        ending->told++;
        if (event->kind == ending->at) {
                ASSERT_OK(who, shmd_unwatch(who, ending->watch));
                ending->at = 0;
        } else
                ck_assert_uint_ne(ending->at, 0); /* nothing after its end */
}

static const enum shmd_event_kind endings[] = { SHMD_EVENT_PUBLISHED, SHMD_EVENT_PRESENT, SHMD_EVENT_SNAPSHOT_END };

/* From within: at an event, in the middle of a snapshot, at its end. */
START_TEST(test_unwatch_when_told) {
        struct ending ending = { .at = endings[_i] };

        for (unsigned i = 0; i < 100; i++) {
                char name[16];

                snprintf(name, sizeof(name), "there/%u", i);
                touch(name);
        }
        ASSERT_OK(watcher, shmd_watch(watcher, "there/", SHMD_WATCH_SNAPSHOT, end_myself, &ending, &ending.watch));
        touch("there/another");
        touch("there/more");
        while (ending.at != 0)
                dispatch_some(watcher);
        client_status(watcher);
        ck_assert_int_ge(shmd_dispatch(watcher), 0);
        ck_assert_uint_eq(client_status(watcher).my_watches.used, 0);
        ck_assert_int_eq(shmd_dispatch(watcher), 0);
}
END_TEST

static void watch_and_be_killed(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct record record;

        (void) userdata;
        for (unsigned i = 0; i < 10; i++)
                watch(own, i % 2 ? NULL : "dead", 0, &record);
        step_send(channel, 'w');
        step_expect(channel, 'n'); /* never comes */
}

START_TEST(test_watcher_dies) {
        struct record record = { 0 };
        struct child child;

        watch(watcher, "dead", 0, &record);
        child_start(&child, watch_and_be_killed, NULL);
        step_expect(child.channel, 'w');
        ck_assert_uint_eq(client_status(connection).my_watches.used, 11);
        touch("dead/1");
        child_kill(&child);
        touch("dead/2");
        TEST_UNTIL(client_status(connection).my_watches.used == 1, "the dead one's watches to end");
        touch("dead/3");
        for (unsigned i = 1; i <= 3; i++) {
                char name[16];

                snprintf(name, sizeof(name), "dead/%u", i);
                expect(&record, SHMD_EVENT_CREATED, name);
                expect(&record, SHMD_EVENT_PUBLISHED, name);
        }
        daemon_unlink_all(&the_daemon);
        daemon_await_descriptors(&the_daemon, 2);
}
END_TEST

/* More than are told at one turn of the daemon's loop. */
#define WATCHES 40

static void watch_raw(struct raw *raw, const char *prefix) {
        const struct shmd_wire_watch body = { .prefix_size = (uint16_t) strlen(prefix) };
        struct raw_reply reply;

        ck_assert_uint_eq(raw_call(raw, SHMD_OP_WATCH, &body, prefix, strlen(prefix), &reply), 0);
}

/* The one whose turn is next goes while it is told, with all beside it: whoever comes after is told all the same. */
START_TEST(test_watcher_goes_while_told) {
        const struct shmd_wire_create create = { .size = 1, .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 4 };
        struct raw maker = RAW_INIT, goes = RAW_INIT;
        struct record record = { 0 };
        struct raw_reply reply;

        raw_connect(&maker, the_daemon.socket);
        raw_connect(&goes, the_daemon.socket);
        for (unsigned i = 0; i < WATCHES; i++)
                watch_raw(&goes, "told");
        watch(watcher, "told", 0, &record);
        /* So that it hears of both at once, in this order: first it begins to tell, then the end of one who may still be told. */
        daemon_pause(&the_daemon);
        ck_assert_int_eq(raw_request(&maker, SHMD_OP_CREATE, &create, "told", 4, NULL, 0), 0);
        ck_assert_int_eq(shutdown(goes.fd, SHUT_WR), 0);
        daemon_resume(&the_daemon);

        raw_receive(&maker, &reply);
        ck_assert_uint_eq(reply.header.status, 0);
        raw_reply_done(&reply);
        expect(&record, SHMD_EVENT_CREATED, "told");
        expect(&record, SHMD_EVENT_PUBLISHED, "told");
        expect_nothing(&record);
        TEST_UNTIL(client_status(connection).my_watches.used == 1, "the other's watches to end");
        raw_close(&maker);
        raw_close(&goes);
}
END_TEST

/* --- a picture of what is there, kept by events alone --- */

#define IDS 4096

struct picture {
        uint64_t ids[IDS]; /* by the number that follows the prefix: which segment has that name; 0: none */
        bool complete;     /* the snapshot's end has come */
        bool lost;
        bool barrier; /* the name that tells that all changes are over */
        unsigned present, changes, losses;
};

static uint64_t *place_of(struct picture *picture, const char *name) {
        unsigned number = IDS;

        ck_assert_int_eq(sscanf(name, "snap/%u", &number), 1);
        ck_assert_uint_lt(number, IDS);
        return &picture->ids[number];
}

static void draw(struct shmd *who, const struct shmd_event *event, void *userdata) {
        struct picture *picture = userdata;
        uint64_t *place;

        (void) who;
        if (event->kind == SHMD_EVENT_SNAPSHOT_END) {
                ck_assert(!picture->complete);
                picture->complete = true;
                return;
        }
        if (event->kind == SHMD_EVENT_LOST) {
                picture->lost = true;
                picture->losses++;
                return;
        }
        if (strcmp(event->name, "snap/barrier") == 0) {
                picture->barrier = true;
                return;
        }
        place = place_of(picture, event->name);
        ck_assert_int_eq(event->kind == SHMD_EVENT_PRESENT, !picture->complete);
        picture->present += event->kind == SHMD_EVENT_PRESENT;
        picture->changes += event->kind != SHMD_EVENT_PRESENT;
        if (event->kind == SHMD_EVENT_PRESENT || event->kind == SHMD_EVENT_PUBLISHED)
                *place = event->id;
        else if (event->kind == SHMD_EVENT_UNLINKED && *place == event->id)
                *place = 0;
        else if (event->kind == SHMD_EVENT_RENAMED) {
                uint64_t *old = place_of(picture, event->old_name);

                if (*old == event->id)
                        *old = 0;
                *place = event->id;
        }
}

static int add_to_picture(const struct shmd_stat *stat, void *userdata) {
        if (strcmp(stat->name, "snap/barrier") != 0)
                *place_of(userdata, stat->name) = stat->id;
        return 0;
}

/* After a loss: looked up anew. */
static void resynchronise(struct picture *picture) {
        picture->lost = false;
        memset(picture->ids, 0, sizeof(picture->ids));
        ASSERT_OK(watcher, shmd_list(watcher, "snap/", 0, add_to_picture, picture));
}

static void check_picture(const struct picture *picture) {
        static struct picture truth;

        memset(&truth, 0, sizeof(truth));
        ASSERT_OK(connection, shmd_list(connection, "snap/", 0, add_to_picture, &truth));
        for (unsigned i = 0; i < IDS; i++)
                TEST_REQUIRE(picture->ids[i], ==, truth.ids[i]);
}

#define STILL 300
#define MOVING 100

static bool is_told(int channel) {
        struct pollfd item = { .fd = channel, .events = POLLIN };

        return poll(&item, 1, 0) > 0;
}

static void change_until_told(int channel, void *userdata) {
        struct shmd *own = client_connect();
        unsigned seed = *(unsigned *) userdata;
        char name[32], other[32];

        for (unsigned i = 0; !is_told(channel); i++) {
                unsigned a = seed = seed * 1664525u + 1013904223u, b = (seed >> 8) % MOVING;

                /* Spread over all pages of the snapshot. */
                snprintf(name, sizeof(name), "snap/%u", 1000 + (a >> 16) % MOVING * 30);
                snprintf(other, sizeof(other), "snap/%u", 1000 + b * 30);
                switch (i % 4) {
                case 0:
                case 1:
                        (void) client_try_create(own, name, 1, SHMD_EXCLUSIVE, NULL);
                        break;
                case 2:
                        (void) shmd_unlink(own, name);
                        break;
                default:
                        (void) shmd_rename(own, name, other);
                }
                if (i == 20)
                        step_send(channel, 'c');
        }
        step_expect(channel, 's');
        step_send(channel, 's');
        shmd_disconnect(own);
}

/* Not one change between the list and the watch is missed, however fast they come. */
START_TEST(test_snapshot_under_changes) {
        static struct picture picture;
        unsigned seed = (unsigned) _i + 1;
        struct child child;
        uint64_t number;
        char name[32];

        for (unsigned i = 0; i < STILL; i++) {
                snprintf(name, sizeof(name), "snap/%u", i);
                touch(name);
        }
        child_start(&child, change_until_told, &seed);
        step_expect(child.channel, 'c');
        memset(&picture, 0, sizeof(picture));
        ASSERT_OK(watcher, shmd_watch(watcher, "snap/", SHMD_WATCH_SNAPSHOT, draw, &picture, &number));
        ck_assert(!picture.complete); /* nothing is told before it has returned */
        ck_assert_uint_eq(picture.present, 0);
        while (!picture.complete || picture.changes < 500) {
                dispatch_some(watcher);
                if (picture.lost)
                        resynchronise(&picture);
        }
        ck_assert_uint_ge(picture.present, STILL);
        step_send(child.channel, 's');
        while (!is_told(child.channel)) {
                ck_assert_int_ge(shmd_dispatch(watcher), 0);
                if (picture.lost)
                        resynchronise(&picture);
        }
        step_expect(child.channel, 's');
        child_join(&child);
        touch("snap/barrier");
        while (!picture.barrier) {
                dispatch_some(watcher);
                if (picture.lost) {
                        resynchronise(&picture);
                        picture.barrier = true; /* made before what was looked up now */
                }
        }
        check_picture(&picture);
        ASSERT_OK(watcher, shmd_unwatch(watcher, number));
}
END_TEST

START_TEST(test_snapshot_of_one) {
        struct record record = { 0 }, nothing = { 0 };

        touch("a");
        touch("ab");
        watch(watcher, "a", SHMD_WATCH_EXACT | SHMD_WATCH_SNAPSHOT, &record);
        watch(watcher, "aa", SHMD_WATCH_EXACT | SHMD_WATCH_SNAPSHOT, &nothing);
        ck_assert_uint_eq(expect(&record, SHMD_EVENT_PRESENT, "a")->size_bytes, 1);
        expect(&record, SHMD_EVENT_SNAPSHOT_END, "");
        expect(&nothing, SHMD_EVENT_SNAPSHOT_END, "");
        ASSERT_OK(connection, shmd_unlink(connection, "a"));
        expect(&record, SHMD_EVENT_UNLINKED, "a");
        expect(&record, SHMD_EVENT_FREED, "a");
        expect_nothing(&record);
        expect_nothing(&nothing);
}
END_TEST

/* --- too slow --- */

static void change_a_lot(struct shmd *who, unsigned times) {
        char name[32];

        for (unsigned i = 0; i < times; i++) {
                snprintf(name, sizeof(name), "snap/%u", i % IDS);
                TEST_REQUIRE(client_try_create(who, name, 1, SHMD_EXCLUSIVE, NULL), ==, 0);
                if (i % 3 != 0)
                        TEST_REQUIRE(shmd_unlink(who, name), ==, 0);
        }
}

/* Who does not read is told that he missed something; then he looks, and from then on misses nothing. */
START_TEST(test_lost) {
        static struct picture picture;
        struct shmd *changer = _i == 0 ? connection : watcher; /* too slow to read; to dispatch */

        memset(&picture, 0, sizeof(picture));
        picture.complete = true;
        ASSERT_OK(watcher, shmd_watch(watcher, "snap/", 0, draw, &picture, NULL));
        change_a_lot(changer, 2000);
        while (!picture.lost)
                dispatch_some(watcher);
        ck_assert_uint_gt(picture.changes, 0);
        ck_assert_uint_lt(picture.changes, 2000 * 2 + 2 * 2 * 2000 / 3);
        resynchronise(&picture);
        check_picture(&picture);

        ASSERT_OK(connection, shmd_unlink(connection, "snap/0"));
        touch("snap/4000");
        touch("snap/barrier");
        while (!picture.barrier)
                dispatch_some(watcher);
        check_picture(&picture);
        ck_assert_uint_eq(picture.losses, 1);
}
END_TEST

/* A snapshot that meets a loss: its end comes nevertheless, and the loss is told. */
START_TEST(test_lost_in_snapshot) {
        static struct picture picture;

        memset(&picture, 0, sizeof(picture));
        change_a_lot(connection, 900);
        ASSERT_OK(watcher, shmd_watch(watcher, "snap/", SHMD_WATCH_SNAPSHOT, draw, &picture, NULL));
        for (unsigned i = 0; i < 900; i++) {
                char name[32];

                snprintf(name, sizeof(name), "snap/%u", 1000 + i);
                touch(name);
                ASSERT_OK(connection, shmd_unlink(connection, name));
        }
        while (!picture.complete || !picture.lost)
                dispatch_some(watcher);
        resynchronise(&picture);
        touch("snap/barrier");
        while (!picture.barrier) {
                dispatch_some(watcher);
                if (picture.lost)
                        resynchronise(&picture);
        }
        check_picture(&picture);
}
END_TEST

/* --- many at once, to many --- */

#define LISTENERS 50u
#define WATCHES_EACH 10u
#define AT_ONCE 10u /* so that all of it fits a socket: nobody is too slow */

/* What one watch was told: names in the order of their publication, then the first one's end. */
struct sequence {
        unsigned published;
        bool unlinked;
};

static void check_sequence(struct shmd *who, const struct shmd_event *event, void *userdata) {
        struct sequence *sequence = userdata;
        unsigned number;

        (void) who;
        ck_assert_int_ne(event->kind, SHMD_EVENT_LOST);
        TEST_REQUIRE(sscanf(event->name, "order/%u", &number), ==, 1);
        TEST_REQUIRE(sequence->unlinked, ==, false);
        if (event->kind == SHMD_EVENT_UNLINKED) {
                TEST_REQUIRE(number, ==, 0);
                sequence->unlinked = true;
                return;
        }
        TEST_REQUIRE(event->kind, ==, SHMD_EVENT_PUBLISHED);
        TEST_REQUIRE(number, ==, sequence->published);
        sequence->published++;
}

static void create_to_publish(struct shmd_segment **segments) {
        struct shmd_create_item items[AT_ONCE];
        char names[AT_ONCE][32];
        int results[AT_ONCE];

        for (unsigned i = 0; i < AT_ONCE; i++) {
                snprintf(names[i], sizeof(names[i]), "order/%u", i);
                items[i] = (struct shmd_create_item) { .name = names[i], .size_bytes = 1 };
        }
        ASSERT_OK(connection, shmd_create_many(connection, items, AT_ONCE, SHMD_UNPUBLISHED, segments, results));
}

/*
 * Thousands of events for one request are told in turns, while others come, go and change things: each watch hears all of its own, in
 * order, and a new one nothing of before.
 */
START_TEST(test_many_to_many) {
        static struct sequence sequences[LISTENERS][WATCHES_EACH], late;
        struct shmd *listeners[LISTENERS], *newcomer = client_connect();
        struct shmd_segment *segments[AT_ONCE];
        uint64_t numbers[LISTENERS][WATCHES_EACH];

        memset(sequences, 0, sizeof(sequences));
        memset(&late, 0, sizeof(late));
        create_to_publish(segments);
        for (unsigned i = 0; i < LISTENERS; i++) {
                listeners[i] = client_connect();
                for (unsigned j = 0; j < WATCHES_EACH; j++)
                        ASSERT_OK(listeners[i], shmd_watch(listeners[i], j % 2 ? "order/" : "", 0, check_sequence, &sequences[i][j],
                                                           &numbers[i][j]));
        }
        ASSERT_OK(connection, shmd_publish_many(segments, AT_ONCE, 0, NULL));
        ASSERT_OK(newcomer, shmd_watch(newcomer, "order/", 0, check_sequence, &late, NULL));
        /* In the middle of it, most likely: whoever is next in turn may be the one that goes. */
        for (unsigned i = 1; i < LISTENERS; i += 7)
                listeners[i] = shmd_disconnect(listeners[i]);
        for (unsigned i = 0; i < LISTENERS; i += 7)
                ASSERT_OK(listeners[i], shmd_unwatch(listeners[i], numbers[i][0]));
        ASSERT_OK(connection, shmd_unlink(connection, "order/0"));

        for (unsigned i = 0; i < LISTENERS; i++) {
                if (!listeners[i])
                        continue;
                for (unsigned j = i % 7 == 0; j < WATCHES_EACH; j++) {
                        while (!sequences[i][j].unlinked)
                                dispatch_some(listeners[i]);
                        ck_assert_uint_eq(sequences[i][j].published, AT_ONCE);
                }
                shmd_disconnect(listeners[i]);
        }
        while (!late.unlinked)
                dispatch_some(newcomer);
        ck_assert_uint_eq(late.published, 0);
        shmd_disconnect(newcomer);
        shmd_close_many(segments, AT_ONCE);
}
END_TEST

/* --- in the program's own loop --- */

#define THOUSANDS 2000

struct tally {
        unsigned kinds[16];
        uint64_t last_id;
};

static void count(struct shmd *who, const struct shmd_event *event, void *userdata) {
        struct tally *tally = userdata;

        (void) who;
        tally->kinds[event->kind]++;
        if (event->kind == SHMD_EVENT_CREATED) {
                TEST_REQUIRE(event->id, >, tally->last_id);
                tally->last_id = event->id;
        }
}

static void check_tally(struct tally *tally) {
        static const enum shmd_event_kind kinds[] = { SHMD_EVENT_CREATED, SHMD_EVENT_PUBLISHED, SHMD_EVENT_UNLINKED, SHMD_EVENT_FREED };

        while (tally->kinds[SHMD_EVENT_FREED] < THOUSANDS)
                dispatch_some(watcher);
        for (unsigned i = 0; i < ELEMENTSOF(kinds); i++)
                if (tally->kinds[kinds[i]] != THOUSANDS)
                        ck_abort_msg("%u of %d events of kind %u", tally->kinds[kinds[i]], THOUSANDS, kinds[i]);
        ck_assert_uint_eq(tally->kinds[SHMD_EVENT_LOST], 0);
}

/* The one that watches is the one that calls: its answers and its events come over one socket. */
START_TEST(test_while_calling) {
        struct tally tally = { 0 };

        ASSERT_OK(watcher, shmd_watch(watcher, "t/", 0, count, &tally, NULL));
        for (unsigned i = 0; i < THOUSANDS; i++) {
                char name[32];

                snprintf(name, sizeof(name), "t/%u", i);
                TEST_REQUIRE(client_try_create(watcher, name, 1, SHMD_EXCLUSIVE, NULL), ==, 0);
                TEST_REQUIRE(shmd_unlink(watcher, name), ==, 0);
                if (i % 500 == 0)
                        TEST_REQUIRE(shmd_dispatch(watcher), >=, 0);
        }
        check_tally(&tally);
}
END_TEST

static void call_when_told(struct shmd *who, const struct shmd_event *event, void *userdata) {
        struct shmd_stat stat;

        count(who, event, userdata);
        if (event->kind == SHMD_EVENT_PUBLISHED) {
                TEST_REQUIRE(shmd_stat(who, event->name, &stat), ==, 0);
                TEST_REQUIRE(stat.id, ==, event->id);
                TEST_REQUIRE(shmd_unlink(who, event->name), ==, 0);
        }
}

/* What is called from within an event may call. */
START_TEST(test_calls_when_told) {
        struct tally tally = { 0 };

        ASSERT_OK(watcher, shmd_watch(watcher, "t/", 0, call_when_told, &tally, NULL));
        for (unsigned i = 0; i < THOUSANDS; i++) {
                char name[32];

                snprintf(name, sizeof(name), "t/%u", i);
                TEST_REQUIRE(client_try_create(connection, name, 1, SHMD_EXCLUSIVE, NULL), ==, 0);
                if (i % 10 == 0)
                        TEST_REQUIRE(shmd_dispatch(watcher), >=, 0);
        }
        check_tally(&tally);
}
END_TEST

static void create_thousands(int channel, void *userdata) {
        struct shmd *own = client_connect();
        char name[32];

        (void) userdata;
        for (unsigned i = 0; i < THOUSANDS; i++) {
                snprintf(name, sizeof(name), "t/%u", i);
                TEST_REQUIRE(client_try_create(own, name, 1, SHMD_EXCLUSIVE, NULL), ==, 0);
                TEST_REQUIRE(shmd_unlink(own, name), ==, 0);
                if (i % 10 == 9) { /* no faster than they are read: this is not about losses */
                        step_send(channel, 'n');
                        step_expect(channel, 'g');
                }
        }
        shmd_disconnect(own);
}

/* Beside other things, in an epoll loop. */
START_TEST(test_epoll) {
        int loop = epoll_create1(EPOLL_CLOEXEC), fd = shmd_poll_fd(watcher);
        struct tally tally = { 0 };
        struct epoll_event item = { .events = EPOLLIN };
        bool hung_up = false;
        struct child child;

        ck_assert_int_ge(loop, 0);
        ASSERT_OK(watcher, shmd_watch(watcher, "t/", 0, count, &tally, NULL));
        child_start(&child, create_thousands, NULL);
        item.data.fd = fd;
        ck_assert_int_eq(epoll_ctl(loop, EPOLL_CTL_ADD, fd, &item), 0);
        item.data.fd = child.channel;
        ck_assert_int_eq(epoll_ctl(loop, EPOLL_CTL_ADD, child.channel, &item), 0);
        while (tally.kinds[SHMD_EVENT_FREED] < THOUSANDS || !hung_up) {
                ck_assert_int_eq(epoll_wait(loop, &item, 1, test_deadline_msec()), 1);
                if (item.data.fd == fd)
                        ck_assert_int_ge(shmd_dispatch(watcher), 0);
                else if (item.events & EPOLLHUP) {
                        ck_assert_int_eq(epoll_ctl(loop, EPOLL_CTL_DEL, child.channel, NULL), 0);
                        hung_up = true;
                } else {
                        step_expect(child.channel, 'n');
                        step_send(child.channel, 'g');
                }
        }
        child_join(&child);
        check_tally(&tally);
        ck_assert_int_eq(shmd_poll_fd(watcher), fd);
        close(loop);
}
END_TEST

static bool is_readable(struct shmd *who) {
        struct pollfd item = { .fd = shmd_poll_fd(who), .events = POLLIN };

        return poll(&item, 1, 0) == 1;
}

/* What was read on behalf of another call has left the socket: the loop hears of it nevertheless. */
START_TEST(test_poll_after_call) {
        struct record record = { 0 };

        watch(watcher, "p", 0, &record);
        (void) shmd_poll_fd(watcher); /* at first it may be readable for nothing */
        ck_assert_int_eq(shmd_dispatch(watcher), 0);
        ck_assert(!is_readable(watcher));
        touch("p");
        client_status(watcher);
        ck_assert_uint_eq(record.count, 0);
        ck_assert(is_readable(watcher));
        ck_assert_int_eq(shmd_dispatch(watcher), 2);
        ck_assert_uint_eq(record.count, 2);
        ck_assert(!is_readable(watcher));
        ck_assert_int_eq(shmd_dispatch(watcher), 0);
}
END_TEST

/* Another daemon in its place: whoever watched is told that he missed something, and goes on watching. */
START_TEST(test_daemon_restarts) {
        struct record first = { 0 }, second = { 0 };
        int status;

        watch(watcher, "r", 0, &first);
        watch(watcher, "r/x", SHMD_WATCH_EXACT, &second);
        daemon_kill(&the_daemon, SIGTERM);
        status = daemon_wait(&the_daemon);
        ck_assert_int_eq(status, 0);
        daemon_start_again(&the_daemon, NULL);
        while (first.count == 0 || second.count == 0)
                dispatch_some(watcher);
        expect(&first, SHMD_EVENT_LOST, "");
        expect(&second, SHMD_EVENT_LOST, "");
        touch("r/x");
        expect(&first, SHMD_EVENT_CREATED, "r/x");
        expect(&second, SHMD_EVENT_CREATED, "r/x");
        expect(&first, SHMD_EVENT_PUBLISHED, "r/x");
        expect(&second, SHMD_EVENT_PUBLISHED, "r/x");
        expect_nothing(&first);
        expect_nothing(&second);
}
END_TEST

static Suite *events_suite(void) {
        Suite *suite = suite_create("events");
        TCase *tests = test_case(suite, "events", setup, teardown);

        tcase_add_test(tests, test_life);
        tcase_add_test(tests, test_short_life);
        tcase_add_test(tests, test_replaced);
        tcase_add_test(tests, test_prefix_and_exact);
        tcase_add_test(tests, test_renamed);
        tcase_add_test(tests, test_unpublished);
        tcase_add_test(tests, test_unwatch);
        tcase_add_loop_test(tests, test_unwatch_when_told, 0, ELEMENTSOF(endings));
        tcase_add_test(tests, test_watcher_dies);
        tcase_add_test(tests, test_watcher_goes_while_told);

        tests = test_case(suite, "snapshots", setup, teardown);
        tcase_add_loop_test(tests, test_snapshot_under_changes, 0, 4);
        tcase_add_test(tests, test_snapshot_of_one);
        tcase_add_test(tests, test_many_to_many);
        tcase_add_loop_test(tests, test_lost, 0, 2);
        tcase_add_test(tests, test_lost_in_snapshot);

        tests = test_case(suite, "loops", setup, teardown);
        tcase_add_test(tests, test_while_calling);
        tcase_add_test(tests, test_calls_when_told);
        tcase_add_test(tests, test_epoll);
        tcase_add_test(tests, test_poll_after_call);
        tcase_add_test(tests, test_daemon_restarts);
        return suite;
}

int main(void) {
        return test_run(events_suite());
}
