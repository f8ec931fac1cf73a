/* SPDX-License-Identifier: MIT */
/*
 * Who holds what, and what goes when: lifetimes, deaths, and mappings that outlive everything else. What the
 * kernel says is exact, so the tests are: a segment is there until the last trace of it is gone, and then it is not.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

/* --- lifetimes --- */

START_TEST(test_persist) {
        shmd_close(client_create(connection, "stays", 4096, SHMD_LIFETIME_PERSIST));
        TEST_UNTIL(client_stat(connection, "stays").holders == 0, "the close to arrive");
        ck_assert(client_exists(connection, "stays"));
}
END_TEST

START_TEST(test_holders) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = client_create(connection, "held", 4096, SHMD_LIFETIME_HOLDERS);

        client_open(other, "held", SHMD_READ_ONLY);
        shmd_close(segment);
        TEST_UNTIL(client_stat(connection, "held").holders == 1, "the close to arrive");
        shmd_disconnect(other);
        TEST_UNTIL(!client_exists(connection, "held"), "the last holder's end");
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 0);
}
END_TEST

/* The creator's connection ends: so does the name. Others keep what they hold. */
START_TEST(test_creator) {
        struct shmd *creator = client_connect();
        struct shmd_segment *segment = client_create(creator, "creator", 4096, SHMD_LIFETIME_CREATOR);
        struct shmd_segment *mine = client_open(connection, "creator", SHMD_READ_ONLY);

        strcpy(client_map(segment), "text");
        shmd_close(segment); /* not what ends it */
        TEST_UNTIL(client_stat(connection, "creator").holders == 1, "the close to arrive");
        shmd_disconnect(creator);
        TEST_UNTIL(!client_exists(connection, "creator"), "the creator's end");
        ck_assert_str_eq(client_map(mine), "text");
        ck_assert_uint_eq(client_stat_id(connection, shmd_id(mine)).state, SHMD_STATE_UNLINKED);
        shmd_close(mine);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

static struct shmd_segment *create_lingering(const char *name, uint64_t linger_usec) {
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_LINGER, .linger_usec = linger_usec };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, 4096, SHMD_EXCLUSIVE, &options, &segment));
        return segment;
}

START_TEST(test_linger) {
        struct shmd_segment *held = create_lingering("held", 1);

        shmd_close(create_lingering("long", UINT64_C(3600) * 1000000));
        shmd_close(create_lingering("short", 1000));
        shmd_close(create_lingering("shorter", 1));
        TEST_UNTIL(!client_exists(connection, "short"), "a millisecond to pass");
        TEST_UNTIL(!client_exists(connection, "shorter"), "a microsecond to pass");
        /* By then what is held has not gone, and what lingers long has not. */
        ck_assert(client_exists(connection, "held"));
        ck_assert_uint_eq(client_stat(connection, "long").holders, 0);
        ck_assert_uint_eq(client_stat(connection, "long").linger_usec, UINT64_C(3600) * 1000000);

        /* Who opens it in time keeps it. */
        shmd_close(client_open(connection, "long", SHMD_READ_ONLY));
        shmd_close(held);
        TEST_UNTIL(!client_exists(connection, "held"), "the other one to go");
        ck_assert(client_exists(connection, "long"));
}
END_TEST

/* Held again while it lingered: its time begins anew only after that. */
START_TEST(test_linger_interrupted) {
        struct shmd_segment *again;

        shmd_close(create_lingering("again", 200000));
        if (shmd_open(connection, "again", SHMD_READ_ONLY, &again) != 0) {
                test_skip("test_linger_interrupted: this machine took longer than the segment lingers");
                return;
        }
        shmd_close(create_lingering("clock", 400000)); /* goes after the other would have */
        TEST_UNTIL(!client_exists(connection, "clock"), "0.4 s to pass");
        ck_assert(client_exists(connection, "again"));
        shmd_close(again);
        TEST_UNTIL(!client_exists(connection, "again"), "0.2 s to pass");
}
END_TEST

/* --- death --- */

static void hold_until_killed(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, userdata, SHMD_READ_WRITE);

        strcpy(client_map(segment), "written by the dead");
        step_send(channel, 'h');
        step_expect(channel, 'n'); /* never comes */
}

