/* SPDX-License-Identifier: MIT */
/* What users have of what is limited, and that all of it comes back: daemon/core/quota.h. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "faults.h"
#include "quota.h"
#include "status.h"
#include "util.h"

enum { ALICE = 1000, BOB = 1001, CAROL = 1002 };

static struct quota quota;
static struct shmd_wire_refusal refusal;
static unsigned live_before;

static void setup(void) {
        live_before = faults_live();
        quota_init(&quota);
        memset(&refusal, 0, sizeof(refusal));
}

/* Whatever a test charges it gives back, and then no account may be left. */
static void teardown(void) {
        ck_assert(RB_EMPTY(&quota.accounts));
        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++)
                ck_assert_uint_eq(quota.total[r], 0);
        ck_assert_uint_eq(faults_live(), live_before);
}

static int charge(uid_t uid, enum quota_resource resource, uint64_t amount, struct charge *ret_charge) {
        memset(&refusal, 0, sizeof(refusal));
        return quota_charge(&quota, uid, resource, amount, ret_charge, &refusal);
}

static unsigned count_accounts(const struct account *root) {
        return root ? 1 + count_accounts(RB_LEFT(root, by_uid)) + count_accounts(RB_RIGHT(root, by_uid)) : 0;
}

#define ACCOUNTS() count_accounts(RB_ROOT(&quota.accounts))

static void expect_refusal(enum shmd_limit limit, uid_t uid, uint64_t requested, uint64_t used, uint64_t maximum) {
        ck_assert_uint_eq(refusal.limit, limit);
        ck_assert_uint_eq(refusal.uid, uid);
        ck_assert_uint_eq(refusal.requested, requested);
        ck_assert_uint_eq(refusal.used, used);
        ck_assert_uint_eq(refusal.maximum, maximum);
}

START_TEST(test_unlimited_at_first) {
        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++) {
                ck_assert_uint_eq(quota_maximum(&quota, ALICE, r), QUOTA_UNLIMITED);
                ck_assert_uint_eq(quota_used(&quota, ALICE, r), 0);
        }
        ck_assert_uint_eq(ACCOUNTS(), 0); /* asking makes none */
}
END_TEST

/* Each resource by itself, each user by himself. */
START_TEST(test_sums) {
        struct charge alice[QUOTA_COUNT], bob[QUOTA_COUNT], more = { 0 };

        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++) {
                ck_assert_int_eq(charge(ALICE, r, 10 + r, &alice[r]), 0);
                ck_assert_int_eq(charge(BOB, r, 1000 + r, &bob[r]), 0);
                ck_assert_uint_eq(alice[r].amount, 10 + r);
                ck_assert_int_eq(alice[r].resource, r);
        }
        ck_assert_uint_eq(ACCOUNTS(), 2);
        ck_assert_int_eq(charge(ALICE, QUOTA_HOLDS, 5, &more), 0);
        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++) {
                ck_assert_uint_eq(quota_used(&quota, ALICE, r), 10 + r + (r == QUOTA_HOLDS ? 5 : 0));
                ck_assert_uint_eq(quota_used(&quota, BOB, r), 1000 + r);
                ck_assert_uint_eq(quota_used(&quota, CAROL, r), 0);
        }

        charge_done(&more);
        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++) {
                ck_assert_uint_eq(quota_used(&quota, ALICE, r), 10 + r);
                charge_done(&alice[r]);
                ck_assert_uint_eq(quota_used(&quota, ALICE, r), 0);
                ck_assert_uint_eq(ACCOUNTS(), r < QUOTA_COUNT - 1 ? 2 : 1); /* with the last charge */
        }
        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++)
                charge_done(&bob[r]);
}
END_TEST

static const enum shmd_limit limits[QUOTA_COUNT] = {
        [QUOTA_BYTES] = SHMD_LIMIT_BYTES,
        [QUOTA_SEGMENTS] = SHMD_LIMIT_SEGMENTS,
        [QUOTA_HOLDS] = SHMD_LIMIT_HOLDS,
        [QUOTA_CONNECTIONS] = SHMD_LIMIT_CONNECTIONS,
        [QUOTA_WATCHES] = SHMD_LIMIT_WATCHES,
        [QUOTA_DESCRIPTORS] = SHMD_LIMIT_DESCRIPTORS,
        [QUOTA_IN_FLIGHT] = SHMD_LIMIT_DESCRIPTORS,
};

