/* SPDX-License-Identifier: MIT */
#include "generation.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "protocol.h"
#include "util.h"

#define PAGE_BYTES (SHMD_GENERATION_SLOTS * sizeof(uint32_t))

static int open_read_only(int fd, int *ret_fd) {
        char path[64];
        int new_fd;

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        new_fd = open(path, O_RDONLY | O_CLOEXEC);
        if (new_fd < 0)
                return negative_errno();
        *ret_fd = new_fd;
        return 0;
}

static int make_page(int *ret_fd) {
        _cleanup_close_ int fd = memfd_create("shmd-generations", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0 || ftruncate(fd, PAGE_BYTES) < 0 || fchmod(fd, 0444) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return negative_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int use_page(struct generation *generation, int fd) {
        void *address = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (address == MAP_FAILED)
                return negative_errno();
        generation->slots = address;
        return open_read_only(fd, &generation->fd);
}

static bool is_page(int fd) {
        struct stat st;

        return fd >= 0 && fstat(fd, &st) == 0 && st.st_size == (off_t) PAGE_BYTES && (fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK);
}

static void advance_all(struct generation *generation) {
        for (uint64_t i = 0; i < SHMD_GENERATION_SLOTS; i++)
                generation_advance(generation, i);
}

int generation_init(struct generation *generation, int kept_fd) {
        int r;

        *generation = (struct generation) { .fd = -EBADF, .keep_fd = -EBADF };
        if (is_page(kept_fd)) {
                generation->keep_fd = fcntl(kept_fd, F_DUPFD_CLOEXEC, 3);
                r = use_page(generation, kept_fd);
                if (r == 0)
                        advance_all(generation);
                return r;
        }
        r = make_page(&generation->keep_fd);
        return r < 0 ? r : use_page(generation, generation->keep_fd);
}

void generation_done(struct generation *generation) {
        /* Nobody shall go on answering from what he remembers of a daemon that has gone. */
        if (generation->slots)
                advance_all(generation);
        if (generation->slots)
                (void) munmap((void *) generation->slots, PAGE_BYTES);
        generation->slots = NULL;
        generation->fd = close_fd(generation->fd);
        generation->keep_fd = close_fd(generation->keep_fd);
}

uint32_t generation_get(const struct generation *generation, uint64_t id) {
        return atomic_load_explicit(&generation->slots[id % SHMD_GENERATION_SLOTS], memory_order_acquire);
}

void generation_advance(struct generation *generation, uint64_t id) {
        atomic_fetch_add_explicit(&generation->slots[id % SHMD_GENERATION_SLOTS], 1, memory_order_acq_rel);
}
