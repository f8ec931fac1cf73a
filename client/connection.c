/* SPDX-License-Identifier: MIT */
/*
 * A connection's life: found, made, greeted; made anew in a forked child and after the daemon has
 * gone; ended.
 *
 * Owns the socket and the page of generations. HELLO is answered before shmd_connect() returns: only so can
 * it tell "no daemon", "another service" and "refused" apart, and it costs one round trip in a connection's life.
 *
 * After a renewal every hold has been shown to the daemon again, and every watch is set again; what it didn't want to
 * count stays usable. What had no answer before a loss is sent again, marked so (SHMD_WIRE_REPEATED): the daemon does
 * nothing twice. In a forked child, watches and what was submitted are its parent's.
 */
#include "internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define SYSTEM_SOCKET "/run/shmd/shmd.sock"
#define USER_SOCKET "/shmd/shmd.sock" /* below $XDG_RUNTIME_DIR */

/* A daemon that was idle may go just when we come, or be killed while it comes back; so often we come again. */
#define ATTEMPTS_MAX 16

/* --- the page of generations --- */

static void generations_done(struct generations *generations) {
        if (generations->slots)
                (void) munmap((void *) generations->slots, generations->count * sizeof(atomic_uint));
        close_fd(generations->fd);
        *generations = (struct generations) { .fd = -EBADF };
}

/* Large enough, and sealed to stay so: reading it can't end in SIGBUS. */
static bool generations_are_safe(int fd, size_t size) {
        struct stat st;
        int seals = fcntl(fd, F_GET_SEALS);

        return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &st) == 0 && (uint64_t) st.st_size >= size;
}

/* At the first question rather than at connect: who opens one segment and goes never asks. */
const atomic_uint *generations_map(struct generations *generations) {
        size_t size = generations->count * sizeof(atomic_uint);
        void *page;

        if (generations->fd < 0)
                return generations->slots;

        if (generations_are_safe(generations->fd, size)) {
                page = mmap(NULL, size, PROT_READ, MAP_SHARED, generations->fd, 0);
                if (page != MAP_FAILED)
                        generations->slots = page;
        }
        generations->fd = close_fd(generations->fd);
        return generations->slots;
}

/* --- the socket --- */

int socket_connect_fd(int fd, const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        size_t length = strlen(path);
        int r;

        if (length >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, length + 1);
        do
                r = connect(fd, (const struct sockaddr *) &address, sizeof(address));
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return errno == EPROTOTYPE ? -EPROTO : negative_errno();
        return 0;
}

