/* SPDX-License-Identifier: MIT */
/*
 * What /proc says of processes: for the library and for shmdctl's scan. Asks no daemon, keeps nothing.
 *
 * Processes come and go meanwhile: what is gone before it has been read has nothing. Where a process's first thread has ended, its
 * address space is the other threads'; and each thread may have descriptors of its own (unshare(2), CLONE_FILES).
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* The start of a file, with a zero after it. Its size, or a negative errno value. */
ssize_t file_read_start(int directory_fd, const char *path, char *buffer, size_t size);

/* 1; 0 where there is no line, or no address space: a kernel thread, a zombie; -errno. */
typedef void (*proc_line_function)(void *userdata, char *line);
int proc_read_lines(int directory_fd, const char *name, proc_line_function function, void *userdata);

/* Whether /proc has the numbers that processes have for us. */
bool proc_is_ours(void);

/* For each process: its name and its directory, or -errno in its place. Stops at what is not zero, and gives that; -errno. */
typedef int (*proc_process_function)(void *userdata, uint32_t pid, int directory_fd);
int proc_visit_processes(proc_process_function function, void *userdata);

/* "7f0000000000-7f0000200000 rw-s 00000000 00:01 1234   /dev/shm/name" */
struct proc_mapping {
        uint64_t device, inode;
        bool writable, shared;
        const char *path; /* to the end of the line */
};
/* Whether it is a mapping of a file. */
bool proc_mapping_parse(const char *line, struct proc_mapping *ret_mapping);

struct proc_descriptor {
        uint64_t device, inode;
        mode_t type;        /* S_IFMT of it */
        int directory_fd;   /* where its number is a link to it */
        const char *number;
};

struct proc_visitor {
        void (*mapping)(void *userdata, const struct proc_mapping *mapping); /* of a file */
        void (*descriptor)(void *userdata, const struct proc_descriptor *descriptor); /* or NULL */
        void *userdata;
};
/* What a process has mapped, and then what it has open. 0 or -errno. */
int proc_visit_memory(uint32_t pid, int directory_fd, const struct proc_visitor *visitor);

/* A line of /proc/sysvipc/shm */
struct proc_sysv {
        int64_t key;
        uint64_t size, rss, attachments;
        int64_t atime, dtime, ctime; /* seconds */
        int shmid;
        uint32_t mode, uid, gid, cuid;
        uint32_t cpid, lpid;
};
/* False: it is the heading. */
bool proc_sysv_parse(const char *line, struct proc_sysv *ret_row);

/* The error is about this process, not about the one who asks. */
static inline bool proc_error_means_gone(int error) {
        return error == -ENOENT || error == -ESRCH;
}
