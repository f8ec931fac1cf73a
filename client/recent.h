/* SPDX-License-Identifier: MIT */
/*
 * What the program has opened lately by POSIX names, as it wrote them: it is opened again without the daemon, by way of the program's
 * own descriptor.
 *
 * That is right as long as the daemon's page of generations says that the name stands for it still, the kernel that the caller has
 * the right, and the number of the file that the descriptor is what it was. A dup would do for mmap(2), but share its offset.
 *
 * Owns the page, as it is mapped; the descriptors are the program's. In memory that a fork wipes, and zeros are nothing: the page is
 * not in a forked child either. Used by one call at a time.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

/* More are opened by the daemon. */
#define RECENT_MAX 16

struct recent {
        uint64_t id;
        uint32_t generation;
        int fd, access; /* O_RDONLY, O_RDWR */
        dev_t device;
        ino_t inode;
        char path[sizeof("/proc/self/fd/") + 10];
        char name[SHMD_NAME_MAX + 1]; /* the program's, "": none */
};

struct recents {
        const atomic_uint *generations; /* NULL: there is no page, and nothing is recent */
        uint32_t slots;
        unsigned next; /* to be overwritten */
        struct recent items[RECENT_MAX];
};

/* A connection begins. Takes the descriptor of its daemon's page. */
void recents_begin(struct recents *recents, int take_fd, uint32_t slots);
void recents_forget(struct recents *recents);

void recents_note(struct recents *recents, const char *name, int access, const struct shmd_wire_opened *opened, int fd);

/* What the page says that the name still stands for, or NULL. */
const struct recent *recents_find(struct recents *recents, const char *name, int access);
/* A descriptor with an offset of its own; -ENOENT: the daemon has to be asked. status_flags: O_NONBLOCK, O_APPEND. */
int recent_open(const struct recent *recent, int status_flags);