START_TEST(test_limit) {
        const enum quota_resource r = (enum quota_resource) _i;
        struct charge first = { 0 }, second = { 0 }, third = { 0 };

        quota.maximum[r] = 100;
        ck_assert_int_eq(charge(ALICE, r, 101, &first), SHMD_OVER_LIMIT);
        expect_refusal(limits[r], ALICE, 101, 0, 100);
        ck_assert_uint_eq(ACCOUNTS(), 0); /* a refusal leaves none behind */
        ck_assert_ptr_null(first.account);

        ck_assert_int_eq(charge(ALICE, r, 60, &first), 0);
        ck_assert_int_eq(charge(ALICE, r, 41, &second), SHMD_OVER_LIMIT);
        expect_refusal(limits[r], ALICE, 41, 60, 100);
        ck_assert_uint_eq(quota_used(&quota, ALICE, r), 60);
        ck_assert_int_eq(charge(ALICE, r, 40, &second), 0); /* exactly full */
        ck_assert_int_eq(charge(ALICE, r, 1, &third), SHMD_OVER_LIMIT);
        expect_refusal(limits[r], ALICE, 1, 100, 100);
        ck_assert_int_eq(charge(ALICE, r, 0, &third), 0);
        charge_done(&third);

        ck_assert_int_eq(charge(BOB, r, 100, &third), 0); /* the limit is each user's own */
        charge_done(&third);
        charge_done(&first);
        ck_assert_int_eq(charge(ALICE, r, 60, &third), 0); /* what is given back can be had again */
        charge_done(&third);
        charge_done(&second);
}
END_TEST

/* The limits may be lowered under what is used: then nothing is granted, not even nothing, until enough is back. */
START_TEST(test_limit_lowered) {
        struct charge first, second, third = { 0 };

        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 50, &first), 0);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 50, &second), 0);
        quota.maximum[QUOTA_BYTES] = 60;
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 1, &third), SHMD_OVER_LIMIT);
        expect_refusal(SHMD_LIMIT_BYTES, ALICE, 1, 100, 60);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 0, &third), SHMD_OVER_LIMIT);
        charge_done(&first);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 10, &third), 0);
        charge_done(&second);
        charge_done(&third);
}
END_TEST

START_TEST(test_root_is_exempt) {
        struct charge first, second, third = { 0 };

        quota.maximum[QUOTA_BYTES] = 10;
        ck_assert_uint_eq(quota_maximum(&quota, 0, QUOTA_BYTES), QUOTA_UNLIMITED);
        ck_assert_uint_eq(quota_maximum(&quota, ALICE, QUOTA_BYTES), 10);
        ck_assert_int_eq(charge(0, QUOTA_BYTES, 11, &first), 0);
        ck_assert_int_eq(charge(0, QUOTA_BYTES, UINT64_C(1) << 60, &second), 0);
        ck_assert_uint_eq(quota_used(&quota, 0, QUOTA_BYTES), 11 + (UINT64_C(1) << 60)); /* but counted */
        /* Nor may his sum overflow. */
        ck_assert_int_eq(charge(0, QUOTA_BYTES, UINT64_MAX, &third), SHMD_OVER_LIMIT);
        charge_done(&first);
        charge_done(&second);
}
END_TEST

START_TEST(test_overflow) {
        static const uint64_t maxima[] = { QUOTA_UNLIMITED, UINT64_MAX - 1 };

        for (size_t i = 0; i < ELEMENTSOF(maxima); i++) {
                const uint64_t maximum = quota.maximum[QUOTA_BYTES] = maxima[i];
                struct charge first, second = { 0 };

                ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, maximum - 1, &first), 0);
                ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 2, &second), SHMD_OVER_LIMIT);
                expect_refusal(SHMD_LIMIT_BYTES, ALICE, 2, maximum - 1, maximum);
                ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, UINT64_MAX, &second), SHMD_OVER_LIMIT);
                ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, maximum, &second), SHMD_OVER_LIMIT);
                ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 1, &second), 0);
                ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), maximum);
                charge_done(&first);
                charge_done(&second);
        }
}
END_TEST

