/* SPDX-License-Identifier: MIT */
/*
 * Clients that want to know: watches, which send events, and waits, which answer an OPEN
 * once its name is published. The index of names is the core's (watch.h); here they are tied to sessions and timers.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <bsd/sys/queue.h>
#include <event2/event.h>

#include "quota.h"
#include "watch.h"

struct daemon;
struct segment;
struct session;

struct watcher {
        struct watch watch; /* first: the index gives this */
        LIST_ENTRY(watcher) entry;
        struct session *session;
        struct charge charge;
        uint64_t from; /* the first notice that it is told of */
};
LIST_HEAD(watcher_list, watcher);

struct notice;
TAILQ_HEAD(notice_queue, notice);

/*
 * What happened and has not been told to all yet. One change may concern hundreds of watchers, one request change
 * hundreds of names; so they are told some at a time, in the order of what happened. Bounded: clients that cause much are not read
 * from until it is told, and where even that is not enough events are lost, and their watchers told so.
 */
struct notices {
        struct notice_queue queue;
        struct watch *next;   /* whom the first of the queue is told to next, once it is begun */
        uint64_t next_number;
        unsigned count;
        bool begun;
        bool old; /* of a renaming: those who watch the old name have their turn */
};

void notices_init(struct notices *notices);
void notices_done(struct notices *notices);

/* Whether nobody should cause more of them for now. */
bool notices_are_many(const struct notices *notices);

struct wait {
        struct watch watch; /* first */
        LIST_ENTRY(wait) entry;
        TAILQ_ENTRY(wait) ready_entry;
        struct session *session;
        struct event *timer; /* NULL: waits for ever */
        struct charge charge;
        uint32_t serial;
        uint32_t flags; /* enum shmd_wire_open_flags */
        bool ready;
};
LIST_HEAD(wait_list, wait);
TAILQ_HEAD(wait_queue, wait);

/* 0, SHMD_OVER_LIMIT with *refusal, or -ENOMEM. */
int watcher_new(struct session *session, const char *prefix, size_t size, bool exact, struct watcher **ret_watcher,
                struct shmd_wire_refusal *refusal);
void watcher_free(struct watcher *watcher);
void watcher_free_all(struct session *session);

/* The same, to be answered later; the time is in microseconds, UINT64_MAX for ever. */
int wait_new(struct session *session, const char *name, size_t size, uint32_t serial, uint32_t flags, uint64_t timeout_usec,
             struct shmd_wire_refusal *refusal);
void wait_free(struct wait *wait);
void wait_free_all(struct session *session);
struct wait *wait_find(struct session *session, uint32_t serial);

/*
 * Notes for all whom it concerns what happened to a segment, to be told by watcher_tell_some(); those who wait for its name are made ready,
 * to be answered by wait_answer_some(). For the registry's observer: changes nothing in the registry.
 */
void watcher_notify(struct daemon *daemon, struct segment *segment, int event, const char *old_name, size_t old_size);

/* Tells some of what there is to tell. True if there is more. */
bool watcher_tell_some(struct daemon *daemon);

/* Answers at most budget of those that are ready. True if there are more. */
bool wait_answer_some(struct daemon *daemon, unsigned budget);
