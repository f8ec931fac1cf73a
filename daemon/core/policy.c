/* SPDX-License-Identifier: MIT */
#include "policy.h"

#include "status.h"

bool credentials_in_group(const struct credentials *credentials, gid_t gid) {
        if (credentials->gid == gid)
                return true;
        for (size_t i = 0; i < credentials->n_groups; i++)
                if (credentials->groups[i] == gid)
                        return true;
        return false;
}

int policy_open(const struct credentials *credentials, const struct ownership *owner, bool write) {
        mode_t wanted = write ? 06 : 04;
        mode_t granted;

        if (credentials->uid == 0)
                return 0;
        /* The first class that fits decides, even if a later one would give more. */
        if (credentials->uid == owner->uid)
                granted = owner->mode >> 6;
        else if (credentials_in_group(credentials, owner->gid))
                granted = owner->mode >> 3;
        else
                granted = owner->mode;
        return (granted & wanted) == wanted ? 0 : SHMD_DENIED;
}

int policy_manage(const struct credentials *credentials, const struct ownership *owner) {
        return credentials->administrator || credentials->uid == owner->uid ? 0 : SHMD_NOT_OWNER;
}

int policy_chown(const struct credentials *credentials, const struct ownership *owner, uid_t uid, gid_t gid) {
        if (credentials->administrator)
                return 0;
        if (credentials->uid != owner->uid)
                return SHMD_NOT_OWNER;
        if (uid != (uid_t) -1 && uid != owner->uid)
                return SHMD_NOT_ADMINISTRATOR;
        if (gid != (gid_t) -1 && gid != owner->gid && !credentials_in_group(credentials, gid))
                return SHMD_NOT_ADMINISTRATOR;
        return 0;
}
