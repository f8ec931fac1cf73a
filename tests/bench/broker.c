/* SPDX-License-Identifier: MIT */
/*
 * The bare broker: the least that a server on libevent can do which hands out
 * descriptors over a SEQPACKET socket. It checks nothing, knows no names, keeps no state but
 * the last segment made on each connection; recvmsg and sendmsg are called
 * straight from the event callback.
 *
 * If a request asks for it (BROKER_LIKE_SHMD), it makes all system calls that shmd makes for
 * the same: then what shmd costs beyond it is shmd's own code, and what this costs beyond the bare broker
 * is shmd's design. To be kept like the daemon: strace(1) shows it.
 */
#include "broker.h"

#include <event2/event.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "bench.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

struct broker {
        struct event_base *base;
        int proc_fd; /* /proc/self/fd */
        int constant_fd; /* what every open is answered with */
};

struct connection {
        struct broker *broker;
        struct event *event;
        int kept_fd; /* of the segment made last */
        int sent_fd;
};

static int broker_send(int socket_fd, const struct broker_message *reply, int fd) {
        struct iovec part = { (void *) reply, sizeof(*reply) };
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control = { 0 };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

        if (fd >= 0) {
                message.msg_control = &control;
                message.msg_controllen = sizeof(control);
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
        }
        return sendmsg(socket_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? negative_errno() : 0;
}

/* Another open file description of a descriptor: the kind that leases count. */
static int reopen(const struct broker *broker, int fd) {
        char number[16];

        snprintf(number, sizeof(number), "%d", fd);
        fd = openat(broker->proc_fd, number, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        return fd < 0 ? negative_errno() : fd;
}

static int make_sealed(off_t size) {
        _cleanup_close_ int fd = memfd_create("bare-broker", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

        if (fd < 0 || ftruncate(fd, size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0 ||
            fchmod(fd, 0600) < 0)
                return negative_errno();
        return TAKE_FD(fd);
}

static void connection_drop_segment(struct connection *connection) {
        connection->kept_fd = close_fd(connection->kept_fd);
        connection->sent_fd = close_fd(connection->sent_fd);
}

static int create_bare(struct connection *connection, int socket_fd, const struct broker_message *request) {
        connection_drop_segment(connection);
        connection->kept_fd = make_sealed((off_t) request->size);
        if (connection->kept_fd < 0)
                return connection->kept_fd;
        connection->sent_fd = reopen(connection->broker, connection->kept_fd);
        if (connection->sent_fd < 0)
                return connection->sent_fd;
        return broker_send(socket_fd, request, connection->sent_fd);
}

/* A guard is opened, too, and the original descriptor not kept. */
static int create_like_shmd(struct connection *connection, int socket_fd, const struct broker_message *request) {
        _cleanup_close_ int original_fd = -EBADF, sent_fd = -EBADF;

        connection_drop_segment(connection);
        original_fd = make_sealed((off_t) request->size);
        if (original_fd < 0)
                return original_fd;
        connection->kept_fd = reopen(connection->broker, original_fd);
        if (connection->kept_fd < 0)
                return connection->kept_fd;
        sent_fd = reopen(connection->broker, original_fd);
        if (sent_fd < 0)
                return sent_fd;
        return broker_send(socket_fd, request, sent_fd);
}

/* Before the segment goes, the kernel is asked whether somebody else has it. */
static int release_like_shmd(struct connection *connection) {
        if (connection->kept_fd < 0) /* it was the constant segment */
                return 0;
        if (fcntl(connection->kept_fd, F_SETLEASE, F_WRLCK) == 0)
                (void) fcntl(connection->kept_fd, F_SETLEASE, F_UNLCK);
        connection_drop_segment(connection);
        return 0;
}

/* Who is it, and how much may it leave unread? */
static int greet_like_shmd(const struct connection *connection, int socket_fd, const struct broker_message *request) {
        struct ucred credentials;
        gid_t groups[32];
        socklen_t credentials_size = sizeof(credentials), groups_size = sizeof(groups);
        int size = 65536;

        (void) getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &credentials_size);
        (void) getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, groups, &groups_size);
        (void) setsockopt(socket_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        return broker_send(socket_fd, request, connection->broker->constant_fd);
}

/* The owner and the mode of a segment are its inode's: shmd looks there each time. */
static void look_at(int fd) {
        struct stat stat;

        (void) fstat(fd, &stat);
}

static void connection_free(struct connection *connection, int socket_fd) {
        connection_drop_segment(connection);
        event_free(connection->event);
        close_fd(socket_fd);
        free(connection);
}

static int connection_answer(struct connection *connection, int socket_fd, const struct broker_message *request) {
        const struct broker *broker = connection->broker;
        bool like_shmd = request->flags & BROKER_LIKE_SHMD;

        switch (request->operation) {
        case BROKER_GREET:
                return greet_like_shmd(connection, socket_fd, request);
        case BROKER_OPEN:
                if (like_shmd)
                        look_at(broker->constant_fd);
                return broker_send(socket_fd, request, broker->constant_fd);
        case BROKER_CREATE:
                return like_shmd ? create_like_shmd(connection, socket_fd, request) :
                                   create_bare(connection, socket_fd, request);
        case BROKER_UNLINK:
                if (like_shmd)
                        look_at(connection->kept_fd);
                else
                        connection_drop_segment(connection);
                return broker_send(socket_fd, request, -1);
        case BROKER_RELEASE:
                return release_like_shmd(connection);
        default:
                return -EPROTO;
        }
}

static void on_request(evutil_socket_t socket_fd, short what, void *userdata) {
        struct connection *connection = userdata;
        struct broker_message request;
        struct iovec part = { &request, sizeof(request) };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
        ssize_t n;

        (void) what;
        n = recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n != sizeof(request) || connection_answer(connection, socket_fd, &request) < 0)
                connection_free(connection, socket_fd);
}

static void on_connection(evutil_socket_t listen_fd, short what, void *userdata) {
        struct broker *broker = userdata;
        struct connection *connection;
        int fd;

        (void) what;
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
                return;
        connection = calloc(1, sizeof(*connection));
        if (!connection) {
                close_fd(fd);
                return;
        }
        *connection = (struct connection) { .broker = broker, .kept_fd = -EBADF, .sent_fd = -EBADF };
        connection->event = event_new(broker->base, fd, EV_READ | EV_PERSIST, on_request, connection);
        if (!connection->event || event_add(connection->event, NULL) < 0)
                abort(); /* out of memory, in a benchmark */
}

int broker_serve(int listen_fd) {
        struct broker broker = {
                .base = event_base_new(),
                .proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC),
        };
        _cleanup_close_ int original_fd = make_sealed(SEGMENT_SIZE);
        struct event *listener;

        if (!broker.base)
                return -ENOMEM;
        broker.constant_fd = reopen(&broker, original_fd);
        if (broker.constant_fd < 0)
                return broker.constant_fd;
        listener = event_new(broker.base, listen_fd, EV_READ | EV_PERSIST, on_connection, &broker);
        if (!listener || event_add(listener, NULL) < 0)
                return -ENOMEM;
        return event_base_dispatch(broker.base) < 0 ? -EIO : 0;
}
