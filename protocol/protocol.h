/* SPDX-License-Identifier: MIT */
/*
 * The wire format between shmd and its clients.
 *
 * One SOCK_SEQPACKET datagram is one message: a header, the operation's fixed
 * structure, then a tail of variable length (names, entries of a list). Fields
 * are of fixed width in the host's byte order (a Unix socket has one host),
 * naturally aligned, with explicit padding that must be zero, so that 32- and
 * 64-bit programs agree. Requests of one connection are answered in order, each
 * exactly once; operations marked one-way in operations.def never are.
 *
 * This file says what the bytes are; operations.def says which structure
 * belongs to which operation; shmd-protocol(7) is made from both.
 */
#pragma once

#include <stdint.h>

#define SHMD_PROTOCOL_VERSION 1u

/* No message, in either direction, is longer than this. Bytes. */
#define SHMD_MESSAGE_MAX 32768u
/* SCM_MAX_FD of the kernel (net/scm.h): one message carries no more. */
#define SHMD_DESCRIPTORS_MAX 253u
/* Names of segments, without a terminating zero. Bytes. */
#define SHMD_NAME_MAX 255u
/* All labels of a segment together, as "key=value\n" lines. Bytes. */
#define SHMD_LABELS_MAX 1024u
/* The slots of the page of name generations: see struct shmd_wire_hello_reply. */
#define SHMD_GENERATION_SLOTS 16384u

/* Bells of one segment. */
#define SHMD_BELLS 64u
/* Which layout the control memory has; in pages of the machine. */
#define SHMD_CONTROL_LAYOUT 1u
#define SHMD_CONTROL_LOCK_PAGES 1u
#define SHMD_CONTROL_MEETING_PAGES 64u

struct shmd_wire_header {
        uint16_t operation; /* enum shmd_operation */
        uint16_t status;    /* enum wire_status; in a request zero or SHMD_WIRE_REPEATED */
        uint32_t serial;    /* chosen by the client, given back in the reply; zero in events */
};

/*
 * In a request: it was sent before, with the same serial, on a connection that said the same token and was lost before the answer
 * came. What may not be done twice is answered as it was, if it was done.
 */
#define SHMD_WIRE_REPEATED 1u

/* How a request says which segment it is about: by id, or if that is zero by name. */
struct shmd_wire_target {
        uint64_t id;
        uint16_t name_size; /* bytes of the name at the start of the tail; zero if id is given */
        uint16_t padding[3];
};

/* Who uses how much of something that is limited. */
struct shmd_wire_user {
        uint64_t used; /* zero: there is nobody */
        uint32_t uid;
        uint32_t padding;
};

/* What comes instead of a reply's structure when the status is not SHMD_OK.
 * Fields that do not apply are zero. */
struct shmd_wire_refusal {
        uint32_t limit; /* enum shmd_limit: which limit was hit, if one was */
        uint32_t uid;   /* who owns the thing that was refused */
        uint32_t gid;
        uint32_t mode;
        uint64_t requested; /* how much was asked for, in the limit's unit */
        uint64_t used;      /* how much of the limit is used already */
        uint64_t maximum;   /* the limit */
        uint32_t item;      /* of several: the index of the one that was refused */
        uint32_t padding;
        struct shmd_wire_user biggest[3]; /* of a limit that was hit: who has most of it */
};

enum shmd_limit {
        SHMD_LIMIT_NONE = 0,
        SHMD_LIMIT_BYTES,       /* bytes of the user's segments */
        SHMD_LIMIT_SEGMENTS,    /* segments of the user */
        SHMD_LIMIT_HOLDS,       /* holds of the user's clients */
        SHMD_LIMIT_CONNECTIONS, /* connections of the user */
        SHMD_LIMIT_WATCHES,     /* watches and waits of the user's clients */
        SHMD_LIMIT_DESCRIPTORS, /* file descriptors of the daemon */
        SHMD_LIMIT_SIZE,        /* the largest size a segment can have, bytes */
        SHMD_LIMIT_NAME,        /* length of a name, bytes */
        SHMD_LIMIT_EXISTING,    /* the size of the segment that has the name already, bytes */
        SHMD_LIMIT_MEMORY,      /* memory the machine has left, bytes */
        SHMD_LIMIT_HUGE_PAGES,  /* huge pages of the wanted size that are free */
        SHMD_LIMIT_MAXIMUM,     /* the size that the segment was made to grow to at most, bytes */
        SHMD_LIMIT_SHMMAX,      /* kernel.shmmax: the largest SysV segment, bytes */
        SHMD_LIMIT_SHMALL,      /* kernel.shmall: all SysV segments together, pages */
        SHMD_LIMIT_SHMMNI,      /* kernel.shmmni: SysV segments of the machine */
        SHMD_LIMIT_COUNT,
};

