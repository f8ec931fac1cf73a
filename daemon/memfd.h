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
#include "worker.h"

struct memfd {
        struct segment_queue shared; /* segments with shared descriptions, least recently used first */
        unsigned shared_count;       /* descriptions */
        unsigned shared_max;
        bool pinned;                 /* descriptions given out as shared must stay open for now */
        int proc_fd;                 /* /proc/self/fd */
        bool noexec_seal;            /* the kernel knows MFD_NOEXEC_SEAL (6.3) */
};

/* 0, or -errno: /proc is not there, or memfds are not. */
int memfd_init(struct memfd *memfd, unsigned shared_max);
void memfd_done(struct memfd *memfd);

/*
 * Memory that is no segment: so many zeros, which nobody can resize or seal further, and only the daemon's user open again.
 * The descriptor itself may be given to clients, as nobody asks who else has it.
 */
int memfd_create_sealed(const struct memfd *memfd, const char *name, uint64_t size, int *ret_fd);
/* Another, read-only description of what a descriptor refers to. */
int memfd_reopen_read_only(const struct memfd *memfd, int fd, int *ret_fd);

/*
 * Makes a segment's memory: sized, sealed against resizing, owned by its owner, and a first description of
 * it for its creator. Of a POSIX segment the size stays open to ftruncate(2).
 *
 * 0; SHMD_NO_HUGE_PAGES; -EFBIG, -EINVAL: too large for a file; -ENOMEM, -ENOSPC; -EMFILE, -ENFILE.
 */
int memfd_create_segment(struct memfd *memfd, struct segment *segment, bool write, int *ret_fd);

/*
 * A descriptor for a client. private: its own description, which the caller must close; otherwise
 * the shared one, which it must not: *ret_close says. Errors as for open(2); if descriptors run out, shared ones
 * are given up first.
 */
int memfd_open_segment(struct memfd *memfd, struct segment *segment, bool write, bool private, int *ret_fd, bool *ret_close);

/*
 * The two descriptors of a file that a client brings: of the same regular file, the second one read-only, the first
 * read-write if the segment is to be written; at least size bytes long, or at all where size is zero. Gives the size. 0 or
 * SHMD_INVALID. Nothing is asked of them that a hostile file system could delay.
 */
int memfd_check_files(const int *files, bool write, uint64_t size, uint64_t *ret_size);

/* Makes them the segment's memory: takes both, writes -EBADF over them, gives a borrowed one for the creator. 0. */
int memfd_adopt_file(struct segment *segment, int *files, bool write, int *ret_fd);

/* How many huge pages of that size are free and not promised; for messages. */
uint64_t memfd_huge_pages_free(unsigned page_shift);

/* The description that a segment's creator got becomes the shared one of its access, if there is room: taken, or closed. */
void memfd_share(struct memfd *memfd, struct segment *segment, bool write, int fd);

/*
 * From now on descriptions that were given out as shared stay open, until the answer that carries them is sent; where
 * there is no room to keep one more, openers get their own.
 */
void memfd_pin(struct memfd *memfd, bool pinned);

/* Seals. 0; SHMD_BUSY: someone has it mapped writable; SHMD_SEALED: someone has sealed it against that. May take long. */
int memfd_freeze(int fd);
/* Whether the next one would succeed now. 0, SHMD_SEALED or -errno. */
int memfd_may_seal_future_write(const struct segment *segment);
/* Nobody can make another writable mapping. 0 or SHMD_SEALED. */
int memfd_seal_future_write(const struct segment *segment);
/*
 * Gives the pages beyond size back, or sees to it that those up to size can be had again: huge pages lose their reservation
 * with the pages. 0, SHMD_SEALED, SHMD_NO_HUGE_PAGES or -errno. May take long.
 */
int memfd_resize(int fd, uint64_t size, uint64_t maximum, unsigned page_shift);

/*
 * Gives all memory back of a file that nobody has any more, and that something else still refers to. 0 or -errno: -EPERM if a
 * seal is against it. May take long.
 */
int memfd_empty(int fd, uint64_t size, bool posix);

/* Closes the daemon's shared descriptions, before the kernel is asked who else there is. */
void memfd_close_shared(struct memfd *memfd, struct segment *segment);

/* Gives up half of all shared descriptions. False if there were none. */
bool memfd_shrink(struct memfd *memfd);

/*
 * Clients may change the inode through their descriptors: fchmod(2), fchown(2), and ftruncate(2) where POSIX has it. The
 * inode is the truth; this brings the registry up to it. Gives the bytes of pages that exist; zero if that can't be known.
 */
uint64_t memfd_refresh(struct segment *segment);

/* Closes all that the daemon has of a segment, where it takes nobody's time. */
void memfd_close_segment(struct memfd *memfd, struct segment *segment, struct worker *worker, struct worker *discarder);

/* Whether a descriptor is of this segment and open with that access. */
bool memfd_matches(const struct segment *segment, int fd, bool write);
