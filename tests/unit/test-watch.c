/* SPDX-License-Identifier: MIT */
/* Which watches a name concerns: daemon/core/watch.h; one rule a test, then a random walk beside a list that is searched. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util.h"
#include "watch.h"

static struct watch_index watches;

static void setup(void) {
        watch_index_init(&watches);
}

static void insert(struct watch *watch, const char *prefix, bool exact) {
        watch_insert(&watches, watch, prefix, strlen(prefix), exact);
}

/* What concerns a name: these, in this order. */
static void expect(const char *name, struct watch *const *expected, size_t count) {
        struct watch *watch = NULL;

        for (size_t i = 0; i < count; i++) {
                watch = watch_next(&watches, name, strlen(name), watch);
                ck_assert_ptr_eq(watch, expected[i]);
        }
        ck_assert_ptr_null(watch_next(&watches, name, strlen(name), watch));
}

#define EXPECT(name, ...) \
        expect(name, (struct watch *const[]) { __VA_ARGS__ }, ELEMENTSOF(((struct watch *const[]) { __VA_ARGS__ })))
#define EXPECT_NONE(name) expect(name, NULL, 0)

START_TEST(test_none) {
        EXPECT_NONE("");
        EXPECT_NONE("a");
}
END_TEST

START_TEST(test_prefixes) {
        struct watch all, a, a_slash, ab, b;

        insert(&ab, "ab", false);
        insert(&a_slash, "a/", false);
        insert(&b, "b", false);
        insert(&all, "", false);
        insert(&a, "a", false);
        EXPECT("a", &all, &a); /* the shorter first */
        EXPECT("a/b", &all, &a, &a_slash);
        EXPECT("ab", &all, &a, &ab);
        EXPECT("abc", &all, &a, &ab);
        EXPECT("ba", &all, &b);
        EXPECT("c", &all);
        EXPECT("\xff", &all);
}
END_TEST

START_TEST(test_exact) {
        struct watch exact, prefix, longer;

        insert(&exact, "a/b", true);
        insert(&prefix, "a/b", false);
        insert(&longer, "a/b/c", true);
        EXPECT("a/b", &exact, &prefix);
        EXPECT("a/b/c", &prefix, &longer);
        EXPECT("a/b/cd", &prefix);
        EXPECT("a/bc", &prefix);
        EXPECT_NONE("a/");
        EXPECT_NONE("a");
        watch_remove(&watches, &prefix);
        EXPECT("a/b", &exact);
        EXPECT("a/b/c", &longer);
        EXPECT_NONE("a/b/d");
}
END_TEST

/* A watch on the very name "" concerns nothing that has a name. */
START_TEST(test_exactly_nothing) {
        struct watch nothing;

        insert(&nothing, "", true);
        EXPECT_NONE("a");
        EXPECT("", &nothing);
}
END_TEST

/* Of the same prefix: in the order in which they came, whatever goes between. */
START_TEST(test_same_prefix) {
        struct watch same[20];
        bool gone[ELEMENTSOF(same)] = { false };

        for (size_t i = 0; i < ELEMENTSOF(same); i++)
                insert(&same[i], "name", i % 3 == 0);
        for (size_t removed = 0; removed < ELEMENTSOF(same); removed++) {
                struct watch *expected[ELEMENTSOF(same)], *expected_prefixes[ELEMENTSOF(same)];
                size_t n = 0, n_prefixes = 0, next = removed * 7 % ELEMENTSOF(same);

                for (size_t i = 0; i < ELEMENTSOF(same); i++) {
                        if (gone[i])
                                continue;
                        expected[n++] = &same[i];
                        if (!same[i].exact)
                                expected_prefixes[n_prefixes++] = &same[i];
                }
                expect("name", expected, n);
                expect("names", expected_prefixes, n_prefixes);
                watch_remove(&watches, &same[next]);
                gone[next] = true;
        }
        EXPECT_NONE("name");
}
END_TEST

START_TEST(test_longest) {
        char name[SHMD_NAME_MAX + 1] = { 0 };
        struct watch longest, longest_exact, shorter;

        memset(name, 'x', SHMD_NAME_MAX);
        insert(&longest, name, false);
        insert(&longest_exact, name, true);
        name[SHMD_NAME_MAX - 1] = '\0';
        insert(&shorter, name, false);
        EXPECT(name, &shorter);
        name[SHMD_NAME_MAX - 1] = 'x';
        EXPECT(name, &shorter, &longest, &longest_exact);
        name[SHMD_NAME_MAX - 1] = 'y';
        EXPECT(name, &shorter);
}
END_TEST

/* Names have no terminating zero that anybody may look for, nor signs. */
START_TEST(test_bytes) {
        struct watch high, low, zero;

        watch_insert(&watches, &high, "\xffxx", 1, false);
        watch_insert(&watches, &low, "\x01xx", 1, false);
        watch_insert(&watches, &zero, "a\0b", 3, true);
        ck_assert_ptr_eq(watch_next(&watches, "\xffyy", 2, NULL), &high);
        ck_assert_ptr_null(watch_next(&watches, "\xffyy", 2, &high));
        ck_assert_ptr_eq(watch_next(&watches, "\x01", 1, NULL), &low);
        ck_assert_ptr_eq(watch_next(&watches, "a\0b", 3, NULL), &zero);
        ck_assert_ptr_null(watch_next(&watches, "a\0c", 3, NULL));
        ck_assert_ptr_null(watch_next(&watches, "a\0b", 2, NULL)); /* what is behind the name is none of it */
}
END_TEST

