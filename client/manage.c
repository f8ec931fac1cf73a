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

/* What the caller calls a segment, yet to be checked: a name, or if there is none an id. */
struct subject {
        const char *name;
        uint64_t id;
};

static struct subject by_name(const char *name) {
        return (struct subject) { .name = name };
}

static struct subject by_id(uint64_t id) {
        return (struct subject) { .id = id };
}

static int subject_check(struct shmd *connection, struct subject subject, struct target *ret_target) {
        return subject.name ? target_by_name(connection, subject.name, ret_target) : target_by_id(connection, subject.id, ret_target);
}

/* One whose tail is the name, if there is one. body begins with the target, which is filled in. */
static int call_subject(struct shmd *connection, enum shmd_operation operation, struct subject subject,
                        struct shmd_wire_target *body, const struct callback *callback) {
        struct target target;
        int r;

        r = subject_check(connection, subject, &target);
        if (r < 0)
                return r;
        *body = target.wire;
        return call_for_nothing(connection, &(struct request) {
                                                    .operation = operation,
                                                    .body = body,
                                                    .tail = target.name,
                                                    .tail_size = target.name_size,
                                            }, callback);
}

/* --- what it is called, and for how long --- */

static int unlink_subject(struct shmd *connection, struct subject subject, const struct callback *callback) {
        struct shmd_wire_unlink body = { 0 };

        return call_subject(connection, SHMD_OP_UNLINK, subject, &body.target, callback);
}

_public_ int shmd_unlink(struct shmd *connection, const char *name) {
        return unlink_subject(connection, by_name(name), NULL);
}

_public_ int shmd_unlink_id(struct shmd *connection, uint64_t id) {
        return unlink_subject(connection, by_id(id), NULL);
}

_public_ int shmd_unlink_idle(struct shmd *connection, uint64_t id, uint64_t idle_usec) {
        struct shmd_wire_unlink_idle body = { .idle_usec = idle_usec };

        return call_subject(connection, SHMD_OP_UNLINK_IDLE, by_id(id), &body.target, NULL);
}

_public_ int shmd_unlink_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata) {
        return unlink_subject(connection, by_name(name), &(struct callback) { function, userdata });
}

static int rename_subject(struct shmd *connection, struct subject subject, const char *new_name,
                          const struct callback *callback) {
        char tail[2 * SHMD_NAME_MAX];
        struct shmd_wire_rename body = { 0 };
        struct target from, to;
        int r;

        r = subject_check(connection, subject, &from);
        if (r == 0)
                r = target_by_name(connection, new_name, &to);
        if (r < 0)
                return r;
        body.target = from.wire;
        body.new_name_size = to.wire.name_size;
        if (from.name_size > 0)
                memcpy(tail, from.name, from.name_size);
        memcpy(tail + from.name_size, to.name, to.name_size);
        return call_for_nothing(connection, &(struct request) {
                                                    .operation = SHMD_OP_RENAME,
                                                    .body = &body,
                                                    .tail = tail,
                                                    .tail_size = from.name_size + to.name_size,
                                            }, callback);
}

_public_ int shmd_rename(struct shmd *connection, const char *name, const char *new_name) {
        return rename_subject(connection, by_name(name), new_name, NULL);
}

_public_ int shmd_rename_id(struct shmd *connection, uint64_t id, const char *new_name) {
        return rename_subject(connection, by_id(id), new_name, NULL);
}

_public_ int shmd_rename_async(struct shmd *connection, const char *name, const char *new_name,
                               shmd_result_function function, void *userdata) {
        return rename_subject(connection, by_name(name), new_name, &(struct callback) { function, userdata });
}

static int set_lifetime_subject(struct shmd *connection, struct subject subject, uint32_t lifetime, uint64_t linger_usec,
                                const struct callback *callback) {
        struct shmd_wire_set_lifetime body = { .lifetime = lifetime, .linger_usec = linger_usec };
        int r;

        r = lifetime_check(connection, lifetime, linger_usec);
        return r < 0 ? r : call_subject(connection, SHMD_OP_SET_LIFETIME, subject, &body.target, callback);
}

_public_ int shmd_set_lifetime(struct shmd *connection, const char *name, uint32_t lifetime, uint64_t linger_usec) {
        return set_lifetime_subject(connection, by_name(name), lifetime, linger_usec, NULL);
}

_public_ int shmd_set_lifetime_id(struct shmd *connection, uint64_t id, uint32_t lifetime, uint64_t linger_usec) {
        return set_lifetime_subject(connection, by_id(id), lifetime, linger_usec, NULL);
}

