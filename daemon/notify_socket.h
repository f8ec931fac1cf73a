/* SPDX-License-Identifier: MIT */
/*
 * A way to the service manager that never waits: sd_notify(3) itself waits for room in the manager's queue.
 */
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

struct notify_socket {
        int fd; /* < 0: nobody listens */
        struct sockaddr_un address;
        socklen_t address_size;
};

#define NOTIFY_SOCKET_INIT { .fd = -EBADF }

/* As $NOTIFY_SOCKET says. */
void notify_socket_open(struct notify_socket *notify_socket);
void notify_socket_close(struct notify_socket *notify_socket);

/* fd: goes along; or < 0. 0, -EAGAIN: the manager does not read; -errno. */
int notify_socket_send(const struct notify_socket *notify_socket, const char *message, int fd);
