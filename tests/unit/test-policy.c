/* SPDX-License-Identifier: MIT */
/* Who may do what: daemon/core/policy.h. */
#include <check.h>
#include <stdlib.h>

#include "policy.h"
#include "status.h"
#include "util.h"

enum { OWNER = 1000, OTHER = 1001, OWNER_GROUP = 100, MEMBER_GROUP = 200, STRANGE_GROUP = 300 };

static gid_t no_groups[1];
static gid_t member_groups[] = { 7, 8, MEMBER_GROUP };

/* Who asks */
static const struct credentials root = { .uid = 0, .gid = 0, .groups = no_groups, .administrator = true };
static const struct credentials owner = { .uid = OWNER, .gid = OWNER_GROUP, .groups = member_groups,
                                          .n_groups = ELEMENTSOF(member_groups) };
static const struct credentials other = { .uid = OTHER, .gid = STRANGE_GROUP, .groups = no_groups };
static const struct credentials same_group = { .uid = OTHER, .gid = MEMBER_GROUP, .groups = no_groups };
static const struct credentials member = { .uid = OTHER, .gid = STRANGE_GROUP, .groups = member_groups,
                                           .n_groups = ELEMENTSOF(member_groups) };
static const struct credentials administrator = { .uid = OTHER, .gid = STRANGE_GROUP, .groups = no_groups,
                                                  .administrator = true };

START_TEST(test_in_group) {
        const struct credentials fewer = { .gid = 1, .groups = member_groups, .n_groups = 2 };

        ck_assert(credentials_in_group(&owner, OWNER_GROUP));
        for (size_t i = 0; i < ELEMENTSOF(member_groups); i++)
                ck_assert(credentials_in_group(&owner, member_groups[i]));
        ck_assert(!credentials_in_group(&owner, STRANGE_GROUP));
        /* Only so many of the array count. */
        ck_assert(!credentials_in_group(&fewer, MEMBER_GROUP));
        ck_assert(!credentials_in_group(&(struct credentials) { .gid = 1 }, 0));
}
END_TEST

/* Who may read, and who write, a segment of OWNER:MEMBER_GROUP with some mode. */
static const struct {
        const struct credentials *who;
        mode_t mode;
        bool may_read, may_write;
} opens[] = {
        { &owner, 0600, true, true },
        { &owner, 0400, true, false },
        { &owner, 0200, false, false }, /* a mapping for writing alone does not exist */
        { &owner, 0100, false, false },
        { &owner, 0000, false, false },
        { &same_group, 0060, true, true },
        { &same_group, 0040, true, false },
        { &same_group, 0020, false, false },
        { &same_group, 0606, false, false },
        { &member, 0060, true, true },
        { &member, 0040, true, false },
        { &member, 0010, false, false },
        { &other, 0006, true, true },
        { &other, 0004, true, false },
        { &other, 0002, false, false },
        { &other, 0660, false, false },
        { &other, 0770, false, false },

        /* The first class that fits decides, even if a later one would give more. */
        { &owner, 0066, false, false }, /* owns it, and is in the group */
        { &owner, 0466, true, false },
        { &owner, 0077, false, false },
        { &same_group, 0606, false, false },
        { &same_group, 0646, true, false },
        { &member, 0606, false, false },
        { &member, 0646, true, false },

        { &root, 0000, true, true },
        { &root, 0111, true, true },

        /* Not what administrators are for: what is in it is the owner's. */
        { &administrator, 0660, false, false },
        { &administrator, 0664, true, false },
        { &administrator, 0666, true, true },
};

START_TEST(test_open) {
        const struct ownership of = { OWNER, MEMBER_GROUP, opens[_i].mode };

        ck_assert_int_eq(policy_open(opens[_i].who, &of, false), opens[_i].may_read ? SHMD_OK : SHMD_DENIED);
        ck_assert_int_eq(policy_open(opens[_i].who, &of, true), opens[_i].may_write ? SHMD_OK : SHMD_DENIED);
}
END_TEST

