/* SPDX-License-Identifier: MIT */
/*
 * From a message to its handler: every check that the operation table asks for, in one
 * place, then the handler, then exactly one answer.
 *
 * A handler returns 0 after it has answered; a status (>0), or a failure (<0, -errno), for the dispatcher to
 * answer with. What is made for the client is answered before it is committed, as answering is the last thing that can fail; what
 * changes something is done first: a client that is told of it finds it done, also after the daemon's death (store.h).
 */
#pragma once

#include "operation.h"
#include "session.h"
#include "status.h"

struct op_context {
        struct daemon *daemon;
        struct session *session;
        const struct operation *operation;
        struct segment *segment; /* what the request's target names, if the table asks for it; or what was refused */
        const char *name;        /* of the target, or of what is to be made, checked; NULL if it was given by id */
        size_t name_size;
        const char *tail; /* what follows the request's structure, less the target's name */
        size_t tail_size;
        struct wire_fds *fds; /* that came with the request; what is not taken is closed */
        uint32_t serial;
        uint64_t now_usec; /* CLOCK_REALTIME */
        bool answered;
        bool repeated; /* SHMD_WIRE_REPEATED */
        struct shmd_wire_refusal refusal; /* details for a status that is not OK */
};

/*
 * Handles one message. 0; or <0 if the connection must be closed: it has gone, or the client
 * broke a rule that can't be answered.
 */
int dispatch(struct session *session, const void *message, size_t size, struct wire_fds *fds);

/*
 * Finds what a request's target names, for handlers whose row does not ask for it: context->segment, name, tail.
 * 0, or a status.
 */
int op_find_target(struct op_context *context, const struct shmd_wire_target *target);

/* A name from a client, checked. 0, or a status. */
int op_check_name(const char *name, size_t size, const char **ret_name, size_t *ret_size);

/* Answers for requests that could not be answered in their turn. 0; or <0 if the connection must be closed. */
int dispatch_late_refusal(struct session *session, uint16_t operation, uint32_t serial, int result);
int dispatch_late_open(struct session *session, uint32_t serial, struct segment *segment, uint32_t flags);
int dispatch_late_reply(struct session *session, uint16_t operation, uint32_t serial, const void *body);

/* The handler calls this when it has seen to it that the request will be answered later. */
static inline void op_answer_later(struct op_context *context) {
        context->answered = true;
}

/* The answers of handlers. 0 or -errno, as session_send(). */
int op_reply(struct op_context *context, const void *body, const int *fds, unsigned fds_count);
int op_reply_with_tail(struct op_context *context, const void *body, const void *tail, size_t tail_size);
int op_reply_with_all(struct op_context *context, const void *body, const void *tail, size_t tail_size, const int *fds,
                      unsigned fds_count);

/* Notes what was refused, and fills in whose it is. */
int op_refuse(struct op_context *context, int status, struct segment *segment);

/* The handlers, one for each row of operations.def. */
#define OPERATION(number, NAME, name, request, reply, tail, fds_in, fds_out, right, flags) \
        int op_##name(struct op_context *context, const struct shmd_wire_##request *body);
#include "operations.def"
#undef OPERATION
