/* SPDX-License-Identifier: MIT */
/*
 * Handlers of what begins and ends a client's dealings with segments: HELLO, RELEASE, RELEASE_MANY, RESUME, UNLINK, UNLINK_IDLE.
 * CREATE and OPEN are in creating.c and opening.c.
 */
#include <string.h>

#include "daemon.h"
#include "dispatch.h"
#include "opening.h"
#include "util.h"

int op_hello(struct op_context *context, const struct shmd_wire_hello *body) {
        struct session *session = context->session;
        struct shmd_wire_hello_reply reply = {
                .version = SHMD_PROTOCOL_VERSION,
                .message_max = SHMD_MESSAGE_MAX,
                .instance = context->daemon->instance,
                .generation_slots = SHMD_GENERATION_SLOTS,
        };

        if (session->greeted)
                return SHMD_MALFORMED;
        if (body->version_min > body->version_max || body->version_min > SHMD_PROTOCOL_VERSION ||
            body->version_max < SHMD_PROTOCOL_VERSION)
                return SHMD_UNSUPPORTED;
        session->greeted = true;
        session->client.token = body->token;
        session->done_serial = absent_return(&context->daemon->absents, body->token, &session->client);
        return op_reply(context, &reply, &context->daemon->generation.fd, 1);
}

/* Nobody rings at whoever does not hold the segment any more. */
static int release(struct op_context *context, const struct shmd_wire_release *item) {
        struct session *session = context->session;
        struct segment *segment;
        int r;

        r = hold_release(&session->client, item->id, item->access, context->now_usec);
        if (r != 0 || LIST_EMPTY(&session->bells))
                return r;
        segment = registry_find_id(&context->daemon->registry, item->id);
        if (segment && !client_holds(&session->client, segment, SHMD_ACCESS_READ))
                bells_drop(segment, session);
        return 0;
}

int op_release(struct op_context *context, const struct shmd_wire_release *body) {
        if (body->access > SHMD_ACCESS_WRITE || body->padding != 0)
                return SHMD_MALFORMED;
        return release(context, body);
}

int op_release_many(struct op_context *context, const struct shmd_wire_many *body) {
        const struct shmd_wire_release *items = (const struct shmd_wire_release *) context->tail;

        if (body->flags != 0 || body->count > SHMD_DESCRIPTORS_MAX || context->tail_size != body->count * sizeof(*items))
                return SHMD_MALFORMED;
        for (uint32_t i = 0; i < body->count; i++)
                if (items[i].access > SHMD_ACCESS_WRITE || items[i].padding != 0)
                        return SHMD_MALFORMED;
        for (uint32_t i = 0; i < body->count; i++)
                (void) release(context, &items[i]);
        return 0;
}

int op_resume(struct op_context *context, const struct shmd_wire_resume *body) {
        struct segment *segment = registry_find_id(&context->daemon->registry, body->id);
        _cleanup_(hold_abortp) struct hold *hold = NULL;
        struct shmd_wire_opened reply;
        int r;

        if (body->access > SHMD_ACCESS_WRITE || body->padding != 0)
                return SHMD_MALFORMED;
        if (!segment)
                return SHMD_NOT_FOUND;
        if (segment->backing == WIRE_BACKING_SYSV) {
                r = sysv_open_guard(&context->daemon->sysv, segment);
                if (r != 0)
                        return r;
        }
        if (!memfd_matches(segment, context->fds->fd[0], body->access == SHMD_ACCESS_WRITE))
                return SHMD_DENIED;
        /* Another one of the daemon's own memory is closed in no time: session_may_bring() is not for thousands that come back. */
        if (segment->backing != WIRE_BACKING_FILE)
                context->fds->fd[0] = close_fd(context->fds->fd[0]);
        r = hold_reserve(&context->session->client, segment, &hold, &context->refusal);
        if (r != 0)
                return r;
        reply = opening_describe(context->daemon, &(struct opening) { .segment = segment });
        r = op_reply(context, &reply, NULL, 0);
        if (r < 0)
                return r;
        hold_commit(TAKE_PTR(hold), body->access, false, context->now_usec);
        return 0;
}

static int unlink_target(struct op_context *context) {
        static const struct shmd_wire_empty reply;

        if (context->segment->state == WIRE_STATE_UNLINKED)
                return SHMD_NOT_FOUND;
        /* Whoever hears of the answer may not find the name in what he remembers any more. */
        generation_advance(&context->daemon->generation, context->segment->id);
        /* Recorded before it is answered: what a client was told is true after the daemon's death, too. */
        report_reclaimed(context->session, context->segment);
        registry_unlink(context->segment, context->now_usec);
        return op_reply(context, &reply, NULL, 0);
}

int op_unlink(struct op_context *context, const struct shmd_wire_unlink *body) {
        (void) body;
        return context->tail_size > 0 ? SHMD_MALFORMED : unlink_target(context);
}

/*
 * Nobody holds it, says the kernel, and nobody has for so long. Nobody can get it between this and what follows, as one
 * request is handled at a time.
 */
static bool is_idle(struct op_context *context, struct segment *segment, uint64_t idle_usec) {
        /* Zero: it was held by descriptors that went their own way, and the kernel had not been asked since. */
        uint64_t since_usec = segment->idle_usec > 0 ? segment->idle_usec : context->now_usec;

        bool had = segment->handed_out || segment->backing == WIRE_BACKING_SYSV;

        if (segment->attached > 0 || (had && lease_is_held(&context->daemon->lease, segment)))
                return false;
        return context->now_usec >= since_usec && context->now_usec - since_usec >= idle_usec;
}

int op_unlink_idle(struct op_context *context, const struct shmd_wire_unlink_idle *body) {
        if (context->tail_size > 0)
                return SHMD_MALFORMED;
        if (context->segment->state != WIRE_STATE_UNLINKED && !is_idle(context, context->segment, body->idle_usec))
                return SHMD_BUSY;
        return unlink_target(context);
}
