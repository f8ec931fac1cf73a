/* SPDX-License-Identifier: MIT */
/*
 * The page of name generations: counters that all clients may read and only the daemon
 * writes: its mode lets nobody else, and its owner is the daemon's user. (So in a per-user daemon its clients could cheat each
 * other, who are one user. No seal, as the next daemon must be able to map it.) One changes when what a client
 * remembers of a segment may no longer be true; so a client answers an open of what it holds
 * by itself. Segments share counters (id modulo slots): too many changes cost a round trip, no more.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct generation {
        _Atomic uint32_t *slots;
        int fd; /* read-only, for the clients */
        int keep_fd; /* writable, to be kept for the next daemon */
};

/*
 * kept_fd: the page of an earlier daemon, whose clients still look at it: then all counters advance, as things may have changed;
 * or negative for a new one. Borrowed. 0 or -errno.
 */
int generation_init(struct generation *generation, int kept_fd);
void generation_done(struct generation *generation);

uint32_t generation_get(const struct generation *generation, uint64_t id);
void generation_advance(struct generation *generation, uint64_t id);