START_TEST(test_killed) {
        struct shmd_segment *segment = client_create(connection, "killed", 4096, SHMD_LIFETIME_HOLDERS);
        struct child child;

        child_start(&child, hold_until_killed, (void *) "killed");
        step_expect(child.channel, 'h');
        ck_assert_uint_eq(client_stat(connection, "killed").holders, 2);
        child_kill(&child);
        TEST_UNTIL(client_stat(connection, "killed").holders == 1, "the dead one's hold to end");
        ck_assert_str_eq(client_map(segment), "written by the dead");
        daemon_settle(&the_daemon, 1);
        shmd_close(segment);
        TEST_UNTIL(!client_exists(connection, "killed"), "the last hold to end");
}
END_TEST

START_TEST(test_killed_as_last) {
        struct shmd_segment *segment = client_create(connection, "last", 4096, SHMD_LIFETIME_HOLDERS);
        uint64_t id = shmd_id(segment);
        struct child child;

        child_start(&child, hold_until_killed, (void *) "last");
        step_expect(child.channel, 'h');
        shmd_close(segment);
        child_kill(&child);
        TEST_UNTIL(!client_id_exists(connection, id), "the last hold to end");
        daemon_await_descriptors(&the_daemon, 1);
}
END_TEST

/* --- what only the kernel knows of --- */

/*
 * A stranger: no client, but gets a descriptor, maps it, and closes it. Then there is the mapping and nothing else.
 * Its steps: m mapped; ? is the text still there; u unmap.
 */
static void stranger(int channel, void *userdata) {
        int fd = step_receive_fd(channel);
        char *bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        (void) userdata;
        ck_assert_ptr_ne(bytes, MAP_FAILED);
        close(fd);
        step_send(channel, 'm');
        step_expect(channel, '?');
        ck_assert_str_eq(bytes, "for the stranger");
        step_send(channel, '!');
        step_expect(channel, 'u');
        munmap(bytes, 4096);
        step_send(channel, 'u');
        step_expect(channel, 'e');
}

static void make_and_send(int channel, void *userdata) {
        struct shmd *own = client_connect();
        const enum shmd_lifetime *lifetime = userdata;
        struct shmd_segment *segment = client_create(own, "mapped", 4096, *lifetime);
        uint64_t id = shmd_id(segment);

        strcpy(client_map(segment), "for the stranger");
        step_send_data(channel, &id, sizeof(id));
        step_send_fd(channel, shmd_fd(segment));
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

/* Starts a stranger that has mapped a segment, whose maker has gone; gives the segment's id. */
static uint64_t start_stranger(struct child *child, enum shmd_lifetime lifetime) {
        struct child maker;
        uint64_t id;
        int fd;

        child_start(child, stranger, NULL);
        child_start(&maker, make_and_send, &lifetime);
        step_receive_data(maker.channel, &id, sizeof(id));
        fd = step_receive_fd(maker.channel);
        step_send_fd(child->channel, fd);
        close(fd);
        step_expect(child->channel, 'm');
        if (lifetime == SHMD_LIFETIME_PERSIST)
                ASSERT_OK(connection, shmd_unlink(connection, "mapped"));
        step_send(maker.channel, 'e');
        child_join(&maker);
        daemon_settle(&the_daemon, 1);
        return id;
}

static void check_kept(struct child *child, uint64_t id) {
        struct shmd_stat stat = client_stat_id(connection, id);

        ck_assert_uint_eq(stat.unknown_holder, 1);
        ck_assert_uint_eq(stat.holders, 1);
        ck_assert_uint_eq(daemon_status(&the_daemon).holds, 0);
        step_send(child->channel, '?');
        step_expect(child->channel, '!');
        ck_assert_uint_eq(stat.resident_bytes, test_page_size());
}

/* Fails if the daemon forgets who is not connected (freed in use), or does not ask the kernel again (leak). */
START_TEST(test_only_a_mapping) {
        struct child child;
        uint64_t id = start_stranger(&child, SHMD_LIFETIME_PERSIST);

        ck_assert(!client_exists(connection, "mapped"));
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 1);
        check_kept(&child, id);
        ck_assert_uint_eq(daemon_status(&the_daemon).unlinked, 1);

        step_send(child.channel, 'u');
        step_expect(child.channel, 'u');
        TEST_UNTIL(!client_id_exists(connection, id), "the kernel's word that it is unmapped");
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 0);
        daemon_await_descriptors(&the_daemon, 1);
        step_send(child.channel, 'e');
        child_join(&child);
}
END_TEST

START_TEST(test_mapping_dies_with_its_process) {
        struct child child;
        uint64_t id = start_stranger(&child, SHMD_LIFETIME_PERSIST);

        check_kept(&child, id);
        child_kill(&child);
        TEST_UNTIL(!client_id_exists(connection, id), "the kernel's word that it is unmapped");
        daemon_await_descriptors(&the_daemon, 1);
}
END_TEST

