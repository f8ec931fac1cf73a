/* SPDX-License-Identifier: MIT */
/*
 * Operations that change a segment itself, by name or by id: unlink, chmod, chown, rename.
 *
 * They keep nothing: answers kept elsewhere go stale through the daemon's page of
 * generations. None is sent twice: after a lost connection nobody knows whether it was executed.
 */
#include "internal.h"

#include <string.h>

/* A request whose reply says nothing but that it was done. */
static int call_for_nothing(struct shmd *connection, const struct request *request) {
        struct shmd_wire_empty empty;
        struct reply reply;
        int r;

        r = connection_call(connection, request, &reply);
        if (r < 0)
                return r;
        r = reply_read(connection, &reply, &empty, sizeof(empty));
        if (r < 0)
                return r;
        return wire_is_zero(&empty, sizeof(empty)) ? 0 : connection_break(connection);
}

static int unlink_target(struct shmd *connection, const struct target *target) {
        const struct shmd_wire_unlink body = { .target = target->wire };

        return call_for_nothing(connection, &(struct request) {
                                                    .operation = SHMD_OP_UNLINK,
                                                    .body = &body,
                                                    .tail = target->name,
                                                    .tail_size = target->name_size,
                                            });
}

_public_ int shmd_unlink(struct shmd *connection, const char *name) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : unlink_target(connection, &target);
}

_public_ int shmd_unlink_id(struct shmd *connection, uint64_t id) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : unlink_target(connection, &target);
}

static int chmod_target(struct shmd *connection, const struct target *target, mode_t mode) {
        const struct shmd_wire_chmod body = { .target = target->wire, .mode = mode & 0666 };

        if (mode & ~0777u)
                return failure_words(&connection->failure, -EINVAL, "invalid mode");
        return call_for_nothing(connection, &(struct request) {
                                                    .operation = SHMD_OP_CHMOD,
                                                    .body = &body,
                                                    .tail = target->name,
                                                    .tail_size = target->name_size,
                                            });
}

_public_ int shmd_chmod(struct shmd *connection, const char *name, mode_t mode) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : chmod_target(connection, &target, mode);
}

_public_ int shmd_chmod_id(struct shmd *connection, uint64_t id, mode_t mode) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : chmod_target(connection, &target, mode);
}

/* -1 of either type is UINT32_MAX on the wire: leave it. */
static int chown_target(struct shmd *connection, const struct target *target, uid_t uid, gid_t gid) {
        const struct shmd_wire_chown body = { .target = target->wire, .uid = uid, .gid = gid };

        return call_for_nothing(connection, &(struct request) {
                                                    .operation = SHMD_OP_CHOWN,
                                                    .body = &body,
                                                    .tail = target->name,
                                                    .tail_size = target->name_size,
                                            });
}

_public_ int shmd_chown(struct shmd *connection, const char *name, uid_t uid, gid_t gid) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : chown_target(connection, &target, uid, gid);
}

_public_ int shmd_chown_id(struct shmd *connection, uint64_t id, uid_t uid, gid_t gid) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : chown_target(connection, &target, uid, gid);
}

static int rename_target(struct shmd *connection, const struct target *target, const char *new_name) {
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
                                            });
}

_public_ int shmd_rename(struct shmd *connection, const char *name, const char *new_name) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : rename_target(connection, &target, new_name);
}

_public_ int shmd_rename_id(struct shmd *connection, uint64_t id, const char *new_name) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : rename_target(connection, &target, new_name);
}
