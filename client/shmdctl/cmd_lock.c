/* SPDX-License-Identifier: MIT */
/*
 * lock: a program runs with the lock of a segment held, as flock(1) does it for files.
 *
 * The lock is that of shmdctl's one thread: it can't be handed to the program, and whatever ends shmdctl gives it
 * back. So the program is killed by the kernel then, lest it goes on without the lock.
 */
#include "shmdctl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* For a segment that is there for nothing but its lock. Bytes. */
#define CREATED_SIZE 1

static int open_to_lock(struct ctl *ctl, const char *name, struct shmd_segment **ret_segment) {
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        unsigned flags = ctl->options.shared ? SHMD_READ_ONLY : SHMD_READ_WRITE;
        int r;

        r = segment_open(ctl, name, flags | SHMD_PRIVATE, ret_segment);
        if (r == -EOPNOTSUPP) /* made of a file: there are no private descriptors of it */
                r = segment_open(ctl, name, flags, ret_segment);
        /* Where another one makes it at the same time, that one is opened. */
        if (r == -ENOENT && ctl->options.create_missing)
                r = shmd_create(ctl->connection, name, CREATED_SIZE, SHMD_PRIVATE, &options, ret_segment);
        return r == 0 ? STATUS_DONE : fail_shmd(ctl, r, "open", name);
}

/* Any of those who hold it: they may be many, or be gone by now. */
static int keep_holder(const struct shmd_lock_user *user, void *userdata) {
        if (user->pid > 0 && !user->waiting)
                *(struct shmd_lock_user *) userdata = *user;
        return 0;
}

static int fail_taken(struct ctl *ctl, const struct shmd_segment *segment, const char *name) {
        struct shmd_lock_user holder = { .pid = 0 };

        if (shmd_lock_users(ctl->connection, shmd_id(segment), keep_holder, &holder, NULL) == 0 && holder.pid > 0)
                return fail("cannot lock \"%s\": pid %" PRIu32 ", %s, has the lock%s", name, holder.pid, holder.command,
                            holder.shared ? ", shared" : "");
        return fail("cannot lock \"%s\": another one has the lock", name);
}

static int take_lock(struct ctl *ctl, struct shmd_segment *segment, const char *name) {
        int r = shmd_prepare_locks(segment);

        if (r != 0)
                return fail_shmd(ctl, r, "lock", name);
        r = shmd_lock(segment, ctl->options.shared ? SHMD_LOCK_SHARED : SHMD_LOCK_EXCLUSIVE, ctl->options.timeout_usec);
        if (r == -EOWNERDEAD) {
                fail("\"%s\": who had the lock before has died%s", name,
                     ctl->options.shared ? "; the data may be half written" : "; going on");
                return ctl->options.shared || shmd_mark_consistent(segment) == 0 ? STATUS_DONE : STATUS_FAILED;
        }
        if (r == -EBUSY || r == -ETIMEDOUT)
                return fail_taken(ctl, segment, name);
        if (r == -ENOTRECOVERABLE)
                return fail("cannot lock \"%s\": the lock was given up when its holder had died", name);
        return r == 0 ? STATUS_DONE : fail("cannot lock \"%s\": %s", name, strerror(-r));
}

int cmd_lock(struct ctl *ctl, int n_arguments, char **arguments) {
        _cleanup_(segment_closep) struct shmd_segment *segment = NULL;
        int status = connect_to_daemon(ctl);

        (void) n_arguments;
        if (status == STATUS_DONE)
                status = open_to_lock(ctl, arguments[0], &segment);
        if (status == STATUS_DONE)
                status = take_lock(ctl, segment, arguments[0]);
        if (status != STATUS_DONE)
                return status;
        status = hold_run(ctl->program, segment, true);
        (void) shmd_unlock(segment);
        return status;
}