/* HELLO: must be the first request of a connection. */
struct shmd_wire_hello {
        uint32_t version_min; /* the range of protocol versions that the client speaks */
        uint32_t version_max;
        uint64_t features; /* bits that the client knows; none is defined yet */
        /*
         * Chosen at random by the client for this connection; the same when it connects again after the daemon was restarted: then what
         * it had made is its own again. Zero: none.
         */
        uint64_t token;
};

struct shmd_wire_hello_reply {
        uint32_t version; /* the version that both use from now on */
        uint32_t message_max;
        uint64_t features;
        uint64_t instance; /* differs after each start of the daemon */
        /*
         * One descriptor comes with this reply: a sealed page that clients may
         * map read-only, SHMD_GENERATION_SLOTS counters of 32 bits. Counter
         * number (id % slots) changes whenever a segment of such an id is
         * unlinked, renamed, resized, frozen, freed, or changes its
         * permissions, and now and then without a reason: while it stands at
         * what the reply to an open said, the client may answer another open
         * of that name by itself.
         */
        uint32_t generation_slots;
        uint32_t padding;
};

/* The rights that a hold gives. */
enum shmd_access {
        SHMD_ACCESS_READ = 0,
        SHMD_ACCESS_WRITE = 1, /* read and write */
};

/* When a segment's name is taken away by itself. */
enum wire_lifetime {
        WIRE_LIFETIME_PERSIST = 0, /* when it is unlinked */
        WIRE_LIFETIME_HOLDERS = 1, /* when its last holder has gone */
        WIRE_LIFETIME_LINGER = 2,  /* linger_usec after its last holder has gone */
        WIRE_LIFETIME_CREATOR = 3, /* when its creator's connection has ended */
};

enum wire_state {
        WIRE_STATE_UNPUBLISHED = 0,
        WIRE_STATE_PUBLISHED = 1,
        WIRE_STATE_FROZEN = 2,
        WIRE_STATE_UNLINKED = 3,
};

enum wire_backing {
        WIRE_BACKING_MEMFD = 0,
        WIRE_BACKING_HUGETLB = 1,
        WIRE_BACKING_SYSV = 2,
        WIRE_BACKING_FILE = 3,
};

enum shmd_wire_open_flags {
        SHMD_WIRE_WRITE = 1u << 0,     /* read-write; read-only without */
        SHMD_WIRE_CREATE = 1u << 1,    /* CREATE: also open a segment that is there */
        SHMD_WIRE_POSIX = 1u << 2,     /* CREATE: no size seals, born with size zero */
        SHMD_WIRE_PRIVATE = 1u << 3,   /* a file description that nobody shares */
        SHMD_WIRE_DETACHED = 1u << 4,  /* the descriptor is the hold, not the connection (implies PRIVATE) */
        SHMD_WIRE_TRUNCATE = 1u << 5,  /* O_TRUNC: POSIX segments only */
        SHMD_WIRE_UNPUBLISHED = 1u << 6, /* CREATE: without its name until PUBLISH; goes with its creator */
        SHMD_WIRE_SINGLE_WRITER = 1u << 7, /* CREATE, with UNPUBLISHED: sealed by PUBLISH, only mappings made before can write */
        SHMD_WIRE_WAIT = 1u << 8, /* OPEN by name: if there is none, answer when it is published, or the time is over */
};

struct shmd_wire_create {
        uint64_t size;
        /*
         * Not zero: resizable up to that many bytes, which are charged. But with SHMD_WIRE_POSIX, for which SHMD_WIRE_DETACHED and a
         * lifetime of HOLDERS or LINGER are needed then: its keeper, a process that counts as a holder as long as it lives, so that what
         * nobody has open meanwhile can be opened again. Its start time (clock ticks since boot) times 2^22, plus its number: of the
         * daemon's namespace of processes, or in any other the number of the client or one of its parents. One that is not there, or
         * another user's, counts for nothing.
         */
        uint64_t maximum;
        uint64_t linger_usec; /* with WIRE_LIFETIME_LINGER */
        uint32_t mode;        /* nine permission bits, the umask already taken off */
        uint32_t flags;       /* enum shmd_wire_open_flags */
        uint32_t lifetime;    /* enum wire_lifetime */
        uint16_t name_size;   /* tail: the name, */
        uint16_t labels_size; /* then the labels */
        uint32_t page_shift;  /* huge pages of 2^page_shift bytes, 21 or 30; zero: ordinary ones */
        uint32_t padding;
        uint64_t token;       /* chosen at random by the client for this creation, and the same when it asks again; zero: none */
};

