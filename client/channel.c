/* SPDX-License-Identifier: MIT */
/*
 * What POSIX calls talk to the daemon through: they may come from anywhere that shm_open(3) may be called, from signal
 * handlers, vfork children, threads without number, processes that have just closed all their descriptors.
 *
 * Owns a few kept sockets, each used by one call at a time; who finds none free makes one for his call alone. So nobody ever
 * waits for another call, and one that is left for good (by longjmp(3), by the death of its thread) costs a socket and no more.
 * Nothing is allocated, no signal blocked, and the errors of a socket are those of its call alone.
 *
 * The kept sockets are in memory that a fork wipes and that has one owner; in its vfork child they are left alone.
 * The program may close any descriptor, and get its number for something else: a kept socket is known by its cookie, which the kernel
 * gives to no other one, and what does not have it is neither written to nor closed.
 *
 * With a kept socket goes what was opened over it lately, which is opened again without the daemon: recent.c.
 */
#include "internal.h"
#include "recent.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

#define SYSTEM_SOCKET "/run/shmd/shmd.sock"
#define USER_SOCKET "/shmd/shmd.sock" /* below $XDG_RUNTIME_DIR */

/* More calls at once make do without. */
#define KEPT_MAX 4
/* After so many numbers that are not in use no socket of ours is looked for. */
#define UNUSED_MAX 16
/* A daemon that was idle may go just when we come, or be killed while it comes back; so often we come again. */
#define ATTEMPTS_MAX 16
/* Nobody expects so high a number to be the lowest free one; select(2) could still take it. */
#define HIGH_FD 1008
/* Beyond so many groups their number alone is compared. */
#define GROUPS_MAX 64

/* By whose rights a socket was made. */
struct identity {
        uid_t uid;
        gid_t gid;
        uint64_t groups;
};

/* Zeros: there is none. */
struct channel {
        atomic_bool taken;
        pid_t pid; /* who made the socket; 0: nobody */
        int fd;
        uint64_t cookie;
        struct identity identity;
        uint64_t daemon_user; /* as it is called in our user namespace: in another one our own ids may look as before */
        uint64_t token;     /* by which the daemon knows it again */
        uint64_t creations; /* so many were asked for */
        uint32_t serial;
};

struct kept_channel {
        struct channel channel;
        uint64_t seen_usec; /* when its daemon was there for certain */
        struct recents recents; /* what was opened over it */
};

/* Where a daemon is looked for. */
struct place {
        char path[sizeof(((struct sockaddr_un *) NULL)->sun_path)];
        bool autostart;
        int error; /* why it is none; 0 */
};

/* What belongs to one process, and is wiped by its fork. */
struct kept {
        atomic_int owner; /* whose channels these are; 0: nobody's yet */
        struct kept_channel channels[KEPT_MAX];
};

static struct kept *_Atomic kept;
static atomic_int lowest_fd = HIGH_FD; /* all our sockets are from there on */
static _Atomic enum peer_state {
        PEER_UNKNOWN,
        PEER_BEING_WRITTEN,
        PEER_KNOWN,
} peer_state;
static struct sockaddr_un peer; /* the address of the daemon's socket, as it made it */
static socklen_t peer_size;
static struct place places[2];
static unsigned places_count;
static enum channel_daemon daemon_wanted = CHANNEL_ANY;

/* --- a socket --- */

/* 0: it is no socket. Kernels before 4.12 have no cookies: there the socket's inode has to do. */
static uint64_t cookie_of(int fd) {
        uint64_t cookie = 0;
        socklen_t size = sizeof(cookie);
        struct stat st;

        if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0)
                return cookie;
        if (errno != ENOPROTOOPT || fstat(fd, &st) < 0)
                return 0;
        return st.st_ino;
}

/* Who made the daemon's socket, user and group, in the numbers of our user namespace. */
static uint64_t daemon_user_of(int fd) {
        struct ucred user = { .uid = (uid_t) -1 };
        socklen_t size = sizeof(user);

        (void) getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &user, &size);
        return (uint64_t) user.uid << 32 | user.gid;
}

/* To the highest number that can be had: the low ones are the program's, the lowest of them its next descriptor's. */
static int fd_move_up(int fd) {
        struct rlimit limit = { .rlim_cur = 0 };
        int moved = -1, from;

        (void) getrlimit(RLIMIT_NOFILE, &limit);
        for (from = (int) MIN(limit.rlim_cur, (rlim_t) HIGH_FD + KEPT_MAX) - KEPT_MAX; moved < 0 && from > fd; from--) {
                if (atomic_load(&lowest_fd) > from) /* before it is there: another thread may fork */
                        atomic_store(&lowest_fd, from);
                moved = fcntl(fd, F_DUPFD_CLOEXEC, from);
        }
        if (moved < 0)
                return fd;
        close_fd(fd);
        return moved;
}

