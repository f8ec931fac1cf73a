/* SPDX-License-Identifier: MIT */
#include "store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "control.h"
#include "daemon.h"
#include "log.h"
#include "restore.h"
#include "util.h"

/* Entries of one carrier: reading a queue without taking anything out of it walks it from its beginning for each (SO_PEEK_OFF). */
#define CARRIER_MAX 512u
/* The kernel counts 768 bytes for each of them. */
#define CARRIER_BUFFER ((int) CARRIER_MAX * 1024)

/* Address space that a log may grow into, at least; and what is allocated of it at a time. Bytes. */
#define LOG_SPACE (sizeof(void *) > 4 ? UINT64_C(1) << 30 : UINT64_C(1) << 26)
#define LOG_STEP (UINT64_C(1) << 20)
/* A log is compacted when it is so much larger than twice what it was after the last time. Bytes. */
#define LOG_SLACK (UINT64_C(1) << 20)

/* At one turn of the loop. */
#define COPIES_A_TURN 64u
#define MOVES_A_TURN 32u

/* How long memory that could not be given back by itself waits for its carrier to be rebuilt; others join it. */
static const struct timeval rebuild_delay = { .tv_usec = 100000 };

/* The service manager is given so long, at the start, to say that it is there. */
#define MANAGER_TIMEOUT_USEC UINT64_C(5000000)

/* --- telling the manager --- */

struct manager_job {
        struct job job;
        struct store *store;
        char name[32];
        int fd;         /* to be kept; or -EBADF: to be dropped */
        bool confirm;   /* it is the next log: say when the manager has it */
        int result;
};

static void compaction_confirmed(struct store *store, int result);

static void manager_run(struct job *job) {
        struct manager_job *manager = (struct manager_job *) job;

        if (manager->fd < 0) {
                manager->result = handover_unkeep(manager->name);
                atomic_fetch_add_explicit(&manager->store->told, 1, memory_order_release);
                return;
        }
        manager->result = handover_keep(manager->name, manager->fd);
        atomic_fetch_add_explicit(&manager->store->told, 1, memory_order_release);
        manager->fd = close_fd(manager->fd);
        if (manager->confirm && manager->result == 0)
                manager->result = handover_wait(UINT64_MAX);
}

static void manager_done(struct job *job) {
        struct manager_job *manager = (struct manager_job *) job;
        struct store *store = manager->store;

        if (manager->result < 0)
                log_error("the service manager does not take %s: %s", manager->name, strerror(-manager->result));
        if (manager->confirm && store->next.fd >= 0)
                compaction_confirmed(store, manager->result);
        free(manager);
        /* To go on with what waited for it; which may have been the daemon's idle end. */
        daemon_settle_later(store->daemon);
}

/* Takes fd. */
static int tell_manager(struct store *store, const char *name, int fd, bool confirm) {
        struct manager_job *manager = calloc(1, sizeof(*manager));

        if (!manager) {
                close_fd(fd);
                return -ENOMEM;
        }
        *manager = (struct manager_job) {
                .job = { .run = manager_run, .done = manager_done },
                .store = store,
                .fd = fd,
                .confirm = confirm,
        };
        (void) snprintf(manager->name, sizeof(manager->name), "%s", name);
        store->to_tell++;
        worker_submit(&store->notifier, &manager->job);
        return 0;
}

static void tell_to_drop(struct store *store, const char *kind, uint64_t number) {
        char name[32];

        (void) snprintf(name, sizeof(name), "%s-%" PRIu64, kind, number);
        /* Without memory for that it stays, to no harm but memory: the next daemon drops it. */
        (void) tell_manager(store, name, -EBADF, false);
}

static int tell_to_keep(struct store *store, const char *kind, uint64_t number, int fd, bool confirm) {
        char name[32];

        (void) snprintf(name, sizeof(name), "%s-%" PRIu64, kind, number);
        return tell_manager(store, name, fd, confirm);
}

/* --- the log's file --- */

static void file_done(struct state_file *file) {
        if (file->mapped > 0)
                (void) munmap(file->log.base, file->mapped);
        close_fd(file->fd);
        *file = (struct state_file) { .fd = -EBADF };
}

