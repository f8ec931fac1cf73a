/* SPDX-License-Identifier: MIT */
/* Much at once: segments, clients, deaths; and too much: a daemon at its descriptor limit. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

/* --- ten thousand segments, five hundred clients --- */

#define SEGMENTS 10000
#define CLIENTS 500
#define PROCESSES 10
#define SPARE_DESCRIPTORS 64

static void raise_limit(void) {
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

struct share {
        unsigned process;
        unsigned segments; /* of each client */
};

/* One process is many clients. Each makes its segments, opens its neighbour's, and holds them all. */
static void be_clients(int channel, void *userdata) {
        const struct share *share = userdata;
        struct shmd *clients[CLIENTS / PROCESSES];
        char name[64];

        raise_limit();
        for (unsigned i = 0; i < ELEMENTSOF(clients); i++) {
                clients[i] = client_connect();
                for (unsigned j = 0; j < share->segments; j++) {
                        snprintf(name, sizeof(name), "scale/%u/%u/%u", share->process, i, j);
                        client_create(clients[i], name, 100, SHMD_LIFETIME_HOLDERS);
                }
        }
        step_send(channel, 'm');
        step_expect(channel, 'o');
        for (unsigned i = 0; i < ELEMENTSOF(clients); i++) {
                snprintf(name, sizeof(name), "scale/%u/%u/0", (share->process + 1) % PROCESSES, i);
                client_open(clients[i], name, SHMD_READ_ONLY);
        }
        step_send(channel, 'h');
        step_expect(channel, 'e');
        if (share->process % 2) /* half of them end well, the others just end */
                for (unsigned i = 0; i < ELEMENTSOF(clients); i++)
                        shmd_disconnect(clients[i]);
}

static int count_held(const struct shmd_stat *stat, void *userdata) {
        ck_assert_uint_ge(stat->holders, 1);
        ck_assert_uint_le(stat->holders, 2);
        ck_assert_uint_eq(stat->unknown_holder, 0);
        ++*(unsigned *) userdata;
        return 0;
}

/* How many segments a client may make so that the daemon's descriptors suffice. */
static unsigned segments_of_each(void) {
        const struct shmd_wire_status_reply status = daemon_status(&the_daemon);
        const uint64_t room = status.descriptors_max - status.descriptors - CLIENTS - SPARE_DESCRIPTORS;
        unsigned segments = SEGMENTS / CLIENTS;

        if (status.descriptors_max < status.descriptors + CLIENTS + SPARE_DESCRIPTORS)
                return 0;
        if (room < SEGMENTS) {
                segments = (unsigned) (room / CLIENTS);
                test_skip("%u segments instead of %u: the hard limit of descriptors is %lu", segments * CLIENTS,
                          SEGMENTS, (unsigned long) status.descriptors_max);
        }
        return segments;
}

struct names {
        char (*name)[256];
        unsigned count;
};

static int keep_name(const struct shmd_stat *stat, void *userdata) {
        struct names *names = userdata;

        strcpy(names->name[names->count++], stat->name);
        return 0;
}

/* Opens each of them as one more client, as far as our own descriptors reach. */
static void open_them_all(struct shmd *connection, unsigned count) {
        struct names names = { .name = calloc(count, sizeof(*names.name)) };
        struct rlimit limit;
        unsigned opened = 0;

        ck_assert_ptr_nonnull(names.name);
        ASSERT_OK(connection, shmd_list(connection, "scale/", 0, keep_name, &names));
        ck_assert_uint_eq(names.count, count);
        getrlimit(RLIMIT_NOFILE, &limit);
        while (opened < count && opened + SPARE_DESCRIPTORS < limit.rlim_cur) {
                client_open(connection, names.name[opened], SHMD_READ_ONLY);
                opened++;
        }
        ck_assert_uint_eq(daemon_status(&the_daemon).holds, count + CLIENTS + opened);
        free(names.name);
}

START_TEST(test_many) {
        struct child children[PROCESSES];
        struct share share = { .segments = segments_of_each() };
        struct shmd *connection;
        unsigned count = 0, total;

        raise_limit();
        if (share.segments == 0) {
                test_skip("test_many: the hard limit of descriptors is too low for %d clients", CLIENTS);
                return;
        }
        total = share.segments * CLIENTS;
        for (share.process = 0; share.process < PROCESSES; share.process++)
                child_start(&children[share.process], be_clients, &share);
        for (unsigned i = 0; i < PROCESSES; i++)
                step_expect(children[i].channel, 'm');
        for (unsigned i = 0; i < PROCESSES; i++)
                step_send(children[i].channel, 'o');
        for (unsigned i = 0; i < PROCESSES; i++)
                step_expect(children[i].channel, 'h');

        connection = client_connect();
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, total);
        ck_assert_uint_eq(daemon_status(&the_daemon).connections, CLIENTS + 2);
        ck_assert_uint_eq(daemon_status(&the_daemon).holds, total + CLIENTS);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, (uint64_t) total * 100);
        ASSERT_OK(connection, shmd_list(connection, "scale/", 0, count_held, &count));
        ck_assert_uint_eq(count, total);
        ck_assert_uint_eq(client_count(connection, "scale/3/", 0), total / PROCESSES);
        open_them_all(connection, total);
        shmd_disconnect(connection);

        for (unsigned i = 0; i < PROCESSES; i++)
                step_send(children[i].channel, 'e');
        for (unsigned i = 0; i < PROCESSES; i++)
                child_join(&children[i]);
        daemon_settle(&the_daemon, 0);
        daemon_await_segments(&the_daemon, 0);
        daemon_await_descriptors(&the_daemon, 0);
}
END_TEST

