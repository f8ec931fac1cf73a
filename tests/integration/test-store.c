/* SPDX-License-Identifier: MIT */
/*
 * The daemon may die: what a service manager keeps for it, it has again when it is back. The test is that manager.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "harness.h"
#include "manager.h"
#include "process.h"
#include "test.h"

#define PAGE 4096u

static struct manager manager;
static struct shmd *connection;

static struct shmd *connect_to(struct manager *to) {
        struct shmd *connected = NULL;

        ASSERT_OK(NULL, shmd_connect(to->socket, &connected));
        return connected;
}

static void setup(void) {
        manager_start(&manager, NULL);
        connection = connect_to(&manager);
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        manager_stop(&manager);
}

static struct shmd_segment *create(const char *name, uint64_t size, unsigned flags, const struct shmd_create_options *options) {
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, size, flags | SHMD_EXCLUSIVE, options, &segment));
        return segment;
}

static void fill(struct shmd_segment *segment, char byte) {
        memset(client_map(segment), byte, shmd_size(segment));
}

static void check_bytes(const char *name, char byte) {
        struct shmd_segment *segment = client_open(connection, name, 0);
        const char *bytes = client_map(segment);

        for (size_t i = 0; i < shmd_size(segment); i++)
                TEST_REQUIRE(bytes[i], ==, byte);
        shmd_close(segment);
}

/* What a segment is, but for who holds it and since when. */
static struct shmd_stat lasting(const char *name) {
        struct shmd_stat stat = client_stat(connection, name);

        stat.holders = stat.unknown_holder = 0;
        stat.idle_usec = stat.opened_usec = 0;
        stat.opens = 0;
        return stat;
}

/* --- everything is there again --- */

static const struct shmd_create_options kinds[] = {
        { .mode = 0640, .labels = "a=b\nowner=me\n" },
        { .lifetime = SHMD_LIFETIME_LINGER, .linger_usec = UINT64_C(3600) * 1000000 },
        { .maximum_bytes = 64 * PAGE },
        { .mode = 0444 },
};

static void end_daemon(int how) {
        switch (how) {
        case 0:
                manager_crash(&manager);
                return;
        case 1:
                manager_end(&manager, SIGTERM);
                manager_launch(&manager);
                return;
        default: /* twice */
                manager_crash(&manager);
                manager_crash(&manager);
        }
}

START_TEST(test_all_kinds) {
        struct shmd_stat before[ELEMENTSOF(kinds)];
        char name[32];

        for (unsigned i = 0; i < ELEMENTSOF(kinds); i++) {
                struct shmd_segment *segment;

                snprintf(name, sizeof(name), "kind/%u", i);
                segment = create(name, (i + 1) * PAGE, SHMD_READ_WRITE, &kinds[i]);
                fill(segment, (char) ('a' + i));
                if (i == 2)
                        ASSERT_OK(connection, shmd_resize(connection, name, 5 * PAGE));
                shmd_close(segment);
        }
        ASSERT_OK(connection, shmd_freeze(connection, "kind/0"));
        ASSERT_OK(connection, shmd_rename(connection, "kind/3", "kind/renamed"));
        ASSERT_OK(connection, shmd_rename(connection, "kind/renamed", "kind/3"));
        ASSERT_OK(connection, shmd_chmod(connection, "kind/3", 0600));
        for (unsigned i = 0; i < ELEMENTSOF(kinds); i++) {
                snprintf(name, sizeof(name), "kind/%u", i);
                before[i] = lasting(name);
        }

        end_daemon(_i);

        for (unsigned i = 0; i < ELEMENTSOF(kinds); i++) {
                struct shmd_stat after;

                snprintf(name, sizeof(name), "kind/%u", i);
                after = lasting(name);
                ck_assert_mem_eq(&after, &before[i], sizeof(after));
                if (i != 2)
                        check_bytes(name, (char) ('a' + i));
        }
        ck_assert_uint_eq(client_count(connection, "", 0), ELEMENTSOF(kinds));
        ck_assert_int_eq(client_try_open(connection, "kind/0", SHMD_READ_WRITE), -EPERM);
}
END_TEST

static int make_file(char *path) {
        int fd = mkstemp(path);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, PAGE), 0);
        return fd;
}

START_TEST(test_file) {
        char path[] = "/tmp/shmd-file-XXXXXX";
        int fd = make_file(path);
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create_file(connection, "file", fd, SHMD_READ_WRITE, NULL, &segment));
        memset(client_map(segment), 'f', PAGE);
        segment = shmd_close(segment);
        close(fd);
        /* Its inode does not have them: they are in the record alone. */
        if (geteuid() == 0)
                ASSERT_OK(connection, shmd_chown(connection, "file", 4711, 4712));
        ASSERT_OK(connection, shmd_chmod(connection, "file", 0640));
        manager_crash(&manager);
        ck_assert_uint_eq(client_stat(connection, "file").backing, SHMD_BACKING_FILE);
        ck_assert_uint_eq(client_stat(connection, "file").mode, 0640);
        if (geteuid() == 0) {
                ck_assert_uint_eq(client_stat(connection, "file").uid, 4711);
                ck_assert_uint_eq(client_stat(connection, "file").gid, 4712);
        }
        check_bytes("file", 'f');
        segment = client_open(connection, "file", SHMD_READ_WRITE);
        memset(client_map(segment), 'g', PAGE);
        shmd_close(segment);
        check_bytes("file", 'g');
        ASSERT_OK(connection, shmd_unlink(connection, "file"));
        unlink(path);
}
END_TEST

START_TEST(test_posix) {
        struct stat st;
        int fd;

        setenv("SHMD_SOCKET", manager.socket, 1);
        fd = shmd_shm_open("/posix", O_RDWR | O_CREAT | O_EXCL, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, 3 * PAGE), 0);
        ck_assert_int_eq(pwrite(fd, "hello", 5, 0), 5);
        close(fd);
        manager_crash(&manager);
        fd = shmd_shm_open("/posix", O_RDWR, 0);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &st), 0);
        ck_assert_int_eq(st.st_size, 3 * PAGE);
        ck_assert_int_eq(ftruncate(fd, 4 * PAGE), 0);
        close(fd);
        ck_assert_int_eq(shmd_shm_unlink("/posix"), 0);
}
END_TEST

/* No id is used twice, and no creation that was answered is lost. */
START_TEST(test_ids) {
        uint64_t last = 0;

        for (unsigned i = 0; i < 20; i++) {
                struct shmd_segment *segment;
                char name[32];

                snprintf(name, sizeof(name), "id%u", i);
                segment = create(name, PAGE, 0, NULL);
                ck_assert_uint_gt(shmd_id(segment), last);
                last = shmd_id(segment);
                shmd_close(segment);
                if (i % 3 == 0)
                        ASSERT_OK(connection, shmd_unlink(connection, name));
                manager_crash(&manager);
        }
        ck_assert_uint_eq(client_count(connection, "", 0), 13);
}
END_TEST

/* --- holds --- */

