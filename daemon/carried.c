/* SPDX-License-Identifier: MIT */
#include "carried.h"

#include <string.h>
#include <sys/socket.h>

#include "util.h"

/* Descriptors in one message; room for more than there are now. */
#define CARRIED_MAX 4

union carried_fds {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(CARRIED_MAX * sizeof(int))];
};

unsigned carried_own_fds(const struct segment *segment) {
        if (segment->backing == WIRE_BACKING_SYSV)
                return 0;
        return segment->backing == WIRE_BACKING_FILE ? 2 : 1;
}

bool carried_is_needed(const struct segment *segment) {
        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++)
                if (segment->custody.control_fd[i] >= 0)
                        return true;
        return carried_own_fds(segment) > 0;
}

int carried_send(int socket_fd, const struct segment *segment) {
        struct carried carried = { .id = segment->id };
        int fds[CARRIED_MAX] = { segment->custody.guard_fd, segment->custody.shared_fd[SHMD_ACCESS_READ] };
        unsigned count = carried_own_fds(segment);
        union carried_fds control = { 0 };
        struct iovec part = { .iov_base = &carried, .iov_len = sizeof(carried) };
        struct msghdr message = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
        };

        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++)
                if (segment->custody.control_fd[i] >= 0) {
                        carried.control |= 1u << i;
                        fds[count++] = segment->custody.control_fd[i];
                }
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
        return sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? negative_errno() : 0;
}

static void take_fds(struct msghdr *message, struct wire_fds *fds) {
        for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
                if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
                        continue;
                fds->count = (unsigned) ((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(fds->fd, CMSG_DATA(header), fds->count * sizeof(int));
        }
}

ssize_t carried_peek(int socket_fd, struct carried *ret_carried, struct wire_fds *fds) {
        struct iovec part = { .iov_base = ret_carried, .iov_len = sizeof(*ret_carried) };
        union carried_fds control = { 0 };
        struct msghdr message = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        ssize_t n;

        do
                n = recvmsg(socket_fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return negative_errno();
        take_fds(&message, fds);
        /* There was room for them: so this process may have no more of them. */
        return (message.msg_flags & MSG_CTRUNC) && fds->count < CARRIED_MAX ? -EMFILE : n;
}

bool carried_fits(const struct segment *segment, const struct carried *carried, const struct wire_fds *fds) {
        return carried->control < 1u << SHMD_WIRE_CONTROL_PARTS &&
               fds->count == carried_own_fds(segment) + (unsigned) __builtin_popcountll(carried->control);
}
