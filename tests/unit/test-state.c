/* SPDX-License-Identifier: MIT */
/* The state log: what is written is read, what is not committed is not, and damage costs itself. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "state.h"
#include "util.h"

#define ROOM 65536u
#define RECORDS 20u

static _Alignas(8) unsigned char memory[ROOM];
static struct state_log state_log;
static struct segment segment;

/* What a reader was told, in order. */
static struct told {
        uint64_t id[64];
        char name[64][SHMD_NAME_MAX + 1];
        bool gone[64];
        uint64_t token[64];
        unsigned count, damaged;
        size_t damaged_bytes;
        struct state_cause done;
        uint64_t done_age;
        struct state_segment last;
} told;

static void on_segment(const struct state_segment *state, const struct state_cause *cause, void *userdata) {
        (void) userdata;
        told.id[told.count] = state->id;
        memcpy(told.name[told.count], state->plan.name, state->plan.name_size);
        told.token[told.count] = cause->token;
        told.last = *state;
        told.count++;
}

static void on_gone(uint64_t id, const struct state_cause *cause, void *userdata) {
        (void) cause;
        (void) userdata;
        told.id[told.count] = id;
        told.gone[told.count] = true;
        told.count++;
}

static void on_done(uint64_t age, const struct state_cause *cause, void *userdata) {
        (void) userdata;
        told.done_age = age;
        told.done = *cause;
}

static void on_damaged(size_t offset, size_t size, void *userdata) {
        (void) offset;
        (void) userdata;
        told.damaged++;
        told.damaged_bytes += size;
}

static void read_all(void) {
        static const struct state_reader reader = { .segment = on_segment, .gone = on_gone, .done = on_done, .damaged = on_damaged };

        memset(&told, 0, sizeof(told));
        ck_assert_int_eq(state_check(memory, ROOM), 0);
        state_read(memory, ROOM, &reader);
}

static void setup(void) {
        memset(memory, 0, sizeof(memory));
        state_begin(&state_log, memory, ROOM, 7);
        segment = (struct segment) {
                .id = 1,
                .size = 100,
                .maximum = 200,
                .name = (char *) "name",
                .name_size = 4,
                .labels = (char *) "a=b",
                .labels_size = 3,
                .owner = { 1, 2, 0640 },
                .state = WIRE_STATE_PUBLISHED,
                .token = 99,
                .sysv = { .key = 0x44, .shmid = 70000, .creator_uid = 21, .creator_gid = 22, .creator_pid = 23, .changed_sec = 24,
                          .made = true, .exported = true },
                .creator = { .token = 5, .pid = 6, .uid = 7, .started = 8, .command = "cmd", .unit = "u.service", .executable = "/bin/x" },
        };
}

static void append_many(unsigned count) {
        for (unsigned i = 0; i < count; i++) {
                char name[16];

                snprintf(name, sizeof(name), "s%02u", i);
                segment.id = i + 1;
                segment.name = name;
                segment.name_size = 3;
                (void) state_append(&state_log, &segment);
        }
        state_commit(&state_log);
}

START_TEST(test_round_trip) {
        struct segment_times *times;

        state_log.cause = (struct state_cause) { .token = 11, .uid = 13, .serial = 12 };
        times = state_append(&state_log, &segment);
        state_append_gone(&state_log, 3);
        state_commit(&state_log);
        times->idle_usec = 77;
        read_all();
        ck_assert_uint_eq(told.count, 2);
        ck_assert_uint_eq(told.damaged, 0);
        ck_assert_uint_eq(told.token[0], 11);
        ck_assert(told.gone[1]);
        ck_assert_uint_eq(told.id[1], 3);
        ck_assert_uint_eq(told.last.plan.size, 100);
        ck_assert_uint_eq(told.last.plan.maximum, 200);
        ck_assert_uint_eq(told.last.sysv.key, 0x44);
        ck_assert_int_eq(told.last.sysv.shmid, 70000);
        ck_assert_uint_eq(told.last.sysv.creator_uid, 21);
        ck_assert_uint_eq(told.last.sysv.creator_gid, 22);
        ck_assert_int_eq(told.last.sysv.creator_pid, 23);
        ck_assert_int_eq(told.last.sysv.changed_sec, 24);
        ck_assert(told.last.sysv.made && told.last.sysv.exported && !told.last.sysv.registered);
        ck_assert_uint_eq(told.last.plan.token, 99);
        ck_assert_uint_eq(told.last.owner.mode, 0640);
        ck_assert_uint_eq(told.last.times.idle_usec, 77);
        ck_assert_uint_eq(told.last.creator.token, 5);
        ck_assert_str_eq(told.last.creator.unit, "u.service");
        ck_assert_str_eq(told.last.creator.executable, "/bin/x");
        ck_assert_str_eq(told.last.creator.command, "cmd");
        ck_assert_mem_eq(told.last.plan.labels, "a=b", 3);
}
END_TEST

