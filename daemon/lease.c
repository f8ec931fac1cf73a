/* SPDX-License-Identifier: MIT */
#include "lease.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>

#include "clock.h"
#include "log.h"
#include "sysv.h"
#include "util.h"

/* Before the first, second, … repetition of a question. Microseconds. */
static const uint64_t delay_usec[LEASE_DELAYS] = { 200, 2000, 8000, 32000, 128000, 512000, 2000000 };

#define UNWATCHED INT_MAX

/* At one turn of the loop: a question takes some microseconds, and other clients are waiting. */
#define QUESTIONS_A_TURN 32u

static int compare_watch(struct segment *a, struct segment *b) {
        return (a->custody.watch > b->custody.watch) - (a->custody.watch < b->custody.watch);
}

TREE_GENERATE(watch_tree, segment, custody.by_watch, compare_watch)

static bool ask_kernel(struct segment *segment) {
        int fd = segment->custody.guard_fd;

        if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0) {
                if (errno != EAGAIN)
                        log_warning("cannot ask who has segment %" PRIu64 ": %s", segment->id, strerror(errno));
                return true;
        }
        (void) fcntl(fd, F_SETLEASE, F_UNLCK);
        return false;
}

/* A file of its creator's is not the daemon's to lease: there the connections' holds are all that counts. */
bool lease_is_held(struct lease *lease, struct segment *segment) {
        if (segment->backing == WIRE_BACKING_FILE)
                return false;
        memfd_close_shared(lease->memfd, segment);
        return segment->backing == WIRE_BACKING_SYSV ? sysv_is_held(segment, ask_kernel) : ask_kernel(segment);
}

static int watch_add(struct lease *lease, struct segment *segment) {
        char path[64];
        int wd;

        if (segment->custody.guard_fd < 0)
                return -EBADF;
        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", segment->custody.guard_fd);
        wd = inotify_add_watch(lease->inotify_fd, path, IN_CLOSE);
        if (wd < 0)
                return negative_errno();
        segment->custody.watch = wd;
        RB_INSERT(watch_tree, &lease->watches, segment);
        return 0;
}

static void arm(struct lease_delay *delay) {
        struct segment *first = TAILQ_FIRST(&delay->waiting);
        uint64_t now = now_monotonic_usec(), wait;
        struct timeval timeout;

        if (!first)
                return;
        wait = first->custody.retry_usec > now ? first->custody.retry_usec - now : 0;
        timeout = (struct timeval) { (time_t) (wait / 1000000), (suseconds_t) (wait % 1000000) };
        (void) evtimer_add(delay->timer, &timeout);
}

static void retry_stop(struct lease *lease, struct segment *segment) {
        if (segment->custody.retry < 0)
                return;
        TAILQ_REMOVE(&lease->delays[segment->custody.retry].waiting, segment, custody.retry_entry);
        segment->custody.retry = -1;
}

/* Asks again after the delay of that number; after the last one only an event brings the question up again. */
static void retry_start(struct lease *lease, struct segment *segment, int number) {
        struct lease_delay *delay;

        retry_stop(lease, segment);
        if (number == LEASE_DELAYS) {
                if (segment->custody.watch != UNWATCHED)
                        return;
                number--;
        }
        delay = &lease->delays[number];
        segment->custody.retry = number;
        segment->custody.retry_usec = now_monotonic_usec() + delay_usec[number];
        TAILQ_INSERT_TAIL(&delay->waiting, segment, custody.retry_entry);
        if (TAILQ_FIRST(&delay->waiting) == segment)
                arm(delay);
}

void lease_forget(struct lease *lease, struct segment *segment) {
        retry_stop(lease, segment);
        if (segment->custody.watch >= 0 && segment->custody.watch != UNWATCHED) {
                RB_REMOVE(watch_tree, &lease->watches, segment);
                (void) inotify_rm_watch(lease->inotify_fd, segment->custody.watch);
        }
        segment->custody.watch = -1;
}

/* Asks about a segment that is looked after; if it is held, again after the delay of that number. */
static void ask(struct lease *lease, struct segment *segment, int next_delay) {
        if (segment->attached > 0) /* its connections account for it again */
                lease_forget(lease, segment);
        else if (lease_is_held(lease, segment))
                retry_start(lease, segment, next_delay);
        else {
                lease_forget(lease, segment);
                lease->function(segment, lease->userdata);
        }
}

