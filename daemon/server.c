/* SPDX-License-Identifier: MIT */
#include "server.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "daemon.h"
#include "log.h"
#include "operation.h"
#include "peer.h"
#include "status.h"
#include "util.h"

/* How long it waits before it accepts again, if no client goes meanwhile. */
static const struct timeval accept_pause = { .tv_usec = 10000 };

/*
 * A client that has waited for another one to start the daemon has the lock for a moment, and sees then that there is one: autostart.c. The
 * daemon that was given its socket does not take that for another daemon.
 */
static const struct timespec lock_pause = { .tv_nsec = 10000000 };
#define LOCK_ATTEMPTS 200u

/* Ids that are marked as used ahead, so that the mark is written rarely. */
#define ID_BLOCK (UINT64_C(1) << 20)
/* They are marked before so many of them are left: more than one request can use. */
#define ID_MARGIN 1024u

/* --- making the socket --- */

static int make_address(const char *path, struct sockaddr_un *ret_address) {
        *ret_address = (struct sockaddr_un) { .sun_family = AF_UNIX };
        if (strlen(path) >= sizeof(ret_address->sun_path))
                return -ENAMETOOLONG;
        strcpy(ret_address->sun_path, path);
        return 0;
}

/* Creates the directory that the socket is in, if its parent is there. */
static int make_directory(const char *path, bool user) {
        _cleanup_free_ char *directory = strdup(path);
        char *slash;

        if (!directory)
                return -ENOMEM;
        slash = strrchr(directory, '/');
        if (!slash || slash == directory)
                return 0;
        *slash = '\0';
        if (mkdir(directory, user ? 0700 : 0755) < 0 && errno != EEXIST)
                return negative_errno();
        return 0;
}

/* Whoever has the lock beside the socket owns the socket. It stays there when the daemon has gone. */
static int take_lock(struct server *server, const char *path, unsigned attempts) {
        _cleanup_free_ char *lock = NULL;
        _cleanup_close_ int fd = -EBADF;

        if (asprintf(&lock, "%s.lock", path) < 0)
                return -ENOMEM;
        fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
        if (fd < 0)
                return negative_errno();
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return negative_errno();
                if (--attempts == 0)
                        return -EADDRINUSE;
                (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &lock_pause, NULL);
        }
        server->lock_fd = TAKE_FD(fd);
        return 0;
}

/* Removes the socket of a daemon that has died. -EADDRINUSE if one lives, -ENOTSOCK if it is something else. */
static int remove_stale(const struct sockaddr_un *address) {
        _cleanup_close_ int fd = -EBADF;
        struct stat st;

        if (lstat(address->sun_path, &st) < 0)
                return errno == ENOENT ? 0 : negative_errno();
        if (!S_ISSOCK(st.st_mode))
                return -ENOTSOCK;
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return negative_errno();
        if (connect(fd, (const struct sockaddr *) address, sizeof(*address)) == 0 || errno == EAGAIN || errno == EPROTOTYPE)
                return -EADDRINUSE;
        if (errno != ECONNREFUSED)
                return negative_errno();
        return unlink(address->sun_path) < 0 ? negative_errno() : 0;
}

