/* SPDX-License-Identifier: MIT */
/*
 * The clocks, in microseconds: CLOCK_REALTIME for what people are told, CLOCK_MONOTONIC for what is waited for.
 */
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_usec(clockid_t clock) {
        struct timespec now;

        (void) clock_gettime(clock, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

static inline uint64_t now_realtime_usec(void) {
        return clock_usec(CLOCK_REALTIME);
}

/* As the kernel dates its objects: it is behind the other one by a few milliseconds, and so may be in the second before. */
static inline int64_t now_kernel_sec(void) {
        return (int64_t) (clock_usec(CLOCK_REALTIME_COARSE) / 1000000);
}

static inline uint64_t now_monotonic_usec(void) {
        return clock_usec(CLOCK_MONOTONIC);
}
