/* SPDX-License-Identifier: MIT */
#include "memfd.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "util.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

/* memfd_create(2): at most 249 bytes, as the kernel puts "memfd:" before it. */
#define MEMFD_NAME_MAX 249

static bool kernel_knows_noexec_seal(void) {
        _cleanup_close_ int fd = memfd_create("shmd", MFD_CLOEXEC | MFD_NOEXEC_SEAL);

        return fd >= 0;
}

int memfd_init(struct memfd *memfd, unsigned shared_max) {
        *memfd = (struct memfd) { .shared_max = shared_max };
        TAILQ_INIT(&memfd->shared);
        memfd->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (memfd->proc_fd < 0)
                return negative_errno();
        memfd->noexec_seal = kernel_knows_noexec_seal();
        return 0;
}

void memfd_done(struct memfd *memfd) {
        memfd->proc_fd = close_fd(memfd->proc_fd);
}

/* A new description of what a descriptor refers to. */
static int reopen(const struct memfd *memfd, int fd, bool write, int *ret_fd) {
        char number[16];
        int new_fd;

        (void) snprintf(number, sizeof(number), "%d", fd);
        do
                new_fd = openat(memfd->proc_fd, number, (write ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC);
        while (new_fd < 0 && errno == EINTR);
        if (new_fd < 0)
                return negative_errno();
        *ret_fd = new_fd;
        return 0;
}

/* POSIX has execute bits in a mode; segments of shmd's own can't have them. */
static unsigned create_flags(const struct memfd *memfd, const struct segment *segment) {
        unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

        if (!memfd->noexec_seal)
                return flags;
        return flags | (segment->posix ? MFD_EXEC : MFD_NOEXEC_SEAL);
}

static int create_file(const struct memfd *memfd, const struct segment *segment, int *ret_fd) {
        char name[MEMFD_NAME_MAX + 1];
        int fd;

        (void) snprintf(name, sizeof(name), "shmd:%s", segment->name);
        fd = memfd_create(name, create_flags(memfd, segment));
        if (fd < 0 && errno == EACCES && segment->posix) /* sysctl vm.memfd_noexec=2 */
                fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
        if (fd < 0)
                return negative_errno();
        *ret_fd = fd;
        return 0;
}

/*
 * Nobody resizes a segment of ours. It may be sealed further, so that it can be frozen; a file in /dev/shm
 * takes no seals at all, and so does a POSIX segment.
 */
static int size_and_seal(const struct segment *segment, int fd) {
        int seals = segment->posix ? F_SEAL_SEAL : F_SEAL_SHRINK | F_SEAL_GROW;

        if (segment->size > 0 && ftruncate(fd, (off_t) segment->size) < 0)
                return negative_errno();
        if (fcntl(fd, F_ADD_SEALS, seals) < 0)
                return negative_errno();
        return 0;
}

/* Last of all: afterwards an unprivileged daemon may lack the right to open it. */
static int set_owner(const struct segment *segment, int fd) {
        const struct ownership *owner = &segment->owner;

        if (fchmod(fd, owner->mode) < 0 && (errno != EPERM || fchmod(fd, owner->mode & 0666) < 0))
                return negative_errno();
        if ((owner->uid != geteuid() || owner->gid != getegid()) && fchown(fd, owner->uid, owner->gid) < 0)
                return negative_errno();
        return 0;
}

int memfd_create_segment(struct memfd *memfd, struct segment *segment, bool write, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF, guard = -EBADF, client = -EBADF;
        int r;

        r = create_file(memfd, segment, &fd);
        if (r < 0)
                return r;
        r = size_and_seal(segment, fd);
        if (r < 0)
                return r;
        r = reopen(memfd, fd, true, &guard);
        if (r < 0)
                return r;
        r = reopen(memfd, fd, write, &client);
        if (r < 0)
                return r;
        r = set_owner(segment, fd);
        if (r < 0)
                return r;

        segment->custody.guard_fd = TAKE_FD(guard);
        *ret_fd = TAKE_FD(client);
        return 0;
}

static void forget_shared(struct memfd *memfd, struct segment *segment) {
        for (unsigned i = 0; i < ELEMENTSOF(segment->custody.shared_fd); i++) {
                if (segment->custody.shared_fd[i] < 0)
                        continue;
                segment->custody.shared_fd[i] = close_fd(segment->custody.shared_fd[i]);
                memfd->shared_count--;
        }
}

static bool has_shared(const struct segment *segment) {
        return segment->custody.shared_fd[0] >= 0 || segment->custody.shared_fd[1] >= 0;
}

void memfd_close_shared(struct memfd *memfd, struct segment *segment) {
        if (!has_shared(segment))
                return;
        forget_shared(memfd, segment);
        TAILQ_REMOVE(&memfd->shared, segment, custody.shared_order);
}

bool memfd_shrink(struct memfd *memfd) {
        unsigned target = memfd->shared_count / 2;
        struct segment *segment;

        if (memfd->shared_count == 0)
                return false;
        while (memfd->shared_count > target && (segment = TAILQ_FIRST(&memfd->shared)))
                memfd_close_shared(memfd, segment);
        return true;
}

static void remember_shared(struct memfd *memfd, struct segment *segment, bool write, int fd) {
        if (has_shared(segment))
                TAILQ_REMOVE(&memfd->shared, segment, custody.shared_order);
        TAILQ_INSERT_TAIL(&memfd->shared, segment, custody.shared_order);
        if (fd >= 0) {
                segment->custody.shared_fd[write] = fd;
                memfd->shared_count++;
        }
}

int memfd_open_segment(struct memfd *memfd, struct segment *segment, bool write, bool private, int *ret_fd, bool *ret_close) {
        int fd, r;

        if (!private && segment->custody.shared_fd[write] >= 0) {
                remember_shared(memfd, segment, write, -EBADF);
                *ret_fd = segment->custody.shared_fd[write];
                *ret_close = false;
                return 0;
        }

        r = reopen(memfd, segment->custody.guard_fd, write, &fd);
        if ((r == -EMFILE || r == -ENFILE) && memfd_shrink(memfd))
                r = reopen(memfd, segment->custody.guard_fd, write, &fd);
        if (r < 0)
                return r;

        if (!private && memfd->shared_max > 0) {
                if (memfd->shared_count >= memfd->shared_max)
                        memfd_close_shared(memfd, TAILQ_FIRST(&memfd->shared));
                remember_shared(memfd, segment, write, fd);
        }
        *ret_fd = fd;
        *ret_close = private || memfd->shared_max == 0;
        return 0;
}

uint64_t memfd_refresh(struct segment *segment) {
        struct stat st;

        if (fstat(segment->custody.guard_fd, &st) < 0)
                return 0;
        registry_refresh(segment, &(struct ownership) { st.st_uid, st.st_gid, st.st_mode & 0777 }, (uint64_t) st.st_size);
        return (uint64_t) st.st_blocks * 512;
}

bool memfd_matches(const struct segment *segment, int fd, bool write) {
        int flags = fcntl(fd, F_GETFL);
        struct stat ours, theirs;

        /* Only a memfd or its like has seals. Of anything else not even fstat(2) may be asked: behind it there
         * could be a file system that its owner has made never to answer. */
        if (fcntl(fd, F_GET_SEALS) < 0)
                return false;
        if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) != (write ? O_RDWR : O_RDONLY))
                return false;
        if (fstat(segment->custody.guard_fd, &ours) < 0 || fstat(fd, &theirs) < 0)
                return false;
        return ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}
