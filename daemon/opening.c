/* SPDX-License-Identifier: MIT */
#include "opening.h"

#include "daemon.h"
#include "util.h"

static enum shmd_access wire_access(uint32_t flags) {
        return flags & SHMD_WIRE_WRITE ? SHMD_ACCESS_WRITE : SHMD_ACCESS_READ;
}

void opening_init(struct opening *opening) {
        *opening = (struct opening) { .fd = -EBADF };
}

void opening_abort(struct op_context *context, struct opening *opening) {
        struct daemon *daemon = context->daemon;

        if (opening->fd_owned)
                close_fd(opening->fd);
        hold_abort(opening->hold);
        if (opening->created) {
                if (opening->segment->backing == WIRE_BACKING_SYSV)
                        sysv_release(&daemon->sysv, opening->segment, opening->segment->sysv.made);
                store_drop(&daemon->store, opening->segment);
                memfd_close_segment(&daemon->memfd, opening->segment, &daemon->worker, &daemon->discarder);
                registry_abort(opening->segment);
        }
        opening_init(opening);
}

/* --- what is there --- */

/* O_TRUNC empties what POSIX lets be emptied. */
static int truncate_segment(struct op_context *context, struct segment *segment) {
        if (!segment->posix)
                return SHMD_INVALID;
        if (policy_open(&context->session->credentials, &segment->owner, true) != 0)
                return op_refuse(context, SHMD_DENIED, segment);
        if (ftruncate(segment->custody.guard_fd, 0) < 0)
                return errno == EPERM ? SHMD_SEALED : negative_errno();
        (void) memfd_refresh(segment);
        return 0;
}

/* Without its name it is its owner's business: an id is no secret, but no key either. Unpublished, only its creator's. */
static int check_visible(struct op_context *context, const struct segment *segment) {
        if (segment->state == WIRE_STATE_UNPUBLISHED)
                return segment->creator.client == &context->session->client ? 0 : SHMD_NOT_FOUND;
        if (segment->state == WIRE_STATE_UNLINKED && policy_manage(&context->session->credentials, &segment->owner) != 0)
                return SHMD_NOT_FOUND;
        return 0;
}

struct ownership opening_ownership(struct op_context *context, const struct segment *segment) {
        struct ownership owner = segment->owner;

        if (segment->backing == WIRE_BACKING_SYSV && context->session->credentials.uid == segment->sysv.creator_uid)
                owner.uid = segment->sysv.creator_uid;
        return owner;
}

static int check_open(struct op_context *context, struct segment *segment, uint32_t flags) {
        bool write = flags & SHMD_WIRE_WRITE;
        struct ownership as_kernel_has_it = opening_ownership(context, segment);
        int r;

        r = check_visible(context, segment);
        if (r != 0)
                return r;
        r = policy_open(&context->session->credentials, &as_kernel_has_it, write);
        if (r != 0)
                return op_refuse(context, r, segment);
        if (write && segment->frozen)
                return op_refuse(context, SHMD_FROZEN, segment);
        if (write && segment->single_writer && segment->state != WIRE_STATE_UNPUBLISHED)
                return op_refuse(context, SHMD_ONE_WRITER, segment);
        return 0;
}

/* A registered segment's descriptor is got when somebody wants it. */
static int open_sysv_guard(struct op_context *context, struct segment *segment) {
        bool exported = segment->sysv.exported;
        int r;

        r = sysv_open_guard(&context->daemon->sysv, segment);
        if (!exported && segment->sysv.exported)
                store_record(&context->daemon->store, segment);
        return r;
}

int opening_prepare_open(struct op_context *context, struct segment *segment, uint32_t flags, struct opening *ret_opening) {
        bool write = flags & SHMD_WIRE_WRITE, private = flags & (SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED);
        struct opening opening;
        int r;

        opening_init(&opening);
        opening.segment = segment;
        opening.flags = flags;
        r = check_open(context, segment, flags);
        if (r == 0 && segment->backing == WIRE_BACKING_SYSV)
                r = open_sysv_guard(context, segment);
        if (r != 0)
                return r;
        r = hold_reserve(&context->session->client, segment, &opening.hold, &context->refusal);
        if (r != 0)
                return r;
        if (flags & SHMD_WIRE_TRUNCATE)
                r = truncate_segment(context, segment);
        if (r == 0)
                r = memfd_open_segment(&context->daemon->memfd, segment, write, private, &opening.fd, &opening.fd_owned);
        if (r != 0) {
                opening.fd = -EBADF;
                opening_abort(context, &opening);
                /* Where the daemon is unprivileged, it is the kernel that knows of the mode. */
                return r == -EACCES ? op_refuse(context, SHMD_DENIED, segment) : r;
        }
        *ret_opening = opening;
        return 0;
}

/* --- the end of opening and creating --- */

void opening_commit(struct op_context *context, struct opening *opening) {
        bool private = opening->flags & (SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED);

        if (opening->fd_owned && !private)
                memfd_share(&context->daemon->memfd, opening->segment, opening->flags & SHMD_WIRE_WRITE, opening->fd);
        else if (opening->fd_owned)
                close_fd(opening->fd);
        if (opening->created)
                registry_commit(opening->segment);
        hold_commit(opening->hold, wire_access(opening->flags), opening->flags & SHMD_WIRE_DETACHED, context->now_usec);
        if (opening->created)
                server_note_id(&context->daemon->server, context->daemon->registry.next_id);
        opening_init(opening);
}

struct shmd_wire_opened opening_describe(struct daemon *daemon, const struct opening *opening) {
        const struct segment *segment = opening->segment;

        return (struct shmd_wire_opened) {
                .id = segment->id,
                .size = segment->size,
                .maximum = segment->maximum,
                .generation = generation_get(&daemon->generation, segment->id),
                .created = opening->created || opening->made_before,
        };
}

int opening_answer(struct op_context *context, struct opening *opening) {
        struct shmd_wire_opened reply = opening_describe(context->daemon, opening);
        int r;

        /* Answer before the commit: it is the last step that can fail. Who registers has no use for a descriptor. */
        r = op_reply(context, &reply, &opening->fd, opening->fd >= 0);
        if (r < 0)
                opening_abort(context, opening);
        else
                opening_commit(context, opening);
        return r;
}

int op_open_segment(struct op_context *context, struct segment *segment, uint32_t flags) {
        struct opening opening;
        int r;

        r = opening_prepare_open(context, segment, flags & OPEN_FLAGS, &opening);
        return r != 0 ? r : opening_answer(context, &opening);
}

int op_open(struct op_context *context, const struct shmd_wire_open *body) {
        bool wait = body->flags & SHMD_WIRE_WAIT;
        int r;

        if (body->padding != 0 || (!wait && body->timeout_usec != 0))
                return SHMD_MALFORMED;
        if ((body->flags & ~(OPEN_FLAGS | SHMD_WIRE_WAIT)) || (wait && body->target.id != 0))
                return SHMD_INVALID;
        r = op_find_target(context, &body->target);
        if (context->tail_size > 0 && (r == 0 || r == SHMD_NOT_FOUND))
                return SHMD_MALFORMED;
        if (r == SHMD_NOT_FOUND && wait) {
                r = wait_new(context->session, context->name, context->name_size, context->serial, body->flags & OPEN_FLAGS,
                             body->timeout_usec, &context->refusal);
                if (r == 0)
                        op_answer_later(context);
                return r;
        }
        return r != 0 ? r : op_open_segment(context, context->segment, body->flags);
}
