/* SPDX-License-Identifier: MIT */
/*
 * From a message to its handler: every check that the operation table asks for, in one
 * place, then the handler, then exactly one answer.
 *
 * A handler returns 0 after it has answered; a status (>0), or a failure (<0, -errno), for the dispatcher to
 * answer with. It answers before it commits, as answering is the last thing that can fail.
 */
#pragma once

#include "operation.h"
#include "session.h"
#include "status.h"

struct op_context {
        struct daemon *daemon;
        struct session *session;
        const struct operation *operation;
        struct segment *segment; /* what the request's target names, if the table asks for it */
        const char *tail;        /* what follows the request's structure, less the target's name */
        size_t tail_size;
        struct wire_fds *fds; /* that came with the request; what is not taken is closed */
        uint32_t serial;
        uint64_t now_usec; /* CLOCK_REALTIME */
        bool answered;
        struct shmd_wire_refusal refusal; /* details for a status that is not OK */
};

/*
 * Handles one message. 0; or <0 if the connection must be closed: it has gone, or the client
 * broke a rule that can't be answered.
 */
int dispatch(struct session *session, const void *message, size_t size, struct wire_fds *fds);

/* The answers of handlers. 0 or -errno, as session_send(). */
int op_reply(struct op_context *context, const void *body, const int *fds, unsigned fds_count);
int op_reply_with_tail(struct op_context *context, const void *body, const void *tail, size_t tail_size);

/* Fills in whose the thing is that was refused. */
int op_refuse(struct op_context *context, int status, const struct segment *segment);

/* The handlers, one for each row of operations.def. */
#define OPERATION(number, NAME, name, request, reply, tail, fds_in, fds_out, right, flags) \
        int op_##name(struct op_context *context, const struct shmd_wire_##request *body);
#include "operations.def"
#undef OPERATION
