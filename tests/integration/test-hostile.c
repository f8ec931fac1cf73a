/* SPDX-License-Identifier: MIT */
/*
 * A client that breaks the rules, without the library. It gets an error, or is disconnected; nobody else
 * notices, and nothing of it stays: each test ends with the harness's comparison of descriptors, holds and bytes,
 * and asks over another connection whether the daemon goes on serving.
 */
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/socket.h>

#include "harness.h"
#include "process.h"
#include "raw.h"
#include "status.h"
#include "test.h"

static struct raw raw; /* the hostile one */

static void setup(void) {
        daemon_setup();
        raw_connect(&raw, the_daemon.socket);
}

static void teardown(void) {
        raw_close(&raw);
        daemon_teardown();
}

/* Whatever was done, others are served: a whole life of a segment over the harness's own connection. */
static void check_daemon_is_well(void) {
        struct shmd_wire_opened opened;
        int fd = -EBADF;

        ck_assert_int_eq(raw_create(&the_daemon.control, "well", 4096, WIRE_LIFETIME_PERSIST, &opened, &fd), SHMD_OK);
        ck_assert_int_eq(pwrite(fd, "x", 1, 4095), 1);
        close(fd);
        raw_release(&the_daemon.control, opened.id, SHMD_ACCESS_WRITE);
        ck_assert_int_eq(raw_unlink(&the_daemon.control, "well"), SHMD_OK);
}

static void reconnect(void) {
        raw_close(&raw);
        raw_connect(&raw, the_daemon.socket);
}

/*
 * What has been sent must not be granted. Whether an answer comes, or the end, or (of a one-way request) neither, is
 * found out by a request after it: so a daemon that says nothing at all is told from one that takes its time.
 * Returns the status of the refusal, or SHMD_MALFORMED if the daemon hung up.
 */
static unsigned expect_refusal(const char *what) {
        const struct shmd_wire_status request = { 0 };
        struct raw_reply reply;
        unsigned status = SHMD_MALFORMED;
        uint32_t serial;
        int r = raw_request(&raw, SHMD_OP_STATUS, &request, NULL, 0, NULL, 0);

        serial = raw.serial;
        while (r == 0) {
                raw_receive(&raw, &reply);
                raw_reply_done(&reply);
                if (reply.size == 0)
                        break;
                ck_assert_uint_ge(reply.size, sizeof(struct shmd_wire_header));
                if (reply.header.serial == serial && reply.header.operation == SHMD_OP_STATUS)
                        return status;
                ck_assert_msg(reply.header.status != SHMD_OK, "it was granted: %s", what);
                status = reply.header.status;
        }
        reconnect();
        return status;
}

static unsigned char message[SHMD_MESSAGE_MAX + 64];

static void set_header(uint16_t operation, uint16_t status) {
        const struct shmd_wire_header header = { .operation = operation, .status = status, .serial = ++raw.serial };

        memset(message, 0, sizeof(message));
        memcpy(message, &header, sizeof(header));
}

/* --- sizes --- */

/* Every size but the right one, for every operation; with a tail, too long is what the fields do not account for. */
START_TEST(test_wrong_sizes) {
        const struct operation *operation = operation_at((size_t) _i);
        const size_t right = sizeof(struct shmd_wire_header) + operation->request_size;
        char what[64];

        for (size_t size = 1; size <= right + 9; size++) {
                if (size == right)
                        continue;
                set_header(operation->number, 0);
                snprintf(what, sizeof(what), "%s of %zu bytes", operation->name, size);
                if (raw_send(&raw, message, size, NULL, 0) == 0)
                        expect_refusal(what);
                else
                        reconnect();
        }
        check_daemon_is_well();
}
END_TEST

START_TEST(test_largest_messages) {
        for (size_t i = 0; i < operation_count(); i++) {
                for (size_t size = SHMD_MESSAGE_MAX - 1; size <= SHMD_MESSAGE_MAX + 1; size++) {
                        set_header(operation_at(i)->number, 0);
                        if (raw_send(&raw, message, size, NULL, 0) == 0)
                                expect_refusal("a message of 32 KiB");
                        else
                                reconnect();
                }
        }
        check_daemon_is_well();
}
END_TEST

/* To the receiver a datagram of no bytes looks like the end of the connection. */
START_TEST(test_empty_datagram) {
        struct raw_reply reply;

        ck_assert_int_eq(raw_send(&raw, "", 0, NULL, 0), 0);
        raw_request(&raw, SHMD_OP_STATUS, &(struct shmd_wire_status) { 0 }, NULL, 0, NULL, 0);
        raw_receive(&raw, &reply);
        ck_assert(reply.size == 0 || reply.header.operation == SHMD_OP_STATUS);
        check_daemon_is_well();
}
END_TEST

/* --- operations, headers, padding, flags --- */

START_TEST(test_unknown_operations) {
        const uint16_t unknown[] = { 0, (uint16_t) (operation_count() + 1), (uint16_t) (operation_count() + 2), 100,
                                     255, 256, 257, 0x0100, 0x8001, 0xfffe, 0xffff };

        for (size_t i = 0; i < ELEMENTSOF(unknown); i++)
                for (size_t size = sizeof(struct shmd_wire_header); size < 80; size += 8) {
                        set_header(unknown[i], 0);
                        ck_assert_int_eq(raw_send(&raw, message, size, NULL, 0), 0);
                        expect_refusal("an unknown operation");
                }
        check_daemon_is_well();
}
END_TEST

/* A newer client asks for what this daemon does not have: it must be told just that, and may go on. */
START_TEST(test_unknown_operation_is_unsupported) {
        set_header((uint16_t) (operation_count() + 1), 0);
        ck_assert_int_eq(raw_send(&raw, message, 24, NULL, 0), 0);
        ck_assert_uint_eq(expect_refusal("an unknown operation"), SHMD_UNSUPPORTED);
}
END_TEST

START_TEST(test_status_in_request) {
        for (size_t i = 0; i < operation_count(); i++) {
                const struct operation *operation = operation_at(i);

                set_header(operation->number, 2);
                ck_assert_int_eq(raw_send(&raw, message, sizeof(struct shmd_wire_header) + operation->request_size,
                                          NULL, 0), 0);
                expect_refusal("a request with a status");
        }
        check_daemon_is_well();
}
END_TEST