int socket_connect(const char *path, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF;
        int r;

        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return negative_errno();
        r = socket_connect_fd(fd, path);
        if (r == 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

/* -ECONNRESET: the daemon was started, and has gone. */
static int socket_open(struct shmd *connection) {
        int r, fd;

        r = socket_connect(connection->path, &fd);
        if ((r == -ENOENT || r == -ECONNREFUSED) && connection->autostart) {
                r = autostart_daemon(connection->path, &connection->failure);
                if (r < 0)
                        return r;
                r = socket_connect(connection->path, &fd);
                if (r == -ECONNREFUSED || r == -ENOENT) /* it was there a moment ago */
                        return -ECONNRESET;
        }
        if (r < 0)
                return failure_connect(&connection->failure, r, connection->path);

        connection->socket_fd = fd;
        connection->epoch = process_epoch();
        r = loop_add_socket(connection);
        if (r < 0) {
                connection->socket_fd = close_fd(connection->socket_fd);
                return failure_errno(&connection->failure, r);
        }
        return 0;
}

/* A socket of this process, while its own loop lasts. */
static void socket_close(struct shmd *connection) {
        if (connection->socket_fd < 0)
                return;
        loop_remove_socket(connection);
        connection->socket_fd = close_fd(connection->socket_fd);
}

/* --- its token --- */

/* By which a daemon that was restarted knows it again. Without one it is a new client then. */
static void connection_choose_token(struct shmd *connection) {
        if (getrandom(&connection->token, sizeof(connection->token), GRND_NONBLOCK) != sizeof(connection->token))
                connection->token = 0;
}

uint64_t connection_creation_token(struct shmd *connection) {
        return connection->token ? connection->token + ++connection->creations : 0;
}

/* --- losing it --- */

void connection_lose(struct shmd *connection, int error) {
        struct call *call;

        socket_close(connection);
        failure_words(&connection->failure, error,
                      error == -EPROTO ? "the peer breaks the protocol" : "the daemon went away before it answered");
        while ((call = call_take_first(connection)))
                call->complete(call, error, NULL);
}

int connection_break(struct shmd *connection) {
        connection_lose(connection, -EPROTO);
        return -EPROTO;
}

/* Nobody is told: neither the daemon, nor the program of what it has submitted and watched. */
static void connection_drop_calls(struct shmd *connection) {
        TAILQ_INIT(&connection->calls);
        RB_INIT(&connection->late_calls);
        watches_drop(connection);
        asyncs_drop(connection);
}

/* What a parent process left behind is its own business. Its loop goes first, as our closing must not touch it. */
static void connection_disinherit(struct shmd *connection) {
        loop_done(&connection->loop);
        connection->socket_fd = close_fd(connection->socket_fd);
        connection_choose_token(connection);
        connection_drop_calls(connection);
}

static bool connection_is_inherited(const struct shmd *connection) {
        return connection->epoch != 0 && connection->epoch != process_epoch();
}

/* The holds stay. */
static void connection_abandon(struct shmd *connection) {
        if (connection_is_inherited(connection))
                connection_disinherit(connection);
        socket_close(connection);
        holds_tell_ended(connection);
        wire_fds_done(&connection->fds);
        generations_done(&connection->generations);
}

/* --- HELLO --- */

static int hello_read(struct shmd *connection, const struct reply *reply) {
        struct shmd_wire_hello_reply hello;
        int r;

        r = reply_read(connection, reply, &hello, sizeof(hello));
        if (r < 0)
                return r;
        if (hello.version != SHMD_PROTOCOL_VERSION || hello.padding != 0 ||
            hello.generation_slots > GENERATION_SLOTS_MAX)
                return connection_break(connection);

        connection->instance = hello.instance;
        if (reply->fds->count == 1 && hello.generation_slots > 0) {
                connection->generations.fd = TAKE_FD(reply->fds->fd[0]);
                connection->generations.count = hello.generation_slots;
        }
        wire_fds_done(reply->fds);
        return 0;
}

static int connection_greet(struct shmd *connection) {
        const struct shmd_wire_hello hello = {
                .version_min = SHMD_PROTOCOL_VERSION,
                .version_max = SHMD_PROTOCOL_VERSION,
                .token = connection->token,
        };
        struct reply reply;
        int r;

        r = call_greet(connection, &hello, &reply);
        if (r == 0)
                r = reply.status == SHMD_OK ? hello_read(connection, &reply) : reply_refused(&connection->failure, &reply);
        if (r < 0)
                socket_close(connection);
        return r;
}

static int connection_establish(struct shmd *connection) {
        int r, attempt = 0;

        do {
                r = socket_open(connection);
                if (r == 0)
                        r = connection_greet(connection);
        } while (r == -ECONNRESET && ++attempt < ATTEMPTS_MAX);

        if (r == -ECONNRESET) /* to those who ask, that is no daemon */
                return failure_gone(&connection->failure, connection->path);
        if (r == -EPROTO)
                return failure_connect(&connection->failure, r, connection->path);
        return r;
}

/* --- making it anew --- */

static int holds_resume(struct shmd *connection, bool same_daemon) {
        struct hold *hold;
        int r;

        /* Another daemon counts generations anew: what was kept can't be compared with them. */
        LIST_FOREACH(hold, &connection->holds, entry) {
                hold->counted = false;
                hold->current = hold->current && same_daemon;
        }
        LIST_FOREACH(hold, &connection->holds, entry) {
                r = hold_resume(hold);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int connection_make_anew(struct shmd *connection) {
        uint64_t instance = connection->instance;
        int r;

        connection_abandon(connection);
        r = connection_establish(connection);
        if (r < 0)
                return r;
        r = holds_resume(connection, connection->instance == instance);
        return r < 0 ? r : watches_resume(connection);
}

static int connection_renew(struct shmd *connection) {
        int r, attempt = 0;

        do
                r = connection_make_anew(connection);
        while ((r == -EPIPE || r == -ECONNRESET) && ++attempt < ATTEMPTS_MAX);
        if (r < 0) {
                socket_close(connection); /* half a renewal is none */
                asyncs_give_up(connection);
                return r == -EPIPE ? -ECONNRESET : r;
        }
        asyncs_repeat(connection);
        return 0;
}

int connection_prepare(struct shmd *connection) {
        return connection_is_ready(connection) ? 0 : connection_renew(connection);
}

/* Surely not executed; or perhaps, and then the daemon knows: SHMD_WIRE_REPEATED. */
static bool is_to_be_repeated(const struct request *request, int error) {
        return error == -EPIPE || (error == -ECONNRESET && !request->of_connection);
}

int connection_call(struct shmd *connection, const struct request *request, struct reply *ret_reply) {
        struct request repeated = *request;
        int r, attempt = 0;

        r = connection_prepare(connection);
        if (r < 0)
                return r;
        r = call_perform(connection, &repeated, &repeated.serial, ret_reply);
        while (is_to_be_repeated(request, r) && ++attempt < ATTEMPTS_MAX) {
                r = connection_renew(connection);
                if (r < 0)
                        return r;
                r = call_perform(connection, &repeated, &repeated.serial, ret_reply);
        }
        if (r < 0)
                return r == -EPIPE ? -ECONNRESET : r;
        return ret_reply->status == SHMD_OK ? 0 : reply_refused(&connection->failure, ret_reply);
}

int connection_submit(struct shmd *connection, struct call *call, const struct request *request, enum patience patience) {
        int r;

        r = connection_prepare(connection);
        if (r < 0)
                return r;
        r = call_submit(connection, call, request, patience);
        if (r == -EPIPE) {
                r = connection_prepare(connection);
                if (r == 0)
                        r = call_submit(connection, call, request, patience);
        }
        return r == -EPIPE ? -ECONNRESET : r;
}

/* --- finding a daemon --- */

static int connect_at(struct shmd *connection, const char *path, bool autostart) {
        char *copy;

        copy = strdup(path);
        if (!copy)
                return failure_errno(&connection->failure, -ENOMEM);
        free(connection->path);
        connection->path = copy;
        connection->autostart = autostart;
        return connection_establish(connection);
}

static int connect_system(struct shmd *connection) {
        return connect_at(connection, SYSTEM_SOCKET, false);
}

static bool autostart_is_wanted(void) {
        const char *word = secure_getenv("SHMD_AUTOSTART");

        return !word || strcmp(word, "0") != 0;
}

static int connect_user(struct shmd *connection, const char *without_directory) {
        const char *directory = secure_getenv("XDG_RUNTIME_DIR");
        _cleanup_free_ char *path = NULL;

        if (!directory || directory[0] != '/')
                return failure_words(&connection->failure, -ENOENT, without_directory);
        path = malloc(strlen(directory) + sizeof(USER_SOCKET));
        if (!path)
                return failure_errno(&connection->failure, -ENOMEM);
        stpcpy(stpcpy(path, directory), USER_SOCKET);
        return connect_at(connection, path, autostart_is_wanted());
}

static int connect_default(struct shmd *connection) {
        const char *path = secure_getenv("SHMD_SOCKET");
        int r;

        if (path && path[0] != '\0')
                return connect_at(connection, path, false);
        r = connect_system(connection);
        if (r != -ENOENT)
                return r;
        return connect_user(connection, "no daemon: $XDG_RUNTIME_DIR is not set, and " SYSTEM_SOCKET " is not there");
}

static struct shmd *connection_new(void) {
        struct shmd *connection = malloc(sizeof(*connection));

        if (!connection)
                return NULL;
        /* Not the buffer: most of its pages are never touched. */
        memset(connection, 0, offsetof(struct shmd, fds));
        connection->fds.count = 0;
        connection->socket_fd = -EBADF;
        connection->generations.fd = -EBADF;
        connection_choose_token(connection);
        TAILQ_INIT(&connection->calls);
        RB_INIT(&connection->late_calls);
        LIST_INIT(&connection->holds);
        LIST_INIT(&connection->ended_holds);
        RB_INIT(&connection->ids);
        RB_INIT(&connection->names);
        TAILQ_INIT(&connection->asyncs);
        TAILQ_INIT(&connection->asyncs_to_repeat);
        LIST_INIT(&connection->watches);
        RB_INIT(&connection->watch_keys);
        loop_init(&connection->loop);
        process_register(connection);
        return connection;
}

static int connection_start(int (*connect_function)(struct shmd *, const char *), const char *path,
                            struct shmd **ret_connection) {
        struct shmd *connection = NULL;
        struct failure failure = { .kind = FAILURE_NONE };
        int r;

        r = process_init();
        if (r >= 0)
                connection = connection_new();
        if (!connection) {
                failure_errno(&failure, -ENOMEM);
                failure_keep_for_thread(&failure);
                return -ENOMEM;
        }

        r = connect_function(connection, path);
        if (r < 0) {
                failure_keep_for_thread(&connection->failure);
                shmd_disconnect(connection);
                return r;
        }
        *ret_connection = connection;
        return 0;
}

static int connect_as_asked(struct shmd *connection, const char *path) {
        return path ? connect_at(connection, path, false) : connect_default(connection);
}

static int connect_as_system(struct shmd *connection, const char *path) {
        (void) path;
        return connect_system(connection);
}

static int connect_as_user(struct shmd *connection, const char *path) {
        (void) path;
        return connect_user(connection, "no daemon: $XDG_RUNTIME_DIR is not set, where a user's own listens");
}

_public_ int shmd_connect(const char *socket_path, struct shmd **ret_connection) {
        return connection_start(connect_as_asked, socket_path, ret_connection);
}

_public_ int shmd_connect_system(struct shmd **ret_connection) {
        return connection_start(connect_as_system, NULL, ret_connection);
}

_public_ int shmd_connect_user(struct shmd **ret_connection) {
        return connection_start(connect_as_user, NULL, ret_connection);
}

/* The daemon ends all holds when the socket is closed: so that comes last, when nothing is held any more. */
_public_ struct shmd *shmd_disconnect(struct shmd *connection) {
        struct hold *hold;

        if (!connection)
                return NULL;
        process_unregister(connection);
        if (connection_is_inherited(connection))
                connection_disinherit(connection);
        connection_drop_calls(connection);
        while ((hold = LIST_FIRST(&connection->holds))) {
                hold->counted = false;
                hold_free(hold);
        }
        connection_abandon(connection);
        loop_done(&connection->loop);
        free(connection->path);
        free(connection);
        return NULL;
}

_public_ const char *shmd_socket_path(struct shmd *connection) {
        return connection->path;
}

_public_ const char *shmd_version(void) {
        return PACKAGE_VERSION;
}