/* --- a thousand deaths --- */

#define DEATHS 1000
#define AT_ONCE 20
#define DEATH_BYTES (256u << 10)

/*
 * Does all there is to do, again and again, and sends a byte after each act: so its killer strikes
 * at any point of any of them. Anything may fail, as others do the same to the same names.
 */
static void live(int channel, void *userdata) {
        static const enum shmd_lifetime lifetimes[] = { SHMD_LIFETIME_HOLDERS, SHMD_LIFETIME_CREATOR,
                                                        SHMD_LIFETIME_LINGER, SHMD_LIFETIME_PERSIST };
        unsigned n = (unsigned) getpid() * 7919;
        struct shmd *own;

        (void) userdata;
        if (shmd_connect(the_daemon.socket, &own) != 0)
                _exit(1);
        for (;; n++) {
                const struct shmd_create_options options = { .lifetime = lifetimes[n % ELEMENTSOF(lifetimes)],
                                                             .linger_usec = n % 4 == 2 ? 1 : 0 };
                struct shmd_segment *segment = NULL;
                void *address;
                char name[32];

                snprintf(name, sizeof(name), "death/%u", n / 4 % 16);
                if (shmd_create(own, name, DEATH_BYTES, 0, &options, &segment) == 0 &&
                    shmd_map(segment, &address, NULL) == 0)
                        memset(address, 1, DEATH_BYTES);
                step_send(channel, 'c');
                if (n % 3 == 0)
                        shmd_unlink(own, name);
                if (n % 5 == 0)
                        shmd_rename(own, name, "death/renamed");
                step_send(channel, 'u');
                if (n % 2)
                        shmd_close(segment);
                step_send(channel, 'x');
        }
}

/* Lets it do a few things more, then kills it while it does the next. */
static void kill_soon(struct child *child, unsigned steps) {
        char step;

        while (steps-- > 0)
                step_receive_data(child->channel, &step, 1);
        child_kill(child);
}

START_TEST(test_deaths) {
        const uint64_t before = test_meminfo("Shmem");
        struct child children[AT_ONCE];
        struct shmd_wire_status_reply status;

        for (int started = 0; started < DEATHS; started += AT_ONCE) {
                for (int i = 0; i < AT_ONCE; i++)
                        child_start(&children[i], live, NULL);
                for (int i = 0; i < AT_ONCE; i++)
                        kill_soon(&children[i], (unsigned) (started / AT_ONCE + i * 3) % 10);
        }
        daemon_settle(&the_daemon, 0);
        TEST_UNTIL(daemon_status(&the_daemon).unlinked == 0, "the last of the unlinked to go");
        TEST_UNTIL(daemon_status(&the_daemon).holds == 0, "the last holds to end");
        status = daemon_status(&the_daemon);
        ck_assert_uint_le(status.segments, 17); /* what persists, as it shall, by its name */
        /* A descriptor each, and shared ones: at most two more. */
        TEST_UNTIL(daemon_count_descriptors(&the_daemon) <= the_daemon.baseline + 3 * (int) status.segments,
                   "the last descriptors to be closed");
        daemon_unlink_all(&the_daemon);
        daemon_await_segments(&the_daemon, 0);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, 0);
        daemon_await_descriptors(&the_daemon, 0);
        /* Other tests use such memory at the same time, but give it back; what leaked here would be hundreds of MiB. */
        TEST_UNTIL(test_meminfo("Shmem") < before + (64 << 20), "the memory to be free again");
}
END_TEST

/* --- at the descriptor limit --- */

#define FEW 100

