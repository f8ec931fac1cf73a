/* SPDX-License-Identifier: MIT */
/*
 * The daemon's parts, put together. Owned by main; everything runs in its one thread,
 * the jobs of the worker excepted.
 */
#pragma once

#include <event2/event.h>

#include "absent.h"
#include "clock.h"
#include "config.h"
#include "generation.h"
#include "lease.h"
#include "memfd.h"
#include "notify.h"
#include "options.h"
#include "quota.h"
#include "registry.h"
#include "report.h"
#include "server.h"
#include "store.h"
#include "sysv.h"
#include "watch.h"
#include "worker.h"

enum daemon_end {
        END_KEPT,        /* what a service manager keeps stays; without one, segments end with the daemon */
        END_HANDED_OVER, /* another daemon has everything, or is about to */
        END_NOT_BEGUN,   /* another daemon still has everything */
        END_PURGED,      /* nothing is kept */
};

struct daemon {
        const struct options *options;
        struct config config;
        struct event_base *base;
        struct quota quota;
        struct registry registry;
        struct memfd memfd;
        struct lease lease;
        struct sysv sysv;
        struct worker worker;
        struct worker discarder; /* closes what clients sent: one that never comes back holds up nobody */
        struct generation generation;
        struct absents absents;
        struct store store;
        struct report report;
        struct server server;
        struct notify notify;
        struct watch_index watches; /* of names, by clients: watcher.h */
        struct watch_index waits;
        struct notices notices;      /* events that are yet to be told */
        struct in_flight_list in_flight; /* sessions with a charge for that, longest not looked at first */
        struct held_list held;       /* not read from until they are */
        struct wait_queue ready;     /* waits whose name was published */
        struct session_list dying;   /* closed, with holds that are yet to end */
        struct broken_list broken;   /* to be closed */
        struct event *linger_event;
        struct event *settle_event;
        enum daemon_end end; /* how it ends, when it does */
        struct session *taker; /* END_HANDED_OVER: by whom */
        bool kept;           /* segments outlive this daemon, which is ending */
        bool settling; /* it is under way, and may lead to its own call */
        uint64_t instance;
        uint64_t started_usec; /* CLOCK_REALTIME */
        uint64_t started_monotonic_usec;
        uint64_t descriptors_max;
};

/* Runs a daemon until it is told to end. 0, or -errno with the reason on the log. */
int daemon_run(const struct options *options);

/* Leaves the loop, at its next turn. */
void daemon_end(struct daemon *daemon, enum daemon_end end);

/* Whether the daemon may go while there are segments, as they are kept and none of them needs it meanwhile. */
bool daemon_may_rest(struct daemon *daemon);

/*
 * Goes on with what is left to do after requests: closes broken sessions, ends the holds of clients that have gone, asks
 * the kernel about segments that nobody is known to hold and frees those that nobody has, answers
 * those who waited for a name. Some of each; if that was not all, again at the loop's next turn, so
 * that no client waits for another's ten thousand holds.
 */
void daemon_settle(struct daemon *daemon);

/* The part of it that frees segments, for who is short of what they are charged for. True if there is more to ask about. */
bool daemon_ask_about_idle(struct daemon *daemon);

/* The same at the loop's next turn, after other clients had theirs. */
void daemon_settle_later(struct daemon *daemon);

/*
 * Called before more of what takes long is done: whoever else can run on this processor goes first, such as clients
 * that have just been answered. Otherwise the scheduler lets them wait for the rest of the daemon's slice,
 * some milliseconds: sched_yield(2); kernel/sched/fair.c, yield_task_fair().
 */
void daemon_let_others(void);
