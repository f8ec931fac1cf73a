/* SPDX-License-Identifier: MIT */
/*
 * What the files of libshmd know of each other. Nothing here is exported.
 *
 *   segment, manage, query, posix    the public operations: each encodes a request and decodes its reply
 *   connection                       where the daemon is; the connection's life: made, forked, lost, made anew
 *   autostart                        the per-user daemon, started
 *   call                             one request under way: sent, waited for, its reply checked
 *   process                          what concerns the whole process: forks, the umask
 *   error                            the last failure, and its words
 *
 * Internal functions return 0 or a negative errno value. Whoever finds a failure records
 * it in the connection (failure_*), those above only pass it on.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <bsd/sys/queue.h>
#include "tree.h"

#include "name.h"
#include "operation.h"
#include "protocol.h"
#include "shmd.h"
#include "status.h"
#include "util.h"
#include "wire.h"

/* --- error --- */

enum failure_kind {
        FAILURE_NONE,
        FAILURE_ERRNO,   /* error says it all */
        FAILURE_WORDS,   /* words say it better */
        FAILURE_NAME,    /* verdict: why the name is none */
        FAILURE_REFUSED, /* the daemon said no: status, refusal */
        FAILURE_CONNECT, /* nobody could be reached at subject, a path */
        FAILURE_GONE,    /* somebody listened at subject and went away at once */
        FAILURE_START,   /* the daemon could not be started; subject is its program or a path in the way */
};

/* The last failure, as it was found; words are made of it when somebody asks. */
struct failure {
        enum failure_kind kind;
        int error; /* positive */
        unsigned status;
        enum name_verdict verdict;
        const char *words; /* static */
        struct shmd_wire_refusal refusal;
        char subject[128]; /* cut short if need be */
};

/* Each records a failure and returns the negative errno value that belongs to it. */
int failure_errno(struct failure *failure, int error);
int failure_words(struct failure *failure, int error, const char *words);
int failure_name(struct failure *failure, enum name_verdict verdict);
int failure_refused(struct failure *failure, unsigned status, const struct shmd_wire_refusal *refusal);
int failure_connect(struct failure *failure, int error, const char *path);
int failure_gone(struct failure *failure, const char *path); /* -ECONNREFUSED */
int failure_start(struct failure *failure, int error, const char *program_or_path);

/* The failure of a connection that never came to be: kept for this thread's shmd_error_message(NULL). */
void failure_keep_for_thread(const struct failure *failure);

/* --- process --- */

/*
 * Zeroed by the kernel in a forked child (MADV_WIPEONFORK), or by a fork handler where the kernel is too
 * old: so a child notices that it is one without a system call, and the lock is free, whoever held it in its
 * parent. A mutex of zeros is an unlocked one, in glibc as in musl.
 */
struct process_page {
        atomic_uint epoch; /* differs from that of all ancestors; zero: not chosen yet */
        pthread_mutex_t default_lock; /* of posix.c */
};
extern struct process_page *process_page;

/* Must have succeeded before anything else here is used. 0 or -ENOMEM. */
int process_init(void);
unsigned process_epoch_new(void);

/* Which process this is, among its ancestors. Never zero. */
static inline unsigned process_epoch(void) {
        unsigned epoch = atomic_load_explicit(&process_page->epoch, memory_order_relaxed);

        return epoch != 0 ? epoch : process_epoch_new();
}

/* A forked child closes the sockets of registered connections at once, lest the daemon takes it for its parent. */
void process_register(struct shmd *connection);
void process_unregister(struct shmd *connection);

/* The calling thread's umask, without changing it. */
mode_t process_umask(void);

/* --- call --- */

/* Tail and descriptor are borrowed until it is sent. */
struct request {
        enum shmd_operation operation;
        bool repeatable; /* may be executed twice, should the connection be lost before the reply */
        const void *body; /* the operation's fixed structure */
        const void *tail;
        size_t tail_size;
        const int *fds; /* as many as the operation's row says */
};

/* A reply that has been checked against the operation's row. It stands in the connection's buffer: valid until
 * the next message is received. Descriptors that are not taken are closed then. */
struct reply {
        unsigned status; /* SHMD_OK, or what body points to is a struct shmd_wire_refusal */
        const void *body;
        const uint8_t *tail;
        size_t tail_size;
        struct wire_fds *fds;
        bool fds_lost; /* this process has no descriptors left: some did not arrive, and no tail either */
};

/* A request that was sent, in the connection's queue until its reply comes or the connection is lost. */
struct call {
        TAILQ_ENTRY(call) entry;
        const struct operation *operation;
        uint32_t serial;
        /* Called once, when it has left the queue: with 0 and a reply, or a negative errno value and NULL. */
        void (*complete)(struct call *call, int result, const struct reply *reply);
};

TAILQ_HEAD(call_queue, call);

/*
 * Sends a request; its call is completed by a later call_receive(). -EPIPE: the connection is lost and
 * the request did not reach the daemon; other errors leave the connection as it is.
 */
int call_submit(struct shmd *connection, struct call *call, const struct request *request);

/* Sends a request that has no reply. Errors as call_submit(). */
int call_send(struct shmd *connection, const struct request *request);

/* Waits for one message and completes its call. -ECONNRESET, -EPROTO: the connection is lost, all are completed. */
int call_receive(struct shmd *connection);

