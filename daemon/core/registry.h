/* SPDX-License-Identifier: MIT */
/*
 * The registry: which segments there are, under which names, and who holds them.
 *
 * Pure: no system call, no clock, no descriptor is touched. What has to be done in the
 * world is returned: segments that nobody is known to hold any more are put in a
 * queue (registry_take_idle), for the caller to ask the kernel about; what registry_settle() and
 * registry_remove() take out is the caller's to close. What happens to a segment is told to one
 * observer, who may not call back.
 *
 * Invariants, walked by registry_check():
 *  - a segment is in the tree of ids from commit to destruction, and either in the tree of names, or in the
 *    tree of those without a name: not yet published, or unlinked;
 *  - a hold is in its client's tree, and once it counts an open in its segment's list; it counts one, or is being prepared;
 *  - every segment and hold carries its charges, and they are given back with it.
 *
 * Two-phase: *_reserve does all that can fail and changes nothing that others see; *_commit
 * cannot fail; *_abort refunds.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <bsd/sys/queue.h>
#include "tree.h"

#include "policy.h"
#include "protocol.h"
#include "quota.h"

struct registry;
struct client;

struct carrier;

/* Of a segment whose memory is a SysV segment of the kernel: daemon/sysv.h. */
struct sysv_origin {
        int64_t changed_sec; /* its shm_ctime when it was last looked at */
        uint32_t key;
        int shmid;
        uid_t creator_uid; /* the kernel's, not the segment's */
        gid_t creator_gid;
        pid_t creator_pid;
        bool made;       /* by a daemon; else it was there before */
        bool registered; /* a program uses it by itself, and its creator counts as a holder */
        bool exported;   /* a descriptor of it has left a daemon, perhaps */
        bool gone;       /* the kernel does not have it any more, or it is none of shmd's business */
};

/* What the effects side keeps with a segment; the registry never looks inside. */
struct custody {
        int guard_fd;      /* the daemon's own description: memfd.h */
        int shared_fd[2];  /* descriptions that holders of the same access share; by enum shmd_access */
        int control_fd[2]; /* the memory by which holders synchronise, by enum shmd_wire_control_part: control.h */
        struct bell_table *bells; /* of holders, or NULL: control.h */
        int watch;         /* inotify watch descriptor, or -1; INT_MAX if none could be had: lease.h */
        int retry;         /* which of the delays before the next question it waits for, or -1 */
        uint64_t retry_usec; /* CLOCK_MONOTONIC */
        RB_ENTRY(segment) by_watch;
        TAILQ_ENTRY(segment) retry_entry;
        TAILQ_ENTRY(segment) shared_order; /* in the order of last use: memfd.h */
        struct carrier *carrier; /* which of them has the guard's description, or NULL: carrier.h */
        TAILQ_ENTRY(segment) carried;
        RB_ENTRY(segment) by_shmid;
        bool recorded; /* it is in the state log: store.h */
};

#define CUSTODY_INIT { .guard_fd = -EBADF, .shared_fd = { -EBADF, -EBADF }, .control_fd = { -EBADF, -EBADF }, .watch = -1, .retry = -1 }

/* Who made a segment. Kept beyond that client's life. */
struct creator {
        struct client *client; /* NULL once it is gone */
        uint64_t token; /* of its connection: struct client */
        pid_t pid;
        uid_t uid;
        uint64_t started; /* clock ticks since boot */
        char command[16];
        char unit[64];
        char executable[128];
};

/* What changes without anybody's request. */
struct segment_times {
        uint64_t opened_usec;       /* CLOCK_REALTIME */
        uint64_t idle_usec;
        uint64_t linger_until_usec; /* CLOCK_MONOTONIC */
};

