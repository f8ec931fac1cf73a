/* SPDX-License-Identifier: MIT */
/*
 * Handlers of what holders synchronise by: CONTROL, BELL_SET, BELL_GET. The right to it is a hold: who holds the
 * segment read-write may write it, and so may take its exclusive lock.
 */
#include <string.h>

#include "control.h"
#include "daemon.h"
#include "dispatch.h"
#include "util.h"

/* The segment by its id, which must be held. */
static int find_held(struct op_context *context, uint64_t id, struct segment **ret_segment) {
        struct segment *segment = registry_find_id(&context->daemon->registry, id);

        if (!segment || !client_holds(&context->session->client, segment, SHMD_ACCESS_READ))
                return SHMD_NOT_HELD;
        *ret_segment = segment;
        return 0;
}

/* Kept for the next daemon before anybody has it: a second one would be another lock. */
static int make(struct op_context *context, struct segment *segment, enum shmd_wire_control_part part) {
        struct daemon *daemon = context->daemon;
        int r;

        if (segment->custody.control_fd[part] >= 0)
                return 0;
        if (segment->control_lost & 1u << part)
                return SHMD_CONTROL_LOST;
        r = control_make(&daemon->memfd, segment, part, &context->refusal);
        if (r != 0)
                return r;
        r = store_put_again(&daemon->store, segment);
        if (r < 0)
                control_unmake(segment, part);
        else
                store_record(&daemon->store, segment);
        return r;
}

static bool may_look(struct op_context *context, struct segment *segment) {
        const struct credentials *credentials = &context->session->credentials;

        (void) memfd_refresh(segment);
        if (policy_manage(credentials, &segment->owner) == 0)
                return true;
        return segment_has_name(segment) && policy_open(credentials, &segment->owner, false) == 0;
}

/* The descriptor goes out read-only, in a description of its own. */
static int answer_read_only(struct op_context *context, struct shmd_wire_control_reply *reply, int fd) {
        _cleanup_close_ int read_only = -EBADF;
        int r;

        do
                r = memfd_reopen_read_only(&context->daemon->memfd, fd, &read_only);
        while ((r == -EMFILE || r == -ENFILE) && memfd_shrink(&context->daemon->memfd));
        return r < 0 ? r : op_reply(context, reply, &read_only, 1);
}

static int look(struct op_context *context, const struct shmd_wire_control *body, struct shmd_wire_control_reply *reply) {
        struct segment *segment = registry_find_id(&context->daemon->registry, body->id);

        if (!segment || !may_look(context, segment))
                return SHMD_NOT_FOUND;
        if (segment->control_lost & 1u << body->part)
                return SHMD_CONTROL_LOST;
        if (segment->custody.control_fd[body->part] < 0) {
                reply->size = 0;
                return op_reply(context, reply, NULL, 0);
        }
        return answer_read_only(context, reply, segment->custody.control_fd[body->part]);
}

int op_control(struct op_context *context, const struct shmd_wire_control *body) {
        struct shmd_wire_control_reply reply = { .layout = SHMD_CONTROL_LAYOUT };
        struct segment *segment;
        int r;

        if (body->part >= SHMD_WIRE_CONTROL_PARTS || (body->flags & ~SHMD_WIRE_CONTROL_LOOK))
                return SHMD_INVALID;
        reply.size = control_size(body->part);
        if (body->flags & SHMD_WIRE_CONTROL_LOOK)
                return look(context, body, &reply);
        r = find_held(context, body->id, &segment);
        if (r != 0)
                return r;
        r = make(context, segment, body->part);
        if (r != 0)
                return r;
        reply.writable = body->part == SHMD_WIRE_CONTROL_MEETING ||
                         client_holds(&context->session->client, segment, SHMD_ACCESS_WRITE);
        if (!reply.writable)
                return answer_read_only(context, &reply, segment->custody.control_fd[body->part]);
        return op_reply(context, &reply, &segment->custody.control_fd[body->part], 1);
}

static int bell_check(const struct shmd_wire_bell *body) {
        if (body->padding != 0)
                return SHMD_MALFORMED;
        return body->number < SHMD_BELLS ? 0 : SHMD_INVALID;
}

int op_bell_set(struct op_context *context, const struct shmd_wire_bell *body) {
        static const struct shmd_wire_empty reply;
        struct segment *segment;
        int r;

        r = bell_check(body);
        if (r == 0)
                r = find_held(context, body->id, &segment);
        if (r == 0)
                r = bell_set(&context->daemon->memfd, segment, context->session, body->number, &context->fds->fd[0],
                             &context->refusal);
        return r != 0 ? r : op_reply(context, &reply, NULL, 0);
}

int op_bell_get(struct op_context *context, const struct shmd_wire_bell *body) {
        static const struct shmd_wire_empty reply;
        const struct bell *bell;
        struct segment *segment;
        int r;

        r = bell_check(body);
        if (r == 0)
                r = find_held(context, body->id, &segment);
        if (r != 0)
                return r;
        bell = bell_find(segment, body->number);
        return bell ? op_reply(context, &reply, &bell->fd, 1) : SHMD_NOT_FOUND;
}
