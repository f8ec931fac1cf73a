/* SPDX-License-Identifier: MIT */
/*
 * What the files of libshmd know of each other. Nothing here is exported.
 *
 *   segment, create, publish, many, manage, query, watch, posix
 *                    the public operations: each encodes a request and decodes its reply
 *   sync             the control memory beside a segment; in it: lock, sequence, bell (sync.h)
 *   lock_users       who holds a lock and who waits, as that memory tells it
 *   sysv             SysV segments of the kernel
 *   mappers          who has a segment's memory, from /proc
 *   async            calls that were submitted, until their functions are called
 *   loop             what shmd_dispatch() has to tell, and the descriptor to poll
 *   hold             what the connection holds
 *   connection       where the daemon is; the connection's life: made, forked, lost, made anew
 *   autostart        the per-user daemon, started
 *   call             one request under way: sent, waited for, its reply checked
 *   channel          the sockets of the POSIX calls
 *   recent           what was opened by POSIX calls lately
 *   process          what concerns the whole process: forks, the umask
 *   memory           how much memory there is
 *   error            the last failure, and its words
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
#include <time.h>

#include <bsd/sys/queue.h>
#include "tree.h"

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#define SINGLE_THREADED __libc_single_threaded
#else
#define SINGLE_THREADED false
#endif

#include "name.h"
#include "operation.h"
#include "proc.h"
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
        FAILURE_MEMORY,  /* less memory than is wanted up front: refusal's requested and maximum; subject: where */
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
int failure_memory(struct failure *failure, uint64_t wanted, uint64_t available, const char *where); /* -ENOMEM */

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
        pthread_mutex_t sync_lock; /* of sync.c */
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

/* This process, as struct shmd_wire_create has its keeper; zero: /proc does not tell. */
uint64_t process_keeper(void);

/* The calling thread's umask. */
mode_t process_umask(void);

/* Its inode number, which is its name; zero where /proc does not tell, which no daemon takes for its own. */
uint64_t process_ipc_namespace(void);