START_TEST(test_hold_counts_again) {
        struct shmd_segment *segment = create("held", PAGE, SHMD_READ_WRITE, &(struct shmd_create_options) {
                .lifetime = SHMD_LIFETIME_HOLDERS,
        });

        fill(segment, 'h');
        manager_crash(&manager);
        /* Before the library has said anything, and after. */
        ck_assert_uint_eq(client_stat(connection, "held").holders, 1);
        ck_assert_uint_eq(client_stat(connection, "held").unknown_holder, 0);
        check_bytes("held", 'h');
        shmd_close(segment);
        TEST_UNTIL(!client_exists(connection, "held"), "the segment to go with its holder");
}
END_TEST

static void write_config(const char *path, const char *text) {
        FILE *file = fopen(path, "we");

        ck_assert_ptr_nonnull(file);
        fputs(text, file);
        ck_assert_int_eq(fclose(file), 0);
}

static const struct identity alice = { .uid = 61001, .gid = 61001 };

static const char *const two[] = { "one", "two" };

static void hold_beyond_limit(int channel, void *userdata) {
        struct shmd *own = connect_to(userdata);
        struct shmd_segment *segments[] = { client_create(own, two[0], PAGE, SHMD_LIFETIME_HOLDERS),
                                            client_create(own, two[1], PAGE, SHMD_LIFETIME_HOLDERS) }, *again;
        unsigned lost;

        step_send(channel, 'h');
        step_expect(channel, 'r');
        client_status(own); /* is connected again */
        lost = client_try_open(own, two[0], SHMD_READ_WRITE) == 0;
        ck_assert_int_eq(client_try_open(own, two[lost], SHMD_READ_WRITE), -EDQUOT);
        step_send_data(channel, &lost, sizeof(lost));
        step_expect(channel, 'u');
        again = client_open(own, two[lost], SHMD_READ_WRITE);
        step_send(channel, 'o');
        step_expect(channel, 'c');
        shmd_close(again);
        client_status(own);
        step_send(channel, 'c');
        step_expect(channel, 'e');
        shmd_close(segments[lost]);
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

static void check_held_once(struct shmd *own, const char *name) {
        struct shmd_stat stat = client_stat(own, name);

        ck_assert_uint_eq(stat.holders, 1);
        ck_assert_uint_eq(stat.unknown_holder, 0);
}

/* One of two does not count again, as there is a limit now. Opened once more when there is none, it is a hold as any other. */
START_TEST(test_hold_counts_later) {
        char path[160];
        const char *arguments[] = { "--config", path, NULL };
        struct manager strict = { 0 };
        struct child child;
        struct shmd *own;
        unsigned lost;

        if (!test_as_root("test_hold_counts_later"))
                return;
        snprintf(path, sizeof(path), "%s/holds.conf", test_directory());
        write_config(path, "");
        manager_start(&strict, arguments);
        own = connect_to(&strict);
        child_start_as(&child, &alice, hold_beyond_limit, &strict);
        step_expect(child.channel, 'h');
        write_config(path, "[limits]\nholds = 1\n");
        manager_crash(&strict);
        step_send(child.channel, 'r');
        step_receive_data(child.channel, &lost, sizeof(lost));
        write_config(path, "");
        manager_kill(&strict, SIGHUP);
        manager_await_ready(&strict, 3);
        step_send(child.channel, 'u');
        step_expect(child.channel, 'o');
        check_held_once(own, two[lost]);
        step_send(child.channel, 'c');
        step_expect(child.channel, 'c');
        check_held_once(own, two[lost]);
        step_send(child.channel, 'e');
        TEST_UNTIL(!client_exists(own, two[lost]), "the segment to go with its holder");
        step_send(child.channel, 'e');
        child_join(&child);
        shmd_disconnect(own);
        manager_stop(&strict);
        unlink(path);
}
END_TEST

/* Made for a client that is gone before it hears of it: so it is not there, for the next daemon either. */
START_TEST(test_gone_before_answer) {
        const struct shmd_wire_create create_ = { .size = PAGE, .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 4 };
        struct raw gone;

        raw_connect(&gone, manager.socket);
        manager_kill(&manager, SIGSTOP);
        ck_assert_int_eq(waitpid(manager.pid, NULL, WUNTRACED), manager.pid);
        ck_assert_int_eq(raw_request(&gone, SHMD_OP_CREATE, &create_, "gone", 4, NULL, 0), 0);
        raw_close(&gone);
        manager_kill(&manager, SIGCONT);
        TEST_UNTIL(client_status(connection).my_connections.used == 1, "its connection to end");
        manager_crash(&manager);
        ck_assert_uint_eq(client_status(connection).segments, 0);
}
END_TEST

static void hold_and_wait(int channel, void *userdata) {
        const enum shmd_lifetime *lifetime = userdata;
        struct shmd *own = connect_to(&manager);
        const struct shmd_create_options options = { .lifetime = *lifetime };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(own, shmd_create(own, "child's", PAGE, SHMD_READ_WRITE, &options, &segment));
        memset(client_map(segment), 'c', PAGE);
        step_send(channel, 'h');
        step_expect(channel, 'e');
        shmd_close(segment);
        shmd_disconnect(own);
}

/* Its holder dies while there is no daemon; or lives, and never says a word, and dies then. */
START_TEST(test_holder_dies) {
        static const enum shmd_lifetime lifetimes[] = { SHMD_LIFETIME_HOLDERS, SHMD_LIFETIME_CREATOR };
        enum shmd_lifetime lifetime = lifetimes[_i / 2];
        struct child child;

        child_start(&child, hold_and_wait, &lifetime);
        step_expect(child.channel, 'h');
        manager_end(&manager, SIGKILL);
        if (_i % 2 == 0)
                child_kill(&child);
        manager_launch(&manager);
        if (_i % 2 == 1) {
                ck_assert_uint_eq(client_stat(connection, "child's").unknown_holder, 1);
                check_bytes("child's", 'c');
                child_kill(&child);
        }
        TEST_UNTIL(!client_exists(connection, "child's"), "the segment to go with its holder");
        TEST_UNTIL(client_status(connection).bytes == 0, "nothing to be left");
}
END_TEST

START_TEST(test_creator_comes_back) {
        struct shmd_segment *segment = create("creator's", PAGE, SHMD_READ_WRITE, &(struct shmd_create_options) {
                .lifetime = SHMD_LIFETIME_CREATOR,
        });
        struct shmd *other;

        shmd_close(segment);
        manager_crash(&manager);
        ck_assert_uint_eq(client_stat(connection, "creator's").lifetime, SHMD_LIFETIME_CREATOR);
        manager_crash(&manager);
        other = connect_to(&manager);
        ck_assert(client_exists(other, "creator's"));
        ck_assert(client_exists(connection, "creator's"));
        connection = shmd_disconnect(connection);
        TEST_UNTIL(!client_exists(other, "creator's"), "the segment to go with its creator's connection");
        connection = other;
}
END_TEST

START_TEST(test_unpublished) {
        struct shmd_segment *segment = create("new", PAGE, SHMD_READ_WRITE | SHMD_UNPUBLISHED, NULL);
        struct shmd_segment *writer = create("mine", PAGE, SHMD_READ_WRITE | SHMD_UNPUBLISHED | SHMD_SINGLE_WRITER, NULL);

        fill(segment, '1');
        manager_crash(&manager);
        fill(segment, '2');
        fill(writer, 'w');
        ck_assert(!client_exists(connection, "new"));
        ASSERT_OK(connection, shmd_publish(segment, 0));
        ASSERT_OK(connection, shmd_publish(writer, 0));
        manager_crash(&manager);
        check_bytes("new", '2');
        check_bytes("mine", 'w');
        ck_assert_int_eq(client_try_open(connection, "mine", SHMD_READ_WRITE), -EACCES);
        *(char *) client_map(writer) = 'x';
        shmd_close(segment);
        shmd_close(writer);
}
END_TEST

static void make_unpublished(int channel, void *userdata) {
        struct shmd *own = connect_to(&manager);
        struct shmd_segment *segment = NULL;

        (void) userdata;
        ASSERT_OK(own, shmd_create(own, "never", 64 * PAGE, SHMD_READ_WRITE | SHMD_UNPUBLISHED, NULL, &segment));
        memset(client_map(segment), 'n', 64 * PAGE);
        step_send(channel, 'u');
        step_expect(channel, 'e');
}

START_TEST(test_unpublished_of_dead_creator) {
        struct child child;

        child_start(&child, make_unpublished, NULL);
        step_expect(child.channel, 'u');
        manager_end(&manager, SIGKILL);
        if (_i == 0)
                child_kill(&child);
        manager_launch(&manager);
        if (_i == 1) {
                ck_assert_uint_eq(client_status(connection).segments, 1);
                child_kill(&child);
        }
        TEST_UNTIL(client_status(connection).segments == 0, "the segment to go with its creator");
}
END_TEST

/* Unlinked and still mapped. */
START_TEST(test_unlinked) {
        struct shmd_segment *segment = create("gone", PAGE, SHMD_READ_WRITE, NULL);
        uint64_t id = shmd_id(segment);

        fill(segment, 'g');
        ASSERT_OK(connection, shmd_unlink(connection, "gone"));
        manager_crash(&manager);
        ck_assert(!client_exists(connection, "gone"));
        ck_assert(client_id_exists(connection, id));
        ck_assert_int_eq(*(char *) client_map(segment), 'g');
        shmd_close(segment);
        TEST_UNTIL(!client_id_exists(connection, id), "the segment to go with its holder");
        manager_crash(&manager);
        ck_assert(!client_id_exists(connection, id));
}
END_TEST

START_TEST(test_linger) {
        struct shmd_segment *segment = create("lingers", PAGE, 0, &(struct shmd_create_options) {
                .lifetime = SHMD_LIFETIME_LINGER,
                .linger_usec = 1,
        });

        manager_crash(&manager);
        ck_assert(client_exists(connection, "lingers"));
        shmd_close(segment);
        TEST_UNTIL(!client_exists(connection, "lingers"), "the segment to go after it has lingered");
}
END_TEST

/* A watcher is told that it missed something, and is told of what comes then; who waits for a name gets it. */
static void note_event(struct shmd *where, const struct shmd_event *event, void *userdata) {
        unsigned *kinds_seen = userdata;

        (void) where;
        *kinds_seen |= 1u << event->kind;
}

START_TEST(test_watch) {
        unsigned seen = 0;
        uint64_t watch;

        ASSERT_OK(connection, shmd_watch(connection, "w/", 0, note_event, &seen, &watch));
        manager_crash(&manager);
        shmd_close(create("w/1", PAGE, 0, NULL));
        TEST_UNTIL(shmd_dispatch(connection) >= 0 && (seen & (1u << SHMD_EVENT_LOST)), "the watcher to be told");
        shmd_close(create("w/2", PAGE, 0, NULL));
        TEST_UNTIL(shmd_dispatch(connection) >= 0 && (seen & (1u << SHMD_EVENT_PUBLISHED)), "an event");
}
END_TEST

/* A program that does nothing but open what it holds comes to know of what changed meanwhile. */
START_TEST(test_cache) {
        struct shmd_segment *segment = create("cached", PAGE, 0, NULL), *again;
        struct shmd *other;

        again = client_open(connection, "cached", 0);
        manager_crash(&manager);
        other = connect_to(&manager);
        ck_assert_int_eq(client_try_open(connection, "cached", 0), 0);
        ck_assert_uint_eq(client_stat(other, "cached").holders, 1); /* it has come back for that */
        ASSERT_OK(other, shmd_unlink(other, "cached"));
        ck_assert_int_eq(client_try_open(connection, "cached", 0), -ENOENT);
        shmd_disconnect(other);
        shmd_close(again);
        shmd_close(segment);
}
END_TEST

/* --- the store itself --- */

static uint64_t shared_memory(void) {
        return test_meminfo("Shmem");
}

/* What is freed is freed, though its description is still in a carrier; and carriers do not pile up. */
START_TEST(test_memory_is_given_back) {
        const size_t size = 4u << 20;
        const unsigned count = 64;
        uint64_t before = shared_memory();

        for (unsigned i = 0; i < count; i++) {
                struct shmd_segment *segment = create("big", size, SHMD_READ_WRITE, NULL);

                fill(segment, 'b');
                shmd_close(segment);
                if (_i == 1)
                        ASSERT_OK(connection, shmd_freeze(connection, "big"));
                ASSERT_OK(connection, shmd_unlink(connection, "big"));
        }
        TEST_UNTIL(client_status(connection).segments == 0, "the segments to be freed");
        TEST_UNTIL(shared_memory() < before + count * size / 4, "their memory to be given back");
        TEST_UNTIL(manager_count(&manager, "carrier-") <= 3, "no more carriers than needed");
}
END_TEST

/* The descriptors of a message; it stays where it is. How many, or -1: there is none. */
static int peek(int fd, int (*fds)[8]) {
        struct iovec part = { .iov_base = &(uint64_t) { 0 }, .iov_len = sizeof(uint64_t) };
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(8 * sizeof(int))];
        } control;
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        size_t count;

        if (recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
                return -1;
        count = (control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(*fds, CMSG_DATA(&control.header), count * sizeof(int));
        return (int) count;
}

/* What they take, in blocks. -1: there is no message. */
static int64_t peek_blocks(int fd) {
        int64_t blocks = 0;
        int fds[8], count = peek(fd, &fds);

        if (count < 0)
                return -1;
        for (int i = 0; i < count; i++) {
                struct stat st;

                ck_assert_int_eq(fstat(fds[i], &st), 0);
                blocks += st.st_blocks;
                close(fds[i]);
        }
        return blocks;
}

/* What all of them take that are in the first carrier. */
static int64_t carried_blocks(void) {
        int fd = manager_fd(&manager, "carrier-");
        int64_t sum = 0, blocks;

        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int) { 0 }, sizeof(int)), 0);
        while ((blocks = peek_blocks(fd)) >= 0)
                sum += blocks;
        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int) { -1 }, sizeof(int)), 0);
        return sum;
}

