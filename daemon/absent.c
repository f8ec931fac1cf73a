/* SPDX-License-Identifier: MIT */
#include "absent.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "daemon.h"
#include "log.h"
#include "peer.h"
#include "status.h"
#include "util.h"

static int compare_tokens(struct absent *a, struct absent *b) {
        uid_t x = a->credentials.uid, y = b->credentials.uid;

        return a->token != b->token ? (a->token > b->token) - (a->token < b->token) : (x > y) - (x < y);
}

TREE_GENERATE(absent_tree, absent, by_token, compare_tokens)

void absents_init(struct absents *absents, struct daemon *daemon) {
        *absents = (struct absents) { .daemon = daemon };
        RB_INIT(&absents->tree);
        TAILQ_INIT(&absents->dead);
        TAILQ_INIT(&absents->unwatched);
}

static struct absent *find(struct absents *absents, uint64_t token, uid_t uid) {
        struct absent key = { .token = token, .credentials.uid = uid };

        return RB_FIND(absent_tree, &absents->tree, &key);
}

struct absent *absent_get(struct absents *absents, uint64_t token, uid_t uid) {
        struct absent *absent = find(absents, token, uid);

        if (absent)
                return absent;
        absent = calloc(1, sizeof(*absent));
        if (!absent)
                return NULL;
        absent->daemon = absents->daemon;
        absent->token = token;
        absent->credentials.uid = uid;
        absent->pidfd = -EBADF;
        client_init(&absent->client, &absents->daemon->registry, &absent->credentials);
        RB_INSERT(absent_tree, &absents->tree, absent);
        return absent;
}

static void absent_free(struct absent *absent) {
        charge_done(&absent->charge);
        if (absent->event)
                event_free(absent->event);
        close_fd(absent->pidfd);
        free(absent);
}

/* Without it nothing would ever tell of its end. */
static bool needs_watching(const struct absent *absent) {
        const struct segment *segment;

        TAILQ_FOREACH(segment, &absent->client.created, by_creator)
                if (segment_heeds_creator(segment) || segment->sysv.registered)
                        return true;
        return false;
}

static void set_unwatched(struct absents *absents, struct absent *absent, bool unwatched) {
        if (absent->unwatched == unwatched)
                return;
        absent->unwatched = unwatched;
        if (unwatched)
                TAILQ_INSERT_TAIL(&absents->unwatched, absent, entry);
        else
                TAILQ_REMOVE(&absents->unwatched, absent, entry);
}

static void leave(struct absents *absents, struct absent *absent) {
        set_unwatched(absents, absent, false);
        RB_REMOVE(absent_tree, &absents->tree, absent);
}

static void declare_dead(struct absents *absents, struct absent *absent) {
        leave(absents, absent);
        TAILQ_INSERT_TAIL(&absents->dead, absent, entry);
        daemon_settle_later(absents->daemon);
}

static void on_end(evutil_socket_t fd, short what, void *userdata) {
        struct absent *absent = userdata;

        (void) fd;
        (void) what;
        declare_dead(&absent->daemon->absents, absent);
}

/* 0; -ESRCH: the process has gone; another error: it can't be watched now. */
static int watch_process(struct absent *absent) {
        _cleanup_close_ int pidfd = -EBADF;
        uint64_t started;

        /* Of another namespace of processes: its number is not known here. What is not known to live ends. */
        if (absent->credentials.pid <= 0)
                return -ESRCH;
        pidfd = (int) syscall(SYS_pidfd_open, absent->credentials.pid, 0);
        if (pidfd < 0)
                return negative_errno();
        started = peer_start_time(absent->credentials.pid);
        /* Its number is another process's by now. */
        if (absent->started != 0 && started != 0 && started != absent->started)
                return -ESRCH;
        absent->event = event_new(absent->daemon->base, pidfd, EV_READ, on_end, absent);
        if (!absent->event || event_add(absent->event, NULL) < 0) {
                if (absent->event)
                        event_free(TAKE_PTR(absent->event));
                return -ENOMEM;
        }
        absent->pidfd = TAKE_FD(pidfd);
        return 0;
}

/* 0, -ESRCH: it has ended; or -errno. */
static int watch_or_bury(struct absents *absents, struct absent *absent) {
        int r = watch_process(absent);

        if (r == -ESRCH)
                declare_dead(absents, absent);
        else
                set_unwatched(absents, absent, r < 0);
        return r;
}

struct absent *absent_next(struct absents *absents, struct absent *after) {
        return after ? RB_NEXT(absent_tree, &absents->tree, after) : RB_MIN(absent_tree, &absents->tree);
}

