/* SPDX-License-Identifier: MIT */
#include "notify_socket.h"

#include <stddef.h>
#include <string.h>

#include "util.h"

/* As sd_notify(3) has it: a path, or with @ a name in the abstract namespace. */
void notify_socket_open(struct notify_socket *notify_socket) {
        const char *path = getenv("NOTIFY_SOCKET");
        size_t length = path ? strlen(path) : 0;
        struct sockaddr_un *address = &notify_socket->address;

        *notify_socket = (struct notify_socket) NOTIFY_SOCKET_INIT;
        address->sun_family = AF_UNIX;
        if (length < 2 || length >= sizeof(address->sun_path) || (path[0] != '/' && path[0] != '@'))
                return;
        memcpy(address->sun_path, path, length);
        if (path[0] == '@')
                address->sun_path[0] = '\0';
        notify_socket->address_size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + length);
        notify_socket->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

void notify_socket_close(struct notify_socket *notify_socket) {
        notify_socket->fd = close_fd(notify_socket->fd);
}

int notify_socket_send(const struct notify_socket *notify_socket, const char *message, int fd) {
        struct iovec part = { .iov_base = (char *) message, .iov_len = strlen(message) };
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
        struct msghdr header = {
                .msg_name = (struct sockaddr *) &notify_socket->address,
                .msg_namelen = notify_socket->address_size,
                .msg_iov = &part,
                .msg_iovlen = 1,
        };

        if (notify_socket->fd < 0)
                return -ENOTCONN;
        if (fd >= 0) {
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
                header.msg_control = &control;
                header.msg_controllen = sizeof(control);
        }
        return sendmsg(notify_socket->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? negative_errno() : 0;
}