/* The memory by which holders synchronise is freed with the segment. */
START_TEST(test_control_memory_is_given_back) {
        struct shmd_segment *segment = create("locked", PAGE, SHMD_READ_WRITE, NULL);
        _cleanup_free_ char *log = NULL;

        ASSERT_OK(connection, shmd_lock(segment, 0, UINT64_MAX));
        ASSERT_OK(connection, shmd_unlock(segment));
        ck_assert_int_gt(carried_blocks(), 0);
        ASSERT_OK(connection, shmd_unlink(connection, "locked"));
        shmd_close(segment);
        TEST_UNTIL(carried_blocks() == 0, "all memory to be given back");
        ck_assert_uint_eq(client_status(connection).segments, 0);
        /* Nor does the next daemon know of it. */
        manager_crash(&manager);
        log = test_read_file(manager.log);
        ck_assert_ptr_nonnull(strstr(log, "took over 0 segments"));
}
END_TEST

/* Killed right between its question to the kernel, a lease, and the lease's end: nobody waits for that. */
START_TEST(test_killed_while_asking) {
        int fds[8], fd;

        shmd_close(create("asked", PAGE, 0, NULL));
        TEST_UNTIL(client_status(connection).holds == 0, "the close to arrive");
        fd = manager_fd(&manager, "carrier-");
        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int) { 0 }, sizeof(int)), 0);
        ck_assert_int_eq(peek(fd, &fds), 1);
        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int) { -1 }, sizeof(int)), 0);
        manager_end(&manager, SIGKILL);
        ck_assert_int_eq(fcntl(fds[0], F_SETLEASE, F_WRLCK), 0); /* of the description, which was the daemon's */
        manager_launch(&manager);
        ck_assert_int_eq(fcntl(fds[0], F_GETLEASE), F_UNLCK);
        close(fds[0]);
        shmd_close(client_open(connection, "asked", SHMD_READ_WRITE));
}
END_TEST