/* --- those of a parent process --- */

/* What getpeername(2) says of all our sockets, once the first is connected. */
static void peer_remember(int fd) {
        struct sockaddr_un address;
        socklen_t size = sizeof(address);
        enum peer_state none = PEER_UNKNOWN;

        if (atomic_load(&peer_state) != PEER_UNKNOWN || getpeername(fd, (struct sockaddr *) &address, &size) < 0 ||
            !atomic_compare_exchange_strong(&peer_state, &none, PEER_BEING_WRITTEN))
                return;
        peer_size = MIN(size, (socklen_t) sizeof(address));
        memcpy(&peer, &address, peer_size);
        atomic_store(&peer_state, PEER_KNOWN);
}

static bool peer_is_of(int fd) {
        struct sockaddr_un address;
        socklen_t size = sizeof(address);

        return getpeername(fd, (struct sockaddr *) &address, &size) == 0 && size == peer_size && memcmp(&address, &peer, size) == 0;
}

/*
 * In a forked child: closes what it has of its parent's sockets, also those of other threads' calls that were under way. They are looked
 * for among the descriptors: fork(2) copies these before the memory, in which a call may have ended since. One that was just being made
 * stays until exec; so do all in a child that was made without fork handlers, which may share its parent's descriptors (clone(2),
 * CLONE_FILES).
 */
static void inherited_close(void) {
        int unused = 0;

        if (atomic_load(&peer_state) != PEER_KNOWN)
                return;
        for (int fd = atomic_load(&lowest_fd); unused < UNUSED_MAX; fd++) {
                unused = fcntl(fd, F_GETFD) < 0 ? unused + 1 : 0;
                if (unused == 0 && peer_is_of(fd))
                        close_fd(fd);
        }
}

/* --- who asks --- */

static struct identity identity_now(void) {
        struct identity identity = { .uid = geteuid(), .gid = getegid(), .groups = UINT64_C(14695981039346656037) };
        gid_t groups[GROUPS_MAX];
        int count = getgroups(ELEMENTSOF(groups), groups);

        if (count < 0)
                identity.groups ^= (uint64_t) getgroups(0, NULL);
        for (int i = 0; i < count; i++)
                identity.groups = (identity.groups ^ groups[i]) * UINT64_C(1099511628211); /* FNV-1a */
        return identity;
}

static bool identity_equals(const struct identity *a, const struct identity *b) {
        return a->uid == b->uid && a->gid == b->gid && a->groups == b->groups;
}

static bool identity_is_still(const struct identity *identity) {
        const struct identity now = identity_now();

        return identity_equals(&now, identity);
}

/* --- where the daemon is --- */

static void place_set(struct place *place, const char *directory, const char *path, bool autostart) {
        *place = (struct place) { .autostart = autostart };
        if (strlen(directory) + strlen(path) >= sizeof(place->path))
                place->error = -ENAMETOOLONG;
        else
                stpcpy(stpcpy(place->path, directory), path);
}

/* The environment is read once: programs change theirs, and where the segments are shall not depend on it. */
static void places_init(void) {
        const char *path = secure_getenv("SHMD_SOCKET"), *directory = secure_getenv("XDG_RUNTIME_DIR");
        const char *autostart = secure_getenv("SHMD_AUTOSTART");

        if (path && path[0] != '\0' && daemon_wanted == CHANNEL_ANY) {
                place_set(&places[places_count++], "", path, false);
                return;
        }
        if (daemon_wanted != CHANNEL_USER)
                place_set(&places[places_count++], "", SYSTEM_SOCKET, false);
        if (daemon_wanted != CHANNEL_SYSTEM && directory && directory[0] == '/')
                place_set(&places[places_count++], directory, USER_SOCKET, !autostart || strcmp(autostart, "0") != 0);
}

void channel_describe_places(char *buffer, size_t size) {
        if (places_count == 0)
                (void) snprintf(buffer, size, "of $XDG_RUNTIME_DIR, which is not set");
        else
                (void) snprintf(buffer, size, "%s%s%s", places[0].path, places_count > 1 ? ", " : "",
                                places_count > 1 ? places[1].path : "");
}

