/* SPDX-License-Identifier: MIT */
#include "quota.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"
#include "util.h"

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
        [QUOTA_DESCRIPTORS] = SHMD_LIMIT_DESCRIPTORS,
        [QUOTA_IN_FLIGHT] = SHMD_LIMIT_DESCRIPTORS,
};

void quota_init(struct quota *quota) {
        *quota = (struct quota) { 0 };
        RB_INIT(&quota->accounts);
        for (int i = 0; i < QUOTA_COUNT; i++)
                quota->maximum[i] = quota->pool[i] = QUOTA_UNLIMITED;
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

/* Three quarters of what the user has and what is free, rounded up so that the last one is somebody's. */
static uint64_t pool_share(struct quota *quota, uid_t uid, enum quota_resource resource) {
        uint64_t pool = quota->pool[resource], total = quota->total[resource], share;

        if (pool == QUOTA_UNLIMITED)
                return QUOTA_UNLIMITED;
        share = quota_used(quota, uid, resource) + (total < pool ? pool - total : 0);
        return share - share / 4;
}

uint64_t quota_maximum(struct quota *quota, uid_t uid, enum quota_resource resource) {
        return uid == 0 ? QUOTA_UNLIMITED : MIN(quota->maximum[resource], pool_share(quota, uid, resource));
}

uint64_t quota_used(struct quota *quota, uid_t uid, enum quota_resource resource) {
        struct account *account = account_find(quota, uid);

        return account ? account->used[resource] : 0;
}

/* Keeps the accounts that use most, the largest first. */
static void note_biggest(struct shmd_wire_refusal *refusal, const struct account *account, enum quota_resource resource) {
        size_t count = ELEMENTSOF(refusal->biggest), i = count;

        while (i > 0 && account->used[resource] > refusal->biggest[i - 1].used)
                i--;
        if (i == count)
                return;
        memmove(&refusal->biggest[i + 1], &refusal->biggest[i], (count - i - 1) * sizeof(refusal->biggest[0]));
        refusal->biggest[i].used = account->used[resource];
        refusal->biggest[i].uid = account->uid;
}

static int refuse(struct quota *quota, uid_t uid, enum quota_resource resource, uint64_t amount, uint64_t maximum,
                  struct shmd_wire_refusal *refusal) {
        struct account *account;

        *refusal = (struct shmd_wire_refusal) {
                .limit = resource_limits[resource],
                .uid = uid,
                .requested = amount,
                .used = quota_used(quota, uid, resource),
                .maximum = maximum,
        };
        RB_FOREACH(account, account_tree, &quota->accounts)
                note_biggest(refusal, account, resource);
        return SHMD_OVER_LIMIT;
}

const struct account *quota_next_account(struct quota *quota, uid_t from) {
        return RB_NFIND(account_tree, &quota->accounts, &(struct account) { .uid = from });
}

int quota_charge(struct quota *quota, uid_t uid, enum quota_resource resource, uint64_t amount, struct charge *ret_charge,
                 struct shmd_wire_refusal *refusal) {
        uint64_t maximum = quota_maximum(quota, uid, resource);
        uint64_t used = quota_used(quota, uid, resource);
        struct account *account;

        /* No sum may overflow, whatever the limits. */
        if (used > maximum || amount > maximum - used || amount > UINT64_MAX - quota->total[resource])
                return refuse(quota, uid, resource, amount, maximum, refusal);
        account = account_get(quota, uid);
        if (!account)
                return -ENOMEM;

        account->used[resource] += amount;
        account->charges++;
        quota->total[resource] += amount;
        *ret_charge = (struct charge) { .account = account, .resource = resource, .amount = amount, .pooled = amount };
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

/* How much of an amount the user would be granted. */
static uint64_t granted(struct quota *quota, uid_t uid, enum quota_resource resource, uint64_t amount) {
        uint64_t maximum = quota_maximum(quota, uid, resource), used = quota_used(quota, uid, resource);

        amount = MIN(amount, UINT64_MAX - quota->total[resource]);
        return MIN(amount, used < maximum ? maximum - used : 0);
}

void charge_force(struct charge *charge, uid_t uid, uint64_t amount) {
        struct account *account = account_get(charge->account->quota, uid);
        struct account *before = charge->account;
        struct quota *quota = before->quota;

        if (!account)
                account = before;
        before->used[charge->resource] -= charge->amount;
        before->charges--;
        quota->total[charge->resource] -= charge->pooled;
        charge->account = account;
        charge->amount = amount;
        charge->pooled = granted(quota, account->uid, charge->resource, amount);
        account->used[charge->resource] += amount;
        account->charges++;
        quota->total[charge->resource] += charge->pooled;
        account_put(before);
}

int quota_charge_fact(struct quota *quota, uid_t uid, enum quota_resource resource, uint64_t amount, struct charge *ret_charge) {
        struct account *account = account_get(quota, uid);

        if (!account)
                return -ENOMEM;
        account->charges++;
        *ret_charge = (struct charge) { .account = account, .resource = resource };
        charge_force(ret_charge, uid, amount);
        return 0;
}

void charge_done(struct charge *charge) {
        struct account *account = charge->account;

        if (!account)
                return;
        account->used[charge->resource] -= charge->amount;
        account->quota->total[charge->resource] -= charge->pooled;
        account->charges--;
        account_put(account);
        *charge = (struct charge) { 0 };
}
