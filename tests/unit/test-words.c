/* SPDX-License-Identifier: MIT */
/* Seconds and lifetimes as people write them: protocol/words.h. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "protocol.h"
#include "util.h"
#include "words.h"

#define REFUSED UINT64_MAX

static const struct {
        const char *text;
        uint64_t usec;
} seconds[] = {
        { "0", 0 },
        { "5", 5000000 },
        { "5.", 5000000 },
        { "0.25", 250000 },
        { "007.5", 7500000 },
        { "1234567890123456", REFUSED },
        { "9999999999999999", REFUSED },
        { "99999999999.000001", UINT64_C(99999999999000001) },
        { "0.0000019", 1 },
        { "18446744073709", UINT64_C(18446744073709000000) },
        { "18446744073709.551614", UINT64_MAX - 1 },
        { "18446744073709.551616", REFUSED },
        { "18446744073710", REFUSED },
        { "184467440737095516160000000", REFUSED },
        { "", REFUSED },
        { ".", REFUSED },
        { ".5", REFUSED },
        { "1..2", REFUSED },
        { "1.2.3", REFUSED },
        { "+1", REFUSED },
        { "-1", REFUSED },
        { " 1", REFUSED },
        { "1 ", REFUSED },
        { "1s", REFUSED },
        { "1e3", REFUSED },
        { "0x10", REFUSED },
        { "1,5", REFUSED },
};

START_TEST(test_seconds) {
        uint64_t usec = 77;
        bool good = words_parse_seconds(seconds[_i].text, strlen(seconds[_i].text), &usec);

        ck_assert_msg(good == (seconds[_i].usec != REFUSED), "\"%s\"", seconds[_i].text);
        ck_assert_uint_eq(usec, good ? seconds[_i].usec : 77);
}
END_TEST

START_TEST(test_part) {
        uint64_t usec;

        ck_assert(words_parse_seconds("12min", 2, &usec));
        ck_assert_uint_eq(usec, 12000000);
        ck_assert(!words_parse_seconds("12", 0, &usec));
}
END_TEST

static const struct {
        const char *text;
        uint32_t lifetime; /* UINT32_MAX: refused */
        uint64_t linger_usec;
} lifetimes[] = {
        { "persist", WIRE_LIFETIME_PERSIST, 0 },
        { "holders", WIRE_LIFETIME_HOLDERS, 0 },
        { "creator", WIRE_LIFETIME_CREATOR, 0 },
        { "linger=0", WIRE_LIFETIME_LINGER, 0 },
        { "linger=1.5", WIRE_LIFETIME_LINGER, 1500000 },
        { "linger=", UINT32_MAX, 0 },
        { "linger", UINT32_MAX, 0 },
        { "linger=.", UINT32_MAX, 0 },
        { "linger=18446744073710", UINT32_MAX, 0 },
        { "", UINT32_MAX, 0 },
        { "Persist", UINT32_MAX, 0 },
        { "holders ", UINT32_MAX, 0 },
        { "hold", UINT32_MAX, 0 },
};

START_TEST(test_lifetimes) {
        uint32_t lifetime = 77;
        uint64_t linger_usec = 77;
        const char *problem = words_parse_lifetime(lifetimes[_i].text, true, &lifetime, &linger_usec);

        ck_assert_msg(!problem == (lifetimes[_i].lifetime != UINT32_MAX), "\"%s\": %s", lifetimes[_i].text, problem);
        ck_assert_uint_eq(lifetime, problem ? 77 : lifetimes[_i].lifetime);
        ck_assert_uint_eq(linger_usec, problem ? 77 : lifetimes[_i].linger_usec);
}
END_TEST

START_TEST(test_problems) {
        uint32_t lifetime;
        uint64_t linger_usec;

        ck_assert_ptr_nonnull(strstr(words_parse_lifetime("x", true, &lifetime, &linger_usec), "creator"));
        ck_assert_ptr_null(strstr(words_parse_lifetime("x", false, &lifetime, &linger_usec), "creator"));
        ck_assert_ptr_null(strstr(words_parse_lifetime("creator", false, &lifetime, &linger_usec), "creator"));
        ck_assert_ptr_nonnull(strstr(words_parse_lifetime("linger=x", false, &lifetime, &linger_usec), "18446744073709"));
}
END_TEST

int main(void) {
        Suite *suite = suite_create("words");
        TCase *tests = tcase_create("words");
        SRunner *runner;
        int failed;

        tcase_add_loop_test(tests, test_seconds, 0, (int) ELEMENTSOF(seconds));
        tcase_add_test(tests, test_part);
        tcase_add_loop_test(tests, test_lifetimes, 0, (int) ELEMENTSOF(lifetimes));
        tcase_add_test(tests, test_problems);
        suite_add_tcase(suite, tests);
        runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
