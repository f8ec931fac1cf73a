/* SPDX-License-Identifier: MIT */
/*
 * Handlers of what makes, gives and ends holds: HELLO, CREATE, OPEN, RELEASE, RESUME, UNLINK.
 *
 * Each reserves, builds, answers, commits; nothing is visible to other clients, or stays charged,
 * unless every step succeeded.
 */
#include <string.h>

#include "daemon.h"
#include "dispatch.h"
#include "log.h"
#include "name.h"
#include "util.h"

/* Half of the address space is a process's own: what is larger nobody can map. Bytes. */
#if defined(__x86_64__)
#define SIZE_MAX_BYTES (UINT64_C(1) << 47)
#elif defined(__LP64__)
#define SIZE_MAX_BYTES (UINT64_C(1) << 48)
#else
#define SIZE_MAX_BYTES (UINT64_C(1) << 31)
#endif

#define OPEN_FLAGS (SHMD_WIRE_WRITE | SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED | SHMD_WIRE_TRUNCATE)
#define CREATE_FLAGS (OPEN_FLAGS | SHMD_WIRE_CREATE | SHMD_WIRE_POSIX)

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
        return op_reply(context, &reply, &context->daemon->generation.fd, 1);
}

static enum shmd_access wire_access(uint32_t flags) {
        return flags & SHMD_WIRE_WRITE ? SHMD_ACCESS_WRITE : SHMD_ACCESS_READ;
}

static int reply_opened(struct op_context *context, const struct segment *segment, bool created, int fd) {
        struct shmd_wire_opened reply = {
                .id = segment->id,
                .size = segment->size,
                .generation = generation_get(&context->daemon->generation, segment->id),
                .created = created,
        };

        return op_reply(context, &reply, &fd, fd >= 0 ? 1 : 0);
}

/* O_TRUNC empties what POSIX lets be emptied. */
static int truncate_segment(struct op_context *context, struct segment *segment) {
        if (!segment->posix)
                return SHMD_INVALID;
        if (policy_open(&context->session->credentials, &segment->owner, true) != 0)
                return op_refuse(context, SHMD_DENIED, segment);
        if (ftruncate(segment->custody.guard_fd, 0) < 0)
                return negative_errno();
        (void) memfd_refresh(segment);
        return 0;
}

/* Opens a segment that is there, for OPEN and for a CREATE that found it. */
static int open_segment(struct op_context *context, struct segment *segment, uint32_t flags) {
        struct daemon *daemon = context->daemon;
        _cleanup_(hold_abortp) struct hold *hold = NULL;
        bool write = flags & SHMD_WIRE_WRITE, private = flags & (SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED), own = false;
        _cleanup_close_ int owned_fd = -EBADF;
        int fd, r;

        r = policy_open(&context->session->credentials, &segment->owner, write);
        if (r != 0)
                return op_refuse(context, r, segment);
        r = hold_reserve(&context->session->client, segment, &hold, &context->refusal);
        if (r != 0)
                return r;
        if (flags & SHMD_WIRE_TRUNCATE) {
                r = truncate_segment(context, segment);
                if (r != 0)
                        return r;
        }
        r = memfd_open_segment(&daemon->memfd, segment, write, private, &fd, &own);
        if (r == -EACCES)
                return op_refuse(context, SHMD_DENIED, segment); /* the kernel's view of the mode, where the daemon is unprivileged */
        if (r < 0)
                return r;
        if (own)
                owned_fd = fd;

        r = reply_opened(context, segment, false, fd);
        if (r < 0)
                return r;
        hold_commit(TAKE_PTR(hold), wire_access(flags), flags & SHMD_WIRE_DETACHED, context->now_usec);
        return 0;
}

int op_open(struct op_context *context, const struct shmd_wire_open *body) {
        if (context->tail_size > 0 || body->padding != 0)
                return SHMD_MALFORMED;
        if (body->flags & ~OPEN_FLAGS)
                return SHMD_INVALID;
        /* Without its name it is its owner's and its holders' business: an id is no secret, but no key either. */
        if (context->segment->state == WIRE_STATE_UNLINKED &&
            policy_manage(&context->session->credentials, &context->segment->owner) != 0)
                return SHMD_NOT_FOUND;
        return open_segment(context, context->segment, body->flags);
}

static int check_size(struct op_context *context, const struct shmd_wire_create *body) {
        bool posix = body->flags & SHMD_WIRE_POSIX;

        if (posix != (body->size == 0))
                return SHMD_INVALID;
        if (body->size > SIZE_MAX_BYTES) {
                context->refusal.limit = SHMD_LIMIT_SIZE;
                context->refusal.requested = body->size;
                context->refusal.maximum = SIZE_MAX_BYTES;
                return SHMD_TOO_LARGE;
        }
        return 0;
}

