/* SPDX-License-Identifier: MIT */
/*
 * libshmd: named shared-memory segments from shmd, the shared-memory daemon.
 *
 * A connection (struct shmd) opens or creates segments; a segment (struct
 * shmd_segment) is one hold on one of them: a descriptor, and on request a
 * mapping. As long as it is held, neither name nor daemon is needed to use it.
 *
 * Conventions, for every function unless its own comment differs:
 *  - It returns 0, or a negative errno value; outputs (ret_*) are written only
 *    on success. shmd_error_message() tells the last failure in words.
 *  - Names are UTF-8, 1 to 255 bytes, components separated by '/'; one leading
 *    slash is dropped. A name that breaks the rules is -EINVAL, a longer one
 *    -ENAMETOOLONG.
 *  - Besides the errors listed, all that talk to the daemon can return:
 *    -ECONNREFUSED or -ENOENT: no daemon; -EPROTO: the peer breaks the protocol;
 *    -EOPNOTSUPP: it is too old for this; -ENOMEM, -EMFILE, -ENFILE: out of memory or
 *    descriptors, here or there; -EDQUOT: one of the user's limits; -ECONNRESET: the
 *    daemon went away, again and again, and whether it did what was asked is not known.
 *  - A connection whose daemon has gone is made anew by the next call that needs it, and holds
 *    are shown to the new daemon, watches set again. What is open and mapped stays usable throughout.
 *  - Thread safety: a connection, with all segments opened through it, is used
 *    by one thread at a time; different connections are independent. The library
 *    keeps no hidden threads, never touches signals or standard streams, and
 *    does not log.
 *  - Calls are repeated when a signal interrupts them. A call may not be left by longjmp or by
 *    cancelling its thread, nor made from a signal handler.
 *  - Fork: the child may use what it inherited, segments and connection alike. At its
 *    first use of the connection it gets one of its own, and its holds count for
 *    themselves. Watches, and calls that were submitted, stay the parent's: the child has none of them. Nor can it publish
 *    what its parent made. After vfork only exec and _exit may be called. Exec closes all.
 */
#ifndef SHMD_H
#define SHMD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called without the procedure linkage table, whose jumps are a good part of what an uncontended lock costs. */
#if defined(__has_attribute)
#if __has_attribute(__noplt__)
#define SHMD_CALLED_DIRECTLY __attribute__((__noplt__))
#endif
#endif
#ifndef SHMD_CALLED_DIRECTLY
#define SHMD_CALLED_DIRECTLY
#endif

struct shmd;
struct shmd_segment;

/* How a segment is opened or created: shmd_open(), shmd_create(). */
#define SHMD_READ_ONLY 0x0u
#define SHMD_READ_WRITE 0x1u
/*
 * The descriptor is a file description that no other holder shares. Without it,
 * holders of the same access may share one, which is faster: its file offset
 * and flock(2) locks are then common to them (mmap does not care).
 */
#define SHMD_PRIVATE 0x2u
/* shmd_create(): fail with -EEXIST if the name is taken; else the segment that has it is opened. */
#define SHMD_EXCLUSIVE 0x4u
/*
 * shmd_create(): without its name until shmd_publish(). Only this connection has it, and if the segment is closed
 * or the program dies before it is published, nothing is left of it.
 */
#define SHMD_UNPUBLISHED 0x8u
/*
 * shmd_create(): only the creator can ever write, by the mapping that shmd_create() makes (shmd_map() gives it);
 * whoever opens it gets read-only.
 */
#define SHMD_SINGLE_WRITER 0x10u
/*
 * shmd_create(): all pages are there before the name is, charged to the creator's memory cgroup; if there
 * is too little memory, creation fails with -ENOMEM and says how much there is.
 */
#define SHMD_PREALLOCATE 0x20u

/* When a segment's name is taken away by itself. */
enum shmd_lifetime {
        SHMD_LIFETIME_PERSIST = 0, /* never: it stays until it is unlinked */
        SHMD_LIFETIME_HOLDERS = 1, /* when its last holder has gone */
        SHMD_LIFETIME_LINGER = 2,  /* some time after its last holder has gone */
        SHMD_LIFETIME_CREATOR = 3, /* when its creator's connection has ended */
};

enum shmd_state {
        SHMD_STATE_UNPUBLISHED = 0,
        SHMD_STATE_PUBLISHED = 1,
        SHMD_STATE_FROZEN = 2,
        SHMD_STATE_UNLINKED = 3,
};

enum shmd_backing {
        SHMD_BACKING_MEMFD = 0,
        SHMD_BACKING_HUGETLB = 1,
        SHMD_BACKING_SYSV = 2,
        SHMD_BACKING_FILE = 3,
};

/*
 * Connects to a daemon. socket_path may be NULL: then $SHMD_SOCKET, else
 * /run/shmd/shmd.sock if it is there, else $XDG_RUNTIME_DIR/shmd/shmd.sock; where only
 * the last is left and nobody listens there, a per-user daemon is started, unless
 * $SHMD_AUTOSTART is 0; $SHMD_DAEMON may give its program as an absolute path. Programs with
 * more rights than their user ignore the environment. The connection is freed with shmd_disconnect().
 *
 * Errors: -ENOENT, -ECONNREFUSED: nobody listens; -EACCES: no right to the socket;
 * -ENAMETOOLONG: the path does not fit a socket address; -EPROTO: another service
 * listens there; -EDQUOT: the user has too many connections; where a daemon is started, also -EPERM: the
 * directory is another's or writable for others, -EBUSY: another daemon neither listens nor ends.
 */