static int file_map(int fd, size_t size, struct state_file *ret_file) {
        size_t space = MAX((size_t) LOG_SPACE, size * 2);
        void *base = mmap(NULL, space, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

        if (base == MAP_FAILED)
                return negative_errno();
        *ret_file = (struct state_file) { .log = { .base = base, .capacity = size }, .fd = fd, .mapped = space };
        return 0;
}

/* Pages that are not there when they are written to would be a SIGBUS, so they are there before. A signal ends it early: fallocate(2). */
static int allocate(int fd, size_t size) {
        int r;

        do
                r = fallocate(fd, 0, 0, (off_t) size) < 0 ? negative_errno() : 0;
        while (r == -EINTR);
        return r;
}

static int file_grow(struct state_file *file, size_t bytes) {
        size_t size = file->log.capacity + MAX(bytes, (size_t) LOG_STEP);
        int r;

        if (size > file->mapped)
                return -ENOSPC;
        r = allocate(file->fd, size);
        if (r == 0)
                file->log.capacity = size;
        return r;
}

static int file_new(uint64_t epoch, size_t bytes, struct state_file *ret_file) {
        _cleanup_close_ int fd = memfd_create("shmd-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        size_t size = MAX(bytes, (size_t) LOG_STEP);
        int r;

        if (fd < 0 || fchmod(fd, 0600) < 0)
                return negative_errno();
        r = allocate(fd, size);
        if (r < 0)
                return r;
        r = file_map(fd, size, ret_file);
        if (r < 0)
                return r;
        (void) TAKE_FD(fd);
        state_begin(&ret_file->log, ret_file->log.base, size, epoch);
        return 0;
}

static struct state_file *file_to_write(struct store *store) {
        return store->next_kept ? &store->next : &store->file;
}

static struct state_header *header_of(struct state_file *file) {
        return state_header(&file->log);
}

int store_make_room(struct store *store, size_t bytes) {
        struct state_file *file;

        if (!store->active)
                return 0;
        file = file_to_write(store);
        return state_room(&file->log) >= bytes ? 0 : file_grow(file, bytes);
}

/* Once in a daemon's life: a manager that is full would have a line each second, as it does not say when it has room again. */
static void tell_failing(struct store *store, const char *what, int r) {
        if (!store->failing)
                log_error("cannot %s: %s; segments that change now would not come back after the daemon's end", what, strerror(-r));
        store->failing = true;
}

static bool has_room(struct store *store) {
        int r = store_make_room(store, state_record_max());

        if (r < 0)
                tell_failing(store, "write the state log", r);
        return r == 0;
}

void store_set_cause(struct store *store, const struct state_cause *cause) {
        store->file.log.cause = store->next.log.cause = *cause;
        store->cause_position = file_to_write(store)->log.position;
}

bool store_clear_cause(struct store *store) {
        store->file.log.cause = store->next.log.cause = (struct state_cause) { 0 };
        return file_to_write(store)->log.position != store->cause_position;
}

void store_commit(struct store *store) {
        if (!store->active)
                return;
        state_commit(&store->file.log);
        if (store->next.fd >= 0)
                state_commit(&store->next.log);
}

static void copy_done_of(struct state_file *file, const struct state_cause *cause, uint64_t age) {
        if (cause->token == 0 || cause->serial == 0 || age >= ABSENT_AGE_MAX)
                return;
        /* Without room a request that is repeated may be refused then, where it was done. */
        if (state_room(&file->log) >= state_record_max() || file_grow(file, state_record_max()) == 0)
                state_append_done(&file->log, cause, age);
}

/* What was done last for whom: the records of that are in a log that goes. daemons: how many more have been since. */
static void copy_done(struct store *store, struct state_file *file, uint64_t daemons) {
        struct daemon *daemon = store->daemon;
        const struct session *session;
        struct absent *absent;

        TAILQ_FOREACH(session, &daemon->server.sessions, entry) {
                uint32_t serial = session->recorded_serial ?: session->done_serial;

                copy_done_of(file, &(struct state_cause) { session->client.token, session->credentials.uid, serial }, 0);
        }
        for (absent = absent_next(&daemon->absents, NULL); absent; absent = absent_next(&daemon->absents, absent))
                copy_done_of(file, &(struct state_cause) { absent->token, absent->credentials.uid, absent->serial }, absent->age + daemons);
}

/* --- compaction --- */

static bool log_is_long(const struct store *store) {
        return store->file.log.position > 2 * store->compacted_size + LOG_SLACK;
}

static void copy_header(struct state_file *to, struct state_file *from) {
        header_of(to)->next_id = header_of(from)->next_id;
        header_of(to)->restarts = header_of(from)->restarts;
        header_of(to)->started_usec = header_of(from)->started_usec;
}

/* The manager gets the new file first; only then something is written to it that is not in the old one. */
static int compaction_start(struct store *store) {
        uint64_t epoch = header_of(&store->file)->epoch + 1;
        int fd, r;

        r = file_new(epoch, store->file.log.position / 2 + LOG_STEP, &store->next);
        if (r < 0)
                return r;
        copy_header(&store->next, &store->file);
        fd = fcntl(store->next.fd, F_DUPFD_CLOEXEC, 3);
        r = fd < 0 ? negative_errno() : tell_to_keep(store, "state", epoch, fd, true);
        if (r < 0) {
                file_done(&store->next);
                return r;
        }
        store->copied_id = 0;
        store->next_kept = false;
        return 0;
}

/* The manager has the next log; or has not, and then it is tried again when the present one has become longer by as much. */
static void compaction_confirmed(struct store *store, int result) {
        if (result == 0) {
                store->next_kept = true;
                daemon_settle_later(store->daemon);
                return;
        }
        tell_to_drop(store, "state", header_of(&store->next)->epoch);
        file_done(&store->next);
        store->compacted_size = store->file.log.position;
}

static void compaction_finish(struct store *store) {
        uint64_t epoch = header_of(&store->file)->epoch;

        copy_done(store, &store->next, 0);
        store_commit(store);
        header_of(&store->next)->complete = 1;
        tell_to_drop(store, "state", epoch);
        file_done(&store->file);
        store->file = store->next;
        store->next = (struct state_file) { .fd = -EBADF };
        store->next_kept = false;
        store->compacted_size = store->file.log.position;
}

/* Some more. True if there is still something to copy. */
static bool compaction_step(struct store *store) {
        struct registry *registry = &store->daemon->registry;
        struct segment *segment;

        for (unsigned i = 0; i < COPIES_A_TURN; i++) {
                segment = registry_next_id(registry, store->copied_id);
                if (!segment) {
                        compaction_finish(store);
                        return false;
                }
                if (!has_room(store))
                        return false;
                store_record(store, segment);
                store->copied_id = segment->id;
        }
        return true;
}

static bool compaction_settle(struct store *store) {
        if (store->next_kept)
                return compaction_step(store);
        if (store->next.fd < 0 && log_is_long(store)) {
                int r = compaction_start(store);

                if (r < 0) {
                        tell_failing(store, "compact the state log", r);
                        store->compacted_size = store->file.log.position; /* not again at once */
                }
        }
        return false;
}

/* --- carriers --- */

unsigned store_own_fds(const struct segment *segment) {
        if (segment->backing == WIRE_BACKING_SYSV)
                return 0;
        return segment->backing == WIRE_BACKING_FILE ? 2 : 1;
}

/* The kernel keeps its own segments; what they have beside it does not. */
static bool needs_carrier(const struct segment *segment) {
        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++)
                if (segment->custody.control_fd[i] >= 0)
                        return true;
        return store_own_fds(segment) > 0;
}

static int carrier_send(struct carrier *carrier, const struct segment *segment) {
        struct carried carried = { .id = segment->id };
        int fds[CARRIED_MAX] = { segment->custody.guard_fd, segment->custody.shared_fd[SHMD_ACCESS_READ] };
        unsigned count = store_own_fds(segment);
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(sizeof(fds))];
        } control = { 0 };
        struct iovec part = { .iov_base = &carried, .iov_len = sizeof(carried) };
        struct msghdr message = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
        };

        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++)
                if (segment->custody.control_fd[i] >= 0) {
                        carried.control |= 1u << i;
                        fds[count++] = segment->custody.control_fd[i];
                }
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
        return sendmsg(carrier->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? negative_errno() : 0;
}

