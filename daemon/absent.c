/* SPDX-License-Identifier: MIT */
#include "absent.h"

#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "daemon.h"
#include "log.h"
#include "peer.h"
#include "util.h"

static int compare_tokens(struct absent *a, struct absent *b) {
        return (a->token > b->token) - (a->token < b->token);
}

TREE_GENERATE(absent_tree, absent, by_token, compare_tokens)

void absents_init(struct absents *absents, struct daemon *daemon) {
        *absents = (struct absents) { .daemon = daemon };
        RB_INIT(&absents->tree);
        TAILQ_INIT(&absents->dead);
}

struct absent *absent_get(struct absents *absents, uint64_t token) {
        struct absent *absent = RB_FIND(absent_tree, &absents->tree, &(struct absent) { .token = token });

        if (absent)
                return absent;
        absent = calloc(1, sizeof(*absent));
        if (!absent)
                return NULL;
        absent->daemon = absents->daemon;
        absent->token = token;
        absent->pidfd = -EBADF;
        client_init(&absent->client, &absents->daemon->registry, &absent->credentials);
        RB_INSERT(absent_tree, &absents->tree, absent);
        return absent;
}

static void absent_free(struct absent *absent) {
        if (absent->event)
                event_free(absent->event);
        close_fd(absent->pidfd);
        free(absent);
}

/* Without it nothing would ever tell of its end. */
static bool needs_watching(const struct absent *absent) {
        const struct segment *segment;

        TAILQ_FOREACH(segment, &absent->client.created, by_creator)
                if (segment->lifetime == WIRE_LIFETIME_CREATOR)
                        return true;
        return false;
}

static void declare_dead(struct absents *absents, struct absent *absent) {
        RB_REMOVE(absent_tree, &absents->tree, absent);
        TAILQ_INSERT_TAIL(&absents->dead, absent, entry);
        daemon_settle_later(absents->daemon);
}

static void on_end(evutil_socket_t fd, short what, void *userdata) {
        struct absent *absent = userdata;

        (void) fd;
        (void) what;
        declare_dead(&absent->daemon->absents, absent);
}

/* 0; -ESRCH: the process has gone; another error: it can't be watched. */
static int watch_process(struct absent *absent) {
        uint64_t started;

        absent->pidfd = (int) syscall(SYS_pidfd_open, absent->credentials.pid, 0);
        if (absent->pidfd < 0)
                return negative_errno();
        started = peer_start_time(absent->credentials.pid);
        /* Its number is another process's by now. */
        if (started == 0 || (absent->started != 0 && started != absent->started))
                return -ESRCH;
        absent->event = event_new(absent->daemon->base, absent->pidfd, EV_READ, on_end, absent);
        return absent->event && event_add(absent->event, NULL) == 0 ? 0 : -ENOMEM;
}

void absents_watch(struct absents *absents) {
        struct absent *absent, *next;

        for (absent = RB_MIN(absent_tree, &absents->tree); absent; absent = next) {
                int r;

                next = RB_NEXT(absent_tree, &absents->tree, absent);
                if (!needs_watching(absent))
                        continue;
                /* Of another namespace of processes: its number is not known here. What is not known to live ends. */
                r = absent->credentials.pid > 0 ? watch_process(absent) : -ESRCH;
                if (r < 0 && r != -ESRCH)
                        log_warning("cannot watch process %d: %s; its segments end now", (int) absent->credentials.pid, strerror(-r));
                if (r < 0)
                        declare_dead(absents, absent);
        }
}

uint32_t absent_return(struct absents *absents, uint64_t token, struct client *client) {
        struct absent *absent = RB_FIND(absent_tree, &absents->tree, &(struct absent) { .token = token });
        uint32_t serial;

        if (token == 0 || !absent || absent->credentials.uid != client->credentials->uid)
                return 0;
        serial = absent->serial;
        client_inherit(client, &absent->client);
        RB_REMOVE(absent_tree, &absents->tree, absent);
        absent_free(absent);
        return serial;
}

bool absents_reap(struct absents *absents, unsigned budget) {
        struct absent *absent = TAILQ_FIRST(&absents->dead);

        if (absent && client_reap(&absent->client, budget, now_realtime_usec())) {
                TAILQ_REMOVE(&absents->dead, absent, entry);
                absent_free(absent);
        }
        return !TAILQ_EMPTY(&absents->dead);
}

bool absents_are_quiet(struct absents *absents) {
        struct absent *absent;

        RB_FOREACH(absent, absent_tree, &absents->tree)
                if (absent->pidfd >= 0)
                        return false;
        return TAILQ_EMPTY(&absents->dead);
}

void absents_done(struct absents *absents) {
        struct absent *absent;

        while (absents->daemon && (absent = RB_MIN(absent_tree, &absents->tree))) {
                RB_REMOVE(absent_tree, &absents->tree, absent);
                TAILQ_INSERT_TAIL(&absents->dead, absent, entry);
        }
        while (absents->daemon && !TAILQ_EMPTY(&absents->dead))
                (void) absents_reap(absents, UINT_MAX);
}
