/* SPDX-License-Identifier: MIT */
/* How often something may be said: daemon/core/throttle.h. The time is the test's own. */
#include <check.h>
#include <stdlib.h>
#include <unistd.h>

#include "throttle.h"
#include "util.h"

#define START UINT64_C(1000000000)

static struct throttle throttle;
static struct throttle_summary summary;

static void setup(void) {
        throttle_init(&throttle);
}

static unsigned admit(unsigned kind, int64_t uid, uint64_t now, unsigned attempts) {
        unsigned admitted = 0;

        for (unsigned i = 0; i < attempts; i++)
                admitted += throttle_admit(&throttle, kind, uid, now);
        return admitted;
}

START_TEST(test_burst) {
        ck_assert_uint_eq(admit(1, 1000, START, THROTTLE_BURST), THROTTLE_BURST);
        ck_assert_uint_eq(throttle_next_usec(&throttle), UINT64_MAX); /* nothing is missing: no timer */
        ck_assert_uint_eq(admit(1, 1000, START, 10000), 0);
        ck_assert_uint_eq(throttle_next_usec(&throttle), START + THROTTLE_INTERVAL_USEC);
}
END_TEST

/* The clock may be anything but zero, as shortly after boot. */
START_TEST(test_early) {
        ck_assert_uint_eq(admit(1, 1000, 1, 10000), THROTTLE_BURST);
        ck_assert_uint_eq(throttle_next_usec(&throttle), 1 + THROTTLE_INTERVAL_USEC);
}
END_TEST

START_TEST(test_kinds_and_users) {
        admit(1, 1000, START, 10000);
        ck_assert_uint_eq(admit(1, 1001, START, 1), 1);
        ck_assert_uint_eq(admit(2, 1000, START, 1), 1);
        ck_assert_uint_eq(admit(1, THROTTLE_NOBODY, START, 1), 1);
        ck_assert_uint_eq(admit(1, 1000, START, 1), 0);
}
END_TEST

START_TEST(test_summary) {
        admit(3, 1000, START, THROTTLE_BURST + 7);
        ck_assert(!throttle_take_summary(&throttle, START + THROTTLE_INTERVAL_USEC - 1, &summary));
        ck_assert(throttle_take_summary(&throttle, START + THROTTLE_INTERVAL_USEC, &summary));
        ck_assert_uint_eq(summary.suppressed, 7);
        ck_assert_int_eq(summary.uid, 1000);
        ck_assert_uint_eq(summary.kind, 3);
        ck_assert(!throttle_take_summary(&throttle, START + THROTTLE_INTERVAL_USEC, &summary));
        ck_assert_uint_eq(throttle_next_usec(&throttle), UINT64_MAX);
}
END_TEST

/* It stands for a line: until it has been said there is no other, and after it the next has to wait. */
START_TEST(test_summary_comes_first) {
        uint64_t due = START + THROTTLE_INTERVAL_USEC;

        admit(3, 1000, START, THROTTLE_BURST + 1);
        ck_assert_uint_eq(admit(3, 1000, due, 1), 0);
        ck_assert(throttle_take_summary(&throttle, due, &summary));
        ck_assert_uint_eq(summary.suppressed, 2);
        ck_assert_uint_eq(admit(3, 1000, due, 1), 0);
        ck_assert_uint_eq(throttle_next_usec(&throttle), due + THROTTLE_INTERVAL_USEC);
}
END_TEST

/* An attack that goes on for an hour is a line each interval, and every one of its messages is counted. */
START_TEST(test_flood) {
        uint64_t end = START + UINT64_C(3600) * 1000000, told = 0;
        unsigned lines = 0, attempts = 0;

        for (uint64_t now = START; now < end; now += 500000) {
                unsigned admitted = admit(3, 1000, now, 10);

                attempts += 10;
                told += admitted;
                lines += admitted;
                for (; throttle_take_summary(&throttle, now, &summary); lines++)
                        told += summary.suppressed;
        }
        for (; throttle_take_summary(&throttle, UINT64_MAX, &summary); lines++)
                told += summary.suppressed;
        ck_assert_uint_eq(told, attempts);
        ck_assert_uint_le(lines, THROTTLE_BURST + 3600 * UINT64_C(1000000) / THROTTLE_INTERVAL_USEC + 1);
}
END_TEST

START_TEST(test_tokens_come_back) {
        admit(3, 1000, START, THROTTLE_BURST);
        ck_assert_uint_eq(admit(3, 1000, START + THROTTLE_INTERVAL_USEC, 1), 1);
        ck_assert_uint_eq(admit(3, 1000, START + 100 * THROTTLE_INTERVAL_USEC, 10), THROTTLE_BURST);
}
END_TEST

/* More users than there is room for: together they have one bucket a kind, and it is the others' places that stay. */
START_TEST(test_many_users) {
        unsigned admitted = 0;

        for (int64_t uid = 0; uid < 70000; uid++)
                admitted += throttle_admit(&throttle, 4, uid, START);
        ck_assert_uint_eq(admitted, THROTTLE_BUCKETS + THROTTLE_BURST);
        ck_assert(throttle_take_summary(&throttle, UINT64_MAX, &summary));
        ck_assert_int_eq(summary.uid, THROTTLE_OTHERS);
        ck_assert_uint_eq(summary.suppressed, 70000 - admitted);
        ck_assert_uint_eq(admit(5, 1, START, 1), 1); /* another kind's has its own */
        /* When the first ones are full again, there is room. */
        ck_assert_uint_eq(admit(4, 80000, START + THROTTLE_INTERVAL_USEC, 2), 2);
}
END_TEST

static Suite *throttle_suite(void) {
        Suite *suite = suite_create("throttle");
        TCase *tests = tcase_create("throttle");

        tcase_add_checked_fixture(tests, setup, NULL);
        tcase_add_test(tests, test_burst);
        tcase_add_test(tests, test_early);
        tcase_add_test(tests, test_kinds_and_users);
        tcase_add_test(tests, test_summary);
        tcase_add_test(tests, test_summary_comes_first);
        tcase_add_test(tests, test_flood);
        tcase_add_test(tests, test_tokens_come_back);
        tcase_add_test(tests, test_many_users);
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(throttle_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
