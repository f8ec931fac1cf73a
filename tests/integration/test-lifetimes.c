/* SPDX-License-Identifier: MIT */
/*
 * Lifetimes: when a name goes by itself, changed afterwards, and with holders that the daemon has never met. That it has
 * gone is told by an event; what has to stay is looked for after something later has gone.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

#define PAGE 4096
#define HOUR (3600 * UINT64_C(1000000))

static const struct identity owner = { .uid = 61001, .gid = 61001 };
static const struct identity stranger = { .uid = 61002, .gid = 61002 };

static struct shmd *connection; /* makes the segments, or looks */
static struct shmd *watcher;

static void setup(void) {
        daemon_setup();
        setenv("SHMD_SOCKET", the_daemon.socket, 1);
        connection = client_connect();
        watcher = client_connect();
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        watcher = shmd_disconnect(watcher);
        daemon_teardown();
}

/* --- the event --- */

/* What was told of one name. */
struct story {
        unsigned unlinked, freed;
};

static void note(struct shmd *who, const struct shmd_event *event, void *userdata) {
        struct story *story = userdata;

        (void) who;
        ck_assert_uint_ne(event->kind, SHMD_EVENT_LOST);
        story->unlinked += event->kind == SHMD_EVENT_UNLINKED;
        story->freed += event->kind == SHMD_EVENT_FREED;
}

static void watch(const char *name, struct story *story) {
        *story = (struct story) { 0 };
        ASSERT_OK(watcher, shmd_watch(watcher, name, SHMD_WATCH_EXACT, note, story, NULL));
}

static void dispatch(void) {
        ck_assert_int_ge(shmd_dispatch(watcher), 0);
}

static void await_freed(const struct story *story) {
        while (story->freed == 0) {
                test_wait_readable(shmd_poll_fd(watcher), "a segment to be freed");
                dispatch();
        }
        ck_assert_uint_eq(story->freed, 1);
        ck_assert_uint_eq(story->unlinked, 1);
}

/* Not by what the daemon knows when it answers. */
static void check_kept(const struct story *story) {
        client_status(watcher);
        dispatch();
        ck_assert_uint_eq(story->freed, 0);
}

/* --- changed later --- */

static struct shmd_segment *create(struct shmd *who, const char *name, enum shmd_lifetime lifetime) {
        const struct shmd_create_options options = {
                .lifetime = lifetime,
                .linger_usec = lifetime == SHMD_LIFETIME_LINGER ? HOUR : 0,
        };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(who, shmd_create(who, name, PAGE, SHMD_EXCLUSIVE, &options, &segment));
        return segment;
}

static void set(const char *name, enum shmd_lifetime lifetime, uint64_t linger_usec) {
        ASSERT_OK(connection, shmd_set_lifetime(connection, name, lifetime, linger_usec));
        if (client_exists(connection, name)) {
                ck_assert_uint_eq(client_stat(connection, name).lifetime, lifetime);
                ck_assert_uint_eq(client_stat(connection, name).linger_usec, linger_usec);
        }
}

/* Whatever it was, held or not: what it is now decides. */
START_TEST(test_changed) {
        enum shmd_lifetime before = (enum shmd_lifetime) (_i / 4), after = (enum shmd_lifetime) (_i % 4);
        struct shmd *creator = client_connect();
        struct shmd_segment *segment = create(creator, "changed", before);
        struct story story;

        watch("changed", &story);
        set("changed", after, after == SHMD_LIFETIME_LINGER ? 1000 : 0);
        check_kept(&story);
        shmd_close(segment);
        client_status(creator);
        if (after == SHMD_LIFETIME_HOLDERS || after == SHMD_LIFETIME_LINGER) {
                await_freed(&story);
                ck_assert(!client_exists(connection, "changed"));
                shmd_disconnect(creator);
                return;
        }
        TEST_UNTIL(client_stat(connection, "changed").holders == 0, "the close to arrive");
        check_kept(&story);
        shmd_disconnect(creator);
        daemon_settle(&the_daemon, 2);
        if (after == SHMD_LIFETIME_CREATOR) {
                await_freed(&story);
                return;
        }
        check_kept(&story);
        ck_assert(client_exists(connection, "changed"));
}
END_TEST