/* Ids go on from the log's; but not from a number that was never reached. */
START_TEST(test_damaged_ids) {
        const uint64_t absurd = UINT64_MAX / 2;
        struct shmd_segment *segment;

        shmd_close(create("before", PAGE, 0, NULL));
        manager_end(&manager, SIGKILL);
        ck_assert_int_eq(pwrite(manager_fd(&manager, "state-"), &absurd, sizeof(absurd), 32), sizeof(absurd)); /* next_id */
        manager_launch(&manager);
        segment = create("after", PAGE, 0, NULL);
        ck_assert_uint_gt(shmd_id(segment), client_stat(connection, "before").id);
        ck_assert_uint_lt(shmd_id(segment), absurd);
        shmd_close(segment);
}
END_TEST

START_TEST(test_many) {
        const unsigned count = 3000;
        char name[32];

        for (unsigned i = 0; i < count; i++) {
                snprintf(name, sizeof(name), "many/%u", i);
                shmd_close(create(name, PAGE, 0, NULL));
        }
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "many/", 0), count);
        for (unsigned i = 0; i < count; i++) {
                snprintf(name, sizeof(name), "many/%u", i);
                if (i % 10 != 0)
                        ASSERT_OK(connection, shmd_unlink(connection, name));
        }
        TEST_UNTIL(manager_count(&manager, "carrier-") <= 4, "carriers to be rebuilt");
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "many/", 0), count / 10);
        for (unsigned i = 0; i < count; i += 10) {
                snprintf(name, sizeof(name), "many/%u", i);
                ck_assert_int_eq(client_try_open(connection, name, 0), 0);
        }
}
END_TEST

static void create_ten_thousand(void) {
        static char names[250][32];
        struct shmd_create_item items[250];
        struct shmd_segment *segments[250];
        int results[250];

        for (unsigned i = 0; i < 10000; i += 250) {
                for (unsigned j = 0; j < 250; j++) {
                        snprintf(names[j], sizeof(names[j]), "ten/%u", i + j);
                        items[j] = (struct shmd_create_item) { names[j], PAGE, NULL };
                }
                ASSERT_OK(connection, shmd_create_many(connection, items, 250, SHMD_EXCLUSIVE, segments, results));
                for (unsigned j = 0; j < 250; j++)
                        ck_assert_int_eq(results[j], 0);
                shmd_close_many(segments, 250);
        }
}

/* How long it takes is shown, and decides nothing. */
START_TEST(test_ten_thousand) {
        int64_t killed;

        if (client_status(connection).descriptors_max < 12000) {
                test_skip("ten thousand segments: the daemon may have only %u descriptors",
                          (unsigned) client_status(connection).descriptors_max);
                return;
        }
        create_ten_thousand();
        manager_await_count(&manager, "state-", 1);
        killed = test_now_msec();
        manager_kill(&manager, SIGKILL);
        ck_assert_int_eq(client_try_open(connection, "ten/5000", 0), 0);
        printf("10,000 segments served %d ms after the daemon was killed\n", (int) (test_now_msec() - killed));
        ck_assert_uint_eq(client_count(connection, "ten/", 0), 10000);
        ck_assert_int_eq(client_try_open(connection, "ten/9999", SHMD_READ_WRITE), 0);
}
END_TEST

/* The log is compacted as it grows, also while it changes, and is there again afterwards. */
START_TEST(test_compaction) {
        const unsigned rounds = 12000;
        struct stat st;

        for (unsigned i = 0; i < 200; i++) {
                char name[32];

                snprintf(name, sizeof(name), "still/%u", i);
                shmd_close(create(name, PAGE, 0, NULL));
        }
        shmd_close(create("a", PAGE, 0, NULL));
        for (unsigned i = 0; i < rounds; i++)
                ASSERT_OK(connection, shmd_rename(connection, i % 2 == 0 ? "a" : "b", i % 2 == 0 ? "b" : "a"));
        manager_await_count(&manager, "state-", 1);
        ck_assert_int_eq(fstat(manager_fd(&manager, "state-"), &st), 0);
        ck_assert_int_le(st.st_size, 4 << 20);
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "still/", 0), 200);
        ck_assert(client_exists(connection, "a"));
        ck_assert(!client_exists(connection, "b"));
}
END_TEST

/* A manager that keeps nothing: it works, and says what that means. */
START_TEST(test_no_store) {
        struct manager forgetful = { .refuse = true };
        struct shmd *other;
        struct shmd_segment *segment = NULL;

        manager_start(&forgetful, NULL);
        other = connect_to(&forgetful);
        ASSERT_OK(other, shmd_create(other, "x", PAGE, SHMD_READ_WRITE, NULL, &segment));
        shmd_close(segment);
        manager_crash(&forgetful);
        ck_assert_int_eq(client_try_open(other, "x", 0), -ENOENT);
        shmd_disconnect(other);
        manager_stop(&forgetful);
}
END_TEST

/* A mistake made in the file since the start costs no segment: else the manager would give up a daemon that does not start. */
START_TEST(test_config_with_mistake) {
        char path[160];
        const char *arguments[] = { "--config", path, NULL };
        struct manager careless = { 0 };
        _cleanup_free_ char *log = NULL;
        struct shmd *own;

        snprintf(path, sizeof(path), "%s/store.conf", test_directory());
        write_config(path, "[limits]\nsegments = 1\n");
        manager_start(&careless, arguments);
        own = connect_to(&careless);
        shmd_close(client_create(own, "kept", PAGE, SHMD_LIFETIME_PERSIST));
        write_config(path, "[limits]\nsegment = 1\n");
        manager_crash(&careless);
        ck_assert_uint_eq(careless.starts, 2);
        ck_assert(client_exists(own, "kept"));
        log = test_read_file(careless.log);
        ck_assert_ptr_nonnull(strstr(log, "store.conf:2: no such limit"));
        shmd_disconnect(own);
        manager_stop(&careless);
        unlink(path);
}
END_TEST

/* --- ends that are meant --- */

static const char *const idle_exit[] = { "--idle-exit", "0", NULL };

