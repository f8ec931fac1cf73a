/* SPDX-License-Identifier: MIT */
#include "generation.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "protocol.h"
#include "util.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

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

int generation_init(struct generation *generation) {
        _cleanup_close_ int fd = -EBADF;
        void *address;

        *generation = (struct generation) { .fd = -EBADF };
        fd = memfd_create("shmd-generations", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || ftruncate(fd, PAGE_BYTES) < 0)
                return negative_errno();
        address = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (address == MAP_FAILED)
                return negative_errno();
        generation->slots = address;
        /* Only the mapping that exists can write from now on. */
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 || fchmod(fd, 0444) < 0)
                return negative_errno();
        return open_read_only(fd, &generation->fd);
}

void generation_done(struct generation *generation) {
        /* Nobody shall go on answering from what he remembers of a daemon that has gone. */
        for (uint64_t i = 0; generation->slots && i < SHMD_GENERATION_SLOTS; i++)
                generation_advance(generation, i);
        if (generation->slots)
                (void) munmap((void *) generation->slots, PAGE_BYTES);
        generation->slots = NULL;
        generation->fd = close_fd(generation->fd);
}

uint32_t generation_get(const struct generation *generation, uint64_t id) {
        return atomic_load_explicit(&generation->slots[id % SHMD_GENERATION_SLOTS], memory_order_acquire);
}

void generation_advance(struct generation *generation, uint64_t id) {
        atomic_fetch_add_explicit(&generation->slots[id % SHMD_GENERATION_SLOTS], 1, memory_order_acq_rel);
}
