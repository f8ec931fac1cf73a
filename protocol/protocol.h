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

struct shmd_wire_header {
        uint16_t operation; /* enum shmd_operation */
        uint16_t status;    /* enum wire_status; zero in a request */
        uint32_t serial;    /* chosen by the client, given back in the reply; zero in events */
};

/* How a request says which segment it is about: by id, or if that is zero by name. */
struct shmd_wire_target {
        uint64_t id;
        uint16_t name_size; /* bytes of the name at the start of the tail; zero if id is given */
        uint16_t padding[3];
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
        uint32_t item;      /* of a batch: the index of the item that was refused */
        uint32_t padding;
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
        SHMD_LIMIT_COUNT,
};

/* HELLO: must be the first request of a connection. */
struct shmd_wire_hello {
        uint32_t version_min; /* the range of protocol versions that the client speaks */
        uint32_t version_max;
        uint64_t features; /* bits that the client knows; none is defined yet */
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
         * unlinked, renamed, or changes its permissions: while it stands at
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
};

struct shmd_wire_create {
        uint64_t size;
        uint64_t linger_usec; /* with WIRE_LIFETIME_LINGER */
        uint32_t mode;        /* nine permission bits, the umask already taken off */
        uint32_t flags;       /* enum shmd_wire_open_flags */
        uint32_t lifetime;    /* enum wire_lifetime */
        uint16_t name_size;   /* tail: the name, */
        uint16_t labels_size; /* then the labels */
};

struct shmd_wire_open {
        struct shmd_wire_target target;
        uint32_t flags; /* enum shmd_wire_open_flags */
        uint32_t padding;
};

/* Reply to CREATE and OPEN; the segment's descriptor comes with it. */
struct shmd_wire_opened {
        uint64_t id;
        uint64_t size;
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
        SHMD_WIRE_LIST_UNLINKED = 1u << 0, /* instead of the named ones, in the order of ids */
};

struct shmd_wire_list_reply {
        uint32_t count; /* tail: so many of struct shmd_wire_segment, each with its strings */
        uint32_t more;  /* 1: ask again, after the last one */
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
        uint64_t resident; /* bytes of pages that exist */
        uint64_t linger_usec;
        uint64_t created_usec; /* CLOCK_REALTIME, microseconds since 1970 */
        uint64_t opened_usec;  /* last time that somebody opened it */
        uint64_t idle_usec;    /* since when nobody is known to hold it; zero while it is held */
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
        uint32_t padding;
        uint16_t name_size;   /* the tail: the name, */
        uint16_t labels_size; /* the labels, */
        uint16_t command_size; /* the creator's command, */
        uint16_t unit_size;    /* and its unit */
};

enum shmd_wire_segment_flags {
        SHMD_WIRE_SEGMENT_POSIX = 1u << 0,   /* open to ftruncate */
        SHMD_WIRE_SEGMENT_UNKNOWN = 1u << 1, /* held by someone that no connection accounts for */
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
        /* The caller's own account: used and maximum of bytes, segments, holds, connections, watches. */
        uint64_t used[5];
        uint64_t maximum[5];
};

struct shmd_wire_empty {
        uint32_t padding[2];
};
