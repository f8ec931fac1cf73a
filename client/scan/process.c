/* SPDX-License-Identifier: MIT */
/*
 * What /proc tells: whether a process is still the one that it was, and who has files open or mapped.
 */
#include "scan.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "util.h"

static ssize_t read_start(const char *path, char *buffer, size_t size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        if (fd < 0)
                return negative_errno();
        do
                n = read(fd, buffer, size - 1);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return negative_errno();
        buffer[n] = '\0';
        return n;
}

/* --- one process: is it still the same? --- */

struct process {
        char state;
        unsigned long threads;
        uint64_t started; /* clock ticks after boot */
};

static int process_read(uint32_t pid, struct process *ret) {
        char path[64], text[1024];
        const char *rest;
        ssize_t n;

        (void) snprintf(path, sizeof(path), "/proc/%" PRIu32 "/stat", pid);
        n = read_start(path, text, sizeof(text));
        if (n < 0)
                return (int) n;
        rest = strrchr(text, ')'); /* a command may have blanks and parentheses */
        if (!rest || sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %lu %*d %" SCNu64,
                            &ret->state, &ret->threads, &ret->started) != 3)
                return -EIO;
        return 0;
}

/* Whether /proc is of the pid namespace that system calls count in. */
static bool proc_is_ours(void) {
        static int known = -1;
        char text[32] = "";

        if (known < 0)
                known = readlink("/proc/self", text, sizeof(text) - 1) > 0 && strtol(text, NULL, 10) == getpid();
        return known;
}

/* 0 and what /proc has of it; or positive: the verdict that needs no more. */
static int process_find(uint32_t pid, struct process *ret, enum scan_process *ret_verdict) {
        if (pid == 0 || pid > INT32_MAX) {
                *ret_verdict = SCAN_PROCESS_UNKNOWN;
                return 1;
        }
        if (kill((pid_t) pid, 0) < 0 && errno == ESRCH) {
                *ret_verdict = SCAN_PROCESS_GONE;
                return 1;
        }
        if (!proc_is_ours() || process_read(pid, ret) < 0) {
                /* It is there, but hidden from us: whether it is the same can't be known. Or it has just gone. */
                *ret_verdict = kill((pid_t) pid, 0) < 0 && errno == ESRCH ? SCAN_PROCESS_GONE : SCAN_PROCESS_UNKNOWN;
                return 1;
        }
        /* A dead process that nobody has waited for; but its first thread may be dead and others live on. */
        if ((ret->state == 'Z' || ret->state == 'X') && ret->threads <= 1) {
                *ret_verdict = SCAN_PROCESS_GONE;
                return 1;
        }
        return 0;
}

