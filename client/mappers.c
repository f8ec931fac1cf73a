/* SPDX-License-Identifier: MIT */
/*
 * Who has a segment's memory open or mapped: what /proc shows of every process.
 *
 * Asks no daemon, keeps nothing. Processes come and go meanwhile: one that is gone before all of it has been read is
 * left out.
 */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* What is looked for. */
struct memory {
        unsigned major, minor;
        uint64_t inode;
};

static bool error_means_gone(int error) {
        return error == -ENOENT || error == -ESRCH;
}

/* --- mappings --- */

/* "7f0000000000-7f0000200000 rw-s 00000000 00:01 1234   /memfd:shmd:name (deleted)": whether it is of that memory. */
static bool is_mapping_of(const char *line, const struct memory *memory, char (*ret_rights)[5]) {
        unsigned major, minor;
        uint64_t inode;

        return sscanf(line, "%*x-%*x %4s %*x %x:%x %" SCNu64, *ret_rights, &major, &minor, &inode) == 4 &&
               inode == memory->inode && major == memory->major && minor == memory->minor;
}

/* A line of maps. */
static void note_mapping(const char *line, const struct memory *memory, bool *within, struct shmd_mapper *mapper) {
        char rights[5];

        (void) within;
        if (!is_mapping_of(line, memory, &rights))
                return;
        mapper->mapped = 1;
        if (rights[1] == 'w' && rights[3] == 's')
                mapper->writable = mapper->may_write = 1;
}

/* A line of smaps: that of a mapping, or after it one of those about it; "VmFlags: rd sh mr mw me". */
static void note_detail(const char *line, const struct memory *memory, bool *within, struct shmd_mapper *mapper) {
        unsigned long start, end;
        char rights[5];

        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
                *within = is_mapping_of(line, memory, &rights);
        else if (*within && strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " sh ") && strstr(line, " mw "))
                mapper->may_write = 1;
}

/* Calls a function for each line. 1; 0 where there is no line, or no address space: a kernel thread, a zombie. */
static int read_lines(int process_fd, const char *name,
                      void (*function)(const char *, const struct memory *, bool *, struct shmd_mapper *),
                      const struct memory *memory, struct shmd_mapper *mapper) {
        int fd = openat(process_fd, name, O_RDONLY | O_CLOEXEC), found = 0;
        _cleanup_free_ char *line = NULL;
        bool within = false;
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
                function(line, memory, &within, mapper);
        }
        if (ferror(file))
                found = errno == ESRCH ? 0 : negative_errno();
        (void) fclose(file);
        return found;
}

/* The details cost the kernel a walk through all pages: only where they say more. */
static int read_mappings(int process_fd, const struct memory *memory, struct shmd_mapper *mapper) {
        int r;

        r = read_lines(process_fd, "maps", note_mapping, memory, mapper);
        if (r > 0 && mapper->mapped && !mapper->writable)
                (void) read_lines(process_fd, "smaps", note_detail, memory, mapper);
        return r;
}

/* --- descriptors --- */

/* Asks no file system over a network, or in user space, that may never answer. */
static bool descriptor_is_of(int directory_fd, const char *number, const struct memory *memory) {
        struct statx st;

        return statx(directory_fd, number, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &st) == 0 &&
               st.stx_ino == memory->inode && st.stx_dev_major == memory->major && st.stx_dev_minor == memory->minor;
}

static int read_descriptors(int process_fd, const struct memory *memory, struct shmd_mapper *mapper) {
        int fd = openat(process_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct dirent *entry;
        DIR *directory;

        if (fd < 0)
                return negative_errno();
        directory = fdopendir(fd);
        if (!directory) {
                close_fd(fd);
                return -ENOMEM;
        }
        while (!mapper->open && (entry = readdir(directory)))
                if (entry->d_name[0] != '.')
                        mapper->open = descriptor_is_of(fd, entry->d_name, memory);
        (void) closedir(directory);
        return 0;
}

/* --- a process --- */

static void describe(int process_fd, struct shmd_mapper *mapper) {
        static const char word[] = "\nUid:\t";
        char status[1024];
        const char *line;
        ssize_t n;

        n = file_read_start(process_fd, "comm", mapper->command, sizeof(mapper->command));
        mapper->command[n > 0 ? strcspn(mapper->command, "\n") : 0] = '\0';
        if (file_read_start(process_fd, "status", status, sizeof(status)) > 0 && (line = strstr(status, word)))
                mapper->uid = (uint32_t) strtoul(line + sizeof(word) - 1, NULL, 10);
}

/* 1 if it has it; -EACCES or another error if that can't be known. */
static int process_look(int process_fd, const struct memory *memory, struct shmd_mapper *mapper) {
        int r;

        r = read_mappings(process_fd, memory, mapper);
        if (r <= 0)
                return error_means_gone(r) ? 0 : r;
        r = read_descriptors(process_fd, memory, mapper);
        if (r < 0 && !mapper->mapped)
                return error_means_gone(r) ? 0 : r;
        if (!mapper->mapped && !mapper->open)
                return 0;
        describe(process_fd, mapper);
        return 1;
}

bool process_maps(uint32_t pid, uint64_t device, uint64_t inode) {
        const struct memory memory = { .major = major(device), .minor = minor(device), .inode = inode };
        struct shmd_mapper mapper = { .pid = pid };
        _cleanup_close_ int fd = -EBADF;
        char path[32];

        (void) snprintf(path, sizeof(path), "/proc/%" PRIu32, pid);
        fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return fd >= 0 && read_lines(fd, "maps", note_mapping, &memory, &mapper) > 0 && mapper.mapped;
}

static int process_visit(int proc_fd, const char *name, const struct memory *memory, struct shmd_mapper *ret_mapper) {
        _cleanup_close_ int fd = openat(proc_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        struct shmd_mapper mapper = { .pid = (uint32_t) strtoul(name, NULL, 10) };
        int r;

        if (fd < 0)
                return error_means_gone(negative_errno()) ? 0 : negative_errno();
        r = process_look(fd, memory, &mapper);
        if (r > 0)
                *ret_mapper = mapper;
        return r;
}

static int processes_visit(DIR *proc, const struct memory *memory, shmd_mapper_function function, void *userdata,
                           unsigned *hidden) {
        struct shmd_mapper mapper;
        struct dirent *entry;
        int r;

        while ((entry = readdir(proc))) {
                if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
                        continue;
                r = process_visit(dirfd(proc), entry->d_name, memory, &mapper);
                if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
                        return r;
                if (r < 0)
                        (*hidden)++;
                r = r > 0 ? function(&mapper, userdata) : 0;
                if (r != 0)
                        return r;
        }
        return 0;
}

_public_ int shmd_mappers(uint64_t device, uint64_t inode, shmd_mapper_function function, void *userdata,
                          unsigned *ret_hidden) {
        const struct memory memory = { .major = major(device), .minor = minor(device), .inode = inode };
        unsigned hidden = 0;
        DIR *proc;
        int r;

        if (inode == 0)
                return -EINVAL;
        proc = opendir("/proc");
        if (!proc)
                return negative_errno();
        r = processes_visit(proc, &memory, function, userdata, &hidden);
        (void) closedir(proc);
        if (r == 0 && ret_hidden)
                *ret_hidden = hidden;
        return r;
}
