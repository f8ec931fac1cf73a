/* SPDX-License-Identifier: MIT */
/*
 * How often something may be said, by kind and by user: a token bucket each, so that no user can flood a log, and none
 * keeps another's lines out of it.
 *
 * Pure: time is handed in (CLOCK_MONOTONIC, microseconds). Owns a table of fixed size; a user who finds no place in it
 * shares a bucket with all others of that kind. Invariant: what was not admitted is counted until a summary of it is taken.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* So many at once, then one each interval. */
#define THROTTLE_BURST 5u
#define THROTTLE_INTERVAL_USEC UINT64_C(30000000)

#define THROTTLE_BUCKETS 128u
#define THROTTLE_KINDS_MAX 32u

#define THROTTLE_NOBODY INT64_C(-1) /* what concerns no user */
#define THROTTLE_OTHERS INT64_C(-2) /* in a summary: several users */

struct throttle_bucket {
        uint64_t full_usec;  /* when all its tokens are back */
        uint64_t suppressed; /* not admitted since the last summary */
        int64_t uid;
        unsigned kind;
};

struct throttle {
        struct throttle_bucket buckets[THROTTLE_BUCKETS];
        struct throttle_bucket others[THROTTLE_KINDS_MAX];
};

struct throttle_summary {
        uint64_t suppressed;
        int64_t uid;
        unsigned kind;
};

void throttle_init(struct throttle *throttle);

/* Whether it may be said now; if not, it is counted. */
bool throttle_admit(struct throttle *throttle, unsigned kind, int64_t uid, uint64_t now_usec);

/* When the first summary is due; UINT64_MAX if nothing was suppressed. */
uint64_t throttle_next_usec(const struct throttle *throttle);

/* Takes one that is due, if there is any: it is said in place of a line. UINT64_MAX makes all due. */
bool throttle_take_summary(struct throttle *throttle, uint64_t now_usec, struct throttle_summary *ret_summary);