/* Every byte of padding, and every flag that means nothing. Offsets are in the operation's structure. */
static const struct {
        enum shmd_operation operation;
        size_t offset;
        size_t size;
} paddings[] = {
        { SHMD_OP_OPEN, offsetof(struct shmd_wire_target, padding), 6 },
        { SHMD_OP_OPEN, offsetof(struct shmd_wire_open, flags) + 2, 2 }, /* the byte before has SHMD_WIRE_WAIT */
        { SHMD_OP_OPEN, offsetof(struct shmd_wire_open, padding), 4 },
        { SHMD_OP_CREATE, offsetof(struct shmd_wire_create, flags) + 1, 3 },
        { SHMD_OP_CREATE, offsetof(struct shmd_wire_create, lifetime) + 1, 3 },
        { SHMD_OP_CREATE, offsetof(struct shmd_wire_create, mode) + 2, 2 },
        { SHMD_OP_UNLINK, offsetof(struct shmd_wire_target, padding), 6 },
        { SHMD_OP_STAT, offsetof(struct shmd_wire_target, padding), 6 },
        { SHMD_OP_LIST, offsetof(struct shmd_wire_list, flags) + 1, 3 },
        { SHMD_OP_HOLDERS, offsetof(struct shmd_wire_target, padding), 6 },
        { SHMD_OP_CHMOD, offsetof(struct shmd_wire_target, padding), 6 },
        { SHMD_OP_CHMOD, offsetof(struct shmd_wire_chmod, mode) + 2, 2 },
        { SHMD_OP_CHMOD, offsetof(struct shmd_wire_chmod, padding), 4 },
        { SHMD_OP_CHOWN, offsetof(struct shmd_wire_target, padding), 6 },
        { SHMD_OP_RENAME, offsetof(struct shmd_wire_target, padding), 6 },
        { SHMD_OP_RENAME, offsetof(struct shmd_wire_rename, padding), 6 },
        { SHMD_OP_STATUS, 0, 8 },
        { SHMD_OP_RELEASE, offsetof(struct shmd_wire_release, padding), 4 },
};

/* A request that would succeed, on a segment "victim"; gives its size. */
static size_t good_request(enum shmd_operation operation) {
        const size_t at = sizeof(struct shmd_wire_header);
        const struct shmd_wire_target target = { .name_size = 6 };
        const struct shmd_wire_create create = { .size = 4096, .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 6 };
        const struct shmd_wire_chmod chmod_ = { .target = target, .mode = 0600 };
        const struct shmd_wire_chown chown_ = { .target = target, .uid = UINT32_MAX, .gid = UINT32_MAX };
        const struct shmd_wire_rename rename_ = { .target = target, .new_name_size = 6 };
        const struct operation *row = operation_find((uint16_t) operation);
        const char *tail = "victim";
        size_t tail_size = 6;

        set_header(row->number, 0);
        switch (operation) {
        case SHMD_OP_CREATE:
                memcpy(message + at, &create, sizeof(create));
                tail = "second";
                break;
        case SHMD_OP_CHMOD:
                memcpy(message + at, &chmod_, sizeof(chmod_));
                break;
        case SHMD_OP_CHOWN:
                memcpy(message + at, &chown_, sizeof(chown_));
                break;
        case SHMD_OP_RENAME:
                memcpy(message + at, &rename_, sizeof(rename_));
                tail = "victimrename";
                tail_size = 12;
                break;
        case SHMD_OP_LIST:
        case SHMD_OP_STATUS:
        case SHMD_OP_RELEASE:
                tail_size = 0;
                break;
        default:
                memcpy(message + at, &target, sizeof(target));
        }
        memcpy(message + at + row->request_size, tail, tail_size);
        return at + row->request_size + tail_size;
}

