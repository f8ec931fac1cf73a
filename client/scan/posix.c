/* SPDX-License-Identifier: MIT */
/*
 * Files in /dev/shm, and in directories below it: symbolic links are not followed, other mounts not entered.
 *
 * The caller ignores SIGIO, which is what the kernel sends to whoever has a lease that somebody waits for.
 */
#include "scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "util.h"

/* Of directories within directories; each costs a descriptor. */
#define DEPTH_MAX 64u

static uint64_t timespec_to_usec(const struct timespec *t) {
        return (uint64_t) t->tv_sec * 1000000 + (uint64_t) t->tv_nsec / 1000;
}

/* Times to the nanosecond, mixed: equal only if none of them has changed. */
static uint64_t stamp_of(const struct stat *st) {
        const struct timespec *times[] = { &st->st_atim, &st->st_mtim, &st->st_ctim };
        uint64_t stamp = (uint64_t) st->st_size;

        for (size_t i = 0; i < ELEMENTSOF(times); i++)
                stamp = stamp * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t) times[i]->tv_sec * 1000000000u + (uint64_t) times[i]->tv_nsec;
        return stamp;
}

void scan_describe_file(struct scan_find *find, const struct stat *st) {
        uint64_t read = timespec_to_usec(&st->st_atim), written = timespec_to_usec(&st->st_mtim),
                 changed = timespec_to_usec(&st->st_ctim);

        find->id = st->st_ino;
        find->device = st->st_dev;
        find->size_bytes = (uint64_t) st->st_size;
        find->resident_bytes = (uint64_t) st->st_blocks * 512;
        find->uid = st->st_uid;
        find->gid = st->st_gid;
        find->mode = st->st_mode & 07777;
        find->links = (uint32_t) st->st_nlink;
        find->used_usec = MAX(MAX(read, written), changed);
        find->stamp = stamp_of(st);
}

/* --- the kernel's answer --- */

static int open_file(int directory_fd, const char *name) {
        /* Without O_NONBLOCK we might wait for somebody else's lease. A read-only descriptor will do for a lease; where
         * the mode lets its owner only write, a write-only one. */
        int flags = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
        int fd = openat(directory_fd, name, O_RDONLY | flags);

        if (fd < 0 && errno == EACCES)
                fd = openat(directory_fd, name, O_WRONLY | flags);
        return fd < 0 ? negative_errno() : fd;
}

/* A lease that is there, and that nobody waits for. */
static int take_lease(int fd) {
        if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0) {
                if (errno == EAGAIN)
                        return 0;
                /* No leases on this file system, or at all (/proc/sys/fs/leases-enable) */
                return errno == ENOMEM ? -ENOMEM : -EACCES;
        }
        return fcntl(fd, F_GETLEASE) == F_WRLCK;
}

