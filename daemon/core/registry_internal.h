/* SPDX-License-Identifier: MIT */
/*
 * What the registry's files have of each other: registry.c puts segments into the registry, and takes them out; segment.c makes them,
 * and has their owners charged; hold.c counts who has them.
 */
#pragma once

#include "registry.h"

/* --- registry.c --- */

/* To be called whenever something that kept a segment has ended. */
void segment_consider_idle(struct segment *segment, uint64_t now_usec);

/* Whether the last holder's going has a consequence. */
bool segment_idleness_matters(const struct segment *segment);

void segment_linger_stop(struct segment *segment);

/* Its times have changed. */
void segment_keep_times(struct segment *segment);

/* --- segment.c --- */

/* A copy with a terminating zero, which is not counted; or NULL. */
char *segment_copy_bytes(const char *data, size_t size);

/* Neither charged nor in the registry. 0 or -ENOMEM. */
int segment_new(struct registry *registry, const struct segment_plan *plan, struct segment **ret_segment);

/* What of its size counts, and how many descriptors it takes. */
uint64_t segment_chargeable(uint64_t size);
uint64_t segment_descriptors(const struct segment *segment);

/* For a new segment. 0, SHMD_OVER_LIMIT, -ENOMEM; what was charged by then goes with the segment. */
int segment_charge(struct segment *segment, uid_t uid, struct shmd_wire_refusal *refusal);
/* The same for what is there, past any limit. 0 or -ENOMEM. */
int segment_charge_facts(struct segment *segment, uid_t uid);

/* All is charged to somebody else, or nothing: 0, SHMD_OVER_LIMIT, -ENOMEM. */
int segment_move_charges(struct segment *segment, uid_t uid, struct shmd_wire_refusal *refusal);
/* The same past any limit; all stays as it is without memory for that. */
void segment_force_charges(struct segment *segment, uid_t uid);
void segment_force_bytes(struct segment *segment, uint64_t size);

/* --- hold.c --- */

struct hold *hold_find(struct client *client, struct segment *segment);
bool hold_is_attached(const struct hold *hold);
bool hold_is_empty(const struct hold *hold);

/* All of one client's opens of the segment end. */
void hold_end(struct hold *hold, uint64_t now_usec);

/* Ends what only the kernel accounted for. */
void segment_forget_detached(struct segment *segment);

/* Of everybody, without a consequence. */
void segment_end_holds(struct segment *segment);