/* ret_fd: the receiving end. */
static int carrier_new(struct store *store, struct carrier **ret_carrier, int *ret_fd) {
        struct carrier *carrier = calloc(1, sizeof(*carrier));
        int size = CARRIER_BUFFER, pair[2];

        if (!carrier)
                return -ENOMEM;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
                int r = negative_errno();

                free(carrier);
                return r;
        }
        /* Where the system allows less, a carrier has fewer entries. */
        (void) setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        *carrier = (struct carrier) { .store = store, .number = ++store->carrier_number, .fd = pair[0] };
        TAILQ_INIT(&carrier->segments);
        TAILQ_INSERT_TAIL(&store->carriers, carrier, entry);
        *ret_carrier = carrier;
        *ret_fd = pair[1];
        return 0;
}

/* Nothing more is put in it. */
static void carrier_close(struct carrier *carrier) {
        if (carrier->event)
                event_free(TAKE_PTR(carrier->event));
        carrier->fd = close_fd(carrier->fd);
}

static void carrier_free(struct store *store, struct carrier *carrier) {
        struct segment *segment;

        while ((segment = TAILQ_FIRST(&carrier->segments))) {
                TAILQ_REMOVE(&carrier->segments, segment, custody.carried);
                segment->custody.carrier = NULL;
        }
        TAILQ_REMOVE(&store->carriers, carrier, entry);
        carrier_close(carrier);
        free(carrier);
}

