/* SPDX-License-Identifier: MIT */
#include "session.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/sockios.h>

#include "daemon.h"
#include "dispatch.h"
#include "log.h"
#include "peer.h"
#include "util.h"

/*
 * What a client that does not read can pin: bytes of answers in its socket (the kernel doubles the figure for
 * its own bookkeeping), and descriptors in them. Two full messages; one full batch.
 */
#define SEND_BUFFER (2 * (int) SHMD_MESSAGE_MAX)
#define IN_FLIGHT_MAX SHMD_DESCRIPTORS_MAX

/* As long as so many descriptors of clients wait to be closed, no more are taken. */
#define DISCARD_MAX 64u

static struct parked *parked_free(struct parked *parked) {
        if (!parked)
                return NULL;
        for (unsigned i = 0; i < parked->fds_count; i++)
                close_fd(parked->fds[i]);
        free(parked->fds);
        free(parked->bytes);
        free(parked);
        return NULL;
}

static int parked_copy_fds(struct parked *parked, const int *fds, unsigned count) {
        if (count == 0)
                return 0;
        parked->fds = calloc(count, sizeof(*parked->fds));
        if (!parked->fds)
                return -ENOMEM;
        for (; parked->fds_count < count; parked->fds_count++) {
                int fd = fcntl(fds[parked->fds_count], F_DUPFD_CLOEXEC, 3);

                if (fd < 0)
                        return negative_errno();
                parked->fds[parked->fds_count] = fd;
        }
        return 0;
}

static int parked_new(const struct shmd_wire_header *header, const void *body, size_t body_size, const void *tail,
                      size_t tail_size, const int *fds, unsigned fds_count, struct parked **ret_parked) {
        struct parked *parked = calloc(1, sizeof(*parked));
        int r;

        if (!parked)
                return -ENOMEM;
        parked->header = *header;
        parked->size = body_size + tail_size;
        parked->bytes = malloc(MAX(parked->size, 1u));
        r = parked->bytes ? parked_copy_fds(parked, fds, fds_count) : -ENOMEM;
        if (r < 0) {
                parked_free(parked);
                return r;
        }
        memcpy(parked->bytes, body, body_size);
        if (tail_size > 0)
                memcpy(parked->bytes + body_size, tail, tail_size);
        *ret_parked = parked;
        return 0;
}

/*
 * Whether more descriptors may be put into the client's socket. An unread answer's descriptors count against a limit of
 * the whole daemon (unix(7), ETOOMANYREFS), so each client has a share, renewed when it has read everything.
 */
static bool may_send_fds(struct session *session, unsigned count) {
        int unread;

        if (count == 0 || session->fds_in_flight + count <= IN_FLIGHT_MAX)
                return true;
        if (ioctl(session->fd, SIOCOUTQ, &unread) == 0 && unread == 0)
                session->fds_in_flight = 0;
        return session->fds_in_flight + count <= IN_FLIGHT_MAX;
}

static int send_now(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                    const void *tail, size_t tail_size, const int *fds, unsigned fds_count) {
        int r;

        if (!may_send_fds(session, fds_count))
                return -EAGAIN;
        r = wire_send(session->fd, header, body, body_size, tail, tail_size, fds, fds_count, MSG_DONTWAIT);
        if (r == 0)
                session->fds_in_flight += fds_count;
        return r;
}

/* Reads nothing more until the answer could be sent. The event comes each time that the client has read something. */
static int park(struct session *session, struct parked *parked) {
        session->parked = parked;
        (void) event_del(session->read_event);
        return event_add(session->write_event, NULL) < 0 ? -ENOMEM : 0;
}

int session_send(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                 const void *tail, size_t tail_size, const int *fds, unsigned fds_count) {
        struct parked *parked;
        int r;

        r = send_now(session, header, body, body_size, tail, tail_size, fds, fds_count);
        if (r != -EAGAIN && r != -ETOOMANYREFS && r != -ENOBUFS)
                return r;
        r = parked_new(header, body, body_size, tail, tail_size, fds, fds_count, &parked);
        return r < 0 ? r : park(session, parked);
}

void session_describe(struct session *session) {
        if (session->described)
                return;
        session->described = true;
        peer_describe(session->fd, session->credentials.pid, session->command, sizeof(session->command), session->unit,
                      sizeof(session->unit));
}

/* The names that end with their creator are remembered by others. */
static void forget_names(struct session *session) {
        struct segment *segment;

        TAILQ_FOREACH(segment, &session->client.created, by_creator)
                if (segment->lifetime == WIRE_LIFETIME_CREATOR)
                        generation_advance(&session->daemon->generation, segment->id);
}