int shmd_connect(const char *socket_path, struct shmd **ret_connection);

/*
 * Connects to the system daemon, or to the caller's per-user daemon, whatever the
 * environment says; the latter is started if need be. Errors as shmd_connect().
 */
int shmd_connect_system(struct shmd **ret_connection);
int shmd_connect_user(struct shmd **ret_connection);

/*
 * Ends a connection and all holds opened through it, whose segments are closed and unmapped. Calls under way are
 * dropped, their functions not called. Not from such a function. NULL does nothing. Returns NULL.
 */
struct shmd *shmd_disconnect(struct shmd *connection);

/*
 * The last failure of this connection in words, such as "permission denied (owner alice, mode 0600)"; within a function
 * that is told of a submitted call's failure, that one; for connection NULL, of this thread's last failed
 * shmd_connect(). Valid until the next call on the connection. Never NULL.
 */
const char *shmd_error_message(struct shmd *connection);

/*
 * The socket that the connection uses, as a path. Owned by the connection.
 */
const char *shmd_socket_path(struct shmd *connection);

/* Zero in any field stands for its default; initialise with { 0 }. */
struct shmd_create_options {
        /* Permission bits, less the umask (taken as 077 where /proc does not tell it); 0: 0600, whatever the umask.
         * Execute bits are dropped. */
        uint32_t mode;
        uint32_t lifetime;      /* enum shmd_lifetime */
        uint64_t linger_usec;   /* with SHMD_LIFETIME_LINGER, microseconds */
        const char *labels;     /* "key=value" lines, each ended by '\n'; at most 1024 bytes; NULL: none */
        uint64_t maximum_bytes; /* resizable up to so many bytes, all of which are charged; 0: the size is fixed */
        uint64_t page_bytes;    /* huge pages: 1 << 21 (2 MiB) or 1 << 30; sizes are rounded up to them. 0: ordinary ones */
        /*
         * A SysV segment of the kernel, which programs reach by shmget(2), too: SHMD_SYSV_MAKE makes one, SHMD_SYSV_ADOPT gives one
         * that is there a name. Its size can't be promised: whoever holds it read-write can make it shorter. Not
         * with maximum_bytes, page_bytes, SHMD_UNPUBLISHED, SHMD_SINGLE_WRITER, SHMD_PREALLOCATE.
         */
        uint32_t sysv;        /* enum shmd_sysv; 0: none */
        uint32_t sysv_number; /* SHMD_SYSV_MAKE: the key, 0 for none (IPC_PRIVATE); SHMD_SYSV_ADOPT: the shmid */
        uint64_t reserved[9]; /* must be zero */
};

enum shmd_sysv {
        SHMD_SYSV_MAKE = 1,
        SHMD_SYSV_ADOPT = 2,
};

/*
 * Makes a segment of size_bytes zeros under a name, and holds it read-write (or with
 * what flags say). Without SHMD_EXCLUSIVE a segment that has the name already is opened
 * instead, if it is at least as large: shmd_created() tells. flags: SHMD_READ_WRITE is
 * implied; SHMD_PRIVATE, SHMD_EXCLUSIVE, SHMD_UNPUBLISHED, SHMD_SINGLE_WRITER, SHMD_PREALLOCATE. options may be NULL.
 *
 * The size is exact, from 1 byte on, and never changes unless the segment was made resizable: no holder gets SIGBUS.
 * Pages come into being when they are touched, or with SHMD_PREALLOCATE; of a resizable segment those of its size.
 *
 * Errors: -EEXIST; -EINVAL: a bad name, size, mode, lifetime or label, or the segment that exists is smaller; -EACCES:
 * it exists and its mode forbids it; -EFBIG: larger than the machine can map, or than the maximum; -EDQUOT; -ENOMEM:
 * too few huge pages, or with SHMD_PREALLOCATE too little memory.
 *
 * Of SysV segments (size_bytes is 0 with SHMD_SYSV_ADOPT, and mode): -EEXIST: the key is taken; -EDQUOT, -EFBIG: also limits of the
 * kernel; -ENOENT, -EPERM: none with that shmid, or neither its owner nor an administrator; -EXDEV: the caller is in another IPC
 * namespace than the daemon; -EOPNOTSUPP: the daemon has no right to their descriptors.
 */
int shmd_create(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                const struct shmd_create_options *options, struct shmd_segment **ret_segment);

/*
 * Opens a segment by name: SHMD_READ_ONLY or SHMD_READ_WRITE, perhaps SHMD_PRIVATE.
 * What the connection holds already in that way is given again without a
 * round trip, as another reference; each is closed by a shmd_close() of its own.
 *
 * Errors: -ENOENT; -EACCES.
 */
int shmd_open(struct shmd *connection, const char *name, unsigned flags, struct shmd_segment **ret_segment);

