/* SPDX-License-Identifier: MIT */
/*
 * The namespaces of other processes, each looked into once: the IPC namespaces they live in, and the file systems
 * on their /dev/shm. Takes CAP_SYS_ADMIN and CAP_SYS_PTRACE.
 *
 * What others have mounted is not trusted: a file system in user space may never answer. So the way to /dev/shm is gone only as far as the
 * kernel has it in memory (RESOLVE_CACHED), as it has all mount points; and what is there is asked for nothing before
 * the kernel's list of mounts says that it is a tmpfs. Anything else is named as what can't be judged.
 */
#include "scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "../proc.h"
#include "util.h"

/* Numbers of what has been seen. Few, as a rule: a machine has some dozens of namespaces. */
struct seen {
        uint64_t *items;
        size_t count, capacity;
};

/* 1: it is new; 0; or -ENOMEM. */
static int seen_add(struct seen *seen, uint64_t item) {
        for (size_t i = 0; i < seen->count; i++)
                if (seen->items[i] == item)
                        return 0;
        if (seen->count == seen->capacity) {
                size_t capacity = MAX(2 * seen->capacity, (size_t) 16);
                uint64_t *items = reallocarray(seen->items, capacity, sizeof(*items));

                if (!items)
                        return -ENOMEM;
                seen->items = items;
                seen->capacity = capacity;
        }
        seen->items[seen->count++] = item;
        return 1;
}

struct tour {
        struct scan *scan;
        struct seen places, namespaces, ipcs; /* directories; mount namespaces; IPC namespaces */
        uint64_t own_device;                  /* of this process's /dev/shm: all of that has been looked at */
        bool posix, sysv;
        unsigned hidden;
};

static int namespace_number(int process_fd, const char *name, uint64_t *ret) {
        struct stat st;

        if (fstatat(process_fd, name, &st, 0) < 0)
                return negative_errno();
        *ret = st.st_ino;
        return 0;
}

static struct scan_space *add_space(struct scan *scan, int take_fd, const char *process) {
        pid_t pid = (pid_t) strtol(process, NULL, 10);
        char unit[256], label[300];

        if (scan_process_unit(pid, unit, sizeof(unit)))
                (void) snprintf(label, sizeof(label), "%s", unit);
        else
                (void) snprintf(label, sizeof(label), "pid %d", (int) pid);
        return scan_add_space(scan, take_fd, pid, label);
}

/* --- mounts --- */

/* "36 35 98:0 /root /mount/point options - type source super" */
static bool mount_parse(char *line, uint64_t *ret_device, char **ret_type) {
        char *type = strstr(line, " - ");
        unsigned major, minor;

        if (!type || sscanf(line, "%*d %*d %u:%u", &major, &minor) != 2)
                return false;
        *ret_type = type + 3;
        (*ret_type)[strcspn(*ret_type, " ")] = '\0';
        *ret_device = makedev(major, minor);
        return true;
}

static bool is_memory(const char *type) {
        return strcmp(type, "tmpfs") == 0 || strcmp(type, "devtmpfs") == 0;
}

struct type_search {
        uint64_t device;
        char *type;
        size_t size;
};

static void on_mount(void *userdata, char *line) {
        const struct type_search *search = userdata;
        uint64_t device;
        char *type;

        if (mount_parse(line, &device, &type) && device == search->device)
                (void) snprintf(search->type, search->size, "%.60s", type);
}

/* The type of a device that a process has mounted. */
static int find_type(int process_fd, uint64_t device, char *type, size_t size) {
        struct type_search search = { device, type, size };
        int r;

        (void) snprintf(type, size, "unknown");
        r = proc_read_lines(process_fd, "mountinfo", on_mount, &search);
        return MIN(r, 0);
}

