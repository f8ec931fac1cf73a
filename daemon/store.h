/* SPDX-License-Identifier: MIT */
/*
 * What outlives the daemon: the service manager keeps it, and gives it to the next one.
 *
 * It keeps the state log, a memfd (core/state.h, state_writer.h), and carriers, sockets in whose queues the memory's
 * descriptions are (carrier.h). It gets both from a thread of its own (manager.h). What is found at the start is read by
 * restore.c. This is where they are put together: what of a segment goes where, and in which order.
 *
 * A segment that is kept is in a carrier before it is in the log, and gone from the log before its memory is given back: so the
 * log never tells of a segment that has lost its contents.
 *
 * Whatever fails is tried again until it works. What fails is known here, told on the log and shown in the status meanwhile.
 *
 * Without a manager, or with one that keeps nothing, the store is not active and does nothing.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "carrier.h"
#include "handover.h"
#include "manager.h"
#include "state_writer.h"

struct daemon;

struct store {
        struct daemon *daemon;
        struct manager manager;
        struct carriers carriers;
        struct state_writer writer;
        uint64_t failing_usec[WIRE_STORE_FAILURE_MANAGER + 1]; /* CLOCK_REALTIME: since when, which has been told; zero: it works */
        bool active;
        bool purged;
};

#define STORE_INIT { .manager = MANAGER_INIT, .writer = STATE_WRITER_INIT }

int store_init(struct store *store, struct daemon *daemon);

/*
 * Takes over what an earlier daemon has left, and becomes active if there is a service manager that keeps things. Waits for it.
 * 0 or -errno, told.
 */
int store_start(struct store *store, struct handover *handover);

/* All stays where it is. */
void store_done(struct store *store);

/* So much may be recorded in answer to one request. 0, or -ENOMEM, -ENOSPC. */
#define STORE_ROOM (256u << 10)
int store_make_room(struct store *store, size_t bytes);

/* Who asked for what is done from now on. */
void store_set_cause(struct store *store, const struct state_cause *cause);
/* From now on nobody did. Whether anything was recorded since then. */
bool store_clear_cause(struct store *store);

/* A SysV segment is about to be made in the kernel: the next daemon is to look for it, unless it was recorded by then. */
void store_begin_making(struct store *store, uint32_t key, uint64_t size);

/* A segment that has just been made, before anybody is told of it: 0 or -errno, and then nothing is kept. */
int store_put(struct store *store, struct segment *segment);

/* It has one descriptor more, before anybody is told of it: 0 or -errno, and then that is not kept. */
int store_put_again(struct store *store, struct segment *segment);

/* The registry's recorder: something about a segment that is kept has changed. */
void store_record(struct store *store, struct segment *segment);

/* A segment is to be freed, and nobody has it: it is forgotten, and its memory given back. */
void store_drop(struct store *store, struct segment *segment);

/* What was recorded counts. */
void store_commit(struct store *store);

/* Goes on with compaction and rebuilding, a little. True if there is more to do. */
bool store_settle(struct store *store);

/* For the store's parts: something could not be kept; all is kept. Told once each time. */
void store_fails(struct store *store, enum wire_store_failure failure, int error);
void store_recovers(struct store *store, enum wire_store_failure failure);

/* What fails, and since when: CLOCK_REALTIME. */
enum wire_store_failure store_failure(const struct store *store, uint64_t *ret_since_usec);

/*
 * Makes all that a manager would have got, for a daemon that takes this one's place: descriptors and their names, at most maximum.
 * The caller closes them. A number, or -errno.
 */
int store_export(struct store *store, int *fds, struct kept_name *names, unsigned maximum);

/* It goes on as if that had not been. */
void store_export_abort(struct store *store);

/* The manager is to keep nothing. Waits for it. */
void store_purge(struct store *store);

/* Nothing is under way that would have to go on. */
bool store_is_quiet(struct store *store);

/* For status: how often the segments have changed daemons, and how many carriers there are. */
uint64_t store_restarts(const struct store *store);
uint64_t store_serving_since(const struct store *store);
unsigned store_carriers(const struct store *store);
