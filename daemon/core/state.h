/* SPDX-License-Identifier: MIT */
/*
 * The state log: what of each segment outlives the daemon, in a block of memory that does.
 *
 * Pure: works on memory that the caller provides, maps and keeps. An append-only log of records, each with a checksum; the
 * header says how much of it counts. A record never changes, but for its times, which are words of their own beside
 * what the checksum covers. For each segment the last record counts.
 *
 * May be killed at any instruction: what is appended counts from state_commit() on, which is one store of 64 bits, so what belongs
 * together is there altogether or not at all. A record that was damaged costs itself and is told.
 *
 * Format: everything in host order (it never leaves the machine), aligned to 8 bytes. A newer daemon may append to the fixed
 * parts of header and record, and add types of records: readers know by the sizes, skip what they do not know, and take what is
 * missing for zero.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "registry.h"

/* A SysV segment that the kernel may have by now, of which there is no record yet. */
struct state_making {
        int64_t since_sec; /* CLOCK_REALTIME; zero: there is none */
        uint64_t size;
        uint32_t key;
        uint32_t pid; /* of the daemon */
};

struct state_header {
        char magic[8];         /* STATE_MAGIC */
        uint32_t version;      /* STATE_VERSION; another one is a format that can't be read at all */
        uint32_t header_size;  /* where the records begin */
        uint64_t epoch;        /* of two logs, the later */
        uint64_t end;          /* what counts ends here */
        uint64_t next_id;      /* greater than any id that was ever used */
        uint64_t complete;     /* 1: it holds all that logs of earlier epochs do */
        uint64_t restarts;     /* how often the segments have changed daemons */
        uint64_t started_usec; /* CLOCK_REALTIME: when the first of these daemons started */
        struct state_making making;
};

#define STATE_MAGIC "shmdlog\n"
#define STATE_VERSION 1u

/* Which request something was done for. */
struct state_cause {
        uint64_t token;  /* of the client's connection; zero: nobody's */
        uint32_t uid;    /* of the client: a token is its user's alone */
        uint32_t serial; /* of the request */
};

struct state_log {
        unsigned char *base;
        size_t capacity;
        size_t position; /* where the next record goes; ahead of the header's end until it is committed */
        struct state_cause cause; /* of what is appended */
};

/* The largest record there is. Bytes. */
size_t state_record_max(void);

/* Begins a log in zeroed memory of at least state_record_max() bytes. */
void state_begin(struct state_log *log, void *base, size_t capacity, uint64_t epoch);

/* Whether memory begins as a log does, and one that this code can read. 0, -EBADMSG, or -EPROTONOSUPPORT. */
int state_check(const void *base, size_t size);

static inline struct state_header *state_header(const struct state_log *log) {
        return (struct state_header *) log->base;
}

/* How much may still be appended. */
static inline size_t state_room(const struct state_log *log) {
        return log->capacity - log->position;
}

/* Appends the segment as it is now: there must be room for state_record_max(). Gives where its times are, to be kept up to date. */
struct segment_times *state_append(struct state_log *log, const struct segment *segment);
/* Appends that there is no such segment any more. */
void state_append_gone(struct state_log *log, uint64_t id);
/*
 * Appends what was done last for a client, where the record of that is not in this log. age: how many daemons ago it was.
 */
void state_append_done(struct state_log *log, const struct state_cause *cause, uint64_t age);

/* Until state_commit(): by then it is recorded, or not there any more. */
void state_begin_making(struct state_log *log, const struct state_making *making);

/* What was appended counts from now on, all of it. */
void state_commit(struct state_log *log);

/* A segment as a record has it. Pointers into the log. */
struct state_segment {
        uint64_t id;
        struct segment_plan plan;
        struct segment_times times;
        struct segment_times *kept_times; /* where they stand in the log */
        struct ownership owner;
        struct creator creator; /* without client */
        struct sysv_origin sysv;
        uint64_t created_usec;
        enum wire_state state;
        bool frozen, had_name, truncated;
        uint8_t control_made;
};

struct state_reader {
        void (*segment)(const struct state_segment *segment, const struct state_cause *cause, void *userdata);
        void (*gone)(uint64_t id, const struct state_cause *cause, void *userdata);
        void (*done)(uint64_t age, const struct state_cause *cause, void *userdata);
        /* Bytes that are no record. */
        void (*damaged)(size_t offset, size_t size, void *userdata);
        void *userdata;
};

/* Reads what counts, in the order in which it was appended. The log must have passed state_check(). */
void state_read(void *base, size_t size, const struct state_reader *reader);