/* Nobody has it when it is changed: then the change itself is the end, at once or after its time. */
START_TEST(test_changed_while_idle) {
        struct shmd *creator = client_connect();
        struct story story;

        shmd_close(create(creator, "idle", SHMD_LIFETIME_PERSIST));
        TEST_UNTIL(client_stat(connection, "idle").holders == 0, "the close to arrive");
        watch("idle", &story);
        set("idle", SHMD_LIFETIME_LINGER, HOUR);
        check_kept(&story);
        set("idle", SHMD_LIFETIME_CREATOR, 0);
        check_kept(&story);
        if (_i == 0)
                ASSERT_OK(connection, shmd_set_lifetime(connection, "idle", SHMD_LIFETIME_HOLDERS, 0));
        else if (_i == 1)
                ASSERT_OK(connection, shmd_set_lifetime(connection, "idle", SHMD_LIFETIME_LINGER, 1000));
        else
                creator = shmd_disconnect(creator);
        await_freed(&story);
        ck_assert_int_eq(shmd_set_lifetime(connection, "idle", SHMD_LIFETIME_PERSIST, 0), -ENOENT);
        shmd_disconnect(creator);
}
END_TEST

/* While the time runs: made longer, it is the longer that counts. The clock is a segment that goes later than it would have. */
START_TEST(test_linger_made_longer) {
        struct story story, clock;

        shmd_close(create(connection, "longer", SHMD_LIFETIME_LINGER));
        shmd_close(create(connection, "clock", SHMD_LIFETIME_LINGER));
        watch("longer", &story);
        watch("clock", &clock);
        if (shmd_set_lifetime(connection, "longer", SHMD_LIFETIME_LINGER, 200000) != 0 ||
            shmd_set_lifetime(connection, "longer", _i == 0 ? SHMD_LIFETIME_PERSIST : SHMD_LIFETIME_LINGER, _i == 0 ? 0 : HOUR) != 0) {
                test_skip("test_linger_made_longer: this machine took longer than the segment lingers");
                return;
        }
        set("clock", SHMD_LIFETIME_LINGER, 300000);
        await_freed(&clock);
        check_kept(&story);
        ck_assert(client_exists(connection, "longer"));
}
END_TEST

/* Opened again in time: it lingers anew after that, and not before. */
START_TEST(test_linger_cut_short) {
        struct shmd_segment *again;
        struct story story, clock;
        int fd;

        shmd_close(create(connection, "lingering", SHMD_LIFETIME_LINGER));
        shmd_close(create(connection, "clock", SHMD_LIFETIME_LINGER));
        watch("lingering", &story);
        watch("clock", &clock);
        if (shmd_set_lifetime(connection, "lingering", SHMD_LIFETIME_LINGER, 200000) != 0 ||
            shmd_open(connection, "lingering", SHMD_READ_WRITE, &again) != 0) {
                test_skip("test_linger_cut_short: this machine took longer than the segment lingers");
                return;
        }
        /* Held first by us, then by a descriptor that the daemon does not know of. */
        fd = dup(shmd_fd(again));
        shmd_close(again);
        set("clock", SHMD_LIFETIME_LINGER, 300000);
        await_freed(&clock);
        check_kept(&story);
        ck_assert_uint_eq(client_stat(connection, "lingering").unknown_holder, 1);
        close(fd);
        await_freed(&story);
}
END_TEST

