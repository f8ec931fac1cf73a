/* SPDX-License-Identifier: MIT */
/*
 * What shmd does to the kernel's SysV segments: a handful of requests, each checked anew against the kernel right before it
 * acts. The daemon performs them itself where it has the right to, else shmd-sysv does, by the same code: sysv.h.
 *
 * Owns nothing, and keeps no state: whoever asks says what he knows of the segment, and where the kernel knows otherwise
 * nothing is done.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What the kernel says of a segment: shmctl(2), struct shmid_ds. */
struct sysv_facts {
        uint64_t size;
        uint64_t attached; /* shm_nattch */
        int64_t changed_sec, attached_sec, detached_sec;
        int32_t shmid;
        uint32_t key;
        uint32_t uid, gid, creator_uid, creator_gid;
        uint32_t mode; /* nine bits */
        int32_t creator_pid, last_pid;
        uint32_t removed; /* 1: it has no key any more, and goes with its last attachment */
};

/* What takes no right is not here: to make one. */
enum sysv_operation {
        SYSV_EXPORT = 2, /* shmid, expected; gives a descriptor, open read-write. May change who attached it last, and when */
        SYSV_SET = 3,    /* shmid, expected, uid, gid, mode */
        SYSV_REMOVE = 4, /* shmid, expected: not attached, and nothing about it has changed */
};

struct sysv_request {
        uint32_t operation; /* enum sysv_operation */
        int32_t shmid;
        uint32_t uid, gid, mode;
        uint32_t padding;
        struct sysv_facts expected;
};

struct sysv_reply {
        /* 0 or -errno; -ESTALE: it is not what was expected; -EBUSY: it is attached; -EIDRM: it would not survive its export
         * (kernel.shm_rmid_forced); -EOPNOTSUPP: it is of huge pages */
        int32_t result;
        uint32_t padding;
        struct sysv_facts facts; /* afterwards */
};

/*
 * Asks the kernel about a segment; takes no right to it. 0; -EINVAL: there is none with that id; or -errno, where the kernel does not
 * know the question (SHM_STAT_ANY, Linux 4.17) and nobody gave the right.
 */
int sysv_kernel_stat(int shmid, struct sysv_facts *ret_facts);

/* The next segment in the kernel's table, from *index on, which is advanced. False: that was all. Begins at zero. */
bool sysv_kernel_next(int *index, struct sysv_facts *ret_facts);

/* Makes one that nobody else may attach: mode 0. Its creator, the caller, may do all that sysv_kernel_perform() does but export it. */
int sysv_kernel_make(uint32_t key, uint64_t size, struct sysv_facts *ret_facts);

/* Whether these are the same segment at two times. An owner may change (IPC_SET), a creator can't. */
bool sysv_facts_match(const struct sysv_facts *earlier, const struct sysv_facts *later);

/*
 * Performs a request. The descriptor, where there is one, is a description of its own. 0 or -errno, as in the reply.
 */
int sysv_kernel_perform(const struct sysv_request *request, struct sysv_reply *ret_reply, int *ret_fd);
