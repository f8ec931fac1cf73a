/* SPDX-License-Identifier: MIT */
#include "lease.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>

#include "log.h"
#include "util.h"

/* How often those are asked about for which the kernel gave no watch (max_user_watches). */
static const struct timeval retry_interval = { .tv_sec = 1 };

static int compare_watch(struct segment *a, struct segment *b) {
        return (a->custody.watch > b->custody.watch) - (a->custody.watch < b->custody.watch);
}

TREE_GENERATE(watch_tree, segment, custody.by_watch, compare_watch)

bool lease_is_held(struct lease *lease, struct segment *segment) {
        int fd = segment->custody.guard_fd;

        memfd_close_shared(lease->memfd, segment);
        if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0) {
                if (errno != EAGAIN)
                        log_warning("cannot ask who has segment %" PRIu64 ": %s", segment->id, strerror(errno));
                return true;
        }
        (void) fcntl(fd, F_SETLEASE, F_UNLCK);
        return false;
}

static int watch_add(struct lease *lease, struct segment *segment) {
        char path[64];
        int wd;

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", segment->custody.guard_fd);
        wd = inotify_add_watch(lease->inotify_fd, path, IN_CLOSE);
        if (wd < 0)
                return negative_errno();
        segment->custody.watch = wd;
        RB_INSERT(watch_tree, &lease->watches, segment);
        return 0;
}

static void retry_later(struct lease *lease, struct segment *segment) {
        segment->custody.watch = INT_MAX; /* "not lost from sight" */
        TAILQ_INSERT_TAIL(&lease->unwatched, segment, custody.unwatched_entry);
        if (!evtimer_pending(lease->retry, NULL))
                (void) evtimer_add(lease->retry, &retry_interval);
}

void lease_forget(struct lease *lease, struct segment *segment) {
        if (segment->custody.watch < 0)
                return;
        if (segment->custody.watch == INT_MAX)
                TAILQ_REMOVE(&lease->unwatched, segment, custody.unwatched_entry);
        else {
                RB_REMOVE(watch_tree, &lease->watches, segment);
                (void) inotify_rm_watch(lease->inotify_fd, segment->custody.watch);
        }
        segment->custody.watch = -1;
}

/* The outcome of a question about a segment that is watched, or was to be. */
static void conclude_free(struct lease *lease, struct segment *segment) {
        lease_forget(lease, segment);
        lease->function(segment, lease->userdata);
}

void lease_await(struct lease *lease, struct segment *segment) {
        if (segment->custody.watch < 0) {
                int r;

                /* Most often nobody has it, and no watch is needed. */
                if (!lease_is_held(lease, segment)) {
                        conclude_free(lease, segment);
                        return;
                }
                r = watch_add(lease, segment);
                if (r < 0) {
                        log_warning("cannot watch segment %" PRIu64 ", asking once a second: %s", segment->id, strerror(-r));
                        retry_later(lease, segment);
                        return;
                }
        }
        /* The last one may have gone between question and watch. */
        if (!lease_is_held(lease, segment))
                conclude_free(lease, segment);
}

static void ask_again(struct lease *lease, struct segment *segment) {
        if (segment->attached > 0) /* its connections account for it again */
                lease_forget(lease, segment);
        else if (!lease_is_held(lease, segment))
                conclude_free(lease, segment);
}

/* Events were lost: ask about all. The function may free a segment, but only the one that it is called for. */
static void ask_all(struct lease *lease) {
        struct segment *segment, *next;

        for (segment = RB_MIN(watch_tree, &lease->watches); segment; segment = next) {
                next = RB_NEXT(watch_tree, &lease->watches, segment);
                ask_again(lease, segment);
        }
}

static void on_retry(evutil_socket_t fd, short what, void *userdata) {
        struct lease *lease = userdata;
        struct segment_queue again = TAILQ_HEAD_INITIALIZER(again);
        struct segment *segment;

        (void) fd;
        (void) what;
        TAILQ_CONCAT(&again, &lease->unwatched, custody.unwatched_entry);
        while ((segment = TAILQ_FIRST(&again))) {
                TAILQ_REMOVE(&again, segment, custody.unwatched_entry);
                segment->custody.watch = -1;
                if (segment->attached == 0)
                        lease_await(lease, segment);
        }
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
                ask_again(lease, segment);
}

static void on_inotify(evutil_socket_t fd, short what, void *userdata) {
        _Alignas(struct inotify_event) char buffer[16384];
        struct lease *lease = userdata;
        int last_wd = -1;
        ssize_t n;

        (void) what;
        n = read(fd, buffer, sizeof(buffer));
        for (char *p = buffer; n > 0 && p < buffer + n;) {
                const struct inotify_event *event = (const struct inotify_event *) p;

                /* One that opens and closes in a loop costs one question a run of its events. */
                if (event->wd != last_wd || (event->mask & IN_Q_OVERFLOW))
                        handle_event(lease, event);
                last_wd = event->wd;
                p += sizeof(*event) + event->len;
        }
}

int lease_init(struct lease *lease, struct event_base *base, struct memfd *memfd, lease_free_function function, void *userdata) {
        *lease = (struct lease) { .memfd = memfd, .function = function, .userdata = userdata };
        RB_INIT(&lease->watches);
        TAILQ_INIT(&lease->unwatched);
        lease->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (lease->inotify_fd < 0)
                return negative_errno();
        lease->event = event_new(base, lease->inotify_fd, EV_READ | EV_PERSIST, on_inotify, lease);
        lease->retry = evtimer_new(base, on_retry, lease);
        if (!lease->event || !lease->retry || event_add(lease->event, NULL) < 0) {
                lease_done(lease);
                return -ENOMEM;
        }
        return 0;
}

void lease_done(struct lease *lease) {
        if (lease->event)
                event_free(TAKE_PTR(lease->event));
        if (lease->retry)
                event_free(TAKE_PTR(lease->retry));
        lease->inotify_fd = close_fd(lease->inotify_fd);
}
