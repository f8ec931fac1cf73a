/* SPDX-License-Identifier: MIT */
/*
 * Which shared-memory objects of this machine are leaked: files in /dev/shm and SysV segments. No daemon is asked.
 *
 * Owns what it has found, and descriptors of the places where it looked. Changes nothing; reclaim.h does.
 * Invariants: what somebody has open, mapped or attached is never SCAN_LEAKED; what can't be judged is SCAN_UNKNOWN, with
 * the reason, never guessed.
 *
 * How a verdict comes about:
 *  - posix: the kernel grants a write lease on a file exactly if no process in any namespace has it open or mapped. It
 *    takes the file's owner, or CAP_LEASE, and the right to open it. While the lease is held, some microseconds, whoever
 *    opens the file waits; with O_NONBLOCK he gets EWOULDBLOCK. Where that right is missing all of /proc is
 *    read, once for all files: who is found there uses it. Nobody found there does not say nobody, where there are processes that
 *    /proc does not show, or descriptors on their way in sockets: then it can't be judged.
 *  - sysv: nobody has it attached, nor a descriptor of it as shmd hands out (which takes /proc, as above); and its creator and
 *    its last user are dead, or their numbers belong to processes that began later. The kernel tells of no process but
 *    by its number, so that a number of a process in another pid namespace can't be judged.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SCAN_DIRECTORY "/dev/shm"

enum scan_kind {
        SCAN_SHMD = 0,
        SCAN_POSIX,
        SCAN_SYSV,
        SCAN_KINDS,
};

enum scan_verdict {
        SCAN_IN_USE = 0,
        SCAN_LEAKED,
        SCAN_UNKNOWN,
};

/* Of what is leaked: how sure that is. */
enum scan_certainty {
        SCAN_CERTAIN = 0, /* the kernel's own answer */
        SCAN_LIKELY,      /* all that can be seen says so */
};

/* A place where there are objects: a mount of /dev/shm, or an IPC namespace. */
struct scan_space {
        struct scan_space *next;
        int fd;      /* posix: the directory, or -EBADF: not to be looked into; sysv: the namespace, or -EBADF for this process's own */
        pid_t pid;   /* a process that lives there; 0: this one does */
        char *label; /* its unit or container; "" for this process's own */
};

#define SCAN_REASON_MAX 160
#define SCAN_PROCESSES_MAX 8u

struct scan_find {
        enum scan_kind kind;
        enum scan_verdict verdict;
        enum scan_certainty certainty;
        const struct scan_space *space; /* NULL: shmd */
        char *name;        /* shmd: its name; posix: the path below /dev/shm; sysv: its key, as "0x00000044" */
        uint64_t id;       /* shmd: its id; posix: the inode; sysv: shmid */
        uint64_t device;   /* posix; of sysv since scan_processes() */
        uint64_t size_bytes;
        uint64_t resident_bytes;
        uint64_t created_usec; /* CLOCK_REALTIME, 0: not known */
        uint64_t used_usec;    /* when anybody is last known to have used it */
        uint64_t stamp;        /* differs once the object has been touched: for the check before it is freed */
        uint32_t uid, gid, mode;
        uint32_t creator_pid, last_pid; /* sysv, shmd; 0: not known */
        uint32_t links;                 /* posix */
        uint32_t attachments;           /* sysv */
        uint32_t n_processes;           /* found by reading /proc; the first ones: */
        uint32_t processes[SCAN_PROCESSES_MAX];
        uint32_t elsewhere_pid; /* sysv: a process of another IPC namespace that has one of that number; 0: none */
        char creator_command[64]; /* shmd */
        char unit[128];           /* shmd: its creator's */
        char reason[SCAN_REASON_MAX];
};

struct scan {
        struct scan_find *finds;
        size_t count;
        size_t capacity;
        unsigned hidden; /* processes that could not be looked into */
        struct scan_space *spaces;
};

static inline const char *scan_kind_name(enum scan_kind kind) {
        static const char *const names[] = { "shmd", "posix", "sysv" };

        return names[kind];
}

void scan_init(struct scan *scan);
void scan_done(struct scan *scan);

/* Appends an empty one, which is valid until the next call. NULL: no memory. */
struct scan_find *scan_add(struct scan *scan, enum scan_kind kind, const struct scan_space *space, const char *name);
/* Takes the descriptor, also when it fails. NULL: no memory. */
struct scan_space *scan_add_space(struct scan *scan, int take_fd, pid_t pid, const char *label);

/* Each gives 0 or a negative errno value. A machine that has none of a kind has no finds. */
int scan_posix(struct scan *scan);
int scan_posix_space(struct scan *scan, const struct scan_space *space);
/* All files of a space are what can't be judged. */
int scan_note_unseen(struct scan *scan, const struct scan_space *space, const char *reason);
int scan_sysv(struct scan *scan);
int scan_sysv_space(struct scan *scan, const struct scan_space *space);
/* Reads /proc for what that is needed for: files that the kernel was not asked about for want of a right, segments without
 * attachments; and judges them. To be called once all else has been. */
int scan_processes(struct scan *scan);
/* The same two in the namespaces of other processes that the caller may look into. What he may not adds to *ret_hidden. */
int scan_other_spaces(struct scan *scan, bool posix, bool sysv, unsigned *ret_hidden);

/* --- one object, anew: for scan_* and before it is freed --- */

/* A file's times and owner, whatever its verdict. */
struct stat;
void scan_describe_file(struct scan_find *find, const struct stat *st);

/* Asks the kernel who has a file. 1: nobody, and as long as *ret_fd stays open whoever opens it waits; 0: somebody;
 * -EACCES: no right to ask; another negative errno value. -ENOENT: it is another file, or none, by now. */
int scan_lease_file(int directory_fd, const char *name, struct stat *ret_st, int *ret_fd);

/* Fills all but the space. */
struct proc_sysv;
void scan_judge_sysv(struct scan_find *find, const struct proc_sysv *row);

/* --- processes --- */

enum scan_process {
        SCAN_PROCESS_GONE = 0,
        SCAN_PROCESS_REUSED,  /* another process has its number by now */
        SCAN_PROCESS_ALIVE,
        SCAN_PROCESS_UNKNOWN, /* it is of another pid namespace, or can't be looked at */
        SCAN_PROCESS_UNTIMED, /* there is one of that number, but the clock has been set since that moment */
};

/* Whether the process that had a number at a moment of CLOCK_REALTIME is still there. */
enum scan_process scan_process_since(uint32_t pid, uint64_t usec);
/* Whether the process that had it and began at that clock tick after boot is still there. */
enum scan_process scan_process_started(uint32_t pid, uint64_t ticks);
/* Its unit, or the innermost control group that says more: "docker-1234.scope". False if it can't be known. */
bool scan_process_unit(pid_t pid, char *unit, size_t size);
