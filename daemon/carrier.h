/* SPDX-License-Identifier: MIT */
/*
 * Carriers: Unix sockets in whose queues the guards' descriptions are (carried.h). The sending end is the daemon's, the receiving
 * end the service manager's alone. Storing each segment's descriptor by itself would not scale: the manager compares each with all
 * others.
 *
 * Nothing can be taken out of the middle of a queue. What a freed segment leaves there has its pages punched out (emptying.h); and a
 * carrier that is half dead, or pins memory that can't be punched out, is rebuilt: its living segments are put in another, and the
 * manager is told to drop it.
 *
 * A carrier counts once the manager is told of it: so there is a spare one before the current one is full. Where the manager reads
 * nothing for so long that the current one has no room at all, segments go to one that it is yet to be told of: the store fails.
 *
 * Owns the carriers, their sending ends, and each segment's custody.carrier. Each segment that is carried is in one of them, the one
 * that was last to get it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "registry.h"

struct daemon;
struct event;
struct kept_name;
struct manager;

struct carrier {
        TAILQ_ENTRY(carrier) entry;
        struct carriers *carriers;
        struct segment_queue segments; /* whose descriptions it carries; by custody.carried */
        struct event *event; /* the manager has let go of the receiving end; while there is a sending one */
        uint64_t number;
        unsigned entries; /* living or dead */
        unsigned live;
        int fd;       /* the sending end, or -EBADF */
        bool told;    /* it is on its way to the manager, whatever becomes of the daemon */
        bool kept;    /* the manager has it */
        bool lost;    /* the manager has not taken it, or let go of it: what is in it is kept by nobody */
        bool rebuild; /* what lives in it is to move */
};

TAILQ_HEAD(carrier_list, carrier);

struct carriers {
        struct daemon *daemon;
        struct manager *manager;
        struct carrier_list list;
        struct carrier *current, *spare; /* of the list, or NULL */
        struct event *rebuild_event;
        uint64_t last_number;
};

/* 0 or -ENOMEM. */
int carriers_init(struct carriers *carriers, struct daemon *daemon, struct manager *manager);
/* Those of a daemon that another one has replaced, or whose replacement has failed; it can be used again. */
void carriers_clear(struct carriers *carriers);
void carriers_done(struct carriers *carriers);

/* The carrier of that number that the manager has, to be filled with what is found in it; NULL for lack of memory. */
struct carrier *carriers_add(struct carriers *carriers, uint64_t number);
void carrier_adopt(struct carrier *carrier, struct segment *segment);

/*
 * Makes the first current one. Waits for the manager. 0, also where it keeps nothing: then there is none; or -errno. must: a manager
 * that does not answer is a failure, too.
 */
int carriers_begin(struct carriers *carriers, uint64_t timeout_usec, bool must);
/* All is restored: what earlier daemons have left in disorder is put in order. */
void carriers_tidy(struct carriers *carriers);

/* 0; -EMFILE: or too many descriptors are in sockets already, of a daemon that is not privileged; -ENOMEM, … */
int carriers_put(struct carriers *carriers, struct segment *segment);

/* A segment that is carried goes. pinned: its memory stays as long as the carrier does. */
void carrier_release(struct segment *segment, bool pinned);
/* Memory of a segment that was dropped stays as long as this carrier does, if there still is one of that number. */
void carriers_pin(struct carriers *carriers, uint64_t number);

/* Goes on with rebuilding. True if there is more to do at once. */
bool carriers_settle(struct carriers *carriers);
bool carriers_are_to_rebuild(struct carriers *carriers);

/*
 * Puts all segments in carriers of their own, for a daemon that takes this one's place: their receiving ends, and their
 * names. How many, or -errno; the caller closes them.
 */
int carriers_export(struct carriers *carriers, int *fds, struct kept_name *names, unsigned maximum);

/* The manager is to keep none; waits for it. */
void carriers_unkeep(const struct carriers *carriers);

unsigned carriers_count(const struct carriers *carriers);
