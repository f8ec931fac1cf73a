/* SPDX-License-Identifier: MIT */
/*
 * One client's connection: receives a request, has it dispatched, sends the answer.
 *
 * Owns the socket, the credentials, the client's entry in the registry, its watches and waits. One request a turn
 * of the event loop, so that no client waits for another's pipeline. If an
 * answer can't be sent because the client does not read, it is parked, and nothing more is read
 * from that client until it could be sent: one answer, and one for each of its waits (which are
 * charged), is all that a slow reader costs. Events that he does not read are dropped, and he is told so.
 *
 * When the client has gone, all that others could see of its socket ends at once; its holds, which may be many, end a
 * few at a time, between other clients' requests: daemon_settle().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <bsd/sys/queue.h>
#include <event2/event.h>

#include "control.h"
#include "registry.h"
#include "wire.h"
#include "watcher.h"

struct daemon;
struct batch;

/* An answer that waits. Owns its bytes and descriptors. */
struct parked {
        TAILQ_ENTRY(parked) entry;
        struct shmd_wire_header header;
        unsigned char *bytes;
        size_t size;
        int *fds;
        unsigned fds_count;
        struct charge charge; /* for the descriptors */
};

TAILQ_HEAD(parked_queue, parked);

struct session {
        TAILQ_ENTRY(session) entry; /* of the server, or of the dying */
        TAILQ_ENTRY(session) broken_entry;
        TAILQ_ENTRY(session) held_entry;
        struct daemon *daemon;
        struct client client;
        struct credentials credentials;
        struct charge charge, descriptor;
        struct charge in_flight; /* for fds_in_flight, at least */
        TAILQ_ENTRY(session) in_flight_entry;
        struct event *read_event;
        struct event *write_event;
        struct event *retry_event; /* where the kernel had no room for reasons that are not this client's */
        struct parked_queue parked;
        struct watcher_list watchers;
        struct wait_list waits;
        struct bell_list bells; /* that it has set */
        struct batch *batch; /* a request for many that is under way: batch.h */
        int fd;
        unsigned fds_in_flight; /* at most so many descriptors that the client has not received yet */
        unsigned fds_largest;   /* of the messages with those */
        bool greeted;           /* HELLO is done */
        bool busy;              /* a request is being worked on elsewhere: nothing more is read */
        bool held;              /* it caused more events than can be told at once: nothing more is read */
        bool broken;            /* to be closed as soon as nobody is in the middle of using it */
        bool events_lost;       /* and it has not been told yet */
        uint64_t events_from;   /* the first notice that it is told of: what was lost, and all before that, it looks up */
        bool described;         /* command and unit are known */
        uint32_t done_serial;   /* of its former connection: the last request of which something was recorded */
        uint32_t recorded_serial; /* of this one; zero: none yet */
        uint64_t started;       /* of the process: clock ticks since boot */
        char command[16];
        char unit[64];
        char executable[128];
};

TAILQ_HEAD(session_list, session);
TAILQ_HEAD(broken_list, session);
TAILQ_HEAD(held_list, session);
TAILQ_HEAD(in_flight_list, session);

/* Takes the socket and the credentials, whatever the outcome. 0 or -ENOMEM. */
int session_new(struct daemon *daemon, int socket_fd, struct credentials *credentials, struct session **ret_session);

/* Closes the connection; what the client holds ends by and by. */
void session_close(struct session *session);

/* Ends at most budget of its holds. True: nothing was left, the session is freed. */
bool session_reap(struct session *session, unsigned budget);

/*
 * Sends or parks an answer. fds are borrowed. 0, or -errno: the client has gone (-EPIPE, -ECONNRESET), or there is no memory to park it.
 */
int session_send(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                 const void *tail, size_t tail_size, const int *fds, unsigned fds_count);

/* The same, but nothing is parked: -EAGAIN if it can't be sent now. */
int session_send_now(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                     const void *tail, size_t tail_size, const int *fds, unsigned fds_count);

/* Sends an event, or notes that one was lost. names: the name, then the old name. Never closes the session. */
void session_send_event(struct session *session, const struct shmd_wire_event *event, const char *names);

/* Notes that one was lost; he will be told after what he has been sent. */
void session_lose_events(struct session *session);

/* Reads on from those that were held. */
void session_release_held(struct daemon *daemon);

/* A request's work goes on elsewhere; reading stops until it is answered. */
void session_set_busy(struct session *session, bool busy);

/*
 * Whether a request of his may bring descriptors: too many that his user sent may still be waiting to be closed, which takes as
 * long as the user likes. If not, *refusal says so.
 */
bool session_may_bring(struct session *session, struct shmd_wire_refusal *refusal);

/*
 * Whether a user goes on sending descriptors, in the next message of a socket, although none are taken. They are not even to be
 * received: they are closed with the socket, elsewhere.
 */
bool session_brings_too_many(struct daemon *daemon, uid_t uid, int fd);

/* Closes it before the loop's next turn, for a failure: -errno. */
void session_break(struct session *session, int error);

/* Finds out command, unit, executable and start time, once. */
void session_describe(struct session *session);
