/* SPDX-License-Identifier: MIT */
#include "memfd.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "status.h"
#include "sysv.h"
#include "util.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
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

int memfd_reopen_read_only(const struct memfd *memfd, int fd, int *ret_fd) {
        return reopen(memfd, fd, false, ret_fd);
}

int memfd_create_sealed(const struct memfd *memfd, const char *name, uint64_t size, int *ret_fd) {
        _cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (memfd->noexec_seal ? MFD_NOEXEC_SEAL : 0));

        if (fd < 0)
                return negative_errno();
        if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t) size) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return negative_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* POSIX has execute bits in a mode; segments of shmd's own can't have them. */
static unsigned create_flags(const struct memfd *memfd, const struct segment *segment) {
        unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

        if (segment->page_shift != 0)
                flags |= MFD_HUGETLB | (unsigned) segment->page_shift << MFD_HUGE_SHIFT;
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
        if (fd < 0 && segment->page_shift != 0 && (errno == EINVAL || errno == ENODEV || errno == ENOSYS))
                return SHMD_NO_HUGE_PAGES; /* the machine has none of that size */
        if (fd < 0)
                return negative_errno();
        *ret_fd = fd;
        return 0;
}

/*
 * Huge pages are reserved by mapping them, and stay reserved for the file when the mapping has gone
 * (Documentation/mm/hugetlbfs_reserv.rst): so nobody gets SIGBUS for want of one later.
 */
static int reserve_huge_pages(int fd, uint64_t size, unsigned page_shift) {
        uint64_t page = UINT64_C(1) << page_shift;
        void *address;

        if (page_shift == 0)
                return 0;
        size = (size + page - 1) & ~(page - 1);
        address = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (address == MAP_FAILED)
                return errno == ENOMEM ? SHMD_NO_HUGE_PAGES : negative_errno();
        (void) munmap(address, size);
        return 0;
}

/*
 * Nobody resizes a segment of ours: even a resizable one has its maximum from the beginning. It may be sealed further,
 * so that it can be frozen. A POSIX segment is its users' own to size.
 */
static int size_and_seal(const struct segment *segment, int fd) {
        if (segment->posix)
                return 0;
        if (ftruncate(fd, (off_t) segment->maximum) < 0)
                return negative_errno();
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
                return negative_errno();
        return reserve_huge_pages(fd, segment->maximum, segment->page_shift);
}

uint64_t memfd_huge_pages_free(unsigned page_shift) {
        static const char *const files[] = { "free_hugepages", "resv_hugepages" };
        unsigned long long count[] = { 0, 0 };

        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                char path[128];
                FILE *file;

                (void) snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
                                (1ull << page_shift) / 1024, files[i]);
                file = fopen(path, "re");
                if (!file)
                        continue;
                if (fscanf(file, "%llu", &count[i]) != 1)
                        count[i] = 0;
                (void) fclose(file);
        }
        return count[0] > count[1] ? count[0] - count[1] : 0;
}

/*
 * Last of all: afterwards an unprivileged daemon may lack the right to open it. Nor may it give the memory to another
 * user, root for one: it then stays the daemon's user's, and is charged to him: registry_refresh().
 */
static int set_owner(const struct segment *segment, int fd) {
        const struct ownership *owner = &segment->owner;

        if (fchmod(fd, owner->mode) < 0 && (errno != EPERM || fchmod(fd, owner->mode & 0666) < 0))
                return negative_errno();
        if ((owner->uid != geteuid() || owner->gid != getegid()) &&
            fchown(fd, owner->uid, owner->gid) < 0 && errno != EPERM)
                return negative_errno();
        return 0;
}

int memfd_create_segment(struct memfd *memfd, struct segment *segment, bool write, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF, guard = -EBADF, client = -EBADF;
        int r;

        r = create_file(memfd, segment, &fd);
        if (r != 0)
                return r;
        r = size_and_seal(segment, fd);
        if (r != 0)
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

/* --- files that clients bring --- */

/* statx(2) with AT_STATX_DONT_SYNC asks no remote server, and no file system in user space. */
static int stat_quickly(int fd, struct statx *ret) {
        return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_BTIME, ret) < 0 ? negative_errno() : 0;
}