struct segment {
        RB_ENTRY(segment) by_id;
        RB_ENTRY(segment) by_name; /* in one of the trees, named or nameless */
        TAILQ_ENTRY(segment) idle_entry;
        RB_ENTRY(segment) by_linger;
        TAILQ_ENTRY(segment) by_creator;
        TAILQ_HEAD(segment_holds, hold) holds;
        struct registry *registry;
        uint64_t id;
        uint64_t size;    /* of a POSIX segment: when last looked at */
        uint64_t maximum; /* what it may grow to, and what is charged; the size, if it is not resizable */
        uint64_t linger_usec;
        uint64_t linger_until_usec; /* CLOCK_MONOTONIC; zero: not in the tree of the lingering */
        uint64_t created_usec;      /* CLOCK_REALTIME, as the two below */
        uint64_t opened_usec;
        uint64_t idle_usec; /* zero while held */
        uint32_t opens;     /* since the daemon began, modulo 2^32 */
        struct ownership owner; /* as the inode said when last looked at */
        struct creator creator;
        struct charge bytes, count, descriptor;
        struct charge control[SHMD_WIRE_CONTROL_PARTS], control_descriptor[SHMD_WIRE_CONTROL_PARTS];
        struct sysv_origin sysv; /* with WIRE_BACKING_SYSV */
        struct custody custody;
        struct segment_times *kept_times; /* where they are kept up to date for the next daemon, or NULL: state.h */
        uint64_t token; /* of the request that made it; zero: none */
        uint64_t device, inode; /* as /proc/PID/maps has them; when last looked at */
        char *name;
        char *labels;
        uint32_t holders;  /* entries of holds */
        uint32_t attached; /* of these: with an open that its connection accounts for */
        uint16_t name_size;
        uint16_t labels_size;
        uint8_t lifetime; /* enum wire_lifetime */
        uint8_t state;    /* enum wire_state */
        bool frozen;      /* stays true when it is unlinked */
        uint8_t backing;  /* enum wire_backing */
        uint8_t page_shift;
        bool kept; /* of an earlier daemon: see struct segment */
        bool posix;
        bool resizable;
        bool single_writer;
        bool had_name; /* was published once */
        bool expired;  /* it was its lifetime that took its name */
        bool truncated; /* a file that was made shorter than the segment */
        uint8_t control_made; /* bits, enum shmd_wire_control_part: somebody has been given that part */
        uint8_t control_lost; /* of these, what an earlier daemon could not keep; while somebody may have it there is no other */
        bool idle_queued;
        bool handed_out; /* a descriptor has left since the kernel last said that nobody has one */
        bool restored; /* of an earlier daemon, and attached by nobody since, or unpublished and not by its creator: only the kernel knows
                          who has it */
};

/* One client's opens of one segment. */
struct hold {
        RB_ENTRY(hold) by_segment;      /* in the client's tree */
        TAILQ_ENTRY(hold) by_age;       /* in the segment's list, keys rising */
        struct segment *segment;
        struct client *client;
        struct charge charge;
        uint64_t key;
        uint64_t since_usec;
        uint64_t attached[2]; /* by enum shmd_access: ended by RELEASE or with the connection */
        uint64_t detached[2]; /* ended when the kernel says that nobody has the segment, or with the connection */
        uint32_t reserved;    /* opens that are being prepared; only in the middle of a request */
};

RB_HEAD(hold_tree, hold);
RB_HEAD(id_tree, segment);
RB_HEAD(name_tree, segment);
RB_HEAD(nameless_tree, segment);
RB_HEAD(linger_tree, segment);
TAILQ_HEAD(segment_queue, segment);

/* A client as the registry knows it; embedded in a session. */
struct client {
        struct registry *registry;
        struct hold_tree holds;
        struct segment_queue created; /* segments that it made */
        struct credentials *credentials;
        uint64_t key; /* never used again */
        uint64_t token; /* chosen by the client for its connection, and said again when it comes back; zero: none */
};

/* What happens to a segment, enum wire_event. old_name and old_size are those of a renaming. */
typedef void (*registry_observer)(struct segment *segment, int event, const char *old_name, size_t old_size, void *userdata);
/* What of a segment outlives the daemon has changed, but for its times. Not called for registry_commit(). */
typedef void (*registry_recorder)(struct segment *segment, void *userdata);

struct registry {
        struct quota *quota;
        struct id_tree ids;
        struct name_tree names;
        struct nameless_tree nameless;
        registry_observer observer; /* or NULL */
        registry_recorder recorder; /* or NULL */
        void *observer_userdata;    /* of both */
        struct segment_queue idle;
        struct linger_tree lingering;
        uint64_t next_id;
        uint64_t next_key;
        uint64_t segments, nameless_count, bytes, holds;
};

