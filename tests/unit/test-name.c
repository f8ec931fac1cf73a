/* SPDX-License-Identifier: MIT */
/* The rule for names: protocol/name.h. */
#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "name.h"
#include "protocol.h"
#include "util.h"

#define S(literal) literal, sizeof(literal) - 1

static enum name_verdict verdict_of(const void *name, size_t size) {
        const char *start;
        size_t length;

        return name_check(name, size, &start, &length);
}

static const struct {
        const char *name;
        size_t size;
        enum name_verdict verdict;
} names[] = {
        { S("a"), NAME_OK },
        { S("/a"), NAME_OK },
        { S("bill/myshare"), NAME_OK },
        { S("/bill/myshare"), NAME_OK },
        { S("a b"), NAME_OK },
        { S("..."), NAME_OK },
        { S(".a/..b/c./d.."), NAME_OK },
        { S("-"), NAME_OK },
        { S("a\\b\"c'd$e*f"), NAME_OK },
        { S("\xc2\xa0"), NAME_OK },             /* U+00A0, the first after C1 */
        { S("gr\xc3\xb6\xc3\x9f" "e"), NAME_OK },
        { S("\xe2\x82\xac/\xf0\x9f\x90\x8b"), NAME_OK },
        { S("\xef\xbf\xbf"), NAME_OK },         /* U+FFFF: a code point, though no character */
        { S("\xf4\x8f\xbf\xbf"), NAME_OK },     /* U+10FFFF, the last */
        { S("\xed\x9f\xbf\xee\x80\x80"), NAME_OK }, /* around the surrogates */

        { S(""), NAME_EMPTY },
        { S("/"), NAME_EMPTY },
        { S("//"), NAME_EMPTY_COMPONENT },
        { S("//a"), NAME_EMPTY_COMPONENT },
        { S("a/"), NAME_EMPTY_COMPONENT },
        { S("a//b"), NAME_EMPTY_COMPONENT },
        { S("/a/"), NAME_EMPTY_COMPONENT },
        { S("."), NAME_DOT_COMPONENT },
        { S(".."), NAME_DOT_COMPONENT },
        { S("/.."), NAME_DOT_COMPONENT },
        { S("a/."), NAME_DOT_COMPONENT },
        { S("../a"), NAME_DOT_COMPONENT },
        { S("a/../b"), NAME_DOT_COMPONENT },
        { S("a\0"), NAME_CONTROL_CHARACTER },
        { S("\0"), NAME_CONTROL_CHARACTER },
        { S("a\nb"), NAME_CONTROL_CHARACTER },
        { S("\x1b[31m"), NAME_CONTROL_CHARACTER },
        { S("\x7f"), NAME_CONTROL_CHARACTER },
        { S("\xc2\x80"), NAME_CONTROL_CHARACTER }, /* C1 */
        { S("\xc2\x9b"), NAME_CONTROL_CHARACTER }, /* C1: CSI in one character */
        { S("\xc2\x9f"), NAME_CONTROL_CHARACTER },
        { S("\x80"), NAME_NOT_UTF8 },
        { S("\xff"), NAME_NOT_UTF8 },
        { S("a\xc3"), NAME_NOT_UTF8 },          /* cut short */
        { S("\xe2\x82"), NAME_NOT_UTF8 },
        { S("\xf0\x9f\x90"), NAME_NOT_UTF8 },
        { S("\xc3/"), NAME_NOT_UTF8 },          /* a slash is no continuation */
        { S("\xc0\xaf"), NAME_NOT_UTF8 },       /* overlong slash */
        { S("\xc0\xae\xc0\xae/a"), NAME_NOT_UTF8 }, /* overlong ".." */
        { S("\xe0\x80\xaf"), NAME_NOT_UTF8 },
        { S("\xf0\x80\x80\xaf"), NAME_NOT_UTF8 },
        { S("\xed\xa0\x80"), NAME_NOT_UTF8 },   /* surrogates */
        { S("\xed\xbf\xbf"), NAME_NOT_UTF8 },
        { S("\xf4\x90\x80\x80"), NAME_NOT_UTF8 }, /* past the end */
        { S("\xf5\x80\x80\x80"), NAME_NOT_UTF8 },
        { S("\xf8\x88\x80\x80\x80"), NAME_NOT_UTF8 },
};

START_TEST(test_verdicts) {
        enum name_verdict verdict = verdict_of(names[_i].name, names[_i].size);

        ck_assert_msg(verdict == names[_i].verdict, "row %d, \"%s\": %s instead of: %s", _i, names[_i].name,
                      name_verdict_to_words(verdict), name_verdict_to_words(names[_i].verdict));
}
END_TEST

