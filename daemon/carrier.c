/* SPDX-License-Identifier: MIT */
#include "carrier.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "carried.h"
#include "daemon.h"
#include "log.h"
#include "util.h"

/* Entries of one carrier: reading a queue without taking anything out of it walks it from its beginning for each (SO_PEEK_OFF). */
#define CARRIER_MAX 512u
/* The kernel counts 768 bytes for each of them. */
#define CARRIER_BUFFER ((int) CARRIER_MAX * 1024)

/* At one turn of the loop. */
#define MOVES_A_TURN 32u

/* How long memory that could not be given back by itself waits for its carrier to be rebuilt; others join it. */
static const struct timeval rebuild_delay = { .tv_usec = 100000 };

/* Until it is tried again. */
static const struct timeval patience = { .tv_sec = 1 };

/* --- one carrier --- */

static struct carrier *carrier_new(struct carriers *carriers, uint64_t number, int fd) {
        struct carrier *carrier = calloc(1, sizeof(*carrier));

        if (!carrier)
                return NULL;
        *carrier = (struct carrier) { .carriers = carriers, .number = number, .fd = fd };
        TAILQ_INIT(&carrier->segments);
        TAILQ_INSERT_TAIL(&carriers->list, carrier, entry);
        carriers->last_number = MAX(carriers->last_number, number);
        return carrier;
}