START_TEST(test_refused) {
        struct shmd *creator = client_connect();

        create(creator, "refused", SHMD_LIFETIME_CREATOR);
        ck_assert_int_eq(shmd_set_lifetime(connection, "refused", 4, 0), -EINVAL);
        ck_assert_int_eq(shmd_set_lifetime(connection, "refused", SHMD_LIFETIME_HOLDERS, 1), -EINVAL);
        ck_assert_int_eq(shmd_set_lifetime(connection, "nothing", SHMD_LIFETIME_HOLDERS, 0), -ENOENT);
        ck_assert_int_eq(shmd_set_lifetime_id(connection, 0, SHMD_LIFETIME_HOLDERS, 0), -ENOENT);
        ck_assert_uint_eq(client_stat(connection, "refused").lifetime, SHMD_LIFETIME_CREATOR);

        /* A creator that has gone can't be the one to go. */
        set("refused", SHMD_LIFETIME_PERSIST, 0);
        shmd_disconnect(creator);
        daemon_settle(&the_daemon, 2);
        ck_assert_int_eq(shmd_set_lifetime(connection, "refused", SHMD_LIFETIME_CREATOR, 0), -ESRCH);
        ck_assert_uint_eq(client_stat(connection, "refused").lifetime, SHMD_LIFETIME_PERSIST);
        ASSERT_OK(connection, shmd_set_lifetime_id(connection, client_stat(connection, "refused").id, SHMD_LIFETIME_HOLDERS, 0));
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

static void make_theirs(int channel, void *userdata) {
        struct shmd *own = client_connect();
        const struct shmd_create_options options = { .mode = 0666 };
        struct shmd_segment *segment = NULL;

        (void) userdata;
        umask(0);
        ASSERT_OK(own, shmd_create(own, "theirs", PAGE, 0, &options, &segment));
        step_send(channel, 'm');
        step_expect(channel, 's');
        ASSERT_OK(own, shmd_set_lifetime(own, "theirs", SHMD_LIFETIME_HOLDERS, 0));
        step_send(channel, 's');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

static void change_theirs(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "theirs", SHMD_READ_WRITE);

        (void) userdata;
        for (unsigned lifetime = 0; lifetime < 4; lifetime++) {
                ck_assert_int_eq(shmd_set_lifetime(own, "theirs", lifetime, 0), -EPERM);
                ck_assert_int_eq(shmd_set_lifetime_id(own, shmd_id(segment), lifetime, 0), -EPERM);
        }
        step_send(channel, 'd');
        shmd_disconnect(own);
}

/* By its owner and by an administrator, and by nobody else, whatever he may write. */
START_TEST(test_users) {
        struct child maker, other;
        struct story story;

        if (!test_as_root("changing another user's lifetime"))
                return;
        watch("theirs", &story);
        child_start_as(&maker, &owner, make_theirs, NULL);
        step_expect(maker.channel, 'm');
        child_start_as(&other, &stranger, change_theirs, NULL);
        step_expect(other.channel, 'd');
        child_join(&other);
        ck_assert_uint_eq(client_stat(connection, "theirs").lifetime, SHMD_LIFETIME_PERSIST);
        set("theirs", SHMD_LIFETIME_LINGER, HOUR);
        step_send(maker.channel, 's');
        step_expect(maker.channel, 's');
        ck_assert_uint_eq(client_stat(connection, "theirs").lifetime, SHMD_LIFETIME_HOLDERS);
        check_kept(&story);
        step_send(maker.channel, 'e');
        child_join(&maker);
        await_freed(&story);
}
END_TEST

/* --- those who never met the daemon --- */

enum way {
        BY_DESCRIPTOR,
        BY_MAPPING,
        IN_A_SOCKET,
        BY_DEATH,
        WAYS,
};

/* Keeps what it is given by a descriptor, by a mapping, or leaves it in the socket; until it is told, or dies. */
static void keep(int channel, void *userdata) {
        enum way way = *(enum way *) userdata;
        void *bytes = NULL;
        int fd;

        if (way == IN_A_SOCKET) {
                test_wait_readable(channel, "a descriptor, which is not taken");
                step_send(channel, 'k');
                for (;;)
                        pause();
        }
        fd = step_receive_fd(channel);
        if (way == BY_MAPPING || way == BY_DEATH) {
                bytes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                ck_assert_ptr_ne(bytes, MAP_FAILED);
                ck_assert_str_eq(bytes, "passed on");
                close(fd);
        }
        step_send(channel, 'k');
        step_expect(channel, 'e');
        if (bytes)
                munmap(bytes, PAGE);
        else
                close(fd);
        step_send(channel, 'e');
        step_expect(channel, 'e');
}

static const enum shmd_lifetime kept_lifetimes[] = { SHMD_LIFETIME_HOLDERS, SHMD_LIFETIME_LINGER };

/* The last that holds it is a process that no connection accounts for: its going is noticed at once. */
START_TEST(test_passed_to_a_stranger) {
        enum shmd_lifetime lifetime = kept_lifetimes[_i / WAYS];
        enum way way = (enum way) (_i % WAYS);
        struct shmd *creator = client_connect();
        struct shmd_segment *segment;
        struct story story;
        struct child child;

        child_start(&child, keep, &way); /* before there is anything to inherit */
        segment = create(creator, "passed", lifetime);
        if (lifetime == SHMD_LIFETIME_LINGER)
                set("passed", SHMD_LIFETIME_LINGER, 1);
        strcpy(client_map(segment), "passed on");
        watch("passed", &story);
        step_send_fd(child.channel, shmd_fd(segment));
        step_expect(child.channel, 'k');
        shmd_disconnect(creator);
        daemon_settle(&the_daemon, 2);
        check_kept(&story);
        ck_assert_uint_eq(client_stat(connection, "passed").holders, 1);
        ck_assert_uint_eq(client_stat(connection, "passed").unknown_holder, 1);
        ck_assert_uint_eq(client_stat(connection, "passed").idle_usec, 0);
        if (way == BY_DEATH || way == IN_A_SOCKET) {
                child_kill(&child);
                await_freed(&story);
                return;
        }
        step_send(child.channel, 'e');
        step_expect(child.channel, 'e');
        await_freed(&story);
        ck_assert(!client_exists(connection, "passed"));
        step_send(child.channel, 'e');
        child_join(&child);
}
END_TEST

/* The same with a mapping of our own that outlives its connection, and with two of them. */
START_TEST(test_mapping_outlives_its_connection) {
        struct shmd *creator = client_connect();
        struct shmd_segment *segment = create(creator, "mapped", SHMD_LIFETIME_HOLDERS);
        char *bytes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shmd_fd(segment), 0);
        char *again = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, shmd_fd(segment), 0);
        struct story story;

        ck_assert_ptr_ne(bytes, MAP_FAILED);
        ck_assert_ptr_ne(again, MAP_FAILED);
        watch("mapped", &story);
        shmd_disconnect(creator);
        daemon_settle(&the_daemon, 2);
        strcpy(bytes, "still there");
        check_kept(&story);
        munmap(bytes, PAGE);
        check_kept(&story);
        ck_assert_uint_eq(client_stat(connection, "mapped").unknown_holder, 1);
        ck_assert_str_eq(again, "still there");
        munmap(again, PAGE);
        await_freed(&story);
        daemon_await_descriptors(&the_daemon, 2);
}
END_TEST

