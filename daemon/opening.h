/* SPDX-License-Identifier: MIT */
/*
 * Opening or creating one segment for one client, in the two phases that handlers of one and of many have
 * in common: prepare does all that can fail, commit can't, abort leaves nothing.
 */
#pragma once

#include "dispatch.h"

#define OPEN_FLAGS (SHMD_WIRE_WRITE | SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED | SHMD_WIRE_TRUNCATE)
#define CREATE_FLAGS \
        (OPEN_FLAGS | SHMD_WIRE_CREATE | SHMD_WIRE_POSIX | SHMD_WIRE_UNPUBLISHED | SHMD_WIRE_SINGLE_WRITER)

struct opening {
        struct segment *segment;
        struct hold *hold;
        uint32_t flags; /* enum shmd_wire_open_flags */
        int fd;         /* for the client */
        bool fd_owned;  /* else it is the segment's shared one */
        bool created;
        bool made_before; /* by the same client, who asked again as it had no answer */
};

/* A segment that is there. 0, a status with details in context->refusal, or -errno. */
int opening_prepare_open(struct op_context *context, struct segment *segment, uint32_t flags, struct opening *ret_opening);

/*
 * A CREATE, whose name and labels stand at tail, tail_size bytes in all; files are the two descriptors of CREATE_FILE, taken if it
 * succeeds, or NULL. The same results.
 */
int opening_prepare_create(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size,
                           int *files, struct opening *ret_opening);

void opening_commit(struct op_context *context, struct opening *opening);
void opening_abort(struct op_context *context, struct opening *opening);

/* What the client is told of it. */
struct shmd_wire_opened opening_describe(struct daemon *daemon, const struct opening *opening);

/* All of it for one segment: prepare, answer, commit. */
int op_open_segment(struct op_context *context, struct segment *segment, uint32_t flags);