/* Who is told may end its watch, if its successor was asked for first. */
START_TEST(test_removed_while_told) {
        struct watch some[6], *watch, *next;
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(some); i++)
                insert(&some[i], i % 2 == 0 ? "a" : "ab", i == 4);
        for (watch = watch_next(&watches, "abc", 3, NULL); watch; watch = next) {
                next = watch_next(&watches, "abc", 3, watch);
                watch_remove(&watches, watch);
                n++;
        }
        ck_assert_uint_eq(n, 5);
        EXPECT("a", &some[4]);
        EXPECT_NONE("abc");
}
END_TEST

/* --- the walk --- */

#define WATCHES 150
#define STEPS 20000u

static struct {
        struct watch real;
        bool used, exact;
        uint64_t number; /* the order of coming */
        size_t size;
        char prefix[SHMD_NAME_MAX];
} model[WATCHES];
static uint64_t random_state, seed;

/* splitmix64 */
static unsigned below(unsigned n) {
        uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return (unsigned) ((z ^ (z >> 31)) % n);
}

/* Of few bytes, so that many begin alike; mostly short, some as long as can be. */
static size_t any_name(char name[SHMD_NAME_MAX]) {
        static const char bytes[] = { 'a', 'a', 'b', '/', '\xff', '\0' };
        size_t size = below(10) == 0 ? SHMD_NAME_MAX - below(4) : below(6);

        for (size_t i = 0; i < size; i++)
                name[i] = size > 10 && below(200) != 0 ? 'a' : bytes[below(sizeof(bytes))];
        return size;
}

static bool comes_before(size_t a, size_t b) {
        return model[a].size != model[b].size ? model[a].size < model[b].size : model[a].number < model[b].number;
}

/* The first that the name concerns and that comes after one; or -1. */
static int model_next(const char *name, size_t size, int last) {
        int first = -1;

        for (int i = 0; i < WATCHES; i++) {
                if (!model[i].used || model[i].size > size || memcmp(model[i].prefix, name, model[i].size) != 0)
                        continue;
                if (model[i].exact && model[i].size != size)
                        continue;
                if (last >= 0 && !comes_before((size_t) last, (size_t) i))
                        continue;
                if (first < 0 || comes_before((size_t) i, (size_t) first))
                        first = i;
        }
        return first;
}

static void compare(const char *name, size_t size, uint64_t step) {
        struct watch *watch = NULL;
        int last = -1;

        for (;;) {
                int expected = model_next(name, size, last);

                watch = watch_next(&watches, name, size, watch);
                if (watch != (expected < 0 ? NULL : &model[expected].real))
                        ck_abort_msg("SHMD_TEST_SEED=%" PRIu64 ", step %" PRIu64 ": not the same", seed, step);
                if (expected < 0)
                        return;
                last = expected;
        }
}

static void compare_lengths(void) {
        for (size_t size = 0; size <= SHMD_NAME_MAX; size++) {
                unsigned n = 0;

                for (size_t i = 0; i < WATCHES; i++)
                        n += model[i].used && model[i].size == size;
                ck_assert_uint_eq(watches.lengths[size], n);
        }
}

static void walk(uint64_t steps) {
        for (uint64_t step = 0; step < steps; step++) {
                /* Now many, now few. */
                unsigned i = below(step / 2000 % 2 == 0 ? WATCHES : 12);
                char name[SHMD_NAME_MAX];
                size_t size;

                if (model[i].used) {
                        watch_remove(&watches, &model[i].real);
                        memset(&model[i].real, 0xff, sizeof(model[i].real));
                        model[i].used = false;
                } else {
                        model[i].size = any_name(model[i].prefix);
                        model[i].exact = below(3) == 0;
                        model[i].number = step;
                        model[i].used = true;
                        watch_insert(&watches, &model[i].real, model[i].prefix, model[i].size, model[i].exact);
                }
                size = any_name(name);
                compare(name, size, step);
                compare(model[i].prefix, model[i].size, step);
                if (step % 500 == 0)
                        compare_lengths();
        }
        for (size_t i = 0; i < WATCHES; i++)
                if (model[i].used) {
                        watch_remove(&watches, &model[i].real);
                        model[i].used = false;
                }
        compare_lengths();
        ck_assert(RB_EMPTY(&watches.watches));
}

/* 0: always the same. 1: a new one, or the one that is asked for. */
START_TEST(test_walk) {
        seed = 4711;
        if (_i == 1) {
                const char *value = getenv("SHMD_TEST_SEED");
                struct timespec time;

                clock_gettime(CLOCK_REALTIME, &time);
                seed = (uint64_t) time.tv_nsec ^ (uint64_t) getpid() << 32;
                if (value && value[0] != '\0')
                        seed = strtoull(value, NULL, 0);
        }
        printf("SHMD_TEST_SEED=%" PRIu64 "\n", seed);
        fflush(stdout);
        random_state = seed;
        walk(STEPS);
}
END_TEST

static Suite *watch_suite(void) {
        Suite *suite = suite_create("watch");
        TCase *tests = tcase_create("watch");

        tcase_add_checked_fixture(tests, setup, NULL);
        tcase_set_timeout(tests, 30);
        tcase_add_test(tests, test_none);
        tcase_add_test(tests, test_prefixes);
        tcase_add_test(tests, test_exact);
        tcase_add_test(tests, test_exactly_nothing);
        tcase_add_test(tests, test_same_prefix);
        tcase_add_test(tests, test_longest);
        tcase_add_test(tests, test_bytes);
        tcase_add_test(tests, test_removed_while_told);
        tcase_add_loop_test(tests, test_walk, 0, 2);
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(watch_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