/*
 * Opens a segment, and if there is none of that name waits until one is published; timeout_usec microseconds of
 * CLOCK_MONOTONIC at most, UINT64_MAX: for ever. Does not poll; other uses of the connection wait meanwhile. Goes on
 * when the daemon is restarted. Errors: -ETIMEDOUT; -EACCES; -EDQUOT: the user has too many waits and watches.
 */
int shmd_open_wait(struct shmd *connection, const char *name, unsigned flags, uint64_t timeout_usec,
                   struct shmd_segment **ret_segment);

/* The same by id, which also reaches a segment whose name is gone. */
int shmd_open_id(struct shmd *connection, uint64_t id, unsigned flags, struct shmd_segment **ret_segment);

/*
 * Gives one reference back; with the last one the segment is unmapped, its descriptor closed and
 * the hold ended. Makes no round trip. NULL does nothing. Returns NULL.
 */
struct shmd_segment *shmd_close(struct shmd_segment *segment);

/*
 * Maps the whole segment, shared, as it was opened; the same address each time. The
 * mapping is the segment's and ends with it; for one that outlives it, mmap(2) the descriptor.
 * A resizable segment is mapped up to its maximum; *ret_size_bytes is the size as shmd_size() has it. May be NULL.
 *
 * Errors: those of mmap(2).
 */
int shmd_map(struct shmd_segment *segment, void **ret_address, size_t *ret_size_bytes);

/* The segment's descriptor, close-on-exec; borrowed: do not close it, but dup(2) what shall outlive the segment. */
int shmd_fd(const struct shmd_segment *segment);

/*
 * Its id, unique for ever; its size in bytes; 1 if the call that opened it made it, else 0. A resizable segment's size
 * is the last one that this connection was told of: when it was opened, by shmd_resize(), by an event of a watch.
 * shmd_stat() asks.
 */
uint64_t shmd_id(const struct shmd_segment *segment);
uint64_t shmd_size(const struct shmd_segment *segment);
int shmd_created(const struct shmd_segment *segment);

/*
 * Takes a name away: it can be made anew at once. The memory goes when nobody holds or maps
 * the segment any more. Errors: -ENOENT; -EPERM: neither owner nor administrator.
 */
int shmd_unlink(struct shmd *connection, const char *name);

/* shmd_publish(): if the name is taken, its segment loses it in the same step: openers get the old or the new one. */
#define SHMD_REPLACE 0x1u

/*
 * Gives an unpublished segment its name. Errors: -EEXIST; -EPERM: with SHMD_REPLACE, the segment that has the name is
 * another user's; -ENOENT: it is not unpublished, or not made through this connection.
 */
int shmd_publish(struct shmd_segment *segment, unsigned flags);

/*
 * Publishes several segments of one connection together, at most 253: all, or on failure none; *ret_failed (may be
 * NULL) is then the index of the first that could not be published. Errors as shmd_publish(); -EINVAL: a name comes
 * twice.
 */
int shmd_publish_many(struct shmd_segment *const *segments, size_t count, unsigned flags, size_t *ret_failed);

/*
 * Makes a segment of a regular file: fd is open read-write if flags say SHMD_READ_WRITE, read-only if not; borrowed.
 * The segment has the file's size. The file stays the file's owner's: msync(2) says when data reach it, and shmd can't
 * keep others from truncating it (SIGBUS); shmd_stat() tells of that afterwards. flags also: SHMD_EXCLUSIVE,
 * SHMD_UNPUBLISHED. /proc is needed, to open the file once more for those who may only read. Errors as shmd_create();
 * -EINVAL: not a regular file, empty, or not open as it should be.
 */
int shmd_create_file(struct shmd *connection, const char *name, int fd, unsigned flags,
                     const struct shmd_create_options *options, struct shmd_segment **ret_segment);

/*
 * Changes the size of a resizable segment, up to the maximum it was made with. Whoever may write it may do so. Nobody
 * gets SIGBUS: mappings always reach to the maximum; what is beyond the size is given back to the machine and reads as
 * zeros. (Of huge pages that holds up to the size: who touches what was given back, while no huge page is free, gets
 * SIGBUS.) Holders learn of it by a watch. Errors: -ENOTSUP: not resizable; -EFBIG: beyond the maximum; -EACCES; -EPERM:
 * frozen.
 */
int shmd_resize(struct shmd *connection, const char *name, uint64_t size_bytes);
int shmd_resize_id(struct shmd *connection, uint64_t id, uint64_t size_bytes);

/* What can be mapped of a segment: its maximum if it is resizable, else its size. Bytes. */
uint64_t shmd_maximum(const struct shmd_segment *segment);

/*
 * Makes a segment immutable, for everybody, root included, and for ever. That is proven, or refused: -EBUSY as long as
 * anybody has it mapped writable (shmd_mappers() finds them). Owner or administrator. Errors: -EPERM; -ENOENT.
 */
int shmd_freeze(struct shmd *connection, const char *name);
int shmd_freeze_id(struct shmd *connection, uint64_t id);

/*
 * Changes when the name is taken away by itself; linger_usec with SHMD_LIFETIME_LINGER. Errors: -EPERM; -ESRCH: no
 * creator any more.
 */
int shmd_set_lifetime(struct shmd *connection, const char *name, uint32_t lifetime, uint64_t linger_usec);
int shmd_set_lifetime_id(struct shmd *connection, uint64_t id, uint32_t lifetime, uint64_t linger_usec);