/* Nothing counts before it is committed, and then all of it. */
START_TEST(test_commit) {
        (void) state_append(&state_log, &segment);
        (void) state_append(&state_log, &segment);
        read_all();
        ck_assert_uint_eq(told.count, 0);
        state_commit(&state_log);
        read_all();
        ck_assert_uint_eq(told.count, 2);
}
END_TEST

/* Each single byte of each record but its times: the others are read, and it is told. */
START_TEST(test_every_damaged_byte) {
        size_t end;

        append_many(RECORDS);
        end = state_log.position;
        for (size_t offset = sizeof(struct state_header); offset < end; offset++) {
                memory[offset] ^= 0x10;
                read_all();
                if (told.count == RECORDS)
                        ck_assert_uint_eq(told.damaged, 0); /* the times: no checksum */
                else {
                        ck_assert_uint_eq(told.count, RECORDS - 1);
                        ck_assert_uint_eq(told.damaged, 1);
                }
                memory[offset] ^= 0x10;
        }
        /* Three words of time in each record. */
}
END_TEST

START_TEST(test_torn_end) {
        append_many(3);
        state_header(&state_log)->end -= 8;
        read_all();
        ck_assert_uint_eq(told.count, 2);
        ck_assert_uint_eq(told.damaged, 1);
}
END_TEST

/* An end that can't be: what is sound counts. */
START_TEST(test_damaged_end) {
        append_many(3);
        state_header(&state_log)->end = _i == 0 ? ROOM + 8 : 8;
        read_all();
        ck_assert_uint_eq(told.count, 3);
        ck_assert_uint_eq(told.damaged, 1);
}
END_TEST

/* What was done for whom, where nothing else tells of it any more. */
START_TEST(test_done) {
        const struct state_cause cause = { .token = 21, .uid = 22, .serial = 23 };

        state_append_done(&state_log, &cause, 5);
        (void) state_append(&state_log, &segment);
        state_commit(&state_log);
        read_all();
        ck_assert_mem_eq(&told.done, &cause, sizeof(cause));
        ck_assert_uint_eq(told.done_age, 5);
        ck_assert_uint_eq(told.token[0], 0);
        ck_assert_uint_eq(told.damaged, 0);
}
END_TEST

/* Whatever is in that memory, reading it stays inside of it and comes to an end. */
START_TEST(test_noise) {
        unsigned seed = 1;

        for (unsigned round = 0; round < 300; round++) {
                memset(memory, 0, sizeof(memory));
                state_begin(&state_log, memory, ROOM, 7);
                append_many(RECORDS);
                for (unsigned i = 0; i < 200; i++)
                        memory[sizeof(struct state_header) + (unsigned) rand_r(&seed) % (ROOM - sizeof(struct state_header))] =
                                (unsigned char) rand_r(&seed);
                read_all();
                ck_assert_uint_le(told.count, RECORDS);
        }
}
END_TEST

/* --- records of other versions --- */

/* As it is written, for daemons of other versions to rely on: size, checksum, fixed_size, the fixed part. */
enum { AT_SIZE = 4, AT_CHECKSUM = 8, AT_TYPE = 12, AT_FIXED_SIZE = 14, AT_TIMES = 40, AT_FIXED = 64 };

static void put16(unsigned char *to, uint16_t value) {
        memcpy(to, &value, sizeof(value));
}

static void put32(unsigned char *to, uint32_t value) {
        memcpy(to, &value, sizeof(value));
}

static uint32_t get32(const unsigned char *from) {
        uint32_t value;

        memcpy(&value, from, sizeof(value));
        return value;
}

static uint16_t get16(const unsigned char *from) {
        uint16_t value;

        memcpy(&value, from, sizeof(value));
        return value;
}

