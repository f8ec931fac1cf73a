/* SPDX-License-Identifier: MIT */
/*
 * What the daemon tells an operator of its clients' and segments' affairs: who was refused or cut off and why, what went and what
 * came back. Each kind is a row of messages.def, with its own MESSAGE_ID.
 *
 * Owns how often that may be: a few lines at once for each kind and user, then one each half minute, which says how many were
 * left out (throttle.h). The timer for that one runs only while there is something to sum up.
 */
#pragma once

#include <sys/types.h>

#include <event2/event.h>

#include "throttle.h"

struct daemon;
struct op_context;
struct credentials;
struct segment;
struct session;
struct shmd_wire_refusal;

enum message {
#define MESSAGE(NAME, id, level, subject) MESSAGE_##NAME,
#include "messages.def"
#undef MESSAGE
        MESSAGE_COUNT,
};

struct report {
        struct throttle throttle;
        struct event *timer;
};

/* 0 or -ENOMEM. */
int report_init(struct report *report, struct event_base *base);

/* Sums up what was left out. */
void report_done(struct report *report);

/* A request that is answered by a refusal or a failure: a status, or -errno. Most are nobody's business. */
void report_refusal(struct op_context *context, int result);

/* The same for one who is not let in at all; credentials may be NULL. */
void report_turned_away(struct daemon *daemon, const struct credentials *credentials, unsigned status,
                        const struct shmd_wire_refusal *refusal);

/* The daemon ends a connection by itself. */
void report_cut_off(struct session *session, const char *why);

/* The same after a failure of its own, -errno; nothing is said where it is the client that has gone. */
void report_broken(struct session *session, int error);

/* A segment's name goes as its lifetime says. */
void report_expired(struct daemon *daemon, const struct segment *segment);

/* An administrator is about to remove a segment; nothing is said if it is his own. */
void report_reclaimed(struct session *session, const struct segment *segment);

/* So much came back after a restart, and so many segments did not. */
void report_restored(struct daemon *daemon, uint64_t segments, uint64_t bytes, uint64_t lost);

/* One segment could not be restored; name may be NULL, id zero, uid -1 where that is not known. */
void report_lost(struct daemon *daemon, const char *name, uint64_t id, int64_t uid, const char *why);

/* What is made or changed from now on may not outlive the daemon; all does again. */
void report_store_failing(struct daemon *daemon, const char *what, int error);
void report_store_recovered(struct daemon *daemon, const char *what);

/* So many end with the daemon. */
void report_lost_all(struct daemon *daemon, uint64_t segments, uint64_t bytes);
