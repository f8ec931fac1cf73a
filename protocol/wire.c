/* SPDX-License-Identifier: MIT */
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "util.h"

/* Room for the largest SCM_RIGHTS message, aligned as cmsg(3) wants it. */
union control {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * SHMD_DESCRIPTORS_MAX)];
};

void wire_fds_done(struct wire_fds *fds) {
        for (unsigned i = 0; i < fds->count; i++)
                fds->fd[i] = close_fd(fds->fd[i]);
        fds->count = 0;
}

int wire_send(int socket_fd, const struct shmd_wire_header *header, const void *body, size_t body_size,
              const void *tail, size_t tail_size, const int *fds, unsigned fds_count, int flags) {
        struct iovec parts[] = {
                { (void *) header, sizeof(*header) },
                { (void *) body, body_size },
                { (void *) tail, tail_size },
        };
        struct msghdr message = { .msg_iov = parts, .msg_iovlen = tail_size > 0 ? 3 : 2 };
        union control control;
        ssize_t n;

        if (fds_count > SHMD_DESCRIPTORS_MAX)
                return -EINVAL;
        if (fds_count > 0) {
                struct cmsghdr *c;

                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(sizeof(int) * fds_count);
                memset(&control, 0, message.msg_controllen);
                c = CMSG_FIRSTHDR(&message);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * fds_count);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * fds_count);
        }

        do
                n = sendmsg(socket_fd, &message, flags | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? negative_errno() : 0;
}

/* Moves the descriptors out of the control data; there is no limit on how many control messages there may be. */
static void collect_fds(struct msghdr *message, struct wire_fds *fds) {
        for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
                size_t count;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < count; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (fds->count < ELEMENTSOF(fds->fd))
                                fds->fd[fds->count++] = fd;
                        else
                                close_fd(fd);
                }
        }
}

ssize_t wire_receive_lossy(int socket_fd, void *buffer, size_t size, struct wire_fds *fds, int flags, bool *ret_fds_lost) {
        struct iovec part = { buffer, size };
        union control control;
        struct msghdr message = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = fds ? &control : NULL,
                .msg_controllen = fds ? sizeof(control) : 0,
        };
        ssize_t n;

        do
                n = recvmsg(socket_fd, &message, flags | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return negative_errno();

        if (fds)
                collect_fds(&message, fds);
        *ret_fds_lost = message.msg_flags & MSG_CTRUNC;
        return message.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}

ssize_t wire_receive(int socket_fd, void *buffer, size_t size, struct wire_fds *fds, int flags) {
        bool fds_lost = false;
        ssize_t n;

        n = wire_receive_lossy(socket_fd, buffer, size, fds, flags, &fds_lost);
        return fds_lost ? -EBADMSG : n;
}

bool wire_is_zero(const void *data, size_t size) {
        const unsigned char *bytes = data;

        for (size_t i = 0; i < size; i++)
                if (bytes[i] != 0)
                        return false;
        return true;
}