/* It goes while there are segments, and is there again with them. */
START_TEST(test_idle_exit) {
        struct manager idle = { 0 };
        struct shmd_segment *segment = NULL;
        struct shmd *own;

        manager_start(&idle, idle_exit);
        own = connect_to(&idle);
        ASSERT_OK(own, shmd_create(own, "rests", PAGE, SHMD_READ_WRITE, NULL, &segment));
        memset(client_map(segment), 'r', PAGE);
        shmd_close(segment);
        shmd_disconnect(own);
        manager_end(&idle, 0);
        ck_assert(WIFEXITED(idle.status) && WEXITSTATUS(idle.status) == 0);

        manager_launch(&idle);
        own = connect_to(&idle);
        segment = client_open(own, "rests", 0);
        ck_assert_int_eq(*(char *) client_map(segment), 'r');
        shmd_close(segment);
        /* While it has a client: else it may be just about to start again. */
        manager_end(&idle, SIGTERM);
        shmd_disconnect(own);
        manager_stop(&idle);
}
END_TEST

/* What somebody has mapped must be looked after: that keeps it. */
static const enum shmd_lifetime watched_lifetimes[] = { SHMD_LIFETIME_HOLDERS, SHMD_LIFETIME_PERSIST };
static enum shmd_lifetime watched_lifetime;

static void map_and_wait(int channel, void *userdata) {
        struct shmd *own = connect_to(userdata);
        const struct shmd_create_options options = { .lifetime = watched_lifetime };
        struct shmd_segment *segment = NULL;
        int fd;

        ASSERT_OK(own, shmd_create(own, "watched", PAGE, SHMD_READ_WRITE, &options, &segment));
        fd = dup(shmd_fd(segment));
        ck_assert_int_ge(fd, 0);
        shmd_close(segment);
        shmd_disconnect(own);
        step_send(channel, 'h');
        step_expect(channel, 'e');
}

START_TEST(test_idle_exit_waits) {
        struct manager idle = { 0 };
        struct child child;

        watched_lifetime = watched_lifetimes[_i];
        manager_start(&idle, idle_exit);
        child_start(&child, map_and_wait, &idle);
        step_expect(child.channel, 'h');
        step_send(child.channel, 'e');
        child_join(&child);
        /* Only now may it go, and then there is nothing left but what stays until it is unlinked. */
        manager_end(&idle, 0);
        manager_launch(&idle);
        connection = connect_to(&idle);
        ck_assert_uint_eq(client_status(connection).segments, watched_lifetime == SHMD_LIFETIME_PERSIST);
        manager_end(&idle, SIGTERM);
        connection = shmd_disconnect(connection);
        manager_stop(&idle);
}
END_TEST

static void limit_file_size(struct manager *of, uint64_t bytes) {
        const struct rlimit limit = { bytes, RLIM_INFINITY };

        ck_assert_int_eq(prlimit(of->pid, RLIMIT_FSIZE, &limit, NULL), 0);
}

/* What is not recorded yet would be as before: the daemon stays, and goes when it is. */
START_TEST(test_idle_exit_while_failing) {
        struct shmd_segment *segment = NULL;
        struct manager idle = { 0 };
        _cleanup_free_ char *log = NULL;
        struct shmd *own;
        unsigned count;
        char name[32];

        manager_start(&idle, idle_exit);
        own = connect_to(&idle);
        segment = client_create(own, "held", PAGE, SHMD_LIFETIME_HOLDERS);
        limit_file_size(&idle, 1 << 20);
        for (count = 0; client_status(own).store_failure == SHMD_STORE_FAILURE_NONE; count++) {
                snprintf(name, sizeof(name), "rests/%u", count);
                (void) client_try_create(own, name, PAGE, 0, NULL);
        }
        shmd_close(segment);
        TEST_UNTIL(!client_exists(own, "held"), "the segment to go with its holder");
        shmd_disconnect(own);
        limit_file_size(&idle, RLIM_INFINITY);
        manager_end(&idle, 0);
        log = test_read_file(idle.log);
        ck_assert_ptr_nonnull(strstr(log, "can write the state log again"));
        manager_launch(&idle);
        own = connect_to(&idle);
        ck_assert_uint_eq(client_status(own).segments, count - 1);
        ck_assert(!client_exists(own, "held"));
        manager_end(&idle, SIGTERM);
        shmd_disconnect(own);
        manager_stop(&idle);
}
END_TEST

START_TEST(test_purge) {
        shmd_close(create("purged", PAGE, 0, NULL));
        ASSERT_OK(connection, shmd_stop(connection, SHMD_STOP_PURGE));
        manager_await_ready(&manager, 2);
        ck_assert_int_eq(client_try_open(connection, "purged", 0), -ENOENT);
        ck_assert_uint_eq(client_status(connection).restarts, 0);
}
END_TEST

/* What the daemon knows of systemd and its unit: a systemd before 254, one whose unit does not preserve the store, one whose does. */
static const char *const managers[][4] = {
        { "INVOCATION_ID=0", "SHMD_STORE_PRESERVED=1" },
        { "INVOCATION_ID=0", "FDSTORE=1024" },
        { "INVOCATION_ID=0", "FDSTORE=1024", "SHMD_STORE_PRESERVED=1" },
};

/* Where an end would lose what is kept only purging ends it, or the manager itself. */
START_TEST(test_stop_that_would_lose) {
        struct manager other = { .environment = managers[_i] };
        struct shmd *own;

        manager_start(&other, NULL);
        own = connect_to(&other);
        ASSERT_OK(own, shmd_stop(own, 0)); /* there is nothing to lose */
        manager_await_ready(&other, 2);
        shmd_close(client_create(own, "kept", PAGE, SHMD_LIFETIME_PERSIST));
        ck_assert_int_eq(shmd_stop(own, 0), -EBUSY);
        ck_assert(client_exists(own, "kept"));
        ck_assert_uint_eq(other.starts, 2);
        ASSERT_OK(own, shmd_stop(own, SHMD_STOP_PURGE));
        manager_await_ready(&other, 3);
        ck_assert(!client_exists(own, "kept"));
        shmd_disconnect(own);
        manager_stop(&other);
}
END_TEST

