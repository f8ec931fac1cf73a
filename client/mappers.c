/* SPDX-License-Identifier: MIT */
/*
 * Who has a segment's memory open or mapped: what /proc shows of every process. Asks no daemon, keeps nothing.
 */
#include "internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What is looked for, and who is looked at. */
struct look {
        uint64_t device, inode;
        struct shmd_mapper mapper;
        bool within; /* the line of smaps that was read last is about a mapping of it */
};

static bool is_looked_for(const struct look *look, uint64_t device, uint64_t inode) {
        return device == look->device && inode == look->inode;
}

static void on_mapping(void *userdata, const struct proc_mapping *mapping) {
        struct look *look = userdata;

        if (!is_looked_for(look, mapping->device, mapping->inode))
                return;
        look->mapper.mapped = 1;
        if (mapping->writable && mapping->shared)
                look->mapper.writable = look->mapper.may_write = 1;
}

static void on_descriptor(void *userdata, const struct proc_descriptor *descriptor) {
        struct look *look = userdata;

        if (is_looked_for(look, descriptor->device, descriptor->inode))
                look->mapper.open = 1;
}

/* A line of smaps: that of a mapping, or after it one of those about it; "VmFlags: rd sh mr mw me". */
static void on_detail(void *userdata, char *line) {
        struct look *look = userdata;
        struct proc_mapping mapping;
        unsigned long start, end;

        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
                look->within = proc_mapping_parse(line, &mapping) && is_looked_for(look, mapping.device, mapping.inode);
        else if (look->within && strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " sh ") && strstr(line, " mw "))
                look->mapper.may_write = 1;
}

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
static int process_look(int process_fd, struct look *look) {
        const struct proc_visitor visitor = { on_mapping, on_descriptor, look };
        struct shmd_mapper *mapper = &look->mapper;
        int r;

        r = process_fd < 0 ? process_fd : proc_visit_memory(mapper->pid, process_fd, &visitor);
        if (!mapper->mapped && !mapper->open)
                return proc_error_means_gone(r) ? 0 : r;
        /* The details cost the kernel a walk through all pages: only where they say more. */
        if (mapper->mapped && !mapper->writable)
                (void) proc_read_lines(process_fd, "smaps", on_detail, look);
        describe(process_fd, mapper);
        return 1;
}

bool process_maps(uint32_t pid, uint64_t device, uint64_t inode) {
        struct look look = { .device = device, .inode = inode };
        const struct proc_visitor visitor = { on_mapping, NULL, &look };
        _cleanup_close_ int fd = -EBADF;
        char path[32];

        (void) snprintf(path, sizeof(path), "/proc/%" PRIu32, pid);
        fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return fd >= 0 && proc_visit_memory(pid, fd, &visitor) == 0 && look.mapper.mapped;
}

struct mappers {
        uint64_t device, inode;
        shmd_mapper_function function;
        void *userdata;
        unsigned hidden;
};

static int on_process(void *userdata, uint32_t pid, int process_fd) {
        struct mappers *mappers = userdata;
        struct look look = { .device = mappers->device, .inode = mappers->inode, .mapper.pid = pid };
        int r;

        r = process_look(process_fd, &look);
        if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
                return r;
        if (r < 0)
                mappers->hidden++;
        return r > 0 ? mappers->function(&look.mapper, mappers->userdata) : 0;
}

_public_ int shmd_mappers(uint64_t device, uint64_t inode, shmd_mapper_function function, void *userdata,
                          unsigned *ret_hidden) {
        struct mappers mappers = { device, inode, function, userdata, 0 };
        int r;

        if (inode == 0)
                return -EINVAL;
        r = proc_visit_processes(on_process, &mappers);
        if (r == 0 && ret_hidden)
                *ret_hidden = mappers.hidden;
        return r;
}
