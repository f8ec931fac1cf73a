/* SPDX-License-Identifier: MIT */
/*
 * Many segments at once: opened, created, closed.
 *
 * Collects what is asked for into as few requests as possible: so many descriptors, and bytes, fit one message. A batch
 * owns its holds from their reservation to their admission. Nothing of a reply is used before all of it has been
 * checked.
 */
#include "internal.h"

#include <string.h>
#include <sys/mman.h>

#define TAIL_MAX (SHMD_MESSAGE_MAX - sizeof(struct shmd_wire_header) - sizeof(struct shmd_wire_many))

struct batch {
        struct shmd *connection;
        enum shmd_operation operation;
        uint32_t wire_flags; /* of the request */
        struct shmd_segment **segments; /* of the whole call */
        int *results;
        uint32_t count;
        size_t index[SHMD_DESCRIPTORS_MAX]; /* of each item, in those */
        struct hold *holds[SHMD_DESCRIPTORS_MAX];
        size_t tail_size;
        uint64_t tail[SHMD_MESSAGE_MAX / sizeof(uint64_t)];
};

static void batch_init(struct batch *batch, struct shmd *connection, enum shmd_operation operation, uint32_t wire_flags,
                       struct shmd_segment **segments, int *results) {
        batch->connection = connection;
        batch->operation = operation;
        batch->wire_flags = wire_flags;
        batch->segments = segments;
        batch->results = results;
        batch->count = 0;
        batch->tail_size = 0;
}

static void batch_clear(struct batch *batch) {
        for (uint32_t i = 0; i < batch->count; i++)
                hold_free(batch->holds[i]);
        batch->count = 0;
        batch->tail_size = 0;
}

/* --- the reply --- */

static struct shmd_wire_item reply_item(const struct reply *reply, uint32_t i) {
        struct shmd_wire_item item;

        memcpy(&item, reply->tail + i * sizeof(item), sizeof(item));
        return item;
}

/* As many items as were asked for, and as many descriptors as have succeeded, unless there was no room for them. */
static bool reply_is_valid(const struct batch *batch, const struct reply *reply) {
        struct shmd_wire_many_reply many;
        unsigned opened = 0;

        memcpy(&many, reply->body, sizeof(many));
        if (many.count != batch->count || many.padding != 0 || reply->tail_size != batch->count * sizeof(struct shmd_wire_item))
                return false;
        for (uint32_t i = 0; i < batch->count; i++) {
                struct shmd_wire_item item = reply_item(reply, i);

                if (item.padding != 0 || (item.status == SHMD_OK && !opened_is_valid(&item.opened)))
                        return false;
                opened += item.status == SHMD_OK;
        }
        return reply->fds_lost ? reply->fds->count < opened : reply->fds->count == opened;
}

static void batch_admit(struct batch *batch, const struct reply *reply) {
        struct wire_fds *fds = reply->fds;
        unsigned opened = 0;

        for (uint32_t i = 0; i < batch->count; i++) {
                const struct shmd_wire_item item = reply_item(reply, i);
                struct opened one = { .wire = item.opened, .fd = -EBADF };
                size_t index = batch->index[i];

                if (item.status != SHMD_OK) {
                        batch->results[index] = -status_to_errno(item.status);
                        continue;
                }
                if (opened < fds->count)
                        one.fd = TAKE_FD(fds->fd[opened]);
                opened++;
                batch->results[index] = hold_admit(TAKE_PTR(batch->holds[i]), &one, &batch->segments[index]);
        }
        fds->count = 0;
}

static int batch_send(struct batch *batch) {
        const struct shmd_wire_many body = { .count = batch->count, .flags = batch->wire_flags };
        const struct request request = {
                .operation = batch->operation,
                .body = &body,
                .tail = batch->tail,
                .tail_size = batch->tail_size,
        };
        struct reply reply;
        int r;

        if (batch->count == 0)
                return 0;
        r = connection_call(batch->connection, &request, &reply);
        if (r == 0) {
                if (reply_is_valid(batch, &reply))
                        batch_admit(batch, &reply);
                else
                        r = connection_break(batch->connection);
        }
        batch_clear(batch);
        return r;
}

/* --- the request --- */

/* Room for one more item of so many bytes: sends what there is if need be. */
static int batch_make_room(struct batch *batch, size_t size) {
        if (batch->count < ELEMENTSOF(batch->holds) && batch->tail_size + size <= TAIL_MAX)
                return 0;
        return batch_send(batch);
}

static void *batch_take(struct batch *batch, size_t size) {
        void *place = (char *) batch->tail + batch->tail_size;

        batch->tail_size += size;
        return place;
}

static int batch_add(struct batch *batch, size_t index, const struct target *target, unsigned flags) {
        int r;

        r = hold_reserve(batch->connection, target, flags, &batch->holds[batch->count]);
        if (r == 0)
                batch->index[batch->count++] = index;
        return r;
}

static int batch_add_name(struct batch *batch, size_t index, const struct target *target, unsigned flags) {
        uint16_t name_size = (uint16_t) target->name_size;
        char *place;
        int r;

        r = batch_make_room(batch, sizeof(name_size) + name_size);
        if (r == 0)
                r = batch_add(batch, index, target, flags);
        if (r < 0)
                return r;
        place = batch_take(batch, sizeof(name_size) + name_size);
        memcpy(place, &name_size, sizeof(name_size));
        memcpy(place + sizeof(name_size), target->name, name_size);
        return 0;
}