/* Everything about a CREATE that can be judged without looking at the registry. */
static int make_plan(struct op_context *context, const struct shmd_wire_create *body, struct segment_plan *ret_plan) {
        const char *labels = context->tail + body->name_size;
        const char *name;
        size_t size;

        if ((size_t) body->name_size + body->labels_size != context->tail_size)
                return SHMD_MALFORMED;
        if ((body->flags & ~CREATE_FLAGS) || body->mode > 0777 || body->lifetime > WIRE_LIFETIME_CREATOR)
                return SHMD_INVALID;
        if ((body->flags & SHMD_WIRE_TRUNCATE) && !(body->flags & SHMD_WIRE_POSIX))
                return SHMD_INVALID;
        if ((body->linger_usec != 0) && body->lifetime != WIRE_LIFETIME_LINGER)
                return SHMD_INVALID;
        switch (name_check(context->tail, body->name_size, &name, &size)) {
        case NAME_OK:
                break;
        case NAME_TOO_LONG:
                return SHMD_NAME_TOO_LONG;
        default:
                return SHMD_BAD_NAME;
        }
        if (body->labels_size > SHMD_LABELS_MAX || !labels_check(labels, body->labels_size))
                return SHMD_INVALID;

        *ret_plan = (struct segment_plan) {
                .name = name,
                .name_size = size,
                .labels = labels,
                .labels_size = body->labels_size,
                .size = body->size,
                .linger_usec = body->linger_usec,
                .mode = body->flags & SHMD_WIRE_POSIX ? body->mode : body->mode & 0666,
                .lifetime = body->lifetime,
                .backing = WIRE_BACKING_MEMFD,
                .posix = body->flags & SHMD_WIRE_POSIX,
        };
        return check_size(context, body);
}

static int open_existing(struct op_context *context, const struct shmd_wire_create *body, struct segment *segment) {
        if (!(body->flags & SHMD_WIRE_CREATE))
                return op_refuse(context, SHMD_EXISTS, segment);
        (void) memfd_refresh(segment);
        if (segment->size < body->size) {
                context->refusal.limit = SHMD_LIMIT_EXISTING;
                context->refusal.requested = body->size;
                context->refusal.maximum = segment->size;
                return op_refuse(context, SHMD_INVALID, segment);
        }
        return open_segment(context, segment, body->flags & OPEN_FLAGS);
}

static void remember_creator(struct session *session, struct segment *segment) {
        session_describe(session);
        memcpy(segment->creator.command, session->command, sizeof(session->command));
        memcpy(segment->creator.unit, session->unit, sizeof(session->unit));
}

/* Builds a new segment and answers with it. The reservation, guard included, stays the caller's on failure. */
static int build_and_answer(struct op_context *context, const struct shmd_wire_create *body, struct segment *segment) {
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = memfd_create_segment(&context->daemon->memfd, segment, body->flags & SHMD_WIRE_WRITE, &fd);
        if ((r == -EMFILE || r == -ENFILE) && memfd_shrink(&context->daemon->memfd))
                r = memfd_create_segment(&context->daemon->memfd, segment, body->flags & SHMD_WIRE_WRITE, &fd);
        if (r < 0)
                return r == -EINVAL ? SHMD_TOO_LARGE : r;
        return reply_opened(context, segment, true, fd);
}

int op_create(struct op_context *context, const struct shmd_wire_create *body) {
        struct session *session = context->session;
        struct registry *registry = &context->daemon->registry;
        _cleanup_(registry_abortp) struct segment *segment = NULL;
        _cleanup_(hold_abortp) struct hold *hold = NULL;
        struct segment_plan plan;
        struct segment *existing;
        int r;

        r = make_plan(context, body, &plan);
        if (r != 0)
                return r;
        existing = registry_find_name(registry, plan.name, plan.name_size);
        if (existing)
                return open_existing(context, body, existing);

        r = registry_reserve(registry, &session->client, &plan, context->now_usec, &segment, &context->refusal);
        if (r != 0)
                return r;
        r = hold_reserve(&session->client, segment, &hold, &context->refusal);
        if (r != 0)
                return r;
        /* Answer before the commit: it is the last step that can fail. */
        r = build_and_answer(context, body, segment);
        if (r != 0) {
                segment->custody.guard_fd = close_fd(segment->custody.guard_fd);
                return r;
        }

        registry_commit(segment);
        hold_commit(TAKE_PTR(hold), wire_access(body->flags), body->flags & SHMD_WIRE_DETACHED, context->now_usec);
        remember_creator(session, TAKE_PTR(segment));
        server_note_id(&context->daemon->server, registry->next_id);
        return 0;
}

int op_release(struct op_context *context, const struct shmd_wire_release *body) {
        if (body->access > SHMD_ACCESS_WRITE || body->padding != 0)
                return SHMD_MALFORMED;
        return hold_release(&context->session->client, body->id, body->access, context->now_usec);
}

int op_resume(struct op_context *context, const struct shmd_wire_resume *body) {
        struct segment *segment = registry_find_id(&context->daemon->registry, body->id);
        _cleanup_(hold_abortp) struct hold *hold = NULL;
        int r;

        if (body->access > SHMD_ACCESS_WRITE || body->padding != 0)
                return SHMD_MALFORMED;
        if (!segment)
                return SHMD_NOT_FOUND;
        if (!memfd_matches(segment, context->fds->fd[0], body->access == SHMD_ACCESS_WRITE))
                return SHMD_DENIED;
        r = hold_reserve(&context->session->client, segment, &hold, &context->refusal);
        if (r != 0)
                return r;
        r = reply_opened(context, segment, false, -EBADF);
        if (r < 0)
                return r;
        hold_commit(TAKE_PTR(hold), body->access, false, context->now_usec);
        return 0;
}

int op_unlink(struct op_context *context, const struct shmd_wire_unlink *body) {
        static const struct shmd_wire_empty reply;
        int r;

        (void) body;
        if (context->tail_size > 0)
                return SHMD_MALFORMED;
        if (context->segment->state == WIRE_STATE_UNLINKED)
                return SHMD_NOT_FOUND;
        /* Whoever hears of the answer may not find the name in what he remembers any more. */
        generation_advance(&context->daemon->generation, context->segment->id);
        r = op_reply(context, &reply, NULL, 0);
        if (r < 0)
                return r;
        daemon_unlink(context->daemon, context->segment);
        return 0;
}