START_TEST(test_done_twice) {
        struct charge first, second, never = { 0 };

        ck_assert_int_eq(charge(ALICE, QUOTA_HOLDS, 3, &first), 0);
        ck_assert_int_eq(charge(ALICE, QUOTA_HOLDS, 4, &second), 0);
        charge_done(&first);
        charge_done(&first);
        ck_assert_ptr_null(first.account);
        ck_assert_uint_eq(first.amount, 0);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_HOLDS), 4);
        charge_done(&never);
        charge_done(&second);
        ck_assert_uint_eq(ACCOUNTS(), 0);
        charge_done(&second); /* its account is gone */
}
END_TEST

/* An account lives by its charges, even those of nothing. */
START_TEST(test_charge_of_nothing) {
        struct charge nothing;

        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 0, &nothing), 0);
        ck_assert_uint_eq(ACCOUNTS(), 1);
        charge_done(&nothing);
        ck_assert_uint_eq(ACCOUNTS(), 0);
}
END_TEST

START_TEST(test_move) {
        struct charge moved, stays;

        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 70, &moved), 0);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 7, &stays), 0);
        ck_assert_int_eq(charge_move(&moved, BOB, &refusal), 0);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 7);
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_BYTES), 70);
        ck_assert_uint_eq(moved.account->uid, BOB);
        ck_assert_uint_eq(moved.amount, 70);
        ck_assert_int_eq(moved.resource, QUOTA_BYTES);

        charge_done(&stays);
        ck_assert_int_eq(charge_move(&moved, CAROL, &refusal), 0);
        ck_assert_uint_eq(ACCOUNTS(), 1); /* the last charge takes the account with it */
        charge_done(&moved);
}
END_TEST

START_TEST(test_move_nowhere) {
        struct charge full, none = { 0 };

        ck_assert_int_eq(charge_move(&none, ALICE, &refusal), 0);
        ck_assert_ptr_null(none.account);

        /* To whom it belongs already: whatever his limit. */
        ck_assert_int_eq(charge(ALICE, QUOTA_SEGMENTS, 9, &full), 0);
        quota.maximum[QUOTA_SEGMENTS] = 5;
        ck_assert_int_eq(charge_move(&full, ALICE, &refusal), 0);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_SEGMENTS), 9);
        charge_done(&full);
}
END_TEST

START_TEST(test_move_refused) {
        struct charge alice, bob, before;

        quota.maximum[QUOTA_BYTES] = 100;
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 60, &alice), 0);
        ck_assert_int_eq(charge(BOB, QUOTA_BYTES, 50, &bob), 0);
        before = alice;
        ck_assert_int_eq(charge_move(&alice, BOB, &refusal), SHMD_OVER_LIMIT);
        expect_refusal(SHMD_LIMIT_BYTES, BOB, 60, 50, 100);
        ck_assert_mem_eq(&alice, &before, sizeof(before));

        /* Where he has no account, and gets none. */
        quota.maximum[QUOTA_BYTES] = 10;
        ck_assert_int_eq(charge_move(&alice, CAROL, &refusal), SHMD_OVER_LIMIT);
        expect_refusal(SHMD_LIMIT_BYTES, CAROL, 60, 0, 10);
        ck_assert_mem_eq(&alice, &before, sizeof(before));
        ck_assert_uint_eq(ACCOUNTS(), 2);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 60);
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_BYTES), 50);
        charge_done(&alice);
        charge_done(&bob);
}
END_TEST

START_TEST(test_force) {
        struct charge forced, other;

        quota.maximum[QUOTA_BYTES] = 100;
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 40, &forced), 0);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 5, &other), 0);

        charge_force(&forced, ALICE, 1000); /* past the limit */
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 1005);
        ck_assert_uint_eq(forced.amount, 1000);
        charge_force(&forced, ALICE, 3); /* and down */
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 8);

        charge_force(&forced, BOB, 200); /* another's, and other than before */
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 5);
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_BYTES), 200);
        ck_assert_uint_eq(forced.account->uid, BOB);

        charge_force(&other, BOB, 5); /* nothing of hers is left */
        ck_assert_uint_eq(ACCOUNTS(), 1);
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_BYTES), 205);
        charge_force(&other, BOB, 0);
        charge_done(&forced);
        ck_assert_uint_eq(ACCOUNTS(), 1);
        charge_done(&other);
}
END_TEST

