/* SPDX-License-Identifier: MIT */
/*
 * Creating one segment for one client: what has the name is opened, or refused; else memory is made for it, or taken from whoever
 * brings it. And what the creation of SysV segments (creating_sysv.c) has in common with that. The two phases are opening.h's.
 */
#pragma once

#include "opening.h"

#define CREATE_FLAGS \
        (OPEN_FLAGS | SHMD_WIRE_CREATE | SHMD_WIRE_POSIX | SHMD_WIRE_UNPUBLISHED | SHMD_WIRE_SINGLE_WRITER)

/* Where its memory comes from. */
enum source {
        SOURCE_NEW,
        SOURCE_FILE,
        SOURCE_SYSV,
};

/*
 * A CREATE, whose name and labels stand at tail, tail_size bytes in all; files are the two descriptors of CREATE_FILE, taken if it
 * succeeds, or NULL. Results of opening_prepare_open().
 */
int creating_prepare(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size,
                     int *files, struct opening *ret_opening);

/* --- parts --- */

/* All about a CREATE that can be judged without looking at the registry. The plan points into tail. 0 or a status. */
int creating_plan(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size,
                  enum source source, struct segment_plan *ret_plan);

/* Whether what has this lifetime may have another keeper than its creator's connection. */
bool creating_may_be_kept(uint32_t lifetime);

/*
 * What has the name, or NULL. If all that keeps it is that its turn to be asked about has not come, it is asked
 * about now: a client that has closed what goes with its holder may use the name again at once.
 */
struct segment *creating_find(struct op_context *context, const char *name, size_t size);

/* The client had asked for the very same before. */
bool creating_is_repeated(const struct op_context *context, const struct shmd_wire_create *body, const struct segment *segment);
/* Then: results of opening_prepare_open(). */
int creating_open_again(struct op_context *context, const struct shmd_wire_create *body, struct segment *segment,
                        struct opening *ret_opening);
/* What has the name is opened, or refused: 0, a status, or -errno. */
int creating_open_existing(struct op_context *context, const struct shmd_wire_create *body, struct segment *segment,
                           struct opening *ret_opening);

/* It has its memory: who made it and who keeps it (0: nobody else) is noted, and it is put into the store. 0 or -errno. */
int creating_keep(struct op_context *context, struct segment *segment, uint64_t keeper);