static int connect_at(const struct place *place, int fd) {
        struct failure failure = { .kind = FAILURE_NONE };
        int r;

        if (place->error < 0)
                return place->error;
        r = socket_connect_fd(fd, place->path);
        if ((r == -ENOENT || r == -ECONNREFUSED) && place->autostart) {
                r = autostart_daemon(place->path, &failure);
                if (r == 0)
                        r = socket_connect_fd(fd, place->path);
                if (r == -ENOENT) /* it was there a moment ago */
                        r = -ECONNRESET;
        }
        return r;
}

static int connect_somewhere(int fd) {
        int r = -ENOENT;

        for (unsigned i = 0; i < places_count && r == -ENOENT; i++)
                r = connect_at(&places[i], fd);
        return r;
}

/* --- messages --- */

struct message {
        struct shmd_wire_header header;
        union {
                struct shmd_wire_refusal refusal;
                struct shmd_wire_opened opened;
                struct shmd_wire_hello_reply hello;
                struct shmd_wire_empty empty;
                uint64_t words[24];
        } body;
};

static bool error_means_lost(ssize_t error) {
        return error == 0 || error == -EPIPE || error == -ECONNRESET || error == -ENOTCONN || error == -ECONNREFUSED;
}

static int send_message(const struct channel *channel, const struct channel_request *request, uint32_t serial, bool repeated) {
        const struct operation *operation = operation_find(request->operation);
        const struct shmd_wire_header header = {
                .operation = operation->number,
                .status = repeated ? SHMD_WIRE_REPEATED : 0,
                .serial = serial,
        };
        int r;

        r = wire_send(channel->fd, &header, request->body, operation->request_size, request->tail, request->tail_size, NULL, 0, 0);
        return r < 0 && error_means_lost(r) ? -ECONNRESET : r;
}

/* The answer to that request; what comes with it is in fds. -ECONNRESET, -EPROTO. */
static int receive_message(const struct channel *channel, enum shmd_operation number, uint32_t serial, struct wire_fds *fds,
                           struct channel_reply *ret_reply) {
        const struct operation *operation = operation_find(number);
        struct message message;
        bool fds_lost = false;
        ssize_t n;

        n = wire_receive_lossy(channel->fd, &message, sizeof(message), fds, 0, &fds_lost);
        /* It had not read all that was sent: that is told once, before what it has sent, which may be why. */
        if (n == -ECONNRESET)
                n = wire_receive_lossy(channel->fd, &message, sizeof(message), fds, 0, &fds_lost);
        if (error_means_lost(n))
                return -ECONNRESET;
        /* Who may not even connect is told so before he is listened to. */
        if (n >= (ssize_t) sizeof(message.header) && number == SHMD_OP_HELLO && message.header.status != SHMD_OK &&
            message.header.serial == 0)
                message.header.serial = serial;
        if (n < (ssize_t) sizeof(message.header) || message.header.operation != number || message.header.serial != serial)
                return -EPROTO;
        if (message.header.status == SHMD_OK && (size_t) n != sizeof(message.header) + operation->reply_size)
                return -EPROTO;
        if (message.header.status != SHMD_OK && (size_t) n != sizeof(message.header) + sizeof(message.body.refusal))
                return -EPROTO;
        ret_reply->status = message.header.status;
        if (message.header.status == SHMD_OK && number == SHMD_OP_HELLO)
                ret_reply->hello = message.body.hello;
        else if (message.header.status == SHMD_OK && number != SHMD_OP_UNLINK)
                ret_reply->opened = message.body.opened;
        if (message.header.status != SHMD_OK)
                ret_reply->refusal = message.body.refusal;
        ret_reply->fds_lost = fds_lost;
        return 0;
}

/* --- HELLO --- */

/* NULL: it is made for one call. */
static struct kept_channel *channel_as_kept(const struct channel *channel) {
        struct kept *all = atomic_load(&kept);

        for (size_t i = 0; all && i < KEPT_MAX; i++)
                if (channel == &all->channels[i].channel)
                        return &all->channels[i];
        return NULL;
}

static void take_page(struct kept_channel *channel, struct wire_fds *fds, uint32_t slots) {
        if (channel && fds->count == 1)
                recents_begin(&channel->recents, TAKE_FD(fds->fd[0]), slots);
}