/* The only charge of its account, forced to what it is: the account must survive that. */
START_TEST(test_force_alone) {
        struct charge forced;

        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 40, &forced), 0);
        charge_force(&forced, ALICE, 40);
        charge_force(&forced, ALICE, 41);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 41);
        charge_done(&forced);
}
END_TEST

/* --- the pool that all have in common --- */

/* One by one, until he is refused. */
static unsigned charge_all_there_is(uid_t uid, enum quota_resource resource, struct charge *charges, unsigned room) {
        for (unsigned n = 0; n < room; n++)
                if (charge(uid, resource, 1, &charges[n]) != 0)
                        return n;
        ck_abort_msg("no limit");
        return 0;
}

static void done_all(struct charge *charges, unsigned n) {
        while (n > 0)
                charge_done(&charges[--n]);
}

START_TEST(test_pool_share) {
        static const struct {
                uint64_t pool, used, by_others, maximum;
        } shares[] = {
                { 100, 0, 0, 75 }, { 100, 75, 0, 75 }, { 100, 10, 20, 60 },    /* of 10 + 70 */
                { 100, 0, 75, 19 }, { 100, 0, 99, 1 }, { 100, 0, 100, 0 },     /* rounded up */
                { 100, 40, 60, 30 }, { 4, 0, 0, 3 }, { 3, 0, 0, 3 }, { 2, 0, 0, 2 }, { 1, 0, 0, 1 }, { 0, 0, 0, 0 },
                { UINT64_MAX - 1, 0, 0, UINT64_MAX / 4 * 3 + 2 }, { UINT64_MAX, 5, 0, QUOTA_UNLIMITED },
        };

        for (size_t i = 0; i < ELEMENTSOF(shares); i++) {
                struct charge hers, others;

                quota.pool[QUOTA_BYTES] = QUOTA_UNLIMITED;
                ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, shares[i].used, &hers), 0);
                ck_assert_int_eq(charge(BOB, QUOTA_BYTES, shares[i].by_others, &others), 0);
                quota.pool[QUOTA_BYTES] = shares[i].pool;
                ck_assert_uint_eq(quota_maximum(&quota, ALICE, QUOTA_BYTES), shares[i].maximum);
                ck_assert_uint_eq(quota_maximum(&quota, 0, QUOTA_BYTES), QUOTA_UNLIMITED);
                ck_assert_uint_eq(quota_maximum(&quota, ALICE, QUOTA_HOLDS), QUOTA_UNLIMITED);
                ck_assert_uint_eq(quota.total[QUOTA_BYTES], shares[i].used + shares[i].by_others);
                charge_done(&hers);
                charge_done(&others);
                ck_assert_uint_eq(quota.total[QUOTA_BYTES], 0);
        }
}
END_TEST

/* Whatever everybody takes, there is something left for the next one. */
START_TEST(test_pool_is_shared) {
        static struct charge charges[4][1000];
        static const unsigned expected[] = { 750, 188, 47, 12 };

        quota.pool[QUOTA_DESCRIPTORS] = 1000;
        for (unsigned i = 0; i < 4; i++) {
                ck_assert_uint_eq(charge_all_there_is(ALICE + i, QUOTA_DESCRIPTORS, charges[i], 1000), expected[i]);
                expect_refusal(SHMD_LIMIT_DESCRIPTORS, ALICE + i, 1, expected[i], expected[i]);
        }
        /* What one gives back is everybody's: the others may have three quarters of it and what they have. */
        done_all(charges[0], expected[0]);
        ck_assert_uint_eq(quota_maximum(&quota, BOB, QUOTA_DESCRIPTORS), (188 + 753) - (188 + 753) / 4);
        for (unsigned i = 1; i < 4; i++)
                done_all(charges[i], expected[i]);
        ck_assert_uint_eq(quota.total[QUOTA_DESCRIPTORS], 0);
}
END_TEST

/* The smaller of the two limits is what holds; and is what a refusal tells. */
START_TEST(test_pool_and_maximum) {
        struct charge first, second = { 0 };

        quota.pool[QUOTA_BYTES] = 100;
        quota.maximum[QUOTA_BYTES] = 50;
        ck_assert_uint_eq(quota_maximum(&quota, ALICE, QUOTA_BYTES), 50);
        ck_assert_int_eq(charge(BOB, QUOTA_BYTES, 40, &first), 0);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 46, &second), SHMD_OVER_LIMIT);
        expect_refusal(SHMD_LIMIT_BYTES, ALICE, 46, 0, 45);
        quota.maximum[QUOTA_BYTES] = 44;
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 45, &second), SHMD_OVER_LIMIT);
        expect_refusal(SHMD_LIMIT_BYTES, ALICE, 45, 0, 44);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 44, &second), 0);
        charge_done(&first);
        charge_done(&second);
}
END_TEST

