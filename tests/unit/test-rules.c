/* SPDX-License-Identifier: MIT */
/* The [reclaim] sections: protocol/rules.h. What is misread here is freed, or is not. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rules.h"
#include "util.h"

#define SECOND UINT64_C(1000000)
#define DAY (86400 * SECOND)

static struct rules rules;
static char problem[RULE_PROBLEM_MAX];

static void setup(void) {
        rules = (struct rules) { 0 };
        problem[0] = '\0';
}

static void teardown(void) {
        rules_done(&rules);
        ck_assert_uint_eq(rules.count, 0);
}

static bool set(const char *section, const char *key, const char *value) {
        return rules_set(&rules, section, (int) rules.count + 10, key, value, problem);
}

#define SET(section, key, value) ck_assert_msg(set(section, key, value), "%s", problem)
#define REFUSED(section, key, value) ck_assert(!set(section, key, value))

static const char *found(enum rule_kind kind, const char *name, uid_t uid, uint64_t age_usec) {
        const struct rule *rule = rules_find(&rules, kind, name, uid, age_usec);

        return rule ? rule->name : "none";
}

/* --- times --- */

static const struct {
        const char *text;
        uint64_t usec; /* UINT64_MAX: it is none */
} times[] = {
        { "0", 0 },
        { "90", 90 * SECOND },
        { "90s", 90 * SECOND },
        { "10min", 600 * SECOND },
        { "10m", 600 * SECOND },
        { "2h", 7200 * SECOND },
        { "7d", 7 * DAY },
        { "1.5h", 5400 * SECOND },
        { "0.000001s", 1 },
        { "0.0000001s", 0 },
        { "18446744073709s", UINT64_C(18446744073709000000) },
        { "18446744073710s", UINT64_MAX },
        { "213503983d", UINT64_MAX },
        { "99999999999999999999", UINT64_MAX },
        { "", UINT64_MAX },
        { "s", UINT64_MAX },
        { "d", UINT64_MAX },
        { ".5h", UINT64_MAX },
        { "-1", UINT64_MAX },
        { "+1", UINT64_MAX },
        { " 1", UINT64_MAX },
        { "1 h", UINT64_MAX },
        { "1h30", UINT64_MAX },
        { "1e3", UINT64_MAX },
        { "0x10", UINT64_MAX },
        { "1.2.3", UINT64_MAX },
        { "1w", UINT64_MAX },
        { "infinity", UINT64_MAX },
};

START_TEST(test_times) {
        uint64_t usec = 77;
        bool good = rules_parse_time(times[_i].text, &usec);

        ck_assert_msg(good == (times[_i].usec != UINT64_MAX), "\"%s\"", times[_i].text);
        ck_assert_uint_eq(usec, good ? times[_i].usec : 77);
}
END_TEST

/* --- settings --- */

START_TEST(test_sections) {
        ck_assert(rules_is_section("reclaim a"));
        ck_assert(rules_is_section("reclaim a b"));
        ck_assert(!rules_is_section("reclaim"));
        ck_assert(!rules_is_section("reclaim "));
        ck_assert(!rules_is_section("reclaims a"));
        ck_assert(!rules_is_section("limits"));
        ck_assert(!rules_is_section(""));
}
END_TEST

START_TEST(test_defaults) {
        SET("reclaim a", "kind", "posix");
        ck_assert_ptr_null(rules_check(&rules, problem));
        ck_assert_uint_eq(rules.count, 1);
        ck_assert_str_eq(rules.items[0].name, "a");
        ck_assert_int_eq(rules.items[0].line, 10);
        ck_assert_uint_eq(rules.items[0].kinds, RULE_POSIX);
        ck_assert_uint_eq(rules.items[0].age_usec, DAY);
        ck_assert(!rules.items[0].reclaim); /* who says nothing gets a report */
        ck_assert(!rules.items[0].has_uid);
        ck_assert_ptr_null(rules.items[0].pattern);
}
END_TEST

START_TEST(test_refused) {
        REFUSED("reclaim a", "kind", "Posix");
        REFUSED("reclaim a", "kind", "posix sysv");
        REFUSED("reclaim a", "kind", "");
        REFUSED("reclaim a", "action", "delete");
        REFUSED("reclaim a", "action", "");
        REFUSED("reclaim a", "action", "reclaim report");
        REFUSED("reclaim a", "age", "never");
        ck_assert_str_eq(problem, "age takes a time such as 90s, 10min, 2h or 7d, not \"never\"");
        REFUSED("reclaim a", "user", "nobody-of-this-name");
        REFUSED("reclaim a", "user", "");
        REFUSED("reclaim a", "user", "-1");
        REFUSED("reclaim a", "user", "4294967295"); /* means nobody: chown(2) */
        REFUSED("reclaim a", "user", "4294967296");
        REFUSED("reclaim a", "user", "12x");
        REFUSED("reclaim a", "colour", "red");
        ck_assert_str_eq(problem, "no such setting in a [reclaim] section: \"colour\"");
        ck_assert_uint_eq(rules.count, 1);
        ck_assert(!rules.items[0].reclaim);
}
END_TEST

