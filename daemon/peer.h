/* SPDX-License-Identifier: MIT */
/*
 * What the kernel says of the process at the other end of a socket, and what /proc says of it.
 *
 * The credentials are those of the moment of connect(2): unix(7), SO_PEERCRED, SO_PEERGROUPS.
 */
#pragma once

#include "policy.h"

/* 0 or -errno. The groups are the caller's, to be freed with credentials_done(). */
int peer_credentials(int socket_fd, struct credentials *ret_credentials);
void credentials_done(struct credentials *credentials);

/*
 * The command (comm) and the systemd unit of the process that connected; empty strings where they can't be
 * known, as when it has died: a reused process id is recognised by SO_PEERPIDFD where the kernel has it (6.5).
 */
void peer_describe(int socket_fd, pid_t pid, char *command, size_t command_size, char *unit, size_t unit_size);
