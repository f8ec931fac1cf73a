/* SPDX-License-Identifier: MIT */
/* The client of the bare broker: blocking, and as bare. */
#include "broker.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "crowd.h"
#include "rows.h"

struct broker_row {
        int socket_fd;
        struct sockaddr_un address;
};

static int broker_connect(const struct broker_row *row) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        if (fd < 0 || connect(fd, (const struct sockaddr *) &row->address, sizeof(row->address)) < 0)
                return negative_errno();
        return TAKE_FD(fd);
}

static int broker_tell(int socket_fd, const struct broker_message *request) {
        struct iovec part = { (void *) request, sizeof(*request) };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

        return sendmsg(socket_fd, &message, MSG_NOSIGNAL) < 0 ? negative_errno() : 0;
}

/* One round trip; the descriptor of the answer, or -EBADF where the answer has none. */
static int broker_ask(int socket_fd, const struct broker_message *request, int *ret_fd) {
        struct broker_message reply;
        struct iovec part = { &reply, sizeof(reply) };
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr message = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        int fd = -EBADF, r;
        ssize_t n;

        r = broker_tell(socket_fd, request);
        if (r < 0)
                return r;
        n = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
        if (n < 0)
                return negative_errno();
        if (n != sizeof(reply))
                return -EPROTO;
        if (message.msg_controllen > 0)
                memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
        *ret_fd = fd;
        return 0;
}

static int broker_result(struct series *series, int r) {
        return r < 0 ? series_refuse(series, r, "bare broker: %s", strerror(-r)) : 0;
}

int broker_setup(struct series *series) {
        struct broker_row *row = calloc(1, sizeof(*row));

        if (!row)
                return series_refuse(series, -ENOMEM, "out of memory");
        series->state = row;
        row->address.sun_family = AF_UNIX;
        snprintf(row->address.sun_path, sizeof(row->address.sun_path), "%s", series_server(series)->socket_path);
        row->socket_fd = broker_connect(row);
        return broker_result(series, row->socket_fd);
}

/* Its load is as large as that of a crowd. */
int broker_setup_crowd(struct series *series) {
        int r = crowd_ensure(series->bench, SERVER_CROWDED);

        if (r < 0)
                return series_refuse(series, 1, "no crowd to compare with");
        return broker_setup(series);
}

void broker_teardown(struct series *series) {
        struct broker_row *row = series->state;

        if (row)
                close_fd(row->socket_fd);
        free(row);
}

/* The part that all have in common: ask for a segment, map it, unmap it. */
static int get_and_map(int socket_fd, const struct broker_message *request, bool touch) {
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = broker_ask(socket_fd, request, &fd);
        if (r < 0)
                return r;
        return map_page(fd, touch);
}

static int open_and_map(int socket_fd, uint32_t flags) {
        const struct broker_message request = { .operation = BROKER_OPEN, .flags = flags };
        const struct broker_message release = { .operation = BROKER_RELEASE };
        int r;

        r = get_and_map(socket_fd, &request, false);
        if (r < 0 || !(flags & BROKER_LIKE_SHMD))
                return r;
        return broker_tell(socket_fd, &release);
}

static int create_and_unlink(int socket_fd, uint32_t flags) {
        const struct broker_message request = { .operation = BROKER_CREATE, .flags = flags, .size = SEGMENT_SIZE };
        const struct broker_message unlink = { .operation = BROKER_UNLINK, .flags = flags };
        const struct broker_message release = { .operation = BROKER_RELEASE };
        int none, r;

        r = get_and_map(socket_fd, &request, true);
        if (r < 0)
                return r;
        r = broker_ask(socket_fd, &unlink, &none);
        if (r < 0 || !(flags & BROKER_LIKE_SHMD))
                return r;
        return broker_tell(socket_fd, &release);
}

static int greet_and_open(int socket_fd, uint32_t flags) {
        const struct broker_message greeting = { .operation = BROKER_GREET, .flags = flags };
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (flags & BROKER_LIKE_SHMD) {
                r = broker_ask(socket_fd, &greeting, &fd);
                if (r < 0)
                        return r;
        }
        return open_and_map(socket_fd, flags);
}

static int connect_and_open(const struct broker_row *row, uint32_t flags) {
        _cleanup_close_ int fd = broker_connect(row);

        return fd < 0 ? fd : greet_and_open(fd, flags);
}

int bare_open_run(struct series *series) {
        const struct broker_row *row = series->state;

        return broker_result(series, open_and_map(row->socket_fd, 0));
}

int bare_create_run(struct series *series) {
        const struct broker_row *row = series->state;

        return broker_result(series, create_and_unlink(row->socket_fd, 0));
}

int bare_connect_run(struct series *series) {
        return broker_result(series, connect_and_open(series->state, 0));
}

int same_open_run(struct series *series) {
        const struct broker_row *row = series->state;

        return broker_result(series, open_and_map(row->socket_fd, BROKER_LIKE_SHMD));
}

int same_create_run(struct series *series) {
        const struct broker_row *row = series->state;

        return broker_result(series, create_and_unlink(row->socket_fd, BROKER_LIKE_SHMD));
}

int same_connect_run(struct series *series) {
        return broker_result(series, connect_and_open(series->state, BROKER_LIKE_SHMD));
}
