/* SPDX-License-Identifier: MIT */
/*
 * Handlers of what changes a segment's attributes: CHMOD, CHOWN, RENAME. The dispatcher has
 * seen to it that the client may. The inode is changed with the registry, as it is the truth for
 * all who have a descriptor; what clients remember of the segment is made void.
 */
#include <string.h>
#include <sys/stat.h>

#include "daemon.h"
#include "dispatch.h"
#include "util.h"

static int reply_changed(struct op_context *context) {
        static const struct shmd_wire_empty reply;

        generation_advance(&context->daemon->generation, context->segment->id);
        return op_reply(context, &reply, NULL, 0);
}

/* Each kind has its own truth: a file its own mode, which is its owner's; the kernel's segment both of its own and of the inode. */
static int set_mode(struct op_context *context, struct segment *segment, mode_t mode) {
        if (segment->backing == WIRE_BACKING_FILE)
                return 0;
        if (segment->backing == WIRE_BACKING_SYSV)
                return sysv_set_owner(&context->daemon->sysv, segment,
                                      &(struct ownership) { segment->owner.uid, segment->owner.gid, mode });
        if (fchmod(segment->custody.guard_fd, mode) < 0)
                return errno == EPERM ? SHMD_INVALID : negative_errno();
        return 0;
}

static int set_owner(struct op_context *context, struct segment *segment, const struct ownership *before,
                     const struct ownership *after) {
        int r;

        if (segment->backing == WIRE_BACKING_FILE)
                return 0;
        if (segment->backing == WIRE_BACKING_SYSV) {
                r = sysv_set_owner(&context->daemon->sysv, segment, after);
                if (r != 0) { /* it was his before, whatever the limits are */
                        registry_refresh(segment, before, segment->size);
                        store_record(&context->daemon->store, segment);
                }
                return r;
        }
        if (fchown(segment->custody.guard_fd, after->uid, after->gid) == 0)
                return 0;
        r = negative_errno();
        (void) memfd_refresh(segment);
        return r == -EPERM ? op_refuse(context, SHMD_NOT_ADMINISTRATOR, segment) : r;
}

int op_chmod(struct op_context *context, const struct shmd_wire_chmod *body) {
        struct segment *segment = context->segment;
        mode_t mode = segment->posix ? body->mode : body->mode & 0666;
        int r;

        if (context->tail_size > 0 || body->padding != 0)
                return SHMD_MALFORMED;
        if (body->mode > 0777)
                return SHMD_INVALID;
        r = set_mode(context, segment, mode);
        if (r != 0)
                return r;
        segment->owner.mode = mode;
        store_record(&context->daemon->store, segment);
        return reply_changed(context);
}

int op_chown(struct op_context *context, const struct shmd_wire_chown *body) {
        struct segment *segment = context->segment;
        struct ownership before = segment->owner, after = segment->owner;
        int r;

        if (context->tail_size > 0)
                return SHMD_MALFORMED;
        r = policy_chown(&context->session->credentials, &before, body->uid, body->gid);
        if (r != 0)
                return op_refuse(context, r, segment);
        if (body->uid != UINT32_MAX)
                after.uid = body->uid;
        if (body->gid != UINT32_MAX)
                after.gid = body->gid;
        r = registry_set_owner(segment, &after, &context->refusal);
        if (r != 0)
                return r;
        r = set_owner(context, segment, &before, &after);
        if (r != 0)
                return r;
        return reply_changed(context);
}

int op_rename(struct op_context *context, const struct shmd_wire_rename *body) {
        const char *name;
        size_t size;
        int r;

        if (context->tail_size != body->new_name_size || !wire_is_zero(body->padding, sizeof(body->padding)))
                return SHMD_MALFORMED;
        r = op_check_name(context->tail, body->new_name_size, &name, &size);
        if (r != 0)
                return r;
        r = registry_rename(context->segment, name, size);
        if (r != 0)
                return r;
        return reply_changed(context);
}