/*
 * Many at once: up to 253 in one round trip, more in several, or if names and labels are long. results[i] is 0 or the
 * negative errno value of item i, segments[i] then NULL; both arrays have room for count. The return value is that of
 * the round trips themselves: 0, or an error after which nothing is open. SHMD_PREALLOCATE, and SHMD_SINGLE_WRITER
 * without SHMD_UNPUBLISHED, take some round trips for each.
 */
int shmd_open_many(struct shmd *connection, const char *const *names, size_t count, unsigned flags,
                   struct shmd_segment **segments, int *results);

struct shmd_create_item {
        const char *name;
        uint64_t size_bytes;
        const struct shmd_create_options *options; /* or NULL */
};
int shmd_create_many(struct shmd *connection, const struct shmd_create_item *items, size_t count, unsigned flags,
                     struct shmd_segment **segments, int *results);

/* Closes segments of one connection; NULL entries are skipped, entries become NULL. */
void shmd_close_many(struct shmd_segment **segments, size_t count);

/*
 * Locks. Beside each segment there is, from the first use on, memory in which its holders keep a lock that each holds
 * exclusively or many share, a condition, a sequence counter and bells: libshmd-sync(7), which also says what holders who mean ill can do.
 * Nothing here needs the daemon but the first use, for which a connection's one thread must call; shmd_prepare_locks()
 * is such a use and no more. From then on any number of threads may call shmd_lock() and all others up to shmd_read_copy()
 * on one segment at the same time. A lock belongs to the thread that took it; a forked child has none of its parent's. They
 * record nothing for shmd_error_message(), that first use excepted.
 *
 * Times to wait: 0 does not wait at all, SHMD_FOREVER without end; CLOCK_MONOTONIC.
 */
#define SHMD_FOREVER UINT64_MAX
int shmd_prepare_locks(struct shmd_segment *segment);

#define SHMD_LOCK_EXCLUSIVE 0x0u
#define SHMD_LOCK_SHARED 0x1u

/*
 * Takes the lock; the exclusive one takes a segment that is held read-write. Without contention it makes no system call.
 *
 * 0, or -EOWNERDEAD: it is held, but who had it exclusively before has died, and the data may be half written. Whoever has it
 * exclusively then makes it good and calls shmd_mark_consistent(); or unlocks without: then nobody gets it any more.
 * Errors, the lock is not held: -EBUSY: it is another's, timeout_usec is 0; -ETIMEDOUT; -ENOTRECOVERABLE: it was given up, or somebody has
 * scribbled over it; -EDEADLK: this thread holds it already; -EACCES: held read-only; -EINVAL: flags; -ENOTSUP: the C
 * library's mutexes are not as they must be.
 */
int shmd_lock(struct shmd_segment *segment, unsigned flags, uint64_t timeout_usec) SHMD_CALLED_DIRECTLY;
/* Gives it back, however it was taken. Errors: -EPERM: this thread does not hold it; -EBUSY: between shmd_write_begin() and
 * shmd_write_end(); -ENOTRECOVERABLE: somebody has scribbled over it meanwhile. */
int shmd_unlock(struct shmd_segment *segment) SHMD_CALLED_DIRECTLY;
/* After -EOWNERDEAD, with the lock held exclusively: the data are good again. Errors: -EPERM; -EINVAL: they were. */
int shmd_mark_consistent(struct shmd_segment *segment);

/*
 * Condition: with the lock held either way, lets go of it, waits until it is signalled, and takes it again, however long that
 * takes. It may wake without a reason: ask in a loop whether what is waited for is there. 0, -ETIMEDOUT,
 * -EOWNERDEAD: the lock is held. -ENOTRECOVERABLE: it is not. -EPERM: it was not; -EINVAL: it was not consistent.
 */
int shmd_condition_wait(struct shmd_segment *segment, uint64_t timeout_usec);
/* Wakes one that waits, or all; with the lock held exclusively. Errors: -EPERM. */
int shmd_condition_signal(struct shmd_segment *segment);
int shmd_condition_broadcast(struct shmd_segment *segment);

/*
 * Sequence counter, for readers that may not write: a writer changes data between begin and end, for which it takes the exclusive
 * lock if it does not have it. Results of begin as of shmd_lock(); of end as of shmd_unlock(). The data are whole again at the end
 * if they are consistent.
 */
int shmd_write_begin(struct shmd_segment *segment, uint64_t timeout_usec);
int shmd_write_end(struct shmd_segment *segment);
/*
 * A reader begins, reads what it wants to a place of its own, believing nothing of it yet, and asks whether it must read
 * again: 1, or 0. Begin waits for a writer that is at work: -EBUSY, -ETIMEDOUT; -EOWNERDEAD: it died over it, and nobody has
 * made the data good yet; -ENOTRECOVERABLE: nobody will.
 */
int shmd_read_begin(struct shmd_segment *segment, uint64_t timeout_usec, uint32_t *ret_ticket);
int shmd_read_retry(struct shmd_segment *segment, uint32_t ticket);
/* Both, around a copy of so many bytes of the segment, until it is whole. Also -EINVAL: beyond the segment's size. */
int shmd_read_copy(struct shmd_segment *segment, uint64_t offset, void *buffer, size_t size_bytes, uint64_t timeout_usec);

