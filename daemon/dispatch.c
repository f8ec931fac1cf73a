/* SPDX-License-Identifier: MIT */
#include "dispatch.h"

#include <inttypes.h>
#include <string.h>

#include "daemon.h"
#include "name.h"
#include "opening.h"

typedef int (*handler)(struct op_context *context, const void *body);

/* A function type for each handler would say nothing more: the table checked the size. */
#define OPERATION(number, NAME, name, request, reply, tail, fds_in, fds_out, right, flags)   \
        static int call_##name(struct op_context *context, const void *body) {             \
                return op_##name(context, body);                                           \
        }
#include "operations.def"
#undef OPERATION

static const handler handlers[] = {
#define OPERATION(number, NAME, name, request, reply, tail, fds_in, fds_out, right, flags) [number] = call_##name,
#include "operations.def"
#undef OPERATION
};

int op_reply_with_all(struct op_context *context, const void *body, const void *tail, size_t tail_size, const int *fds,
                      unsigned fds_count) {
        struct shmd_wire_header header = { .operation = context->operation->number, .serial = context->serial };

        context->answered = true;
        return session_send(context->session, &header, body, context->operation->reply_size, tail, tail_size, fds, fds_count);
}

int op_reply(struct op_context *context, const void *body, const int *fds, unsigned fds_count) {
        return op_reply_with_all(context, body, NULL, 0, fds, fds_count);
}

int op_reply_with_tail(struct op_context *context, const void *body, const void *tail, size_t tail_size) {
        return op_reply_with_all(context, body, tail, tail_size, NULL, 0);
}

int op_refuse(struct op_context *context, int status, struct segment *segment) {
        context->segment = segment;
        context->refusal.uid = segment->owner.uid;
        context->refusal.gid = segment->owner.gid;
        context->refusal.mode = segment->owner.mode;
        return status;
}

static int answer_refusal(struct op_context *context, uint16_t operation, unsigned status) {
        struct shmd_wire_header header = { .operation = operation, .status = (uint16_t) status, .serial = context->serial };

        context->answered = true;
        return session_send(context->session, &header, &context->refusal, sizeof(context->refusal), NULL, 0, NULL, 0);
}

int op_check_name(const char *name, size_t size, const char **ret_name, size_t *ret_size) {
        switch (name_check(name, size, ret_name, ret_size)) {
        case NAME_OK:
                return 0;
        case NAME_TOO_LONG:
                return SHMD_NAME_TOO_LONG;
        default:
                return SHMD_BAD_NAME;
        }
}

int op_find_target(struct op_context *context, const struct shmd_wire_target *target) {
        struct registry *registry = &context->daemon->registry;
        int r;

        if (!wire_is_zero(target->padding, sizeof(target->padding)))
                return SHMD_MALFORMED;
        if (target->id != 0) {
                if (target->name_size != 0)
                        return SHMD_MALFORMED;
                context->segment = registry_find_id(registry, target->id);
        } else {
                if (target->name_size > context->tail_size)
                        return SHMD_MALFORMED;
                r = op_check_name(context->tail, target->name_size, &context->name, &context->name_size);
                if (r != 0)
                        return r;
                context->segment = registry_find_name(registry, context->name, context->name_size);
                context->tail += target->name_size;
                context->tail_size -= target->name_size;
        }
        if (!context->segment)
                return SHMD_NOT_FOUND;
        (void) memfd_refresh(context->segment);
        /* A SysV segment may turn out to have been removed in the kernel. */
        return context->name && !segment_has_name(context->segment) ? SHMD_NOT_FOUND : 0;
}

static int check_right(struct op_context *context, const void *body) {
        const struct credentials *credentials = &context->session->credentials;
        int r;

        if (context->operation->right == RIGHT_NONE)
                return 0;
        r = op_find_target(context, body);
        if (r != 0)
                return r;
        /* Without a name it is nobody's business but its owner's, and no other is told that it is there. */
        if (!segment_has_name(context->segment) && policy_manage(credentials, &context->segment->owner) != 0)
                return SHMD_NOT_FOUND;
        if (context->operation->right == RIGHT_OWNER) {
                r = policy_manage(credentials, &context->segment->owner);
                if (r != 0)
                        return op_refuse(context, r, context->segment);
        }
        return 0;
}

