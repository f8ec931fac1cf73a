/* SPDX-License-Identifier: MIT */
/*
 * What the kernel says of the process at the other end of a socket, and what /proc says of it.
 *
 * The credentials are those of the moment of connect(2): unix(7), SO_PEERCRED, SO_PEERGROUPS.
 */
#pragma once

#include "policy.h"

/*
 * 0, SHMD_DENIED if the kernel can't tell us who it is, or -errno. The groups are the caller's, to be freed with credentials_done().
 *
 * In a user namespace that has not all users the kernel shows those it lacks, whoever they are, as one number
 * (user_namespaces(7), overflowuid), which may also be a user of its own. Nobody is served under that number there: he would own
 * what belongs to another. Supplementary groups that are lacking grant nothing.
 */
int peer_credentials(int socket_fd, struct credentials *ret_credentials);
void credentials_done(struct credentials *credentials);

/* When a process started, clock ticks since boot: proc(5), stat, field 22; zero if that can't be known. */
uint64_t peer_start_time(pid_t pid);

/*
 * The process itself or the nearest of its parents that has the given number in any namespace of processes (pid_namespaces(7)), and started
 * then. 0: none has.
 */
pid_t peer_find_ancestor(pid_t pid, pid_t number, uint64_t started);

/* Where to write what is known of a process. */
struct peer_description {
        char *command; /* comm */
        char *unit;    /* of systemd */
        char *executable;
        uint64_t *started; /* clock ticks since boot: proc(5), stat, field 22 */
        size_t command_size, unit_size, executable_size;
};

/*
 * Describes the process that connected; empty strings and zero where that can't be
 * known, as when it has died: a reused process id is recognised by SO_PEERPIDFD where the kernel has it (6.5).
 */
void peer_describe(int socket_fd, pid_t pid, const struct peer_description *description);
