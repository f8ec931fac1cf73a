/* SPDX-License-Identifier: MIT */
/*
 * Segments: opened, waited for, mapped, closed. Creating them is in create.c, what is held of them in hold.c.
 *
 * Owns nothing.
 */
#include "internal.h"

#include <string.h>

/* A daemon that is alive says in time that the time is over. One that isn't is not waited for. */
#define ANSWER_GRACE_USEC 100000

/* --- what a request is about --- */

int target_by_name(struct shmd *connection, const char *name, struct target *ret_target) {
        enum name_verdict verdict;
        const char *start;
        size_t size;

        verdict = name_check(name, strlen(name), &start, &size);
        if (verdict != NAME_OK)
                return failure_name(&connection->failure, verdict);

        *ret_target = (struct target) {
                .wire.name_size = (uint16_t) size,
                .name = start,
                .name_size = size,
        };
        return 0;
}

int target_by_id(struct shmd *connection, uint64_t id, struct target *ret_target) {
        if (id == 0) /* on the wire it would mean "by name" */
                return failure_words(&connection->failure, -ENOENT, "no such segment");
        *ret_target = (struct target) { .wire.id = id };
        return 0;
}

uint32_t flags_to_wire(unsigned flags) {
        return (flags & SHMD_READ_WRITE ? SHMD_WIRE_WRITE : 0) | (flags & SHMD_PRIVATE ? SHMD_WIRE_PRIVATE : 0);
}

int open_flags_check(struct shmd *connection, unsigned flags) {
        if (flags & ~(SHMD_READ_WRITE | SHMD_PRIVATE))
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        return 0;
}

static int open_check(struct shmd *connection, const char *name, unsigned flags, struct target *ret_target) {
        int r = target_by_name(connection, name, ret_target);

        return r < 0 ? r : open_flags_check(connection, flags);
}

/* --- OPEN --- */

bool opened_is_valid(const struct shmd_wire_opened *opened) {
        return opened->id != 0 && opened->created <= 1;
}

int opened_read(struct shmd *connection, const struct reply *reply, struct opened *ret_opened) {
        struct shmd_wire_opened opened;
        int r;

        r = reply_read(connection, reply, &opened, sizeof(opened));
        if (r < 0)
                return r;
        if (!opened_is_valid(&opened) || (reply->fds->count != 1 && !reply->fds_lost))
                return connection_break(connection);

        *ret_opened = (struct opened) { .wire = opened, .fd = reply->fds_lost ? -EBADF : TAKE_FD(reply->fds->fd[0]) };
        return 0;
}

static struct request open_request(const struct target *target, const struct shmd_wire_open *body) {
        return (struct request) {
                .operation = SHMD_OP_OPEN,
                .late = body->flags & SHMD_WIRE_WAIT,
                .body = body,
                .tail = target->name,
                .tail_size = target->name_size,
        };
}

/* The call itself, without keeping anything of it. */
static int call_open(struct shmd *connection, const struct target *target, uint32_t flags, struct opened *ret_opened) {
        const struct shmd_wire_open open = { .target = target->wire, .flags = flags };
        const struct request request = open_request(target, &open);
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        if (r < 0)
                return r;
        return opened_read(connection, &reply, ret_opened);
}

static int segment_open(struct shmd *connection, const struct target *target, unsigned flags,
                        struct shmd_segment **ret_segment) {
        _cleanup_(hold_freep) struct hold *hold = NULL;
        struct opened opened;
        int r;

        r = hold_reserve(connection, target, flags, &hold);
        if (r < 0)
                return r;
        r = call_open(connection, target, flags_to_wire(flags), &opened);
        if (r < 0)
                return r;
        return hold_admit(TAKE_PTR(hold), &opened, ret_segment);
}

int segment_find(struct shmd *connection, const struct target *target, unsigned flags, struct shmd_segment **ret_segment) {
        struct hold *hold;
        int r;

        r = connection_prepare(connection);
        if (r < 0)
                return r;
        if (flags & SHMD_PRIVATE)
                return 0;
        hold = hold_find(connection, target, flags & SHMD_READ_WRITE ? SHMD_ACCESS_WRITE : SHMD_ACCESS_READ);
        if (!hold || !hold_is_current(hold))
                return 0;
        r = hold_add_segment(hold, ret_segment);
        return r < 0 ? r : 1;
}

int segment_get(struct shmd *connection, const struct target *target, unsigned flags, struct shmd_segment **ret_segment) {
        int r;

        r = segment_find(connection, target, flags, ret_segment);
        if (r != 0)
                return r < 0 ? r : 0;
        return segment_open(connection, target, flags, ret_segment);
}

_public_ int shmd_open(struct shmd *connection, const char *name, unsigned flags, struct shmd_segment **ret_segment) {
        struct target target;
        int r;

        r = open_check(connection, name, flags, &target);
        return r < 0 ? r : segment_get(connection, &target, flags, ret_segment);
}

_public_ int shmd_open_id(struct shmd *connection, uint64_t id, unsigned flags, struct shmd_segment **ret_segment) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        if (r < 0)
                return r;
        r = open_flags_check(connection, flags);
        return r < 0 ? r : segment_get(connection, &target, flags, ret_segment);
}

/* --- OPEN, submitted --- */

static int async_read_opened(struct async *async, const struct reply *reply) {
        struct opened opened;
        int r;

        r = opened_read(async->connection, reply, &opened);
        return r < 0 ? r : hold_admit(TAKE_PTR(async->hold), &opened, &async->segment);
}