START_TEST(test_stop_that_loses_nothing) {
        struct manager other = { .environment = managers[_i] };
        struct shmd *own;

        manager_start(&other, NULL);
        own = connect_to(&other);
        shmd_close(client_create(own, "kept", PAGE, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(own, shmd_stop(own, 0));
        manager_await_ready(&other, 2);
        ck_assert(client_exists(own, "kept"));
        shmd_disconnect(own);
        manager_stop(&other);
}
END_TEST

START_TEST(test_status) {
        struct shmd_status status = client_status(connection);

        ck_assert_uint_eq(status.store, 1);
        ck_assert_uint_eq(status.restarts, 0);
        ck_assert_uint_eq(status.serving_usec, status.started_usec);
        manager_crash(&manager);
        manager_crash(&manager);
        ck_assert_uint_eq(client_status(connection).restarts, 2);
        ck_assert_uint_eq(client_status(connection).serving_usec, status.started_usec);
        ck_assert_uint_ne(client_status(connection).instance, status.instance);
        TEST_UNTIL(client_status(connection).store_entries == manager_count(&manager, "carrier-"), "empty carriers to go");
}
END_TEST

/* --- without a service manager --- */

static const char *const replace_option[] = { "--replace", NULL };

/* The new one takes everything over; the old one ends; clients notice nothing. */
START_TEST(test_replace) {
        struct shmd_segment *segment = NULL, *held = NULL;
        struct shmd *own;
        uint64_t id;

        daemon_start(&the_daemon, NULL);
        own = client_connect();
        ASSERT_OK(own, shmd_create(own, "moved", PAGE, SHMD_READ_WRITE, NULL, &segment));
        ASSERT_OK(own, shmd_create(own, "held", PAGE, SHMD_READ_WRITE,
                                   &(struct shmd_create_options) { .lifetime = SHMD_LIFETIME_HOLDERS }, &held));
        memset(client_map(segment), 'm', PAGE);
        id = shmd_id(segment);

        daemon_replace(&the_daemon);
        ck_assert_uint_eq(client_stat(own, "moved").id, id);
        ck_assert_uint_eq(client_stat(own, "held").holders, 1);
        ck_assert_int_eq(*(char *) client_map(segment), 'm');
        shmd_close(held);
        TEST_UNTIL(!client_exists(own, "held"), "the segment to go with its holder");
        shmd_close(segment);
        shmd_disconnect(own);
        daemon_stop(&the_daemon);
}
END_TEST

static void take_everything(struct raw *raw, const char *path) {
        const struct shmd_wire_handover request = { 0 };
        struct raw_reply reply;

        raw_connect(raw, path);
        ck_assert_int_eq(raw_call(raw, SHMD_OP_HANDOVER, &request, NULL, 0, &reply), 0);
        ck_assert_uint_gt(reply.fds.count, 3);
        raw_reply_done(&reply);
}

static const struct {
        struct shmd_wire_header header;
        struct shmd_wire_handover body;
        uint32_t more;
        size_t size;
} nearly_taken[] = {
        { .header.operation = SHMD_OP_HANDOVER, .body.flags = SHMD_WIRE_HANDOVER_TAKEN, .size = 20 },
        { .header.operation = SHMD_OP_HANDOVER, .body.flags = SHMD_WIRE_HANDOVER_TAKEN, .size = 12 },
        { .header.operation = SHMD_OP_HANDOVER, .body = { SHMD_WIRE_HANDOVER_TAKEN, 1 }, .size = 16 },
        { .header.operation = SHMD_OP_HANDOVER, .body.flags = SHMD_WIRE_HANDOVER_TAKEN | 2, .size = 16 },
        { .header.operation = SHMD_OP_STOP, .body.flags = SHMD_WIRE_HANDOVER_TAKEN, .size = 16 },
        { .header.operation = SHMD_OP_HANDOVER, .size = 0 },
};

/* Whoever takes everything and says nothing, goes, or is too late, has nothing; and the old one has lost nothing. */
START_TEST(test_replace_given_up) {
        const struct shmd_wire_handover taken = { .flags = SHMD_WIRE_HANDOVER_TAKEN };
        struct shmd_segment *segment = NULL, *held = NULL;
        struct raw_reply reply;
        struct test_daemon old;
        struct shmd *own;
        struct raw raw;

        daemon_start(&the_daemon, NULL);
        own = client_connect();
        ASSERT_OK(own, shmd_create(own, "stays", PAGE, SHMD_READ_WRITE, NULL, &segment));
        memset(client_map(segment), 's', PAGE);
        for (int i = 0; i < 3; i++) {
                take_everything(&raw, the_daemon.socket);
                raw_close(&raw);
                ASSERT_OK(own, shmd_create(own, i % 2 ? "odd" : "even", PAGE, SHMD_READ_WRITE,
                                           &(struct shmd_create_options) { .lifetime = SHMD_LIFETIME_HOLDERS }, &held));
                shmd_close(held);
                TEST_UNTIL(!client_exists(own, i % 2 ? "odd" : "even"), "the segment to go with its holder");
        }

        /* Nor does it end for what only begins as the answer that it waits for, or has something beside it. */
        for (size_t i = 0; i < ELEMENTSOF(nearly_taken); i++) {
                take_everything(&raw, the_daemon.socket);
                ck_assert_int_eq(raw_send(&raw, &nearly_taken[i], nearly_taken[i].size, NULL, 0), 0);
                raw_receive(&raw, &reply);
                ck_assert_uint_eq(reply.header.status, 18); /* SHMD_TIMED_OUT */
                raw_reply_done(&reply);
                raw_close(&raw);
                ck_assert(client_exists(own, "stays"));
        }

        /* Out of turn, it is nothing. */
        raw_connect(&raw, the_daemon.socket);
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_HANDOVER, &taken, NULL, 0, &reply), 1); /* SHMD_MALFORMED */
        raw_reply_done(&reply);
        raw_close(&raw);

        take_everything(&raw, the_daemon.socket);
        raw_receive(&raw, &reply);
        ck_assert_uint_eq(reply.header.status, 18); /* SHMD_TIMED_OUT */
        raw_reply_done(&reply);
        ck_assert(client_exists(own, "stays"));
        raw_close(&raw);

        old = the_daemon;
        the_daemon.pid = 0;
        the_daemon.control = (struct raw) RAW_INIT;
        daemon_start_again(&the_daemon, &(struct daemon_options) { .arguments = replace_option });
        the_daemon.baseline = -1;
        ck_assert_int_eq(daemon_wait(&old), 0);
        raw_close(&old.control);
        ck_assert_int_eq(*(char *) client_map(segment), 's');
        ck_assert(client_exists(own, "stays"));
        shmd_close(segment);
        shmd_disconnect(own);
        daemon_stop(&the_daemon);
}
END_TEST

static void ask_for_everything(int channel, void *userdata) {
        struct shmd_wire_handover request = { 0 };
        struct shmd_wire_stop stop = { .flags = SHMD_WIRE_STOP_PURGE };
        struct raw_reply reply;
        struct raw raw;

        (void) channel;
        (void) userdata;
        raw_connect(&raw, manager.socket);
        ck_assert_int_ne(raw_call(&raw, SHMD_OP_HANDOVER, &request, NULL, 0, &reply), 0);
        ck_assert_uint_eq(reply.fds.count, 0);
        raw_reply_done(&reply);
        ck_assert_int_ne(raw_call(&raw, SHMD_OP_STOP, &stop, NULL, 0, &reply), 0);
        raw_reply_done(&reply);
        raw_close(&raw);
}

/* Only administrators; and nobody where a manager keeps things. */
START_TEST(test_replace_refused) {
        static const struct identity stranger = { .uid = 1234, .gid = 1234 };
        struct shmd_wire_handover request = { 0 };
        struct raw_reply reply;
        struct child child;
        struct raw raw;

        shmd_close(create("stays", PAGE, 0, NULL));
        raw_connect(&raw, manager.socket);
        ck_assert_int_ne(raw_call(&raw, SHMD_OP_HANDOVER, &request, NULL, 0, &reply), 0);
        raw_reply_done(&reply);
        raw_close(&raw);
        if (test_as_root("another user")) {
                child_start_as(&child, &stranger, ask_for_everything, NULL);
                child_join(&child);
        }
        ck_assert(client_exists(connection, "stays"));
}
END_TEST

/* --- damage --- */

static bool log_has(const char *words) {
        _cleanup_free_ char *text = test_read_file(manager.log);

        return text && strstr(text, words);
}