/* CLOCK_MONOTONIC_COARSE: read in a few nanoseconds, some milliseconds behind. */
static inline uint64_t coarse_usec(void) {
        struct timespec now;

        (void) clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* So long a name may stand for what it stood for with a daemon that has been killed. */
#define DAEMON_LOOK_USEC UINT64_C(100000)

/* CLOCK_MONOTONIC. */
static inline uint64_t now_usec(void) {
        struct timespec now;

        (void) clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* --- memory --- */

/* Bytes that can be allocated without somebody being killed for it, and what sets that limit. */
uint64_t memory_available(char (*ret_where)[128]);

/* --- call --- */

/* Tail and descriptors are borrowed until it is sent. */
struct request {
        enum shmd_operation operation;
        bool of_connection; /* means nothing on another connection, should this one be lost before the reply */
        uint32_t serial; /* not zero: it was sent with that one before, and the connection was lost before the reply */
        bool late;       /* is answered in its own time, not in order */
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
        bool fds_lost; /* this process has no descriptors left: only the first of them arrived */
};

/* A request that was sent, in the connection's keeping until its reply comes or the connection is lost. */
struct call {
        TAILQ_ENTRY(call) entry;  /* of those that are answered in order */
        RB_ENTRY(call) by_serial; /* of the others */
        const struct operation *operation;
        uint32_t serial;
        bool late;
        /*
         * Called once, when it has been answered or lost: with 0 and a reply, or a negative errno value and NULL. May
         * send, but neither wait for room nor receive.
         */
        void (*complete)(struct call *call, int result, const struct reply *reply);
};

TAILQ_HEAD(call_queue, call);
RB_HEAD(call_tree, call);

/* What to do when there is no room to send. */
enum patience {
        WAIT_FOR_ROOM, /* and take what comes meanwhile */
        DO_NOT_WAIT,   /* -EAGAIN */
};

/*
 * Sends a request; its call is completed by a later call_receive(). -EPIPE: the connection is lost and
 * the request did not reach the daemon; other errors leave the connection as it is.
 */
int call_submit(struct shmd *connection, struct call *call, const struct request *request, enum patience patience);

/* Sends a request that has no reply, without waiting for room. Errors as call_submit(). */
int call_send(struct shmd *connection, const struct request *request);

/* Whether replies are to come. */
bool call_is_pending(const struct shmd *connection);

/* Takes one call out that has no reply yet, the one submitted first; NULL if there is none. */
struct call *call_take_first(struct shmd *connection);

/*
 * Receives one message, an answer or an event; flags as for recvmsg(2). -EAGAIN with MSG_DONTWAIT;
 * -ECONNRESET, -EPROTO: the connection is lost, all calls are completed.
 */
int call_receive(struct shmd *connection, int flags);

/* Waits until there is something to receive, or to send; until deadline_usec at the latest. 0 or -ETIMEDOUT. */
int call_wait(struct shmd *connection, bool also_to_send, uint64_t deadline_usec);

/*
 * Sends a request and waits for its reply, whatever its status; ret_serial, unless NULL: what it was sent with. Errors as those of
 * call_submit() and call_receive().
 */
int call_perform(struct shmd *connection, const struct request *request, uint32_t *ret_serial, struct reply *ret_reply);

/* The same for HELLO, which may be refused before it is read. */
int call_greet(struct shmd *connection, const struct shmd_wire_hello *hello, struct reply *ret_reply);

/* Copies the fixed structure of a reply that must have no tail. -EPROTO. */
int reply_read(struct shmd *connection, const struct reply *reply, void *ret_body, size_t size);

/* A reply that says nothing but that it was done. -EPROTO. */
int reply_read_nothing(struct shmd *connection, const struct reply *reply);

/* Records the daemon's refusal, and gives its errno value. */
int reply_refused(struct failure *failure, const struct reply *reply);

/* --- loop --- */

struct notice;
TAILQ_HEAD(notice_queue, notice);

/* Something that shmd_dispatch() has to tell the program; part of what it is about. */
struct notice {
        TAILQ_ENTRY(notice) entry;
        struct notice_queue *queue; /* NULL: in none */
        /*
         * Called when it has been taken out of the queue; gives how many functions it called. Each may do anything with
         * the connection but end it.
         */
        unsigned (*deliver)(struct shmd *connection, struct notice *notice);
};

/* The descriptor that programs poll: readable when shmd_dispatch() has something to do. */
struct loop {
        struct notice_queue notices;
        int poll_fd; /* an epoll instance with the socket and wake_fd; -EBADF: nobody has asked for it yet */
        int wake_fd;
        bool awake;      /* wake_fd is readable */
        bool wants_room; /* a request found none */
        bool dispatching;
};

void loop_init(struct loop *loop);
void loop_done(struct loop *loop);

void notice_queue(struct shmd *connection, struct notice *notice);
void notice_insert(struct notice_queue *queue, struct notice *notice);
void notice_cancel(struct notice *notice);
/* Puts one queue's notices before all that wait. */
void notice_queue_first(struct shmd *connection, struct notice_queue *notices);

/* The socket has come to be, or is about to be closed. */
int loop_add_socket(struct shmd *connection);
void loop_remove_socket(struct shmd *connection);
/* Something could not be sent: dispatching makes sense when there is room. */
void loop_set_wants_room(struct shmd *connection, bool wants_room);

/* --- connection --- */

/* More counters than this are no page of generations. */
#define GENERATION_SLOTS_MAX (1u << 20)

/* The counters by which an answer that was kept is known to be still right. */
struct generations {
        int fd; /* -EBADF once it is mapped, or known to be none */
        uint32_t count;
        const atomic_uint *slots;
};

struct async;
struct watch;
TAILQ_HEAD(async_queue, async);
LIST_HEAD(hold_list, hold);
LIST_HEAD(watch_list, watch);
RB_HEAD(hold_ids, hold);
RB_HEAD(hold_names, hold);
RB_HEAD(watch_keys, watch);

/*
 * Invariants: socket_fd is a descriptor exactly while requests can be sent; calls and late_calls are empty
 * without one. The socket is this process's own only while epoch is process_epoch(): what sends
 * has asked connection_is_ready() or connection_prepare() before.
 */
struct shmd {
        LIST_ENTRY(shmd) process_entry;
        int socket_fd;
        unsigned epoch;  /* of the process that made socket_fd; zero: none has */
        bool autostart;  /* the daemon at path may be started */
        char *path;
        uint64_t instance; /* of the daemon */
        uint64_t token;    /* by which it knows this connection again; zero: not at all */
        uint64_t creations; /* so many have been asked for */
        uint32_t serial;   /* the last one used */
        uint64_t seen_usec; /* CLOCK_MONOTONIC_COARSE: when the daemon was there for certain */
        struct call_queue calls;
        struct call_tree late_calls;
        struct generations generations;
        struct hold_list holds;
        struct hold_list ended_holds; /* which the daemon does not know of yet */
        struct hold_ids ids;
        struct hold_names names;
        struct async_queue asyncs; /* submitted, or done and not yet told */
        struct async_queue asyncs_to_repeat;
        struct watch_list watches;
        struct watch_keys watch_keys;
        uint64_t last_watch; /* number */
        unsigned events_count;
        struct loop loop;
        struct failure failure;
        char message[512];
        struct wire_fds fds; /* of the last message received */
        uint64_t buffer[SHMD_MESSAGE_MAX / sizeof(uint64_t)];
};

/* Whether requests can be sent: it has a socket, made by this process. */
static inline bool connection_is_ready(const struct shmd *connection) {
        return connection->socket_fd >= 0 && connection->epoch == process_epoch();
}

/* Makes it ready: in a forked child, or after the daemon went away, by a new connection with the old holds and watches. */
int connection_prepare(struct shmd *connection);

/* For a request that makes something: differs each time, also from those of other connections. */
uint64_t connection_creation_token(struct shmd *connection);

/* Prepares, performs, and again if the connection was lost before the reply. Refusals are errors here. */
int connection_call(struct shmd *connection, const struct request *request, struct reply *ret_reply);

/* Prepares and submits; once more if the connection proves to be lost. */
int connection_submit(struct shmd *connection, struct call *call, const struct request *request, enum patience patience);

/* The connection is of no use any more: all calls are completed with an error, holds stay as they are. */
void connection_lose(struct shmd *connection, int error);

/* The peer broke the protocol: loses the connection, returns -EPROTO. */
int connection_break(struct shmd *connection);

/* The daemon's page of generations, or NULL. */
const atomic_uint *generations_map(struct generations *generations);

/* One socket, connected. 0 or -errno as connect(2); -EPROTO: it is no SOCK_SEQPACKET socket. */
int socket_connect(const char *path, int *ret_fd);
/* With a socket of the caller's, which may be tried again if it fails. */
int socket_connect_fd(int fd, const char *path);

/* --- autostart --- */

/* Nobody listens at path in the per-user directory: starts the daemon. Afterwards one can connect. */
int autostart_daemon(const char *path, struct failure *failure);

/* --- what a request is about --- */

/* Checked: an id, or a name. */
struct target {
        struct shmd_wire_target wire;
        const char *name; /* the tail; borrowed */
        size_t name_size;
};

/* 0; -EINVAL, -ENAMETOOLONG, -ENOENT with the failure recorded. */
int target_by_name(struct shmd *connection, const char *name, struct target *ret_target);
int target_by_id(struct shmd *connection, uint64_t id, struct target *ret_target);

/* --- mappers --- */

/* Whether a process has that memory mapped, as far as can be seen. */
bool process_maps(uint32_t pid, uint64_t device, uint64_t inode);

/* --- sync --- */

struct sync;
struct shmd_segment;
/* A segment of which nobody has used the locks yet. */
void sync_begin(struct shmd_segment *segment);

/* With the hold: what is locked is given up as if this thread had died. */
void sync_free(struct sync *sync);
/* On a new connection: tells the daemon of the bell. 0 or -errno: the connection is lost again. */
int sync_resume(struct hold *hold);

/* --- hold --- */

/* One hold that the daemon counts, and what belongs to it. Private ones are in the list alone. */
struct hold {
        RB_ENTRY(hold) by_id;
        RB_ENTRY(hold) by_name;
        LIST_ENTRY(hold) entry;
        LIST_HEAD(, shmd_segment) segments; /* what the program has of it; it ends with the last */
        struct shmd *connection;
        uint64_t id;
        uint64_t size;
        uint64_t maximum;
        char *name; /* while it is in the tree of names, or waits to be; without the leading slash */
        size_t name_size;
        void *address; /* NULL: not mapped */
        size_t mapped_size;
        enum shmd_access access;
        int fd;
        uint32_t generation;
        bool current; /* generation can be compared with the daemon's page */
        bool counted; /* by the daemon, for this very connection */
        bool private;
        bool single_writer; /* and this is the writer's */
        bool unpublished;
        bool in_list, in_ids, in_names;
        struct sync *_Atomic sync; /* its control memory, once it is used: sync.h */
};

struct shmd_segment {
        LIST_ENTRY(shmd_segment) entry;
        struct hold *hold;
        /* What threads have of the hold's locks, else hot_none: the first of them, and others by their serials: sync.h */
        struct hot *_Atomic hot, *_Atomic hots[8];
        bool created;
};

/* An OPEN or CREATE that succeeded; owns the descriptor, which is -EBADF if this process had no room for it. */
struct opened {
        struct shmd_wire_opened wire;
        int fd;
};

/* A hold to be, with all memory that it takes: once the daemon has said yes nothing may fail. Flags as for shmd_create(). */
int hold_reserve(struct shmd *connection, const struct target *target, unsigned flags, struct hold **ret_hold);

/* A hold that was reserved comes to be. Consumes it and what was opened. -EMFILE: there was no room for the descriptor. */
int hold_admit(struct hold *hold, struct opened *opened, struct shmd_segment **ret_segment);

/* What is held already, and whether its name and permissions are still what they were. */
struct hold *hold_find(struct shmd *connection, const struct target *target, enum shmd_access access);
bool hold_is_current(struct hold *hold);

/* One more reference. */
int hold_add_segment(struct hold *hold, struct shmd_segment **ret_segment);

/* It has its name now. */
void hold_set_published(struct hold *hold);

int hold_map(struct hold *hold);

/* Somebody has told how large a segment is now. */
void holds_set_size(struct shmd *connection, uint64_t id, uint64_t size);

/* Shows the daemon what is held, on a new connection. Its refusal is no failure: the hold is then not counted. */
int hold_resume(struct hold *hold);

/* Ends a hold and frees it with all its segments; tells the daemon if the connection is ready. Returns NULL. */
struct hold *hold_free(struct hold *hold);
void hold_freep(struct hold **hold);

/* The same in two steps, so that the daemon can be told of many at once. */
void hold_end(struct hold *hold);
void holds_tell_ended(struct shmd *connection);

/* --- segment --- */

int open_flags_check(struct shmd *connection, unsigned flags);
uint32_t flags_to_wire(unsigned flags);

/* The body of an OK reply to OPEN or CREATE, with its descriptor. */
int opened_read(struct shmd *connection, const struct reply *reply, struct opened *ret_opened);

/* Part of a reply about one of many. */
bool opened_is_valid(const struct shmd_wire_opened *opened);

/* What is held already, if it is still what it was: 1, or 0. */
int segment_find(struct shmd *connection, const struct target *target, unsigned flags, struct shmd_segment **ret_segment);

/* What is held already or can be opened, another reference; flags: SHMD_READ_WRITE, SHMD_PRIVATE. */
int segment_get(struct shmd *connection, const struct target *target, unsigned flags, struct shmd_segment **ret_segment);

/* --- create, publish --- */

int lifetime_check(struct shmd *connection, uint32_t lifetime, uint64_t linger_usec);
int create_check(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                 const struct shmd_create_options *options, struct target *ret_target);
/*
 * What is asked for, in the words of the wire; sizes of the strings are left to who sends it. The umask matters if
 * there is a mode.
 */
struct shmd_wire_create create_to_wire(uint64_t size_bytes, unsigned flags, const struct shmd_create_options *options,
                                       mode_t mask);
/* Whether it takes more than one request, as the segment has to be made ready before anybody may see it. */
bool create_takes_steps(unsigned flags);
int create_in_steps(struct shmd *connection, const struct target *target, uint64_t size_bytes, unsigned flags,
                    const struct shmd_create_options *options, struct shmd_segment **ret_segment);

/* --- query --- */

/* A list on its way: what is asked for, and how far it has come. */
struct list_cursor {
        uint64_t after_id; /* of a listing by id: where it goes on */
        const char *prefix;
        size_t prefix_size;
        uint32_t flags;        /* enum shmd_wire_list_flags */
        struct shmd_stat last; /* the entry read last: id 0 before the first */
        bool more;
};

/* A request for a page, and where its parts lie. */
struct list_request {
        struct request request;
        struct shmd_wire_list body;
        char tail[2 * SHMD_NAME_MAX];
};
void list_request_init(struct list_request *request, const struct list_cursor *cursor);

/* A page that is being read; its bytes are borrowed. */
struct list_page {
        const uint8_t *data;
        size_t size;
        uint32_t left;
};
/* The parts of a reply. 0 or -EPROTO; the connection is not touched. */
int list_page_init(struct list_page *page, struct list_cursor *cursor, const void *body, const uint8_t *tail,
                   size_t tail_size);
/* The next entry becomes cursor->last. 1, or 0 at the end of the page, or -EPROTO; the connection is not touched. */
int list_page_next(struct list_page *page, struct list_cursor *cursor);

/* --- async --- */

/* Whom to tell. In functions that serve both kinds of calls, NULL stands for: do it now. */
struct callback {
        shmd_result_function function;
        void *userdata;
};

/* A call that was submitted. Owns what it has got until that is told. */
struct async {
        struct call call;
        struct notice notice;
        TAILQ_ENTRY(async) entry;
        struct shmd *connection;
        struct callback callback;
        bool unwanted; /* nobody waits for it any more: ends when it is answered */
        unsigned repeated; /* how often */
        bool done;
        /* Reads an OK reply. 0 or a negative errno value, the failure recorded in the connection. */
        int (*read)(struct async *async, const struct reply *reply);
        /* Instead of the callback, for calls of the library's own; gives how many functions it called. */
        unsigned (*finish)(struct shmd *connection, struct async *async);
        int result;
        struct failure failure;

        struct hold *hold; /* reserved */
        struct shmd_segment *segment; /* the program's */
        struct shmd_segment *kept;    /* what it is about, lest it ends meanwhile */
        struct shmd_stat *stat;
        struct shmd_status *status;
        void *owner; /* whose it is, inside the library; and the reply's bytes */
        uint64_t *page;
        size_t page_size;

        uint32_t number; /* of a wait, for shmd_cancel() */
        uint64_t deadline_usec; /* of a wait; 0: it is none */
        struct request request; /* what is needed to repeat it */
        uint64_t body[8];
        void *tail;
};

/* NULL: out of memory, recorded. */
struct async *async_new(struct shmd *connection, int (*read)(struct async *, const struct reply *),
                        const struct callback *callback);
struct async *async_free(struct async *async);

/* Submits it; consumes it if that fails. */
int async_submit(struct async *async, const struct request *request, enum patience patience);

/* One whose reply says nothing. */
int async_call(struct shmd *connection, const struct request *request, const struct callback *callback,
               enum patience patience);

/* Waits for one that has no callback; 0 if it is done, -ETIMEDOUT. */
int async_wait(struct async *async, uint64_t deadline_usec);

/* Nobody wants it any more; it may be freed at once. */
void async_forget(struct async *async);

/* After a loss: submits those again that bear it, or has them fail. */
void asyncs_repeat(struct shmd *connection);
void asyncs_give_up(struct shmd *connection);

/* They are a parent process's, or the connection ends: nobody is told. */
void asyncs_drop(struct shmd *connection);

/* --- sysv --- */

/*
 * Tells of a kernel's segment; keeper: of its registration, struct shmd_wire_create. 0, a status, or what channel_call() fails with;
 * errno and the segment stay as they are.
 */
int sysv_tell(enum shmd_wire_sysv_kind kind, int shmid, const struct shmd_create_options *options, uint64_t keeper);
/* As shmget(2), and whether it was this call that made it. */
int sysv_get(key_t key, size_t size, int flags, bool *ret_made, int (*native)(key_t key, size_t size, int flags));

int sysv_options_check(struct shmd *connection, uint64_t size_bytes, unsigned flags, const struct shmd_create_options *options);
int sysv_create(struct shmd *connection, const struct target *target, uint64_t size_bytes, unsigned flags,
                const struct shmd_create_options *options, struct shmd_segment **ret_segment);

/* --- watch --- */

/* An event's bytes, the header taken off. False: the peer breaks the protocol. */
bool watch_receive(struct shmd *connection, const uint8_t *bytes, size_t size);

/* On a new connection. */
int watches_resume(struct shmd *connection);
void watches_drop(struct shmd *connection);

/* --- channel --- */

enum channel_daemon {
        CHANNEL_ANY, /* as shmd_connect(NULL) looks for it */
        CHANNEL_USER,
        CHANNEL_SYSTEM,
};

/* One request, all memory borrowed. */
struct channel_request {
        enum shmd_operation operation;
        const void *body;
        const void *tail;
        size_t tail_size;
        uint64_t *creation_token; /* in the body: zero, to be filled in; NULL: it has none */
        bool reserve;             /* nothing may be done unless there is room for a descriptor */
        const char *recent_name;  /* by this, what it opens may be had from channel_reopen() afterwards; NULL: it may not */
        int access;               /* then: O_RDONLY, O_RDWR */
};

struct channel_reply {
        unsigned status; /* enum wire_status */
        union { /* if SHMD_OK; of UNLINK neither */
                struct shmd_wire_opened opened;
                struct shmd_wire_hello_reply hello;
        };
        struct shmd_wire_refusal refusal; /* if not */
        int fd;          /* -EBADF: none came */
        bool fds_lost;   /* there was no room for it */
};

/* Reads the environment, once; else the first call does. What is wanted counts the first time only. */
void channel_init(enum channel_daemon wanted);

/* The sockets where a daemon is looked for, for a message: once channel_init() was called. */
void channel_describe_places(char *buffer, size_t size);

/*
 * Asks the daemon, with the rights that the caller has now. May be called where shm_open(3) may be, after channel_init() also from signal
 * handlers. 0, or a negative errno value: then nothing is known to be done.
 */
int channel_call(const struct channel_request *request, struct channel_reply *ret_reply);

/*
 * Opens anew, without the daemon, what this thread's like has opened by that name and for that access, if the program has it open still,
 * the name stands for it and the caller has the right to it. A descriptor with an offset of its own; -ENOENT: the daemon has to be asked.
 * May be called where channel_call() may.
 */
int channel_reopen(const char *name, int access, int status_flags);

/* What a call has shown of the daemon. */
enum daemon_seen {
        DAEMON_UNKNOWN, /* it was not asked: the arguments were wrong, or this process lacks something */
        DAEMON_THERE,
        DAEMON_MISSING,
};

/* What comes of channel_call(), or zero. */
enum daemon_seen channel_daemon_seen(int error);

/* --- posix --- */

/* What a call of shm_open(3) is to be besides its arguments. */
struct posix_options {
        char prefix[SHMD_NAME_MAX + 1]; /* of all names, as the daemon has them */
        uint32_t lifetime;
        uint64_t linger_usec;
        /* Of what it makes, the first that lives; the process itself if none does. Zero: none. See struct shmd_wire_create. */
        uint64_t keepers[2];
};

/* What the C library's shm_open(3) takes for the name: any number of slashes may lead. */
static inline const char *posix_name(const char *name) {
        while (*name == '/')
                name++;
        return name;
}

/* Who keeps what is made now. */
uint64_t posix_keeper(const struct posix_options *options);

/* A descriptor, or a negative errno value. The umask is taken off the mode here. */
int posix_open(const struct posix_options *options, const char *name, int oflag, mode_t mode, enum daemon_seen *ret_seen);
int posix_unlink(const struct posix_options *options, const char *name, enum daemon_seen *ret_seen);