/*
 * CREATE_SYSV: a segment whose memory is the kernel's SysV segment, which programs reach by shmget(2), too. What the kernel says of
 * it counts: the daemon asks in its own IPC namespace, and only the owner (to adopt also an administrator) gets it recorded.
 */
struct shmd_wire_create_sysv {
        /* No huge pages; maximum: the keeper, if REGISTER; of flags WRITE, CREATE and PRIVATE; tail as there */
        struct shmd_wire_create create;
        uint64_t ipc_namespace; /* inode number of the client's /proc/self/ns/ipc */
        uint64_t changed_sec;   /* ADOPT, REGISTER: its shm_ctime, as the client sees it */
        uint32_t kind;          /* enum shmd_wire_sysv_kind */
        uint32_t key;           /* MAKE: the key; zero: none (IPC_PRIVATE) */
        uint32_t shmid;         /* else which segment */
        uint32_t padding;
};

enum shmd_wire_sysv_kind {
        SHMD_WIRE_SYSV_MAKE = 1,     /* a new one */
        SHMD_WIRE_SYSV_ADOPT = 2,    /* one that is there, under a name from now on */
        SHMD_WIRE_SYSV_REGISTER = 3, /* one that the client uses by itself: no descriptor comes back; without a name it is sysv/SHMID */
        SHMD_WIRE_SYSV_REMOVED = 4,  /* the client has removed it from the kernel (or says so: the daemon looks) */
};

struct shmd_wire_open {
        struct shmd_wire_target target;
        uint32_t flags; /* enum shmd_wire_open_flags */
        uint32_t padding;
        uint64_t timeout_usec; /* with SHMD_WIRE_WAIT; UINT64_MAX: none */
};

/* Reply to CREATE and OPEN; the segment's descriptor comes with it. */
struct shmd_wire_opened {
        uint64_t id;
        uint64_t size;
        uint64_t maximum; /* of a resizable segment, else the size: so many bytes can be mapped */
        uint32_t generation; /* of the segment's slot, at the time of the reply */
        uint32_t created;    /* 1: this call made it, 0: it was there */
};

/* RELEASE (one-way): the client gives one hold back. */
struct shmd_wire_release {
        uint64_t id;
        uint32_t access; /* enum shmd_access */
        uint32_t padding;
};

/*
 * RESUME: a client that inherited a descriptor, or comes back after the daemon
 * was restarted, shows the descriptor it holds (exactly one comes with the
 * request) and is counted as a holder. Possession is the proof: the descriptor
 * must be of that very segment and have that access.
 */
struct shmd_wire_resume {
        uint64_t id;
        uint32_t access; /* enum shmd_access */
        uint32_t padding;
};

struct shmd_wire_unlink {
        struct shmd_wire_target target;
};

/* UNLINK_IDLE: only if nobody holds or maps it, says the kernel; else SHMD_BUSY. */
struct shmd_wire_unlink_idle {
        struct shmd_wire_target target;
        uint64_t idle_usec; /* and nobody has for so long */
};

struct shmd_wire_stat {
        struct shmd_wire_target target;
};

/* LIST: published segments in the order of their names, a page at a time. */
struct shmd_wire_list {
        uint64_t after_id;    /* with SHMD_WIRE_LIST_UNLINKED: continue after this id */
        uint32_t flags;       /* enum shmd_wire_list_flags */
        uint16_t prefix_size; /* tail: only names that begin so, */
        uint16_t after_size;  /* then: continue after this name */
};

enum shmd_wire_list_flags {
        SHMD_WIRE_LIST_UNLINKED = 1u << 0, /* those without a name instead (unlinked, unpublished), in the order of ids */
};

struct shmd_wire_list_reply {
        uint32_t count; /* tail: so many of struct shmd_wire_segment, each with its strings */
        uint32_t more;  /* 1: ask again, after the last one */
        uint64_t after_id; /* with SHMD_WIRE_LIST_UNLINKED: ask again after this id; there may have been nothing to tell up to it */
};