/*
 * The manager did not take it, or has let go of it: what is in it is lost with this daemon. So it is put in another, and
 * again, if that is lost as well.
 */
static void carrier_lose(struct carrier *carrier) {
        static const struct timeval patience = { .tv_sec = 1 };
        struct store *store = carrier->store;

        tell_failing(store, "have descriptors kept by the service manager", -EPIPE);
        carrier_close(carrier);
        if (carrier == store->spare)
                carrier_free(store, TAKE_PTR(store->spare));
        else {
                carrier->rebuild = true;
                (void) evtimer_add(store->rebuild_event, &patience);
        }
}

static void on_carrier_lost(evutil_socket_t fd, short what, void *userdata) {
        (void) fd;
        (void) what;
        carrier_lose(userdata);
}

/* Nobody writes to this end: it is readable when the other one has gone. Without memory for that it is found out when it is used. */
static void carrier_watch(struct carrier *carrier) {
        carrier->event = event_new(carrier->store->daemon->base, carrier->fd, EV_READ, on_carrier_lost, carrier);
        if (carrier->event)
                (void) event_add(carrier->event, NULL);
}

static void carriers_free(struct store *store) {
        struct carrier *carrier;

        while ((carrier = TAILQ_FIRST(&store->carriers)))
                carrier_free(store, carrier);
}

static int carrier_new_kept(struct store *store, struct carrier **ret_carrier) {
        struct carrier *carrier;
        int fd, r;

        r = carrier_new(store, &carrier, &fd);
        if (r < 0)
                return r;
        r = tell_to_keep(store, "carrier", carrier->number, fd, false);
        if (r < 0) {
                carrier_free(store, carrier);
                return r;
        }
        carrier->told_when = store->to_tell;
        carrier_watch(carrier);
        *ret_carrier = carrier;
        return 0;
}

static void carrier_drop(struct store *store, struct carrier *carrier) {
        tell_to_drop(store, "carrier", carrier->number);
        carrier_free(store, carrier);
}

/* A carrier that nothing more is put in is looked after when segments go. */
static bool is_half_dead(const struct store *store, const struct carrier *carrier) {
        return carrier != store->current && carrier != store->spare && carrier->live * 2 <= carrier->entries;
}

static void consider_rebuilding(struct store *store, struct carrier *carrier) {
        if (carrier->live == 0 && carrier != store->current && carrier != store->spare) {
                carrier_drop(store, carrier);
                return;
        }
        carrier->rebuild |= is_half_dead(store, carrier);
        if (carrier->rebuild && !evtimer_pending(store->rebuild_event, NULL))
                (void) evtimer_add(store->rebuild_event, &rebuild_delay);
}

/*
 * What is put in a carrier that the manager has not been told of would be lost with the daemon. Mostly it was told long ago; in
 * a burst of creations the other thread may not have had its turn yet. A manager that does not read is not waited for without end.
 */
static void await_told(const struct store *store, unsigned when) {
        const struct timespec pause = { .tv_nsec = 100000 };

        for (unsigned i = 0; i < 20000 && (int) (atomic_load_explicit(&store->told, memory_order_acquire) - when) < 0; i++)
                (void) nanosleep(&pause, NULL);
}

/* Nothing more is put in the current one, which is dropped if nothing lives in it. */
static int carrier_rotate(struct store *store) {
        struct carrier *former = store->current;
        int r;

        if (!store->spare) {
                r = carrier_new_kept(store, &store->spare);
                if (r < 0)
                        return r;
        }
        await_told(store, store->spare->told_when);
        store->current = TAKE_PTR(store->spare);
        /* Its sending end stays open: so it is noticed if the manager lets go of it later. */
        if (former)
                consider_rebuilding(store, former);
        return 0;
}

static void carrier_leave(struct segment *segment) {
        struct carrier *carrier = segment->custody.carrier;

        TAILQ_REMOVE(&carrier->segments, segment, custody.carried);
        carrier->live--;
        segment->custody.carrier = NULL;
}

static void carrier_enter(struct carrier *carrier, struct segment *segment) {
        TAILQ_INSERT_TAIL(&carrier->segments, segment, custody.carried);
        carrier->live++;
        segment->custody.carrier = carrier;
}

