/* SPDX-License-Identifier: MIT */
#include "proc.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "util.h"

/* --- files --- */

ssize_t file_read_start(int directory_fd, const char *path, char *buffer, size_t size) {
        _cleanup_close_ int fd = openat(directory_fd, path, O_RDONLY | O_CLOEXEC);
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

int proc_read_lines(int directory_fd, const char *name, proc_line_function function, void *userdata) {
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
                function(userdata, line);
        }
        if (ferror(file))
                found = errno == ESRCH ? 0 : negative_errno();
        (void) fclose(file);
        return found;
}

/* Calls a function for each entry that is a number, until it does not give 0. Takes fd. */
static int visit_numbers(int fd, int (*function)(void *userdata, int directory_fd, const char *name), void *userdata) {
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *entry;
        int r = 0;

        if (!directory) {
                r = fd < 0 ? negative_errno() : -ENOMEM;
                close_fd(fd);
                return r;
        }
        while (r == 0 && (entry = readdir(directory)))
                if (isdigit((unsigned char) entry->d_name[0]))
                        r = function(userdata, fd, entry->d_name);
        (void) closedir(directory);
        return r;
}

static int open_directory(int directory_fd, const char *name) {
        return openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* --- all processes --- */

bool proc_is_ours(void) {
        char text[32] = "";

        return readlink("/proc/self", text, sizeof(text) - 1) > 0 && strtol(text, NULL, 10) == getpid();
}

struct process_visit {
        proc_process_function function;
        void *userdata;
};

static int visit_process(void *userdata, int proc_fd, const char *name) {
        _cleanup_close_ int fd = openat(proc_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        const struct process_visit *visit = userdata;

        return visit->function(visit->userdata, (uint32_t) strtoul(name, NULL, 10), fd < 0 ? negative_errno() : fd);
}

int proc_visit_processes(proc_process_function function, void *userdata) {
        struct process_visit visit = { function, userdata };

        return visit_numbers(open_directory(AT_FDCWD, "/proc"), visit_process, &visit);
}

/* --- what one of them has --- */

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

bool proc_mapping_parse(const char *line, struct proc_mapping *ret_mapping) {
        const char *rights = skip_fields(line, 1), *device = rights ? skip_fields(rights, 2) : NULL;
        unsigned long high, low, inode;
        char *end;

        if (!device)
                return false;
        high = strtoul(device, &end, 16);
        if (*end != ':')
                return false;
        low = strtoul(end + 1, &end, 16);
        inode = strtoul(end, &end, 10);
        if (inode == 0)
                return false;
        *ret_mapping = (struct proc_mapping) {
                .device = makedev(high, low),
                .inode = inode,
                .writable = rights[1] == 'w',
                .shared = rights[3] == 's',
                .path = end + strspn(end, " "),
        };
        return true;
}

static void on_mapping(void *userdata, char *line) {
        const struct proc_visitor *visitor = userdata;
        struct proc_mapping mapping;

        if (proc_mapping_parse(line, &mapping))
                visitor->mapping(visitor->userdata, &mapping);
}

/* Asks no file system over a network, or in user space, that may never answer. */
static int on_descriptor(void *userdata, int directory_fd, const char *number) {
        const struct proc_visitor *visitor = userdata;
        struct statx st;

        if (statx(directory_fd, number, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO | STATX_TYPE, &st) == 0)
                visitor->descriptor(visitor->userdata, &(struct proc_descriptor) {
                                                               .device = makedev(st.stx_dev_major, st.stx_dev_minor),
                                                               .inode = st.stx_ino,
                                                               .type = st.stx_mode & S_IFMT,
                                                               .directory_fd = directory_fd,
                                                               .number = number,
                                                       });
        return 0;
}

static int visit_descriptors(int directory_fd, const char *name, const struct proc_visitor *visitor) {
        return visit_numbers(open_directory(directory_fd, name), on_descriptor, (void *) visitor);
}

struct thread_visit {
        const struct proc_visitor *visitor;
        uint32_t pid;
        bool ours;
};

static int on_thread_mappings(void *userdata, int tasks_fd, const char *name) {
        const struct thread_visit *visit = userdata;
        char path[300];

        (void) snprintf(path, sizeof(path), "%s/maps", name);
        (void) proc_read_lines(tasks_fd, path, on_mapping, (void *) visit->visitor);
        return 0;
}

/* Where the kernel says that they are the process's, they have been visited. */
static int on_thread_descriptors(void *userdata, int tasks_fd, const char *name) {
        const struct thread_visit *visit = userdata;
        pid_t pid = (pid_t) visit->pid, thread = (pid_t) strtol(name, NULL, 10);
        char path[300];

        if (thread == pid || (visit->ours && syscall(SYS_kcmp, pid, thread, KCMP_FILES, 0, 0) == 0))
                return 0;
        (void) snprintf(path, sizeof(path), "%s/fd", name);
        (void) visit_descriptors(tasks_fd, path, visit->visitor);
        return 0;
}

int proc_visit_memory(uint32_t pid, int directory_fd, const struct proc_visitor *visitor) {
        struct thread_visit threads = { visitor, pid, proc_is_ours() };
        int r;

        r = proc_read_lines(directory_fd, "maps", on_mapping, (void *) visitor);
        if (r == 0)
                r = visit_numbers(open_directory(directory_fd, "task"), on_thread_mappings, &threads);
        if (r < 0 || !visitor->descriptor)
                return MIN(r, 0);
        r = visit_descriptors(directory_fd, "fd", visitor);
        return r < 0 ? r : visit_numbers(open_directory(directory_fd, "task"), on_thread_descriptors, &threads);
}

/* --- SysV segments --- */

bool proc_sysv_parse(const char *line, struct proc_sysv *ret_row) {
        struct proc_sysv row;

        if (sscanf(line,
                   "%" SCNd64 " %d %" SCNo32 " %" SCNu64 " %" SCNu32 " %" SCNu32 " %" SCNu64 " %" SCNu32 " %" SCNu32
                   " %" SCNu32 " %*u %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNu64,
                   &row.key, &row.shmid, &row.mode, &row.size, &row.cpid, &row.lpid, &row.attachments, &row.uid, &row.gid, &row.cuid,
                   &row.atime, &row.dtime, &row.ctime, &row.rss) != 14)
                return false;
        *ret_row = row;
        return true;
}
