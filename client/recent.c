/* SPDX-License-Identifier: MIT */
#include "recent.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

void recents_begin(struct recents *recents, int take_fd, uint32_t slots) {
        struct generations page = { .fd = take_fd, .count = slots };

        if (slots == 0 || slots > GENERATION_SLOTS_MAX) {
                close_fd(take_fd);
                return;
        }
        recents->generations = generations_map(&page);
        recents->slots = slots;
        if (recents->generations)
                (void) madvise((void *) recents->generations, slots * sizeof(*recents->generations), MADV_DONTFORK);
}

void recents_forget(struct recents *recents) {
        if (recents->generations)
                (void) munmap((void *) recents->generations, recents->slots * sizeof(*recents->generations));
        recents->generations = NULL;
        for (size_t i = 0; i < RECENT_MAX; i++)
                recents->items[i].name[0] = '\0';
}

static struct recent *find(struct recents *recents, const char *name, int access) {
        if (!recents->generations || name[0] == '\0')
                return NULL;
        for (size_t i = 0; i < RECENT_MAX; i++)
                if (recents->items[i].access == access && strcmp(recents->items[i].name, name) == 0)
                        return &recents->items[i];
        return NULL;
}

static bool is_current(const struct recents *recents, const struct recent *recent) {
        return atomic_load_explicit(&recents->generations[recent->id % recents->slots], memory_order_acquire) == recent->generation;
}

/* fstat(2) itself: the C library may ask by an empty path instead, which takes longer. The structures are the same on these. */
static int fstat_directly(int fd, struct stat *ret_st) {
#if defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))
        return (int) syscall(SYS_fstat, fd, ret_st);
#else
        return fstat(fd, ret_st);
#endif
}

static bool is_of(int fd, const struct recent *recent) {
        struct stat st;

        return fstat_directly(fd, &st) == 0 && st.st_dev == recent->device && st.st_ino == recent->inode;
}

/* What has stayed open till now will rather do so than what has just been opened. */
void recents_note(struct recents *recents, const char *name, int access, const struct shmd_wire_opened *opened, int fd) {
        struct recent *recent;
        struct stat st;

        if (!recents->generations || name[0] == '\0' || strlen(name) > SHMD_NAME_MAX)
                return;
        recent = find(recents, name, access);
        if (recent && recent->id == opened->id && is_of(recent->fd, recent)) {
                recent->generation = opened->generation;
                return;
        }
        if (!recent)
                recent = &recents->items[recents->next++ % RECENT_MAX];
        recent->name[0] = '\0';
        if (fstat(fd, &st) < 0)
                return;
        *recent = (struct recent) {
                .id = opened->id,
                .generation = opened->generation,
                .fd = fd,
                .access = access,
                .device = st.st_dev,
                .inode = st.st_ino,
        };
        (void) snprintf(recent->path, sizeof(recent->path), "/proc/self/fd/%d", fd);
        memcpy(recent->name, name, strlen(name));
}

const struct recent *recents_find(struct recents *recents, const char *name, int access) {
        const struct recent *recent = find(recents, name, access);

        return recent && is_current(recents, recent) ? recent : NULL;
}

static int open_anew(const struct recent *recent, int flags) {
        return open(recent->path, recent->access | O_CLOEXEC | flags);
}

/*
 * Other threads may make something else of the number meanwhile, which opening could do harm to, or wait for (FIFOs, leases): only what
 * has seals, memory, is opened, without waiting; and what came of that is looked at.
 */
static int open_beside_others(const struct recent *recent, int status_flags) {
        _cleanup_close_ int fd = -EBADF;

        if (fcntl(recent->fd, F_GET_SEALS) < 0)
                return -ENOENT;
        fd = open_anew(recent, status_flags | O_NONBLOCK);
        if (fd < 0 || !is_of(fd, recent) || (!(status_flags & O_NONBLOCK) && fcntl(fd, F_SETFL, status_flags) < 0))
                return -ENOENT;
        return TAKE_FD(fd);
}

/* While it is open as it is, nobody can have a lease on it that its opening would have to wait for: fcntl(2), F_SETLEASE. */
static int open_alone(const struct recent *recent, int status_flags) {
        int fd = is_of(recent->fd, recent) ? open_anew(recent, status_flags) : -1;

        return fd < 0 ? -ENOENT : fd;
}

int recent_open(const struct recent *recent, int status_flags) {
        return SINGLE_THREADED ? open_alone(recent, status_flags) : open_beside_others(recent, status_flags);
}
