/* SPDX-License-Identifier: MIT */
/*
 * What the daemon tells the service manager of itself: ready, reloading, stopping, its totals, and that its loop still
 * turns: sd_notify(3). With the handover the only place that knows libsystemd.
 *
 * Everything is sent from the event loop, so that the watchdog's food stops when the loop does. An idle daemon sends the
 * watchdog's food and nothing else; without a watchdog, nothing at all. The loop never waits for a manager that does not
 * read, nor does the daemon's end: readiness and totals are told later then, the rest is dropped.
 */
#pragma once

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "notify_socket.h"

struct notify_totals {
        uint64_t segments;
        uint64_t bytes;
        uint64_t clients;
};

struct notify {
        struct notify_socket socket;
        struct event *watchdog_event;
        struct event *status_event; /* pending: the totals are to be told when it is time */
        uint64_t watchdog_usec;     /* of silence after which the manager restarts the daemon; 0: it doesn't watch */
        uint64_t told_usec;         /* CLOCK_MONOTONIC */
        struct notify_totals told;
        struct notify_totals now;
        bool bad_config; /* it could not be read when it last was */
        bool ready_owed; /* READY=1 is yet to be told */
};

/* 0 or -ENOMEM. */
int notify_init(struct notify *notify, struct event_base *base);
void notify_done(struct notify *notify);

/* What came of reading the configuration: shown from the next telling on. */
void notify_config(struct notify *notify, int result);
/* Serving: after the start, and again after notify_reloading(). */
void notify_ready(struct notify *notify);
void notify_reloading(struct notify *notify);
void notify_stopping(struct notify *notify);

/*
 * The totals as they are now: cheap, to be called whenever they may have changed. They are told at once if they were not for a second,
 * and else when it is over.
 */
void notify_update(struct notify *notify, const struct notify_totals *totals);