/* Lifetime holders given only while nobody but a stranger has it. */
START_TEST(test_changed_for_a_stranger) {
        struct shmd *creator = client_connect();
        struct shmd_segment *segment = create(creator, "strange", SHMD_LIFETIME_PERSIST);
        int fd = dup(shmd_fd(segment));
        struct story story;

        watch("strange", &story);
        shmd_disconnect(creator);
        daemon_settle(&the_daemon, 2);
        set("strange", SHMD_LIFETIME_HOLDERS, 0);
        check_kept(&story);
        ck_assert(client_exists(connection, "strange"));
        close(fd);
        await_freed(&story);
}
END_TEST

/* --- fork --- */

static struct shmd *forked; /* the creator's, and then its child's, too */
static struct shmd_segment *forked_segment;

static void inherit(int channel, void *userdata) {
        (void) userdata;
        strcpy(client_map(forked_segment), "of the child");
        ck_assert_str_eq(client_stat(forked, "forked").name, "forked"); /* over a connection of its own */
        step_send(channel, 'u');
        step_expect(channel, 'g');
        ck_assert_str_eq(client_map(forked_segment), "of the child");
        ck_assert(!client_exists(forked, "forked"));
        step_send(channel, 'g');
        step_expect(channel, 'e');
        shmd_disconnect(forked);
}

