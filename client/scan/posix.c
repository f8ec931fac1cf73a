/* SPDX-License-Identifier: MIT */
/*
 * Files in /dev/shm, and in directories below it: symbolic links are not followed, mount points not entered; a file can be one, too.
 * What is in another file system may be anybody's, and may never answer.
 *
 * The caller ignores SIGIO, which is what the kernel sends to whoever has a lease that somebody waits for.
 */
#include "scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "util.h"

static bool is_out_of_something(int error) {
        return error == -ENOMEM || error == -EMFILE || error == -ENFILE;
}

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

/* --- what a name right there leads to: no link, no mount point --- */

static int open_beneath(int directory_fd, const char *name, int flags) {
        struct open_how how = {
                .flags = (uint64_t) (flags | O_NOFOLLOW | O_CLOEXEC),
                .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
        };
        int fd = (int) syscall(SYS_openat2, directory_fd, name, &how, sizeof(how));

        return fd < 0 ? negative_errno() : fd;
}

/* Without opening it: a FIFO or a device would notice. -ENOENT: no regular file that is ours to look at. */
static int stat_file(int directory_fd, const char *name, struct stat *ret_st) {
        _cleanup_close_ int fd = open_beneath(directory_fd, name, O_PATH);

        if (fd < 0)
                return is_out_of_something(fd) ? fd : -ENOENT;
        if (fstat(fd, ret_st) < 0)
                return negative_errno();
        return S_ISREG(ret_st->st_mode) ? 0 : -ENOENT;
}

/* --- the kernel's answer --- */

static int open_file(int directory_fd, const char *name) {
        /* Without O_NONBLOCK we might wait for somebody else's lease. A read-only descriptor will do for a lease; where
         * the mode lets its owner only write, a write-only one. */
        int flags = O_NONBLOCK | O_NOCTTY;
        int fd = open_beneath(directory_fd, name, O_RDONLY | flags);

        if (fd == -EACCES)
                fd = open_beneath(directory_fd, name, O_WRONLY | flags);
        return fd;
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

/* A name that led to a regular file a moment ago could not be opened. As scan_lease_file(). */
static int judge_unopened(int error) {
        switch (error) {
        case -EWOULDBLOCK: /* it is leased: by its user, or another scan */
        case -ETXTBSY:     /* it is executed */
                return 0;
        case -ENOENT:
        case -ELOOP:
        case -EXDEV:
        case -ENXIO:
                return -ENOENT; /* something else is there by now */
        default:
                return is_out_of_something(error) ? error : -EACCES;
        }
}

int scan_lease_file(int directory_fd, const char *name, struct stat *ret_st, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF;
        struct stat before, st;
        int r;

        r = stat_file(directory_fd, name, &before);
        if (r < 0)
                return r;
        *ret_st = before;
        fd = open_file(directory_fd, name);
        if (fd < 0)
                return judge_unopened(fd);
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
        _cleanup_close_ int fd = open_beneath(directory_fd, name, O_PATH);
        struct statx st;

        if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) < 0 || !(st.stx_mask & STATX_BTIME))
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
                find->verdict = SCAN_UNKNOWN; /* with no reason yet: scan_processes() */
        }
        return 0;
}

/* --- directories --- */

static int open_directory(int directory_fd, const char *name) {
        _cleanup_close_ int fd = open_beneath(directory_fd, name, O_RDONLY | O_DIRECTORY);

        if (fd < 0)
                return fd;
        /* With the right to read it alone there are names to be had, but not what they lead to. */
        if (faccessat(fd, ".", X_OK, AT_EACCESS) < 0)
                return negative_errno();
        return TAKE_FD(fd);
}

static int note_closed_directory(struct scan *scan, const struct scan_space *space, int directory_fd, const char *name,
                                 const char *path, int error) {
        _cleanup_close_ int fd = open_beneath(directory_fd, name, O_PATH);
        struct scan_find *find = scan_add(scan, SCAN_POSIX, space, path);
        struct stat st;

        if (!find)
                return -ENOMEM;
        if (fd >= 0 && fstat(fd, &st) == 0)
                scan_describe_file(find, &st);
        find->verdict = SCAN_UNKNOWN;
        (void) snprintf(find->reason, sizeof(find->reason), "a directory that can't be looked into: %s",
                        error == -ELOOP ? "too many levels of directories" : strerror(-error));
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
        default:
                if (fd < 0)
                        return is_out_of_something(fd) ? fd : note_closed_directory(scan, space, directory_fd, name, path, fd);
                return walk(scan, space, fd, path, depth + 1);
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

int scan_note_unseen(struct scan *scan, const struct scan_space *space, const char *reason) {
        struct scan_find *find = scan_add(scan, SCAN_POSIX, space, ".");

        if (!find)
                return -ENOMEM;
        find->verdict = SCAN_UNKNOWN;
        (void) snprintf(find->reason, sizeof(find->reason), "%s", reason);
        return 0;
}

/* Of others the kernel may not know all who have a file: a layer of theirs is used elsewhere, too, or a server is between. */
static bool is_in_memory(int fd) {
        struct statfs fs;

        return fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
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
        if (!space)
                return -ENOMEM;
        if (!is_in_memory(fd))
                return scan_note_unseen(scan, space,
                                        "all of " SCAN_DIRECTORY ": it is not a tmpfs, of which the kernel knows who has what");
        return scan_posix_space(scan, space);
}
