/* SPDX-License-Identifier: MIT */
/*
 * The daemon's parts, put together. Owned by main; everything runs in its one thread,
 * the jobs of the worker excepted.
 */
#pragma once

#include <event2/event.h>

#include "generation.h"
#include "lease.h"
#include "memfd.h"
#include "options.h"
#include "quota.h"
#include "registry.h"
#include "server.h"
#include "worker.h"

struct daemon {
        const struct options *options;
        struct event_base *base;
        struct quota quota;
        struct registry registry;
        struct memfd memfd;
        struct lease lease;
        struct worker worker;
        struct worker discarder; /* closes what clients sent: one that never comes back holds up nobody */
        struct generation generation;
        struct server server;
        struct event *linger_event;
        uint64_t instance;
        uint64_t started_usec; /* CLOCK_REALTIME */
        uint64_t started_monotonic_usec;
        uint64_t descriptors_max;
};

/* Runs a daemon until it is told to end. 0, or -errno with the reason on the log. */
int daemon_run(const struct options *options);

uint64_t now_realtime_usec(void);
uint64_t now_monotonic_usec(void);

/*
 * Looks after what the registry has put in its queue: asks the kernel about segments that nobody is known to
 * hold, and frees those that nobody has. To be called after whatever may have ended a hold.
 */
void daemon_settle(struct daemon *daemon);

/* Takes a segment's name away, and tells the clients that remember it. */
void daemon_unlink(struct daemon *daemon, struct segment *segment);