struct carrier *store_add_carrier(struct store *store, uint64_t number) {
        struct carrier *carrier;

        TAILQ_FOREACH(carrier, &store->carriers, entry)
                if (carrier->number == number)
                        return carrier; /* the manager would drop both */
        carrier = calloc(1, sizeof(*carrier));
        if (!carrier)
                return NULL;
        *carrier = (struct carrier) { .store = store, .number = number, .fd = -EBADF };
        TAILQ_INIT(&carrier->segments);
        TAILQ_INSERT_TAIL(&store->carriers, carrier, entry);
        store->carrier_number = MAX(store->carrier_number, number);
        return carrier;
}

void store_adopt(struct carrier *carrier, struct segment *segment) {
        if (segment->custody.carrier)
                carrier_leave(segment);
        carrier_enter(carrier, segment);
}

/* Of the current one. */
static bool is_lost(const struct carrier *carrier) {
        return carrier->fd < 0;
}

static int send_to_current(struct store *store, struct segment *segment) {
        int r;

        if (is_lost(store->current) || store->current->entries >= CARRIER_MAX)
                return -EAGAIN;
        r = carrier_send(store->current, segment);
        if (r == -EPIPE || r == -ECONNRESET) {
                carrier_lose(store->current);
                return -EAGAIN;
        }
        if (r == 0)
                store->current->entries++;
        return r;
}

/* 0; -EMFILE: or too many descriptors are in sockets already, of a daemon that is not privileged; -ENOMEM, … */
static int carry(struct store *store, struct segment *segment) {
        int r;

        r = send_to_current(store, segment);
        if (r == -EAGAIN && !is_lost(store->current)) {
                r = carrier_rotate(store);
                if (r == 0)
                        r = send_to_current(store, segment);
        }
        /* Which is told. It waits there for the manager to take another, which is not tried for each segment. */
        if (r == -EAGAIN && is_lost(store->current))
                r = 0;
        if (r < 0)
                return r == -ETOOMANYREFS ? -EMFILE : r;
        if (segment->custody.carrier)
                carrier_leave(segment);
        carrier_enter(store->current, segment);
        if (!store->spare && store->current->entries * 2 > CARRIER_MAX)
                (void) carrier_new_kept(store, &store->spare); /* if not, then when it is needed */
        return 0;
}

static struct carrier *carrier_to_rebuild(struct store *store) {
        struct carrier *carrier;

        TAILQ_FOREACH(carrier, &store->carriers, entry)
                if (carrier->rebuild)
                        return carrier;
        return NULL;
}

static bool rebuild_failed(struct store *store, int r) {
        log_warning("cannot rebuild what the service manager keeps: %s; trying again", strerror(-r));
        (void) evtimer_add(store->rebuild_event, &(struct timeval) { .tv_sec = 1 });
        return false;
}

/* Some more moves. True if there is still something to move. */
static bool rebuild_step(struct store *store) {
        struct carrier *carrier = carrier_to_rebuild(store);
        struct segment *segment;
        int r = 0;

        if (!carrier)
                return false;
        if (carrier == store->current) {
                bool goes = carrier->live == 0;

                r = carrier_rotate(store);
                if (r < 0)
                        return rebuild_failed(store, r);
                if (goes)
                        return carrier_to_rebuild(store) != NULL;
        }
        for (unsigned i = 0; r == 0 && i < MOVES_A_TURN && (segment = TAILQ_FIRST(&carrier->segments)); i++)
                r = carry(store, segment);
        if (r < 0)
                return rebuild_failed(store, r);
        if (TAILQ_EMPTY(&carrier->segments))
                carrier_drop(store, carrier);
        return carrier_to_rebuild(store) != NULL;
}

static void on_rebuild(evutil_socket_t fd, short what, void *userdata) {
        struct store *store = userdata;

        (void) fd;
        (void) what;
        daemon_settle_later(store->daemon);
}

bool store_settle(struct store *store) {
        bool more;

        if (!store->active)
                return false;
        more = compaction_settle(store);
        if (!evtimer_pending(store->rebuild_event, NULL))
                more |= rebuild_step(store);
        store_commit(store);
        return more;
}

/* --- segments --- */

int store_put(struct store *store, struct segment *segment) {
        struct state_file *file = file_to_write(store);
        int r;

        if (!store->active)
                return 0;
        r = store_make_room(store, state_record_max());
        if (r < 0)
                return r;
        if (needs_carrier(segment))
                r = carry(store, segment);
        if (r < 0)
                return r;
        segment->custody.recorded = true;
        segment->kept_times = state_append(&file->log, segment);
        header_of(file)->next_id = MAX(header_of(file)->next_id, segment->id + 1);
        return 0;
}