/* With a lifetime of its holders even the name stays as long as that mapping; and it can be opened by it. */
START_TEST(test_mapping_keeps_the_name) {
        struct child child;
        uint64_t id = start_stranger(&child, SHMD_LIFETIME_HOLDERS);
        struct shmd_segment *segment;

        check_kept(&child, id);
        ck_assert_uint_eq(client_stat(connection, "mapped").id, id);
        segment = client_open(connection, "mapped", SHMD_READ_ONLY);
        ck_assert_str_eq(client_map(segment), "for the stranger");
        child_kill(&child);
        ck_assert(client_exists(connection, "mapped"));
        ck_assert_str_eq(client_map(segment), "for the stranger");
        shmd_close(segment);
        TEST_UNTIL(!client_id_exists(connection, id), "the last holder's end");
}
END_TEST

/* A name of holders, opened and closed while a stranger maps it: the stranger still keeps it. */
START_TEST(test_mapping_outlives_a_later_holder) {
        struct child child;
        uint64_t id = start_stranger(&child, SHMD_LIFETIME_HOLDERS);

        shmd_close(client_open(connection, "mapped", SHMD_READ_WRITE));
        TEST_UNTIL(daemon_status(&the_daemon).holds == 0, "the close to arrive");
        check_kept(&child, id);
        child_kill(&child);
        TEST_UNTIL(!client_id_exists(connection, id), "the mapping's end");
}
END_TEST

/* A descriptor on its way, in a socket's queue, is one too. */
START_TEST(test_descriptor_in_flight) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = client_create(other, "flying", 4096, SHMD_LIFETIME_HOLDERS);
        uint64_t id = shmd_id(segment);
        int pair[2], fd;

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        strcpy(client_map(segment), "flying");
        step_send_fd(pair[0], shmd_fd(segment));
        shmd_disconnect(other);
        daemon_settle(&the_daemon, 1);
        ck_assert_uint_eq(client_stat(connection, "flying").unknown_holder, 1);

        fd = step_receive_fd(pair[1]);
        ck_assert_uint_eq(client_stat(connection, "flying").unknown_holder, 1);
        close(fd);
        TEST_UNTIL(!client_id_exists(connection, id), "the descriptor's end");
        close(pair[0]);
        close(pair[1]);
}
END_TEST

/* A socket that dies with descriptors in its queue: nobody will ever receive them. */
START_TEST(test_descriptor_lost_in_flight) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = client_create(other, "lost", 4096, SHMD_LIFETIME_HOLDERS);
        uint64_t id = shmd_id(segment);
        int pair[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        step_send_fd(pair[0], shmd_fd(segment));
        shmd_disconnect(other);
        daemon_settle(&the_daemon, 1);
        ck_assert(client_id_exists(connection, id));
        close(pair[0]);
        close(pair[1]);
        TEST_UNTIL(!client_id_exists(connection, id), "the descriptor's end");
}
END_TEST

/* A descriptor that a client duplicated outlives its shmd_close(). */
START_TEST(test_duplicate) {
        struct shmd_segment *segment = client_create(connection, "dup", 4096, SHMD_LIFETIME_HOLDERS);
        uint64_t id = shmd_id(segment);
        int fd = dup(shmd_fd(segment));

        shmd_close(segment);
        TEST_UNTIL(daemon_status(&the_daemon).holds == 0, "the close to arrive");
        ck_assert_uint_eq(client_stat(connection, "dup").unknown_holder, 1);
        ck_assert_int_eq(pwrite(fd, "x", 1, 0), 1);
        close(fd);
        TEST_UNTIL(!client_id_exists(connection, id), "the duplicate's end");
}
END_TEST

#define MANY 200

/* Many at once, so that many events come at once. */
START_TEST(test_many_mappings) {
        struct shmd *other = client_connect();
        void *mappings[MANY];
        char name[32];

        for (int i = 0; i < MANY; i++) {
                struct shmd_segment *segment;

                snprintf(name, sizeof(name), "many/%d", i);
                segment = client_create(other, name, 4096, i % 2 ? SHMD_LIFETIME_HOLDERS : SHMD_LIFETIME_PERSIST);
                mappings[i] = mmap(NULL, 4096, PROT_READ, MAP_SHARED, shmd_fd(segment), 0);
                ck_assert_ptr_ne(mappings[i], MAP_FAILED);
                if (i % 2 == 0)
                        ASSERT_OK(other, shmd_unlink(other, name));
        }
        shmd_disconnect(other);
        daemon_settle(&the_daemon, 1);
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, MANY);
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), MANY / 2);
        for (int i = 0; i < MANY; i++)
                munmap(mappings[i], 4096);
        daemon_await_segments(&the_daemon, 0);
        daemon_await_descriptors(&the_daemon, 1);
}
END_TEST

