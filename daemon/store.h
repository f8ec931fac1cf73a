/* SPDX-License-Identifier: MIT */
/*
 * What outlives the daemon: the service manager keeps it, and gives it to the next one.
 *
 * Storing each segment's descriptor by itself would not scale (the manager compares each with all others). So the
 * manager keeps
 *  - the state log, a memfd: core/state.h. Records are written before whatever tells a client of the change leaves the
 *    daemon: store_commit() in session.c;
 *  - carriers: Unix sockets in whose queues the guards' descriptions are. The sending end is the daemon's, the receiving
 *    end the manager's alone. Nothing can be taken out of the middle of a queue. So what a freed segment leaves there has its
 *    pages punched out; and a carrier that is half dead, or pins memory that can't be punched out (sealed, huge pages, files),
 *    is rebuilt: its living segments are put in another, and the manager is told to drop it.
 *
 * SysV segments are the kernel's to keep: a carrier has only what they have beside it.
 *
 * A new carrier, or state log, counts once the manager has it: so there is always a spare carrier that it has already, and a
 * log is used from then on. All that talks to the manager is done by a thread of its own: it may be slow, or stopped.
 *
 * Owns the carriers, the mapped logs, and the segment's custody.carrier and kept_times. Without a manager, or
 * with one that keeps nothing, the store is not active and does nothing.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "handover.h"
#include "state.h"
#include "worker.h"

struct daemon;

struct carrier {
        TAILQ_ENTRY(carrier) entry;
        struct segment_queue segments; /* whose descriptions it carries; by custody.carried */
        uint64_t number;
        unsigned entries; /* living or dead */
        unsigned live;
        unsigned told_when; /* the manager knows of it once store.told is that */
        struct store *store;
        struct event *event; /* the manager has let go of the receiving end; while there is a sending one */
        int fd;       /* the sending end, or -EBADF */
        bool rebuild; /* what lives in it is to move */
};

TAILQ_HEAD(carrier_list, carrier);

struct state_file {
        struct state_log log;
        int fd; /* or -EBADF: there is no such file */
        size_t mapped; /* address space */
};

struct store {
        struct daemon *daemon;
        struct carrier_list carriers;
        struct carrier *current, *spare; /* of the list, or NULL */
        struct state_file file;
        struct state_file next;  /* while the log is being compacted */
        bool next_kept;          /* the manager has it: it is what is appended to */
        uint64_t copied_id;      /* of the compaction: segments up to this id are in it */
        size_t compacted_size;   /* bytes of the log when it was last compacted */
        uint64_t carrier_number; /* of the last one */
        size_t cause_position;   /* of the log, when the cause was set */
        struct worker notifier;
        unsigned to_tell;     /* how many messages there have been for the manager */
        _Atomic unsigned told; /* and how many of them were sent */
        struct event *rebuild_event;
        bool active;
        bool purged;
        bool failing; /* something could not be kept, and that has been told */
};

int store_init(struct store *store, struct daemon *daemon);

/*
 * Takes over what an earlier daemon has left, and becomes active if there is a service manager that keeps things. Waits for it. 0 or -errno, told.
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

/*
 * What a message in a carrier says of its descriptors: the guard's; of a file the other one, too; then those of the parts of the
 * control memory that there are. Of two messages about one segment the one with more parts is the later one.
 */
struct carried {
        uint64_t id;
        uint64_t control; /* a bit for each part, by enum shmd_wire_control_part */
};
#define CARRIED_MAX 4 /* descriptors in one message; room for more than there are now */

/* How many descriptors of a segment's own a message has, before those of its control memory. */
unsigned store_own_fds(const struct segment *segment);

/* The carriers of that number that the manager has, to be filled with what is found in them; NULL for lack of memory. */
struct carrier *store_add_carrier(struct store *store, uint64_t number);
void store_adopt(struct carrier *carrier, struct segment *segment);

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

/*
 * Makes all that a manager would have got, for a daemon that takes this one's place: descriptors and their names, at most maximum.
 * The caller closes them. A number, or -errno.
 */
struct kept_name {
        char name[SHMD_HANDOVER_NAME_SIZE];
};
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