/* Changes a byte of the record that has that name in it. */
static void damage(const char *name) {
        int fd = manager_fd(&manager, "state-");
        struct stat st;
        char *base, *found;

        ck_assert_int_eq(fstat(fd, &st), 0);
        base = mmap(NULL, (size_t) st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ck_assert_ptr_ne(base, MAP_FAILED);
        found = memmem(base, (size_t) st.st_size, name, strlen(name));
        ck_assert_ptr_nonnull(found);
        found[0] ^= 1;
        munmap(base, (size_t) st.st_size);
}

START_TEST(test_damaged_record) {
        for (unsigned i = 0; i < 5; i++) {
                char name[32];

                snprintf(name, sizeof(name), "record-%u-", i);
                shmd_close(create(name, PAGE, 0, NULL));
        }
        manager_end(&manager, SIGKILL);
        damage("record-2-");
        manager_launch(&manager);
        ck_assert_uint_eq(client_count(connection, "record-", 0), 4);
        ck_assert(!client_exists(connection, "record-2-"));
        ck_assert(log_has("damaged"));
        manager_crash(&manager);
        ck_assert_uint_eq(client_count(connection, "record-", 0), 4);
}
END_TEST

/* --- killed at any point --- */

#define CLIENTS 3
#define NAMES 12u

/* What one of the clients knows of its own names. */
struct model {
        bool there[NAMES];
        char byte[NAMES];
        uint64_t id[NAMES];
};

static void name_of(char (*name)[32], unsigned client, unsigned i) {
        snprintf(*name, sizeof(*name), "c%u/%u", client, i);
}

static unsigned pick(unsigned *seed, unsigned count) {
        return (unsigned) rand_r(seed) % count;
}

static void do_create(struct shmd *own, unsigned client, struct model *model, unsigned i, unsigned *seed) {
        struct shmd_segment *segment = NULL;
        bool publish = pick(seed, 3) == 0;
        char name[32];
        int r;

        name_of(&name, client, i);
        r = shmd_create(own, name, PAGE, SHMD_READ_WRITE | (publish ? SHMD_UNPUBLISHED : SHMD_EXCLUSIVE), NULL, &segment);
        if (!publish && model->there[i]) {
                ck_assert_int_eq(r, -EEXIST);
                return;
        }
        ASSERT_OK(own, r);
        model->byte[i] = (char) ('A' + pick(seed, 26));
        memset(client_map(segment), model->byte[i], PAGE);
        if (publish)
                ASSERT_OK(own, shmd_publish(segment, SHMD_REPLACE));
        model->there[i] = true;
        model->id[i] = shmd_id(segment);
        shmd_close(segment);
}

static void do_check(struct shmd *own, unsigned client, struct model *model, unsigned i) {
        struct shmd_segment *segment = NULL;
        char name[32];
        const char *bytes;
        int r;

        name_of(&name, client, i);
        r = shmd_open(own, name, 0, &segment);
        if (!model->there[i]) {
                ck_assert_int_eq(r, -ENOENT);
                return;
        }
        if (r != 0)
                ck_abort_msg("%s: %s", name, shmd_error_message(own));
        ck_assert_uint_eq(shmd_id(segment), model->id[i]);
        bytes = client_map(segment);
        TEST_REQUIRE(bytes[0], ==, model->byte[i]);
        TEST_REQUIRE(bytes[PAGE - 1], ==, model->byte[i]);
        shmd_close(segment);
}

static void do_unlink(struct shmd *own, unsigned client, struct model *model, unsigned i) {
        char name[32];

        name_of(&name, client, i);
        ck_assert_int_eq(shmd_unlink(own, name), model->there[i] ? 0 : -ENOENT);
        model->there[i] = false;
}

static void do_rename(struct shmd *own, unsigned client, struct model *model, unsigned i, unsigned j) {
        char from[32], to[32];
        int expected = !model->there[i] ? -ENOENT : i != j && model->there[j] ? -EEXIST : 0;

        name_of(&from, client, i);
        name_of(&to, client, j);
        ck_assert_int_eq(shmd_rename(own, from, to), expected);
        if (expected != 0 || i == j)
                return;
        model->there[i] = false;
        model->there[j] = true;
        model->byte[j] = model->byte[i];
        model->id[j] = model->id[i];
}

static void walk(int channel, void *userdata) {
        unsigned client = *(unsigned *) userdata, seed = client + 1;
        struct shmd *own = connect_to(&manager);
        struct model model = { 0 };
        char stop = 0;

        step_send(channel, 'r');
        fcntl(channel, F_SETFL, O_NONBLOCK);
        while (read(channel, &stop, 1) < 0) {
                unsigned i = pick(&seed, NAMES);

                switch (pick(&seed, 5)) {
                case 0:
                case 1:
                        do_create(own, client, &model, i, &seed);
                        break;
                case 2:
                        do_check(own, client, &model, i);
                        break;
                case 3:
                        do_unlink(own, client, &model, i);
                        break;
                default:
                        do_rename(own, client, &model, i, pick(&seed, NAMES));
                }
        }
        for (unsigned i = 0; i < NAMES; i++)
                do_check(own, client, &model, i);
        shmd_disconnect(own);
}

/* What each was told is true, whenever the daemon is killed: in the middle of anything. */
START_TEST(test_killed_at_random_points) {
        unsigned numbers[CLIENTS], kills = test_is_long() ? 2000 : 200, seed = 42;
        struct child children[CLIENTS];

        for (unsigned i = 0; i < CLIENTS; i++) {
                numbers[i] = i;
                child_start(&children[i], walk, &numbers[i]);
                step_expect(children[i].channel, 'r');
        }
        for (unsigned i = 0; i < kills; i++) {
                /* Some requests later; what time that is decides nothing. */
                for (unsigned n = pick(&seed, 12); n > 0; n--)
                        (void) client_status(connection);
                manager_kill(&manager, SIGKILL);
                manager_await_ready(&manager, i + 2);
        }
        for (unsigned i = 0; i < CLIENTS; i++) {
                step_send(children[i].channel, 's');
                child_join(&children[i]);
        }
        TEST_UNTIL(client_status(connection).holds == 0, "nothing to be held");
        ck_assert_uint_eq(client_status(connection).segments, client_count(connection, "", 0));
}
END_TEST

/* --- locks and bells --- */

/* Somebody else's connection, to the new daemon. */
static int try_lock(const char *name, unsigned flags) {
        struct shmd *other = connect_to(&manager);
        struct shmd_segment *opened = client_open(other, name, SHMD_READ_WRITE);
        int r = shmd_lock(opened, flags, 0);

        if (r == 0)
                ck_assert_int_eq(shmd_unlock(opened), 0);
        shmd_disconnect(other);
        return r;
}

/* Held stays held, and who comes later finds the very same lock; however often the daemon dies. */
START_TEST(test_locks) {
        struct shmd_segment *held = create("locked", PAGE, 0, NULL), *shared = create("shared", PAGE, 0, NULL);
        uint64_t used;

        ck_assert_int_eq(shmd_lock(held, SHMD_LOCK_EXCLUSIVE, 0), 0);
        ck_assert_int_eq(shmd_lock(shared, SHMD_LOCK_SHARED, 0), 0);
        used = client_status(connection).my_bytes.used;
        for (unsigned i = 0; i < 3; i++) {
                manager_crash(&manager);
                ck_assert_int_eq(try_lock("locked", SHMD_LOCK_EXCLUSIVE), -EBUSY);
                ck_assert_int_eq(try_lock("locked", SHMD_LOCK_SHARED), -EBUSY);
                ck_assert_int_eq(try_lock("shared", SHMD_LOCK_EXCLUSIVE), -EBUSY);
                ck_assert_int_eq(try_lock("shared", SHMD_LOCK_SHARED), 0);
                ck_assert_uint_eq(client_status(connection).my_bytes.used, used);
        }
        ck_assert_int_eq(shmd_unlock(held), 0);
        ck_assert_int_eq(shmd_unlock(shared), 0);
        ck_assert_int_eq(try_lock("locked", SHMD_LOCK_EXCLUSIVE), 0);
        ck_assert_int_eq(try_lock("shared", SHMD_LOCK_EXCLUSIVE), 0);
        shmd_close(held);
        shmd_close(shared);
        ASSERT_OK(connection, shmd_unlink(connection, "locked"));
        ASSERT_OK(connection, shmd_unlink(connection, "shared"));
        TEST_UNTIL(client_status(connection).my_bytes.used == 0, "all to be given back");
}
END_TEST

/* So does a lock of a segment that was made under the daemon before. */
START_TEST(test_lock_made_later) {
        struct shmd_segment *segment = create("later", PAGE, 0, NULL);

        manager_crash(&manager);
        ck_assert_int_eq(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), 0);
        manager_crash(&manager);
        ck_assert_int_eq(try_lock("later", SHMD_LOCK_EXCLUSIVE), -EBUSY);
        ck_assert_int_eq(shmd_unlock(segment), 0);
        shmd_close(segment);
}
END_TEST

