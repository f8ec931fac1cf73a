/* SPDX-License-Identifier: MIT */
/*
 * Framing: one message is one SEQPACKET datagram with its descriptors.
 *
 * Owns the descriptors of a received message until they are taken out of it.
 * A message whose bytes were cut short is never delivered; one whose descriptors were is to those alone who ask for it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

struct wire_fds {
        int fd[SHMD_DESCRIPTORS_MAX];
        unsigned count;
};

#define WIRE_FDS_INIT { .count = 0 }

/* Closes what was not taken. */
void wire_fds_done(struct wire_fds *fds);

/*
 * Sends header, structure and tail as one datagram, with descriptors (borrowed).
 * Parts may be empty. Flags as for sendmsg(2); MSG_NOSIGNAL is added.
 *
 * 0; -EAGAIN where the socket is non-blocking and full; -EMSGSIZE; -EPIPE or
 * -ECONNRESET if the peer has gone; -ETOOMANYREFS, -ENOBUFS, -ENOMEM if the kernel has
 * no room. Interrupted calls are repeated.
 */
int wire_send(int socket_fd, const struct shmd_wire_header *header, const void *body, size_t body_size,
              const void *tail, size_t tail_size, const int *fds, unsigned fds_count, int flags);

/*
 * Receives one datagram into a buffer of size bytes; its descriptors, close-on-exec, go
 * into fds, which the caller owns afterwards whatever the outcome, and must be
 * empty before. If fds is NULL none are taken, the kernel drops them.
 *
 * The number of bytes, 0 at the end of the stream; -EAGAIN if non-blocking and empty;
 * -EMSGSIZE if the datagram was longer than the buffer; -EBADMSG if descriptors were lost
 * (MSG_CTRUNC); or another negative errno value. Interrupted calls are repeated.
 */
ssize_t wire_receive(int socket_fd, void *buffer, size_t size, struct wire_fds *fds, int flags);

/* The same, but where descriptors were lost the message is delivered with those that came, and *ret_fds_lost is true. */
ssize_t wire_receive_lossy(int socket_fd, void *buffer, size_t size, struct wire_fds *fds, int flags, bool *ret_fds_lost);

/* Whether all of a region is zero: padding must be. */
bool wire_is_zero(const void *data, size_t size);