int store_put_again(struct store *store, struct segment *segment) {
        struct carrier *former = segment->custody.carrier;
        int r;

        if (!store->active || !segment->custody.recorded)
                return 0;
        r = carry(store, segment);
        if (r == 0 && former)
                consider_rebuilding(store, former);
        return r;
}

void store_record(struct store *store, struct segment *segment) {
        if (store->active && segment->custody.recorded && has_room(store))
                segment->kept_times = state_append(&file_to_write(store)->log, segment);
}

/* --- giving memory back that a carrier still refers to --- */

struct empty_job {
        struct job job;
        struct store *store;
        uint64_t carrier, size;
        int fd, result;
        bool posix;
};

static void pin(struct store *store, uint64_t number) {
        struct carrier *carrier;

        TAILQ_FOREACH(carrier, &store->carriers, entry)
                if (carrier->number == number) {
                        carrier->rebuild = true;
                        consider_rebuilding(store, carrier);
                        return;
                }
}

static void empty_run(struct job *job) {
        struct empty_job *empty = (struct empty_job *) job;

        empty->result = memfd_empty(empty->fd, empty->size, empty->posix);
        empty->fd = close_fd(empty->fd);
}

static void empty_done(struct job *job) {
        struct empty_job *empty = (struct empty_job *) job;

        if (empty->result < 0)
                pin(empty->store, empty->carrier);
        free(empty);
}

/* Less is given back at once. Bytes. */
#define EMPTY_ELSEWHERE_BYTES (UINT64_C(128) << 10)

static int empty_elsewhere(struct store *store, const struct segment *segment) {
        struct empty_job *empty = calloc(1, sizeof(*empty));

        if (!empty)
                return -ENOMEM;
        *empty = (struct empty_job) {
                .job = { .run = empty_run, .done = empty_done, .uid = segment->owner.uid },
                .store = store,
                .carrier = segment->custody.carrier->number,
                .size = segment->maximum,
                .posix = segment->posix,
                .fd = fcntl(segment->custody.guard_fd, F_DUPFD_CLOEXEC, 3),
        };
        if (empty->fd < 0) {
                free(empty);
                return -EMFILE;
        }
        worker_submit(&store->daemon->worker, &empty->job);
        return 0;
}

/* Small, and sealed against nothing that matters here. */
static int give_back_control(const struct segment *segment) {
        int r = 0;

        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS && r == 0; i++)
                if (segment->custody.control_fd[i] >= 0)
                        r = memfd_empty(segment->custody.control_fd[i], control_size(i), false);
        return r;
}

/* Huge pages that were never touched stay reserved until the file goes; a file is its owner's to keep. */
static int give_back(struct store *store, const struct segment *segment) {
        if (segment->backing != WIRE_BACKING_MEMFD)
                return -EBUSY;
        if (segment->maximum >= EMPTY_ELSEWHERE_BYTES || segment->posix)
                return empty_elsewhere(store, segment);
        return memfd_empty(segment->custody.guard_fd, segment->maximum, segment->posix);
}

void store_drop(struct store *store, struct segment *segment) {
        struct carrier *carrier = segment->custody.carrier;

        segment->kept_times = NULL;
        if (store->active && segment->custody.recorded && has_room(store))
                state_append_gone(&file_to_write(store)->log, segment->id);
        /* Its record may not be found with its contents gone. */
        store_commit(store);
        if (!store->active || !carrier)
                return;
        carrier->rebuild |= give_back(store, segment) < 0;
        carrier->rebuild |= give_back_control(segment) < 0;
        carrier_leave(segment);
        consider_rebuilding(store, carrier);
}

/* --- beginning and end --- */

int store_init(struct store *store, struct daemon *daemon) {
        *store = (struct store) { .daemon = daemon, .file.fd = -EBADF, .next.fd = -EBADF, .notifier.event_fd = -EBADF };
        TAILQ_INIT(&store->carriers);
        store->rebuild_event = evtimer_new(daemon->base, on_rebuild, store);
        if (!store->rebuild_event)
                return -ENOMEM;
        return worker_init(&store->notifier, daemon->base, 1, 1);
}

/* A manager that keeps nothing closes what it gets: so the other end tells. */
static bool manager_keeps(const struct carrier *carrier) {
        struct pollfd poll_fd = { .fd = carrier->fd };

        return poll(&poll_fd, 1, 0) == 0;
}

