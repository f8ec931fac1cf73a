/* SPDX-License-Identifier: MIT */
#include "quota.h"

#include <errno.h>
#include <stdlib.h>

#include "status.h"

static int account_compare(struct account *a, struct account *b) {
        return (a->uid > b->uid) - (a->uid < b->uid);
}

TREE_GENERATE(account_tree, account, by_uid, account_compare)

static const enum shmd_limit resource_limits[QUOTA_COUNT] = {
        [QUOTA_BYTES] = SHMD_LIMIT_BYTES,
        [QUOTA_SEGMENTS] = SHMD_LIMIT_SEGMENTS,
        [QUOTA_HOLDS] = SHMD_LIMIT_HOLDS,
        [QUOTA_CONNECTIONS] = SHMD_LIMIT_CONNECTIONS,
        [QUOTA_WATCHES] = SHMD_LIMIT_WATCHES,
};

void quota_init(struct quota *quota) {
        RB_INIT(&quota->accounts);
        for (int i = 0; i < QUOTA_COUNT; i++)
                quota->maximum[i] = QUOTA_UNLIMITED;
}

void quota_done(struct quota *quota) {
        struct account *account;

        while ((account = RB_ROOT(&quota->accounts))) {
                RB_REMOVE(account_tree, &quota->accounts, account);
                free(account);
        }
}

static struct account *account_find(struct quota *quota, uid_t uid) {
        struct account key = { .uid = uid };

        return RB_FIND(account_tree, &quota->accounts, &key);
}

static struct account *account_get(struct quota *quota, uid_t uid) {
        struct account *account = account_find(quota, uid);

        if (account)
                return account;
        account = calloc(1, sizeof(*account));
        if (!account)
                return NULL;
        account->quota = quota;
        account->uid = uid;
        RB_INSERT(account_tree, &quota->accounts, account);
        return account;
}

/* Frees an account that nothing refers to any more. */
static void account_put(struct account *account) {
        if (account->charges > 0)
                return;
        RB_REMOVE(account_tree, &account->quota->accounts, account);
        free(account);
}

uint64_t quota_maximum(const struct quota *quota, uid_t uid, enum quota_resource resource) {
        return uid == 0 ? QUOTA_UNLIMITED : quota->maximum[resource];
}

uint64_t quota_used(struct quota *quota, uid_t uid, enum quota_resource resource) {
        struct account *account = account_find(quota, uid);

        return account ? account->used[resource] : 0;
}

int quota_charge(struct quota *quota, uid_t uid, enum quota_resource resource, uint64_t amount, struct charge *ret_charge,
                 struct shmd_wire_refusal *refusal) {
        uint64_t maximum = quota_maximum(quota, uid, resource);
        uint64_t used = quota_used(quota, uid, resource);
        struct account *account;

        /* The sum itself may not overflow, whatever the limit. */
        if (used > maximum || amount > maximum - used) {
                refusal->limit = resource_limits[resource];
                refusal->uid = uid;
                refusal->requested = amount;
                refusal->used = used;
                refusal->maximum = maximum;
                return SHMD_OVER_LIMIT;
        }
        account = account_get(quota, uid);
        if (!account)
                return -ENOMEM;

        account->used[resource] += amount;
        account->charges++;
        *ret_charge = (struct charge) { .account = account, .resource = resource, .amount = amount };
        return 0;
}

int charge_move(struct charge *charge, uid_t uid, struct shmd_wire_refusal *refusal) {
        struct charge moved;
        int r;

        if (!charge->account || charge->account->uid == uid)
                return 0;
        r = quota_charge(charge->account->quota, uid, charge->resource, charge->amount, &moved, refusal);
        if (r != 0)
                return r;
        charge_done(charge);
        *charge = moved;
        return 0;
}

void charge_force(struct charge *charge, uid_t uid, uint64_t amount) {
        struct account *account = account_get(charge->account->quota, uid);
        struct account *before = charge->account;

        if (!account)
                account = before;
        before->used[charge->resource] -= charge->amount;
        before->charges--;
        account->used[charge->resource] += amount;
        account->charges++;
        charge->account = account;
        charge->amount = amount;
        account_put(before);
}

void charge_done(struct charge *charge) {
        struct account *account = charge->account;

        if (!account)
                return;
        account->used[charge->resource] -= charge->amount;
        account->charges--;
        account_put(account);
        *charge = (struct charge) { 0 };
}