/* One slash is dropped, before anything else is judged, and only one. */
START_TEST(test_leading_slash) {
        static const char name[] = "/shm-example";
        const char *start = NULL;
        size_t size = 0;

        ck_assert_int_eq(name_check(name, strlen(name), &start, &size), NAME_OK);
        ck_assert_ptr_eq(start, name + 1);
        ck_assert_uint_eq(size, strlen(name) - 1);

        ck_assert_int_eq(name_check(name + 1, strlen(name) - 1, &start, &size), NAME_OK);
        ck_assert_ptr_eq(start, name + 1);
        ck_assert_uint_eq(size, strlen(name) - 1);
}
END_TEST

START_TEST(test_length) {
        char name[SHMD_NAME_MAX + 3];
        const char *start = NULL;
        size_t size = 0;

        memset(name, 'x', sizeof(name));
        ck_assert_int_eq(verdict_of(name, SHMD_NAME_MAX), NAME_OK);
        ck_assert_int_eq(verdict_of(name, SHMD_NAME_MAX + 1), NAME_TOO_LONG);
        ck_assert_int_eq(verdict_of(name, SIZE_MAX), NAME_TOO_LONG);

        name[0] = '/'; /* does not count */
        ck_assert_int_eq(name_check(name, SHMD_NAME_MAX + 1, &start, &size), NAME_OK);
        ck_assert_uint_eq(size, SHMD_NAME_MAX);
        ck_assert_int_eq(verdict_of(name, SHMD_NAME_MAX + 2), NAME_TOO_LONG);

        memset(name, 0xff, sizeof(name));
        ck_assert_int_eq(verdict_of(name, SHMD_NAME_MAX), NAME_NOT_UTF8);
}
END_TEST

/* A name may lie at the very end of a buffer: nothing past its size is looked at. Valgrind and ASan see it. */
START_TEST(test_no_overrun) {
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                char *copy = malloc(names[i].size > 0 ? names[i].size : 1);

                ck_assert_ptr_nonnull(copy);
                memcpy(copy, names[i].name, names[i].size);
                ck_assert_int_eq(verdict_of(copy, names[i].size), names[i].verdict);
                free(copy);
        }
}
END_TEST

START_TEST(test_outputs_untouched) {
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                const char *start = "untouched";
                size_t size = 4711;

                if (name_check(names[i].name, names[i].size, &start, &size) == NAME_OK)
                        continue;
                ck_assert_str_eq(start, "untouched");
                ck_assert_uint_eq(size, 4711);
        }
}
END_TEST

static size_t encode(uint32_t point, unsigned char *bytes) {
        if (point < 0x80) {
                bytes[0] = (unsigned char) point;
                return 1;
        }
        if (point < 0x800) {
                bytes[0] = (unsigned char) (0xc0 | point >> 6);
                bytes[1] = (unsigned char) (0x80 | (point & 0x3f));
                return 2;
        }
        if (point < 0x10000) {
                bytes[0] = (unsigned char) (0xe0 | point >> 12);
                bytes[1] = (unsigned char) (0x80 | (point >> 6 & 0x3f));
                bytes[2] = (unsigned char) (0x80 | (point & 0x3f));
                return 3;
        }
        bytes[0] = (unsigned char) (0xf0 | point >> 18);
        bytes[1] = (unsigned char) (0x80 | (point >> 12 & 0x3f));
        bytes[2] = (unsigned char) (0x80 | (point >> 6 & 0x3f));
        bytes[3] = (unsigned char) (0x80 | (point & 0x3f));
        return 4;
}

static enum name_verdict expected_of(uint32_t point) {
        if (point < 0x20 || (point >= 0x7f && point <= 0x9f))
                return NAME_CONTROL_CHARACTER;
        if (point >= 0xd800 && point <= 0xdfff)
                return NAME_NOT_UTF8;
        return NAME_OK;
}

/* Every code point there is, after a letter so that '/' and '.' are judged as characters. */
START_TEST(test_each_code_point) {
        for (uint32_t point = 0; point <= 0x10ffff; point++) {
                unsigned char bytes[8] = "x";
                size_t size = 1 + encode(point, bytes + 1);

                if (point == '/')
                        continue;
                if (verdict_of(bytes, size) != expected_of(point))
                        ck_abort_msg("U+%04X: %s", point, name_verdict_to_words(verdict_of(bytes, size)));
        }
}
END_TEST

/*
 * No other bytes are a character: of all three-byte strings with such a lead
 * byte, exactly as many are accepted as there are code points of that length.
 */