/* It is its creator's: the child that inherited it keeps the memory, not the name. */
START_TEST(test_creator_with_a_child) {
        struct child child;
        struct story story;

        forked = client_connect();
        forked_segment = create(forked, "forked", SHMD_LIFETIME_CREATOR);
        watch("forked", &story);
        child_start_inheriting(&child, inherit, NULL);
        step_expect(child.channel, 'u');
        ck_assert_uint_eq(client_stat(connection, "forked").holders, 2);
        check_kept(&story);
        forked = shmd_disconnect(forked);
        TEST_UNTIL(!client_exists(connection, "forked"), "the creator's end");
        step_send(child.channel, 'g');
        step_expect(child.channel, 'g');
        check_kept(&story);
        ck_assert_uint_eq(story.unlinked, 1);
        step_send(child.channel, 'e');
        child_join(&child);
        await_freed(&story);
}
END_TEST

/* --- shm_open: the descriptor is the hold --- */

enum detached_way {
        CLOSED,
        UNMAPPED,
        KILLED,
        TAKEN_OVER, /* another process has opened it, too */
        DETACHED_WAYS,
};

static void open_detached(int channel, void *userdata) {
        enum detached_way way = *(enum detached_way *) userdata;
        int fd = shmd_shm_open("/detached", O_RDWR | O_CREAT, 0600);
        void *bytes = MAP_FAILED;

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, PAGE), 0);
        if (way == UNMAPPED || way == KILLED) {
                bytes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                ck_assert_ptr_ne(bytes, MAP_FAILED);
                close(fd);
        }
        step_send(channel, 'o');
        step_expect(channel, 'c');
        if (bytes != MAP_FAILED)
                munmap(bytes, PAGE);
        else
                close(fd);
        step_send(channel, 'c');
        step_expect(channel, 'e');
}

START_TEST(test_detached) {
        enum detached_way way = (enum detached_way) (_i % DETACHED_WAYS);
        bool lingers = _i >= DETACHED_WAYS;
        struct child child, other;
        struct story story;

        watch("detached", &story);
        child_start(&child, open_detached, &way);
        step_expect(child.channel, 'o');
        set("detached", lingers ? SHMD_LIFETIME_LINGER : SHMD_LIFETIME_HOLDERS, lingers);
        check_kept(&story);
        ck_assert_uint_eq(client_stat(connection, "detached").holders, 1);
        if (way == TAKEN_OVER) {
                child_start(&other, open_detached, &way);
                step_expect(other.channel, 'o');
                child_kill(&other);
                check_kept(&story);
        }
        if (way == KILLED) {
                child_kill(&child);
                await_freed(&story);
                return;
        }
        step_send(child.channel, 'c');
        step_expect(child.channel, 'c');
        await_freed(&story);
        step_send(child.channel, 'e');
        child_join(&child);
}
END_TEST

/* --- storms --- */

#define STORM_CHILDREN 12
#define STORM_ROUNDS 8
#define STORM_SHARED 8

struct storm {
        unsigned seed;
        int ring; /* a socket between all of them: descriptors of segments go round */
};

static unsigned draw(unsigned *seed, unsigned below) {
        *seed = *seed * 1664525u + 1013904223u;
        return (*seed >> 16) % below;
}

static void pass_on(int ring, int fd) {
        const struct shmd_wire_header header = { .operation = 1 };

        (void) wire_send(ring, &header, NULL, 0, NULL, 0, &fd, 1, MSG_DONTWAIT);
}

static void take_one(int ring, int *ret_fd) {
        struct shmd_wire_header header;
        struct wire_fds fds = WIRE_FDS_INIT;

        if (wire_receive(ring, &header, sizeof(header), &fds, MSG_DONTWAIT) > 0 && fds.count == 1) {
                close_fd(*ret_fd);
                *ret_fd = fds.fd[0];
        }
}