/* The requests themselves are good: else refusing them would prove nothing. */
START_TEST(test_good_requests) {
        struct raw_reply reply;

        for (size_t i = 0; i < ELEMENTSOF(paddings); i++) {
                if (paddings[i].operation == SHMD_OP_RELEASE) /* is not answered */
                        continue;
                if (i > 0 && paddings[i].operation == paddings[i - 1].operation)
                        continue;
                raw_unlink(&the_daemon.control, "victim");
                raw_unlink(&the_daemon.control, "rename");
                ck_assert_int_eq(raw_create(&raw, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
                ck_assert_int_eq(raw_send(&raw, message, good_request(paddings[i].operation), NULL, 0), 0);
                raw_receive(&raw, &reply);
                raw_reply_done(&reply);
                ck_assert_uint_eq(reply.header.operation, paddings[i].operation);
                ck_assert_msg(reply.header.status == SHMD_OK, "%s: status %u",
                              operation_find(reply.header.operation)->name, reply.header.status);
        }
}
END_TEST

START_TEST(test_padding) {
        const struct operation *operation = operation_find((uint16_t) paddings[_i].operation);

        ck_assert_int_eq(raw_create(&the_daemon.control, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        for (size_t i = 0; i < paddings[_i].size; i++)
                for (unsigned bit = 1; bit < 256; bit <<= 1) {
                        size_t size = good_request(paddings[_i].operation);

                        message[sizeof(struct shmd_wire_header) + paddings[_i].offset + i] ^= (unsigned char) bit;
                        ck_assert_int_eq(raw_send(&raw, message, size, NULL, 0), 0);
                        expect_refusal(operation->name);
                }
        daemon_reconnect(&the_daemon);
}
END_TEST

/* A target is an id or a name: not both, not none; and what its sizes say is what follows. */
START_TEST(test_targets) {
        static const enum shmd_operation operations[] = { SHMD_OP_OPEN, SHMD_OP_UNLINK, SHMD_OP_STAT,
                                                          SHMD_OP_HOLDERS, SHMD_OP_CHMOD, SHMD_OP_CHOWN };
        struct shmd_wire_opened opened;

        ck_assert_int_eq(raw_create(&raw, "victim", 4096, WIRE_LIFETIME_PERSIST, &opened, NULL), SHMD_OK);
        for (size_t i = 0; i < ELEMENTSOF(operations); i++) {
                const size_t at = sizeof(struct shmd_wire_header);
                size_t size = good_request(operations[i]);
                struct shmd_wire_target targets[] = {
                        { .id = 0, .name_size = 0 },         { .id = opened.id, .name_size = 6 },
                        { .id = 0, .name_size = 5 },         { .id = 0, .name_size = 7 },
                        { .id = 0, .name_size = UINT16_MAX }, { .id = 0, .name_size = 0x8000 },
                };

                for (size_t j = 0; j < ELEMENTSOF(targets); j++) {
                        good_request(operations[i]);
                        memcpy(message + at, &targets[j], sizeof(targets[j]));
                        ck_assert_int_eq(raw_send(&raw, message, size, NULL, 0), 0);
                        expect_refusal("a target that is none");
                }
        }
        check_daemon_is_well();
}
END_TEST

/* --- names --- */

static const struct {
        const char *name;
        size_t size;
} bad_names[] = {
#define N(literal) { literal, sizeof(literal) - 1 }
        N(""), N("/"), N("//"), N("//a"), N("a/"), N("a//b"), N("."), N(".."), N("a/../b"), N("a\0b"), N("\0"),
        N("a\nb"), N("\x1b[2J"), N("\x7f"), N("\xc2\x9b"), N("\xff"), N("\xc0\xaf"), N("\xc0\xae\xc0\xae"),
        N("\xed\xa0\x80"), N("\xf4\x90\x80\x80"), N("a\xc3"),
};

static unsigned try_name(enum shmd_operation operation, const char *name, size_t size) {
        const size_t at = sizeof(struct shmd_wire_header);
        const struct operation *row = operation_find((uint16_t) operation);
        uint16_t name_size = (uint16_t) size;

        good_request(operation);
        if (operation == SHMD_OP_CREATE) {
                memcpy(message + at + offsetof(struct shmd_wire_create, name_size), &name_size, 2);
                memcpy(message + at + row->request_size, name, size);
        } else if (operation == SHMD_OP_RENAME) {
                memcpy(message + at + offsetof(struct shmd_wire_rename, new_name_size), &name_size, 2);
                memcpy(message + at + row->request_size + 6, name, size);
                size += 6;
        } else {
                memcpy(message + at + offsetof(struct shmd_wire_target, name_size), &name_size, 2);
                memcpy(message + at + row->request_size, name, size);
        }
        ck_assert_int_eq(raw_send(&raw, message, at + row->request_size + size, NULL, 0), 0);
        return expect_refusal(row->name);
}

START_TEST(test_bad_names) {
        static const enum shmd_operation operations[] = { SHMD_OP_CREATE, SHMD_OP_RENAME, SHMD_OP_OPEN, SHMD_OP_STAT,
                                                          SHMD_OP_UNLINK };
        unsigned char name[SHMD_NAME_MAX + 2];

        ck_assert_int_eq(raw_create(&raw, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        for (size_t i = 0; i < ELEMENTSOF(operations); i++) {
                for (size_t j = 0; j < ELEMENTSOF(bad_names); j++)
                        try_name(operations[i], bad_names[j].name, bad_names[j].size);
                memset(name, 0xff, sizeof(name));
                try_name(operations[i], (char *) name, SHMD_NAME_MAX);
                memset(name, 'n', sizeof(name));
                ck_assert_uint_eq(try_name(operations[i], (char *) name, SHMD_NAME_MAX + 1), SHMD_NAME_TOO_LONG);
        }
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 1);
        check_daemon_is_well();
}
END_TEST

/* --- numbers --- */

static unsigned try_create(const struct shmd_wire_create *request) {
        struct raw_reply reply;
        unsigned status = raw_call(&raw, SHMD_OP_CREATE, request, "number", 6, &reply);

        raw_reply_done(&reply);
        return status;
}

START_TEST(test_impossible_sizes) {
        static const uint64_t sizes[] = { UINT64_C(1) << 63, (UINT64_C(1) << 63) - 1, (UINT64_C(1) << 63) + 1,
                                          UINT64_MAX, UINT64_MAX - 1, UINT64_MAX - 4095, UINT64_C(1) << 62 };
        struct shmd_wire_create request = { .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 6 };

        ck_assert_uint_eq(try_create(&request), SHMD_INVALID);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                request.size = sizes[i];
                ck_assert_int_ne(try_create(&request), SHMD_OK);
        }
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 0);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, 0);
        request.size = 1;
        ck_assert_uint_eq(try_create(&request), SHMD_OK);
}
END_TEST

START_TEST(test_impossible_numbers) {
        const struct shmd_wire_create good = { .size = 1, .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 6 };
        struct shmd_wire_create bad[] = { good, good, good, good, good, good, good };

        bad[0].lifetime = WIRE_LIFETIME_CREATOR + 1;
        bad[1].mode = 010000;
        bad[2].flags |= 1u << 7;
        bad[3].flags |= SHMD_WIRE_TRUNCATE; /* of POSIX segments only */
        bad[4].linger_usec = 1;             /* without that lifetime */
        bad[5].size = bad[6].size = 0;
        bad[5].flags = SHMD_WIRE_POSIX;
        bad[6].flags = SHMD_WIRE_POSIX | SHMD_WIRE_DETACHED;
        bad[5].lifetime = WIRE_LIFETIME_HOLDERS;
        bad[5].maximum = bad[6].maximum = 1; /* a keeper: not detached; of a lifetime that needs none */
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (i != 4)
                        ck_assert_msg(try_create(&bad[i]) != SHMD_OK, "number %zu", i);
        try_create(&bad[4]); /* whatever it says */
        check_daemon_is_well();
}
END_TEST

/* Keepers that are none: what they are to keep goes with its last holder. */
START_TEST(test_keepers) {
        static const uint64_t keepers[] = { 1, UINT64_MAX, UINT64_C(1) << 63, (UINT64_C(1) << 22) + 1, 12345 };

        for (size_t i = 0; i < ELEMENTSOF(keepers); i++) {
                const struct shmd_wire_create request = {
                        .mode = 0600,
                        .flags = SHMD_WIRE_POSIX | SHMD_WIRE_DETACHED | SHMD_WIRE_WRITE,
                        .lifetime = WIRE_LIFETIME_HOLDERS,
                        .maximum = keepers[i],
                        .name_size = 6,
                };

                ck_assert_uint_eq(try_create(&request), SHMD_OK);
                daemon_await_segments(&the_daemon, 0);
        }
        check_daemon_is_well();
}
END_TEST

static uint64_t start_time_of(pid_t pid) {
        _cleanup_free_ char *text = NULL;
        unsigned long long started = 0;
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
        text = test_read_file(path);
        ck_assert_ptr_nonnull(text);
        ck_assert_int_eq(sscanf(strrchr(text, ')') + 2, "%*s" /* then 18 fields: proc(5) */
                                "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &started), 1);
        return started;
}

static uint64_t keeper_of(pid_t pid) {
        return start_time_of(pid) << 22 | (uint64_t) pid;
}

static void create_kept(const char *name, uint64_t keeper_process) {
        const struct shmd_wire_create request = {
                .mode = 0600,
                .flags = SHMD_WIRE_POSIX | SHMD_WIRE_DETACHED | SHMD_WIRE_WRITE,
                .lifetime = WIRE_LIFETIME_HOLDERS,
                .maximum = keeper_process,
                .name_size = 6,
        };
        struct raw_reply reply;
        struct raw own;

        raw_connect(&own, the_daemon.socket);
        ck_assert_uint_eq(raw_call(&own, SHMD_OP_CREATE, &request, name, 6, &reply), SHMD_OK);
        raw_reply_done(&reply);
        raw_close(&own);
}

static void be_somebodys(int channel, void *userdata) {
        (void) userdata;
        step_expect(channel, 'e');
}

/* The second one has no keeper: when that has gone, the daemon has looked at the first one, too. */
static void have_kept_by(int channel, void *userdata) {
        (void) channel;
        create_kept("number", keeper_of(*(pid_t *) userdata));
        create_kept("second", 0);
}

static const struct identity alice = { .uid = 65533, .gid = 65533 }, bob = { .uid = 65532, .gid = 65532 };

/* Whose process it is: one's own and root's may be a keeper, another user's not. */
static const struct {
        const struct identity *of;
        bool keeps;
} keepers_of_alice[] = { { &alice, true }, { NULL, true }, { &bob, false } };

START_TEST(test_keepers_user) {
        const struct shmd_wire_stat request = { .target.name_size = 6 };
        struct child keeper, client;
        struct raw_reply reply;

        if (!test_as_root("test_keepers_user"))
                return;
        if (keepers_of_alice[_i].of)
                child_start_as(&keeper, keepers_of_alice[_i].of, be_somebodys, NULL);
        else
                child_start(&keeper, be_somebodys, NULL);
        child_start_as(&client, &alice, have_kept_by, &keeper.pid);
        child_join(&client);
        daemon_await_segments(&the_daemon, keepers_of_alice[_i].keeps);
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_STAT, &request, "number", 6, &reply),
                          keepers_of_alice[_i].keeps ? SHMD_OK : SHMD_NOT_FOUND);
        step_send(keeper.channel, 'e');
        child_join(&keeper);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

START_TEST(test_guessed_ids) {
        struct shmd_wire_opened opened;

        ck_assert_int_eq(raw_create(&the_daemon.control, "victim", 4096, WIRE_LIFETIME_PERSIST, &opened, NULL),
                         SHMD_OK);
        for (int i = -50; i <= 50; i++)
                if (i != 0) {
                        const uint64_t id = opened.id + (uint64_t) i;

                        ck_assert_uint_eq(raw_stat_id(&raw, id, NULL), SHMD_NOT_FOUND);
                        ck_assert_uint_eq(raw_unlink_id(&raw, id), SHMD_NOT_FOUND);
                }
        ck_assert_uint_eq(raw_stat_id(&raw, UINT64_MAX, NULL), SHMD_NOT_FOUND);
        ck_assert_uint_eq(raw_stat_id(&raw, UINT64_C(1) << 63, NULL), SHMD_NOT_FOUND);
        daemon_reconnect(&the_daemon);
}
END_TEST

/* --- descriptors --- */

static void send_with_descriptors(const struct operation *operation, unsigned count) {
        int fds[SHMD_DESCRIPTORS_MAX];
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        size_t size = sizeof(struct shmd_wire_header) + operation->request_size;

        for (unsigned i = 0; i < count; i++)
                fds[i] = fd;
        if (operation->number == SHMD_OP_HELLO || operation->number == SHMD_OP_RESUME)
                set_header(operation->number, 0);
        else
                size = good_request((enum shmd_operation) operation->number);
        ck_assert_int_eq(raw_send(&raw, message, size, fds, count), 0);
        close(fd);
        expect_refusal(operation->name);
}

/* Where none belong, and more than belong, up to as many as the kernel passes. What comes is closed. */
START_TEST(test_too_many_descriptors) {
        static const unsigned counts[] = { 1, 2, 3, 64, SHMD_DESCRIPTORS_MAX };
        const int before = daemon_count_descriptors(&the_daemon);
        const struct operation *operation = operation_at((size_t) _i);

        ck_assert_int_eq(raw_create(&the_daemon.control, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        for (size_t i = 0; i < ELEMENTSOF(counts); i++)
                if (counts[i] != operation->fds_in)
                        send_with_descriptors(operation, counts[i]);
        daemon_reconnect(&the_daemon);
        check_daemon_is_well();
        ck_assert_int_eq(raw_unlink(&the_daemon.control, "victim"), SHMD_OK);
        daemon_settle(&the_daemon, 1);
        if (before >= 0)
                TEST_UNTIL(daemon_count_descriptors(&the_daemon) == before, "what came to be closed");
}
END_TEST

START_TEST(test_descriptors_missing) {
        set_header(SHMD_OP_RESUME, 0);
        ck_assert_int_eq(raw_send(&raw, message, sizeof(struct shmd_wire_header) + sizeof(struct shmd_wire_resume),
                                  NULL, 0), 0);
        expect_refusal("RESUME without a descriptor");
}
END_TEST

/* RESUME with whatever is no proof of a hold on that segment. */
START_TEST(test_resume_without_right) {
        struct shmd_wire_opened opened, other;
        int read_only = -EBADF, other_fd = -EBADF, pair[2], ends[2];

        ck_assert_int_eq(raw_create(&the_daemon.control, "victim", 4096, WIRE_LIFETIME_PERSIST, &opened, NULL),
                         SHMD_OK);
        ck_assert_int_eq(raw_create(&raw, "other", 4096, WIRE_LIFETIME_PERSIST, &other, &other_fd), SHMD_OK);
        ck_assert_int_eq(raw_open_name(&raw, "victim", 0, NULL, &read_only), SHMD_OK);
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);

        int wrong[] = { pair[0], ends[0], ends[1], open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                        open("/dev/null", O_RDWR | O_CLOEXEC), memfd_create("x", MFD_CLOEXEC), other_fd,
                        open("/proc/self/exe", O_RDONLY | O_CLOEXEC), the_daemon.control.fd };

        for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
                ck_assert_int_ge(wrong[i], 0);
                ck_assert_int_ne(raw_resume(&raw, opened.id, SHMD_ACCESS_READ, wrong[i]), SHMD_OK);
                ck_assert_int_ne(raw_resume(&raw, opened.id, SHMD_ACCESS_WRITE, wrong[i]), SHMD_OK);
        }
        ck_assert_int_ne(raw_resume(&raw, opened.id, SHMD_ACCESS_WRITE, read_only), SHMD_OK);
        ck_assert_int_ne(raw_resume(&raw, opened.id, (enum shmd_access) 2, read_only), SHMD_OK);
        ck_assert_int_ne(raw_resume(&raw, other.id, SHMD_ACCESS_READ, read_only), SHMD_OK);
        ck_assert_int_ne(raw_resume(&raw, 0, SHMD_ACCESS_READ, read_only), SHMD_OK);
        ck_assert_int_ne(raw_resume(&raw, UINT64_MAX, SHMD_ACCESS_READ, read_only), SHMD_OK);

        /* And with what is one. */
        ck_assert_int_eq(raw_resume(&raw, opened.id, SHMD_ACCESS_READ, read_only), SHMD_OK);
        for (size_t i = 0; i < ELEMENTSOF(wrong) - 1; i++)
                close(wrong[i]);
        close(pair[1]);
        close(read_only);
        daemon_reconnect(&the_daemon);
}
END_TEST

/* A descriptor opened for its path alone neither reads nor writes. */
START_TEST(test_resume_with_path_descriptor) {
        struct shmd_wire_opened opened;
        char path[64];
        int fd = -EBADF, path_fd;

        ck_assert_int_eq(raw_create(&raw, "victim", 4096, WIRE_LIFETIME_PERSIST, &opened, &fd), SHMD_OK);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        path_fd = open(path, O_PATH | O_CLOEXEC);
        ck_assert_int_ge(path_fd, 0);
        ck_assert_int_ne(raw_resume(&raw, opened.id, SHMD_ACCESS_READ, path_fd), SHMD_OK);
        ck_assert_int_ne(raw_resume(&raw, opened.id, SHMD_ACCESS_WRITE, path_fd), SHMD_OK);
        close(path_fd);
        close(fd);
}
END_TEST

/* --- release --- */

START_TEST(test_release_of_what_is_not_held) {
        struct shmd_wire_opened opened;

        ck_assert_int_eq(raw_create(&the_daemon.control, "victim", 4096, WIRE_LIFETIME_HOLDERS, &opened, NULL),
                         SHMD_OK);
        raw_release(&raw, opened.id, SHMD_ACCESS_WRITE);
        expect_refusal("RELEASE of another's");
        raw_release(&raw, 0, SHMD_ACCESS_READ);
        expect_refusal("RELEASE of nothing");
        raw_release(&raw, UINT64_MAX, (enum shmd_access) UINT32_MAX);
        expect_refusal("RELEASE of nothing");
        ck_assert_uint_eq(raw_stat_id(&the_daemon.control, opened.id, NULL), SHMD_OK);
        ck_assert_uint_eq(daemon_status(&the_daemon).holds, 1);

        /* Own, but with another access, or one that there is not, and once too often. */
        for (uint32_t access = 1; access != 0; access <<= 1) {
                ck_assert_int_eq(raw_open_name(&raw, "victim", 0, NULL, NULL), SHMD_OK);
                raw_release(&raw, opened.id, (enum shmd_access) access);
                expect_refusal("RELEASE with another access");
        }
        reconnect();
        ck_assert_int_eq(raw_open_name(&raw, "victim", 0, NULL, NULL), SHMD_OK);
        raw_release(&raw, opened.id, SHMD_ACCESS_READ);
        raw_release(&raw, opened.id, SHMD_ACCESS_READ);
        expect_refusal("RELEASE once too often");
        raw_release(&the_daemon.control, opened.id, SHMD_ACCESS_WRITE);
        daemon_status(&the_daemon);
}
END_TEST

/* One-way requests by the thousand: neither answered nor stored. */
START_TEST(test_release_storm) {
        struct shmd_wire_opened opened;

        ck_assert_int_eq(raw_create(&raw, "victim", 4096, WIRE_LIFETIME_PERSIST, &opened, NULL), SHMD_OK);
        for (int i = 0; i < 20000; i++) {
                const struct shmd_wire_release request = { .id = opened.id, .access = SHMD_ACCESS_WRITE };

                if (raw_request(&raw, SHMD_OP_RELEASE, &request, NULL, 0, NULL, 0) < 0)
                        reconnect();
        }
        expect_refusal("a storm of RELEASE");
        check_daemon_is_well();
}
END_TEST

/* --- HELLO --- */

START_TEST(test_hello_missing) {
        for (size_t i = 0; i < operation_count(); i++) {
                size_t size;

                if (operation_at(i)->number == SHMD_OP_HELLO || operation_at(i)->number == SHMD_OP_RESUME)
                        continue;
                raw_close(&raw);
                raw_open(&raw, the_daemon.socket);
                size = good_request((enum shmd_operation) operation_at(i)->number);
                ck_assert_int_eq(raw_send(&raw, message, size, NULL, 0), 0);
                if (raw_request(&raw, SHMD_OP_STATUS, &(struct shmd_wire_status) { 0 }, NULL, 0, NULL, 0) == 0) {
                        struct raw_reply reply;

                        /* STATUS itself comes before HELLO now, and is refused as well. */
                        raw_receive(&raw, &reply);
                        raw_reply_done(&reply);
                        ck_assert(reply.size == 0 || reply.header.status != SHMD_OK);
                }
        }
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 0);
        check_daemon_is_well();
}
END_TEST

START_TEST(test_hello_twice) {
        const struct shmd_wire_hello hello = { .version_min = 1, .version_max = 1 };

        ck_assert_int_eq(raw_request(&raw, SHMD_OP_HELLO, &hello, NULL, 0, NULL, 0), 0);
        expect_refusal("a second HELLO");
        check_daemon_is_well();
}
END_TEST

static const struct {
        uint32_t min, max;
        uint64_t features;
        bool good;
} hellos[] = {
        { 1, 1, 0, true },
        { 1, 2, 0, true },
        { 0, 1, 0, true },
        { 1, UINT32_MAX, UINT64_MAX, true }, /* a client of the future; what it knows we need not */
        { 0, 0, 0, false },
        { 2, 2, 0, false },
        { 2, UINT32_MAX, 0, false },
        { 2, 1, 0, false },
        { UINT32_MAX, 0, 0, false },
};

START_TEST(test_hello_versions) {
        const struct shmd_wire_hello hello = { .version_min = hellos[_i].min, .version_max = hellos[_i].max,
                                               .features = hellos[_i].features };
        struct raw_reply reply;

        raw_close(&raw);
        raw_open(&raw, the_daemon.socket);
        ck_assert_int_eq(raw_request(&raw, SHMD_OP_HELLO, &hello, NULL, 0, NULL, 0), 0);
        raw_receive(&raw, &reply);
        if (!hellos[_i].good) {
                ck_assert(reply.size == 0 || reply.header.status == SHMD_UNSUPPORTED ||
                          reply.header.status == SHMD_INVALID || reply.header.status == SHMD_MALFORMED);
                return;
        }
        ck_assert_uint_eq(reply.header.status, SHMD_OK);
        ck_assert_uint_eq(RAW_BODY(&reply, hello_reply)->version, 1);
        ck_assert_uint_eq(RAW_BODY(&reply, hello_reply)->message_max, SHMD_MESSAGE_MAX);
        ck_assert_uint_eq(RAW_BODY(&reply, hello_reply)->generation_slots, SHMD_GENERATION_SLOTS);
        ck_assert_uint_eq(reply.fds.count, 1);
        raw_reply_done(&reply);
}
END_TEST

/* The page of generations is for reading: nobody writes into what all other clients trust. */
START_TEST(test_generation_page_is_read_only) {
        const struct shmd_wire_hello hello = { .version_min = 1, .version_max = 1 };
        const size_t size = SHMD_GENERATION_SLOTS * sizeof(uint32_t);
        struct raw_reply reply;
        char path[64];
        void *page;
        int fd;

        raw_close(&raw);
        raw_open(&raw, the_daemon.socket);
        ck_assert_int_eq(raw_call(&raw, SHMD_OP_HELLO, &hello, NULL, 0, &reply), SHMD_OK);
        ck_assert_uint_eq(reply.fds.count, 1);
        fd = reply.fds.fd[0];
        page = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        ck_assert_ptr_ne(page, MAP_FAILED);
        ck_assert_int_eq(mprotect(page, size, PROT_READ | PROT_WRITE), -1);
        ck_assert_ptr_eq(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        ck_assert_int_eq(pwrite(fd, "x", 1, 0), -1);
        ck_assert_int_eq(ftruncate(fd, 0), -1);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        /* Root may open it for writing, and so could its owner, the daemon's user, if he changed its mode. */
        if (geteuid() == 0)
                ck_assert_int_eq(seteuid(65534), 0);
        ck_assert_int_eq(open(path, O_RDWR | O_CLOEXEC), -1);
        ck_assert_int_eq(errno, EACCES);
        if (getuid() == 0) {
                ck_assert_int_eq(fchmod(fd, 0666), -1);
                ck_assert_int_eq(seteuid(0), 0);
        }
        munmap(page, size);
        raw_reply_done(&reply);
        check_daemon_is_well();
}
END_TEST

/* --- readers: half, slow, never --- */

START_TEST(test_half_read_reply) {
        char few[3];

        for (int i = 0; i < 10; i++) {
                raw_request(&raw, SHMD_OP_STATUS, &(struct shmd_wire_status) { 0 }, NULL, 0, NULL, 0);
                test_wait_readable(raw.fd, "a reply");
                ck_assert_int_gt(recv(raw.fd, few, sizeof(few), 0), 0); /* the rest is lost */
        }
        raw_request(&raw, SHMD_OP_STATUS, &(struct shmd_wire_status) { 0 }, NULL, 0, NULL, 0);
        reconnect(); /* without reading it */
        check_daemon_is_well();
}
END_TEST

#define UNHEARD 4

/* They ask and are gone before the answer: nothing that was made for it stays. */
START_TEST(test_gone_before_answer) {
        const struct shmd_wire_create create = { .size = 4096, .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 6 };
        const struct shmd_wire_open shared = { .target.name_size = 6 }, private = { .target.name_size = 6, .flags = SHMD_WIRE_PRIVATE };
        const struct shmd_wire_many many = { .count = 1, .flags = SHMD_WIRE_PRIVATE };
        static const char many_names[] = { 6, 0, 'v', 'i', 'c', 't', 'i', 'm' };
        struct raw gone[UNHEARD];
        int before;

        ck_assert_int_eq(raw_create(&raw, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        ck_assert_int_eq(raw_open_name(&raw, "victim", 0, NULL, NULL), SHMD_OK);
        before = daemon_count_descriptors(&the_daemon);
        for (unsigned i = 0; i < UNHEARD; i++)
                raw_connect(&gone[i], the_daemon.socket);
        daemon_pause(&the_daemon);
        ck_assert_int_eq(raw_request(&gone[0], SHMD_OP_CREATE, &create, "number", 6, NULL, 0), 0);
        ck_assert_int_eq(raw_request(&gone[1], SHMD_OP_OPEN, &shared, "victim", 6, NULL, 0), 0);
        ck_assert_int_eq(raw_request(&gone[2], SHMD_OP_OPEN, &private, "victim", 6, NULL, 0), 0);
        ck_assert_int_eq(raw_request(&gone[3], SHMD_OP_OPEN_MANY, &many, many_names, sizeof(many_names), NULL, 0), 0);
        for (unsigned i = 0; i < UNHEARD; i++)
                raw_close(&gone[i]);
        daemon_resume(&the_daemon);
        daemon_settle(&the_daemon, 1);
        ck_assert_uint_eq(raw_open_name(&raw, "number", 0, NULL, NULL), SHMD_NOT_FOUND);
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 1);
        ck_assert_uint_eq(daemon_status(&the_daemon).holds, 1);
        if (before >= 0)
                TEST_UNTIL(daemon_count_descriptors(&the_daemon) == before, "their descriptors to be closed");
}
END_TEST

#define ITEMS 200

struct create_item {
        struct shmd_wire_create create;
        char name[8];
};

/* As many as there is room for, each with a name of its own. */
static void make_items(struct create_item *items, unsigned count) {
        char name[16];

        for (unsigned i = 0; i < count; i++) {
                items[i].create = (struct shmd_wire_create) { .size = 1, .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 8 };
                snprintf(name, sizeof(name), "item/%03u", i);
                memcpy(items[i].name, name, sizeof(items[i].name));
        }
}

/* One who is told of what he does himself, so that the daemon finds in the middle of it that he is gone. */
START_TEST(test_gone_in_the_middle) {
        const struct shmd_wire_many many = { .count = ITEMS };
        const struct shmd_wire_watch watch = { .prefix_size = 4 };
        static struct create_item items[ITEMS];
        struct raw gone;
        int before;

        before = daemon_count_descriptors(&the_daemon);
        make_items(items, ITEMS);
        raw_connect(&gone, the_daemon.socket);
        daemon_pause(&the_daemon);
        ck_assert_int_eq(raw_request(&gone, SHMD_OP_WATCH, &watch, "item", 4, NULL, 0), 0);
        ck_assert_int_eq(raw_request(&gone, SHMD_OP_CREATE_MANY, &many, items, sizeof(items), NULL, 0), 0);
        ck_assert_int_eq(shutdown(gone.fd, SHUT_RD), 0); /* what is told him now is an error */
        daemon_resume(&the_daemon);
        daemon_settle(&the_daemon, 1);
        raw_close(&gone);
        ck_assert_uint_eq(daemon_status(&the_daemon).holds, 0);
        ck_assert_uint_lt(daemon_status(&the_daemon).segments, ITEMS);
        daemon_unlink_all(&the_daemon);
        daemon_await_segments(&the_daemon, 0);
        if (before >= 0)
                TEST_UNTIL(daemon_count_descriptors(&the_daemon) == before, "their descriptors to be closed");
}
END_TEST

/* An item is as long as it says, and what it is padded with is zero. */
START_TEST(test_padding_of_items) {
        const struct shmd_wire_many many = { .count = 2 };
        struct create_item items[2];
        struct raw_reply reply;

        make_items(items, 2);
        items[1].create.name_size = 7;
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_CREATE_MANY, &many, items, sizeof(items), &reply), SHMD_MALFORMED);
        items[1].name[7] = '\0';
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_CREATE_MANY, &many, items, sizeof(items) - 8, &reply), SHMD_MALFORMED);
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_CREATE_MANY, &many, items, sizeof(items), &reply), SHMD_OK);
        raw_reply_done(&reply);
}
END_TEST

