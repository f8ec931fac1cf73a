/* SPDX-License-Identifier: MIT */
/*
 * What top shows: all segments as they were a moment ago, with how often each was opened since the moment before.
 *
 * Owns the rows. A picture costs one listing, whatever is done with it; sorting and choosing happen here, so that only the
 * rows that are seen are ever formatted.
 */
#pragma once

#include "shmdctl.h"

struct top_row {
        uint64_t id, size_bytes, resident_bytes;
        char *name;
        uint32_t opens, holders, uid;
        uint32_t state;
        double rate; /* opens a second */
};

enum top_order {
        TOP_SIZE = 0,
        TOP_RESIDENT,
        TOP_HOLDERS,
        TOP_OPENS, /* a second */
        TOP_NAME,
        TOP_ID,
        TOP_ORDERS,
};

struct top {
        struct top_row *rows; /* in the order of ids */
        size_t count, capacity;
        struct top_row **shown; /* those that match, in the order that is wanted */
        size_t n_shown;
        uint64_t taken_usec; /* CLOCK_MONOTONIC; 0: there is no picture yet */
        struct shmd_status status;
        uint64_t resident_bytes;
        double rate;
        enum top_order order;
        bool reverse;
        char filter[64]; /* part of a name */
};

const char *top_order_name(enum top_order order);

/* Takes a picture. 0, or what the library says, and the old one stays. */
int top_take(struct ctl *ctl, struct top *top);
/* After another picture, order or filter. */
void top_arrange(struct top *top);

/* The live one, until its user quits. Gives the exit status. */
int top_run(struct ctl *ctl, struct top *top, uint64_t interval_usec);