/* Waits for no file system. -EAGAIN: one would have to be asked for the way. */
static int open_cached(int process_fd, const char *path, uint64_t *ret_device, uint64_t *ret_inode) {
        struct open_how how = {
                .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_CACHED,
        };
        _cleanup_close_ int root_fd = openat(process_fd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -EBADF;
        struct statx st;

        if (root_fd < 0)
                return negative_errno();
        fd = (int) syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
        if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &st) < 0)
                return negative_errno();
        *ret_device = makedev(st.stx_dev_major, st.stx_dev_minor);
        *ret_inode = st.stx_ino;
        return TAKE_FD(fd);
}

/* A tmpfs does not keep in mind what it does not have: it may be asked. */
static bool is_missing(int process_fd) {
        struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS };
        _cleanup_close_ int fd = -EBADF, shm_fd = -EBADF;
        uint64_t device, inode;
        char type[64];

        fd = open_cached(process_fd, "dev", &device, &inode);
        if (fd < 0 || find_type(process_fd, device, type, sizeof(type)) < 0 || !is_memory(type))
                return false;
        shm_fd = (int) syscall(SYS_openat2, fd, "shm", &how, sizeof(how));
        return shm_fd < 0 && errno == ENOENT;
}

/* As long as it is open its device is no other's: so the list, read now, tells what it is. */
static int visit_place(struct tour *tour, int process_fd, const char *process, int take_fd, uint64_t device) {
        _cleanup_close_ int place_fd = take_fd;
        const struct scan_space *space;
        char type[64], reason[SCAN_REASON_MAX];
        int r, fd = -EBADF;

        r = find_type(process_fd, device, type, sizeof(type));
        if (r < 0)
                return r;
        if (is_memory(type)) {
                fd = openat(place_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd < 0)
                        return negative_errno();
        }
        space = add_space(tour->scan, fd, process);
        if (!space)
                return -ENOMEM;
        if (fd >= 0)
                return scan_posix_space(tour->scan, space);
        (void) snprintf(reason, sizeof(reason), "all of its " SCAN_DIRECTORY ": it is no tmpfs, but of type %s", type);
        return scan_note_unseen(tour->scan, space, reason);
}

static int note_unreachable(struct tour *tour, const char *process) {
        const struct scan_space *space = add_space(tour->scan, -EBADF, process);

        return !space ? -ENOMEM : scan_note_unseen(tour->scan, space,
                                                   "all of its " SCAN_DIRECTORY
                                                   ": a file system would have to be asked for the way that may never answer");
}

static int visit_mount(struct tour *tour, int process_fd, const char *process) {
        uint64_t number, device, inode;
        int r, fd;

        r = namespace_number(process_fd, "ns/mnt", &number);
        if (r == 0)
                r = seen_add(&tour->namespaces, number);
        if (r <= 0)
                return r;
        fd = open_cached(process_fd, "dev/shm", &device, &inode);
        if (fd == -EAGAIN)
                return is_missing(process_fd) ? 0 : note_unreachable(tour, process);
        if (fd < 0)
                return fd == -ENOTDIR || fd == -ELOOP ? 0 : fd;
        r = device == tour->own_device ? 0 : seen_add(&tour->places, device << 44 ^ inode);
        if (r <= 0) {
                close_fd(fd);
                return r;
        }
        return visit_place(tour, process_fd, process, fd, device);
}

/* --- IPC namespaces --- */

/* What the child has found comes through a pipe: each find as it is in memory, with the name after it. */
static int send_finds(const struct scan *scan, int fd) {
        FILE *file = fdopen(fd, "w");
        bool good = file != NULL;

        for (size_t i = 0; good && i < scan->count; i++)
                good = fwrite(&scan->finds[i], sizeof(scan->finds[i]), 1, file) == 1 &&
                       fwrite(scan->finds[i].name, strlen(scan->finds[i].name) + 1, 1, file) == 1;
        return file && fclose(file) == 0 && good ? 0 : -EIO;
}

