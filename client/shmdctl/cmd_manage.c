/* SPDX-License-Identifier: MIT */
/*
 * The commands that change segments without touching their bytes. Those that take many names go on
 * after one that failed.
 */
#include "shmdctl.h"

#include "words.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* --- by name or id, one after the other --- */

typedef int by_name_function(struct ctl *ctl, const char *name, const void *what);
typedef int by_id_function(struct ctl *ctl, uint64_t id, const void *what);

struct change {
        const char *action;
        by_name_function *by_name;
        by_id_function *by_id;
        void (*explain)(struct ctl *ctl, const char *name_or_id, int error); /* NULL: the library says it all */
};

static int change_one(struct ctl *ctl, const struct change *change, const char *name_or_id, const void *what) {
        int r = change->by_name(ctl, name_or_id, what), status;
        uint64_t id;

        if (r == -ENOENT && parse_id(name_or_id, &id))
                r = change->by_id(ctl, id, what);
        if (r == 0)
                return STATUS_DONE;
        status = fail_shmd(ctl, r, change->action, name_or_id);
        if (change->explain)
                change->explain(ctl, name_or_id, r);
        return status;
}

static int change_each(struct ctl *ctl, const struct change *change, int n_names, char **names, const void *what) {
        int status = connect_to_daemon(ctl);

        if (status != STATUS_DONE)
                return status;
        for (int i = 0; i < n_names && status != STATUS_NO_DAEMON; i++) {
                int one = change_one(ctl, change, names[i], what);

                if (one != STATUS_DONE)
                        status = one;
        }
        return status;
}

/* --- rm --- */

static int rm_by_name(struct ctl *ctl, const char *name, const void *what) {
        (void) what;
        return shmd_unlink(ctl->connection, name);
}

static int rm_by_id(struct ctl *ctl, uint64_t id, const void *what) {
        (void) what;
        return shmd_unlink_id(ctl->connection, id);
}

int cmd_rm(struct ctl *ctl, int n_arguments, char **arguments) {
        static const struct change change = { "remove", rm_by_name, rm_by_id, NULL };

        return change_each(ctl, &change, n_arguments, arguments, NULL);
}

/* --- chown --- */

struct owner {
        uid_t uid;
        gid_t gid;
};

static int chown_by_name(struct ctl *ctl, const char *name, const void *what) {
        const struct owner *owner = what;

        return shmd_chown(ctl->connection, name, owner->uid, owner->gid);
}

static int chown_by_id(struct ctl *ctl, uint64_t id, const void *what) {
        const struct owner *owner = what;

        return shmd_chown_id(ctl->connection, id, owner->uid, owner->gid);
}

int cmd_chown(struct ctl *ctl, int n_arguments, char **arguments) {
        static const struct change change = { "change the owner of", chown_by_name, chown_by_id, NULL };
        struct owner owner;
        const char *problem = parse_owner(arguments[0], &owner.uid, &owner.gid);

        if (problem)
                return fail_usage(ctl, "\"%s\": %s", arguments[0], problem);
        return change_each(ctl, &change, n_arguments - 1, arguments + 1, &owner);
}

/* --- chmod: what the change is depends on the mode that the segment has --- */

static int chmod_from(struct ctl *ctl, const struct shmd_stat *stat, const char *text) {
        uint32_t mode;

        if (parse_mode_change(text, stat->mode, &mode))
                return -EINVAL; /* not reached: it was checked before */
        return shmd_chmod_id(ctl->connection, stat->id, mode);
}

static int chmod_by_name(struct ctl *ctl, const char *name, const void *what) {
        struct shmd_stat stat;
        int r = shmd_stat(ctl->connection, name, &stat);

        return r != 0 ? r : chmod_from(ctl, &stat, what);
}

static int chmod_by_id(struct ctl *ctl, uint64_t id, const void *what) {
        struct shmd_stat stat;
        int r = shmd_stat_id(ctl->connection, id, &stat);

        return r != 0 ? r : chmod_from(ctl, &stat, what);
}

int cmd_chmod(struct ctl *ctl, int n_arguments, char **arguments) {
        static const struct change change = { "change the mode of", chmod_by_name, chmod_by_id, NULL };
        uint32_t mode;
        const char *problem = parse_mode_change(arguments[0], 0, &mode);

        if (problem)
                return fail_usage(ctl, "mode \"%s\": %s", arguments[0], problem);
        return change_each(ctl, &change, n_arguments - 1, arguments + 1, arguments[0]);
}