static void limit_descriptors(void *userdata) {
        const struct rlimit limit = { FEW, FEW };

        (void) userdata;
        setrlimit(RLIMIT_NOFILE, &limit);
}

static void setup_limited(void) {
        const struct daemon_options options = { .prepare = limit_descriptors };

        daemon_start(&the_daemon, &options);
}

/* Creates until it is told that there are no descriptors; gives how many were made. */
static unsigned fill(struct shmd *connection) {
        struct shmd_segment *segment = NULL;
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        unsigned count = 0;
        char name[32];
        int r;

        for (;;) {
                snprintf(name, sizeof(name), "fill/%u", count);
                r = shmd_create(connection, name, 4096, SHMD_EXCLUSIVE, &options, &segment);
                if (r != 0)
                        break;
                ck_assert_uint_lt(count, FEW);
                count++;
        }
        ck_assert_int_eq(r, -ENFILE);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "descriptors"));
        return count;
}

/* Refuses, says why, serves everybody who is there already, and has all of it again afterwards. */
START_TEST(test_limit_of_segments) {
        unsigned first = 0;

        for (int round = 0; round < 3; round++) {
                struct shmd *connection = client_connect(), *other = client_connect();
                unsigned count = fill(connection);

                ck_assert_uint_gt(count, FEW / 3);
                ck_assert_int_eq(client_try_create(other, "more", 4096, 0, NULL), -ENFILE);
                ck_assert_uint_eq(client_count(connection, NULL, 0), count);
                ck_assert_int_eq(client_try_open(other, "fill/0", SHMD_READ_WRITE), 0);
                ck_assert_int_eq(client_try_open(other, "fill/1", SHMD_READ_ONLY), 0);
                ck_assert_uint_eq(client_stat(other, "fill/2").holders, 1);
                shmd_disconnect(connection);
                TEST_UNTIL(client_count(other, NULL, 0) == 0, "everything to be freed");
                ck_assert_int_eq(client_try_create(other, "more", 4096, 0, NULL), 0);
                ASSERT_OK(other, shmd_unlink(other, "more"));
                shmd_disconnect(other);
                daemon_settle(&the_daemon, 0);
                daemon_await_descriptors(&the_daemon, 0); /* the segment's is closed after it is gone from the list */
                ck_assert(round == 0 || count == first); /* nothing is lost from round to round */
                first = count;
        }
}
END_TEST

START_TEST(test_limit_of_connections) {
        struct shmd *connections[FEW + 1], *holder = client_connect();
        struct shmd_segment *segment = client_create(holder, "held", 4096, SHMD_LIFETIME_PERSIST);
        unsigned count = 0;
        int r;

        while ((r = shmd_connect(the_daemon.socket, &connections[count])) == 0)
                ck_assert_uint_lt(++count, FEW);
        ck_assert_int_eq(r, -ENFILE);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(NULL), "descriptors"));
        ck_assert_uint_gt(count, FEW / 3);

        /* Those who are there notice nothing. */
        strcpy(client_map(segment), "text");
        ck_assert_uint_eq(client_stat(connections[0], "held").holders, 1);
        ck_assert_uint_eq(client_status(holder).connections, count + 2);
        while (count > 0)
                shmd_disconnect(connections[--count]);
        daemon_settle(&the_daemon, 1);
        connections[0] = client_connect();
        shmd_close(client_open(connections[0], "held", SHMD_READ_ONLY));
        shmd_disconnect(connections[0]);
        shmd_disconnect(holder);
}
END_TEST

/* Many holders of both kinds of one segment, and private ones, at the limit. */
START_TEST(test_limit_and_private_opens) {
        struct shmd *connection = client_connect();
        struct shmd_segment *segment;
        unsigned count = fill(connection);

        for (int i = 0; i < 3 * FEW; i++)
                ASSERT_OK(connection, shmd_open(connection, "fill/0", SHMD_READ_ONLY | SHMD_PRIVATE, &segment));
        ck_assert_uint_eq(client_count(connection, NULL, 0), count);
        shmd_disconnect(connection);
}
END_TEST

static Suite *scale_suite(void) {
        Suite *suite = suite_create("scale");
        TCase *tests = test_case(suite, "scale", daemon_setup, daemon_teardown);

        tcase_add_test(tests, test_many);
        tcase_add_test(tests, test_deaths);

        tests = test_case(suite, "limit", setup_limited, daemon_teardown);
        tcase_add_test(tests, test_limit_of_segments);
        tcase_add_test(tests, test_limit_of_connections);
        tcase_add_test(tests, test_limit_and_private_opens);
        return suite;
}

int main(void) {
        return test_run(scale_suite());
}