/* Who polls and does nothing else is not taken for dead by those who ring meanwhile, and hears of it when he comes back. */
START_TEST(test_bell_of_one_who_stays_away) {
        struct shmd *holder = connect_to(&manager), *other;
        struct shmd_segment *segment = create("rung", PAGE, 0, NULL), *opened = client_open(holder, "rung", SHMD_READ_ONLY), *theirs;
        uint32_t number = 99, claimed;
        int fd = shmd_bell_fd(opened);

        ASSERT_OK(holder, shmd_bell_open(opened, &number));
        manager_crash(&manager);
        other = connect_to(&manager);
        theirs = client_open(other, "rung", SHMD_READ_ONLY);
        ck_assert_int_eq(shmd_bell_ring(theirs, number), -EAGAIN);
        ck_assert_int_eq(shmd_bell_ring(theirs, number), -EAGAIN);
        ck_assert_int_eq(shmd_bell_ring(theirs, SHMD_BELL_ALL), 0);
        ASSERT_OK(other, shmd_bell_open(theirs, &claimed));
        ck_assert_uint_ne(claimed, number);

        /* A loop that polls the connection as well comes back by itself. */
        test_wait_readable(shmd_poll_fd(holder), "the end of the daemon");
        ck_assert_int_eq(shmd_dispatch(holder), 0);
        test_wait_readable(fd, "the rings");
        ck_assert_int_eq(shmd_bell_wait(opened, 0, &claimed), 0);
        ck_assert_uint_eq(claimed, 3);
        ASSERT_OK(other, shmd_bell_ring(theirs, number));
        test_wait_readable(fd, "a ring");
        ck_assert_int_eq(shmd_bell_wait(opened, 0, NULL), 0);

        /* Of this daemon's time: dead when it is not known. */
        shmd_disconnect(holder);
        TEST_UNTIL(shmd_bell_ring(theirs, number) == -ENOENT, "the bell to go");
        shmd_disconnect(other);
        shmd_close(segment);
}
END_TEST

/* Its holder tells the new daemon, which gives it to those who never rang it before. */
START_TEST(test_bells) {
        struct shmd_segment *segment = create("rung", PAGE, 0, NULL), *theirs;
        uint32_t number = 99;
        struct shmd *other;
        int fd = shmd_bell_fd(segment);

        ASSERT_OK(connection, shmd_bell_open(segment, &number));
        manager_crash(&manager);
        (void) client_status(connection);
        other = connect_to(&manager);
        theirs = client_open(other, "rung", SHMD_READ_ONLY);
        ASSERT_OK(other, shmd_bell_ring(theirs, number));
        test_wait_readable(fd, "a ring");
        ck_assert_int_eq(shmd_bell_wait(segment, 0, NULL), 0);
        shmd_disconnect(other);
        shmd_close(segment);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("store");
        TCase *tests;

        tests = test_case(suite, "back", setup, teardown);
        tcase_add_loop_test(tests, test_all_kinds, 0, 3);
        tcase_add_test(tests, test_file);
        tcase_add_test(tests, test_posix);
        tcase_add_test(tests, test_ids);

        tests = test_case(suite, "holds", setup, teardown);
        tcase_add_test(tests, test_hold_counts_again);
        tcase_add_test(tests, test_gone_before_answer);
        tcase_add_loop_test(tests, test_holder_dies, 0, 4);
        tcase_add_test(tests, test_creator_comes_back);
        tcase_add_test(tests, test_unpublished);
        tcase_add_loop_test(tests, test_unpublished_of_dead_creator, 0, 2);
        tcase_add_test(tests, test_unlinked);
        tcase_add_test(tests, test_linger);
        tcase_add_test(tests, test_watch);
        tcase_add_test(tests, test_cache);

        tests = test_case(suite, "sync", setup, teardown);
        tcase_add_test(tests, test_locks);
        tcase_add_test(tests, test_lock_made_later);
        tcase_add_test(tests, test_bells);
        tcase_add_test(tests, test_bell_of_one_who_stays_away);

        tests = test_case(suite, "store", setup, teardown);
        tcase_add_loop_test(tests, test_memory_is_given_back, 0, 2);
        tcase_add_test(tests, test_control_memory_is_given_back);
        tcase_add_test(tests, test_killed_while_asking);
        tcase_add_test(tests, test_damaged_ids);
        tcase_add_test(tests, test_many);
        tcase_add_test(tests, test_ten_thousand);
        tcase_add_test(tests, test_compaction);
        tcase_add_test(tests, test_no_store);
        tcase_add_test(tests, test_config_with_mistake);
        tcase_add_test(tests, test_damaged_record);

        tests = test_case(suite, "ends", setup, teardown);
        tcase_add_test(tests, test_purge);
        tcase_add_loop_test(tests, test_stop_that_would_lose, 0, 2);
        tcase_add_loop_test(tests, test_stop_that_loses_nothing, 2, 3);
        tcase_add_test(tests, test_status);
        tcase_add_test(tests, test_replace_refused);

        tests = test_case(suite, "own ends", NULL, NULL);
        tcase_add_test(tests, test_idle_exit);
        tcase_add_loop_test(tests, test_idle_exit_waits, 0, ELEMENTSOF(watched_lifetimes));
        tcase_add_test(tests, test_idle_exit_while_failing);
        tcase_add_test(tests, test_hold_counts_later);
        tcase_add_test(tests, test_replace);
        tcase_add_test(tests, test_replace_given_up);

        tests = test_case(suite, "kills", setup, teardown);
        tcase_add_test(tests, test_killed_at_random_points);

        return test_run(suite);
}
