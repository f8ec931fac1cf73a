/* SPDX-License-Identifier: MIT */
/*
 * Which SysV segments shmd looks after: those are not leaked, whatever else can be said of them, and not reclaim's to free. rm is.
 */
#include "leaks.h"

#include <string.h>

struct kept_segment {
        uint64_t size_bytes;
        uint32_t shmid, key;
        char name[256];
};

struct kept_segments {
        struct kept_segment *items;
        size_t count, capacity;
};

static int visit(const struct shmd_stat *stat, void *userdata) {
        struct kept_segments *kept = userdata;
        struct kept_segment *item;

        if (stat->backing != SHMD_BACKING_SYSV)
                return 0;
        if (kept->count == kept->capacity) {
                kept->capacity = MAX(2 * kept->capacity, (size_t) 16);
                kept->items = reallocarray(kept->items, kept->capacity, sizeof(*kept->items));
                if (!kept->items)
                        fail_memory();
        }
        item = &kept->items[kept->count++];
        *item = (struct kept_segment) { .size_bytes = stat->size_bytes, .shmid = stat->sysv_id, .key = stat->sysv_key };
        strcpy(item->name, stat->name);
        return 0;
}

static int by_shmid(const void *a, const void *b) {
        const struct kept_segment *x = a, *y = b;

        return (x->shmid > y->shmid) - (x->shmid < y->shmid);
}

/* The daemon may be in another IPC namespace, where the number is another segment's: size and key would differ. */
static void spare(const struct kept_segments *kept, struct scan_find *find) {
        const struct kept_segment wanted = { .shmid = (uint32_t) find->id };
        const struct kept_segment *item = bsearch(&wanted, kept->items, kept->count, sizeof(*kept->items), by_shmid);

        if (!item || item->size_bytes != find->size_bytes || item->key != (uint32_t) strtoul(find->name, NULL, 16))
                return;
        find->verdict = SCAN_IN_USE;
        snprintf(find->reason, sizeof(find->reason), "shmd looks after it, as \"%.*s\"", SCAN_REASON_MAX - 32, item->name);
}

void leaks_spare_sysv(struct ctl *ctl, struct scan *scan) {
        struct kept_segments kept = { 0 };

        if (!ctl->connection ||
            shmd_list(ctl->connection, NULL, 0, visit, &kept) < 0 ||
            shmd_list(ctl->connection, NULL, SHMD_LIST_UNLINKED, visit, &kept) < 0)
                kept.count = 0;
        if (kept.count > 0)
                qsort(kept.items, kept.count, sizeof(*kept.items), by_shmid);
        for (size_t i = 0; i < scan->count && kept.count > 0; i++) {
                struct scan_find *find = &scan->finds[i];

                if (find->kind == SCAN_SYSV && find->space && find->space->pid == 0 && !find->attachments)
                        spare(&kept, find);
        }
        free(kept.items);
}