/* SysV segments of different IPC namespaces may have the same number on the same device, but were not born in the same nanosecond. */
static bool is_same_file(const struct statx *a, const struct statx *b) {
        return a->stx_dev_major == b->stx_dev_major && a->stx_dev_minor == b->stx_dev_minor && a->stx_ino == b->stx_ino &&
               a->stx_btime.tv_sec == b->stx_btime.tv_sec && a->stx_btime.tv_nsec == b->stx_btime.tv_nsec;
}

static bool is_open_for(int fd, int access) {
        int flags = fcntl(fd, F_GETFL);

        return flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) == access;
}

int memfd_check_files(const int *files, bool write, uint64_t size, uint64_t *ret_size) {
        struct statx first, second;

        if (!is_open_for(files[0], write ? O_RDWR : O_RDONLY) || !is_open_for(files[1], O_RDONLY))
                return SHMD_INVALID;
        if (stat_quickly(files[0], &first) < 0 || stat_quickly(files[1], &second) < 0 || !is_same_file(&first, &second))
                return SHMD_INVALID;
        if (!S_ISREG(first.stx_mode) || first.stx_size == 0 || first.stx_size < size)
                return SHMD_INVALID;
        *ret_size = size ? size : first.stx_size;
        return 0;
}

int memfd_adopt_file(struct segment *segment, int *files, bool write, int *ret_fd) {
        struct custody *custody = &segment->custody;

        custody->guard_fd = TAKE_FD(files[0]);
        custody->shared_fd[SHMD_ACCESS_READ] = TAKE_FD(files[1]);
        *ret_fd = write ? custody->guard_fd : custody->shared_fd[SHMD_ACCESS_READ];
        return 0;
}

/* A file has just the two descriptions that its creator brought. */
static int open_file(const struct segment *segment, bool write, bool private, int *ret_fd, bool *ret_close) {
        int fd = write ? segment->custody.guard_fd : segment->custody.shared_fd[SHMD_ACCESS_READ];

        if (private)
                return SHMD_UNSUPPORTED;
        if (!is_open_for(fd, write ? O_RDWR : O_RDONLY))
                return SHMD_DENIED;
        *ret_fd = fd;
        *ret_close = false;
        return 0;
}

static uint64_t refresh_file(struct segment *segment) {
        struct statx st;

        if (stat_quickly(segment->custody.guard_fd, &st) < 0)
                return 0;
        segment->device = makedev(st.stx_dev_major, st.stx_dev_minor);
        segment->inode = st.stx_ino;
        segment->truncated = st.stx_size < segment->size;
        return MIN((uint64_t) st.stx_blocks * 512, segment->size);
}

/* --- shared descriptions --- */

void memfd_pin(struct memfd *memfd, bool pinned) {
        memfd->pinned = pinned;
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
        if (!has_shared(segment) || segment->backing == WIRE_BACKING_FILE)
                return;
        forget_shared(memfd, segment);
        TAILQ_REMOVE(&memfd->shared, segment, custody.shared_order);
}