#define CLOSERS 2
#define ROUNDS 20

struct closing {
        int fds[MANY];
        unsigned first;
};

static void *close_some(void *userdata) {
        const struct closing *closing = userdata;

        for (unsigned i = closing->first; i < MANY; i += CLOSERS)
                close(closing->fds[i]);
        return NULL;
}

/* Thousands of descriptors that only the kernel knows of, closed while the daemon looks. */
START_TEST(test_closed_while_it_looks) {
        struct closing closing[CLOSERS];
        pthread_t threads[CLOSERS];
        char name[32];

        for (int round = 0; round < ROUNDS; round++) {
                struct shmd *other = client_connect();

                for (int i = 0; i < MANY; i++) {
                        struct shmd_segment *segment;

                        snprintf(name, sizeof(name), "closing/%d", i);
                        segment = client_create(other, name, 1, SHMD_LIFETIME_HOLDERS);
                        closing[0].fds[i] = dup(shmd_fd(segment));
                }
                shmd_disconnect(other);
                daemon_settle(&the_daemon, 1);
                ck_assert_uint_eq(daemon_status(&the_daemon).segments, MANY);
                for (unsigned i = 0; i < CLOSERS; i++) {
                        closing[i] = closing[0];
                        closing[i].first = i;
                        ck_assert_int_eq(pthread_create(&threads[i], NULL, close_some, &closing[i]), 0);
                }
                for (unsigned i = 0; i < CLOSERS; i++)
                        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
                daemon_await_segments(&the_daemon, 0);
        }
}
END_TEST

/* --- the kernel's answer comes too early --- */

static const char *const refusals[] = { "1", "2", "4" };
static const char *refusals_now;

static void preload(void *userdata) {
        char path[256];

        (void) userdata;
        snprintf(path, sizeof(path), "%s/tests/support/.libs/preload-lease.so", test_environment("SHMD_TEST_BUILDDIR"));
        setenv("LD_PRELOAD", path, 1);
        setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
        setenv("SHMD_TEST_LEASE_REFUSALS", refusals_now, 1);
}

/*
 * The kernel tells of a close before it counts it (fs/file_table.c: __fput calls fsnotify_close first and
 * put_file_access last). A daemon that asks only at the event may be told "somebody has it", and there will be no
 * other event: it would keep the segment for ever. Here that is so each time.
 */
START_TEST(test_asked_too_early) {
        const struct daemon_options options = { .prepare = preload };
        struct shmd_segment *segment;
        int fd;

        refusals_now = refusals[_i];
        daemon_start(&the_daemon, &options);
        connection = client_connect();

        /* Nobody else has it: the answer to the first question is already wrong. */
        shmd_close(client_create(connection, "early/closed", 1, SHMD_LIFETIME_HOLDERS));
        daemon_await_segments(&the_daemon, 0);

        /* Somebody has it for a while: it is the answer at the event that is wrong. */
        segment = client_create(connection, "early/event", 1, SHMD_LIFETIME_HOLDERS);
        fd = dup(shmd_fd(segment));
        shmd_close(segment);
        TEST_UNTIL(daemon_status(&the_daemon).holds == 0, "the close to arrive");
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 1);
        close(fd);
        daemon_await_segments(&the_daemon, 0);
        ck_assert_msg(daemon_log_has(&the_daemon, "preload: refused"), "nothing was preloaded");
        teardown();
}
END_TEST

/* --- no polling --- */

/* How often all threads of the daemon have given up the processor by themselves, or lost it. */
static unsigned long count_switches(void) {
        char path[320], line[256];
        unsigned long sum = 0, n;
        struct dirent *entry;
        DIR *tasks;

        snprintf(path, sizeof(path), "/proc/%d/task", (int) the_daemon.pid);
        tasks = opendir(path);
        ck_assert_ptr_nonnull(tasks);
        while ((entry = readdir(tasks))) {
                FILE *file;

                snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int) the_daemon.pid, entry->d_name);
                file = entry->d_name[0] != '.' ? fopen(path, "re") : NULL;
                while (file && fgets(line, sizeof(line), file))
                        if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
                            sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
                                sum += n;
                if (file)
                        fclose(file);
        }
        closedir(tasks);
        return sum;
}