/* ret_fd: the receiving end. */
static int carrier_new_pair(struct carriers *carriers, struct carrier **ret_carrier, int *ret_fd) {
        int size = CARRIER_BUFFER, pair[2];
        struct carrier *carrier;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return negative_errno();
        carrier = carrier_new(carriers, carriers->last_number + 1, pair[0]);
        if (!carrier) {
                close_fd(pair[0]);
                close_fd(pair[1]);
                return -ENOMEM;
        }
        /* Where the system allows less, a carrier has fewer entries. */
        (void) setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
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

static void carrier_free(struct carrier *carrier) {
        struct segment *segment;

        while ((segment = TAILQ_FIRST(&carrier->segments))) {
                TAILQ_REMOVE(&carrier->segments, segment, custody.carried);
                segment->custody.carrier = NULL;
        }
        TAILQ_REMOVE(&carrier->carriers->list, carrier, entry);
        carrier_close(carrier);
        free(carrier);
}

static void carrier_leave(struct segment *segment) {
        struct carrier *carrier = segment->custody.carrier;

        TAILQ_REMOVE(&carrier->segments, segment, custody.carried);
        carrier->live--;
        segment->custody.carrier = NULL;
}

void carrier_adopt(struct carrier *carrier, struct segment *segment) {
        if (segment->custody.carrier)
                carrier_leave(segment);
        TAILQ_INSERT_TAIL(&carrier->segments, segment, custody.carried);
        carrier->live++;
        segment->custody.carrier = carrier;
}

/*
 * The manager did not take it, or has let go of it: what is in it is lost with this daemon. So it is put in another, and
 * again, if that is lost as well.
 */
static void carrier_lose(struct carrier *carrier, int error) {
        struct carriers *carriers = carrier->carriers;

        store_fails(&carriers->daemon->store, WIRE_STORE_FAILURE_MANAGER, error);
        carrier->lost = true;
        carrier->rebuild = true;
        carrier_close(carrier);
        if (carrier == carriers->spare)
                carrier_free(TAKE_PTR(carriers->spare));
        (void) evtimer_add(carriers->rebuild_event, &patience);
}

static void on_carrier_lost(evutil_socket_t fd, short what, void *userdata) {
        (void) fd;
        (void) what;
        carrier_lose(userdata, -EPIPE);
}

/* Nobody writes to this end: it is readable when the other one has gone. Without memory for that it is found out when it is used. */
static void carrier_watch(struct carrier *carrier) {
        carrier->event = event_new(carrier->carriers->daemon->base, carrier->fd, EV_READ, on_carrier_lost, carrier);
        if (carrier->event)
                (void) event_add(carrier->event, NULL);
}

static struct carrier *find(struct carriers *carriers, uint64_t number) {
        struct carrier *carrier;

        TAILQ_FOREACH(carrier, &carriers->list, entry)
                if (carrier->number == number)
                        return carrier;
        return NULL;
}

/* All that is carried is kept. */
static void consider_recovered(struct carriers *carriers) {
        const struct carrier *carrier;

        if (!carriers->current || !carriers->current->kept)
                return;
        TAILQ_FOREACH(carrier, &carriers->list, entry)
                if (carrier->lost)
                        return;
        store_recovers(&carriers->daemon->store, WIRE_STORE_FAILURE_MANAGER);
}

/* A manager that keeps nothing closes what it gets: so the other end tells. */
static bool manager_keeps(const struct carrier *carrier) {
        struct pollfd poll_fd = { .fd = carrier->fd };

        return poll(&poll_fd, 1, 0) == 0;
}

static void on_confirmed(struct daemon *daemon, uint64_t number, int result) {
        struct carriers *carriers = &daemon->store.carriers;
        struct carrier *carrier = find(carriers, number);

        if (!carrier || carrier->lost)
                return;
        if (result < 0 || !manager_keeps(carrier)) {
                carrier_lose(carrier, result < 0 ? result : -EPIPE);
                return;
        }
        carrier->told = carrier->kept = true;
        consider_recovered(carriers);
}

static int carrier_new_kept(struct carriers *carriers, struct carrier **ret_carrier) {
        struct carrier *carrier;
        int fd, r;

        r = carrier_new_pair(carriers, &carrier, &fd);
        if (r < 0)
                return r;
        r = manager_keep(carriers->manager, "carrier", carrier->number, fd, on_confirmed, &carrier->told);
        if (r < 0) {
                carrier_free(carrier);
                return r;
        }
        carrier_watch(carrier);
        *ret_carrier = carrier;
        return 0;
}

static void carrier_drop(struct carrier *carrier) {
        if (!carrier->lost)
                manager_drop(carrier->carriers->manager, "carrier", carrier->number);
        carrier_free(carrier);
}

/* --- which are to go, or to be rebuilt --- */

/* A carrier that nothing more is put in is looked after when segments go. */
static bool is_closed(const struct carrier *carrier) {
        return carrier != carrier->carriers->current && carrier != carrier->carriers->spare;
}

static void consider_rebuilding(struct carrier *carrier) {
        struct event *event = carrier->carriers->rebuild_event;

        if (carrier->live == 0 && is_closed(carrier)) {
                carrier_drop(carrier);
                return;
        }
        carrier->rebuild |= is_closed(carrier) && carrier->live * 2 <= carrier->entries;
        if (carrier->rebuild && !evtimer_pending(event, NULL))
                (void) evtimer_add(event, &rebuild_delay);
}

void carrier_release(struct segment *segment, bool pinned) {
        struct carrier *carrier = segment->custody.carrier;

        carrier->rebuild |= pinned;
        carrier_leave(segment);
        consider_rebuilding(carrier);
}

void carriers_pin(struct carriers *carriers, uint64_t number) {
        struct carrier *carrier = find(carriers, number);

        if (!carrier)
                return;
        carrier->rebuild = true;
        consider_rebuilding(carrier);
}

/* --- putting segments in --- */

/* Nothing more is put in the current one, which is dropped if nothing lives in it. */
static int rotate(struct carriers *carriers) {
        struct carrier *former = carriers->current;
        int r;

        if (!carriers->spare) {
                r = carrier_new_kept(carriers, &carriers->spare);
                if (r < 0)
                        return r;
        }
        if (!carriers->spare->told)
                store_fails(&carriers->daemon->store, WIRE_STORE_FAILURE_MANAGER, -EAGAIN);
        carriers->current = TAKE_PTR(carriers->spare);
        /* Its sending end stays open: so it is noticed if the manager lets go of it later. */
        if (former)
                consider_rebuilding(former);
        return 0;
}

static bool current_is_lost(const struct carriers *carriers) {
        return carriers->current->lost;
}

/* Rather in a carrier that is longer than it should be than in one that the manager may never hear of. */
static bool current_is_full(const struct carriers *carriers) {
        return carriers->current->entries >= CARRIER_MAX && (!carriers->spare || carriers->spare->told);
}

static int send_to_current(struct carriers *carriers, const struct segment *segment) {
        struct carrier *current = carriers->current;
        int r;

        if (current_is_lost(carriers) || current_is_full(carriers))
                return -EAGAIN;
        r = carried_send(current->fd, segment);
        if (r == -EPIPE || r == -ECONNRESET) {
                carrier_lose(current, r);
                return -EAGAIN;
        }
        if (r == 0)
                current->entries++;
        return r;
}

/* If it can't be made, or is lost, then it is when there is need for it, or later: a manager that is full is not asked all the time. */
static void provide_spare(struct carriers *carriers) {
        if (!carriers->spare && !current_is_lost(carriers) && carriers->current->entries * 2 > CARRIER_MAX &&
            !evtimer_pending(carriers->rebuild_event, NULL))
                (void) carrier_new_kept(carriers, &carriers->spare);
}

static int put(struct carriers *carriers, struct segment *segment) {
        int r;

        r = send_to_current(carriers, segment);
        if (r == -EAGAIN && !current_is_lost(carriers)) {
                r = rotate(carriers);
                if (r == 0)
                        r = send_to_current(carriers, segment);
        }
        /* Which is told. It waits there for the manager to take another, which is not tried for each segment. */
        if (r == -EAGAIN && current_is_lost(carriers))
                r = 0;
        if (r < 0)
                return r == -ETOOMANYREFS ? -EMFILE : r;
        carrier_adopt(carriers->current, segment);
        provide_spare(carriers);
        return 0;
}

int carriers_put(struct carriers *carriers, struct segment *segment) {
        struct carrier *former = segment->custody.carrier;
        int r = put(carriers, segment);

        if (r == 0 && former)
                consider_rebuilding(former);
        return r;
}

/* --- rebuilding --- */

static struct carrier *next_to_rebuild(struct carriers *carriers) {
        struct carrier *carrier;

        TAILQ_FOREACH(carrier, &carriers->list, entry)
                if (carrier->rebuild)
                        return carrier;
        return NULL;
}

bool carriers_are_to_rebuild(struct carriers *carriers) {
        return next_to_rebuild(carriers) != NULL;
}

static bool rebuild_failed(struct carriers *carriers, int r) {
        log_warning("cannot rebuild what the service manager keeps: %s; trying again", strerror(-r));
        (void) evtimer_add(carriers->rebuild_event, &patience);
        return false;
}

/* Some more moves. True if there is still something to move. */
static bool rebuild_step(struct carriers *carriers) {
        struct carrier *carrier = next_to_rebuild(carriers);
        struct segment *segment;
        int r = 0;

        if (!carrier)
                return false;
        if (carrier == carriers->current) {
                bool goes = carrier->live == 0;

                r = rotate(carriers);
                if (r < 0)
                        return rebuild_failed(carriers, r);
                if (goes)
                        return carriers_are_to_rebuild(carriers);
        }
        for (unsigned i = 0; r == 0 && i < MOVES_A_TURN && (segment = TAILQ_FIRST(&carrier->segments)); i++)
                r = put(carriers, segment);
        if (r < 0)
                return rebuild_failed(carriers, r);
        if (TAILQ_EMPTY(&carrier->segments)) {
                carrier_drop(carrier);
                consider_recovered(carriers);
        }
        return carriers_are_to_rebuild(carriers);
}

bool carriers_settle(struct carriers *carriers) {
        if (evtimer_pending(carriers->rebuild_event, NULL))
                return false;
        provide_spare(carriers);
        return rebuild_step(carriers);
}

static void on_rebuild(evutil_socket_t fd, short what, void *userdata) {
        struct carriers *carriers = userdata;

        (void) fd;
        (void) what;
        daemon_settle_later(carriers->daemon);
}

/* --- beginning and end --- */

int carriers_init(struct carriers *carriers, struct daemon *daemon, struct manager *manager) {
        *carriers = (struct carriers) { .daemon = daemon, .manager = manager };
        TAILQ_INIT(&carriers->list);
        carriers->rebuild_event = evtimer_new(daemon->base, on_rebuild, carriers);
        return carriers->rebuild_event ? 0 : -ENOMEM;
}

void carriers_clear(struct carriers *carriers) {
        struct carrier *carrier;

        carriers->current = carriers->spare = NULL;
        while ((carrier = TAILQ_FIRST(&carriers->list)))
                carrier_free(carrier);
}

void carriers_done(struct carriers *carriers) {
        carriers_clear(carriers);
        if (carriers->rebuild_event)
                event_free(TAKE_PTR(carriers->rebuild_event));
}

/* The manager would drop two of the same number, both. */
struct carrier *carriers_add(struct carriers *carriers, uint64_t number) {
        struct carrier *carrier = find(carriers, number);

        return carrier ? carrier : carrier_new(carriers, number, -EBADF);
}

int carriers_begin(struct carriers *carriers, uint64_t timeout_usec, bool must) {
        int fd, r;

        r = carrier_new_pair(carriers, &carriers->current, &fd);
        if (r < 0)
                return r;
        r = handover_keep(kept_name("carrier", carriers->current->number).name, fd);
        close_fd(fd);
        if (r == 0)
                r = handover_wait(timeout_usec);
        if (r < 0)
                log_warning("the service manager does not answer: %s", strerror(-r));
        if (r == 0 && manager_keeps(carriers->current)) {
                carriers->current->told = carriers->current->kept = true;
                carrier_watch(carriers->current);
        } else
                carrier_free(TAKE_PTR(carriers->current));
        return must ? r : 0;
}

/* Each daemon begins a carrier. If its successors find many with little in them, they are put together. */
#define SMALL_CARRIER (CARRIER_MAX / 4)
#define SMALL_CARRIERS_MAX 8u

static void merge_small(struct carriers *carriers) {
        struct carrier *carrier;
        unsigned count = 0;

        TAILQ_FOREACH(carrier, &carriers->list, entry)
                count += carrier->live <= SMALL_CARRIER;
        if (count <= SMALL_CARRIERS_MAX)
                return;
        TAILQ_FOREACH(carrier, &carriers->list, entry)
                carrier->rebuild |= carrier != carriers->current && carrier->live <= SMALL_CARRIER;
}

void carriers_tidy(struct carriers *carriers) {
        struct carrier *carrier, *next;

        merge_small(carriers);
        for (carrier = TAILQ_FIRST(&carriers->list); carrier; carrier = next) {
                next = TAILQ_NEXT(carrier, entry);
                consider_rebuilding(carrier);
        }
}

int carriers_export(struct carriers *carriers, int *fds, struct kept_name *names, unsigned maximum) {
        struct carrier *carrier = NULL;
        struct segment *segment;
        unsigned count = 0;
        uint64_t id = 0;
        int r = 0;

        while (r == 0 && (segment = registry_next_id(&carriers->daemon->registry, id))) {
                if (!carried_is_needed(segment))
                        r = 0;
                else
                        r = carrier ? carried_send(carrier->fd, segment) : -EAGAIN;
                if (r == 0)
                        id = segment->id;
                if (r != -EAGAIN)
                        continue;
                if (count == maximum)
                        return -E2BIG;
                r = carrier_new_pair(carriers, &carrier, &fds[count]);
                if (r == 0)
                        names[count++] = kept_name("carrier", carrier->number);
        }
        return r < 0 ? r : (int) count;
}

void carriers_unkeep(const struct carriers *carriers) {
        const struct carrier *carrier;

        TAILQ_FOREACH(carrier, &carriers->list, entry)
                (void) handover_unkeep(kept_name("carrier", carrier->number).name);
}

unsigned carriers_count(const struct carriers *carriers) {
        const struct carrier *carrier;
        unsigned count = 0;

        TAILQ_FOREACH(carrier, &carriers->list, entry)
                count++;
        return count;
}
