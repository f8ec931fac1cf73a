/* SPDX-License-Identifier: MIT */
/*
 * Who wants to know of which names: watches on prefixes, and waits for one name.
 *
 * Pure. Owns nothing but the index: watches and waits are embedded in structures of their owners, who
 * put them in and take them out. Finding those that a name concerns costs a look-up for each
 * length of prefix in use, not one for each watch.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <bsd/sys/queue.h>

#include "protocol.h"
#include "tree.h"

/* An interest in a name, or in all that begin so. */
struct watch {
        RB_ENTRY(watch) by_prefix;
        uint64_t key; /* tells watches of the same prefix apart */
        uint16_t size;
        bool exact;
        char prefix[SHMD_NAME_MAX];
};

RB_HEAD(watch_prefix_tree, watch);

struct watch_index {
        struct watch_prefix_tree watches;
        uint32_t lengths[SHMD_NAME_MAX + 1]; /* how many watches have a prefix of that length */
        uint64_t next_key;
};

void watch_index_init(struct watch_index *index);

/* size: at most SHMD_NAME_MAX. */
void watch_insert(struct watch_index *index, struct watch *watch, const char *prefix, size_t size, bool exact);
void watch_remove(struct watch_index *index, struct watch *watch);

/* Whether a name concerns it. */
bool watch_concerns(const struct watch *watch, const char *name, size_t size);

/*
 * The next watch that a name concerns, beginning with NULL; or NULL. The one that was
 * given before may have been removed meanwhile if its successor was asked for first.
 */
struct watch *watch_next(struct watch_index *index, const char *name, size_t size, struct watch *last);