/* Root takes what he wants, and the others have the less. */
START_TEST(test_pool_and_root) {
        struct charge all, more, none = { 0 };

        quota.pool[QUOTA_BYTES] = 100;
        ck_assert_int_eq(charge(0, QUOTA_BYTES, 100, &all), 0);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 1, &none), SHMD_OVER_LIMIT);
        ck_assert_int_eq(charge(0, QUOTA_BYTES, 50, &more), 0);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 150);
        ck_assert_uint_eq(quota_maximum(&quota, ALICE, QUOTA_BYTES), 0);
        charge_done(&all);
        ck_assert_uint_eq(quota_maximum(&quota, ALICE, QUOTA_BYTES), 38);
        charge_done(&more);
}
END_TEST

/* No user's own sum, but that of all. */
START_TEST(test_pool_overflow) {
        struct charge first, second = { 0 };

        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, UINT64_MAX - 10, &first), 0);
        ck_assert_int_eq(charge(BOB, QUOTA_BYTES, 11, &second), SHMD_OVER_LIMIT);
        ck_assert_int_eq(charge(0, QUOTA_BYTES, 11, &second), SHMD_OVER_LIMIT);
        ck_assert_int_eq(charge(BOB, QUOTA_BYTES, 10, &second), 0);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], UINT64_MAX);
        charge_done(&first);
        charge_done(&second);
}
END_TEST

/* Who is given something is charged in the pool as if he had asked for it. */
START_TEST(test_pool_and_move) {
        struct charge hers, his;

        quota.pool[QUOTA_BYTES] = 100;
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 60, &hers), 0);
        ck_assert_int_eq(charge(BOB, QUOTA_BYTES, 20, &his), 0);
        ck_assert_int_eq(charge_move(&hers, BOB, &refusal), SHMD_OVER_LIMIT); /* he may have 30 */
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 80);
        ck_assert_uint_eq(hers.account->uid, ALICE);
        ck_assert_int_eq(charge_move(&his, ALICE, &refusal), SHMD_OVER_LIMIT);
        ck_assert_int_eq(charge_move(&his, CAROL, &refusal), SHMD_OVER_LIMIT); /* she may have 15 */
        charge_done(&hers);
        ck_assert_int_eq(charge_move(&his, CAROL, &refusal), 0);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 20);
        charge_done(&his);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 0);
}
END_TEST

/* Somebody makes a file as large as he likes: that is his affair, and takes nothing away from anybody else's share. */
START_TEST(test_pool_and_force) {
        struct charge forced, his, none = { 0 };

        quota.pool[QUOTA_BYTES] = 100;
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 5, &forced), 0);
        charge_force(&forced, ALICE, 50); /* within her share: all of it counts */
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 50);
        charge_force(&forced, ALICE, UINT64_C(1) << 62);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), UINT64_C(1) << 62);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 75);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 0, &none), SHMD_OVER_LIMIT);
        ck_assert_int_eq(charge(BOB, QUOTA_BYTES, 19, &his), 0);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 94);

        charge_force(&forced, CAROL, 1000); /* to her, of whose share five are left */
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 0);
        ck_assert_uint_eq(quota_used(&quota, CAROL, QUOTA_BYTES), 1000);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 19 + 61);
        charge_force(&forced, CAROL, 7);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 19 + 7);
        charge_force(&forced, 0, 1000); /* but root's counts */
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 1019);
        charge_force(&forced, 0, UINT64_MAX);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], UINT64_MAX);
        charge_done(&forced);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 19);
        charge_done(&his);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 0);
}
END_TEST

/* Past his own limit as well. */
START_TEST(test_pool_and_force_past_maximum) {
        struct charge forced, more;

        quota.pool[QUOTA_BYTES] = 1000;
        quota.maximum[QUOTA_BYTES] = 30;
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 0, &forced), 0);
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 10, &more), 0);
        charge_force(&forced, ALICE, 500);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 510);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 30);
        charge_force(&more, ALICE, 500);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 20);
        charge_done(&more);
        charge_done(&forced);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 0);
}
END_TEST