/* Whether a request has the shape that the table gives it. */
static bool has_shape(const struct operation *operation, size_t body_size, const struct wire_fds *fds) {
        if (body_size < operation->request_size || (body_size > operation->request_size && !operation->tail))
                return false;
        return fds->count == operation->fds_in;
}

/* Whether it was done for the client's former connection already, which was lost before the answer came. */
static bool is_done(const struct op_context *context) {
        return context->repeated && (context->operation->flags & OPERATION_ONCE) && context->serial != 0 &&
               context->serial == context->session->done_serial;
}

/* What changes a segment is refused where it could not be recorded. CREATE and PUBLISH see to it themselves; others record nothing. */
static int make_room_to_record(struct op_context *context) {
        return context->operation->right == RIGHT_OWNER ? store_make_room(&context->daemon->store, STORE_ROOM) : 0;
}

static int handle(struct op_context *context, const void *body, size_t body_size) {
        static const struct shmd_wire_empty done;
        const struct operation *operation = context->operation;
        int r;

        if (!context->session->greeted && !(operation->flags & OPERATION_FIRST))
                return SHMD_MALFORMED;
        if (!has_shape(operation, body_size, context->fds))
                return SHMD_MALFORMED;
        if (context->fds->count > 0 && !session_may_bring(context->session, &context->refusal))
                return SHMD_OVER_LIMIT;
        if (is_done(context))
                return op_reply(context, &done, NULL, 0);
        r = make_room_to_record(context);
        if (r < 0)
                return r;
        context->tail = (const char *) body + operation->request_size;
        context->tail_size = body_size - operation->request_size;
        r = check_right(context, body);
        if (r != 0)
                return r;
        return handlers[operation->number](context, body);
}

/* Exactly one answer: the handler's, or a refusal for what it returned. */
static int conclude(struct op_context *context, int r) {
        if (context->answered)
                return r;
        report_refusal(context, r);
        if (r < 0)
                r = status_from_errno(r);
        return answer_refusal(context, context->operation->number, r > 0 ? (unsigned) r : SHMD_FAILED);
}

int dispatch(struct session *session, const void *message, size_t size, struct wire_fds *fds) {
        const struct shmd_wire_header *header = message;
        struct op_context context = {
                .daemon = session->daemon,
                .session = session,
                .fds = fds,
                .now_usec = now_realtime_usec(),
        };
        int r;

        if (size < sizeof(*header) || header->status > SHMD_WIRE_REPEATED) {
                report_cut_off(session, "it sent something that is no message");
                return -EPROTO;
        }
        context.serial = header->serial;
        context.repeated = header->status == SHMD_WIRE_REPEATED;
        context.operation = operation_find(header->operation);
        if (!context.operation || (context.operation->flags & OPERATION_EVENT))
                return answer_refusal(&context, header->operation, SHMD_UNSUPPORTED);

        store_set_cause(&session->daemon->store, &(struct state_cause) { session->client.token, session->credentials.uid, header->serial });
        r = handle(&context, header + 1, size - sizeof(*header));
        if (store_clear_cause(&session->daemon->store))
                session->recorded_serial = header->serial;
        if (context.operation->flags & OPERATION_ONEWAY) {
                /* Nobody would hear an answer; what is not held needs no release. */
                if (r != SHMD_MALFORMED)
                        return 0;
                report_cut_off(session, "it sent a malformed one-way request");
                return -EPROTO;
        }
        return conclude(&context, r);
}

static struct op_context late_context(struct session *session, uint16_t operation, uint32_t serial) {
        return (struct op_context) {
                .daemon = session->daemon,
                .session = session,
                .operation = operation_find(operation),
                .serial = serial,
                .now_usec = now_realtime_usec(),
        };
}

int dispatch_late_refusal(struct session *session, uint16_t operation, uint32_t serial, int result) {
        struct op_context context = late_context(session, operation, serial);

        return conclude(&context, result);
}

int dispatch_late_reply(struct session *session, uint16_t operation, uint32_t serial, const void *body) {
        struct op_context context = late_context(session, operation, serial);

        return op_reply(&context, body, NULL, 0);
}

int dispatch_late_open(struct session *session, uint32_t serial, struct segment *segment, uint32_t flags) {
        struct op_context context = late_context(session, SHMD_OP_OPEN, serial);

        (void) memfd_refresh(segment);
        return conclude(&context, op_open_segment(&context, segment, flags));
}