/* first_id: greater than any id ever used before. */
void registry_init(struct registry *registry, struct quota *quota, uint64_t first_id);

/* Frees what is left, which must have been closed. */
void registry_done(struct registry *registry);

void client_init(struct client *client, struct registry *registry, struct credentials *credentials);

/*
 * All holds of the client end, and with them what it has not published, and the segments whose lifetime is their
 * creator's. At most budget of them at a time: true when nothing is left, and the client may be freed.
 */
bool client_reap(struct client *client, unsigned budget, uint64_t now_usec);

struct segment *registry_find_id(struct registry *registry, uint64_t id);
struct segment *registry_find_name(struct registry *registry, const char *name, size_t size);

/* In the order of names: the first after a name (or from a prefix on), while it begins with the prefix; or NULL. */
struct segment *registry_next_name(struct registry *registry, const char *prefix, size_t prefix_size, const char *after,
                                   size_t after_size);
/* In the order of ids: the first segment without a name after an id, or NULL. */
struct segment *registry_next_nameless(struct registry *registry, uint64_t after_id);

/* What a segment shall be. Pointers are borrowed; the name has been checked. */
struct segment_plan {
        const char *name;
        size_t name_size;
        const char *labels;
        size_t labels_size;
        uint64_t size;
        uint64_t maximum; /* not less than size */
        uint64_t linger_usec;
        uint64_t token; /* of the request; zero: none */
        mode_t mode;
        enum wire_lifetime lifetime;
        enum wire_backing backing;
        uint8_t page_shift;
        bool kept; /* by creator.client: a process, not a connection */
        bool posix;
        bool resizable;
        bool unpublished;
        bool single_writer;
};

/*
 * A new segment, charged, with an id, owned by the client, not yet visible. 0, SHMD_EXISTS (if it is to have its name at
 * once), SHMD_OVER_LIMIT with *refusal, or -ENOMEM.
 */
int registry_reserve(struct registry *registry, struct client *client, const struct segment_plan *plan, uint64_t now_usec,
                     struct segment **ret_segment, struct shmd_wire_refusal *refusal);
void registry_commit(struct segment *segment);
void registry_abort(struct segment *segment); /* NULL does nothing */

/* The client's hold on a segment, charged but not counted yet. 0, SHMD_OVER_LIMIT with *refusal, or -ENOMEM. */
int hold_reserve(struct client *client, struct segment *segment, struct hold **ret_hold, struct shmd_wire_refusal *refusal);
/* Counts one open. detached: the kernel accounts for it, not the connection. */
void hold_commit(struct hold *hold, enum shmd_access access, bool detached, uint64_t now_usec);
void hold_abort(struct hold *hold); /* NULL does nothing */

/* One open of the client ends. 0 or SHMD_NOT_HELD. */
int hold_release(struct client *client, uint64_t id, enum shmd_access access, uint64_t now_usec);

/* All opens of the segment are the kernel's to account for from now on, which is to be asked. */
void registry_detach(struct segment *segment);

/* Whether the client has the segment open, with that access at least. */
bool client_holds(struct client *client, struct segment *segment, enum shmd_access access);

/* Charges the segment's owner for a part of its control memory, once. 0, SHMD_OVER_LIMIT, -ENOMEM. */
int registry_charge_control(struct segment *segment, enum shmd_wire_control_part part, uint64_t bytes,
                            struct shmd_wire_refusal *refusal);
/* The same for what is there, past any limit. 0 or -ENOMEM. */
int registry_force_control(struct segment *segment, enum shmd_wire_control_part part, uint64_t bytes);
void registry_refund_control(struct segment *segment, enum shmd_wire_control_part part);

/* Takes the name away. */
void registry_unlink(struct segment *segment, uint64_t now_usec);

/*
 * Whether the client may publish these segments together, at most SHMD_DESCRIPTORS_MAX: they are its own and unpublished, no name
 * comes twice, and each name is free, or with replace its segment is the client's to unlink. 0, SHMD_NOT_FOUND, SHMD_INVALID,
 * SHMD_EXISTS or SHMD_NOT_OWNER, with the index of the first that it may not in refusal->item.
 */
