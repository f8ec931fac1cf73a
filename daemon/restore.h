/* SPDX-License-Identifier: MIT */
/*
 * Segments of an earlier daemon, brought back: read from its state logs and carriers, nothing of which is changed or
 * used up, so that a daemon that dies here leaves it to the next one.
 *
 * A segment is back when it has a record and the carrier had its description. Whatever is damaged or missing costs itself,
 * and is told on the log.
 */
#pragma once

#include <stdint.h>

#include "handover.h"
#include "state.h"

struct daemon;

struct restored {
        uint64_t epoch;        /* of the latest log; zero: there was none */
        uint64_t restarts;     /* this one counted */
        uint64_t started_usec; /* CLOCK_REALTIME: the first of the daemons; zero: there was none */
        struct state_making making;
        unsigned segments;     /* that are back */
        unsigned lost;         /* that had a record and nothing else, or were damaged */
};

/* 0, or -errno where nothing can be said of what there was, for want of memory. */
int restore(struct daemon *daemon, const struct handover *handover, struct restored *ret_restored);