static int channel_greet(struct channel *channel) {
        const struct shmd_wire_hello hello = {
                .version_min = SHMD_PROTOCOL_VERSION,
                .version_max = SHMD_PROTOCOL_VERSION,
                .token = channel->token,
        };
        const struct channel_request request = { .operation = SHMD_OP_HELLO, .body = &hello };
        struct channel_reply reply = { .status = 0 };
        struct wire_fds fds = WIRE_FDS_INIT;
        int r;

        r = send_message(channel, &request, ++channel->serial, false);
        if (r < 0 && r != -ECONNRESET)
                return r;
        /* Who is refused before he has said anything finds that behind the error. */
        r = receive_message(channel, SHMD_OP_HELLO, channel->serial, &fds, &reply);
        if (r == -ECONNRESET)
                r = receive_message(channel, SHMD_OP_HELLO, channel->serial, &fds, &reply);
        if (r == 0 && reply.status == SHMD_OK)
                take_page(channel_as_kept(channel), &fds, reply.hello.generation_slots);
        wire_fds_done(&fds);
        if (r < 0)
                return r;
        return reply.status == SHMD_OK ? 0 : -status_to_errno(reply.status);
}

/* One that is no more is not closed: it may be somebody else's. */
static void channel_close(struct channel *channel) {
        struct kept_channel *kept_channel = channel_as_kept(channel);

        if (channel->pid != 0 && cookie_of(channel->fd) == channel->cookie)
                close_fd(channel->fd);
        if (kept_channel)
                recents_forget(&kept_channel->recents);
        channel->pid = 0;
        channel->fd = -EBADF;
}

/* Out of the way before it waits for anything. */
static int channel_make_socket(struct channel *channel, pid_t pid) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return negative_errno();
        channel->fd = fd_move_up(fd);
        channel->cookie = cookie_of(channel->fd);
        channel->pid = pid;
        return 0;
}

static int channel_make(struct channel *channel, const struct identity *identity, pid_t pid) {
        int r;

        r = channel_make_socket(channel, pid);
        if (r < 0)
                return r;
        /* The daemon knows one again that it has lost, not one of other rights. */
        if (channel->token == 0 || !identity_equals(&channel->identity, identity)) {
                if (getrandom(&channel->token, sizeof(channel->token), GRND_NONBLOCK) != sizeof(channel->token))
                        channel->token = 0;
        }
        channel->identity = *identity;
        r = connect_somewhere(channel->fd);
        if (r == 0 && !identity_is_still(identity)) /* another thread has changed it: whose the socket is nobody knows */
                r = -ECONNRESET;
        if (r == 0) {
                channel->daemon_user = daemon_user_of(channel->fd);
                peer_remember(channel->fd);
                r = channel_greet(channel);
        }
        if (r < 0)
                channel_close(channel);
        return r;
}

/* --- which one --- */

static bool channel_is_good(const struct channel *channel, const struct identity *identity) {
        return channel->pid != 0 && identity_equals(&channel->identity, identity) && cookie_of(channel->fd) == channel->cookie &&
               daemon_user_of(channel->fd) == channel->daemon_user;
}

/* Whether they are this very process's, not those of one whose memory it shares. */
static bool kept_is_ours(struct kept *all, pid_t pid) {
        int owner = 0;

        return atomic_compare_exchange_strong(&all->owner, &owner, pid) || owner == pid;
}

/* One that nobody uses, be it of a process whose memory this one shares; or NULL. */
static struct kept_channel *kept_take_any(void) {
        struct kept *all = atomic_load(&kept);

        if (!all)
                return NULL;
        for (size_t i = 0; i < KEPT_MAX; i++)
                if (!atomic_exchange(&all->channels[i].channel.taken, true))
                        return &all->channels[i];
        return NULL;
}

/* A kept one that nobody uses, or NULL. */
static struct kept_channel *kept_take(pid_t pid) {
        struct kept *all = atomic_load(&kept);

        return all && kept_is_ours(all, pid) ? kept_take_any() : NULL;
}

static void kept_give_back(struct kept_channel *channel) {
        atomic_store(&channel->channel.taken, false);
}

static void after_fork_in_child(void) {
        struct kept *all = atomic_load(&kept);

        inherited_close();
        if (!all)
                return;
        /* The kernel has done so already, unless it is too old. */
        memset((void *) all, 0, sizeof(*all));
        atomic_store(&all->owner, getpid());
}

static void init_once(void) {
        struct kept *page;

        places_init();
        page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) /* then none is kept */
                return;
        (void) madvise(page, sizeof(*page), MADV_WIPEONFORK);
        atomic_store(&page->owner, getpid());
        if (pthread_atfork(NULL, NULL, after_fork_in_child) == 0)
                atomic_store(&kept, page);
        else
                (void) munmap(page, sizeof(*page));
}

void channel_init(enum channel_daemon wanted) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        if (wanted != CHANNEL_ANY)
                daemon_wanted = wanted;
        (void) pthread_once(&once, init_once);
}

/* --- a call --- */

