/* SPDX-License-Identifier: MIT */
/*
 * What each user has of everything that is limited.
 *
 * Owns the accounts, one a user that has anything at all; an account lives as
 * long as a charge refers to it. A charge is an object that refunds itself: whoever
 * holds it in his own structure calls charge_done() when that goes, and there
 * is no other way to give anything back. Invariant: what an account shows as used is the sum
 * of its charges.
 *
 * Two limits apply: the user's own, and his share of a pool that all have in common. Of what he has and what is still
 * free together, a user gets at most three quarters; so there is always something left for the next one.
 * Root is exempt from both, but counts in the pool. What facts force past a user's limits does not: it is his
 * affair, and leaves the others' share alone.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "tree.h"

#include "protocol.h"

enum quota_resource {
        QUOTA_BYTES,
        QUOTA_SEGMENTS,
        QUOTA_HOLDS,
        QUOTA_CONNECTIONS,
        QUOTA_WATCHES, /* and waits */
        QUOTA_DESCRIPTORS, /* of the daemon: segments and connections; only as a pool */
        QUOTA_IN_FLIGHT,   /* descriptors that were sent and not received; only as a pool */
        QUOTA_COUNT,
};

#define QUOTA_UNLIMITED UINT64_MAX

struct account {
        RB_ENTRY(account) by_uid;
        struct quota *quota;
        uid_t uid;
        uint64_t charges; /* how many refer to it */
        uint64_t used[QUOTA_COUNT];
};

RB_HEAD(account_tree, account);

struct quota {
        struct account_tree accounts;
        uint64_t maximum[QUOTA_COUNT]; /* for each user */
        uint64_t pool[QUOTA_COUNT];    /* for all together; QUOTA_UNLIMITED: there is no pool */
        uint64_t total[QUOTA_COUNT];   /* used of it: the sum of what charges count there */
};

struct charge {
        struct account *account; /* NULL: nothing is charged */
        enum quota_resource resource;
        uint64_t amount;
        uint64_t pooled; /* of the amount: what counts in the pool */
};

void quota_init(struct quota *quota);
void quota_done(struct quota *quota);

/* The limit that applies to a user now, of the two; QUOTA_UNLIMITED for root. */
uint64_t quota_maximum(struct quota *quota, uid_t uid, enum quota_resource resource);
uint64_t quota_used(struct quota *quota, uid_t uid, enum quota_resource resource);

/* The account of the user with the next greater uid (from: that or a greater one) who has anything at all, or NULL. */
const struct account *quota_next_account(struct quota *quota, uid_t from);

/*
 * Charges an amount to a user. 0; SHMD_OVER_LIMIT, with limit, use and request in *refusal; -ENOMEM. A charge that was
 * done or never made is all zeros.
 */
int quota_charge(struct quota *quota, uid_t uid, enum quota_resource resource, uint64_t amount, struct charge *ret_charge,
                 struct shmd_wire_refusal *refusal);

/* Charges what is a fact already, whatever the limits are: 0 or -ENOMEM. */
int quota_charge_fact(struct quota *quota, uid_t uid, enum quota_resource resource, uint64_t amount, struct charge *ret_charge);

/* Moves a charge to another user: the same results, and on failure all is as it was. */
int charge_move(struct charge *charge, uid_t uid, struct shmd_wire_refusal *refusal);

/*
 * Makes a charge what the facts are, even past the limit. If there is no memory for the other user's account, it
 * stays with the one it has.
 */
void charge_force(struct charge *charge, uid_t uid, uint64_t amount);

/* Refunds. May be called again, to no effect. */
void charge_done(struct charge *charge);