/* Longer than the daemon ever waits before it asks again what no event has told it to. */
#define QUIET_MSEC 2200

/* Whether the daemon has done nothing at all for so long. */
static bool has_slept(void) {
        static unsigned long switches;
        static int64_t since_msec;
        const unsigned long now = count_switches();

        if (now != switches) {
                switches = now;
                since_msec = test_now_msec();
        }
        return test_now_msec() - since_msec >= QUIET_MSEC;
}

/* A descriptor that no connection accounts for. */
static int hold_outside(const char *name) {
        struct shmd_segment *segment = client_create(connection, name, 1, SHMD_LIFETIME_HOLDERS);
        int fd = dup(shmd_fd(segment));

        ck_assert_int_ge(fd, 0);
        shmd_close(segment);
        return fd;
}

/* Closes that are told of: of the same again, one after the other, only the first would be: inotify(7). */
static void open_and_close_in_turn(const int *fds, unsigned times) {
        char paths[2][32];

        for (unsigned i = 0; i < 2; i++)
                snprintf(paths[i], sizeof(paths[i]), "/proc/self/fd/%d", fds[i]);
        for (unsigned i = 0; i < times; i++) {
                int fd = open(paths[i % 2], O_RDONLY | O_CLOEXEC);

                TEST_REQUIRE(fd, >=, 0);
                close(fd);
        }
}

/* How many events the kernel keeps for who does not come to read them; 0: more than can be made here. */
static unsigned events_max(void) {
        _cleanup_free_ char *text = test_read_file("/proc/sys/fs/inotify/max_queued_events");
        int number = text ? atoi(text) : 0;

        return number > 0 && number < 1000000 ? (unsigned) number : 0;
}

/*
 * With a client connected and segments that nothing but a mapping keeps, or a descriptor, the daemon sleeps: it waits for an event, and
 * does not look again and again. It may look a few times more at first, so what is waited for is one quiet time; a
 * daemon that polls never has one, and one that does not has it however slow the machine is.
 *
 * As from then on only events make it look, here is also what it does when the one that matters is lost among too many others.
 */
START_TEST(test_idle_daemon_sleeps) {
        struct child child;
        uint64_t id = start_stranger(&child, SHMD_LIFETIME_PERSIST);
        int noise[] = { hold_outside("noise/1"), hold_outside("noise/2") };

        check_kept(&child, id);
        TEST_UNTIL(has_slept(), "the daemon to sleep");
        daemon_pause(&the_daemon);
        if (events_max() > 0)
                open_and_close_in_turn(noise, events_max() + 2);
        else
                test_skip("test_idle_daemon_sleeps: events that are lost, as there is room for too many");
        child_kill(&child);
        daemon_resume(&the_daemon);
        /* Not asked for it: that would make it look. */
        daemon_await_segments(&the_daemon, ELEMENTSOF(noise));
        for (unsigned i = 0; i < ELEMENTSOF(noise); i++)
                close(noise[i]);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

static Suite *holds_suite(void) {
        Suite *suite = suite_create("holds");
        TCase *tests = test_case(suite, "lifetimes", setup, teardown);

        tcase_add_test(tests, test_persist);
        tcase_add_test(tests, test_holders);
        tcase_add_test(tests, test_creator);
        tcase_add_test(tests, test_linger);
        tcase_add_test(tests, test_linger_interrupted);

        tests = test_case(suite, "death", setup, teardown);
        tcase_add_test(tests, test_killed);
        tcase_add_test(tests, test_killed_as_last);

        tests = test_case(suite, "unknown holders", setup, teardown);
        tcase_add_test(tests, test_only_a_mapping);
        tcase_add_test(tests, test_mapping_dies_with_its_process);
        tcase_add_test(tests, test_mapping_keeps_the_name);
        tcase_add_test(tests, test_mapping_outlives_a_later_holder);
        tcase_add_test(tests, test_descriptor_in_flight);
        tcase_add_test(tests, test_descriptor_lost_in_flight);
        tcase_add_test(tests, test_duplicate);
        tcase_add_test(tests, test_many_mappings);
        tcase_add_test(tests, test_closed_while_it_looks);
        tcase_add_test(tests, test_idle_daemon_sleeps);

        tests = test_case(suite, "asked too early", NULL, NULL);
        tcase_add_loop_test(tests, test_asked_too_early, 0, ELEMENTSOF(refusals));
        return suite;
}

int main(void) {
        return test_run(holds_suite());
}
