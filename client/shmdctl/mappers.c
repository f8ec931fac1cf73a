/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <string.h>

struct search {
        struct mappers *mappers;
        size_t capacity;
        uint32_t daemon_pid;
};

static int visit(const struct shmd_mapper *mapper, void *userdata) {
        struct search *search = userdata;
        struct mappers *mappers = search->mappers;

        if (mapper->pid == search->daemon_pid && !mapper->mapped)
                return 0;
        if (mappers->count == search->capacity) {
                search->capacity = MAX(2 * search->capacity, (size_t) 16);
                mappers->items = reallocarray(mappers->items, search->capacity, sizeof(*mapper));
                if (!mappers->items)
                        fail_memory();
        }
        mappers->items[mappers->count++] = *mapper;
        return 0;
}

void mappers_find(struct ctl *ctl, const struct shmd_stat *stat, struct mappers *ret_mappers) {
        struct search search = { .mappers = ret_mappers };
        struct shmd_status status;

        *ret_mappers = (struct mappers) { 0 };
        if (stat->inode == 0)
                return;
        /* Seen from another pid namespace it may be somebody else's number: but for that, it is the daemon. */
        if (shmd_status(ctl->connection, &status) == 0)
                search.daemon_pid = status.pid;
        ret_mappers->error = shmd_mappers(stat->device, stat->inode, visit, &search, &ret_mappers->hidden);
}

void mappers_done(struct mappers *mappers) {
        free(mappers->items);
}

const struct shmd_mapper *mappers_get(const struct mappers *mappers, uint32_t pid) {
        for (size_t i = 0; i < mappers->count; i++) {
                if (mappers->items[i].pid == pid)
                        return &mappers->items[i];
        }
        return NULL;
}

const char *mappers_describe_hidden(const struct mappers *mappers, char buffer[TEXT_HIDDEN_MAX]) {
        snprintf(buffer, TEXT_HIDDEN_MAX, "%u process%s could not be looked into", mappers->hidden,
                 mappers->hidden == 1 ? "" : "es");
        return buffer;
}

const char *mapper_access(const struct shmd_mapper *mapper) {
        if (!mapper->mapped)
                return "open";
        return mapper->writable ? "rw" : "ro";
}