/* Sends a request and waits for its reply, whatever its status. Errors as both of the above. */
int call_perform(struct shmd *connection, const struct request *request, struct reply *ret_reply);

/* Copies the fixed structure of a reply that must have no tail. -EPROTO. */
int reply_read(struct shmd *connection, const struct reply *reply, void *ret_body, size_t size);

/* Records the daemon's refusal, and gives its errno value. */
int reply_refused(struct shmd *connection, const struct reply *reply);

/* --- connection --- */

/* The counters by which an answer that was kept is known to be still right. */
struct generations {
        int fd; /* -EBADF once it is mapped, or known to be none */
        uint32_t count;
        const atomic_uint *slots;
};

/* One hold that the daemon counts, and what belongs to it. Private ones are in the list alone. */
struct hold {
        RB_ENTRY(hold) by_id;
        RB_ENTRY(hold) by_name;
        LIST_ENTRY(hold) entry;
        LIST_HEAD(, shmd_segment) segments; /* what the program has of it; it ends with the last */
        struct shmd *connection;
        uint64_t id;
        uint64_t size;
        char *name; /* while it is in the tree of names, or waits to be; without the leading slash */
        size_t name_size;
        void *address; /* NULL: not mapped */
        enum shmd_access access;
        int fd;
        uint32_t generation;
        bool current; /* generation can be compared with the daemon's page */
        bool counted; /* by the daemon, for this very connection */
        bool private;
        bool in_ids, in_names;
};

RB_HEAD(hold_ids, hold);
RB_HEAD(hold_names, hold);

struct shmd_segment {
        LIST_ENTRY(shmd_segment) entry;
        struct hold *hold;
        bool created;
};

/*
 * Invariants: socket_fd is a descriptor exactly while requests can be sent; calls is empty
 * without one. The socket is this process's own only while epoch is process_epoch(): what sends
 * has asked connection_is_ready() or connection_prepare() before.
 */
struct shmd {
        LIST_ENTRY(shmd) process_entry;
        int socket_fd;
        unsigned epoch;  /* of the process that made socket_fd; zero: none has */
        bool autostart;  /* the daemon at path may be started */
        bool unobtrusive; /* takes no low descriptor numbers, keeps no answers: posix.c */
        char *path;
        uint64_t instance; /* of the daemon */
        uint32_t serial;   /* the last one used */
        struct call_queue calls;
        struct generations generations;
        LIST_HEAD(, hold) holds;
        struct hold_ids ids;
        struct hold_names names;
        struct failure failure;
        char message[512];
        struct wire_fds fds; /* of the last message received */
        uint64_t buffer[SHMD_MESSAGE_MAX / sizeof(uint64_t)];
};

/* As shmd_connect(NULL), with descriptor numbers that no program expects to get. */
int connection_new_unobtrusive(struct shmd **ret_connection);

/* Whether requests can be sent: it has a socket, made by this process. */
static inline bool connection_is_ready(const struct shmd *connection) {
        return connection->socket_fd >= 0 && connection->epoch == process_epoch();
}

/* Makes it ready: in a forked child, or after the daemon went away, by a new connection with the old holds. */
int connection_prepare(struct shmd *connection);

/* Prepares, performs, and once more if the connection was lost and that can do no harm. Refusals are errors here. */
int connection_call(struct shmd *connection, const struct request *request, struct reply *ret_reply);

/* The connection is of no use any more: all calls are completed with an error, holds stay as they are. */
void connection_lose(struct shmd *connection, int error);

/* The peer broke the protocol: loses the connection, returns -EPROTO. */
int connection_break(struct shmd *connection);

/* The daemon's page of generations, or NULL. */
const atomic_uint *generations_map(struct generations *generations);

/* One socket, connected. 0 or -errno as connect(2); -EPROTO: it is no SOCK_SEQPACKET socket. */
int socket_connect(const char *path, int *ret_fd);

/* --- autostart --- */

/* Nobody listens at path in the per-user directory: starts the daemon. Afterwards one can connect. */
int autostart_daemon(const char *path, struct failure *failure);

/* --- segment --- */

/* What a request is about, checked: an id, or a name. */
struct target {
        struct shmd_wire_target wire;
        const char *name; /* the tail; borrowed */
        size_t name_size;
};

/* 0; -EINVAL, -ENAMETOOLONG, -ENOENT with the failure recorded. */
int target_by_name(struct shmd *connection, const char *name, struct target *ret_target);
int target_by_id(struct shmd *connection, uint64_t id, struct target *ret_target);

/* An OPEN or CREATE that succeeded; owns the descriptor. */
struct opened {
        struct shmd_wire_opened wire;
        int fd;
};

/* The calls themselves, without keeping anything of them. */
int call_open(struct shmd *connection, const struct target *target, uint32_t flags, struct opened *ret_opened);
int call_create(struct shmd *connection, const struct target *name, struct shmd_wire_create *request,
                const char *labels, struct opened *ret_opened);

/* Shows the daemon what is held, on a new connection. Its refusal is no failure: the hold is then not counted. */
int hold_resume(struct hold *hold);

/* Ends a hold and frees it with all its segments; tells the daemon if the connection is ready. Returns NULL. */
struct hold *hold_free(struct hold *hold);
