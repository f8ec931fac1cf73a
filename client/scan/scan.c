/* SPDX-License-Identifier: MIT */
#include "scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

void scan_init(struct scan *scan) {
        *scan = (struct scan) { 0 };
}

void scan_done(struct scan *scan) {
        struct scan_space *space;

        for (size_t i = 0; i < scan->count; i++)
                free(scan->finds[i].name);
        free(scan->finds);
        while ((space = scan->spaces)) {
                scan->spaces = space->next;
                close_fd(space->fd);
                free(space->label);
                free(space);
        }
        scan_init(scan);
}

struct scan_find *scan_add(struct scan *scan, enum scan_kind kind, const struct scan_space *space, const char *name) {
        struct scan_find *find;

        if (scan->count == scan->capacity) {
                size_t capacity = MAX(2 * scan->capacity, (size_t) 64);
                struct scan_find *finds = reallocarray(scan->finds, capacity, sizeof(*finds));

                if (!finds)
                        return NULL;
                scan->finds = finds;
                scan->capacity = capacity;
        }
        find = &scan->finds[scan->count];
        *find = (struct scan_find) { .kind = kind, .space = space, .name = strdup(name) };
        if (!find->name)
                return NULL;
        scan->count++;
        return find;
}

struct scan_space *scan_add_space(struct scan *scan, int take_fd, pid_t pid, const char *label) {
        struct scan_space *space = malloc(sizeof(*space));
        char *copy = strdup(label);

        if (!space || !copy) {
                free(space);
                free(copy);
                close_fd(take_fd);
                return NULL;
        }
        *space = (struct scan_space) { .next = scan->spaces, .fd = take_fd, .pid = pid, .label = copy };
        scan->spaces = space;
        return space;
}