static uint64_t clock_usec(clockid_t clock) {
        struct timespec now;

        (void) clock_gettime(clock, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* System V times are whole seconds, rounded down, and the start time is of another clock. */
#define SLACK_USEC UINT64_C(2000000)

enum scan_process scan_process_since(uint32_t pid, uint64_t usec) {
        enum scan_process verdict;
        struct process process;
        uint64_t started_usec;

        if (process_find(pid, &process, &verdict) > 0)
                return verdict;
        started_usec = clock_usec(CLOCK_REALTIME) - clock_usec(CLOCK_BOOTTIME) +
                       process.started * 1000000 / (uint64_t) sysconf(_SC_CLK_TCK);
        return started_usec > usec + SLACK_USEC ? SCAN_PROCESS_REUSED : SCAN_PROCESS_ALIVE;
}

enum scan_process scan_process_started(uint32_t pid, uint64_t ticks) {
        enum scan_process verdict;
        struct process process;

        if (process_find(pid, &process, &verdict) > 0)
                return verdict;
        return process.started == ticks ? SCAN_PROCESS_ALIVE : SCAN_PROCESS_REUSED;
}

bool scan_process_unit(pid_t pid, char *unit, size_t size) {
        char path[64], text[4096], *line, *rest = text;
        const char *best = NULL;

        (void) snprintf(path, sizeof(path), "/proc/%d/cgroup", (int) pid);
        if (read_start(path, text, sizeof(text)) < 0)
                return false;
        while ((line = strsep(&rest, "\n"))) {
                const char *colon = strchr(line, ':'), *group = colon ? strchr(colon + 1, ':') : NULL;

                /* The unified hierarchy, or else the first one that says anything */
                if (group && group[1] && strcmp(group + 1, "/") != 0 && (!best || strncmp(line, "0::", 3) == 0))
                        best = group + 1;
        }
        if (!best)
                return false;
        (void) snprintf(unit, size, "%s", strrchr(best, '/') ? strrchr(best, '/') + 1 : best);
        return true;
}

/* --- all processes: who has one of the pending files? --- */

struct lookup {
        struct scan *scan;
        size_t *slots; /* index of a find, plus one */
        size_t mask;
        uint32_t pid;
        size_t noted; /* the find that this process was last noted at, plus one: most mappings come in runs */
};

static bool is_pending(const struct scan_find *find) {
        return find->kind == SCAN_POSIX && find->verdict == SCAN_UNKNOWN && !find->reason[0];
}

static size_t hash(uint64_t device, uint64_t inode) {
        uint64_t h = (inode ^ device << 40) * UINT64_C(0x9e3779b97f4a7c15);

        return (size_t) (h >> 20);
}

static int lookup_init(struct lookup *lookup, struct scan *scan) {
        size_t slots = 64;

        while (slots < 2 * scan->pending)
                slots *= 2;
        *lookup = (struct lookup) { .scan = scan, .slots = calloc(slots, sizeof(size_t)), .mask = slots - 1 };
        if (!lookup->slots)
                return -ENOMEM;
        for (size_t i = 0; i < scan->count; i++) {
                const struct scan_find *find = &scan->finds[i];
                size_t slot = hash(find->device, find->id) & lookup->mask;

                if (!is_pending(find))
                        continue;
                while (lookup->slots[slot])
                        slot = (slot + 1) & lookup->mask;
                lookup->slots[slot] = i + 1;
        }
        return 0;
}

static void note_process(struct scan_find *find, uint32_t pid) {
        uint32_t n = find->n_processes;

        if (n > 0 && n <= SCAN_PROCESSES_MAX && find->processes[n - 1] == pid)
                return;
        if (n < SCAN_PROCESSES_MAX)
                find->processes[n] = pid;
        find->n_processes++;
}

/* A file may have several names, each of which is a find. */
static void lookup_note(struct lookup *lookup, uint64_t device, uint64_t inode) {
        size_t slot = hash(device, inode) & lookup->mask;

        for (; lookup->slots[slot]; slot = (slot + 1) & lookup->mask) {
                struct scan_find *find = &lookup->scan->finds[lookup->slots[slot] - 1];

                if (find->id == inode && find->device == device)
                        note_process(find, lookup->pid);
        }
}

static const char *skip_fields(const char *p, unsigned n) {
        while (n-- > 0) {
                p = strchr(p, ' ');
                if (!p)
                        return NULL;
                while (*p == ' ')
                        p++;
        }
        return p;
}

/* "7f0000000000-7f0000200000 rw-s 00000000 00:01 1234   /dev/shm/name" */
static void note_mapping(struct lookup *lookup, const char *line) {
        const char *p = skip_fields(line, 3);
        unsigned long major, minor, inode;
        char *end;

        if (!p)
                return;
        major = strtoul(p, &end, 16);
        if (*end != ':')
                return;
        minor = strtoul(end + 1, &end, 16);
        inode = strtoul(end, NULL, 10);
        if (inode != 0)
                lookup_note(lookup, makedev(major, minor), inode);
}

/* 1; 0 where there is no line, and so no address space: a kernel thread, a zombie, or a thread that has ended. */
static int read_maps(struct lookup *lookup, int directory_fd, const char *name) {
        int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC), found = 0;
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        FILE *file;

        if (fd < 0)
                return negative_errno();
        file = fdopen(fd, "r");
        if (!file) {
                close_fd(fd);
                return -ENOMEM;
        }
        while (getline(&line, &size, file) > 0) {
                found = 1;
                note_mapping(lookup, line);
        }
        if (ferror(file))
                found = errno == ESRCH ? 0 : negative_errno();
        (void) fclose(file);
        return found;
}

/* Asks no file system over a network, or in user space, that may never answer. */
static void note_descriptor(struct lookup *lookup, int directory_fd, const char *number) {
        struct statx st;

        if (statx(directory_fd, number, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &st) == 0)
                lookup_note(lookup, makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino);
}

static int read_each(struct lookup *lookup, int directory_fd, const char *name,
                     void (*function)(struct lookup *, int, const char *)) {
        int fd = openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct dirent *entry;
        DIR *directory;

        if (fd < 0)
                return negative_errno();
        directory = fdopendir(fd);
        if (!directory) {
                close_fd(fd);
                return -ENOMEM;
        }
        while ((entry = readdir(directory)))
                if (isdigit((unsigned char) entry->d_name[0]))
                        function(lookup, fd, entry->d_name);
        (void) closedir(directory);
        return 0;
}

static int process_look(struct lookup *lookup, int fd);

/* Where the first thread has ended, its address space and descriptors are the others'. */
static void note_thread(struct lookup *lookup, int tasks_fd, const char *name) {
        char path[300];

        (void) snprintf(path, sizeof(path), "%s/maps", name);
        (void) read_maps(lookup, tasks_fd, path);
        (void) snprintf(path, sizeof(path), "%s/fd", name);
        (void) read_each(lookup, tasks_fd, path, note_descriptor);
}

static int process_look(struct lookup *lookup, int fd) {
        int r;

        r = read_maps(lookup, fd, "maps");
        if (r == 0)
                return read_each(lookup, fd, "task", note_thread);
        if (r < 0)
                return r;
        return read_each(lookup, fd, "fd", note_descriptor);
}

static bool is_fatal(int error) {
        return error == -ENOMEM || error == -EMFILE || error == -ENFILE;
}

static int process_visit(struct lookup *lookup, int proc_fd, const char *name) {
        _cleanup_close_ int fd = openat(proc_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        int r;

        lookup->pid = (uint32_t) strtoul(name, NULL, 10);
        r = fd < 0 ? negative_errno() : process_look(lookup, fd);
        if (is_fatal(r))
                return r;
        if (r < 0 && r != -ENOENT && r != -ESRCH)
                lookup->scan->hidden++;
        return 0;
}

static int visit_all(struct lookup *lookup) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        int r = 0;

        if (!proc)
                return negative_errno();
        while (r == 0 && (entry = readdir(proc)))
                if (isdigit((unsigned char) entry->d_name[0]))
                        r = process_visit(lookup, dirfd(proc), entry->d_name);
        (void) closedir(proc);
        return r;
}

static void judge(struct scan_find *find, unsigned hidden) {
        if (find->n_processes > 0) {
                find->verdict = SCAN_IN_USE;
                (void) snprintf(find->reason, sizeof(find->reason), "process %" PRIu32 "%s", find->processes[0],
                                find->n_processes > 1 ? " and others have it" : " has it");
        } else if (hidden > 0) {
                (void) snprintf(find->reason, sizeof(find->reason),
                                "no right to ask the kernel, nor to look into %u process%s", hidden, hidden == 1 ? "" : "es");
        } else {
                find->verdict = SCAN_LEAKED;
                find->certainty = SCAN_LIKELY;
                (void) snprintf(find->reason, sizeof(find->reason),
                                "no process in /proc has it open or mapped; no right to ask the kernel");
        }
}

int scan_processes(struct scan *scan) {
        struct lookup lookup;
        int r;

        if (scan->pending == 0)
                return 0;
        r = lookup_init(&lookup, scan);
        if (r < 0)
                return r;
        r = visit_all(&lookup);
        free(lookup.slots);
        if (r < 0)
                return r;
        for (size_t i = 0; i < scan->count; i++)
                if (is_pending(&scan->finds[i]))
                        judge(&scan->finds[i], scan->hidden);
        scan->pending = 0;
        return 0;
}