#define WAITERS 80

/* The name comes, goes, and comes again while those who wait are still being answered: each gets one answer. */
START_TEST(test_awaited_twice) {
        const struct shmd_wire_create create = { .size = 1, .mode = 0600, .flags = SHMD_WIRE_WRITE, .name_size = 6 };
        const struct shmd_wire_open await = { .target.name_size = 6, .flags = SHMD_WIRE_WAIT, .timeout_usec = UINT64_MAX };
        const struct shmd_wire_unlink unlink_ = { .target.name_size = 6 };
        struct raw_reply reply;
        struct raw waits;

        raw_connect(&waits, the_daemon.socket);
        for (unsigned i = 0; i < WAITERS; i++)
                ck_assert_int_eq(raw_request(&waits, SHMD_OP_OPEN, &await, "number", 6, NULL, 0), 0);
        raw_status(&waits, &(struct shmd_wire_status_reply) { 0 }); /* they all wait */
        daemon_pause(&the_daemon);
        ck_assert_int_eq(raw_request(&raw, SHMD_OP_CREATE, &create, "number", 6, NULL, 0), 0);
        ck_assert_int_eq(raw_request(&raw, SHMD_OP_UNLINK, &unlink_, "number", 6, NULL, 0), 0);
        ck_assert_int_eq(raw_request(&raw, SHMD_OP_CREATE, &create, "number", 6, NULL, 0), 0);
        daemon_resume(&the_daemon);
        for (unsigned i = 0; i < WAITERS; i++) {
                raw_receive(&waits, &reply);
                ck_assert_uint_eq(reply.header.operation, SHMD_OP_OPEN);
                ck_assert_uint_eq(reply.header.status, SHMD_OK);
                raw_reply_done(&reply);
        }
        raw_status(&waits, &(struct shmd_wire_status_reply) { 0 });
        raw_close(&waits);
        reconnect();
}
END_TEST