/*
 * So it is known before anything is done that there is room for the descriptor: open(2) makes no file that it can't open. It is tried
 * among the sockets if possible, and let go at once: a child that is forked meanwhile may have it.
 */
static int check_room(const struct channel *channel) {
        int fd = fcntl(channel->fd, F_DUPFD_CLOEXEC, channel->fd);

        if (fd < 0)
                fd = fcntl(channel->fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
                return negative_errno();
        close_fd(fd);
        return 0;
}

static int perform(struct channel *channel, const struct channel_request *request, uint32_t *serial, struct channel_reply *reply) {
        struct wire_fds fds = WIRE_FDS_INIT;
        bool repeated = *serial != 0;
        int r;

        r = request->reserve ? check_room(channel) : 0;
        if (r < 0)
                return r;
        if (!repeated)
                *serial = ++channel->serial;
        else
                channel->serial = MAX(channel->serial, *serial);
        r = send_message(channel, request, *serial, repeated);
        if (r < 0)
                return r;
        r = receive_message(channel, request->operation, *serial, &fds, reply);
        if (r == 0 && fds.count > 0)
                reply->fd = TAKE_FD(fds.fd[0]);
        wire_fds_done(&fds);
        return r;
}

static bool is_repeated(int error) {
        return error == -ECONNRESET || error == -EPIPE;
}

static int call_on(struct channel *channel, pid_t pid, const struct channel_request *request, struct channel_reply *reply) {
        uint32_t serial = 0;
        int r, attempt = 0;

        do {
                const struct identity identity = identity_now();

                r = 0;
                if (!channel_is_good(channel, &identity)) {
                        channel_close(channel);
                        r = channel_make(channel, &identity, pid);
                }
                if (r == 0 && request->creation_token && *request->creation_token == 0 && channel->token != 0)
                        *request->creation_token = channel->token + ++channel->creations;
                if (r == 0)
                        r = perform(channel, request, &serial, reply);
                if (r < 0 && r != -EMFILE && r != -ENFILE)
                        channel_close(channel);
        } while (is_repeated(r) && ++attempt < ATTEMPTS_MAX);
        return r == -ECONNRESET ? -ECONNREFUSED : r;
}

int channel_call(const struct channel_request *request, struct channel_reply *ret_reply) {
        struct channel own = { .fd = -EBADF };
        struct kept_channel *kept_channel;
        struct channel_reply reply = { .fd = -EBADF };
        pid_t pid = getpid();
        int r;

        channel_init(CHANNEL_ANY);
        kept_channel = kept_take(pid);
        r = call_on(kept_channel ? &kept_channel->channel : &own, pid, request, &reply);
        if (kept_channel && r == 0 && request->recent_name && reply.fd >= 0)
                recents_note(&kept_channel->recents, request->recent_name, request->access, &reply.opened, reply.fd);
        if (kept_channel && kept_channel->channel.cookie == 0) /* it could not be told from another's */
                channel_close(&kept_channel->channel);
        if (kept_channel)
                kept_give_back(kept_channel);
        else
                channel_close(&own);
        if (r == 0)
                *ret_reply = reply;
        return r;
}

/* A daemon that was killed changes nothing in its page any more; but its sockets are closed. That is asked now and then only. */
static bool is_served(struct kept_channel *kept_channel) {
        const struct channel *channel = &kept_channel->channel;
        uint64_t now_usec = coarse_usec();
        char byte;

        if (now_usec - kept_channel->seen_usec < DAEMON_LOOK_USEC)
                return true;
        if (cookie_of(channel->fd) != channel->cookie || recv(channel->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)
                return false;
        kept_channel->seen_usec = now_usec;
        return true;
}

int channel_reopen(const char *name, int access, int status_flags) {
        const struct recent *recent;
        struct kept_channel *channel;
        int fd = -ENOENT;

        channel_init(CHANNEL_ANY);
        channel = kept_take_any(); /* nothing is sent over it, and a vfork child's descriptors are judged by what they are */
        if (!channel)
                return -ENOENT;
        recent = recents_find(&channel->recents, name, access);
        if (recent && is_served(channel))
                fd = recent_open(recent, status_flags);
        kept_give_back(channel);
        return fd;
}

enum daemon_seen channel_daemon_seen(int error) {
        static const int lacks[] = { EMFILE, ENFILE, ENOMEM, ENOBUFS, EDQUOT, EAGAIN };

        for (size_t i = 0; i < ELEMENTSOF(lacks); i++)
                if (error == -lacks[i])
                        return DAEMON_UNKNOWN;
        return error < 0 ? DAEMON_MISSING : DAEMON_THERE;
}