static void seal(unsigned char *record) {
        uint32_t size = get32(record + AT_SIZE);
        uLong sum = crc32(size, record + AT_TYPE, AT_TIMES - AT_TYPE);

        put32(record + AT_CHECKSUM, (uint32_t) crc32(sum, record + AT_FIXED, size - AT_FIXED));
}

/* A newer daemon's fixed part is longer by that many bytes, an older one's shorter (negative). */
static void make_other_version(int more) {
        unsigned char *record = memory + sizeof(struct state_header);
        uint16_t fixed_size = get16(record + AT_FIXED_SIZE);
        uint32_t size = get32(record + AT_SIZE);
        unsigned char copy[4096];

        memcpy(copy, record, size);
        memset(record + AT_FIXED + fixed_size, 0xee, (size_t) MAX(more, 0));
        memcpy(record + AT_FIXED + fixed_size + more, copy + AT_FIXED + fixed_size, size - AT_FIXED - fixed_size);
        put16(record + AT_FIXED_SIZE, (uint16_t) (fixed_size + more));
        put32(record + AT_SIZE, (uint32_t) ((int) size + more));
        seal(record);
        state_header(&state_log)->end = state_log.position = sizeof(struct state_header) + (size_t) ((int) size + more);
}

START_TEST(test_newer_and_older) {
        static const int more[] = { 24, -32, -56 };

        (void) state_append(&state_log, &segment);
        state_commit(&state_log);
        make_other_version(more[_i]);
        read_all();
        ck_assert_uint_eq(told.damaged, 0);
        ck_assert_uint_eq(told.count, 1);
        ck_assert_str_eq(told.name[0], "name");
        ck_assert_str_eq(told.last.creator.unit, "u.service");
        ck_assert_uint_eq(told.last.owner.mode, 0640);
        ck_assert_str_eq(told.last.creator.command, _i < 2 ? "cmd" : "");
        ck_assert_uint_eq(told.last.sysv.key, _i == 0 ? 0x44 : 0); /* the last of the fixed part */
}
END_TEST

/* A kind of record that this daemon does not know is passed over. */
START_TEST(test_unknown_type) {
        unsigned char *record = memory + sizeof(struct state_header);

        append_many(3);
        put16(record + AT_TYPE, 77);
        seal(record);
        read_all();
        ck_assert_uint_eq(told.damaged, 0);
        ck_assert_uint_eq(told.count, 2);
}
END_TEST

/* It is told of until what was recorded meanwhile counts. */
START_TEST(test_making) {
        const struct state_making making = { .since_sec = 5, .size = 4096, .key = 0x44, .pid = 12 };

        state_begin_making(&state_log, &making);
        ck_assert_mem_eq(&state_header(&state_log)->making, &making, sizeof(making));
        if (_i == 1)
                append_many(1);
        state_commit(&state_log);
        ck_assert_int_eq(state_header(&state_log)->making.since_sec, 0);
}
END_TEST

START_TEST(test_not_a_log) {
        ck_assert_int_eq(state_check(memory, 10), -EBADMSG);
        state_header(&state_log)->version = STATE_VERSION + 1;
        ck_assert_int_eq(state_check(memory, ROOM), -EPROTONOSUPPORT);
        state_header(&state_log)->version = STATE_VERSION;
        state_header(&state_log)->header_size = ROOM + 8;
        ck_assert_int_eq(state_check(memory, ROOM), -EBADMSG);
        memory[0] = 'x';
        ck_assert_int_eq(state_check(memory, ROOM), -EBADMSG);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("state");
        TCase *tests = tcase_create("state");
        SRunner *runner;
        int failed;

        tcase_add_checked_fixture(tests, setup, NULL);
        tcase_add_test(tests, test_round_trip);
        tcase_add_test(tests, test_commit);
        tcase_add_test(tests, test_every_damaged_byte);
        tcase_add_test(tests, test_torn_end);
        tcase_add_loop_test(tests, test_damaged_end, 0, 2);
        tcase_add_test(tests, test_done);
        tcase_add_test(tests, test_noise);
        tcase_add_loop_test(tests, test_newer_and_older, 0, 3);
        tcase_add_test(tests, test_unknown_type);
        tcase_add_loop_test(tests, test_making, 0, 2);
        tcase_add_test(tests, test_not_a_log);
        suite_add_tcase(suite, tests);
        runner = srunner_create(suite);
        srunner_run_all(runner, CK_ENV);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
