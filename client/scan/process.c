/* SPDX-License-Identifier: MIT */
/*
 * What /proc tells: whether a process is still the one that it was, and who has files open or mapped.
 */
#include "scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "../proc.h"
#include "util.h"

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
        n = file_read_start(AT_FDCWD, path, text, sizeof(text));
        if (n < 0)
                return (int) n;
        rest = strrchr(text, ')'); /* a command may have blanks and parentheses */
        if (!rest || sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %lu %*d %" SCNu64,
                            &ret->state, &ret->threads, &ret->started) != 3)
                return -EIO;
        return 0;
}

/* include/linux/proc_ns.h: PROC_PID_INIT_INO, which no kernel may change. */
#define FIRST_PID_NAMESPACE "pid:[4026531836]"

/* proc(5), hidepid=: what we may not look into is not even listed. */
static bool hides_processes(void) {
        _cleanup_free_ char *line = NULL;
        bool hides = false;
        size_t size = 0;
        FILE *file = fopen("/proc/self/mounts", "re");

        if (!file)
                return true;
        while (getline(&line, &size, file) > 0) {
                const char *place = strchr(line, ' '), *option = strstr(line, "hidepid=");

                if (place && strncmp(place, " /proc proc ", 12) == 0)
                        hides = option && strncmp(option, "hidepid=off", 11) != 0 && option[8] != '0';
        }
        (void) fclose(file);
        return hides;
}

/* Outside of a pid namespace there are others, that may have what is in it. */
static bool shows_all_processes(void) {
        char text[64] = "";

        return readlink("/proc/self/ns/pid", text, sizeof(text) - 1) > 0 && strcmp(text, FIRST_PID_NAMESPACE) == 0 &&
               proc_is_ours() && !hides_processes();
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
        uint64_t booted_usec, started_usec;

        if (process_find(pid, &process, &verdict) > 0)
                return verdict;
        booted_usec = clock_usec(CLOCK_REALTIME) - clock_usec(CLOCK_BOOTTIME);
        if (usec + SLACK_USEC < booted_usec)
                return SCAN_PROCESS_UNTIMED; /* nothing that is here now was before the machine's start */
        started_usec = booted_usec + process.started * 1000000 / (uint64_t) sysconf(_SC_CLK_TCK);
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
        if (file_read_start(AT_FDCWD, path, text, sizeof(text)) < 0)
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
        uint64_t sysv_device; /* of all SysV segments' memory */
        uint32_t pid;
        int process_fd;     /* its directory in /proc */
        unsigned in_flight; /* descriptors in the queues of sockets: no process has them */
        bool partial;       /* there may be processes that are not in /proc */
};

/* A file that the kernel could not be asked about. */
static bool is_pending_file(const struct scan_find *find) {
        return find->kind == SCAN_POSIX && find->verdict == SCAN_UNKNOWN && !find->reason[0];
}

/* The kernel counts attachments. A segment that was handed out by descriptor can be in use without any. */
static bool is_unattached(const struct scan_find *find) {
        return find->kind == SCAN_SYSV && find->verdict == SCAN_LEAKED;
}

static bool is_pending(const struct scan_find *find) {
        return is_pending_file(find) || is_unattached(find);
}

static size_t count_pending(const struct scan *scan) {
        size_t count = 0;

        for (size_t i = 0; i < scan->count; i++)
                count += is_pending(&scan->finds[i]);
        return count;
}

static size_t hash(uint64_t device, uint64_t inode) {
        uint64_t h = (inode ^ device << 40) * UINT64_C(0x9e3779b97f4a7c15);

        return (size_t) (h >> 20);
}

/* The file system of memfds and SysV segments, which has no name. Zero: there is none to be had. */
static uint64_t memory_device(void) {
        _cleanup_close_ int fd = memfd_create("shmdctl", MFD_CLOEXEC);
        struct stat st;

        return fd >= 0 && fstat(fd, &st) == 0 ? st.st_dev : 0;
}

/* ipc/shm.c: the inode's number is the segment's. */
static void lookup_add(struct lookup *lookup, size_t number) {
        struct scan_find *find = &lookup->scan->finds[number];
        size_t slot;

        if (find->kind == SCAN_SYSV)
                find->device = lookup->sysv_device;
        for (slot = hash(find->device, find->id) & lookup->mask; lookup->slots[slot]; slot = (slot + 1) & lookup->mask)
                ;
        lookup->slots[slot] = number + 1;
}

