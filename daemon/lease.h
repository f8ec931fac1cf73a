/* SPDX-License-Identifier: MIT */
/*
 * Who still has a segment? The kernel knows: it grants the guard a write lease exactly when
 * nobody else has the memfd open, mapped, or in a socket's queue. And it tells when to ask: an inotify
 * watch on the memfd reports each description's end. No polling, no timer.
 *
 * Owns the inotify instance and the watches. A segment is watched only while it is unclear: nobody
 * is known to hold it, yet the kernel says that somebody has it.
 */
#pragma once

#include <event2/event.h>

#include "memfd.h"

RB_HEAD(watch_tree, segment);

/* The kernel says that nobody has the segment any more. */
typedef void (*lease_free_function)(struct segment *segment, void *userdata);

struct lease {
        struct memfd *memfd;
        struct watch_tree watches;
        struct segment_queue unwatched; /* could not be watched: asked again by the timer */
        struct event *event;
        struct event *retry;
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

/* Forgets a segment: it is held again, or about to be freed. */
void lease_forget(struct lease *lease, struct segment *segment);
