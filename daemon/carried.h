/* SPDX-License-Identifier: MIT */
/*
 * What lies in a carrier: one message for each segment, with its descriptors. Written and read here alone.
 *
 * A message says which segment it is about, and which descriptors it has: the guard's; of a file the other one, too; then those of
 * the parts of the control memory that there are. Of two messages about one segment the one with more parts is the later one.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "registry.h"
#include "wire.h"

struct carried {
        uint64_t id;
        uint64_t control; /* a bit for each part, by enum shmd_wire_control_part */
};

/* How many descriptors of a segment's own a message has, before those of its control memory. */
unsigned carried_own_fds(const struct segment *segment);

/* Whether there is anything to carry: the kernel keeps its own segments; what they have beside it does not. */
bool carried_is_needed(const struct segment *segment);

/* Puts a segment in a socket. 0, or -EAGAIN, -EPIPE, -ETOOMANYREFS, -errno. */
int carried_send(int socket_fd, const struct segment *segment);

/* The next message of a socket's queue, which stays in it: unix(7), SO_PEEK_OFF. Bytes, or -errno. */
ssize_t carried_peek(int socket_fd, struct carried *ret_carried, struct wire_fds *fds);

/* Whether a message has the descriptors that one about this segment has. */
bool carried_fits(const struct segment *segment, const struct carried *carried, const struct wire_fds *fds);