_public_ int shmd_set_lifetime_async(struct shmd *connection, const char *name, uint32_t lifetime, uint64_t linger_usec,
                                     shmd_result_function function, void *userdata) {
        return set_lifetime_subject(connection, by_name(name), lifetime, linger_usec, &(struct callback) { function, userdata });
}

/* --- who may do what --- */

static int chmod_subject(struct shmd *connection, struct subject subject, mode_t mode, const struct callback *callback) {
        struct shmd_wire_chmod body = { .mode = mode & 0666 };

        if (mode & ~0777u)
                return failure_words(&connection->failure, -EINVAL, "invalid mode");
        return call_subject(connection, SHMD_OP_CHMOD, subject, &body.target, callback);
}

_public_ int shmd_chmod(struct shmd *connection, const char *name, mode_t mode) {
        return chmod_subject(connection, by_name(name), mode, NULL);
}

_public_ int shmd_chmod_id(struct shmd *connection, uint64_t id, mode_t mode) {
        return chmod_subject(connection, by_id(id), mode, NULL);
}

_public_ int shmd_chmod_async(struct shmd *connection, const char *name, mode_t mode, shmd_result_function function,
                              void *userdata) {
        return chmod_subject(connection, by_name(name), mode, &(struct callback) { function, userdata });
}

/* -1 of either type is UINT32_MAX on the wire: leave it. */
static int chown_subject(struct shmd *connection, struct subject subject, uid_t uid, gid_t gid,
                         const struct callback *callback) {
        struct shmd_wire_chown body = { .uid = uid, .gid = gid };

        return call_subject(connection, SHMD_OP_CHOWN, subject, &body.target, callback);
}

_public_ int shmd_chown(struct shmd *connection, const char *name, uid_t uid, gid_t gid) {
        return chown_subject(connection, by_name(name), uid, gid, NULL);
}

_public_ int shmd_chown_id(struct shmd *connection, uint64_t id, uid_t uid, gid_t gid) {
        return chown_subject(connection, by_id(id), uid, gid, NULL);
}

_public_ int shmd_chown_async(struct shmd *connection, const char *name, uid_t uid, gid_t gid,
                              shmd_result_function function, void *userdata) {
        return chown_subject(connection, by_name(name), uid, gid, &(struct callback) { function, userdata });
}

static int freeze_subject(struct shmd *connection, struct subject subject, const struct callback *callback) {
        struct shmd_wire_freeze body = { 0 };

        return call_subject(connection, SHMD_OP_FREEZE, subject, &body.target, callback);
}

_public_ int shmd_freeze(struct shmd *connection, const char *name) {
        return freeze_subject(connection, by_name(name), NULL);
}

_public_ int shmd_freeze_id(struct shmd *connection, uint64_t id) {
        return freeze_subject(connection, by_id(id), NULL);
}

_public_ int shmd_freeze_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata) {
        return freeze_subject(connection, by_name(name), &(struct callback) { function, userdata });
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

static int resize_subject(struct shmd *connection, struct subject subject, uint64_t size_bytes, const struct callback *callback) {
        struct shmd_wire_resize body = { .size = size_bytes };
        struct request request = { .operation = SHMD_OP_RESIZE, .body = &body };
        struct target target;
        struct async *async;
        struct reply reply;
        int r;

        r = subject_check(connection, subject, &target);
        if (r < 0)
                return r;
        body.target = target.wire;
        request.tail = target.name;
        request.tail_size = target.name_size;
        if (callback) {
                async = async_new(connection, async_read_resized, callback);
                return async ? async_submit(async, &request, DO_NOT_WAIT) : -ENOMEM;
        }
        r = connection_call(connection, &request, &reply);
        return r < 0 ? r : resize_read(connection, &reply);
}

_public_ int shmd_resize(struct shmd *connection, const char *name, uint64_t size_bytes) {
        return resize_subject(connection, by_name(name), size_bytes, NULL);
}

_public_ int shmd_resize_id(struct shmd *connection, uint64_t id, uint64_t size_bytes) {
        return resize_subject(connection, by_id(id), size_bytes, NULL);
}

_public_ int shmd_resize_async(struct shmd *connection, const char *name, uint64_t size_bytes,
                               shmd_result_function function, void *userdata) {
        return resize_subject(connection, by_name(name), size_bytes, &(struct callback) { function, userdata });
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
