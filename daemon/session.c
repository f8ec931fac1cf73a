/* SPDX-License-Identifier: MIT */
#include "session.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/sockios.h>

#include "batch.h"
#include "daemon.h"
#include "dispatch.h"
#include "peer.h"
#include "util.h"

/*
 * What a client that does not read can pin: bytes of answers in its socket (the kernel doubles the figure for
 * its own bookkeeping), and descriptors in them. Two full messages; one full batch.
 */
#define SEND_BUFFER (2 * (int) SHMD_MESSAGE_MAX)
#define IN_FLIGHT_MAX SHMD_DESCRIPTORS_MAX

/* Of what SIOCOUTQ counts, each unread message is at least so much: the kernel's own bookkeeping. Bytes. */
#define UNREAD_MESSAGE_MIN 512u

/*
 * As long as so many descriptors of a user's wait to be closed, no more are taken from him: requests that bring some are refused,
 * and from twice as many on their clients are cut off.
 */
#define DISCARD_SHARE_MIN 32u

static uint64_t discard_share(const struct daemon *daemon) {
        return MAX(DISCARD_SHARE_MIN, daemon->descriptors_max / 64);
}

static struct parked *parked_free(struct parked *parked) {
        if (!parked)
                return NULL;
        for (unsigned i = 0; i < parked->fds_count; i++)
                close_fd(parked->fds[i]);
        charge_done(&parked->charge);
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

/* They are descriptors of the daemon's, for as long as the client does not read: he pays for them. */
static int parked_charge(struct session *session, struct parked *parked, unsigned count) {
        struct shmd_wire_refusal ignored;

        if (count == 0)
                return 0;
        return quota_charge(&session->daemon->quota, session->credentials.uid, QUOTA_DESCRIPTORS, count, &parked->charge, &ignored) == 0
                       ? 0
                       : -EMFILE;
}

static int parked_new(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size, const void *tail,
                      size_t tail_size, const int *fds, unsigned fds_count, struct parked **ret_parked) {
        struct parked *parked = calloc(1, sizeof(*parked));
        int r;

        if (!parked)
                return -ENOMEM;
        parked->header = *header;
        parked->size = body_size + tail_size;
        parked->bytes = malloc(MAX(parked->size, 1u));
        r = parked->bytes ? parked_charge(session, parked, fds_count) : -ENOMEM;
        if (r == 0)
                r = parked_copy_fds(parked, fds, fds_count);
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

/* The charge for what is in flight is made in steps, so that it seldom changes. */
#define IN_FLIGHT_STEP 16u

/* At most so many sessions are looked at to find what has been received meanwhile. */
#define IN_FLIGHT_LOOKS 16u

static void set_in_flight_charge(struct session *session, unsigned count) {
        struct daemon *daemon = session->daemon;
        struct charge *charge = &session->in_flight;
        struct shmd_wire_refusal ignored;

        if (charge->account) {
                TAILQ_REMOVE(&daemon->in_flight, session, in_flight_entry);
                if (count > 0)
                        charge_force(charge, session->credentials.uid, count);
                else
                        charge_done(charge);
        } else if (count > 0)
                /* The caller has seen to it that there is room, or it has to be: without memory for an account it is not counted. */
                (void) quota_charge(&daemon->quota, session->credentials.uid, QUOTA_IN_FLIGHT, count, charge, &ignored);
        if (charge->account)
                TAILQ_INSERT_TAIL(&daemon->in_flight, session, in_flight_entry);
}

/*
 * How many the client has not received is only known within bounds: as many messages as what is unread has room for, each with as many
 * as the largest had.
 */
static void look_at_in_flight(struct session *session) {
        int unread;

        if (ioctl(session->fd, SIOCOUTQ, &unread) == 0)
                session->fds_in_flight = MIN(session->fds_in_flight, (unsigned) unread / UNREAD_MESSAGE_MIN * session->fds_largest);
        if (session->fds_in_flight == 0)
                session->fds_largest = 0;
        set_in_flight_charge(session, session->fds_in_flight);
}

/* The user's share is used up, as far as is known: some of it may have been received. */
static void look_at_others(struct session *session) {
        struct daemon *daemon = session->daemon;
        struct session *other = TAILQ_FIRST(&daemon->in_flight), *last = TAILQ_LAST(&daemon->in_flight, in_flight_list), *next;

        for (unsigned looks = 0; other && looks < IN_FLIGHT_LOOKS; other = next) {
                next = other == last ? NULL : TAILQ_NEXT(other, in_flight_entry);
                if (other->credentials.uid != session->credentials.uid)
                        continue;
                look_at_in_flight(other); /* moves it to the end */
                looks++;
        }
}

static bool has_share(const struct session *session, unsigned count) {
        struct quota *quota = &session->daemon->quota;
        uid_t uid = session->credentials.uid;
        uint64_t used = quota_used(quota, uid, QUOTA_IN_FLIGHT), maximum = quota_maximum(quota, uid, QUOTA_IN_FLIGHT);

        /* One message goes out in any case: it can't be made smaller. */
        return used == 0 || (used <= maximum && count - session->in_flight.amount <= maximum - used);
}

/*
 * Whether more descriptors may be put into the client's socket. An unread answer's descriptors count against a limit of
 * the whole daemon (unix(7), ETOOMANYREFS), so each client has a share, and all of a user have one. 0, -EAGAIN: the client
 * has to read first; -ETOOMANYREFS: another of that user.
 */
static int may_send_fds(struct session *session, unsigned count) {
        if (count == 0)
                return 0;
        if (session->fds_in_flight + count > IN_FLIGHT_MAX)
                look_at_in_flight(session);
        count += session->fds_in_flight;
        if (count > IN_FLIGHT_MAX)
                return -EAGAIN;
        if (count <= session->in_flight.amount)
                return 0;
        count = (count + IN_FLIGHT_STEP - 1) / IN_FLIGHT_STEP * IN_FLIGHT_STEP;
        if (!has_share(session, count)) {
                look_at_others(session);
                if (!has_share(session, count))
                        return -ETOOMANYREFS;
        }
        set_in_flight_charge(session, count);
        return 0;
}

static int send_now(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                    const void *tail, size_t tail_size, const int *fds, unsigned fds_count) {
        int r;

        r = may_send_fds(session, fds_count);
        if (r < 0)
                return r;
        /* What a client is told is true after the daemon's death, too. */
        store_commit(&session->daemon->store);
        r = wire_send(session->fd, header, body, body_size, tail, tail_size, fds, fds_count, MSG_DONTWAIT);
        if (r < 0)
                return r;
        session->fds_in_flight += fds_count;
        session->fds_largest = MAX(session->fds_largest, fds_count);
        return 0;
}

/* Nothing is read from a client while it owes us something: to read, or to wait. */
static void update_reading(struct session *session) {
        bool read = TAILQ_EMPTY(&session->parked) && !session->busy && !session->held;

        if (read == !!event_pending(session->read_event, EV_READ, NULL))
                return;
        if ((read ? event_add(session->read_event, NULL) : event_del(session->read_event)) < 0)
                session_break(session, -ENOMEM);
}

/*
 * To epoll(7) edges are a matter of the descriptor, not of the event: while write_event is there, and still after it has been removed,
 * reading comes by edges, too. What there is left to read has to be asked for again.
 */
static void rearm_reading(struct session *session) {
        if (!event_pending(session->read_event, EV_READ, NULL))
                return;
        if (event_del(session->read_event) < 0 || event_add(session->read_event, NULL) < 0)
                session_break(session, -ENOMEM);
}

/* The event comes each time that the client has read something. */
static int wait_for_room(struct session *session) {
        return event_add(session->write_event, NULL) < 0 ? -ENOMEM : 0;
}

static int park(struct session *session, struct parked *parked) {
        TAILQ_INSERT_TAIL(&session->parked, parked, entry);
        update_reading(session);
        return wait_for_room(session);
}

/*
 * No room, but not in the client's socket: too many descriptors of this daemon are unread everywhere (unix(7), ETOOMANYREFS), or there
 * is no memory. No event tells when that is over; and each attempt makes an event of its own.
 */
static const struct timeval retry_interval = { .tv_usec = 20000 };

static int wait_for_kernel(struct session *session) {
        (void) event_del(session->write_event);
        return evtimer_add(session->retry_event, &retry_interval) < 0 ? -ENOMEM : 0;
}

static bool must_wait(int r) {
        return r == -EAGAIN || r == -ETOOMANYREFS || r == -ENOBUFS;
}

int session_send(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                 const void *tail, size_t tail_size, const int *fds, unsigned fds_count) {
        struct parked *parked;
        int r;

        if (TAILQ_EMPTY(&session->parked)) {
                r = send_now(session, header, body, body_size, tail, tail_size, fds, fds_count);
                if (!must_wait(r))
                        return r;
        }
        r = parked_new(session, header, body, body_size, tail, tail_size, fds, fds_count, &parked);
        return r < 0 ? r : park(session, parked);
}

/* Tells that events are missing. */
static int send_lost(struct session *session) {
        struct shmd_wire_header header = { .operation = SHMD_OP_EVENT };
        struct shmd_wire_event event = { .kind = WIRE_EVENT_LOST, .time_usec = now_realtime_usec() };
        int r;

        r = send_now(session, &header, &event, sizeof(event), NULL, 0, NULL, 0);
        if (r < 0)
                return r;
        /* What happened until now he will see when he looks; an older event after this one would mislead him. */
        session->events_from = session->daemon->notices.next_number;
        session->events_lost = false;
        return 0;
}

void session_lose_events(struct session *session) {
        if (session->events_lost || session->broken)
                return;
        session->events_lost = true;
        if (wait_for_room(session) < 0)
                session_break(session, -ENOMEM);
}

void session_send_event(struct session *session, const struct shmd_wire_event *event, const char *names) {
        struct shmd_wire_header header = { .operation = SHMD_OP_EVENT };
        int r;

        if (session->events_lost || session->broken)
                return;
        r = TAILQ_EMPTY(&session->parked) ? send_now(session, &header, event, sizeof(*event), names,
                                                     (size_t) event->name_size + event->old_name_size, NULL, 0)
                                          : -EAGAIN;
        if (must_wait(r))
                session_lose_events(session);
        else if (r < 0)
                session_break(session, r);
}

int session_send_now(struct session *session, const struct shmd_wire_header *header, const void *body, size_t body_size,
                     const void *tail, size_t tail_size, const int *fds, unsigned fds_count) {
        if (!TAILQ_EMPTY(&session->parked))
                return -EAGAIN;
        return send_now(session, header, body, body_size, tail, tail_size, fds, fds_count);
}

/* Whoever has caused more events while there were many waits until they are told. */
static void consider_hold(struct session *session, uint64_t number_before) {
        struct notices *notices = &session->daemon->notices;

        if (session->held || notices->next_number == number_before || !notices_are_many(notices))
                return;
        session->held = true;
        TAILQ_INSERT_TAIL(&session->daemon->held, session, held_entry);
        update_reading(session);
}

static void release(struct session *session) {
        if (!session->held)
                return;
        session->held = false;
        TAILQ_REMOVE(&session->daemon->held, session, held_entry);
        if (session->read_event)
                update_reading(session);
}

void session_release_held(struct daemon *daemon) {
        struct session *session;

        while ((session = TAILQ_FIRST(&daemon->held)))
                release(session);
}

void session_set_busy(struct session *session, bool busy) {
        session->busy = busy;
        update_reading(session);
}

void session_break(struct session *session, int error) {
        if (session->broken)
                return;
        report_broken(session, error);
        session->broken = true;
        TAILQ_INSERT_TAIL(&session->daemon->broken, session, broken_entry);
        daemon_settle_later(session->daemon);
}

void session_describe(struct session *session) {
        if (session->described)
                return;
        session->described = true;
        peer_describe(session->fd, session->credentials.pid, &(struct peer_description) {
                .command = session->command,
                .command_size = sizeof(session->command),
                .unit = session->unit,
                .unit_size = sizeof(session->unit),
                .executable = session->executable,
                .executable_size = sizeof(session->executable),
                .started = &session->started,
        });
}

static void free_events(struct session *session) {
        if (session->read_event)
                event_free(TAKE_PTR(session->read_event));
        if (session->write_event)
                event_free(TAKE_PTR(session->write_event));
        if (session->retry_event)
                event_free(TAKE_PTR(session->retry_event));
}

/*
 * How many descriptors there are in messages that nobody has read: proc(5), fdinfo, "scm_fds". More than none, if the kernel
 * does not say.
 */
static bool has_unread_fds(const struct session *session) {
        char path[64], text[512];
        unsigned count = 1;
        const char *line;
        ssize_t n;
        _cleanup_close_ int fd = -EBADF;

        (void) snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", session->fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
        text[MAX(n, 0)] = '\0';
        line = strstr(text, "scm_fds:");
        return !line || sscanf(line, "scm_fds: %u", &count) != 1 || count > 0;
}

/* What it sent and nobody read goes with the socket, descriptors and all: see discard_fds(). */
static void close_socket(struct session *session) {
        (void) shutdown(session->fd, SHUT_RDWR);
        if (has_unread_fds(session))
                worker_close_charged(&session->daemon->discarder, session->credentials.uid, TAKE_FD(session->fd), &session->descriptor);
        else
                session->fd = close_fd(session->fd);
}

void session_close(struct session *session) {
        struct daemon *daemon = session->daemon;
        struct parked *parked;

        if (session->broken)
                TAILQ_REMOVE(&daemon->broken, session, broken_entry);
        server_forget(&daemon->server, session);
        watcher_free_all(session);
        wait_free_all(session);
        batch_free(TAKE_PTR(session->batch));
        while ((parked = TAILQ_FIRST(&session->parked))) {
                TAILQ_REMOVE(&session->parked, parked, entry);
                parked_free(parked);
        }
        free_events(session);
        release(session);
        close_socket(session);
        charge_done(&session->charge);
        charge_done(&session->descriptor);
        set_in_flight_charge(session, 0);
        TAILQ_INSERT_TAIL(&daemon->dying, session, entry);
        daemon_settle(daemon);
}

bool session_reap(struct session *session, unsigned budget) {
        if (!bells_reap(&session->bells, budget) || !client_reap(&session->client, budget, now_realtime_usec()))
                return false;
        TAILQ_REMOVE(&session->daemon->dying, session, entry);
        credentials_done(&session->credentials);
        free(session);
        return true;
}

/* Sends what waits, as far as it goes. */
static int send_parked(struct session *session) {
        struct parked *parked;

        while ((parked = TAILQ_FIRST(&session->parked))) {
                int r = send_now(session, &parked->header, parked->bytes, parked->size, NULL, 0, parked->fds, parked->fds_count);

                if (r < 0)
                        return r;
                TAILQ_REMOVE(&session->parked, parked, entry);
                parked_free(parked);
        }
        return session->events_lost ? send_lost(session) : 0;
}

static void on_writable(evutil_socket_t fd, short what, void *userdata) {
        struct session *session = userdata;
        bool waits;
        int r;

        (void) fd;
        (void) what;
        r = send_parked(session);
        waits = must_wait(r);
        if (waits)
                r = r == -EAGAIN ? wait_for_room(session) : wait_for_kernel(session);
        else
                (void) event_del(session->write_event);
        if (r < 0) {
                report_broken(session, r);
                session_close(session);
        }
        if (r < 0 || waits)
                return;
        update_reading(session);
        rearm_reading(session);
}

/*
 * Closing what a client sent may take as long as the client likes: the last reference to gigabytes, a file of a file
 * system that never answers close(2).
 */
static void discard_fds(struct daemon *daemon, uid_t uid, struct wire_fds *fds) {
        for (unsigned i = 0; i < fds->count; i++)
                worker_close(&daemon->discarder, uid, TAKE_FD(fds->fd[i]));
        fds->count = 0;
}

bool session_may_bring(struct session *session, struct shmd_wire_refusal *refusal) {
        unsigned load = worker_load(&session->daemon->discarder, session->credentials.uid);

        if (load < discard_share(session->daemon))
                return true;
        refusal->limit = SHMD_LIMIT_DESCRIPTORS;
        refusal->uid = session->credentials.uid;
        refusal->requested = 1;
        refusal->used = load;
        refusal->maximum = discard_share(session->daemon);
        return false;
}

/* Looking at a message without room for its descriptors tells whether there are any, and closes none: recvmsg(2), MSG_CTRUNC. */
bool session_brings_too_many(struct daemon *daemon, uid_t uid, int fd) {
        struct msghdr message = { 0 };

        if (worker_load(&daemon->discarder, uid) < 2 * discard_share(daemon))
                return false;
        return recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT) >= 0 && (message.msg_flags & MSG_CTRUNC);
}

static void on_readable(evutil_socket_t fd, short what, void *userdata) {
        /* One thread, one message at a time. */
        static _Alignas(uint64_t) char buffer[SHMD_MESSAGE_MAX];
        struct session *session = userdata;
        struct daemon *daemon = session->daemon;
        struct wire_fds fds = WIRE_FDS_INIT;
        uid_t uid = session->credentials.uid;
        uint64_t number = daemon->notices.next_number;
        ssize_t n;
        int r = 0;

        (void) what;
        if (session_brings_too_many(daemon, uid, fd)) {
                report_cut_off(session, "too many descriptors that its user sent are still being closed");
                session_close(session);
                return;
        }
        n = wire_receive(fd, buffer, sizeof(buffer), &fds, MSG_DONTWAIT);
        if (n > 0)
                r = dispatch(session, buffer, (size_t) n, &fds);
        discard_fds(daemon, uid, &fds);

        if (n == -EAGAIN)
                return;
        if (n == -EMSGSIZE || n == -EBADMSG)
                report_cut_off(session, "its message was too long or had too many descriptors");
        if (n <= 0 || r < 0) {
                report_broken(session, r);
                session_close(session);
                return;
        }
        consider_hold(session, number);
        if (event_pending(session->write_event, EV_WRITE, NULL))
                rearm_reading(session);
        daemon_settle(daemon);
}

static int make_events(struct session *session) {
        struct event_base *base = session->daemon->base;

        session->read_event = event_new(base, session->fd, EV_READ | EV_PERSIST, on_readable, session);
        session->write_event = event_new(base, session->fd, EV_WRITE | EV_PERSIST | EV_ET, on_writable, session);
        session->retry_event = evtimer_new(base, on_writable, session);
        if (!session->read_event || !session->write_event || !session->retry_event || event_add(session->read_event, NULL) < 0)
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
        TAILQ_INIT(&session->parked);
        LIST_INIT(&session->watchers);
        LIST_INIT(&session->waits);
        LIST_INIT(&session->bells);
        TAILQ_INSERT_TAIL(&daemon->server.sessions, session, entry);
        daemon->server.count++;

        /* Only bounds what a slow reader can pin; it works without. */
        (void) setsockopt(socket_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        if (make_events(session) < 0) {
                session_close(session);
                return -ENOMEM;
        }
        *ret_session = session;
        return 0;
}
