/* SPDX-License-Identifier: MIT */
/*
 * The listening socket: makes it or takes it from the service manager, accepts clients.
 *
 * Owns the sessions. When descriptors run out it stops accepting until some are free again, rather than
 * spinning on a socket that stays readable.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "session.h"

struct server {
        struct daemon *daemon;
        struct session_list sessions;
        struct event *event;
        struct event *resume_event;
        struct event *idle_event;
        char *path;   /* of a socket that the server made and removes in the end; else NULL */
        int lock_fd;  /* holds the lock beside it, and keeps the ids that were used */
        int listen_fd;
        int spare_fd; /* given up for a moment to tell a client that there are no descriptors left */
        unsigned count;
        uint64_t marked_id; /* ids below are noted as used */
};

/*
 * Listens on a path, or on listen_fd if that is not negative (taken); lock_fd comes with the listening socket of a daemon whose
 * place this one takes, or is negative (taken). Says on the log why it can't: 0, or -errno.
 */
int server_init(struct server *server, struct daemon *daemon, const char *path, int listen_fd, int lock_fd);
void server_done(struct server *server);

/* The socket is another daemon's from now on. */
void server_leave_socket(struct server *server);

/*
 * The first id that was never used, by what is written beside the socket and by the clock; and a
 * mark there, from time to time and always ahead, of the ids that are used up: no id that a client has seen is
 * above the mark, whenever the daemon is killed.
 */
uint64_t server_first_id(struct server *server);
void server_note_id(struct server *server, uint64_t next_id);

/* The session of a client, or NULL if it has gone. */
struct session *server_find(struct server *server, uint64_t client_key);

/* Called by a session that is going away. */
void server_forget(struct server *server, struct session *session);

/* Something may have changed about being idle: --idle-exit. */
void server_consider_idle(struct server *server);
