/* SPDX-License-Identifier: MIT */
/*
 * Who still has a segment? The kernel knows: it grants the guard a write lease exactly when
 * nobody else has the memfd open, mapped, or in a socket's queue. And it tells when to ask: an inotify
 * watch on the memfd reports each description's end. No polling: nothing is asked while nothing changes.
 *
 * The event comes a little before the lease can be had: the kernel reports the close first and drops its counts
 * last (fs/file_table.c, __fput), and may be preempted between. So a question that finds the segment held is asked again
 * a few times, at growing intervals, and then not any more until the next event. Where inotify has no watch left
 * (/proc/sys/fs/inotify/max_user_watches), the last interval is repeated for good.
 *
 * Owns the inotify instance, the watches and the timers. A segment is looked after only while it is unclear: nobody
 * is known to hold it, yet the kernel says that somebody has it.
 */
#pragma once

#include <event2/event.h>

#include "memfd.h"

RB_HEAD(watch_tree, segment);

#define LEASE_DELAYS 7

/* The kernel says that nobody has the segment any more. */
typedef void (*lease_free_function)(struct segment *segment, void *userdata);

struct lease {
        struct memfd *memfd;
        struct watch_tree watches;
        struct lease_delay {
                struct lease *lease;
                struct segment_queue waiting; /* in the order of their times */
                struct event *timer;
        } delays[LEASE_DELAYS];
        struct event *event;
        lease_free_function function;
        void *userdata;
        int inotify_fd;
};

int lease_init(struct lease *lease, struct event_base *base, struct memfd *memfd, lease_free_function function, void *userdata);
void lease_done(struct lease *lease);

/* Whether somebody else has it, right now. Closes the daemon's own shared descriptions first. On doubt: yes. */
bool lease_is_held(struct lease *lease, struct segment *segment);

/* Asks; calls the function now if nobody has it, else once nobody has it any more. */
void lease_await(struct lease *lease, struct segment *segment);

/* No segment is looked after. */
bool lease_is_quiet(const struct lease *lease);

/* Forgets a segment: it is held again, or about to be freed. */
void lease_forget(struct lease *lease, struct segment *segment);