/* --- resize, lifetime: one segment --- */

static int resize_by_name(struct ctl *ctl, const char *name, const void *what) {
        return shmd_resize(ctl->connection, name, *(const uint64_t *) what);
}

static int resize_by_id(struct ctl *ctl, uint64_t id, const void *what) {
        return shmd_resize_id(ctl->connection, id, *(const uint64_t *) what);
}

int cmd_resize(struct ctl *ctl, int n_arguments, char **arguments) {
        static const struct change change = { "resize", resize_by_name, resize_by_id, NULL };
        uint64_t size_bytes;
        const char *problem = parse_size(arguments[1], &size_bytes);

        (void) n_arguments;
        if (!problem && size_bytes == 0)
                problem = "a segment has at least one byte";
        if (problem)
                return fail_usage(ctl, "size \"%s\": %s", arguments[1], problem);
        return change_each(ctl, &change, 1, arguments, &size_bytes);
}

struct lifetime {
        uint32_t lifetime;
        uint64_t linger_usec;
};

static int lifetime_by_name(struct ctl *ctl, const char *name, const void *what) {
        const struct lifetime *wanted = what;

        return shmd_set_lifetime(ctl->connection, name, wanted->lifetime, wanted->linger_usec);
}

static int lifetime_by_id(struct ctl *ctl, uint64_t id, const void *what) {
        const struct lifetime *wanted = what;

        return shmd_set_lifetime_id(ctl->connection, id, wanted->lifetime, wanted->linger_usec);
}

int cmd_lifetime(struct ctl *ctl, int n_arguments, char **arguments) {
        static const struct change change = { "change the lifetime of", lifetime_by_name, lifetime_by_id, NULL };
        struct lifetime wanted;
        const char *problem = words_parse_lifetime(arguments[1], true, &wanted.lifetime, &wanted.linger_usec);

        (void) n_arguments;
        if (problem)
                return fail_usage(ctl, "lifetime \"%s\": %s", arguments[1], problem);
        return change_each(ctl, &change, 1, arguments, &wanted);
}

/* --- freeze: whoever can still write it is told --- */

static int freeze_by_name(struct ctl *ctl, const char *name, const void *what) {
        (void) what;
        return shmd_freeze(ctl->connection, name);
}

static int freeze_by_id(struct ctl *ctl, uint64_t id, const void *what) {
        (void) what;
        return shmd_freeze_id(ctl->connection, id);
}

static void tell_writers(struct ctl *ctl, const char *name_or_id, int error) {
        char hidden[TEXT_HIDDEN_MAX];
        struct mappers mappers;
        struct shmd_stat stat;

        if (error != -EBUSY || segment_stat(ctl, name_or_id, &stat) != 0)
                return;
        mappers_find(ctl, &stat, &mappers);
        for (size_t i = 0; i < mappers.count; i++) {
                const struct shmd_mapper *mapper = &mappers.items[i];

                if (mapper->mapped && mapper->writable)
                        fail("mapped writable by pid %" PRIu32 ", %s, user %s", mapper->pid, mapper->command,
                             user_name(mapper->uid));
        }
        if (mappers.hidden > 0)
                fail("%s", mappers_describe_hidden(&mappers, hidden));
        if (mappers.error != 0)
                fail("cannot look for who has it mapped: %s", strerror(-mappers.error));
        mappers_done(&mappers);
}

int cmd_freeze(struct ctl *ctl, int n_arguments, char **arguments) {
        static const struct change change = { "freeze", freeze_by_name, freeze_by_id, tell_writers };

        return change_each(ctl, &change, n_arguments, arguments, NULL);
}

/* --- rename --- */

int cmd_rename(struct ctl *ctl, int n_arguments, char **arguments) {
        int status = connect_to_daemon(ctl), r;
        char action[400];
        uint64_t id;

        (void) n_arguments;
        if (status != STATUS_DONE)
                return status;
        r = shmd_rename(ctl->connection, arguments[0], arguments[1]);
        if (r == -ENOENT && parse_id(arguments[0], &id))
                r = shmd_rename_id(ctl->connection, id, arguments[1]);
        if (r == 0)
                return STATUS_DONE;
        snprintf(action, sizeof(action), "give the name \"%s\" to", arguments[1]);
        return fail_shmd(ctl, r, action, arguments[0]);
}
