/* SPDX-License-Identifier: MIT */
/*
 * One client's connection: receives a request, has it dispatched, sends the answer.
 *
 * Owns the socket, the credentials, the client's entry in the registry. One request a turn
 * of the event loop, so that no client waits for another's pipeline. If an
 * answer can't be sent because the client does not read, it is parked, and nothing more is read
 * from that client until it could be sent: one answer is all that a slow reader costs.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <bsd/sys/queue.h>
#include <event2/event.h>

#include "registry.h"
#include "wire.h"

struct daemon;

/* An answer that waits. Owns its bytes and descriptors. */
struct parked {
        struct shmd_wire_header header;
        unsigned char *bytes;
        size_t size;
        int *fds;
        unsigned fds_count;
};

struct session {
        TAILQ_ENTRY(session) entry;
        struct daemon *daemon;
        struct client client;
        struct credentials credentials;
        struct charge charge;
        struct event *read_event;
        struct event *write_event;
        struct parked *parked;
        int fd;
        unsigned fds_in_flight; /* at most so many descriptors that the client has not received yet */
        bool greeted;           /* HELLO is done */
        bool drained;           /* the client has closed, and everything that it sent was read */
        bool described;         /* command and unit are known */
        char command[16];
        char unit[64];
};

TAILQ_HEAD(session_list, session);

/* Takes the socket and the credentials, whatever the outcome. 0 or -ENOMEM. */
int session_new(struct daemon *daemon, int socket_fd, struct credentials *credentials, struct session **ret_session);

/* Ends all that the client has. NULL does nothing. Returns NULL. */
struct session *session_free(struct session *session);

/*
 * Sends or parks an answer. fds are borrowed. 0, or -errno: the client has gone (-EPIPE, -ECONNRESET), or there is no memory to park it.
 */
int session_send(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                 const void *tail, size_t tail_size, const int *fds, unsigned fds_count);

/* Finds out command and unit, once. */
void session_describe(struct session *session);
