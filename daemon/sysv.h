/* SPDX-License-Identifier: MIT */
/*
 * Segments whose memory is the kernel's: SysV.
 *
 *  - brokered: the daemon made it, with a key or without; adopted: it was there, and was given a name. Both are handed out as any
 *    other segment, by a descriptor of the same memory.
 *  - registered: a program's own. It uses it by itself, by shmat(2); the daemon lists it, charges it, and removes it when its
 *    lifetime says so. As long as its creator's connection (or process, over the daemon's restart) is there it counts as held.
 *
 * The kernel is the truth for owner, mode and attachments; whoever changes them there changes them here, and an inode whose
 * mode says otherwise is brought in line. Whoever removes it there (IPC_RMID) has taken its name away here. Whoever gives it
 * to another user there has taken it out of shmd's care: nobody can be charged by another.
 *
 * Holders by descriptor are the guard's lease to find, as with a memfd (lease.h); attachments are the kernel's own count.
 *
 * What needs more rights than the daemon has is done by shmd-sysv, a small process of its own, that listens at $SHMD_SYSV_SOCKET, or
 * beside the daemon's socket. It is waited for: its requests take microseconds, and where it does not answer it is given up for a while.
 *
 * Owns the connection to it, and the index of segments by shmid, which has each that the kernel still has.
 */
#pragma once

#include "registry.h"
#include "state.h"
#include "sysv_kernel.h"

struct daemon;

RB_HEAD(shmid_tree, segment);

struct sysv {
        struct shmid_tree shmids;
        char *helper_path;
        uint64_t helper_retry_usec; /* CLOCK_MONOTONIC: not asked before, as it failed */
        uint64_t swept_id;          /* as far as sysv_sweep() has come */
        uint64_t ipc_namespace;     /* inode number; zero: not known */
        int helper_fd;
        bool privileged; /* the daemon may do all by itself */
};

/* socket_path: the daemon's. 0 or -ENOMEM. */
int sysv_init(struct sysv *sysv, const char *socket_path);
void sysv_done(struct sysv *sysv);

/* The segment of that shmid that is looked after, or NULL. */
struct segment *sysv_find(struct sysv *sysv, int shmid);

/*
 * Looks at so many segments without a name, where the last time ended: nobody tells when the last attachment of one that was
 * removed before ends, and with it the segment. Who is left without holders is queued as idle.
 */
void sysv_sweep(struct sysv *sysv, struct registry *registry, unsigned budget);

/* Removes what an earlier daemon was making when it was killed, if it got so far. To be called once all that it recorded is there. */
void sysv_remove_unrecorded(struct sysv *sysv, const struct state_making *making);

/* As sysv_kernel.h says. 0 or -errno, and then the kernel has nothing new. */
int sysv_make(struct sysv *sysv, uint32_t key, uint64_t size, const struct ownership *owner, struct sysv_facts *ret_facts, int *ret_fd);
int sysv_export(struct sysv *sysv, const struct sysv_facts *facts, int *ret_fd);

/*
 * It is the segment's from now on, with its descriptor, if there is one (taken), whose inode gets the segment's owner and mode: until
 * sysv_release(). The segment may be one that is not committed yet.
 */
void sysv_hold(struct sysv *sysv, struct segment *segment, const struct sysv_facts *facts, int fd);
/* The segment is freed. remove: nobody needs it any more, so that the kernel shall not have it either, unless it is attached. */
void sysv_release(struct sysv *sysv, struct segment *segment, bool remove);

/* Of an earlier daemon: looks for it in the kernel. False: it has gone. */
bool sysv_restore(struct sysv *sysv, struct segment *segment);

/* Sees to it that there is a descriptor. 0, SHMD_NO_SYSV, SHMD_REMOVED or -errno. */
int sysv_open_guard(struct sysv *sysv, struct segment *segment);

/* Changes owner and mode. 0; SHMD_REMOVED; SHMD_NO_SYSV: the daemon may not; or -errno. */
int sysv_set_owner(struct sysv *sysv, struct segment *segment, const struct ownership *owner);

/* As memfd_refresh(), of a segment that is committed. May take its name away. */
uint64_t sysv_refresh(struct segment *segment);

/* How often it is attached. */
uint64_t sysv_attached(const struct segment *segment);

/* Whether anybody but a connection has it: lease.h. ask: the guard's part of it. */
bool sysv_is_held(struct segment *segment, bool (*ask)(struct segment *segment));

/* What keeps a segment from having a descriptor: a status, or the error itself, also 0. */
int sysv_refuse_export(int error);

/* What shmget(2)'s error means: a status with details, or the error itself. */
int sysv_refuse_make(int error, uint64_t size, struct shmd_wire_refusal *refusal);