/* HOLDERS: who holds a segment, by connection, a page at a time. */
struct shmd_wire_holders {
        struct shmd_wire_target target;
        uint64_t after; /* continue after this holder's key; zero at first */
};

struct shmd_wire_holders_reply {
        uint32_t count; /* tail: so many of struct shmd_wire_holder */
        uint32_t more;
        uint32_t hidden;  /* 1: the caller may not see them, only how many there are */
        uint32_t unknown; /* 1: someone has it open or mapped that no connection accounts for */
};

struct shmd_wire_holder {
        uint64_t key; /* rises from entry to entry */
        uint64_t since_usec;
        uint32_t pid;
        uint32_t uid;
        uint32_t gid;
        uint32_t access; /* enum shmd_access */
        uint32_t count;  /* how many times it was opened and not yet released */
        uint32_t detached;
        char command[16];
        char unit[64]; /* the systemd unit, cut short if need be; zero-terminated if shorter */
};

/* A segment as STAT and LIST tell of it; strings follow in the tail, the whole padded to eight bytes with zeros. */
struct shmd_wire_segment {
        uint64_t id;
        uint64_t size;
        uint64_t maximum;
        uint64_t resident; /* bytes of pages that exist */
        uint64_t linger_usec;
        uint64_t created_usec; /* CLOCK_REALTIME, microseconds since 1970 */
        uint64_t opened_usec;  /* last time that somebody opened it */
        uint64_t idle_usec;    /* since when nobody is known to hold it; zero while it is held */
        uint64_t device; /* st_dev and st_ino of the memory, as they stand in /proc/PID/maps */
        uint64_t inode;
        uint64_t creator_started; /* start time of the creator, clock ticks since boot: proc(5), stat, field 22 */
        uint32_t uid;
        uint32_t gid;
        uint32_t mode;
        uint32_t holders;
        uint8_t lifetime; /* enum wire_lifetime */
        uint8_t state;    /* enum wire_state */
        uint8_t backing;  /* enum wire_backing */
        uint8_t flags;    /* enum shmd_wire_segment_flags */
        uint32_t creator_pid;
        uint32_t creator_uid;
        uint32_t page_shift;
        uint16_t name_size;   /* the tail: the name, */
        uint16_t labels_size; /* the labels, */
        uint16_t command_size; /* the creator's command, */
        uint16_t unit_size;    /* its unit, */
        uint16_t executable_size; /* and its executable */
        uint16_t padding;
        uint32_t opens; /* since the daemon began; begins anew after 2^32 - 1 */
        uint32_t sysv_key; /* with WIRE_BACKING_SYSV: the key, zero if it has none (any more); */
        uint32_t sysv_id;  /* the shmid; */
        uint64_t sysv_attached; /* how often it is attached: shm_nattch */
};

enum shmd_wire_segment_flags {
        SHMD_WIRE_SEGMENT_POSIX = 1u << 0,   /* open to ftruncate */
        SHMD_WIRE_SEGMENT_UNKNOWN = 1u << 1, /* held by someone that no connection accounts for */
        SHMD_WIRE_SEGMENT_RESIZABLE = 1u << 2,
        SHMD_WIRE_SEGMENT_SINGLE_WRITER = 1u << 3,
        SHMD_WIRE_SEGMENT_TRUNCATED = 1u << 4, /* a file, or SysV segment, that someone has made shorter than it was */
        SHMD_WIRE_SEGMENT_REGISTERED = 1u << 5, /* a program's own SysV segment, which shmd looks after */
        /* Of a SysV segment of which the daemon has no descriptor: resident is not known, and inode the number of the IPC namespace in
         * which the kernel tells it by the shmid (/proc/sysvipc/shm). */
        SHMD_WIRE_SEGMENT_UNMEASURED = 1u << 6,
};

struct shmd_wire_chmod {
        struct shmd_wire_target target;
        uint32_t mode;
        uint32_t padding;
};

/* UINT32_MAX leaves an id as it is. */
struct shmd_wire_chown {
        struct shmd_wire_target target;
        uint32_t uid;
        uint32_t gid;
};

struct shmd_wire_rename {
        struct shmd_wire_target target;
        uint16_t new_name_size; /* in the tail, after the target's name */
        uint16_t padding[3];
};

struct shmd_wire_status {
        uint64_t reserved; /* zero */
};