/* Until it is killed. Every name that it makes is unlike all others, or one of a few that are everybody's. */
static void rage(int channel, void *userdata) {
        const struct storm *storm = userdata;
        struct shmd *own = client_connect();
        struct shmd_segment *kept = NULL, *segment;
        unsigned seed = storm->seed;
        int fd = -EBADF;
        char name[64];

        for (unsigned i = 0;; i++) {
                enum shmd_lifetime lifetime = 1 + draw(&seed, 3);
                const struct shmd_create_options options = { .lifetime = lifetime,
                                                             .linger_usec = lifetime == SHMD_LIFETIME_LINGER };
                bool shared = draw(&seed, 2) == 0;
                unsigned flags = draw(&seed, 4) == 0 ? SHMD_UNPUBLISHED : 0;

                if (shared)
                        snprintf(name, sizeof(name), "storm/%u", draw(&seed, STORM_SHARED));
                else
                        snprintf(name, sizeof(name), "storm/%d/%u", (int) getpid(), i);
                segment = NULL;
                if (shmd_create(own, name, PAGE, flags, &options, &segment) == 0) {
                        memset(client_map(segment), 1, PAGE);
                        if (flags && draw(&seed, 2) == 0)
                                (void) shmd_publish(segment, SHMD_REPLACE);
                        if (draw(&seed, 3) == 0)
                                pass_on(storm->ring, shmd_fd(segment));
                        if (draw(&seed, 3) == 0) {
                                shmd_close(kept);
                                kept = segment;
                        } else
                                shmd_close(segment);
                }
                if (draw(&seed, 3) == 0)
                        take_one(storm->ring, &fd);
                if (i == 10)
                        step_send(channel, 'r');
        }
}

/* Killed all at once, in the middle of everything, again and again: nothing is left, whoever held what. */
START_TEST(test_storm) {
        unsigned seed = (unsigned) _i + 1;

        for (unsigned round = 0; round < STORM_ROUNDS; round++) {
                struct storm storms[STORM_CHILDREN];
                struct child children[STORM_CHILDREN];
                int ring[2];

                ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ring), 0);
                for (unsigned i = 0; i < STORM_CHILDREN; i++) {
                        storms[i] = (struct storm) { .seed = draw(&seed, 1u << 16), .ring = ring[i % 2] };
                        child_start_inheriting(&children[i], rage, &storms[i]);
                }
                for (unsigned i = 0; i < STORM_CHILDREN; i++)
                        step_expect(children[i].channel, 'r');
                children_kill(children, STORM_CHILDREN);
                /* What is still under way between them goes with the sockets. */
                close(ring[0]);
                close(ring[1]);
                daemon_await_segments(&the_daemon, 0);
                daemon_settle(&the_daemon, 2);
                ck_assert_uint_eq(daemon_status(&the_daemon).holds, 0);
                ck_assert_uint_eq(daemon_status(&the_daemon).bytes, 0);
        }
        daemon_await_descriptors(&the_daemon, 2);
}
END_TEST

static Suite *lifetimes_suite(void) {
        Suite *suite = suite_create("lifetimes");
        TCase *tests = test_case(suite, "changed", setup, teardown);

        tcase_add_loop_test(tests, test_changed, 0, 16);
        tcase_add_loop_test(tests, test_changed_while_idle, 0, 3);
        tcase_add_loop_test(tests, test_linger_made_longer, 0, 2);
        tcase_add_test(tests, test_linger_cut_short);
        tcase_add_test(tests, test_refused);
        tcase_add_test(tests, test_users);

        tests = test_case(suite, "strangers", setup, teardown);
        tcase_add_loop_test(tests, test_passed_to_a_stranger, 0, WAYS * (int) ELEMENTSOF(kept_lifetimes));
        tcase_add_test(tests, test_mapping_outlives_its_connection);
        tcase_add_test(tests, test_changed_for_a_stranger);
        tcase_add_test(tests, test_creator_with_a_child);
        tcase_add_loop_test(tests, test_detached, 0, 2 * DETACHED_WAYS);

        tests = test_case(suite, "storms", setup, teardown);
        tcase_add_loop_test(tests, test_storm, 0, 2);
        return suite;
}

int main(void) {
        return test_run(lifetimes_suite());
}