static int receive_finds(struct scan *scan, const struct scan_space *space, FILE *file) {
        struct scan_find find, *added;
        _cleanup_free_ char *name = NULL;
        size_t size = 0;

        while (fread(&find, sizeof(find), 1, file) == 1) {
                if (getdelim(&name, &size, '\0', file) <= 0)
                        return -EIO;
                added = scan_add(scan, SCAN_SYSV, space, name);
                if (!added)
                        return -ENOMEM;
                find.name = added->name;
                find.space = space;
                *added = find;
        }
        return 0;
}

static int scan_inside(const struct scan_space *space, int fd) {
        struct scan scan;
        int r;

        if (setns(space->fd, CLONE_NEWIPC) < 0)
                return negative_errno();
        scan_init(&scan);
        r = scan_sysv_space(&scan, space);
        return r < 0 ? r : send_finds(&scan, fd);
}

static int scan_ipc(struct scan *scan, const struct scan_space *space) {
        int ends[2], status = 0, r;
        FILE *file;
        pid_t child;

        if (pipe2(ends, O_CLOEXEC) < 0)
                return negative_errno();
        child = fork();
        if (child == 0)
                _exit(scan_inside(space, ends[1]) < 0);
        close_fd(ends[1]);
        if (child < 0) {
                r = negative_errno();
                close_fd(ends[0]);
                return r;
        }
        file = fdopen(ends[0], "r");
        r = file ? receive_finds(scan, space, file) : -ENOMEM;
        if (file)
                (void) fclose(file);
        else
                close_fd(ends[0]);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
                ;
        return r < 0 ? r : status == 0 ? 0 : -EPERM;
}

static int visit_ipc(struct tour *tour, int process_fd, const char *process) {
        const struct scan_space *space;
        uint64_t number;
        int r, fd;

        r = namespace_number(process_fd, "ns/ipc", &number);
        if (r == 0)
                r = seen_add(&tour->ipcs, number);
        if (r <= 0)
                return r;
        fd = openat(process_fd, "ns/ipc", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return negative_errno();
        space = add_space(tour->scan, fd, process);
        return space ? scan_ipc(tour->scan, space) : -ENOMEM;
}

/* --- the tour --- */

static bool is_fatal(int error) {
        return error == -ENOMEM || error == -EMFILE || error == -ENFILE;
}

static bool is_hidden(int error) {
        return error < 0 && error != -ENOENT && error != -ESRCH && error != -EINVAL;
}

static int visit_process(void *userdata, uint32_t pid, int process_fd) {
        struct tour *tour = userdata;
        int mount = 0, ipc = 0;
        char name[16];

        if (process_fd < 0)
                return 0;
        (void) snprintf(name, sizeof(name), "%" PRIu32, pid);
        if (tour->posix)
                mount = visit_mount(tour, process_fd, name);
        if (tour->sysv)
                ipc = visit_ipc(tour, process_fd, name);
        if (is_fatal(mount) || is_fatal(ipc))
                return is_fatal(mount) ? mount : ipc;
        if (is_hidden(mount) || is_hidden(ipc))
                tour->hidden++;
        return 0;
}

/* What is our own has been looked at already. */
static int note_own(struct tour *tour) {
        struct stat st;

        if (stat(SCAN_DIRECTORY, &st) == 0)
                tour->own_device = st.st_dev;
        if (stat("/proc/self/ns/mnt", &st) == 0 && seen_add(&tour->namespaces, st.st_ino) < 0)
                return -ENOMEM;
        if (stat("/proc/self/ns/ipc", &st) == 0 && seen_add(&tour->ipcs, st.st_ino) < 0)
                return -ENOMEM;
        return 0;
}

int scan_other_spaces(struct scan *scan, bool posix, bool sysv, unsigned *ret_hidden) {
        struct tour tour = { .scan = scan, .posix = posix, .sysv = sysv };
        int r;

        r = note_own(&tour);
        if (r == 0)
                r = proc_visit_processes(visit_process, &tour);
        free(tour.places.items);
        free(tour.namespaces.items);
        free(tour.ipcs.items);
        *ret_hidden += tour.hidden;
        return r;
}