/* All modes, against the rule as path_resolution(7) has it in words. */
START_TEST(test_open_all_modes) {
        const struct credentials *classes[] = { &other, &member, &owner }; /* by the bits that are theirs */

        for (mode_t mode = 0; mode <= 0777; mode++)
                for (int class = 0; class < 3; class++) {
                        const struct ownership of = { OWNER, MEMBER_GROUP, mode };
                        bool r = mode & (04u << (3 * class)), w = mode & (02u << (3 * class));

                        ck_assert_int_eq(policy_open(classes[class], &of, false), r ? SHMD_OK : SHMD_DENIED);
                        ck_assert_int_eq(policy_open(classes[class], &of, true), r && w ? SHMD_OK : SHMD_DENIED);
                }
}
END_TEST

/* As in a sticky directory: no mode gives it, and none takes it away. */
START_TEST(test_manage) {
        for (mode_t mode = 0; mode <= 0777; mode += 0777) {
                const struct ownership of = { OWNER, MEMBER_GROUP, mode };

                ck_assert_int_eq(policy_manage(&owner, &of), SHMD_OK);
                ck_assert_int_eq(policy_manage(&root, &of), SHMD_OK);
                ck_assert_int_eq(policy_manage(&administrator, &of), SHMD_OK);
                ck_assert_int_eq(policy_manage(&same_group, &of), SHMD_NOT_OWNER);
                ck_assert_int_eq(policy_manage(&member, &of), SHMD_NOT_OWNER);
                ck_assert_int_eq(policy_manage(&other, &of), SHMD_NOT_OWNER);
        }
}
END_TEST

enum { SAME = -1 };

/* What becomes of a segment of OWNER:STRANGE_GROUP */
static const struct {
        const struct credentials *who;
        uid_t uid;
        gid_t gid;
        int result;
} chowns[] = {
        { &owner, (uid_t) SAME, (gid_t) SAME, SHMD_OK },
        { &owner, OWNER, (gid_t) SAME, SHMD_OK },
        { &owner, (uid_t) SAME, OWNER_GROUP, SHMD_OK },
        { &owner, (uid_t) SAME, MEMBER_GROUP, SHMD_OK },
        { &owner, OWNER, MEMBER_GROUP, SHMD_OK },
        { &owner, (uid_t) SAME, STRANGE_GROUP, SHMD_OK }, /* which it has already, though its owner is not in it */
        { &owner, (uid_t) SAME, 400, SHMD_NOT_ADMINISTRATOR },
        { &owner, OWNER, 400, SHMD_NOT_ADMINISTRATOR },
        { &owner, (uid_t) SAME, 0, SHMD_NOT_ADMINISTRATOR },
        { &owner, OTHER, (gid_t) SAME, SHMD_NOT_ADMINISTRATOR }, /* whose quota it would be charged to */
        { &owner, 0, (gid_t) SAME, SHMD_NOT_ADMINISTRATOR },
        { &owner, OTHER, MEMBER_GROUP, SHMD_NOT_ADMINISTRATOR },
        { &other, (uid_t) SAME, (gid_t) SAME, SHMD_NOT_OWNER },
        { &other, OTHER, (gid_t) SAME, SHMD_NOT_OWNER }, /* nor take one */
        { &other, (uid_t) SAME, STRANGE_GROUP, SHMD_NOT_OWNER },
        { &administrator, OTHER, 400, SHMD_OK },
        { &administrator, 0, 0, SHMD_OK },
        { &root, OTHER, 400, SHMD_OK },
        { &root, (uid_t) SAME, (gid_t) SAME, SHMD_OK },
};

START_TEST(test_chown) {
        const struct ownership of = { OWNER, STRANGE_GROUP, 0666 };

        ck_assert_int_eq(policy_chown(chowns[_i].who, &of, chowns[_i].uid, chowns[_i].gid), chowns[_i].result);
}
END_TEST

static Suite *policy_suite(void) {
        Suite *suite = suite_create("policy");
        TCase *tests = tcase_create("policy");

        tcase_add_test(tests, test_in_group);
        tcase_add_loop_test(tests, test_open, 0, ELEMENTSOF(opens));
        tcase_add_test(tests, test_open_all_modes);
        tcase_add_test(tests, test_manage);
        tcase_add_loop_test(tests, test_chown, 0, ELEMENTSOF(chowns));
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(policy_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