static int lookup_init(struct lookup *lookup, struct scan *scan, size_t pending) {
        size_t slots = 64;

        while (slots < 2 * pending)
                slots *= 2;
        *lookup = (struct lookup) {
                .scan = scan,
                .slots = calloc(slots, sizeof(size_t)),
                .mask = slots - 1,
                .sysv_device = memory_device(),
                .partial = !shows_all_processes(),
        };
        if (!lookup->slots)
                return -ENOMEM;
        for (size_t i = 0; i < scan->count; i++)
                if (is_pending(&scan->finds[i]))
                        lookup_add(lookup, i);
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

/* "/SYSV00000044 (deleted)": the key that it was made with. Memfds are of the same file system, but not of such names. */
static bool is_named_after(const struct scan_find *find, const char *path) {
        return strncmp(path, "/SYSV", 5) == 0 && strtoul(path + 5, NULL, 16) == strtoul(find->name, NULL, 16);
}

static bool is_of_space(const struct lookup *lookup, const struct scan_space *space) {
        struct stat there, st;

        if ((space->fd < 0 ? stat("/proc/self/ns/ipc", &st) : fstat(space->fd, &st)) < 0)
                return true;
        return fstatat(lookup->process_fd, "ns/ipc", &there, 0) < 0 || there.st_ino == st.st_ino;
}

/* A file may have several names, each of which is a find. path: of what may be a SysV segment. */
static void lookup_note(struct lookup *lookup, uint64_t device, uint64_t inode, const char *path) {
        size_t slot = hash(device, inode) & lookup->mask;

        for (; lookup->slots[slot]; slot = (slot + 1) & lookup->mask) {
                struct scan_find *find = &lookup->scan->finds[lookup->slots[slot] - 1];

                if (find->id != inode || find->device != device)
                        continue;
                if (find->kind == SCAN_SYSV && !is_named_after(find, path))
                        continue;
                /* In another namespace the number may be another segment's; or the descriptor came from here. */
                if (find->kind == SCAN_SYSV && !is_of_space(lookup, find->space))
                        find->elsewhere_pid = lookup->pid;
                else
                        note_process(find, lookup->pid);
        }
}

/* proc_pid_fdinfo(5): what waits in a socket's queue, or those of its connections that nobody has accepted yet. */
static void note_socket(struct lookup *lookup, int directory_fd, const char *number) {
        char path[64], text[1024];
        const char *line;

        (void) snprintf(path, sizeof(path), "../fdinfo/%.20s", number);
        if (file_read_start(directory_fd, path, text, sizeof(text)) < 0)
                return;
        line = strstr(text, "scm_fds:");
        if (line)
                lookup->in_flight += (unsigned) strtoul(line + strlen("scm_fds:"), NULL, 10);
}

static void on_mapping(void *userdata, const struct proc_mapping *mapping) {
        lookup_note(userdata, mapping->device, mapping->inode, mapping->path);
}

static void on_descriptor(void *userdata, const struct proc_descriptor *descriptor) {
        struct lookup *lookup = userdata;
        char path[64] = "";

        if (descriptor->device == lookup->sysv_device &&
            readlinkat(descriptor->directory_fd, descriptor->number, path, sizeof(path) - 1) < 0)
                return;
        lookup_note(lookup, descriptor->device, descriptor->inode, path);
        if (S_ISSOCK(descriptor->type))
                note_socket(lookup, descriptor->directory_fd, descriptor->number);
}

static bool is_fatal(int error) {
        return error == -ENOMEM || error == -EMFILE || error == -ENFILE;
}

static int on_process(void *userdata, uint32_t pid, int process_fd) {
        struct lookup *lookup = userdata;
        const struct proc_visitor visitor = { on_mapping, on_descriptor, lookup };
        int r;

        lookup->pid = pid;
        lookup->process_fd = process_fd;
        r = process_fd < 0 ? process_fd : proc_visit_memory(pid, process_fd, &visitor);
        if (is_fatal(r))
                return r;
        if (r < 0 && !proc_error_means_gone(r))
                lookup->scan->hidden++;
        return 0;
}

static const char *plural(unsigned n) {
        return n == 1 ? "" : "es";
}

static void judge_file(struct scan_find *find, const struct lookup *lookup) {
        unsigned hidden = lookup->scan->hidden;

        if (find->n_processes > 0) {
                find->verdict = SCAN_IN_USE;
                (void) snprintf(find->reason, sizeof(find->reason), "process %" PRIu32 "%s", find->processes[0],
                                find->n_processes > 1 ? " and others have it" : " has it");
        } else if (hidden > 0) {
                (void) snprintf(find->reason, sizeof(find->reason),
                                "no right to ask the kernel, nor to look into %u process%s", hidden, plural(hidden));
        } else if (lookup->partial) {
                (void) snprintf(find->reason, sizeof(find->reason),
                                "no right to ask the kernel, and there may be processes that /proc does not show");
        } else if (lookup->in_flight > 0) {
                (void) snprintf(find->reason, sizeof(find->reason),
                                "no right to ask the kernel, and it may be among the %u descriptors on their way in sockets",
                                lookup->in_flight);
        } else {
                find->verdict = SCAN_LEAKED;
                find->certainty = SCAN_LIKELY;
                (void) snprintf(find->reason, sizeof(find->reason),
                                "no process in /proc has it open or mapped; no right to ask the kernel");
        }
}

static void judge_segment(struct scan_find *find) {
        if (find->n_processes > 0) {
                find->verdict = SCAN_IN_USE;
                (void) snprintf(find->reason, sizeof(find->reason), "process %" PRIu32 " has it by a descriptor", find->processes[0]);
        } else if (find->elsewhere_pid > 0) {
                find->verdict = SCAN_UNKNOWN;
                (void) snprintf(find->reason, sizeof(find->reason),
                                "process %" PRIu32 ", in another IPC namespace, has one of its number and key", find->elsewhere_pid);
        }
}

static void judge_all(const struct lookup *lookup) {
        struct scan *scan = lookup->scan;

        for (size_t i = 0; i < scan->count; i++) {
                if (is_pending_file(&scan->finds[i]))
                        judge_file(&scan->finds[i], lookup);
                else if (is_unattached(&scan->finds[i]))
                        judge_segment(&scan->finds[i]);
        }
}

int scan_processes(struct scan *scan) {
        size_t pending = count_pending(scan);
        struct lookup lookup;
        int r;

        if (pending == 0)
                return 0;
        r = lookup_init(&lookup, scan, pending);
        if (r < 0)
                return r;
        r = proc_visit_processes(on_process, &lookup);
        if (r == 0)
                judge_all(&lookup);
        free(lookup.slots);
        return r;
}
