/* SPDX-License-Identifier: MIT */
#include "watch.h"

#include <string.h>

#include "util.h"

static int watch_compare(struct watch *a, struct watch *b) {
        int r;

        if (a->size != b->size)
                return a->size < b->size ? -1 : 1;
        r = memcmp(a->prefix, b->prefix, a->size);
        return r != 0 ? r : (a->key > b->key) - (a->key < b->key);
}

TREE_GENERATE(watch_prefix_tree, watch, by_prefix, watch_compare)

void watch_index_init(struct watch_index *index) {
        *index = (struct watch_index) { .next_key = 1 };
        RB_INIT(&index->watches);
}

void watch_insert(struct watch_index *index, struct watch *watch, const char *prefix, size_t size, bool exact) {
        watch->key = index->next_key++;
        watch->size = (uint16_t) size;
        watch->exact = exact;
        memcpy(watch->prefix, prefix, size);
        RB_INSERT(watch_prefix_tree, &index->watches, watch);
        index->lengths[size]++;
}

void watch_remove(struct watch_index *index, struct watch *watch) {
        RB_REMOVE(watch_prefix_tree, &index->watches, watch);
        index->lengths[watch->size]--;
}

bool watch_concerns(const struct watch *watch, const char *name, size_t size) {
        return watch->size <= size && memcmp(watch->prefix, name, watch->size) == 0 && (!watch->exact || watch->size == size);
}

/* The first watch whose prefix is the name's beginning of that length. */
static struct watch *first_of_length(struct watch_index *index, const char *name, size_t length) {
        struct watch key, *watch;

        key.key = 0;
        key.size = (uint16_t) length;
        memcpy(key.prefix, name, length);
        watch = RB_NFIND(watch_prefix_tree, &index->watches, &key);
        return watch && watch->size == length && memcmp(watch->prefix, name, length) == 0 ? watch : NULL;
}

static struct watch *next_of_same_prefix(struct watch *watch) {
        struct watch *next = RB_NEXT(watch_prefix_tree, NULL, watch);

        return next && next->size == watch->size && memcmp(next->prefix, watch->prefix, watch->size) == 0 ? next : NULL;
}

struct watch *watch_next(struct watch_index *index, const char *name, size_t size, struct watch *last) {
        struct watch *watch = last ? next_of_same_prefix(last) : first_of_length(index, name, 0);
        size_t length = last ? last->size : 0;

        for (;;) {
                for (; watch; watch = next_of_same_prefix(watch))
                        if (!watch->exact || watch->size == size)
                                return watch;
                do
                        if (++length > size)
                                return NULL;
                while (index->lengths[length] == 0);
                watch = first_of_length(index, name, length);
        }
}