struct shmd_wire_status_reply {
        uint64_t started_usec; /* CLOCK_REALTIME */
        uint64_t uptime_usec;
        uint64_t instance;
        uint64_t segments;
        uint64_t unlinked; /* of these: without a name, still held */
        uint64_t bytes;
        uint64_t holds;
        uint64_t connections;
        uint64_t descriptors; /* open in the daemon */
        uint64_t descriptors_max;
        uint64_t memory_available; /* MemAvailable of the machine */
        uint32_t pid;
        uint32_t uid;
        char version[32];
        uint64_t restarts;      /* how often the segments have changed daemons and were there again; zero without a store */
        uint64_t serving_usec;  /* CLOCK_REALTIME: when the first of these daemons started */
        uint32_t store;         /* 1: the service manager keeps the segments for the next daemon */
        uint32_t store_entries; /* so many descriptors it keeps for that */
        /* The caller's own account: used and maximum of bytes, segments, holds, connections, watches. */
        uint64_t used[5];
        uint64_t maximum[5];
        uint64_t watchdog_usec; /* of silence after which the service manager restarts the daemon; 0: it does not watch */
        uint64_t store_failing_usec; /* CLOCK_REALTIME: since when not all is kept; zero: it is, or there is no store */
        uint32_t store_failure;      /* enum wire_store_failure: why */
        uint32_t padding;
};

enum wire_store_failure {
        WIRE_STORE_FAILURE_NONE = 0,
        WIRE_STORE_FAILURE_LOG,     /* the state log can not grow */
        WIRE_STORE_FAILURE_MANAGER, /* the service manager does not keep, or not take, what it is given */
};

/*
 * PUBLISH: unpublished segments of this client get their names, all or none. Names that are taken are an error, or
 * with SHMD_WIRE_PUBLISH_REPLACE their segments are unlinked in the same step, if the client may do that.
 */
struct shmd_wire_publish {
        uint32_t flags; /* enum shmd_wire_publish_flags */
        uint32_t count; /* tail: so many ids, 64 bits each */
};

enum shmd_wire_publish_flags {
        SHMD_WIRE_PUBLISH_REPLACE = 1u << 0,
};

struct shmd_wire_set_lifetime {
        struct shmd_wire_target target;
        uint64_t linger_usec;
        uint32_t lifetime; /* enum wire_lifetime */
        uint32_t padding;
};

/* RESIZE: up to the maximum that the segment was made with; whoever may write it may resize it. */
struct shmd_wire_resize {
        struct shmd_wire_target target;
        uint64_t size;
};

struct shmd_wire_resize_reply {
        uint64_t id;
        uint64_t size;
};

/* FREEZE: nobody can write any more; SHMD_BUSY as long as anybody has it mapped writable. */
struct shmd_wire_freeze {
        struct shmd_wire_target target;
};

/* WATCH: events on names that begin with the prefix in the tail, until UNWATCH. */
struct shmd_wire_watch {
        uint32_t flags;       /* enum shmd_wire_watch_flags */
        uint16_t prefix_size; /* the whole tail */
        uint16_t padding;
};

enum shmd_wire_watch_flags {
        SHMD_WIRE_WATCH_EXACT = 1u << 0, /* the very name, not all that begin so */
};

struct shmd_wire_watch_reply {
        uint64_t watch; /* stands in its events */
};

struct shmd_wire_unwatch {
        uint64_t watch;
};

/* EVENT: sent by the daemon, unasked, with serial zero. */
struct shmd_wire_event {
        uint64_t watch;
        uint64_t id;
        uint64_t size;
        uint64_t time_usec; /* CLOCK_REALTIME */
        uint32_t kind;      /* enum wire_event */
        uint32_t uid;       /* owner of the segment */
        uint16_t name_size; /* tail: the name */
        uint16_t old_name_size; /* and, for WIRE_EVENT_RENAMED, the name it had */
        uint16_t padding[2];
};

enum wire_event {
        WIRE_EVENT_CREATED = 1, /* of an unpublished segment: told only to its owner and administrators */
        WIRE_EVENT_PUBLISHED = 2,
        WIRE_EVENT_FROZEN = 3,
        WIRE_EVENT_RESIZED = 4,
        WIRE_EVENT_UNLINKED = 5,
        WIRE_EVENT_FREED = 6,
        WIRE_EVENT_RENAMED = 7,
        WIRE_EVENT_LOST = 8, /* the client did not read fast enough: events are missing, look again */
};

