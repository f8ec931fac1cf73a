/* SPDX-License-Identifier: MIT */
/*
 * Operations that change a segment itself, by name or by id: unlink, chmod, chown, rename, resize, freeze, lifetime.
 *
 * They keep nothing: answers kept elsewhere go stale through the daemon's page of
 * generations. Each function serves the call that waits, and with a callback the one that is submitted.
 */
#include "internal.h"

#include <string.h>

/* A request whose reply says nothing but that it was done. */
static int call_for_nothing(struct shmd *connection, const struct request *request, const struct callback *callback) {
        struct reply reply;
        int r;

        if (callback)
                return async_call(connection, request, callback, DO_NOT_WAIT);
        r = connection_call(connection, request, &reply);
        return r < 0 ? r : reply_read_nothing(connection, &reply);
}

/* One about a target, which is all of its tail. */
static int call_target(struct shmd *connection, enum shmd_operation operation, const struct target *target, const void *body,
                       const struct callback *callback) {
        return call_for_nothing(connection, &(struct request) {
                                                    .operation = operation,
                                                    .body = body,
                                                    .tail = target->name,
                                                    .tail_size = target->name_size,
                                            }, callback);
}

/* --- what it is called, and for how long --- */

static int unlink_target(struct shmd *connection, const struct target *target, const struct callback *callback) {
        const struct shmd_wire_unlink body = { .target = target->wire };

        return call_target(connection, SHMD_OP_UNLINK, target, &body, callback);
}

_public_ int shmd_unlink(struct shmd *connection, const char *name) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : unlink_target(connection, &target, NULL);
}

_public_ int shmd_unlink_id(struct shmd *connection, uint64_t id) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : unlink_target(connection, &target, NULL);
}

_public_ int shmd_unlink_idle(struct shmd *connection, uint64_t id, uint64_t idle_usec) {
        struct shmd_wire_unlink_idle body = { .idle_usec = idle_usec };
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        if (r < 0)
                return r;
        body.target = target.wire;
        return call_target(connection, SHMD_OP_UNLINK_IDLE, &target, &body, NULL);
}

_public_ int shmd_unlink_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : unlink_target(connection, &target, &(struct callback) { function, userdata });
}

static int rename_target(struct shmd *connection, const struct target *target, const char *new_name,
                         const struct callback *callback) {
        char tail[2 * SHMD_NAME_MAX];
        struct shmd_wire_rename body = { .target = target->wire };
        struct target to;
        int r;

        r = target_by_name(connection, new_name, &to);
        if (r < 0)
                return r;
        body.new_name_size = to.wire.name_size;
        if (target->name_size > 0)
                memcpy(tail, target->name, target->name_size);
        memcpy(tail + target->name_size, to.name, to.name_size);
        return call_for_nothing(connection, &(struct request) {
                                                    .operation = SHMD_OP_RENAME,
                                                    .body = &body,
                                                    .tail = tail,
                                                    .tail_size = target->name_size + to.name_size,
                                            }, callback);
}

_public_ int shmd_rename(struct shmd *connection, const char *name, const char *new_name) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : rename_target(connection, &target, new_name, NULL);
}

_public_ int shmd_rename_id(struct shmd *connection, uint64_t id, const char *new_name) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : rename_target(connection, &target, new_name, NULL);
}

_public_ int shmd_rename_async(struct shmd *connection, const char *name, const char *new_name,
                               shmd_result_function function, void *userdata) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : rename_target(connection, &target, new_name, &(struct callback) { function, userdata });
}

static int set_lifetime_target(struct shmd *connection, const struct target *target, uint32_t lifetime, uint64_t linger_usec,
                               const struct callback *callback) {
        const struct shmd_wire_set_lifetime body = { .target = target->wire, .lifetime = lifetime, .linger_usec = linger_usec };
        int r;

        r = lifetime_check(connection, lifetime, linger_usec);
        return r < 0 ? r : call_target(connection, SHMD_OP_SET_LIFETIME, target, &body, callback);
}

_public_ int shmd_set_lifetime(struct shmd *connection, const char *name, uint32_t lifetime, uint64_t linger_usec) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : set_lifetime_target(connection, &target, lifetime, linger_usec, NULL);
}

_public_ int shmd_set_lifetime_id(struct shmd *connection, uint64_t id, uint32_t lifetime, uint64_t linger_usec) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : set_lifetime_target(connection, &target, lifetime, linger_usec, NULL);
}

_public_ int shmd_set_lifetime_async(struct shmd *connection, const char *name, uint32_t lifetime, uint64_t linger_usec,
                                     shmd_result_function function, void *userdata) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : set_lifetime_target(connection, &target, lifetime, linger_usec,
                                               &(struct callback) { function, userdata });
}

/* --- who may do what --- */

