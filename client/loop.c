/* SPDX-License-Identifier: MIT */
/*
 * What shmd_dispatch() has to tell the program, and the descriptor that says when.
 *
 * Owns the queue of notices, and, once somebody has asked for it, an epoll instance: it stays the same while
 * connections come and go, and is also readable when something was received by a call that waited for
 * something else, and when there is room again for a request that found none, so that no event loop sleeps on it.
 *
 * The program's functions are called from shmd_dispatch() alone, with nothing in hand: they may do anything but
 * disconnect.
 */
#include "internal.h"

#include <limits.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

/* One dispatch reads no more messages than this, lest other sources of the program's loop starve. */
#define MESSAGES_MAX 1024

void loop_init(struct loop *loop) {
        *loop = (struct loop) { .poll_fd = -EBADF, .wake_fd = -EBADF };
        TAILQ_INIT(&loop->notices);
}

/* In a forked child the instance is its parent's: it is closed and not touched. */
void loop_done(struct loop *loop) {
        loop->poll_fd = close_fd(loop->poll_fd);
        loop->wake_fd = close_fd(loop->wake_fd);
        loop->awake = false;
}

/* --- notices --- */

static void loop_set_awake(struct loop *loop, bool awake) {
        if (loop->wake_fd < 0 || loop->awake == awake)
                return;
        if (awake)
                loop->awake = eventfd_write(loop->wake_fd, 1) == 0;
        else {
                eventfd_t value;

                (void) eventfd_read(loop->wake_fd, &value);
                loop->awake = false;
        }
}

void notice_insert(struct notice_queue *queue, struct notice *notice) {
        TAILQ_INSERT_TAIL(queue, notice, entry);
        notice->queue = queue;
}

void notice_queue(struct shmd *connection, struct notice *notice) {
        struct loop *loop = &connection->loop;

        notice_insert(&loop->notices, notice);
        if (!loop->dispatching)
                loop_set_awake(loop, true);
}

void notice_cancel(struct notice *notice) {
        if (notice->queue)
                TAILQ_REMOVE(notice->queue, notice, entry);
        notice->queue = NULL;
}

void notice_queue_first(struct shmd *connection, struct notice_queue *notices) {
        struct loop *loop = &connection->loop;
        struct notice *notice;

        while ((notice = TAILQ_LAST(notices, notice_queue))) {
                TAILQ_REMOVE(notices, notice, entry);
                TAILQ_INSERT_HEAD(&loop->notices, notice, entry);
                notice->queue = &loop->notices;
        }
}

/* --- the descriptor --- */

static int loop_control(struct loop *loop, int operation, int fd, uint32_t events) {
        struct epoll_event event = { .events = events };

        return epoll_ctl(loop->poll_fd, operation, fd, &event) < 0 ? negative_errno() : 0;
}

int loop_add_socket(struct shmd *connection) {
        struct loop *loop = &connection->loop;

        loop->wants_room = false;
        return loop->poll_fd < 0 ? 0 : loop_control(loop, EPOLL_CTL_ADD, connection->socket_fd, EPOLLIN);
}

/* Explicitly: as long as a child has a duplicate of it, closing it would not. */
void loop_remove_socket(struct shmd *connection) {
        if (connection->loop.poll_fd >= 0)
                (void) loop_control(&connection->loop, EPOLL_CTL_DEL, connection->socket_fd, 0);
}

/* Until the next dispatch. If it fails, an answer will do: there is one to come when there is no room for long. */
void loop_set_wants_room(struct shmd *connection, bool wants_room) {
        struct loop *loop = &connection->loop;

        if (loop->wants_room == wants_room || !connection_is_ready(connection))
                return;
        loop->wants_room = wants_room;
        if (loop->poll_fd >= 0)
                (void) loop_control(loop, EPOLL_CTL_MOD, connection->socket_fd, EPOLLIN | (wants_room ? EPOLLOUT : 0));
}

static int loop_start(struct shmd *connection) {
        struct loop *loop = &connection->loop;
        int r;

        loop->poll_fd = epoll_create1(EPOLL_CLOEXEC);
        loop->wake_fd = loop->poll_fd < 0 ? -EBADF : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = loop->wake_fd < 0 ? negative_errno() : loop_control(loop, EPOLL_CTL_ADD, loop->wake_fd, EPOLLIN);
        if (r == 0)
                r = loop_add_socket(connection);
        if (r < 0) {
                loop_done(loop);
                return failure_errno(&connection->failure, r);
        }
        /* One dispatch too many does no harm. */
        loop_set_awake(loop, true);
        return 0;
}

_public_ int shmd_poll_fd(struct shmd *connection) {
        int r;

        r = connection_prepare(connection);
        if (r == 0 && connection->loop.poll_fd < 0)
                r = loop_start(connection);
        return r < 0 ? r : connection->loop.poll_fd;
}

/* --- dispatching --- */

static unsigned deliver_all(struct shmd *connection) {
        struct loop *loop = &connection->loop;
        struct notice *notice;
        unsigned count = 0;

        while ((notice = TAILQ_FIRST(&loop->notices))) {
                notice_cancel(notice);
                count += notice->deliver(connection, notice);
        }
        return count;
}

/* Calls functions and reads, by turns, until nothing has come; after a loss it goes on with a new connection, once. */
static int dispatch(struct shmd *connection, unsigned *count) {
        bool renewed = false;
        int r;

        r = connection_prepare(connection);
        for (unsigned messages = 0;; messages++) {
                *count += deliver_all(connection);
                if (r < 0 || messages == MESSAGES_MAX)
                        return r;
                r = connection_is_ready(connection) ? call_receive(connection, MSG_DONTWAIT) : -ECONNRESET;
                if (r == -EAGAIN)
                        return 0;
                if (r == -ECONNRESET && !renewed) {
                        renewed = true;
                        r = connection_prepare(connection);
                }
        }
}

_public_ int shmd_dispatch(struct shmd *connection) {
        struct loop *loop = &connection->loop;
        bool nested = loop->dispatching;
        unsigned count = 0;
        int r;

        loop->dispatching = true;
        loop_set_wants_room(connection, false);
        r = dispatch(connection, &count);
        if (connection_is_ready(connection))
                holds_tell_ended(connection);
        loop->dispatching = nested;
        if (!nested)
                loop_set_awake(loop, !TAILQ_EMPTY(&loop->notices));
        return count > 0 ? (int) MIN(count, (unsigned) INT_MAX) : r;
}