static int listen_on(struct server *server, const char *path, bool user, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_un address;
        mode_t mask;
        int r;

        r = make_address(path, &address);
        if (r < 0)
                return r;
        r = make_directory(path, user);
        if (r < 0)
                return r;
        r = take_lock(server, path, 1);
        if (r < 0)
                return r;
        r = remove_stale(&address);
        if (r < 0)
                return r;
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return negative_errno();

        /* Credentials decide, not the socket's mode; a per-user daemon is nobody else's business. */
        mask = umask(user ? 0177 : 0111);
        r = bind(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ? negative_errno() : 0;
        (void) umask(mask);
        if (r < 0)
                return r;
        server->path = strdup(path);
        if (!server->path || listen(fd, SOMAXCONN) < 0) {
                r = server->path ? negative_errno() : -ENOMEM;
                (void) unlink(path);
                return r;
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int adopt_socket(struct server *server, const char *path, int fd) {
        int flags = fcntl(fd, F_GETFL);
        int r;

        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return negative_errno();
        if (server->lock_fd >= 0) {
                /* Another daemon's, that made the socket, and has left it to this one. */
                server->path = strdup(path);
                return server->path ? 0 : -ENOMEM;
        }
        /* The lock keeps the ids that were used; a confined daemon may not be able to have it there. */
        r = take_lock(server, path, LOCK_ATTEMPTS);
        return r == -EADDRINUSE ? r : 0;
}

static const char *explain(int error) {
        switch (-error) {
        case EADDRINUSE:
                return "another daemon listens there already";
        case ENOTSOCK:
                return "there is a file that is no socket";
        case ENAMETOOLONG:
                return "the path is longer than the 107 bytes of a Unix socket's address";
        default:
                return strerror(-error);
        }
}

/* --- ids --- */

uint64_t server_first_id(struct server *server) {
        char text[32] = "";
        uint64_t marked = 0;
        /*
         * The clock alone does while it goes forward: no daemon makes 125,000 segments a second over its
         * whole life. Below 2^53 for another century, as JSON's readers need it.
         */
        uint64_t by_clock = now_realtime_usec() / 8;

        if (server->lock_fd >= 0 && pread(server->lock_fd, text, sizeof(text) - 1, 0) > 0)
                marked = strtoull(text, NULL, 10);
        return MAX(marked, by_clock);
}

void server_note_id(struct server *server, uint64_t next_id) {
        char text[32];
        int n;

        if (next_id + ID_MARGIN < server->marked_id || server->lock_fd < 0)
                return;
        server->marked_id = next_id + ID_BLOCK;
        n = snprintf(text, sizeof(text), "%020" PRIu64 "\n", server->marked_id);
        if (pwrite(server->lock_fd, text, (size_t) n, 0) != n)
                log_warning("cannot note the ids that are used: %s", strerror(errno));
}

/* --- accepting --- */

/*
 * Tells a client that can't be served why, in the form of an answer to its HELLO, whether or not that has come
 * already, and leaves it.
 */
static void turn_away(struct daemon *daemon, uid_t uid, int fd, unsigned status, const struct shmd_wire_refusal *refusal) {
        struct {
                struct shmd_wire_header header;
                struct shmd_wire_hello body;
        } hello = { 0 };
        struct shmd_wire_header header = { .operation = SHMD_OP_HELLO, .status = (uint16_t) status };
        struct wire_fds fds = WIRE_FDS_INIT;

        /* Nobody pays for what one sends who is not let in: it has the same bound as what the others send. */
        if (!session_brings_too_many(daemon, uid, fd) && wire_receive(fd, &hello, sizeof(hello), &fds, MSG_DONTWAIT) > 0)
                header.serial = hello.header.serial;
        (void) wire_send(fd, &header, refusal, sizeof(*refusal), NULL, 0, NULL, 0, MSG_DONTWAIT);
        /* What comes from a client is never closed in the loop: session.c, discard_fds(). */
        for (unsigned i = 0; i < fds.count; i++)
                worker_close(&daemon->discarder, uid, TAKE_FD(fds.fd[i]));
        worker_close(&daemon->discarder, uid, fd);
}

static bool is_administrator(const struct daemon *daemon, const struct credentials *credentials) {
        if (credentials->uid == 0 || (daemon->options->user && credentials->uid == geteuid()))
                return true;
        return daemon->config.administrators != (gid_t) -1 && credentials_in_group(credentials, daemon->config.administrators);
}

static void take_client(struct server *server, int fd) {
        struct daemon *daemon = server->daemon;
        struct credentials credentials = { 0 };
        struct shmd_wire_refusal refusal = { 0 };
        struct charge charge = { 0 }, descriptor = { 0 };
        struct session *session;
        int r;

        r = peer_credentials(fd, &credentials);
        if (r == 0)
                r = quota_charge(&daemon->quota, credentials.uid, QUOTA_CONNECTIONS, 1, &charge, &refusal);
        if (r == 0)
                r = quota_charge(&daemon->quota, credentials.uid, QUOTA_DESCRIPTORS, 1, &descriptor, &refusal);
        if (r != 0) {
                uid_t uid = credentials.uid;
                unsigned status = r < 0 ? status_from_errno(r) : (unsigned) r;

                report_turned_away(daemon, &credentials, status, &refusal);
                charge_done(&charge);
                credentials_done(&credentials);
                turn_away(daemon, uid, fd, status, &refusal);
                return;
        }
        credentials.administrator = is_administrator(daemon, &credentials);
        if (session_new(daemon, fd, &credentials, &session) < 0) {
                charge_done(&charge);
                charge_done(&descriptor);
                return;
        }
        session->charge = charge;
        session->descriptor = descriptor;
        (void) event_del(server->idle_event);
}

static void pause_accepting(struct server *server) {
        (void) event_del(server->event);
        (void) event_add(server->resume_event, &accept_pause);
}

/* With the descriptor that was kept for this, one client after the other is told why it has to wait. */
static void refuse_for_descriptors(struct server *server) {
        struct shmd_wire_refusal refusal = { .limit = SHMD_LIMIT_DESCRIPTORS };
        int fd;

        refusal.maximum = refusal.used = server->daemon->descriptors_max;
        refusal.requested = 1;
        server->spare_fd = close_fd(server->spare_fd);
        fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
                report_turned_away(server->daemon, NULL, SHMD_NO_DESCRIPTORS, &refusal);
                turn_away(server->daemon, (uid_t) -1, fd, SHMD_NO_DESCRIPTORS, &refusal);
        }
        server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        /* Not even that, or the client's socket is still being closed elsewhere: wait until something is free. */
        if (server->spare_fd < 0)
                pause_accepting(server);
}

static void on_connection(evutil_socket_t listen_fd, short what, void *userdata) {
        struct server *server = userdata;
        int fd;

        (void) what;
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && memfd_shrink(&server->daemon->memfd))
                fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
                take_client(server, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                refuse_for_descriptors(server);
}

static void on_resume(evutil_socket_t fd, short what, void *userdata) {
        struct server *server = userdata;

        (void) fd;
        (void) what;
        if (server->spare_fd < 0)
                server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (server->spare_fd < 0)
                pause_accepting(server);
        else
                (void) event_add(server->event, NULL);
}

static void on_idle(evutil_socket_t fd, short what, void *userdata) {
        struct server *server = userdata;

        (void) fd;
        (void) what;
        if (server->count == 0 && daemon_may_rest(server->daemon)) {
                log_info("idle, exiting");
                (void) event_base_loopbreak(server->daemon->base);
        }
}

void server_consider_idle(struct server *server) {
        struct timeval wait = { .tv_sec = server->daemon->options->idle_exit_sec };

        if (wait.tv_sec < 0 || !server->idle_event || server->count > 0 || !daemon_may_rest(server->daemon))
                return;
        (void) event_add(server->idle_event, &wait);
}

struct session *server_find(struct server *server, uint64_t client_key) {
        struct session *session;

        TAILQ_FOREACH(session, &server->sessions, entry)
                if (session->client.key == client_key)
                        return session;
        return NULL;
}

void server_forget(struct server *server, struct session *session) {
        TAILQ_REMOVE(&server->sessions, session, entry);
        server->count--;
}

int server_init(struct server *server, struct daemon *daemon, const char *path, int listen_fd, int lock_fd) {
        int r;

        *server = (struct server) { .daemon = daemon, .lock_fd = lock_fd, .listen_fd = listen_fd, .spare_fd = -EBADF };
        TAILQ_INIT(&server->sessions);
        if (listen_fd >= 0)
                r = adopt_socket(server, path, listen_fd);
        else
                r = listen_on(server, path, daemon->options->user, &server->listen_fd);
        if (r < 0) {
                log_error("cannot listen on %s: %s", path, explain(r));
                return r;
        }
        server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        server->event = event_new(daemon->base, server->listen_fd, EV_READ | EV_PERSIST, on_connection, server);
        server->resume_event = evtimer_new(daemon->base, on_resume, server);
        server->idle_event = evtimer_new(daemon->base, on_idle, server);
        if (!server->event || !server->resume_event || !server->idle_event || event_add(server->event, NULL) < 0)
                return -ENOMEM;
        server_consider_idle(server);
        return 0;
}

void server_leave_socket(struct server *server) {
        free(TAKE_PTR(server->path));
}

void server_done(struct server *server) {
        struct session *session;

        while ((session = TAILQ_FIRST(&server->sessions)))
                session_close(session);
        if (server->event)
                event_free(TAKE_PTR(server->event));
        if (server->resume_event)
                event_free(TAKE_PTR(server->resume_event));
        if (server->idle_event)
                event_free(TAKE_PTR(server->idle_event));
        if (server->path)
                (void) unlink(server->path);
        free(TAKE_PTR(server->path));
        server->listen_fd = close_fd(server->listen_fd);
        server->spare_fd = close_fd(server->spare_fd);
        server->lock_fd = close_fd(server->lock_fd);
}
