/* SPDX-License-Identifier: MIT */
#include "state_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "util.h"

/* Address space that a log may grow into, at least. Bytes. */
#define LOG_SPACE (sizeof(void *) > 4 ? UINT64_C(1) << 30 : UINT64_C(1) << 26)

void state_file_done(struct state_file *file) {
        if (file->mapped > 0)
                (void) munmap(file->log.base, file->mapped);
        close_fd(file->fd);
        *file = (struct state_file) STATE_FILE_INIT;
}

static int map(int fd, size_t size, struct state_file *ret_file) {
        size_t space = MAX((size_t) LOG_SPACE, size * 2);
        void *base = mmap(NULL, space, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

        if (base == MAP_FAILED)
                return negative_errno();
        *ret_file = (struct state_file) { .log = { .base = base, .capacity = size }, .fd = fd, .mapped = space };
        return 0;
}

/* A signal ends it early: fallocate(2). */
static int allocate(int fd, size_t size) {
        int r;

        do
                r = fallocate(fd, 0, 0, (off_t) size) < 0 ? negative_errno() : 0;
        while (r == -EINTR);
        return r;
}

static int grow(struct state_file *file, size_t bytes) {
        size_t size = file->log.capacity + MAX(bytes, (size_t) STATE_FILE_STEP);
        int r;

        if (size > file->mapped)
                return -ENOSPC;
        r = allocate(file->fd, size);
        if (r == 0)
                file->log.capacity = size;
        return r;
}

int state_file_make_room(struct state_file *file, size_t bytes) {
        return state_room(&file->log) >= bytes ? 0 : grow(file, bytes);
}

int state_file_new(uint64_t epoch, size_t bytes, struct state_file *ret_file) {
        _cleanup_close_ int fd = memfd_create("shmd-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        size_t size = MAX(bytes, (size_t) STATE_FILE_STEP);
        int r;

        if (fd < 0 || fchmod(fd, 0600) < 0)
                return negative_errno();
        r = allocate(fd, size);
        if (r < 0)
                return r;
        r = map(fd, size, ret_file);
        if (r < 0)
                return r;
        (void) TAKE_FD(fd);
        state_begin(&ret_file->log, ret_file->log.base, size, epoch);
        return 0;
}