static int batch_add_creation(struct batch *batch, size_t index, const struct target *target, unsigned flags,
                              struct shmd_wire_create *create, const char *labels) {
        size_t labels_size = labels ? strlen(labels) : 0, size;
        char *place;
        int r;

        create->name_size = (uint16_t) target->name_size;
        create->labels_size = (uint16_t) labels_size;
        create->token = connection_creation_token(batch->connection);
        size = ALIGN8(sizeof(*create) + target->name_size + labels_size);
        r = batch_make_room(batch, size);
        if (r == 0)
                r = batch_add(batch, index, target, flags);
        if (r < 0)
                return r;
        place = batch_take(batch, size);
        memset(place + size - 8, 0, 8); /* the padding */
        place = mempcpy(place, create, sizeof(*create));
        place = mempcpy(place, target->name, target->name_size);
        if (labels_size > 0)
                memcpy(place, labels, labels_size);
        return 0;
}

/* After a failure of the call itself nothing stays open. */
static int many_finish(struct batch *batch, int r, size_t count) {
        if (r == 0)
                r = batch_send(batch);
        if (r < 0) {
                struct failure failure = batch->connection->failure;

                batch_clear(batch);
                shmd_close_many(batch->segments, count);
                batch->connection->failure = failure;
        }
        return r;
}

/* --- the functions --- */

static int open_one(struct batch *batch, size_t index, const char *name, unsigned flags) {
        struct shmd *connection = batch->connection;
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        if (r < 0) {
                batch->results[index] = r;
                return 0;
        }
        r = segment_find(connection, &target, flags, &batch->segments[index]);
        if (r == 0)
                return batch_add_name(batch, index, &target, flags);
        return r < 0 ? r : 0;
}

_public_ int shmd_open_many(struct shmd *connection, const char *const *names, size_t count, unsigned flags,
                            struct shmd_segment **segments, int *results) {
        struct batch batch;
        int r;

        r = open_flags_check(connection, flags);
        if (r < 0)
                return r;
        batch_init(&batch, connection, SHMD_OP_OPEN_MANY, flags_to_wire(flags), segments, results);
        memset(segments, 0, count * sizeof(segments[0]));
        memset(results, 0, count * sizeof(results[0]));
        for (size_t i = 0; r == 0 && i < count; i++)
                r = open_one(&batch, i, names[i], flags);
        return many_finish(&batch, r, count);
}

static int create_one(struct batch *batch, size_t index, const struct shmd_create_item *item, unsigned flags, mode_t mask) {
        static const struct shmd_create_options defaults;
        const struct shmd_create_options *options = item->options ?: &defaults;
        struct shmd_wire_create create;
        struct target target;
        int r;

        r = create_check(batch->connection, item->name, item->size_bytes, flags, options, &target);
        if (r == 0 && options->sysv)
                r = sysv_create(batch->connection, &target, item->size_bytes, flags | SHMD_READ_WRITE, options, &batch->segments[index]);
        else if (r == 0 && create_takes_steps(flags))
                r = create_in_steps(batch->connection, &target, item->size_bytes, flags, options, &batch->segments[index]);
        else if (r == 0) {
                create = create_to_wire(item->size_bytes, flags, options, mask);
                return batch_add_creation(batch, index, &target, flags, &create, options->labels);
        }
        batch->results[index] = r;
        return 0;
}

_public_ int shmd_create_many(struct shmd *connection, const struct shmd_create_item *items, size_t count, unsigned flags,
                              struct shmd_segment **segments, int *results) {
        mode_t mask = process_umask();
        struct batch batch;
        int r = 0;

        flags |= SHMD_READ_WRITE;
        batch_init(&batch, connection, SHMD_OP_CREATE_MANY, 0, segments, results);
        memset(segments, 0, count * sizeof(segments[0]));
        memset(results, 0, count * sizeof(results[0]));
        for (size_t i = 0; r == 0 && i < count; i++)
                r = create_one(&batch, i, &items[i], flags, mask);
        return many_finish(&batch, r, count);
}

/* --- closing --- */

/* Mappings that lie side by side: one call unmaps all of them. */
struct range {
        char *start, *end;
};

static void range_unmap(struct range *range) {
        if (range->start)
                (void) munmap(range->start, (size_t) (range->end - range->start));
        *range = (struct range) { NULL, NULL };
}

/* The kernel places one mapping below the other, most often. */
static void range_take(struct range *range, struct hold *hold) {
        size_t page = (size_t) sysconf(_SC_PAGESIZE);
        char *start = TAKE_PTR(hold->address), *end;

        if (!start)
                return;
        end = start + ((hold->mapped_size + page - 1) & ~(page - 1));
        if (range->start && end == range->start)
                range->start = start;
        else if (range->start && start == range->end)
                range->end = end;
        else {
                range_unmap(range);
                *range = (struct range) { start, end };
        }
}

_public_ void shmd_close_many(struct shmd_segment **segments, size_t count) {
        struct shmd *connection = NULL;
        struct range range = { NULL, NULL };

        for (size_t i = 0; i < count; i++) {
                struct shmd_segment *segment = TAKE_PTR(segments[i]);
                struct hold *hold;

                if (!segment)
                        continue;
                hold = segment->hold;
                connection = hold->connection;
                LIST_REMOVE(segment, entry);
                free(segment);
                if (!LIST_EMPTY(&hold->segments))
                        continue;
                range_take(&range, hold);
                hold_end(hold);
        }
        range_unmap(&range); /* before the daemon asks the kernel who is left */
        if (connection)
                holds_tell_ended(connection);
}
