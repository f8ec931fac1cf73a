/* SPDX-License-Identifier: MIT */
/*
 * The namespaces of other processes, each looked into once: the IPC namespaces they live in, and the file systems
 * mounted on their /dev/shm. Takes CAP_SYS_ADMIN and CAP_SYS_PTRACE.
 *
 * What others have mounted is not trusted: only a tmpfs that the kernel's list of mounts shows at /dev/shm is entered,
 * and none whose way there leads through a file system in user space, which may never answer.
 */
#include "scan.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>

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
        struct seen mounts, namespaces, ipcs; /* devices of /dev/shm; mount namespaces; IPC namespaces */
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

/* "36 35 98:0 /root /mount/point options - type source super": of each the last line counts. */
struct mount_line {
        char *point, *type;
        unsigned major, minor;
};

static bool mount_parse(char *line, struct mount_line *ret) {
        char *point = line, *type = strstr(line, " - ");

        if (!type || sscanf(line, "%*d %*d %u:%u", &ret->major, &ret->minor) != 2)
                return false;
        for (int i = 0; i < 4; i++) {
                point = strchr(point, ' ');
                if (!point)
                        return false;
                point++;
        }
        ret->point = point;
        ret->type = type + 3;
        point[strcspn(point, " ")] = '\0';
        ret->type[strcspn(ret->type, " ")] = '\0';
        return true;
}

static bool is_user_space(const char *type) {
        return strncmp(type, "fuse", 4) == 0;
}

/* 1 and the device of the tmpfs on a process's /dev/shm; 0 if there is none, or the way there can't be trusted. */
static int find_mount(int process_fd, uint64_t *ret_device) {
        int fd = openat(process_fd, "mountinfo", O_RDONLY | O_CLOEXEC), found = 0;
        _cleanup_free_ char *line = NULL;
        bool trusted = true;
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
                struct mount_line mount;

                if (!mount_parse(line, &mount))
                        continue;
                if (strcmp(mount.point, "/") == 0 || strcmp(mount.point, "/dev") == 0)
                        trusted = trusted && !is_user_space(mount.type);
                if (strcmp(mount.point, SCAN_DIRECTORY) != 0)
                        continue;
                found = strcmp(mount.type, "tmpfs") == 0;
                *ret_device = makedev(mount.major, mount.minor);
        }
        (void) fclose(file);
        return found && trusted;
}

static int open_mount(int process_fd, uint64_t device) {
        struct open_how how = {
                .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
        };
        _cleanup_close_ int root_fd = openat(process_fd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -EBADF;
        struct statfs fs;
        struct stat st;

        if (root_fd < 0)
                return negative_errno();
        fd = (int) syscall(SYS_openat2, root_fd, "dev/shm", &how, sizeof(how));
        if (fd < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
                return negative_errno();
        if (st.st_dev != device || fs.f_type != TMPFS_MAGIC)
                return -ESTALE;
        return TAKE_FD(fd);
}

static int visit_mount(struct tour *tour, int process_fd, const char *process) {
        const struct scan_space *space;
        uint64_t number, device = 0;
        int r, fd;

        r = namespace_number(process_fd, "ns/mnt", &number);
        if (r == 0)
                r = seen_add(&tour->namespaces, number);
        if (r > 0)
                r = find_mount(process_fd, &device);
        if (r <= 0)
                return r;
        r = seen_add(&tour->mounts, device);
        if (r <= 0)
                return r;
        fd = open_mount(process_fd, device);
        if (fd < 0)
                return fd;
        space = add_space(tour->scan, fd, process);
        return space ? scan_posix_space(tour->scan, space) : -ENOMEM;
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

static int visit_process(struct tour *tour, int proc_fd, const char *name) {
        _cleanup_close_ int fd = openat(proc_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        int mount = 0, ipc = 0;

        if (fd < 0)
                return 0;
        if (tour->posix)
                mount = visit_mount(tour, fd, name);
        if (tour->sysv)
                ipc = visit_ipc(tour, fd, name);
        if (is_fatal(mount) || is_fatal(ipc))
                return is_fatal(mount) ? mount : ipc;
        if (is_hidden(mount) || is_hidden(ipc))
                tour->hidden++;
        return 0;
}

/* What is our own has been looked at already. */
static int note_own(struct tour *tour) {
        struct stat st;

        if (stat(SCAN_DIRECTORY, &st) == 0 && seen_add(&tour->mounts, st.st_dev) < 0)
                return -ENOMEM;
        if (stat("/proc/self/ns/mnt", &st) == 0 && seen_add(&tour->namespaces, st.st_ino) < 0)
                return -ENOMEM;
        if (stat("/proc/self/ns/ipc", &st) == 0 && seen_add(&tour->ipcs, st.st_ino) < 0)
                return -ENOMEM;
        return 0;
}

static int visit_all(struct tour *tour) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        int r;

        if (!proc)
                return negative_errno();
        r = note_own(tour);
        while (r == 0 && (entry = readdir(proc)))
                if (isdigit((unsigned char) entry->d_name[0]))
                        r = visit_process(tour, dirfd(proc), entry->d_name);
        (void) closedir(proc);
        return r;
}

int scan_other_spaces(struct scan *scan, bool posix, bool sysv, unsigned *ret_hidden) {
        struct tour tour = { .scan = scan, .posix = posix, .sysv = sysv };
        int r;

        r = visit_all(&tour);
        free(tour.mounts.items);
        free(tour.namespaces.items);
        free(tour.ipcs.items);
        *ret_hidden += tour.hidden;
        return r;
}