/*
 * Bells: each holder can have one, with a number of its own below 64, and each can ring each. Of a connection's one thread,
 * like all that follows. A bell is its connection's and its process's: a forked child has none.
 *
 * shmd_bell_open() gives this holder's number, the same each time. Errors: -EUSERS: all numbers are taken.
 */
int shmd_bell_open(struct shmd_segment *segment, uint32_t *ret_number);
/*
 * The descriptor, an eventfd, to poll for reading; borrowed; read by shmd_bell_wait() alone. Opens the bell. Who polls it polls
 * shmd_poll_fd(), too: only by the connection does a daemon that comes anew hear of the bell.
 */
int shmd_bell_fd(struct shmd_segment *segment);
/*
 * Waits until the bell has been rung since the last time, and gives how often; ret_rings may be NULL. Makes a system call only
 * if it must sleep, or if shmd_bell_fd() was asked for. Errors: -EAGAIN: not rung, timeout_usec is 0; -ETIMEDOUT.
 */
int shmd_bell_wait(struct shmd_segment *segment, uint64_t timeout_usec, uint32_t *ret_rings);
/*
 * Rings one, or all but one's own. What was written before is seen by who was woken. The daemon is asked only the first time that a bell
 * whose holder polls is rung. Errors: -ENOENT: nobody has that number; -EINVAL: nobody ever can; -EAGAIN: its holder polls, and has not
 * told the daemon of it again since that was restarted: he finds the ring when he has.
 */
#define SHMD_BELL_ALL UINT32_MAX
int shmd_bell_ring(struct shmd_segment *segment, uint32_t number);

enum shmd_lock_waiting {
        SHMD_LOCK_HELD = 0,
        SHMD_LOCK_AWAITED = 1,
        SHMD_LOCK_CONDITION = 2, /* let go of, until its condition is signalled */
};

/* A thread that holds the lock of a segment, or waits for it or its condition. */
struct shmd_lock_user {
        uint32_t pid; /* 0: not to be seen from here, of another pid namespace perhaps */
        uint32_t tid;
        uint32_t shared;    /* 1: shared, 0: exclusively */
        uint32_t waiting;   /* enum shmd_lock_waiting */
        uint32_t confirmed; /* 1: the process has the lock's memory mapped, says /proc; 0: that can't be seen, or it lies */
        uint32_t padding;
        uint64_t reserved[4];
        char command[64];
};
typedef int (*shmd_lock_function)(const struct shmd_lock_user *user, void *userdata);

enum shmd_lock_state {
        SHMD_LOCK_UNUSED = 0, /* the segment has no lock yet */
        SHMD_LOCK_CONSISTENT = 1,
        SHMD_LOCK_OWNER_DIED = 2, /* nobody has marked it consistent yet */
        SHMD_LOCK_GIVEN_UP = 3,
};

/*
 * Visits who holds and who waits, as they have noted it themselves in the segment's control memory, where they live. For who may read
 * the segment, owns it, or is an administrator. The visitor as for shmd_list(). ret_state, enum shmd_lock_state, may be NULL. Errors:
 * -ENOENT.
 */
int shmd_lock_users(struct shmd *connection, uint64_t id, shmd_lock_function function, void *userdata, uint32_t *ret_state);

/* A segment as the daemon sees it. Times are microseconds of CLOCK_REALTIME since 1970. */
struct shmd_stat {
        uint64_t id;
        uint64_t size_bytes;
        uint64_t resident_bytes; /* of pages that exist; UINT64_MAX: not known */
        uint64_t linger_usec;
        uint64_t created_usec;
        uint64_t opened_usec; /* last opened */
        uint64_t idle_usec;   /* since when nobody is known to hold it; 0 while it is held */
        uint32_t uid;
        uint32_t gid;
        uint32_t mode;
        uint32_t holders;  /* clients that hold it, and one more if others have it open or mapped */
        uint32_t lifetime; /* enum shmd_lifetime */
        uint32_t state;    /* enum shmd_state */
        uint32_t backing;  /* enum shmd_backing */
        uint32_t posix;    /* 1: open to ftruncate, made by shm_open */
        uint32_t unknown_holder; /* 1: someone that no connection accounts for has it open or mapped */
        uint32_t creator_pid;
        uint32_t creator_uid;
        uint32_t resizable;     /* 1: up to maximum_bytes */
        uint32_t single_writer; /* 1: only its creator writes */
        uint32_t truncated;     /* 1: made of a file, which somebody has made shorter since */
        uint64_t maximum_bytes;
        uint64_t page_bytes; /* of huge pages; 0: ordinary ones */
        uint64_t device;     /* st_dev and st_ino of the memory, 0 if not known */
        uint64_t inode;
        uint64_t creator_started; /* start time of the creator, clock ticks since boot: proc(5), stat, field 22; 0: not known */
        uint32_t opens; /* since the daemon began, modulo 2^32; a connection that has it already need not ask */
        uint32_t registered;    /* 1: a program's own SysV segment, which shmd looks after */
        uint32_t sysv_key;      /* SHMD_BACKING_SYSV: its key, 0 if it has none (any more) */
        uint32_t sysv_id;       /* its shmid */
        uint64_t sysv_attached; /* how often it is attached by shmat(2) */
        uint64_t reserved[4];
        char creator_executable[256];
        char name[256]; /* of an unlinked segment: the name it had */
        char creator_command[64];
        char creator_unit[256]; /* systemd unit, "" if none or not known */
        char labels[1025];      /* "key=value" lines */
};