/* However long: it is said in a bounded place. */
START_TEST(test_long_value) {
        char value[5000];

        memset(value, 'x', sizeof(value) - 1);
        value[sizeof(value) - 1] = '\0';
        REFUSED("reclaim a", "age", value);
        ck_assert_uint_lt(strlen(problem), RULE_PROBLEM_MAX);
        SET("reclaim a", "pattern", value);
        SET("reclaim a", "kind", "all");
        ck_assert_str_eq(found(RULE_SYSV, value, 0, DAY), "a");
}
END_TEST

START_TEST(test_no_kind) {
        const struct rule *bad;

        SET("reclaim a", "kind", "shmd");
        SET("reclaim b", "action", "reclaim");
        bad = rules_check(&rules, problem);
        ck_assert_ptr_nonnull(bad);
        ck_assert_int_eq(bad->line, 11);
        ck_assert_str_eq(problem, "the section [reclaim b] says no kind");
        ck_assert_str_eq(found(RULE_SHMD, "x", 0, DAY), "a");
        ck_assert_str_eq(found(RULE_POSIX, "x", 0, DAY), "none"); /* b is about nothing */
}
END_TEST

/* --- choosing --- */

START_TEST(test_choice) {
        SET("reclaim scratch", "kind", "posix");
        SET("reclaim scratch", "pattern", "scratch-*");
        SET("reclaim scratch", "age", "1h");
        SET("reclaim scratch", "action", "reclaim");
        SET("reclaim his", "kind", "all");
        SET("reclaim his", "user", "1234");
        SET("reclaim his", "age", "0");
        SET("reclaim rest", "kind", "sysv");
        ck_assert_str_eq(found(RULE_POSIX, "scratch-1", 0, 3600 * SECOND), "scratch");
        ck_assert_str_eq(found(RULE_POSIX, "scratch-1", 0, 3600 * SECOND - 1), "none");
        ck_assert_str_eq(found(RULE_SHMD, "scratch-1", 0, DAY), "none");
        ck_assert_str_eq(found(RULE_POSIX, "my-scratch-1", 0, DAY), "none");
        ck_assert_str_eq(found(RULE_POSIX, "scratch", 0, DAY), "none");
        ck_assert_str_eq(found(RULE_POSIX, "scratch-1", 1234, 0), "his");
        ck_assert_str_eq(found(RULE_POSIX, "scratch-1", 1234, DAY), "scratch"); /* the first of the file */
        ck_assert_str_eq(found(RULE_SYSV, "0x00000044", 1234, DAY), "his");
        ck_assert_str_eq(found(RULE_SYSV, "0x00000044", 0, DAY), "rest");
        ck_assert_str_eq(found(RULE_SYSV, "0x00000044", 0, DAY - 1), "none");
}
END_TEST

/* As shmd.conf(5) says: "*" also stands for slashes, and a name is all of a path. */
START_TEST(test_patterns) {
        SET("reclaim a", "kind", "all");
        SET("reclaim a", "pattern", "dir/*[0-9]");
        ck_assert_str_eq(found(RULE_POSIX, "dir/a1", 0, DAY), "a");
        ck_assert_str_eq(found(RULE_POSIX, "dir/sub/a1", 0, DAY), "a");
        ck_assert_str_eq(found(RULE_POSIX, "dir/a", 0, DAY), "none");
        ck_assert_str_eq(found(RULE_POSIX, "other/dir/a1", 0, DAY), "none");
        SET("reclaim a", "pattern", "exact"); /* the last one counts */
        ck_assert_str_eq(found(RULE_POSIX, "exact", 0, DAY), "a");
        ck_assert_str_eq(found(RULE_POSIX, "dir/a1", 0, DAY), "none");
        SET("reclaim a", "pattern", ""); /* matches nothing, not all */
        ck_assert_str_eq(found(RULE_POSIX, "exact", 0, DAY), "none");
        SET("reclaim a", "pattern", "[");
        ck_assert_str_eq(found(RULE_POSIX, "exact", 0, DAY), "none");
}
END_TEST

int main(void) {
        Suite *suite = suite_create("rules");
        TCase *tests = tcase_create("rules");
        SRunner *runner;
        int failed;

        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_loop_test(tests, test_times, 0, (int) ELEMENTSOF(times));
        tcase_add_test(tests, test_sections);
        tcase_add_test(tests, test_defaults);
        tcase_add_test(tests, test_refused);
        tcase_add_test(tests, test_long_value);
        tcase_add_test(tests, test_no_kind);
        tcase_add_test(tests, test_choice);
        tcase_add_test(tests, test_patterns);
        suite_add_tcase(suite, tests);
        runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