int scan_lease_file(int directory_fd, const char *name, struct stat *ret_st, int *ret_fd) {
        struct stat before, st;
        _cleanup_close_ int fd = -EBADF;
        int r;

        /* Nothing but regular files is opened: a FIFO or a device would notice. */
        if (fstatat(directory_fd, name, &before, AT_SYMLINK_NOFOLLOW) < 0)
                return negative_errno();
        if (!S_ISREG(before.st_mode))
                return -ENOENT;
        fd = open_file(directory_fd, name);
        if (fd == -EWOULDBLOCK) {
                *ret_st = before; /* it is leased: by its user, or another scan */
                return 0;
        }
        if (fd == -EACCES || fd == -EPERM) {
                *ret_st = before;
                return -EACCES;
        }
        if (fd < 0)
                return fd == -ELOOP ? -ENOENT : fd;
        if (fstat(fd, &st) < 0)
                return negative_errno();
        if (st.st_ino != before.st_ino || st.st_dev != before.st_dev || !S_ISREG(st.st_mode))
                return -ENOENT;
        r = take_lease(fd);
        /* Once more: while nobody had it, it may have lost its name, and is then on its way out already. */
        if (r > 0 && fstat(fd, &st) < 0)
                return negative_errno();
        if (r > 0 && st.st_nlink == 0)
                return -ENOENT;
        *ret_st = st;
        if (r > 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

/* --- one file --- */

static uint64_t born_usec(int directory_fd, const char *name) {
        struct statx st;

        if (statx(directory_fd, name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) < 0 || !(st.stx_mask & STATX_BTIME))
                return 0;
        return (uint64_t) st.stx_btime.tv_sec * 1000000 + st.stx_btime.tv_nsec / 1000;
}

static int note_file(struct scan *scan, const struct scan_space *space, int directory_fd, const char *name, const char *path) {
        _cleanup_close_ int fd = -EBADF;
        struct scan_find *find;
        struct stat st;
        int r;

        r = scan_lease_file(directory_fd, name, &st, &fd);
        if (r == -ENOENT) /* gone meanwhile, or no regular file */
                return 0;
        if (r < 0 && r != -EACCES)
                return r;
        find = scan_add(scan, SCAN_POSIX, space, path);
        if (!find)
                return -ENOMEM;
        scan_describe_file(find, &st);
        if (r == 1) {
                find->created_usec = born_usec(directory_fd, name);
                find->verdict = SCAN_LEAKED;
                (void) snprintf(find->reason, sizeof(find->reason),
                                "the kernel says that no process has it open or mapped");
        } else if (r == -EACCES) {
                find->created_usec = born_usec(directory_fd, name);
                find->verdict = SCAN_UNKNOWN; /* with no reason yet: pending */
                scan->pending++;
        }
        return 0;
}

/* --- directories --- */

/* A directory right there: no link, no mount point. */
static int open_directory(int directory_fd, const char *name) {
        struct open_how how = {
                .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
        };
        int fd = (int) syscall(SYS_openat2, directory_fd, name, &how, sizeof(how));

        return fd < 0 ? negative_errno() : fd;
}

static int note_closed_directory(struct scan *scan, const struct scan_space *space, const char *path, int error) {
        struct scan_find *find = scan_add(scan, SCAN_POSIX, space, path);

        if (!find)
                return -ENOMEM;
        find->verdict = SCAN_UNKNOWN;
        (void) snprintf(find->reason, sizeof(find->reason), "a directory that can't be looked into: %s", strerror(-error));
        return 0;
}

static int walk(struct scan *scan, const struct scan_space *space, int take_fd, const char *path, unsigned depth);

static int walk_into(struct scan *scan, const struct scan_space *space, int directory_fd, const char *name, const char *path,
                     unsigned depth) {
        int fd = depth < DEPTH_MAX ? open_directory(directory_fd, name) : -ELOOP;

        switch (fd) {
        case -ENOENT: /* gone */
        case -EXDEV:  /* a mount of something else */
        case -ENOTDIR:
                return 0;
        case -EACCES:
        case -EPERM:
        case -ELOOP:
                return note_closed_directory(scan, space, path, fd);
        default:
                return fd < 0 ? fd : walk(scan, space, fd, path, depth + 1);
        }
}

static bool is_directory(int directory_fd, const struct dirent *entry) {
        struct stat st;

        if (entry->d_type != DT_UNKNOWN)
                return entry->d_type == DT_DIR;
        return fstatat(directory_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int walk_entry(struct scan *scan, const struct scan_space *space, int directory_fd, const char *directory,
                      const struct dirent *entry, unsigned depth) {
        _cleanup_free_ char *path = NULL;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                return 0;
        if (asprintf(&path, "%s%s%s", directory, *directory ? "/" : "", entry->d_name) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        if (is_directory(directory_fd, entry))
                return walk_into(scan, space, directory_fd, entry->d_name, path, depth);
        return note_file(scan, space, directory_fd, entry->d_name, path);
}

static int walk(struct scan *scan, const struct scan_space *space, int take_fd, const char *path, unsigned depth) {
        DIR *directory = fdopendir(take_fd);
        struct dirent *entry;
        int r = 0;

        if (!directory) {
                close_fd(take_fd);
                return -ENOMEM;
        }
        while (r == 0 && (entry = readdir(directory)))
                r = walk_entry(scan, space, dirfd(directory), path, entry, depth);
        (void) closedir(directory);
        return r;
}

int scan_posix_space(struct scan *scan, const struct scan_space *space) {
        int fd = openat(space->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 ? negative_errno() : walk(scan, space, fd, "", 0);
}

int scan_posix(struct scan *scan) {
        int fd = open(SCAN_DIRECTORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        const struct scan_space *space;

        if (fd < 0)
                return errno == ENOENT ? 0 : negative_errno();
        space = scan_add_space(scan, fd, 0, "");
        return space ? scan_posix_space(scan, space) : -ENOMEM;
}