/* kept: it has what an earlier daemon left; without it that would come back, but not what is done from now on. */
static int find_manager(struct store *store, bool kept) {
        char name[32];
        int fd, r;

        if (!handover_is_possible())
                return 0;
        r = carrier_new(store, &store->current, &fd);
        if (r < 0)
                return r;
        (void) snprintf(name, sizeof(name), "carrier-%" PRIu64, store->current->number);
        r = handover_keep(name, fd);
        close_fd(fd);
        if (r == 0)
                r = handover_wait(MANAGER_TIMEOUT_USEC);
        if (r < 0)
                log_warning("the service manager does not answer: %s", strerror(-r));
        if (r < 0 && kept)
                return r;
        store->active = r == 0 && manager_keeps(store->current);
        if (!store->active) {
                carrier_free(store, TAKE_PTR(store->current));
                log_info("the service manager keeps no descriptors: segments end with the daemon");
        } else
                carrier_watch(store->current);
        return 0;
}

/* All at once, at the start. */
static int write_all(struct store *store) {
        struct segment *segment = NULL;
        uint64_t id = 0;
        int r;

        while ((segment = registry_next_id(&store->daemon->registry, id))) {
                r = store_make_room(store, state_record_max());
                if (r == 0 && !segment->custody.carrier && needs_carrier(segment))
                        r = carry(store, segment);
                if (r < 0)
                        return r;
                segment->custody.recorded = true;
                segment->kept_times = state_append(&store->file.log, segment);
                id = segment->id;
        }
        return 0;
}

static int begin_log(struct store *store, const struct restored *restored) {
        struct state_header *header;
        int r;

        r = file_new(restored->epoch + 1, 0, &store->file);
        if (r < 0)
                return r;
        header = header_of(&store->file);
        header->next_id = store->daemon->registry.next_id;
        header->restarts = restored->restarts;
        header->started_usec = restored->started_usec ? restored->started_usec : store->daemon->started_usec;
        r = write_all(store);
        if (r < 0)
                return r;
        copy_done(store, &store->file, 1);
        state_commit(&store->file.log);
        header_of(&store->file)->complete = 1;
        store->compacted_size = store->file.log.position;
        return 0;
}

/* The manager has the new log before it drops the old ones, whenever this is interrupted. */
static int hand_log_over(struct store *store, const struct handover *handover) {
        char name[32];
        int r;

        (void) snprintf(name, sizeof(name), "state-%" PRIu64, header_of(&store->file)->epoch);
        r = handover_keep(name, store->file.fd);
        for (unsigned i = 0; r == 0 && i < handover->states.count; i++) {
                (void) snprintf(name, sizeof(name), "state-%" PRIu64, handover->states.item[i].number);
                r = handover_unkeep(name);
        }
        if (r == 0 && store->daemon->generation.keep_fd >= 0)
                r = handover_keep("generation", store->daemon->generation.keep_fd);
        return r < 0 ? r : handover_wait(MANAGER_TIMEOUT_USEC);
}

/* Each daemon begins a carrier. If its successors find many with little in them, they are put together. */
#define SMALL_CARRIER (CARRIER_MAX / 4)
#define SMALL_CARRIERS_MAX 8u

static void merge_small_carriers(struct store *store) {
        struct carrier *carrier;
        unsigned count = 0;

        TAILQ_FOREACH(carrier, &store->carriers, entry)
                count += carrier->live <= SMALL_CARRIER;
        if (count <= SMALL_CARRIERS_MAX)
                return;
        TAILQ_FOREACH(carrier, &store->carriers, entry)
                carrier->rebuild |= carrier != store->current && carrier->live <= SMALL_CARRIER;
}

static void drop_empty_carriers(struct store *store) {
        struct carrier *carrier, *next;

        for (carrier = TAILQ_FIRST(&store->carriers); carrier; carrier = next) {
                next = TAILQ_NEXT(carrier, entry);
                consider_rebuilding(store, carrier);
        }
}

int store_start(struct store *store, struct handover *handover) {
        struct restored restored = { 0 };
        int r;

        r = restore(store->daemon, handover, &restored);
        if (r < 0)
                return r;
        r = find_manager(store, handover->states.count > 0 && !store->daemon->options->replace);
        if (r < 0)
                log_error("cannot keep segments over the daemon's end: %s", strerror(-r));
        if (r == 0 && !store->active)
                carriers_free(store); /* of a daemon that was replaced */
        if (r < 0 || !store->active)
                return r;
        r = begin_log(store, &restored);
        if (r == 0)
                r = hand_log_over(store, handover);
        if (r < 0) {
                log_error("cannot hand the state log over to the service manager: %s", strerror(-r));
                return r;
        }
        merge_small_carriers(store);
        drop_empty_carriers(store);
        return 0;
}