int registry_may_publish(struct client *client, const uint64_t *ids, size_t count, bool replace, struct shmd_wire_refusal *refusal);
/* Publishes one of them; it can't fail. A segment that had the name is unlinked in the same step. */
void registry_publish(struct segment *segment, uint64_t now_usec);

/* 0, SHMD_EXISTS, SHMD_NOT_FOUND if it has no name, or -ENOMEM. */
int registry_rename(struct segment *segment, const char *name, size_t size);

/* 0; SHMD_CREATOR_GONE: it can't end with a creator that has ended. */
int registry_set_lifetime(struct segment *segment, enum wire_lifetime lifetime, uint64_t linger_usec, uint64_t now_usec);

void registry_set_size(struct segment *segment, uint64_t size); /* up to the maximum */
void registry_set_frozen(struct segment *segment);

/* The segment belongs to somebody else, or has another mode: its charges follow. 0, SHMD_OVER_LIMIT, -ENOMEM. */
int registry_set_owner(struct segment *segment, const struct ownership *owner, struct shmd_wire_refusal *refusal);

/*
 * What the kernel says of owner, mode and size, whatever shmd had thought: a fact can't be refused, so the
 * charges follow even where they pass a limit; nothing more is granted until they are below it.
 */
void registry_refresh(struct segment *segment, const struct ownership *owner, uint64_t size);

/*
 * The next segment that nobody is known to hold and whose lifetime makes that matter, or NULL. The caller
 * asks the kernel, and on "nobody has it" calls registry_settle().
 */
struct segment *registry_take_idle(struct registry *registry);

/* Asks for it to be looked at again. */
void registry_queue_idle(struct segment *segment);

enum settled {
        SETTLED_KEEP,   /* it stays; nothing to do */
        SETTLED_LINGER, /* it goes at linger_until_usec, unless opened before */
        SETTLED_FREE,   /* it was taken out: to be closed, then freed with segment_free() */
};

/*
 * The kernel says that nobody has the segment open or mapped: opens that it accounted for have ended; the
 * segment goes if its lifetime says so. The clocks are CLOCK_MONOTONIC and CLOCK_REALTIME.
 */
enum settled registry_settle(struct segment *segment, uint64_t monotonic_usec, uint64_t now_usec);

/* The lingering segment whose time comes first, or NULL. */
struct segment *registry_next_linger(struct registry *registry);

/* A segment that lingers and is past its time, and idle still: unlinks it, and queues it as idle. */
void registry_linger_over(struct segment *segment, uint64_t now_usec);

struct state_segment;

/*
 * A segment of an earlier daemon, as that left it, charged to its owner whatever the limits are. Nobody is known to hold it, and
 * where that matters the kernel is to be asked. creator: who stands for its creator until that comes back, or NULL.
 * 0; -EEXIST: its id or name is taken; -ENOMEM.
 */
int registry_restore(struct registry *registry, const struct state_segment *state, struct client *creator, uint64_t now_usec,
                     struct segment **ret_segment);

/* All that the one client has made is the other's from now on: they are the same, before and after. */
void client_inherit(struct client *client, struct client *former);

/* The times of a segment, as they are kept. */
struct segment_times segment_times(const struct segment *segment);

/* The segment with the next greater id, or NULL. */
struct segment *registry_next_id(struct registry *registry, uint64_t after_id);

/* Any segment, or NULL. */
struct segment *registry_first(struct registry *registry);

/* Takes any segment out, at the daemon's end. */
void registry_remove(struct segment *segment);

/* Frees one that was taken out. */
void segment_free(struct segment *segment);

/* For cleanup attributes. */
static inline void registry_abortp(struct segment **segment) {
        registry_abort(*segment);
}
static inline void hold_abortp(struct hold **hold) {
        hold_abort(*hold);
}

/*
 * Whether its creator's end has a consequence. What POSIX makes exists until it is unlinked, also where nobody has it open: so
 * there may be a keeper, who stands for its creator, and counts as one who has it.
 */
bool segment_heeds_creator(const struct segment *segment);

static inline bool segment_has_name(const struct segment *segment) {
        return segment->state == WIRE_STATE_PUBLISHED || segment->state == WIRE_STATE_FROZEN;
}

/* Walks all invariants; aborts the program where one is broken. For tests. */
void registry_check(struct registry *registry);