/* Tells of one segment, by name or by id. Errors: -ENOENT. */
int shmd_stat(struct shmd *connection, const char *name, struct shmd_stat *ret_stat);
int shmd_stat_id(struct shmd *connection, uint64_t id, struct shmd_stat *ret_stat);

/* A visitor: called once for each entry; returns 0 to go on, anything else to stop, which the caller then returns.
 * It may not use the connection. */
typedef int (*shmd_list_function)(const struct shmd_stat *stat, void *userdata);

/* shmd_list(): the segments without a name instead of the named ones: unlinked and still held, or not yet published.
 * Administrators see all of them, others their own. */
#define SHMD_LIST_UNLINKED 0x1u

/*
 * Visits the segments whose names begin with prefix (NULL: all) in the order of their names. It is no
 * snapshot: what is made or removed meanwhile may be seen or not; what stays is seen once.
 */
int shmd_list(struct shmd *connection, const char *prefix, unsigned flags, shmd_list_function function, void *userdata);

/* One client's hold. */
struct shmd_holder {
        uint64_t since_usec;
        uint32_t pid; /* 0: not visible from the daemon's pid namespace */
        uint32_t uid;
        uint32_t gid;
        uint32_t write;    /* 1: read-write */
        uint32_t count;    /* how many times it is open */
        uint32_t detached; /* 1: opened by shm_open: counted until the kernel says that it is closed everywhere */
        uint64_t reserved[4];
        char command[64];
        char unit[256];
};
typedef int (*shmd_holder_function)(const struct shmd_holder *holder, void *userdata);

/*
 * Visits the holders of a segment by id. The segment's owner and administrators see all; others get
 * -EPERM. Errors: -ENOENT.
 */
int shmd_holders(struct shmd *connection, uint64_t id, shmd_holder_function function, void *userdata);

/* A process that has a segment open or mapped, as /proc shows it, whether or not the daemon knows of it. */
struct shmd_mapper {
        uint32_t pid;
        uint32_t uid;
        uint32_t mapped;   /* 1: mapped */
        uint32_t writable; /* 1: mapped writable */
        uint32_t open;     /* 1: has a descriptor */
        uint32_t may_write; /* 1: mapped so that it can make it writable: that alone keeps it from being frozen */
        uint64_t reserved[4];
        char command[64];
};
typedef int (*shmd_mapper_function)(const struct shmd_mapper *mapper, void *userdata);

/*
 * Looks through /proc for processes that have the memory of that device and inode (shmd_stat()) open or mapped. Sees
 * only what the caller may see: as root all in its pid namespace, else its own processes; *ret_hidden (may be NULL) is
 * the number of processes it could not look into. The daemon itself has every segment open. Needs no connection; may
 * take long on a large machine. The visitor as for shmd_list().
 */
int shmd_mappers(uint64_t device, uint64_t inode, shmd_mapper_function function, void *userdata, unsigned *ret_hidden);

/*
 * Changes permission bits (nine; execute bits are dropped), owner or group; (uid_t) -1 and (gid_t) -1 leave them. Holds
 * that exist are not touched. The group may be any of the caller's; only an administrator
 * changes the owner. Errors: -ENOENT; -EPERM; -EINVAL.
 */
int shmd_chmod(struct shmd *connection, const char *name, mode_t mode);
int shmd_chown(struct shmd *connection, const char *name, uid_t uid, gid_t gid);

/* Gives a segment another name. Errors: -ENOENT; -EPERM; -EEXIST: the new name is taken. */
int shmd_rename(struct shmd *connection, const char *name, const char *new_name);

/* The same three and unlink, by id: for what has lost its name, or must not be mistaken. */
int shmd_unlink_id(struct shmd *connection, uint64_t id);
/*
 * Unlinks a segment only if nobody has held or mapped it for idle_usec microseconds: the daemon asks the kernel, and lets
 * nobody in between. Errors: -EBUSY: somebody has it, or had until lately; -ENOENT; -EPERM.
 */
int shmd_unlink_idle(struct shmd *connection, uint64_t id, uint64_t idle_usec);
int shmd_chmod_id(struct shmd *connection, uint64_t id, mode_t mode);
int shmd_chown_id(struct shmd *connection, uint64_t id, uid_t uid, gid_t gid);
int shmd_rename_id(struct shmd *connection, uint64_t id, const char *new_name);

/* What happened to a segment. */
enum shmd_event_kind {
        SHMD_EVENT_CREATED = 1, /* of an unpublished segment: told to its owner and administrators only */
        SHMD_EVENT_PUBLISHED = 2,
        SHMD_EVENT_FROZEN = 3,
        SHMD_EVENT_RESIZED = 4,
        SHMD_EVENT_UNLINKED = 5,
        SHMD_EVENT_FREED = 6,
        SHMD_EVENT_RENAMED = 7,
        SHMD_EVENT_LOST = 8,     /* events are missing, as they were not read fast enough: list again */
        SHMD_EVENT_PRESENT = 9,  /* SHMD_WATCH_SNAPSHOT: it was there when the watch began */
        SHMD_EVENT_SNAPSHOT_END = 10,
};