/* --- who has most --- */

static void expect_biggest(const uint64_t used[3], const uid_t uids[3]) {
        struct charge none = { 0 };

        memset(&refusal, 0xff, sizeof(refusal)); /* whatever was there */
        ck_assert_int_eq(quota_charge(&quota, BOB, QUOTA_SEGMENTS, UINT64_MAX, &none, &refusal), SHMD_OVER_LIMIT);
        for (unsigned i = 0; i < 3; i++) {
                ck_assert_uint_eq(refusal.biggest[i].used, used[i]);
                ck_assert_uint_eq(refusal.biggest[i].uid, uids[i]);
                ck_assert_uint_eq(refusal.biggest[i].padding, 0);
        }
        ck_assert_uint_eq(refusal.item, 0);
        ck_assert_uint_eq(refusal.padding, 0);
}

START_TEST(test_biggest) {
        static const struct {
                uid_t uid;
                uint64_t amount;
        } users[] = { { 1005, 5 }, { 1001, 9 }, { 1004, 5 }, { 0, 7 }, { 1003, 5 }, { 1002, 8 }, { 1006, 1 } };
        struct charge charges[ELEMENTSOF(users)], other, nothing;

        quota.maximum[QUOTA_SEGMENTS] = 100;
        expect_biggest((uint64_t[]) { 0, 0, 0 }, (uid_t[]) { 0, 0, 0 });
        ck_assert_int_eq(charge(CAROL, QUOTA_HOLDS, 1000, &other), 0); /* of something else */
        ck_assert_int_eq(charge(CAROL, QUOTA_SEGMENTS, 0, &nothing), 0);
        expect_biggest((uint64_t[]) { 0, 0, 0 }, (uid_t[]) { 0, 0, 0 });

        for (size_t i = 0; i < ELEMENTSOF(users); i++)
                ck_assert_int_eq(charge(users[i].uid, QUOTA_SEGMENTS, users[i].amount, &charges[i]), 0);
        expect_biggest((uint64_t[]) { 9, 8, 7 }, (uid_t[]) { 1001, 1002, 0 });
        charge_done(&charges[1]);
        expect_biggest((uint64_t[]) { 8, 7, 5 }, (uid_t[]) { 1002, 0, 1003 }); /* of those who have as much the smallest uid */
        charge_done(&charges[4]);
        charge_done(&charges[5]);
        expect_biggest((uint64_t[]) { 7, 5, 5 }, (uid_t[]) { 0, 1004, 1005 });
        charge_done(&charges[0]);
        charge_done(&charges[2]);
        expect_biggest((uint64_t[]) { 7, 1, 0 }, (uid_t[]) { 0, 1006, 0 });
        charge_done(&charges[3]);
        charge_done(&charges[6]);
        charge_done(&other);
        charge_done(&nothing);
}
END_TEST

/* In whatever order accounts come. */
START_TEST(test_biggest_of_many) {
        struct charge charges[50];

        quota.maximum[QUOTA_SEGMENTS] = 100;
        for (unsigned i = 0; i < ELEMENTSOF(charges); i++)
                ck_assert_int_eq(charge(2000 + i, QUOTA_SEGMENTS, 1 + i * (unsigned) (_i * 2 + 1) % 53, &charges[i]), 0);
        for (unsigned n = ELEMENTSOF(charges); n > 0; n--) {
                uint64_t used[3] = { 0 };
                uid_t uids[3] = { 0 };

                for (unsigned k = 0; k < 3; k++)
                        for (unsigned i = 0; i < n; i++)
                                if (charges[i].amount > used[k] && (k == 0 || charges[i].amount < used[k - 1])) {
                                        used[k] = charges[i].amount;
                                        uids[k] = 2000 + i;
                                }
                expect_biggest(used, uids);
                charge_done(&charges[n - 1]);
        }
}
END_TEST

/* --- without memory --- */

