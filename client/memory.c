/* SPDX-License-Identifier: MIT */
/*
 * How much memory there is for this process: on the machine, and within each control group (of version 2 or 1) that it is in.
 *
 * An estimate: others allocate, too. Caches of files count as free, as the kernel drops them first. What
 * can't be read sets no limit. Owns nothing.
 */
#include "internal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

/* A group's directory, as an absolute path, shortened from its end. */
#define GROUP_PATH_MAX 4096

/* Where groups are found, and how their files are called. */
struct hierarchy {
        const char *root;
        long magic;       /* of its file system */
        const char *mark; /* of its line in /proc/self/cgroup, before the path */
        const char *limits[2], *use;
        const char *caches[2]; /* in memory.stat */
};

/* One of the first two: version 2 alone, or beside version 1. Memory is counted in one of all. */
static const struct hierarchy hierarchies[] = {
        { "/sys/fs/cgroup", CGROUP2_SUPER_MAGIC, "0::", { "memory.max", "memory.high" }, "memory.current",
          { "inactive_file ", "active_file " } },
        { "/sys/fs/cgroup/unified", CGROUP2_SUPER_MAGIC, "0::", { "memory.max", "memory.high" }, "memory.current",
          { "inactive_file ", "active_file " } },
        { "/sys/fs/cgroup/memory", CGROUP_SUPER_MAGIC, ":memory:", { "memory.limit_in_bytes", "memory.limit_in_bytes" },
          "memory.usage_in_bytes", { "total_inactive_file ", "total_active_file " } },
};

static bool read_number(const char *text, uint64_t *ret_number) {
        char *end;
        unsigned long long number;

        errno = 0;
        number = strtoull(text, &end, 10);
        if (end == text || errno != 0)
                return false;
        *ret_number = number;
        return true;
}

/* The number after a word at the beginning of a line; 0 if it is not there. */
static uint64_t find_number(const char *text, const char *word) {
        uint64_t number = 0;

        for (const char *line = text; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, word, strlen(word)) == 0) {
                        (void) read_number(line + strlen(word), &number);
                        break;
                }
        }
        return number;
}

static uint64_t machine_available(void) {
        char text[4096];

        if (file_read_start(AT_FDCWD, "/proc/meminfo", text, sizeof(text)) < 0 || !strstr(text, "\nMemAvailable:"))
                return UINT64_MAX;
        return find_number(text, "MemAvailable:") * 1024;
}

/* A file of a group that is one number. "max" is none. */
static uint64_t group_number(int group_fd, const char *file, uint64_t otherwise) {
        uint64_t number = otherwise;
        char text[64];

        if (file_read_start(group_fd, file, text, sizeof(text)) > 0)
                (void) read_number(text, &number);
        return number;
}

/* Over memory.high nobody is killed, but all are slowed down to a crawl. */
static uint64_t group_available(const struct hierarchy *hierarchy, int group_fd) {
        uint64_t limit = MIN(group_number(group_fd, hierarchy->limits[0], UINT64_MAX),
                             group_number(group_fd, hierarchy->limits[1], UINT64_MAX));
        uint64_t current = group_number(group_fd, hierarchy->use, 0), cache;
        char text[8192];

        if (limit == UINT64_MAX)
                return UINT64_MAX;
        if (file_read_start(group_fd, "memory.stat", text, sizeof(text)) < 0)
                text[0] = '\0';
        cache = MIN(find_number(text, hierarchy->caches[0]) + find_number(text, hierarchy->caches[1]), current);
        return limit > current - cache ? limit - (current - cache) : 0;
}

static bool is_mounted(const struct hierarchy *hierarchy) {
        struct statfs st;

        return statfs(hierarchy->root, &st) == 0 && (long) st.f_type == hierarchy->magic;
}

/* "/jobs/mine"; "/" as seen from within a namespace, whose limits are seen in the files all the same. */
static bool own_group(const struct hierarchy *hierarchy, char *path, size_t size) {
        char *line, *end;

        if (file_read_start(AT_FDCWD, "/proc/self/cgroup", path, size) < 0)
                return false;
        line = strstr(path, hierarchy->mark);
        line = line ? line + strlen(hierarchy->mark) : NULL;
        if (!line || *line != '/')
                return false;
        end = line + strcspn(line, "\n");
        *end = '\0';
        memmove(path, line, (size_t) (end - line) + 1);
        return !strstr(path, "/.."); /* beyond the root that is mounted here */
}

static void consider_group(const struct hierarchy *hierarchy, const char *path, uint64_t *available, char (*where)[128]) {
        _cleanup_close_ int root_fd = open(hierarchy->root, O_PATH | O_DIRECTORY | O_CLOEXEC), group_fd = -EBADF;
        uint64_t bytes;

        group_fd = openat(root_fd, path[1] == '\0' ? "." : path + 1, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (group_fd < 0)
                return;
        bytes = group_available(hierarchy, group_fd);
        if (bytes >= *available)
                return;
        *available = bytes;
        (void) snprintf(*where, sizeof(*where), "in control group %.100s", path);
}

/* The own group, and all that it is in. */
static void consider_hierarchy(const struct hierarchy *hierarchy, uint64_t *available, char (*where)[128]) {
        char path[GROUP_PATH_MAX];

        if (!is_mounted(hierarchy) || !own_group(hierarchy, path, sizeof(path)))
                return;
        for (;;) {
                char *slash = strrchr(path, '/');

                consider_group(hierarchy, path, available, where);
                if (path[1] == '\0')
                        return;
                slash[slash == path] = '\0';
        }
}

uint64_t memory_available(char (*ret_where)[128]) {
        uint64_t available = machine_available();

        *stpncpy(*ret_where, "on the machine", sizeof(*ret_where) - 1) = '\0';
        for (size_t i = 0; i < ELEMENTSOF(hierarchies); i++)
                consider_hierarchy(&hierarchies[i], &available, ret_where);
        return available;
}