bool memfd_shrink(struct memfd *memfd) {
        unsigned target = memfd->shared_count / 2;
        struct segment *segment;

        if (memfd->shared_count == 0 || memfd->pinned)
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

/* Whether one more shared description may be kept; makes room if it can. */
static bool may_share(struct memfd *memfd) {
        if (memfd->shared_count < memfd->shared_max)
                return true;
        if (memfd->shared_max == 0 || memfd->pinned)
                return false;
        memfd_close_shared(memfd, TAILQ_FIRST(&memfd->shared));
        return true;
}

void memfd_share(struct memfd *memfd, struct segment *segment, bool write, int fd) {
        if (may_share(memfd))
                remember_shared(memfd, segment, write, fd);
        else
                close_fd(fd);
}

int memfd_open_segment(struct memfd *memfd, struct segment *segment, bool write, bool private, int *ret_fd, bool *ret_close) {
        int fd, r;

        if (segment->backing == WIRE_BACKING_FILE)
                return open_file(segment, write, private, ret_fd, ret_close);
        if (!private && segment->custody.shared_fd[write] >= 0) {
                remember_shared(memfd, segment, write, -EBADF);
                *ret_fd = segment->custody.shared_fd[write];
                *ret_close = false;
                return 0;
        }

        do
                r = reopen(memfd, segment->custody.guard_fd, write, &fd);
        while ((r == -EMFILE || r == -ENFILE) && memfd_shrink(memfd));
        if (r < 0)
                return r;

        *ret_fd = fd;
        *ret_close = private || !may_share(memfd);
        if (!*ret_close)
                remember_shared(memfd, segment, write, fd);
        return 0;
}

/* A larger one takes the kernel long enough to free that the loop should not wait for it. Bytes. */
#define CLOSE_ELSEWHERE_BYTES (UINT64_C(128) << 10)

void memfd_close_segment(struct memfd *memfd, struct segment *segment, struct worker *worker, struct worker *discarder) {
        int guard = TAKE_FD(segment->custody.guard_fd);

        memfd_close_shared(memfd, segment);
        if (segment->backing == WIRE_BACKING_FILE) {
                worker_close(discarder, segment->owner.uid, guard);
                worker_close(discarder, segment->owner.uid, TAKE_FD(segment->custody.shared_fd[SHMD_ACCESS_READ]));
        } else if (guard >= 0 && segment->maximum >= CLOSE_ELSEWHERE_BYTES)
                worker_close(worker, segment->owner.uid, guard);
        else
                close_fd(guard);
}

/* --- seals and holes --- */

int memfd_freeze(int fd) {
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) == 0)
                return 0;
        switch (errno) {
        case EBUSY:
                return SHMD_BUSY;
        case EPERM:
                return SHMD_SEALED;
        case EINVAL:
                return SHMD_UNSUPPORTED;
        default:
                return negative_errno();
        }
}

int memfd_may_seal_future_write(const struct segment *segment) {
        int seals = fcntl(segment->custody.guard_fd, F_GET_SEALS);

        if (seals < 0)
                return negative_errno();
        return (seals & F_SEAL_SEAL) && !(seals & F_SEAL_FUTURE_WRITE) ? SHMD_SEALED : 0;
}

int memfd_seal_future_write(const struct segment *segment) {
        int seals = fcntl(segment->custody.guard_fd, F_GET_SEALS);

        /* To seal what is sealed already is refused, too, once nothing more may be sealed. */
        if (seals >= 0 && (seals & F_SEAL_FUTURE_WRITE))
                return 0;
        if (fcntl(segment->custody.guard_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0)
                return 0;
        return errno == EPERM ? SHMD_SEALED : negative_errno();
}

int memfd_resize(int fd, uint64_t size, uint64_t maximum, unsigned page_shift) {
        if (size < maximum && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) size, (off_t) (maximum - size)) < 0)
                return errno == EPERM ? SHMD_SEALED : negative_errno();
        return reserve_huge_pages(fd, size, page_shift);
}

int memfd_empty(int fd, uint64_t size, bool posix) {
        if (posix && ftruncate(fd, 0) == 0)
                return 0;
        if (size > 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t) size) < 0)
                return negative_errno();
        return posix ? -EPERM : 0;
}

uint64_t memfd_refresh(struct segment *segment) {
        struct stat st;

        if (segment->backing == WIRE_BACKING_FILE)
                return refresh_file(segment);
        if (segment->backing == WIRE_BACKING_SYSV)
                return sysv_refresh(segment);
        if (fstat(segment->custody.guard_fd, &st) < 0)
                return 0;
        segment->device = st.st_dev;
        segment->inode = st.st_ino;
        registry_refresh(segment, &(struct ownership) { st.st_uid, st.st_gid, st.st_mode & 0777 }, (uint64_t) st.st_size);
        return (uint64_t) st.st_blocks * 512;
}

bool memfd_matches(const struct segment *segment, int fd, bool write) {
        struct statx ours, theirs;

        return is_open_for(fd, write ? O_RDWR : O_RDONLY) && stat_quickly(segment->custody.guard_fd, &ours) == 0 &&
               stat_quickly(fd, &theirs) == 0 && is_same_file(&ours, &theirs);
}