START_TEST(test_charge_without_memory) {
        struct charge first = { 0 }, second = { 0 };
        int r;

        faults_arm(1, true);
        r = charge(ALICE, QUOTA_BYTES, 1, &first);
        ck_assert(faults_disarm());
        ck_assert_int_eq(r, -ENOMEM);
        ck_assert_ptr_null(first.account);
        ck_assert_uint_eq(ACCOUNTS(), 0);

        /* Who has an account needs no memory. */
        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 1, &first), 0);
        faults_arm(1, true);
        r = charge(ALICE, QUOTA_BYTES, 2, &second);
        ck_assert(!faults_disarm());
        ck_assert_int_eq(r, 0);
        charge_done(&first);
        charge_done(&second);
}
END_TEST

START_TEST(test_move_without_memory) {
        struct charge moved, before;
        int r;

        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 8, &moved), 0);
        before = moved;
        faults_arm(1, true);
        r = charge_move(&moved, BOB, &refusal);
        ck_assert(faults_disarm());
        ck_assert_int_eq(r, -ENOMEM);
        ck_assert_mem_eq(&moved, &before, sizeof(before));
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 8);
        ck_assert_uint_eq(ACCOUNTS(), 1);
        charge_done(&moved);
}
END_TEST

/* It stays with the account that it has, with the new amount: facts are facts. */
START_TEST(test_force_without_memory) {
        struct charge forced, other;

        ck_assert_int_eq(charge(ALICE, QUOTA_BYTES, 8, &forced), 0);
        faults_arm(1, true);
        charge_force(&forced, BOB, 9);
        ck_assert(faults_disarm());
        ck_assert_uint_eq(forced.account->uid, ALICE);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 9);
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_BYTES), 0);
        ck_assert_uint_eq(ACCOUNTS(), 1);

        ck_assert_int_eq(charge(BOB, QUOTA_HOLDS, 1, &other), 0);
        faults_arm(1, true);
        charge_force(&forced, BOB, 10);
        ck_assert(!faults_disarm());
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_BYTES), 10);

        /* In the pool it counts as far as hers may, with whom it stays, not as root's would. */
        charge_force(&forced, ALICE, 10);
        quota.pool[QUOTA_BYTES] = 100;
        faults_arm(1, true);
        charge_force(&forced, 0, 1000);
        ck_assert(faults_disarm());
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_BYTES), 1000);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 75);
        charge_done(&forced);
        charge_done(&other);
}
END_TEST

/* At the daemon's end: what is left goes, whoever holds a charge of it. */
START_TEST(test_quota_done) {
        struct charge charges[20];

        for (unsigned i = 0; i < ELEMENTSOF(charges); i++)
                ck_assert_int_eq(charge(ALICE + i * 7 % 20, QUOTA_HOLDS, i, &charges[i]), 0);
        ck_assert_uint_eq(ACCOUNTS(), 20);
        quota_done(&quota);
        ck_assert_uint_eq(ACCOUNTS(), 0);
        quota_init(&quota);
}
END_TEST

static Suite *quota_suite(void) {
        Suite *suite = suite_create("quota");
        TCase *tests = tcase_create("quota");

        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, test_unlimited_at_first);
        tcase_add_test(tests, test_sums);
        tcase_add_loop_test(tests, test_limit, 0, QUOTA_COUNT);
        tcase_add_test(tests, test_limit_lowered);
        tcase_add_test(tests, test_root_is_exempt);
        tcase_add_test(tests, test_overflow);
        tcase_add_test(tests, test_done_twice);
        tcase_add_test(tests, test_charge_of_nothing);
        tcase_add_test(tests, test_move);
        tcase_add_test(tests, test_move_nowhere);
        tcase_add_test(tests, test_move_refused);
        tcase_add_test(tests, test_force);
        tcase_add_test(tests, test_force_alone);
        tcase_add_test(tests, test_pool_share);
        tcase_add_test(tests, test_pool_is_shared);
        tcase_add_test(tests, test_pool_and_maximum);
        tcase_add_test(tests, test_pool_and_root);
        tcase_add_test(tests, test_pool_overflow);
        tcase_add_test(tests, test_pool_and_move);
        tcase_add_test(tests, test_pool_and_force);
        tcase_add_test(tests, test_pool_and_force_past_maximum);
        tcase_add_test(tests, test_biggest);
        tcase_add_loop_test(tests, test_biggest_of_many, 0, 5);
        tcase_add_test(tests, test_charge_without_memory);
        tcase_add_test(tests, test_move_without_memory);
        tcase_add_test(tests, test_force_without_memory);
        tcase_add_test(tests, test_quota_done);
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(quota_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