START_TEST(test_no_other_encoding) {
        unsigned accepted = 0;

        for (uint32_t i = 0xe00000; i <= 0xefffff; i++) {
                unsigned char bytes[] = { (unsigned char) (i >> 16), (unsigned char) (i >> 8), (unsigned char) i };

                accepted += verdict_of(bytes, sizeof(bytes)) == NAME_OK;
        }
        ck_assert_uint_eq(accepted, 0x10000 - 0x800 - 0x800);

        accepted = 0;
        for (uint32_t i = 0x8000; i <= 0xffff; i++) {
                unsigned char bytes[] = { (unsigned char) (i >> 8), (unsigned char) i };

                accepted += verdict_of(bytes, sizeof(bytes)) == NAME_OK;
        }
        ck_assert_uint_eq(accepted, 0x800 - 0xa0);
}
END_TEST

static const struct {
        const char *prefix;
        size_t size;
        enum name_verdict verdict;
        const char *result;
} prefixes[] = {
        { S(""), NAME_OK, "" },
        { S("/"), NAME_OK, "" },
        { S("a"), NAME_OK, "a" },
        { S("/a/"), NAME_OK, "a/" },
        { S("bill/my"), NAME_OK, "bill/my" },
        { S("."), NAME_OK, "." },
        { S("\xc3"), NAME_OK, "\xc3" }, /* the first half of a character */
};

START_TEST(test_prefixes) {
        const char *start = NULL;
        size_t size = 0;

        ck_assert_int_eq(name_check_prefix(prefixes[_i].prefix, prefixes[_i].size, &start, &size),
                         prefixes[_i].verdict);
        ck_assert_uint_eq(size, strlen(prefixes[_i].result));
        ck_assert_mem_eq(start, prefixes[_i].result, size);
}
END_TEST

START_TEST(test_prefix_too_long) {
        char prefix[SHMD_NAME_MAX + 2];
        const char *start = NULL;
        size_t size = 0;

        memset(prefix, 'x', sizeof(prefix));
        ck_assert_int_eq(name_check_prefix(prefix, SHMD_NAME_MAX, &start, &size), NAME_OK);
        ck_assert_int_eq(name_check_prefix(prefix, SHMD_NAME_MAX + 1, &start, &size), NAME_TOO_LONG);
}
END_TEST

/* A reason for each verdict, no two alike, and one for what a newer version may say. */
START_TEST(test_words) {
        for (int i = NAME_OK; i <= NAME_NOT_UTF8; i++) {
                ck_assert_uint_gt(strlen(name_verdict_to_words((enum name_verdict) i)), 0);
                for (int j = NAME_OK; j < i; j++)
                        ck_assert_str_ne(name_verdict_to_words((enum name_verdict) i),
                                         name_verdict_to_words((enum name_verdict) j));
        }
        ck_assert_ptr_nonnull(name_verdict_to_words((enum name_verdict) 99));
}
END_TEST

static const struct {
        const char *labels;
        size_t size;
        bool good;
} labels[] = {
        { S(""), true },
        { S("a=b\n"), true },
        { S("a=\n"), true },
        { S("a=b=c\n"), true },
        { S("role=producer\nrate=50 Hz\n"), true },
        { S("gr\xc3\xb6\xc3\x9f" "e=\xe2\x82\xac\n"), true },
        { S("a=b"), false },        /* not ended */
        { S("a=b\nc=d"), false },
        { S("\n"), false },
        { S("a=b\n\n"), false },
        { S("ab\n"), false },
        { S("=b\n"), false },
        { S("a=b\nc\n"), false },
        { S("c\na=b\n"), false },   /* the '=' of the next line does not count */
        { S("a=\t\n"), false },
        { S("a=\0\n"), false },
        { S("a=\x1b[31m\n"), false },
        { S("a=\xff\n"), false },
        { S("a=\xc3\n"), false },
        { S("\xc2\x9b=b\n"), false },
};

START_TEST(test_labels) {
        char *copy = malloc(labels[_i].size > 0 ? labels[_i].size : 1); /* its end is the end, for ASan */

        ck_assert_ptr_nonnull(copy);
        memcpy(copy, labels[_i].labels, labels[_i].size);
        ck_assert_int_eq(labels_check(copy, labels[_i].size), labels[_i].good);
        free(copy);
}
END_TEST

static Suite *name_suite(void) {
        Suite *suite = suite_create("name");
        TCase *tests = tcase_create("name");

        tcase_add_loop_test(tests, test_verdicts, 0, ELEMENTSOF(names));
        tcase_add_test(tests, test_leading_slash);
        tcase_add_test(tests, test_length);
        tcase_add_test(tests, test_no_overrun);
        tcase_add_test(tests, test_outputs_untouched);
        tcase_add_test(tests, test_each_code_point);
        tcase_add_test(tests, test_no_other_encoding);
        tcase_add_loop_test(tests, test_prefixes, 0, ELEMENTSOF(prefixes));
        tcase_add_test(tests, test_prefix_too_long);
        tcase_add_test(tests, test_words);
        tcase_add_loop_test(tests, test_labels, 0, ELEMENTSOF(labels));
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(name_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
