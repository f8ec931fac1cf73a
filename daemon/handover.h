/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that pass between the daemon and the service manager: sockets in, and what shall outlive the daemon out
 * and in again. With notify.c the only place that knows libsystemd.
 *
 * Names of stored descriptors: state-EPOCH, carrier-NUMBER, generation (sd_pid_notify_with_fds(3), FDNAME=).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A descriptor that an earlier daemon has left. */
struct kept_fd {
        int fd;
        uint64_t number; /* of its name */
};

struct kept_list {
        struct kept_fd *item;
        unsigned count;
};

struct handover {
        int listen_fd;     /* -1: none */
        int lock_fd;       /* from a daemon that was replaced, or -1 */
        int generation_fd; /* or -1 */
        int replaced_fd;   /* a connection to the daemon that was replaced, until it knows; or -1 */
        struct kept_list states, carriers;
};

#define HANDOVER_INIT { .listen_fd = -1, .lock_fd = -1, .generation_fd = -1, .replaced_fd = -1 }

/*
 * Takes what the service manager passed, and takes it out of the environment. 0, -ENOMEM, or -EINVAL if a socket is
 * no listening SOCK_SEQPACKET Unix socket. What has a name that is not known here is left alone.
 */
int handover_take(struct handover *handover);

/* Adds one, by name; takes fd. False if the name is not one of ours: then it is closed. -ENOMEM */
int handover_add(struct handover *handover, const char *name, int fd);

/* Closes what nobody has taken. */
void handover_done(struct handover *handover);

/* Whether there is a service manager to keep something. */
bool handover_is_possible(void);

/* Whether the service manager keeps what it has when the daemon ends and is not restarted: FileDescriptorStorePreserve=yes. */
bool handover_outlives_end(void);

/* Does not wait: -EAGAIN, or any other failure, and it was not told. */
int handover_try_to_keep(const char *name, int fd);
/* Each may wait for the service manager, and so is not for the event loop, but at its beginning and end. 0 or -errno. */
int handover_keep(const char *name, int fd);
int handover_unkeep(const char *name);
/* Waits until the manager has done all that it was told. 0, -ETIMEDOUT, -errno. */
int handover_wait(uint64_t timeout_usec);