void lease_await(struct lease *lease, struct segment *segment) {
        if (segment->custody.watch < 0) {
                int r;

                /* Most often nobody has it, and no watch is needed. */
                if (!lease_is_held(lease, segment)) {
                        lease->function(segment, lease->userdata);
                        return;
                }
                r = watch_add(lease, segment);
                if (r < 0) {
                        log_message(r == -EBADF ? LOG_DEBUG : LOG_WARNING,
                                    "cannot watch segment %" PRIu64 ", asking every two seconds: %s", segment->id, strerror(-r));
                        segment->custody.watch = UNWATCHED;
                }
        }
        /* The last one may have gone between question and watch. */
        ask(lease, segment, 0);
}

static void on_delay(evutil_socket_t fd, short what, void *userdata) {
        struct lease_delay *delay = userdata;
        struct segment *segment;

        (void) fd;
        (void) what;
        for (unsigned i = 0; i < QUESTIONS_A_TURN && (segment = TAILQ_FIRST(&delay->waiting)) &&
                             segment->custody.retry_usec <= now_monotonic_usec();
             i++)
                ask(delay->lease, segment, segment->custody.retry + 1);
        arm(delay);
}

/*
 * An event brings the question up, at the first delay's end at the latest: whoever opens and closes in a loop costs one question each
 * such time, not one an event.
 */
static void ask_soon(struct lease *lease, struct segment *segment) {
        if (segment->custody.retry != 0)
                retry_start(lease, segment, 0);
}

/* Events were lost: ask about all. */
static void ask_all(struct lease *lease) {
        struct segment *segment;

        RB_FOREACH(segment, watch_tree, &lease->watches)
                ask_soon(lease, segment);
}

static void handle_event(struct lease *lease, const struct inotify_event *event) {
        struct segment key = { .custody.watch = event->wd };
        struct segment *segment;

        if (event->mask & IN_Q_OVERFLOW) {
                ask_all(lease);
                return;
        }
        segment = RB_FIND(watch_tree, &lease->watches, &key);
        if (segment && !(event->mask & IN_IGNORED))
                ask_soon(lease, segment);
}

static void on_inotify(evutil_socket_t fd, short what, void *userdata) {
        _Alignas(struct inotify_event) char buffer[4096];
        ssize_t n;

        (void) what;
        n = read(fd, buffer, sizeof(buffer));
        for (char *p = buffer; n > 0 && p < buffer + n;) {
                const struct inotify_event *event = (const struct inotify_event *) p;

                handle_event(userdata, event);
                p += sizeof(*event) + event->len;
        }
}

static int make_timers(struct lease *lease, struct event_base *base) {
        for (size_t i = 0; i < ELEMENTSOF(lease->delays); i++) {
                struct lease_delay *delay = &lease->delays[i];

                delay->lease = lease;
                TAILQ_INIT(&delay->waiting);
                delay->timer = evtimer_new(base, on_delay, delay);
                if (!delay->timer)
                        return -ENOMEM;
        }
        return 0;
}

int lease_init(struct lease *lease, struct event_base *base, struct memfd *memfd, lease_free_function function, void *userdata) {
        *lease = (struct lease) { .memfd = memfd, .function = function, .userdata = userdata };
        RB_INIT(&lease->watches);
        lease->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (lease->inotify_fd < 0)
                return negative_errno();
        lease->event = event_new(base, lease->inotify_fd, EV_READ | EV_PERSIST, on_inotify, lease);
        if (make_timers(lease, base) < 0 || !lease->event || event_add(lease->event, NULL) < 0) {
                lease_done(lease);
                return -ENOMEM;
        }
        return 0;
}

void lease_done(struct lease *lease) {
        for (size_t i = 0; i < ELEMENTSOF(lease->delays); i++)
                if (lease->delays[i].timer)
                        event_free(TAKE_PTR(lease->delays[i].timer));
        if (lease->event)
                event_free(TAKE_PTR(lease->event));
        lease->inotify_fd = close_fd(lease->inotify_fd);
}

bool lease_is_quiet(const struct lease *lease) {
        bool waiting = false;

        for (size_t i = 0; i < LEASE_DELAYS; i++)
                waiting |= !TAILQ_EMPTY(&lease->delays[i].waiting);
        return !waiting && RB_EMPTY(&lease->watches);
}