struct shmd_event {
        uint64_t watch; /* as shmd_watch() gave it; 0 in SHMD_EVENT_LOST, which each watch is told of */
        uint64_t id;
        uint64_t size_bytes;
        uint64_t time_usec; /* CLOCK_REALTIME; in SHMD_EVENT_PRESENT when it was made */
        uint32_t kind; /* enum shmd_event_kind */
        uint32_t uid;
        uint64_t reserved[4];
        char name[256];
        char old_name[256]; /* SHMD_EVENT_RENAMED */
};
typedef void (*shmd_event_function)(struct shmd *connection, const struct shmd_event *event, void *userdata);

#define SHMD_WATCH_EXACT 0x1u    /* the very name, not all that begin so */
#define SHMD_WATCH_SNAPSHOT 0x2u /* first all that are there, then SHMD_EVENT_SNAPSHOT_END; no change between is missed */

/*
 * Watches names that begin with prefix (NULL: all). Events come by shmd_dispatch(), never before shmd_watch() has
 * returned. What changes during a snapshot may be told twice, never not at all. ret_watch may be NULL. Errors: -EDQUOT.
 * After the daemon was away (a reconnection) the watch goes on, and a SHMD_EVENT_LOST comes; so it does when a program
 * that does not dispatch has events dropped.
 */
int shmd_watch(struct shmd *connection, const char *prefix, unsigned flags, shmd_event_function function, void *userdata,
               uint64_t *ret_watch);
/* Its function is not called any more. Errors: -ENOENT. */
int shmd_unwatch(struct shmd *connection, uint64_t watch);

/*
 * For event loops: the descriptor to poll for reading, and what to call when it is readable: shmd_dispatch() handles
 * what has come, without waiting, and calls the functions of watches and of calls that were submitted. It returns how
 * many it called, or an error. They may use the connection, but not end it. The descriptor is also readable when
 * something came while another call waited for its own reply, and when there is room again after -EAGAIN. It stays the
 * same, over reconnections, too, but a forked child has to ask for its own; it is borrowed.
 *
 * A lost connection is made anew by either function. As long as there is no daemon they return -ECONNREFUSED or -ENOENT
 * and nothing becomes readable: try again after a while.
 */
int shmd_poll_fd(struct shmd *connection);
int shmd_dispatch(struct shmd *connection);

/*
 * Asynchronous calls: each shmd_X_async() submits what shmd_X() does and returns at once; function is called by
 * shmd_dispatch() with the result, once. What is submitted is carried out in order, waits excepted. Errors at
 * submission: those of arguments and of sending, -EAGAIN if the socket is full: dispatch when the descriptor is
 * readable, then try again; the function is then not called. Arguments are copied. function may be NULL: then nobody is
 * told, and a segment that was opened is closed.
 *
 * When the connection is lost, open, stat, status and waits are submitted again to a daemon that is there at once; the
 * others, and all if there is none, fail with -ECONNRESET.
 */
struct shmd_result {
        int error;                    /* 0 or negative errno value */
        uint32_t padding;
        struct shmd_segment *segment; /* create, open: the caller's, to be closed */
        const struct shmd_stat *stat; /* stat: valid during the call */
        const struct shmd_status *status;
        uint64_t reserved[4];
};
typedef void (*shmd_result_function)(struct shmd *connection, const struct shmd_result *result, void *userdata);

/* Not SHMD_PREALLOCATE, nor SHMD_SINGLE_WRITER without SHMD_UNPUBLISHED: they take several steps. -EINVAL. */
int shmd_create_async(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                      const struct shmd_create_options *options, shmd_result_function function, void *userdata);
int shmd_open_async(struct shmd *connection, const char *name, unsigned flags, shmd_result_function function,
                    void *userdata);
/*
 * Gives a number by which shmd_cancel() ends the wait: its function is then called with -ECANCELED, or with the result
 * if that was on its way. ret_wait may be NULL. Errors of shmd_cancel(): -ENOENT: the wait is over; -EAGAIN.
 */
int shmd_open_wait_async(struct shmd *connection, const char *name, unsigned flags, uint64_t timeout_usec,
                         shmd_result_function function, void *userdata, uint32_t *ret_wait);
int shmd_cancel(struct shmd *connection, uint32_t wait);
int shmd_publish_async(struct shmd_segment *segment, unsigned flags, shmd_result_function function, void *userdata);
int shmd_unlink_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata);
int shmd_stat_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata);
int shmd_chmod_async(struct shmd *connection, const char *name, mode_t mode, shmd_result_function function, void *userdata);
int shmd_chown_async(struct shmd *connection, const char *name, uid_t uid, gid_t gid, shmd_result_function function,
                     void *userdata);
int shmd_rename_async(struct shmd *connection, const char *name, const char *new_name, shmd_result_function function,
                      void *userdata);
int shmd_resize_async(struct shmd *connection, const char *name, uint64_t size_bytes, shmd_result_function function,
                      void *userdata);
