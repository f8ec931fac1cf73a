/* SPDX-License-Identifier: MIT */
#include "dispatch.h"

#include <inttypes.h>
#include <string.h>

#include "daemon.h"
#include "log.h"
#include "name.h"

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

int op_reply(struct op_context *context, const void *body, const int *fds, unsigned fds_count) {
        struct shmd_wire_header header = { .operation = context->operation->number, .serial = context->serial };

        context->answered = true;
        return session_send(context->session, &header, body, context->operation->reply_size, NULL, 0, fds, fds_count);
}

int op_reply_with_tail(struct op_context *context, const void *body, const void *tail, size_t tail_size) {
        struct shmd_wire_header header = { .operation = context->operation->number, .serial = context->serial };

        context->answered = true;
        return session_send(context->session, &header, body, context->operation->reply_size, tail, tail_size, NULL, 0);
}

int op_refuse(struct op_context *context, int status, const struct segment *segment) {
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

/* The segment that a request names, by name or by id. 0 or a status. */
static int find_target(struct op_context *context, const struct shmd_wire_target *target) {
        struct registry *registry = &context->daemon->registry;
        const char *name;
        size_t size;

        if (!wire_is_zero(target->padding, sizeof(target->padding)))
                return SHMD_MALFORMED;
        if (target->id != 0) {
                if (target->name_size != 0)
                        return SHMD_MALFORMED;
                context->segment = registry_find_id(registry, target->id);
        } else {
                if (target->name_size > context->tail_size)
                        return SHMD_MALFORMED;
                switch (name_check(context->tail, target->name_size, &name, &size)) {
                case NAME_OK:
                        break;
                case NAME_TOO_LONG:
                        return SHMD_NAME_TOO_LONG;
                default:
                        return SHMD_BAD_NAME;
                }
                context->segment = registry_find_name(registry, name, size);
                context->tail += target->name_size;
                context->tail_size -= target->name_size;
        }
        return context->segment ? 0 : SHMD_NOT_FOUND;
}

static int check_right(struct op_context *context, const void *body) {
        const struct credentials *credentials = &context->session->credentials;
        int r;

        if (context->operation->right == RIGHT_NONE)
                return 0;
        r = find_target(context, body);
        if (r != 0)
                return r;
        (void) memfd_refresh(context->segment);
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

static int handle(struct op_context *context, const void *body, size_t body_size) {
        const struct operation *operation = context->operation;
        int r;

        if (!context->session->greeted && !(operation->flags & OPERATION_FIRST))
                return SHMD_MALFORMED;
        if (!has_shape(operation, body_size, context->fds))
                return SHMD_MALFORMED;
        context->tail = (const char *) body + operation->request_size;
        context->tail_size = body_size - operation->request_size;
        r = check_right(context, body);
        if (r != 0)
                return r;
        return handlers[operation->number](context, body);
}

static void log_rule_broken(const struct session *session, const char *what) {
        const struct credentials *credentials = &session->credentials;
        struct log_fields fields = { .uid = credentials->uid, .pid = credentials->pid };

        log_fields(LOG_NOTICE, &fields, "disconnecting process %d of user %u: %s", (int) credentials->pid,
                   (unsigned) credentials->uid, what);
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

        if (size < sizeof(*header) || header->status != 0) {
                log_rule_broken(session, "it sent something that is no message");
                return -EPROTO;
        }
        context.serial = header->serial;
        context.operation = operation_find(header->operation);
        if (!context.operation)
                return answer_refusal(&context, header->operation, SHMD_UNSUPPORTED);

        r = handle(&context, header + 1, size - sizeof(*header));
        if (context.operation->flags & OPERATION_ONEWAY) {
                /* Nobody would hear an answer; what is not held needs no release. */
                if (r != SHMD_MALFORMED)
                        return 0;
                log_rule_broken(session, "it sent a malformed one-way request");
                return -EPROTO;
        }
        if (context.answered)
                return r;
        if (r < 0) {
                log_debug("operation %s failed: %s", context.operation->name, strerror(-r));
                r = status_from_errno(r);
        }
        return answer_refusal(&context, header->operation, r > 0 ? (unsigned) r : SHMD_FAILED);
}