/* Another user's end may be whenever he likes. */
static bool process_is_of(pid_t pid, uid_t uid) {
        char path[32];
        struct stat st;

        (void) snprintf(path, sizeof(path), "/proc/%d", (int) pid);
        return stat(path, &st) == 0 && (st.st_uid == uid || st.st_uid == 0);
}

static int keeper_start(struct absent *absent) {
        uid_t uid = absent->credentials.uid;
        struct shmd_wire_refusal refusal;
        int r;

        absent->keeps = true;
        absent->started = keeper_started(absent->token);
        absent->credentials.pid = keeper_pid(absent->token);
        if (absent->credentials.pid <= 0 || absent->started == 0 || !process_is_of(absent->credentials.pid, uid))
                return -ESRCH;
        r = quota_charge(&absent->daemon->quota, uid, QUOTA_DESCRIPTORS, 1, &absent->charge, &refusal);
        return r != 0 ? -EMFILE : watch_process(absent);
}

/* The token, in the numbers of our namespace of processes. */
static uint64_t keeper_token_here(uint64_t token, pid_t client) {
        uint64_t started = keeper_started(token);
        pid_t pid = keeper_pid(token);

        if (pid > 0 && peer_start_time(pid) != started)
                pid = peer_find_ancestor(client, pid, started);
        return pid > 0 ? started << KEEPER_PID_BITS | (uint64_t) pid : token;
}

struct client *absent_keeper(struct absents *absents, uint64_t *token, const struct credentials *credentials) {
        struct absent *absent = find(absents, *token, credentials->uid);

        if (!absent) {
                *token = keeper_token_here(*token, credentials->pid);
                absent = find(absents, *token, credentials->uid);
        }
        if (absent)
                return absent->keeps ? &absent->client : NULL;
        absent = absent_get(absents, *token, credentials->uid);
        if (!absent)
                return NULL;
        if (keeper_start(absent) == 0)
                return &absent->client;
        leave(absents, absent);
        absent_free(absent);
        return NULL;
}

void absents_watch(struct absents *absents) {
        struct absent *absent, *next;

        for (absent = absent_next(absents, NULL); absent; absent = next) {
                int r = 0;

                next = absent_next(absents, absent);
                if (needs_watching(absent))
                        r = watch_or_bury(absents, absent);
                if (r < 0 && r != -ESRCH)
                        log_warning("cannot watch process %d, trying again: %s", (int) absent->credentials.pid, strerror(-r));
        }
}

int absents_expect(struct absents *absents, const struct segment *segment) {
        struct absent *absent = find(absents, segment->creator.token, segment->creator.uid);
        int r;

        if (!absent || segment->creator.client != &absent->client || absent->pidfd >= 0)
                return 0;
        r = watch_or_bury(absents, absent);
        return r == -ESRCH ? SHMD_CREATOR_GONE : r;
}

uint32_t absent_return(struct absents *absents, uint64_t token, struct client *client) {
        struct absent *absent = token ? find(absents, token, client->credentials->uid) : NULL;
        uint32_t serial;

        if (!absent || absent->keeps)
                return 0;
        serial = absent->serial;
        client_inherit(client, &absent->client);
        leave(absents, absent);
        absent_free(absent);
        return serial;
}

bool absents_reap(struct absents *absents, unsigned budget) {
        struct absent *absent = TAILQ_FIRST(&absents->dead), *unwatched = TAILQ_FIRST(&absents->unwatched);

        if (unwatched)
                (void) watch_or_bury(absents, unwatched);
        if (absent && client_reap(&absent->client, budget, now_realtime_usec())) {
                TAILQ_REMOVE(&absents->dead, absent, entry);
                absent_free(absent);
        }
        return !TAILQ_EMPTY(&absents->dead);
}

bool absents_are_quiet(struct absents *absents) {
        struct absent *absent;

        RB_FOREACH(absent, absent_tree, &absents->tree)
                if (absent->pidfd >= 0 && !TAILQ_EMPTY(&absent->client.created))
                        return false;
        return TAILQ_EMPTY(&absents->dead) && TAILQ_EMPTY(&absents->unwatched);
}

void absents_done(struct absents *absents) {
        struct absent *absent;

        while (absents->daemon && (absent = RB_MIN(absent_tree, &absents->tree))) {
                leave(absents, absent);
                TAILQ_INSERT_TAIL(&absents->dead, absent, entry);
        }
        while (absents->daemon && !TAILQ_EMPTY(&absents->dead))
                (void) absents_reap(absents, UINT_MAX);
}