int shmd_freeze_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata);
int shmd_set_lifetime_async(struct shmd *connection, const char *name, uint32_t lifetime, uint64_t linger_usec,
                            shmd_result_function function, void *userdata);
int shmd_status_async(struct shmd *connection, shmd_result_function function, void *userdata);

struct shmd_use {
        uint64_t used;
        uint64_t maximum;
};

/* The daemon, its totals, and the caller's own account. */
struct shmd_status {
        uint64_t started_usec;
        uint64_t uptime_usec;
        uint64_t instance;
        uint64_t segments;
        uint64_t unlinked;
        uint64_t bytes;
        uint64_t holds;
        uint64_t connections;
        uint64_t descriptors;
        uint64_t descriptors_max;
        uint64_t memory_available_bytes;
        uint32_t pid;
        uint32_t uid;
        char version[32];
        struct shmd_use my_bytes, my_segments, my_holds, my_connections, my_watches;
        uint64_t restarts;     /* how often the segments have changed daemons and were there again; 0 without a store */
        uint64_t serving_usec; /* when the first of these daemons started */
        uint32_t store;        /* 1: a service manager keeps the segments for the next daemon */
        uint32_t store_entries; /* so many descriptors it keeps for that */
        uint64_t watchdog_usec; /* of silence after which a service manager restarts the daemon; 0: none watches it */
        uint64_t store_failing_usec; /* since when not all is kept for the next daemon; 0: it is, or there is no store */
        uint32_t store_failure;      /* why */
        uint32_t padding;
        uint64_t reserved[10];
};

enum shmd_store_failure {
        SHMD_STORE_FAILURE_NONE = 0,
        SHMD_STORE_FAILURE_LOG = 1,     /* the log of the segments' records can not grow */
        SHMD_STORE_FAILURE_MANAGER = 2, /* the service manager does not keep, or not take, what it is given */
};
int shmd_status(struct shmd *connection, struct shmd_status *ret_status);

/* One user's use and limits; a maximum of UINT64_MAX is none. */
struct shmd_account {
        struct shmd_use bytes, segments, holds, connections, watches;
        uint32_t uid;
        uint32_t padding;
        uint64_t reserved[4];
};
typedef int (*shmd_account_function)(const struct shmd_account *account, void *userdata);

/*
 * Visits the accounts of all users that have anything, by uid, if the caller is an administrator; else the caller's own. The
 * visitor returns 0 to go on, anything else to stop, which is then returned; it may not use the connection.
 */
int shmd_accounts(struct shmd *connection, shmd_account_function function, void *userdata);

/*
 * Ends the daemon: -EPERM for all but administrators. Where a service manager keeps its segments the next one has them (-EBUSY: it
 * would not, being a systemd before 257), else their names end with it. With SHMD_STOP_PURGE all segments lose their names, and
 * nothing is kept: memory goes with those who have it.
 */
#define SHMD_STOP_PURGE 0x1u
int shmd_stop(struct shmd *connection, unsigned flags);

/*
 * shm_open(3) and shm_unlink(3), served by shmd: flags, errors (-1 and errno), and the descriptor are as there. The
 * segment is born with size zero and is sized by ftruncate(2); the descriptor may be closed once it is
 * mapped, and is the caller's. They share one connection of the process, made at first use, and may be called
 * by any number of threads. Not async-signal-safe.
 *
 * Errors besides shm_open(3)'s: ECONNREFUSED, ENOENT and others of shmd_connect(): no daemon.
 */
int shmd_shm_open(const char *name, int oflag, mode_t mode);
int shmd_shm_unlink(const char *name);

/*
 * shmget(2), shmat(2), shmdt(2), shmctl(2): the kernel's own segments, results and errors, and the daemon is told: it lists the segment
 * (as "sysv/SHMID" at first), charges it to its owner, and looks after its lifetime. A process that made one, or found it,
 * counts as a holder until it ends; attachments are the kernel's own count. On the process's connection, as above.
 *
 * If shmd's limits do not admit what shmd_shmget() has made, it is removed again: -1, ENOSPC. Where there is no daemon, or it is in
 * another IPC namespace, all works and the segment is not registered; shmd_error_message(NULL) tells why.
 */
struct shmid_ds;
int shmd_shmget(int key, size_t size, int shmflg); /* a key_t, which strict C does not declare */
void *shmd_shmat(int shmid, const void *shmaddr, int shmflg);
int shmd_shmdt(const void *shmaddr);
int shmd_shmctl(int shmid, int command, struct shmid_ds *buffer);

/*
 * What they do besides the kernel's own calls: shmd_sysv_register() tells of a segment of the caller's, options of which lifetime,
 * linger_usec and labels count (NULL: persist); for one that is registered already the caller becomes a holder, options do not
 * count. shmd_sysv_removed() says that it was removed by IPC_RMID, so that its name goes at once, and not only when somebody looks.
 * Both leave errno as it is, and the segment, too. Errors: -EPERM: the caller is not its owner; -EXDEV: another IPC namespace;
 * -ENOENT; -EDQUOT.
 */
int shmd_sysv_register(int shmid, const struct shmd_create_options *options);
int shmd_sysv_removed(int shmid);

/* The version of the library, such as "0.1.0". */
const char *shmd_version(void);

#ifdef __cplusplus
}
#endif

#endif