static int open_submit(struct shmd *connection, const struct target *target, unsigned flags, const uint64_t *timeout_usec,
                       const struct callback *callback, struct async **ret_async) {
        enum patience patience = callback ? DO_NOT_WAIT : WAIT_FOR_ROOM;
        struct shmd_wire_open open = { .target = target->wire, .flags = flags_to_wire(flags) };
        struct async *async;
        struct request request;
        int r;

        async = async_new(connection, async_read_opened, callback);
        if (!async)
                return -ENOMEM;
        r = hold_reserve(connection, target, flags, &async->hold);
        if (r < 0) {
                async_free(async);
                return r;
        }
        if (timeout_usec) {
                uint64_t now = now_usec();

                open.flags |= SHMD_WIRE_WAIT;
                open.timeout_usec = *timeout_usec;
                async->deadline_usec = *timeout_usec < UINT64_MAX - now ? now + *timeout_usec : UINT64_MAX;
        }
        request = open_request(target, &open);
        r = async_submit(async, &request, patience);
        if (r == 0 && ret_async)
                *ret_async = async;
        return r;
}

_public_ int shmd_open_async(struct shmd *connection, const char *name, unsigned flags, shmd_result_function function,
                             void *userdata) {
        struct target target;
        int r;

        r = open_check(connection, name, flags, &target);
        if (r < 0)
                return r;
        return open_submit(connection, &target, flags, NULL, &(struct callback) { function, userdata }, NULL);
}

_public_ int shmd_open_wait_async(struct shmd *connection, const char *name, unsigned flags, uint64_t timeout_usec,
                                  shmd_result_function function, void *userdata, uint32_t *ret_wait) {
        struct async *async;
        struct target target;
        int r;

        r = open_check(connection, name, flags, &target);
        if (r < 0)
                return r;
        r = open_submit(connection, &target, flags, &timeout_usec, &(struct callback) { function, userdata }, &async);
        if (r < 0)
                return r;
        if (ret_wait)
                *ret_wait = async->number;
        return 0;
}

/* --- waiting --- */

static int wait_finish(struct shmd *connection, struct async *async, struct shmd_segment **ret_segment) {
        int r = async->result;

        if (r == 0)
                *ret_segment = TAKE_PTR(async->segment);
        else
                connection->failure = async->failure;
        async_forget(async);
        return r;
}

static int segment_wait(struct shmd *connection, const struct target *target, unsigned flags, uint64_t timeout_usec,
                        struct shmd_segment **ret_segment) {
        struct async *async;
        uint64_t deadline;
        int r;

        r = open_submit(connection, target, flags, &timeout_usec, NULL, &async);
        if (r < 0)
                return r;
        deadline = async->deadline_usec;
        r = async_wait(async, deadline < UINT64_MAX - ANSWER_GRACE_USEC ? deadline + ANSWER_GRACE_USEC : UINT64_MAX);
        if (r == 0)
                return wait_finish(connection, async, ret_segment);
        async_forget(async);
        return failure_words(&connection->failure, r, "the daemon does not answer");
}

_public_ int shmd_open_wait(struct shmd *connection, const char *name, unsigned flags, uint64_t timeout_usec,
                            struct shmd_segment **ret_segment) {
        struct target target;
        int r;

        r = open_check(connection, name, flags, &target);
        if (r < 0)
                return r;
        r = segment_find(connection, &target, flags, ret_segment);
        if (r != 0)
                return r < 0 ? r : 0;
        return segment_wait(connection, &target, flags, timeout_usec, ret_segment);
}

_public_ int shmd_cancel(struct shmd *connection, uint32_t wait) {
        struct async *async;
        int r;

        r = connection_prepare(connection);
        if (r < 0)
                return r;
        TAILQ_FOREACH(async, &connection->asyncs, entry)
                if (async->deadline_usec != 0 && async->number == wait && !async->done && !async->unwanted)
                        break;
        if (!async)
                return failure_words(&connection->failure, -ENOENT, "no such wait, or it is over");
        return async_call(connection, &(struct request) {
                                              .operation = SHMD_OP_CANCEL,
                                              .of_connection = true,
                                              .body = &(struct shmd_wire_cancel) { .serial = async->call.serial },
                                      }, &(struct callback) { NULL, NULL }, DO_NOT_WAIT);
}

/* --- a segment that is open --- */

_public_ struct shmd_segment *shmd_close(struct shmd_segment *segment) {
        struct hold *hold;

        if (!segment)
                return NULL;
        hold = segment->hold;
        LIST_REMOVE(segment, entry);
        free(segment);
        if (LIST_EMPTY(&hold->segments))
                hold_free(hold);
        return NULL;
}

_public_ int shmd_map(struct shmd_segment *segment, void **ret_address, size_t *ret_size_bytes) {
        struct hold *hold = segment->hold;
        int r;

        r = hold_map(hold);
        if (r < 0)
                return r;
        *ret_address = hold->address;
        if (ret_size_bytes)
                *ret_size_bytes = (size_t) hold->size;
        return 0;
}

_public_ int shmd_fd(const struct shmd_segment *segment) {
        return segment->hold->fd;
}

_public_ uint64_t shmd_id(const struct shmd_segment *segment) {
        return segment->hold->id;
}

_public_ uint64_t shmd_size(const struct shmd_segment *segment) {
        return segment->hold->size;
}

_public_ uint64_t shmd_maximum(const struct shmd_segment *segment) {
        return MAX(segment->hold->size, segment->hold->maximum);
}

_public_ int shmd_created(const struct shmd_segment *segment) {
        return segment->created;
}