/* Another user's creation is not one's own, whatever number he chose for it. */
static void create_as_another(int channel, void *userdata) {
        struct raw_reply reply;

        (void) channel;
        reconnect();
        ck_assert_uint_eq(raw_call(&raw, SHMD_OP_CREATE, userdata, "number", 6, &reply), SHMD_EXISTS);
        raw_close(&raw);
}

START_TEST(test_token_of_another) {
        struct shmd_wire_create request = { .size = 1, .mode = 0666, .flags = SHMD_WIRE_WRITE, .name_size = 6, .token = 77 };
        struct child child;

        if (!test_as_root("test_token_of_another"))
                return;
        ck_assert_uint_eq(try_create(&request), SHMD_OK);
        ck_assert_uint_eq(try_create(&request), SHMD_OK); /* asked again */
        child_start_as(&child, &alice, create_as_another, &request);
        child_join(&child);
        reconnect();
}
END_TEST

START_TEST(test_half_closed) {
        struct raw_reply reply;

        raw_request(&raw, SHMD_OP_STATUS, &(struct shmd_wire_status) { 0 }, NULL, 0, NULL, 0);
        ck_assert_int_eq(shutdown(raw.fd, SHUT_WR), 0);
        raw_receive(&raw, &reply);
        daemon_settle(&the_daemon, 0);

        reconnect();
        ck_assert_int_eq(shutdown(raw.fd, SHUT_RD), 0);
        raw_request(&raw, SHMD_OP_STATUS, &(struct shmd_wire_status) { 0 }, NULL, 0, NULL, 0);
        check_daemon_is_well();
        raw_close(&raw);
        raw_connect(&raw, the_daemon.socket);
}
END_TEST