struct session *session_free(struct session *session) {
        struct daemon *daemon;

        if (!session)
                return NULL;
        daemon = session->daemon;
        server_forget(&daemon->server, session);
        if (session->read_event)
                event_free(session->read_event);
        if (session->write_event)
                event_free(session->write_event);
        parked_free(session->parked);
        if (session->drained)
                session->fd = close_fd(session->fd);
        else {
                /* What it sent and nobody read goes with the socket, descriptors and all: see discard_fds(). */
                (void) shutdown(session->fd, SHUT_RDWR);
                worker_close(&daemon->discarder, TAKE_FD(session->fd));
        }
        forget_names(session);
        client_done(&session->client, now_realtime_usec());
        charge_done(&session->charge);
        credentials_done(&session->credentials);
        free(session);

        daemon_settle(daemon);
        server_consider_idle(&daemon->server);
        return NULL;
}

static void on_writable(evutil_socket_t fd, short what, void *userdata) {
        struct session *session = userdata;
        struct parked *parked = session->parked;
        int r;

        (void) fd;
        (void) what;
        r = send_now(session, &parked->header, parked->bytes, parked->size, NULL, 0, parked->fds, parked->fds_count);
        if (r == -EAGAIN || r == -ETOOMANYREFS || r == -ENOBUFS)
                return;
        session->parked = parked_free(parked);
        (void) event_del(session->write_event);
        if (r < 0 || event_add(session->read_event, NULL) < 0)
                session_free(session);
}

/*
 * Closing what a client sent may take as long as the client likes: the last reference to gigabytes, a file of a file
 * system that never answers close(2).
 */
static void discard_fds(struct daemon *daemon, struct wire_fds *fds) {
        for (unsigned i = 0; i < fds->count; i++)
                worker_close(&daemon->discarder, TAKE_FD(fds->fd[i]));
        fds->count = 0;
}

static void on_readable(evutil_socket_t fd, short what, void *userdata) {
        /* One thread, one message at a time. */
        static _Alignas(uint64_t) char buffer[SHMD_MESSAGE_MAX];
        struct session *session = userdata;
        struct daemon *daemon = session->daemon;
        struct wire_fds fds = WIRE_FDS_INIT;
        bool take_fds = worker_load(&daemon->discarder) < DISCARD_MAX;
        ssize_t n;
        int r = 0;

        (void) what;
        n = wire_receive(fd, buffer, sizeof(buffer), take_fds ? &fds : NULL, MSG_DONTWAIT);
        if (n > 0)
                r = dispatch(session, buffer, (size_t) n, &fds);
        discard_fds(daemon, &fds);
        session->drained = n == 0;

        if (n == -EAGAIN)
                return;
        if (n == -EMSGSIZE || n == -EBADMSG)
                log_info("disconnecting process %d of user %u: its message was too long or had too many descriptors",
                         (int) session->credentials.pid, (unsigned) session->credentials.uid);
        if (n <= 0 || r < 0)
                session_free(session);
        else
                daemon_settle(daemon);
}

static int make_events(struct session *session) {
        struct event_base *base = session->daemon->base;

        session->read_event = event_new(base, session->fd, EV_READ | EV_PERSIST, on_readable, session);
        session->write_event = event_new(base, session->fd, EV_WRITE | EV_PERSIST | EV_ET, on_writable, session);
        if (!session->read_event || !session->write_event || event_add(session->read_event, NULL) < 0)
                return -ENOMEM;
        return 0;
}

int session_new(struct daemon *daemon, int socket_fd, struct credentials *credentials, struct session **ret_session) {
        struct session *session = calloc(1, sizeof(*session));
        int size = SEND_BUFFER;

        if (!session) {
                close_fd(socket_fd);
                credentials_done(credentials);
                return -ENOMEM;
        }
        session->daemon = daemon;
        session->fd = socket_fd;
        session->credentials = *credentials;
        *credentials = (struct credentials) { 0 };
        client_init(&session->client, &daemon->registry, &session->credentials);
        TAILQ_INSERT_TAIL(&daemon->server.sessions, session, entry);
        daemon->server.count++;

        /* Only bounds what a slow reader can pin; it works without. */
        (void) setsockopt(socket_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        if (make_events(session) < 0) {
                session_free(session);
                return -ENOMEM;
        }
        *ret_session = session;
        return 0;
}