/* ACCOUNTS: in the order of uids. */
struct shmd_wire_accounts {
        uint32_t after_uid; /* continue after this one; only with SHMD_WIRE_ACCOUNTS_AFTER */
        uint32_t flags;     /* enum shmd_wire_accounts_flags */
};

enum shmd_wire_accounts_flags {
        SHMD_WIRE_ACCOUNTS_AFTER = 1u << 0,
};

struct shmd_wire_accounts_reply {
        uint32_t count; /* tail: so many of struct shmd_wire_account */
        uint32_t more;
};

/* Bytes, segments, holds, connections, watches. */
struct shmd_wire_account {
        uint64_t used[5];
        uint64_t maximum[5]; /* UINT64_MAX: no limit */
        uint32_t uid;
        uint32_t padding;
};

/*
 * HANDOVER: the reply's count says how many descriptors come with it; in its tail there is a name of 32 bytes for each: "listen",
 * "lock", "generation", "state-1", and "carrier-" with a number. SHMD_UNSUPPORTED where a service manager keeps them.
 *
 * From then on the daemon does nothing but wait, ten seconds at most, until the client says over the same connection that it has taken all
 * that over (no reply); then the daemon ends. If the client does not, or goes, the daemon goes on as if nothing had been.
 */
struct shmd_wire_handover {
        uint32_t flags; /* enum shmd_wire_handover_flags */
        uint32_t padding;
};

enum shmd_wire_handover_flags {
        SHMD_WIRE_HANDOVER_TAKEN = 1u << 0,
};

#define SHMD_HANDOVER_NAME_SIZE 32u

struct shmd_wire_stop {
        uint32_t flags; /* enum shmd_wire_stop_flags */
        uint32_t padding;
};

enum shmd_wire_stop_flags {
        SHMD_WIRE_STOP_PURGE = 1u << 0, /* all segments lose their names, and nothing is kept for the next daemon */
};

/* CANCEL: ends a waiting OPEN of this connection, which is answered with SHMD_CANCELLED. */
struct shmd_wire_cancel {
        uint32_t serial; /* of that OPEN */
        uint32_t padding;
};

/*
 * Many at once. A request has count items in its tail: for OPEN_MANY the names, each after a 16-bit size, for CREATE_MANY
 * struct shmd_wire_create with the name and labels after it, padded to eight bytes; for RELEASE_MANY struct shmd_wire_release.
 * The reply has as many of struct shmd_wire_item, and the descriptors of those that are SHMD_OK, in order.
 */
struct shmd_wire_many {
        uint32_t count; /* at most SHMD_DESCRIPTORS_MAX */
        uint32_t flags; /* OPEN_MANY: enum shmd_wire_open_flags, less SHMD_WIRE_WAIT */
};

struct shmd_wire_many_reply {
        uint32_t count;
        uint32_t padding;
};

struct shmd_wire_item {
        uint32_t status; /* enum wire_status */
        uint32_t padding;
        struct shmd_wire_opened opened;
};

/*
 * CONTROL: the memory beside a segment in which its holders keep locks and bells: one file that only those can write who hold
 * the segment read-write, and one that every holder can. Both are born as zeros, sealed against resizing, belong to the
 * segment and go with it. What is in them is the library's affair: libshmd-sync(7). The daemon never looks at it.
 */
struct shmd_wire_control {
        uint64_t id;
        uint32_t part;  /* enum shmd_wire_control_part */
        uint32_t flags; /* enum shmd_wire_control_flags */
};

enum shmd_wire_control_part {
        SHMD_WIRE_CONTROL_LOCK = 0, /* read-only for whoever holds the segment read-only */
        SHMD_WIRE_CONTROL_MEETING = 1,
        SHMD_WIRE_CONTROL_PARTS = 2,
};

enum shmd_wire_control_flags {
        /* Read-only, and only if it is there; for whoever may read the segment, or owns it, without holding it. */
        SHMD_WIRE_CONTROL_LOOK = 1u << 0,
};

struct shmd_wire_control_reply {
        uint64_t size;   /* zero, and no descriptor: it is not there */
        uint32_t layout; /* SHMD_CONTROL_LAYOUT */
        uint32_t writable;
};

/* BELL_SET, BELL_GET: numbers are chosen by the clients; SHMD_BUSY: another one has it. */
struct shmd_wire_bell {
        uint64_t id;
        uint32_t number; /* below SHMD_BELLS */
        uint32_t padding;
};

struct shmd_wire_empty {
        uint32_t padding[2];
};
