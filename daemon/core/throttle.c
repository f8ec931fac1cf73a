/* SPDX-License-Identifier: MIT */
#include "throttle.h"

#include "util.h"

void throttle_init(struct throttle *throttle) {
        *throttle = (struct throttle) { 0 };
        for (unsigned kind = 0; kind < THROTTLE_KINDS_MAX; kind++)
                throttle->others[kind] = (struct throttle_bucket) { .uid = THROTTLE_OTHERS, .kind = kind };
}

/* When the bucket has its next token. */
static uint64_t next_token_usec(const struct throttle_bucket *bucket) {
        const uint64_t rest = (THROTTLE_BURST - 1) * THROTTLE_INTERVAL_USEC;

        return bucket->full_usec > rest ? bucket->full_usec - rest : 0;
}

static void take_token(struct throttle_bucket *bucket, uint64_t now_usec) {
        bucket->full_usec = MAX(bucket->full_usec, now_usec) + THROTTLE_INTERVAL_USEC;
}

/* A full bucket is as good as none. */
static bool is_free(const struct throttle_bucket *bucket, uint64_t now_usec) {
        return bucket->suppressed == 0 && bucket->full_usec <= now_usec;
}

static struct throttle_bucket *find_bucket(struct throttle *throttle, unsigned kind, int64_t uid, uint64_t now_usec) {
        struct throttle_bucket *unused = NULL;

        for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
                struct throttle_bucket *bucket = &throttle->buckets[i];

                if (is_free(bucket, now_usec))
                        unused = unused ? unused : bucket;
                else if (bucket->kind == kind && bucket->uid == uid)
                        return bucket;
        }
        if (!unused)
                return &throttle->others[kind];
        *unused = (struct throttle_bucket) { .uid = uid, .kind = kind };
        return unused;
}

bool throttle_admit(struct throttle *throttle, unsigned kind, int64_t uid, uint64_t now_usec) {
        struct throttle_bucket *bucket = find_bucket(throttle, kind, uid, now_usec);

        /* As long as there is something to sum up, that comes first. */
        if (bucket->suppressed > 0 || next_token_usec(bucket) > now_usec) {
                bucket->suppressed++;
                return false;
        }
        take_token(bucket, now_usec);
        return true;
}

static const struct throttle_bucket *first_due(const struct throttle *throttle) {
        const struct throttle_bucket *first = NULL;

        for (unsigned i = 0; i < THROTTLE_BUCKETS + THROTTLE_KINDS_MAX; i++) {
                const struct throttle_bucket *bucket =
                        i < THROTTLE_BUCKETS ? &throttle->buckets[i] : &throttle->others[i - THROTTLE_BUCKETS];

                if (bucket->suppressed > 0 && (!first || bucket->full_usec < first->full_usec))
                        first = bucket;
        }
        return first;
}

uint64_t throttle_next_usec(const struct throttle *throttle) {
        const struct throttle_bucket *bucket = first_due(throttle);

        return bucket ? next_token_usec(bucket) : UINT64_MAX;
}

bool throttle_take_summary(struct throttle *throttle, uint64_t now_usec, struct throttle_summary *ret_summary) {
        struct throttle_bucket *bucket = (struct throttle_bucket *) first_due(throttle);

        if (!bucket || next_token_usec(bucket) > now_usec)
                return false;
        *ret_summary = (struct throttle_summary) { .suppressed = bucket->suppressed, .uid = bucket->uid, .kind = bucket->kind };
        bucket->suppressed = 0;
        if (now_usec != UINT64_MAX)
                take_token(bucket, now_usec);
        return true;
}
