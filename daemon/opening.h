/* SPDX-License-Identifier: MIT */
/*
 * Opening one segment for one client, in the two phases that creating (creating.h) has in common with it, and handlers of one and of
 * many: prepare does all that can fail, commit can't, abort leaves nothing.
 */
#pragma once

#include "dispatch.h"

#define OPEN_FLAGS (SHMD_WIRE_WRITE | SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED | SHMD_WIRE_TRUNCATE)

struct opening {
        struct segment *segment;
        struct hold *hold;
        uint32_t flags; /* enum shmd_wire_open_flags */
        int fd;         /* for the client */
        bool fd_owned;  /* else it is the segment's shared one */
        bool created;
        bool made_before; /* by the same client, who asked again as it had no answer */
};

/* Nothing yet. */
void opening_init(struct opening *opening);

/* What its rights are judged by. Of a SysV segment its creator has the owner's, too: ipc/util.c, ipcperms(). */
struct ownership opening_ownership(struct op_context *context, const struct segment *segment);

/* A segment that is there. 0, a status with details in context->refusal, or -errno. */
int opening_prepare_open(struct op_context *context, struct segment *segment, uint32_t flags, struct opening *ret_opening);

void opening_commit(struct op_context *context, struct opening *opening);
void opening_abort(struct op_context *context, struct opening *opening);

/* What the client is told of it. */
struct shmd_wire_opened opening_describe(struct daemon *daemon, const struct opening *opening);

/* What was prepared for one segment is answered, and then committed; or, if it can't be answered, aborted. 0 or -errno. */
int opening_answer(struct op_context *context, struct opening *opening);
/* All of it: prepare, answer, commit. */
int op_open_segment(struct op_context *context, struct segment *segment, uint32_t flags);
