/* SPDX-License-Identifier: MIT */
/*
 * What is written to the state log while the daemon serves: records, who caused them, and a new log in place of a long one.
 *
 * Owns the logs and each segment's kept_times, which points into them. The service manager has the log that records go to; what
 * counts of it is said by state_writer_commit(), before anything that tells a client of the change leaves the daemon: session.c.
 *
 * A long log is compacted: a new one is given to the manager, and used from then on, in addition to the old one; all segments are
 * recorded in it, a few at a turn; then it is complete, and the manager is told to drop the old one. A log that lacks something, for
 * want of room, is replaced in the same way, again and again until nothing was missed meanwhile.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "state_file.h"

struct daemon;
struct event;
struct manager;
struct segment;

struct state_writer {
        struct daemon *daemon;
        struct manager *manager;
        struct state_file file;
        struct state_file next; /* while the log is being compacted */
        bool next_kept;         /* the manager has it: it is what is appended to */
        uint64_t copied_id;     /* of the compaction: segments up to this id are in it */
        size_t compacted_size;  /* bytes of the log when it was last compacted */
        size_t cause_position;  /* of the log, when the cause was set */
        struct event *retry_event; /* pending: what could not be recorded is not tried again yet */
        uint64_t missed;        /* how often something could not be recorded */
        uint64_t covering, covered; /* so much of that is in the log that is made by compaction; in the one that is complete */
};

#define STATE_WRITER_INIT { .file = STATE_FILE_INIT, .next = STATE_FILE_INIT }

/* 0 or -ENOMEM. */
int state_writer_init(struct state_writer *writer, struct daemon *daemon, struct manager *manager);
void state_writer_done(struct state_writer *writer);

/* Begins a log without records. bytes: for so much there is room. 0 or -errno. */
int state_writer_begin(struct state_writer *writer, uint64_t epoch, size_t bytes);
/* All that there was at the beginning is recorded. */
void state_writer_complete(struct state_writer *writer);
/* As if it had not been begun. */
void state_writer_abort(struct state_writer *writer);

/* Of the log that is complete. */
struct state_header *state_writer_header(const struct state_writer *writer);

/* So much may be recorded. 0, or -ENOMEM, -ENOSPC, -EFBIG. */
int state_writer_make_room(struct state_writer *writer, size_t bytes);

void state_writer_set_cause(struct state_writer *writer, const struct state_cause *cause);
/* Whether anything was recorded since it was set. */
bool state_writer_clear_cause(struct state_writer *writer);

/* There must be room. */
void state_writer_put(struct state_writer *writer, struct segment *segment);
/* Whether there was room. */
bool state_writer_record(struct state_writer *writer, struct segment *segment);
bool state_writer_gone(struct state_writer *writer, uint64_t id);

/* Until something is recorded the next daemon is to look for that. */
void state_writer_begin_making(struct state_writer *writer, const struct state_making *making);

void state_writer_commit(struct state_writer *writer);

/* Goes on with compaction. True if there is more to do. */
bool state_writer_settle(struct state_writer *writer);
bool state_writer_is_compacting(const struct state_writer *writer);

/* The manager is to keep no log; waits for it. */
void state_writer_unkeep(const struct state_writer *writer);
