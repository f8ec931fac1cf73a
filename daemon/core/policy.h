/* SPDX-License-Identifier: MIT */
/*
 * Who may do what. The rules of files, in one place, without a system call:
 * owner, group and others as path_resolution(7) has them; what changes a segment
 * itself is its owner's or an administrator's, as in a sticky directory.
 *
 * All functions give 0 or a status of the protocol, and keep no state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What the kernel says of a client, taken when it connected. Owns the array. */
struct credentials {
        uid_t uid;
        gid_t gid;
        pid_t pid;
        gid_t *groups;
        size_t n_groups;
        bool administrator;
};

/* Whose a thing is, and what its mode says. */
struct ownership {
        uid_t uid;
        gid_t gid;
        mode_t mode; /* nine bits */
};

bool credentials_in_group(const struct credentials *credentials, gid_t gid);

/* Reading, or reading and writing, what is in it: 0 or SHMD_DENIED. Root may; other administrators need the mode's leave. */
int policy_open(const struct credentials *credentials, const struct ownership *owner, bool write);

/* Changing the thing itself, and looking at its holders: 0 or SHMD_NOT_OWNER. */
int policy_manage(const struct credentials *credentials, const struct ownership *owner);

/*
 * Making it somebody's: 0, SHMD_NOT_OWNER or SHMD_NOT_ADMINISTRATOR. Nobody but an administrator gives a segment to another
 * user, whose quota it would then be charged to; the group may be any of the owner's own.
 */
int policy_chown(const struct credentials *credentials, const struct ownership *owner, uid_t uid, gid_t gid);
