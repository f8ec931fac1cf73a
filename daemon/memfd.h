/* SPDX-License-Identifier: MIT */
/*
 * The memory itself: memfds, and the file descriptions that clients get of them.
 *
 * For each segment the daemon keeps one description, the guard, opened read-write. All that leaves the
 * daemon are descriptions opened anew through /proc/self/fd, never a duplicate of the guard, so that
 *  - the kernel grants the guard a write lease exactly when nobody else has the segment open
 *    or mapped (fcntl(2) F_SETLEASE; fs/locks.c, check_conflicting_open): lease.h asks that;
 *  - no client can get a lease of its own, with which it could make the daemon's next open wait:
 *    the guard stands against it. All opens here are O_NONBLOCK all the same.
 *
 * Holders of the same access may be given one shared description, which saves opening one for each.
 * The daemon keeps these too, within a budget, the least recently used go first.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "registry.h"

struct memfd {
        struct segment_queue shared; /* segments with shared descriptions, least recently used first */
        unsigned shared_count;       /* descriptions */
        unsigned shared_max;
        int proc_fd;                 /* /proc/self/fd */
        bool noexec_seal;            /* the kernel knows MFD_NOEXEC_SEAL (6.3) */
};

/* 0, or -errno: /proc is not there, or memfds are not. */
int memfd_init(struct memfd *memfd, unsigned shared_max);
void memfd_done(struct memfd *memfd);

/*
 * Makes a segment's memory: sized, sealed against resizing, owned by its owner, and a first description of
 * it for its creator. Of a POSIX segment the size stays open to ftruncate(2).
 *
 * 0; -EFBIG, -EINVAL: too large for a file; -ENOMEM, -ENOSPC; -EMFILE, -ENFILE.
 */
int memfd_create_segment(struct memfd *memfd, struct segment *segment, bool write, int *ret_fd);

/*
 * A descriptor for a client. private: its own description, which the caller must close; otherwise
 * the shared one, which it must not: *ret_close says. Errors as for open(2); if descriptors run out, shared ones
 * are given up first.
 */
int memfd_open_segment(struct memfd *memfd, struct segment *segment, bool write, bool private, int *ret_fd, bool *ret_close);

/* Closes the daemon's shared descriptions, before the kernel is asked who else there is. */
void memfd_close_shared(struct memfd *memfd, struct segment *segment);

/* Gives up half of all shared descriptions. False if there were none. */
bool memfd_shrink(struct memfd *memfd);

/*
 * Clients may change the inode through their descriptors: fchmod(2), fchown(2), and ftruncate(2) where POSIX has it. The
 * inode is the truth; this brings the registry up to it. Gives the bytes of pages that exist; zero if that can't be known.
 */
uint64_t memfd_refresh(struct segment *segment);

/* Whether a descriptor is of this segment and open with that access. */
bool memfd_matches(const struct segment *segment, int fd, bool write);
