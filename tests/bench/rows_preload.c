/* SPDX-License-Identifier: MIT */
/* The interposer's shm_open(3), called as a program calls its own; and what the kernel takes to open again what is open. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "rows.h"

#define EXISTING_NAME "/bench-preload-existing"
#define HELD_NAME "/bench-preload-held" /* by nobody else in this process: what is held is opened differently */
#define CREATED_NAME "/bench-preload-created"

static int (*preload_open)(const char *name, int oflag, mode_t mode);
static int (*preload_unlink)(const char *name);
static int held_fd = -EBADF;

static int refuse(struct series *series, const char *call) {
        return series_refuse(series, -errno, "%s: %s", call, strerror(errno));
}

/* Not preloaded here, where the other rows have the kernel's: but the very same functions. */
static int load(struct series *series) {
        const char *path = getenv("SHMD_PRELOAD_LIBRARY");
        void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;

        if (!library)
                return series_refuse(series, 1, "no interposer: %s", path ? dlerror() : "$SHMD_PRELOAD_LIBRARY is not set");
        preload_open = (int (*)(const char *, int, mode_t)) dlsym(library, "shm_open");
        preload_unlink = (int (*)(const char *)) dlsym(library, "shm_unlink");
        return preload_open && preload_unlink ? 0 : series_refuse(series, -ENOENT, "%s", dlerror());
}

static int make(struct series *series, const char *name) {
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = load(series);
        if (r != 0)
                return r;
        fd = preload_open(name, O_RDWR | O_CREAT, 0600);
        if (fd < 0 || ftruncate(fd, SEGMENT_SIZE) < 0)
                return refuse(series, "shm_open or ftruncate");
        return 0;
}

int preload_open_setup(struct series *series) {
        return make(series, EXISTING_NAME);
}

int preload_open_run(struct series *series) {
        _cleanup_close_ int fd = preload_open(EXISTING_NAME, O_RDWR, 0);
        struct stat stat;

        return fd < 0 || fstat(fd, &stat) < 0 || map_page(fd, false) < 0 ? refuse(series, "shm_open, fstat or mmap") : 0;
}

void preload_open_teardown(struct series *series) {
        (void) series;
        if (preload_unlink)
                (void) preload_unlink(EXISTING_NAME);
}

void preload_held_teardown(struct series *series) {
        (void) series;
        if (preload_unlink)
                (void) preload_unlink(HELD_NAME);
        held_fd = close_fd(held_fd);
}

int preload_create_setup(struct series *series) {
        return load(series);
}

int preload_create_run(struct series *series) {
        _cleanup_close_ int fd = preload_open(CREATED_NAME, O_RDWR | O_CREAT | O_EXCL, 0600);

        if (fd < 0 || ftruncate(fd, SEGMENT_SIZE) < 0 || map_page(fd, true) < 0)
                return refuse(series, "shm_open, ftruncate or mmap");
        fd = close_fd(fd);
        return preload_unlink(CREATED_NAME) < 0 ? refuse(series, "shm_unlink") : 0;
}

int preload_held_setup(struct series *series) {
        int r;

        r = held_fd >= 0 ? 0 : make(series, HELD_NAME);
        if (r != 0)
                return r;
        if (held_fd < 0)
                held_fd = preload_open(HELD_NAME, O_RDWR, 0);
        return held_fd < 0 ? refuse(series, "shm_open") : 0;
}

int preload_held_run(struct series *series) {
        _cleanup_close_ int fd = preload_open(HELD_NAME, O_RDWR, 0);

        return fd < 0 ? refuse(series, "shm_open") : 0;
}

/* An open file description of its own, with an offset of its own: a dup(2) is no open. */
int reopen_held_run(struct series *series) {
        char path[32];
        _cleanup_close_ int fd = -EBADF;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", held_fd);
        fd = open(path, O_RDWR | O_CLOEXEC);
        return fd < 0 ? refuse(series, "open of /proc/self/fd") : 0;
}