static int chmod_target(struct shmd *connection, const struct target *target, mode_t mode, const struct callback *callback) {
        const struct shmd_wire_chmod body = { .target = target->wire, .mode = mode & 0666 };

        if (mode & ~0777u)
                return failure_words(&connection->failure, -EINVAL, "invalid mode");
        return call_target(connection, SHMD_OP_CHMOD, target, &body, callback);
}

_public_ int shmd_chmod(struct shmd *connection, const char *name, mode_t mode) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : chmod_target(connection, &target, mode, NULL);
}

_public_ int shmd_chmod_id(struct shmd *connection, uint64_t id, mode_t mode) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : chmod_target(connection, &target, mode, NULL);
}

_public_ int shmd_chmod_async(struct shmd *connection, const char *name, mode_t mode, shmd_result_function function,
                              void *userdata) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : chmod_target(connection, &target, mode, &(struct callback) { function, userdata });
}

/* -1 of either type is UINT32_MAX on the wire: leave it. */
static int chown_target(struct shmd *connection, const struct target *target, uid_t uid, gid_t gid,
                        const struct callback *callback) {
        const struct shmd_wire_chown body = { .target = target->wire, .uid = uid, .gid = gid };

        return call_target(connection, SHMD_OP_CHOWN, target, &body, callback);
}

_public_ int shmd_chown(struct shmd *connection, const char *name, uid_t uid, gid_t gid) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : chown_target(connection, &target, uid, gid, NULL);
}

_public_ int shmd_chown_id(struct shmd *connection, uint64_t id, uid_t uid, gid_t gid) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : chown_target(connection, &target, uid, gid, NULL);
}

_public_ int shmd_chown_async(struct shmd *connection, const char *name, uid_t uid, gid_t gid,
                              shmd_result_function function, void *userdata) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : chown_target(connection, &target, uid, gid, &(struct callback) { function, userdata });
}

static int freeze_target(struct shmd *connection, const struct target *target, const struct callback *callback) {
        const struct shmd_wire_freeze body = { .target = target->wire };

        return call_target(connection, SHMD_OP_FREEZE, target, &body, callback);
}

_public_ int shmd_freeze(struct shmd *connection, const char *name) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : freeze_target(connection, &target, NULL);
}

_public_ int shmd_freeze_id(struct shmd *connection, uint64_t id) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : freeze_target(connection, &target, NULL);
}

_public_ int shmd_freeze_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : freeze_target(connection, &target, &(struct callback) { function, userdata });
}

/* --- its size --- */

/* The connection's own holds of it learn the new size. */
static int resize_read(struct shmd *connection, const struct reply *reply) {
        struct shmd_wire_resize_reply resized;
        int r;

        r = reply_read(connection, reply, &resized, sizeof(resized));
        if (r == 0)
                holds_set_size(connection, resized.id, resized.size);
        return r;
}

static int async_read_resized(struct async *async, const struct reply *reply) {
        return resize_read(async->connection, reply);
}

static int resize_target(struct shmd *connection, const struct target *target, uint64_t size_bytes,
                         const struct callback *callback) {
        const struct shmd_wire_resize body = { .target = target->wire, .size = size_bytes };
        const struct request request = {
                .operation = SHMD_OP_RESIZE,
                .body = &body,
                .tail = target->name,
                .tail_size = target->name_size,
        };
        struct async *async;
        struct reply reply;
        int r;

        if (callback) {
                async = async_new(connection, async_read_resized, callback);
                return async ? async_submit(async, &request, DO_NOT_WAIT) : -ENOMEM;
        }
        r = connection_call(connection, &request, &reply);
        return r < 0 ? r : resize_read(connection, &reply);
}

_public_ int shmd_resize(struct shmd *connection, const char *name, uint64_t size_bytes) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : resize_target(connection, &target, size_bytes, NULL);
}

_public_ int shmd_resize_id(struct shmd *connection, uint64_t id, uint64_t size_bytes) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : resize_target(connection, &target, size_bytes, NULL);
}

_public_ int shmd_resize_async(struct shmd *connection, const char *name, uint64_t size_bytes,
                               shmd_result_function function, void *userdata) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : resize_target(connection, &target, size_bytes, &(struct callback) { function, userdata });
}

/* --- the daemon --- */

/* Not of the next one. */
_public_ int shmd_stop(struct shmd *connection, unsigned flags) {
        const struct shmd_wire_stop body = { .flags = flags & SHMD_STOP_PURGE ? SHMD_WIRE_STOP_PURGE : 0 };

        if (flags & ~SHMD_STOP_PURGE)
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        return call_for_nothing(connection, &(struct request) {
                                                    .operation = SHMD_OP_STOP,
                                                    .of_connection = true,
                                                    .body = &body,
                                            }, NULL);
}