#define PIPELINED 100000

/*
 * Sends that many requests and reads nothing; where the daemon lets it wait, somebody else is served first.
 * Gives how many went out before the daemon hung up, or would take no more.
 */
static unsigned pipeline(enum shmd_operation operation) {
        unsigned sent = 0, refused = 0;

        good_request(operation);
        while (sent < PIPELINED && refused < 200) {
                size_t size = good_request(operation);
                ssize_t n = send(raw.fd, message, size, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n >= 0) {
                        sent++;
                        refused = 0;
                } else if (errno == EAGAIN) {
                        refused++;
                        daemon_status(&the_daemon);
                } else
                        break;
        }
        return sent;
}

/* Fails if replies are kept without end, or if one who does not read makes others wait. */
static void never_read(enum shmd_operation operation) {
        const uint64_t memory = daemon_own_memory(&the_daemon);
        const int descriptors = daemon_count_descriptors(&the_daemon);

        ck_assert_int_eq(raw_create(&the_daemon.control, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        ck_assert_uint_gt(pipeline(operation), 0);
        check_daemon_is_well();
        if (!test_has_sanitizers())
                ck_assert_uint_lt(daemon_own_memory(&the_daemon), memory + (4 << 20));
        if (descriptors >= 0)
                ck_assert_int_lt(daemon_count_descriptors(&the_daemon), descriptors + 300);
        reconnect();
        daemon_reconnect(&the_daemon);
}

static const enum shmd_operation pipelined[] = { SHMD_OP_STATUS, SHMD_OP_OPEN, SHMD_OP_STAT, SHMD_OP_LIST };

START_TEST(test_never_reads) {
        never_read(pipelined[_i]);
}
END_TEST

/* A hundred of them at once: what they pin is bounded, too, and the one who reads is served. */
START_TEST(test_many_never_read) {
        const uint64_t memory = daemon_own_memory(&the_daemon);
        struct raw deaf[100];
        size_t size;

        ck_assert_int_eq(raw_create(&the_daemon.control, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        for (size_t i = 0; i < ELEMENTSOF(deaf); i++) {
                raw_connect(&deaf[i], the_daemon.socket);
                do
                        size = good_request(pipelined[i % ELEMENTSOF(pipelined)]);
                while (send(deaf[i].fd, message, size, MSG_DONTWAIT | MSG_NOSIGNAL) > 0);
        }
        for (int i = 0; i < 100; i++)
                check_daemon_is_well();
        if (!test_has_sanitizers())
                ck_assert_uint_lt(daemon_own_memory(&the_daemon), memory + (8 << 20));
        for (size_t i = 0; i < ELEMENTSOF(deaf); i++)
                raw_close(&deaf[i]);
        daemon_reconnect(&the_daemon);
}
END_TEST

/* Whatever was answered before is in order and whole, once the client does read. */
START_TEST(test_reads_late) {
        const uint32_t first = raw.serial + 1;
        unsigned sent = 0;
        struct raw_reply reply;

        /* as many as fit while nobody reads, or 1000 */
        while (sent < 1000) {
                good_request(SHMD_OP_STATUS);
                if (send(raw.fd, message, sizeof(struct shmd_wire_header) + 8, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                        break;
                sent++;
        }
        for (unsigned i = 0; i < sent; i++) {
                raw_receive(&raw, &reply);
                if (reply.size == 0) /* it had enough of us: its right */
                        break;
                ck_assert_uint_eq(reply.header.serial, first + i);
                ck_assert_uint_eq(reply.header.status, SHMD_OK);
        }
        check_daemon_is_well();
}
END_TEST

/* Many that never say anything, not even HELLO. */
START_TEST(test_silent_clients) {
        struct raw silent[200];

        for (size_t i = 0; i < ELEMENTSOF(silent); i++)
                raw_open(&silent[i], the_daemon.socket);
        check_daemon_is_well();
        for (size_t i = 0; i < ELEMENTSOF(silent); i++)
                raw_close(&silent[i]);
        daemon_settle(&the_daemon, 1);
}
END_TEST

/* In and out, with and without a word, and with a request whose answer nobody waits for. */
START_TEST(test_comers_and_goers) {
        struct raw client;

        for (int i = 0; i < 600; i++) {
                raw_open(&client, the_daemon.socket);
                if (i % 3 > 0) {
                        const struct shmd_wire_hello hello = { .version_min = 1, .version_max = 1 };

                        raw_request(&client, SHMD_OP_HELLO, &hello, NULL, 0, NULL, 0);
                }
                if (i % 3 > 1) {
                        const struct shmd_wire_create create = { .size = 4096, .mode = 0600, .flags = SHMD_WIRE_WRITE,
                                                                 .lifetime = WIRE_LIFETIME_HOLDERS, .name_size = 5 };

                        raw_request(&client, SHMD_OP_CREATE, &create, "brief", 5, NULL, 0);
                }
                raw_close(&client);
        }
        daemon_settle(&the_daemon, 1);
        daemon_await_segments(&the_daemon, 0);
        check_daemon_is_well();
}
END_TEST

/* --- what a holder may do to its own descriptor must hurt nobody --- */

START_TEST(test_locks_and_seals) {
        int fd = -EBADF, own = -EBADF;

        ck_assert_int_eq(raw_create(&raw, "victim", 4096, WIRE_LIFETIME_PERSIST, NULL, &fd), SHMD_OK);
        ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
        ck_assert_int_eq(fcntl(fd, F_SETLEASE, F_WRLCK), -1); /* the daemon's guard stands against it */
        ck_assert_int_eq(raw_open_name(&the_daemon.control, "victim", SHMD_WIRE_WRITE | SHMD_WIRE_PRIVATE, NULL, &own),
                         SHMD_OK);
        close(own);
        /* A co-writer may seal; the daemon goes on, and readers may still open it. */
        (void) !fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
        (void) !fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL);
        ck_assert_int_eq(raw_open_name(&the_daemon.control, "victim", SHMD_WIRE_PRIVATE, NULL, &own), SHMD_OK);
        close(own);
        ck_assert_int_eq(raw_unlink(&the_daemon.control, "victim"), SHMD_OK);
        close(fd);
        reconnect();
        daemon_reconnect(&the_daemon);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* Hours of a segment's life in a moment, by somebody who never closes a descriptor: only his own run out. */
START_TEST(test_descriptors_not_closed) {
        char name[32];
        int fds[300];

        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                snprintf(name, sizeof(name), "keep/%zu", i);
                ck_assert_int_eq(raw_create(&raw, name, 1, WIRE_LIFETIME_HOLDERS, NULL, &fds[i]), SHMD_OK);
                ck_assert_int_eq(raw_unlink(&raw, name), SHMD_OK);
        }
        raw_close(&raw); /* the descriptors survive the connection */
        daemon_settle(&the_daemon, 0);
        ck_assert_uint_eq(daemon_status(&the_daemon).unlinked, ELEMENTSOF(fds));
        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                close(fds[i]);
        daemon_await_segments(&the_daemon, 0);
        raw_connect(&raw, the_daemon.socket);
}
END_TEST

static Suite *hostile_suite(void) {
        Suite *suite = suite_create("hostile");
        TCase *tests = test_case(suite, "messages", setup, teardown);
        const int operations = (int) operation_count();

        tcase_add_loop_test(tests, test_wrong_sizes, 0, operations);
        tcase_add_test(tests, test_largest_messages);
        tcase_add_test(tests, test_empty_datagram);
        tcase_add_test(tests, test_unknown_operations);
        tcase_add_test(tests, test_unknown_operation_is_unsupported);
        tcase_add_test(tests, test_status_in_request);
        tcase_add_test(tests, test_good_requests);
        tcase_add_loop_test(tests, test_padding, 0, ELEMENTSOF(paddings));
        tcase_add_test(tests, test_padding_of_items);
        tcase_add_test(tests, test_token_of_another);
        tcase_add_test(tests, test_targets);
        tcase_add_test(tests, test_bad_names);
        tcase_add_test(tests, test_impossible_sizes);
        tcase_add_test(tests, test_impossible_numbers);
        tcase_add_test(tests, test_keepers);
        tcase_add_loop_test(tests, test_keepers_user, 0, ELEMENTSOF(keepers_of_alice));
        tcase_add_test(tests, test_guessed_ids);

        tests = test_case(suite, "descriptors", setup, teardown);
        tcase_add_loop_test(tests, test_too_many_descriptors, 0, operations);
        tcase_add_test(tests, test_descriptors_missing);
        tcase_add_test(tests, test_resume_without_right);
        tcase_add_test(tests, test_resume_with_path_descriptor);
        tcase_add_test(tests, test_release_of_what_is_not_held);
        tcase_add_test(tests, test_release_storm);
        tcase_add_test(tests, test_locks_and_seals);
        tcase_add_test(tests, test_descriptors_not_closed);

        tests = test_case(suite, "connections", setup, teardown);
        tcase_add_test(tests, test_hello_missing);
        tcase_add_test(tests, test_hello_twice);
        tcase_add_loop_test(tests, test_hello_versions, 0, ELEMENTSOF(hellos));
        tcase_add_test(tests, test_generation_page_is_read_only);
        tcase_add_test(tests, test_half_read_reply);
        tcase_add_test(tests, test_gone_before_answer);
        tcase_add_test(tests, test_gone_in_the_middle);
        tcase_add_test(tests, test_awaited_twice);
        tcase_add_test(tests, test_half_closed);
        tcase_add_loop_test(tests, test_never_reads, 0, ELEMENTSOF(pipelined));
        tcase_add_test(tests, test_many_never_read);
        tcase_add_test(tests, test_reads_late);
        tcase_add_test(tests, test_silent_clients);
        tcase_add_test(tests, test_comers_and_goers);
        return suite;
}

int main(void) {
        return test_run(hostile_suite());
}