/* Their times stay as they are. */
static void let_go_of_times(struct registry *registry) {
        struct segment *segment;
        uint64_t id = 0;

        while ((segment = registry_next_id(registry, id))) {
                segment->kept_times = NULL;
                id = segment->id;
        }
}

/* --- for a daemon that takes this one's place --- */

static void name_item(struct kept_name *name, const char *kind, uint64_t number) {
        memset(name, 0, sizeof(*name));
        (void) snprintf(name->name, sizeof(name->name), "%s-%" PRIu64, kind, number);
}

/* Puts all segments in carriers whose receiving ends go to the array. A number, or -errno. */
static int export_carriers(struct store *store, int *fds, struct kept_name *names, unsigned maximum) {
        struct carrier *carrier = NULL;
        struct segment *segment;
        unsigned count = 0;
        uint64_t id = 0;
        int r = 0;

        while (r == 0 && (segment = registry_next_id(&store->daemon->registry, id))) {
                if (!needs_carrier(segment))
                        r = 0;
                else
                        r = carrier ? carrier_send(carrier, segment) : -EAGAIN;
                if (r == 0)
                        id = segment->id;
                if (r != -EAGAIN)
                        continue;
                if (count == maximum)
                        return -E2BIG;
                r = carrier_new(store, &carrier, &fds[count]);
                if (r == 0)
                        name_item(&names[count++], "carrier", carrier->number);
        }
        return r < 0 ? r : (int) count;
}

int store_export(struct store *store, int *fds, struct kept_name *names, unsigned maximum) {
        struct daemon *daemon = store->daemon;
        struct segment *segment;
        uint64_t id = 0;
        int r;

        if (store->active)
                return -EBUSY;
        r = file_new(1, (size_t) (daemon->registry.segments + 1) * state_record_max(), &store->file);
        if (r < 0)
                return r;
        header_of(&store->file)->next_id = daemon->registry.next_id;
        header_of(&store->file)->started_usec = daemon->started_usec;
        while ((segment = registry_next_id(&daemon->registry, id))) {
                (void) state_append(&store->file.log, segment);
                id = segment->id;
        }
        copy_done(store, &store->file, 1);
        state_commit(&store->file.log);
        header_of(&store->file)->complete = 1;
        fds[0] = fcntl(store->file.fd, F_DUPFD_CLOEXEC, 3);
        name_item(&names[0], "state", 1);
        r = fds[0] < 0 ? negative_errno() : export_carriers(store, fds + 1, names + 1, maximum - 1);
        return r < 0 ? r : r + 1;
}

void store_export_abort(struct store *store) {
        carriers_free(store);
        file_done(&store->file);
}

/* --- the end --- */

static void unkeep(const char *kind, uint64_t number) {
        char name[32];

        (void) snprintf(name, sizeof(name), "%s-%" PRIu64, kind, number);
        (void) handover_unkeep(name);
}

void store_purge(struct store *store) {
        struct carrier *carrier;

        if (!store->active)
                return;
        store->active = false;
        store->purged = true;
        worker_abandon(&store->notifier);
        TAILQ_FOREACH(carrier, &store->carriers, entry)
                unkeep("carrier", carrier->number);
        unkeep("state", header_of(&store->file)->epoch);
        if (store->next.fd >= 0)
                unkeep("state", header_of(&store->next)->epoch);
        (void) handover_unkeep("generation");
        (void) handover_wait(MANAGER_TIMEOUT_USEC);
}

bool store_is_quiet(struct store *store) {
        return store->next.fd < 0 && !carrier_to_rebuild(store) && worker_is_idle(&store->notifier);
}

void store_done(struct store *store) {
        if (!store->daemon)
                return;
        if (!store->purged)
                worker_abandon(&store->notifier);
        let_go_of_times(&store->daemon->registry);
        carriers_free(store);
        file_done(&store->file);
        file_done(&store->next);
        if (store->rebuild_event)
                event_free(TAKE_PTR(store->rebuild_event));
        store->active = false;
}

uint64_t store_serving_since(const struct store *store) {
        return store->active ? state_header(&store->file.log)->started_usec : store->daemon->started_usec;
}

uint64_t store_restarts(const struct store *store) {
        return store->active ? state_header(&store->file.log)->restarts : 0;
}

unsigned store_carriers(const struct store *store) {
        const struct carrier *carrier;
        unsigned count = 0;

        TAILQ_FOREACH(carrier, &store->carriers, entry)
                count++;
        return count;
}
