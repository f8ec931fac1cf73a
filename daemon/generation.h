/* SPDX-License-Identifier: MIT */
/*
 * The page of name generations: counters that all clients may read and only the daemon
 * writes (sealed with F_SEAL_FUTURE_WRITE after the daemon has mapped it). One changes when what a client
 * remembers of a segment may no longer be true; so a client answers an open of what it holds
 * by itself. Segments share counters (id modulo slots): too many changes cost a round trip, no more.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct generation {
        _Atomic uint32_t *slots;
        int fd; /* read-only, for the clients */
};

int generation_init(struct generation *generation);
void generation_done(struct generation *generation);

uint32_t generation_get(const struct generation *generation, uint64_t id);
void generation_advance(struct generation *generation, uint64_t id);
