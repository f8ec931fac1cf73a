/* SPDX-License-Identifier: MIT */
/*
 * Segments: created, opened, mapped, closed.
 *
 * Owns the holds: for each segment and access that is not private there is one, however
 * often the program opened it. While the daemon counts it, it is in the tree of ids, and under the name by which it was
 * last asked for in the tree of names; from both an open is answered without the daemon, as long as the daemon's page
 * says that nothing about the segment's name or permissions has changed.
 *
 * When a hold ends, mapping and descriptor go first and the daemon is told last: it may
 * then ask the kernel whether anybody is left.
 */
#include "internal.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* --- the trees of holds --- */

static int hold_compare_ids(struct hold *a, struct hold *b) {
        if (a->id != b->id)
                return a->id < b->id ? -1 : 1;
        return (int) a->access - (int) b->access;
}

/* Any order will do; this one rarely has to look at the names. */
static int hold_compare_names(struct hold *a, struct hold *b) {
        if (a->name_size != b->name_size)
                return a->name_size < b->name_size ? -1 : 1;
        if (a->access != b->access)
                return (int) a->access - (int) b->access;
        return memcmp(a->name, b->name, a->name_size);
}

TREE_GENERATE(hold_ids, hold, by_id, hold_compare_ids)
TREE_GENERATE(hold_names, hold, by_name, hold_compare_names)

static void hold_leave_names(struct hold *hold) {
        if (hold->in_names)
                RB_REMOVE(hold_names, &hold->connection->names, hold);
        hold->in_names = false;
}

static void hold_leave_trees(struct hold *hold) {
        hold_leave_names(hold);
        if (hold->in_ids)
                RB_REMOVE(hold_ids, &hold->connection->ids, hold);
        hold->in_ids = false;
}

/* A name stands for what was opened by it last. */
static void hold_enter_names(struct hold *hold) {
        struct hold *former;

        if (!hold->name)
                return;
        former = RB_FIND(hold_names, &hold->connection->names, hold);
        if (former)
                hold_leave_names(former);
        (void) RB_INSERT(hold_names, &hold->connection->names, hold);
        hold->in_names = true;
}

static bool hold_is_current(struct hold *hold) {
        struct generations *generations = &hold->connection->generations;
        const atomic_uint *slots;

        if (!hold->current)
                return false;
        slots = generations_map(generations);
        if (!slots)
                return false;
        return atomic_load_explicit(&slots[hold->id % generations->count], memory_order_acquire) == hold->generation;
}

static struct hold *hold_find(struct shmd *connection, const struct target *target, enum shmd_access access) {
        struct hold key;

        key.access = access;
        if (target->wire.id != 0) {
                key.id = target->wire.id;
                return RB_FIND(hold_ids, &connection->ids, &key);
        }
        key.name = (char *) target->name;
        key.name_size = target->name_size;
        return RB_FIND(hold_names, &connection->names, &key);
}

/* --- a hold --- */

static void hold_tell_release(struct hold *hold) {
        const struct shmd_wire_release release = { .id = hold->id, .access = hold->access };

        if (hold->counted && connection_is_ready(hold->connection))
                (void) call_send(hold->connection,
                                 &(struct request) { .operation = SHMD_OP_RELEASE, .body = &release });
}

struct hold *hold_free(struct hold *hold) {
        struct shmd_segment *segment;

        if (!hold)
                return NULL;
        hold_leave_trees(hold);
        if (hold->id != 0)
                LIST_REMOVE(hold, entry);
        while ((segment = LIST_FIRST(&hold->segments))) {
                LIST_REMOVE(segment, entry);
                free(segment);
        }

        if (hold->address)
                (void) munmap(hold->address, hold->size);
        close_fd(hold->fd);
        hold_tell_release(hold);
        free(hold->name);
        free(hold);
        return NULL;
}

static void hold_freep(struct hold **hold) {
        hold_free(*hold);
}

static int segment_new(struct hold *hold, struct shmd_segment **ret_segment) {
        struct shmd_segment *segment = malloc(sizeof(*segment));

        if (!segment)
                return failure_errno(&hold->connection->failure, -ENOMEM);
        *segment = (struct shmd_segment) { .hold = hold };
        LIST_INSERT_HEAD(&hold->segments, segment, entry);
        *ret_segment = segment;
        return 0;
}

/* A hold to be, with all memory that it takes: once the daemon has said yes nothing may fail. */
static int hold_reserve(struct shmd *connection, const struct target *target, unsigned flags, struct hold **ret_hold) {
        _cleanup_(hold_freep) struct hold *hold = NULL;
        struct shmd_segment *segment;
        int r;

        hold = malloc(sizeof(*hold));
        if (!hold)
                return failure_errno(&connection->failure, -ENOMEM);
        *hold = (struct hold) {
                .connection = connection,
                .fd = -EBADF,
                .access = flags & SHMD_READ_WRITE ? SHMD_ACCESS_WRITE : SHMD_ACCESS_READ,
                .private = flags & SHMD_PRIVATE,
        };
        LIST_INIT(&hold->segments);

        if (target->name && !hold->private) {
                hold->name = strndup(target->name, target->name_size);
                if (!hold->name)
                        return failure_errno(&connection->failure, -ENOMEM);
                hold->name_size = target->name_size;
        }
        r = segment_new(hold, &segment);
        if (r < 0)
                return r;

        *ret_hold = TAKE_PTR(hold);
        return 0;
}

/* The daemon gave what is held already: the old hold is good again and has the segment; the new one is given back. */
static struct shmd_segment *hold_merge(struct hold *hold, struct hold *newer) {
        struct shmd_segment *segment = LIST_FIRST(&newer->segments);

        LIST_REMOVE(segment, entry);
        segment->hold = hold;
        LIST_INSERT_HEAD(&hold->segments, segment, entry);

        hold->generation = newer->generation;
        hold->current = true;
        if (!hold->address) /* what is mapped is unmapped by its size */
                hold->size = newer->size;
        if (newer->name) {
                hold_leave_names(hold);
                free(hold->name);
                hold->name = TAKE_PTR(newer->name);
                hold->name_size = newer->name_size;
                hold_enter_names(hold);
        }
        hold_free(newer);
        return segment;
}

/* A hold that was reserved comes to be. Consumes it and what was opened; cannot fail. */
static struct shmd_segment *hold_admit(struct hold *hold, struct opened *opened) {
        struct shmd *connection = hold->connection;
        struct shmd_segment *segment = LIST_FIRST(&hold->segments);
        struct hold *former;

        segment->created = opened->wire.created != 0;
        hold->id = opened->wire.id;
        hold->size = opened->wire.size;
        hold->generation = opened->wire.generation;
        hold->fd = TAKE_FD(opened->fd);
        hold->current = true;
        hold->counted = true;
        LIST_INSERT_HEAD(&connection->holds, hold, entry);
        if (hold->private)
                return segment;

        former = RB_FIND(hold_ids, &connection->ids, hold);
        if (former)
                return hold_merge(former, hold);
        (void) RB_INSERT(hold_ids, &connection->ids, hold);
        hold->in_ids = true;
        hold_enter_names(hold);
        return segment;
}

int hold_resume(struct hold *hold) {
        struct shmd *connection = hold->connection;
        const struct shmd_wire_resume resume = { .id = hold->id, .access = hold->access };
        const struct request request = { .operation = SHMD_OP_RESUME, .body = &resume, .fds = &hold->fd };
        struct shmd_wire_opened opened;
        struct reply reply;
        int r;

        r = call_perform(connection, &request, &reply);
        if (r < 0)
                return r;
        if (reply.status != SHMD_OK) {
                hold_leave_trees(hold); /* a daemon that doesn't know it, or won't count it, can't mean it */
                return 0;
        }
        r = reply_read(connection, &reply, &opened, sizeof(opened));
        if (r < 0)
                return r;
        if (opened.id != hold->id)
                return connection_break(connection);

        /* Its generation is of now, what is known of the name is of then: that is not taken over. */
        hold->counted = true;
        return 0;
}

/* --- what a request is about --- */

int target_by_name(struct shmd *connection, const char *name, struct target *ret_target) {
        enum name_verdict verdict;
        const char *start;
        size_t size;

        verdict = name_check(name, strlen(name), &start, &size);
        if (verdict != NAME_OK)
                return failure_name(&connection->failure, verdict);

        *ret_target = (struct target) {
                .wire.name_size = (uint16_t) size,
                .name = start,
                .name_size = size,
        };
        return 0;
}

int target_by_id(struct shmd *connection, uint64_t id, struct target *ret_target) {
        if (id == 0) /* on the wire it would mean "by name" */
                return failure_words(&connection->failure, -ENOENT, "no such segment");
        *ret_target = (struct target) { .wire.id = id };
        return 0;
}

/* --- OPEN and CREATE --- */

/* The descriptor found no room in this process: the daemon counts a hold that there is not. */
static int opened_give_back(struct shmd *connection, const struct shmd_wire_opened *opened, uint32_t flags) {
        struct hold hold = {
                .connection = connection,
                .id = opened->id,
                .access = flags & SHMD_WIRE_WRITE ? SHMD_ACCESS_WRITE : SHMD_ACCESS_READ,
                .counted = !(flags & SHMD_WIRE_DETACHED),
        };

        wire_fds_done(&connection->fds);
        hold_tell_release(&hold);
        return failure_errno(&connection->failure, -EMFILE);
}

static int opened_read(struct shmd *connection, const struct reply *reply, uint32_t flags, struct opened *ret_opened) {
        struct shmd_wire_opened opened;
        int r;

        r = reply_read(connection, reply, &opened, sizeof(opened));
        if (r < 0)
                return r;
        if (opened.id == 0 || opened.created > 1)
                return connection_break(connection);
        if (reply->fds_lost)
                return opened_give_back(connection, &opened, flags);
        if (reply->fds->count != 1)
                return connection_break(connection);

        *ret_opened = (struct opened) { .wire = opened, .fd = TAKE_FD(reply->fds->fd[0]) };
        reply->fds->count = 0;
        return 0;
}

int call_open(struct shmd *connection, const struct target *target, uint32_t flags, struct opened *ret_opened) {
        const struct shmd_wire_open open = { .target = target->wire, .flags = flags };
        const struct request request = {
                .operation = SHMD_OP_OPEN,
                .repeatable = true,
                .body = &open,
                .tail = target->name,
                .tail_size = target->name_size,
        };
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        if (r < 0)
                return r;
        return opened_read(connection, &reply, flags, ret_opened);
}

int call_create(struct shmd *connection, const struct target *name, struct shmd_wire_create *create, const char *labels,
                struct opened *ret_opened) {
        char tail[SHMD_NAME_MAX + SHMD_LABELS_MAX];
        size_t labels_size = labels ? strlen(labels) : 0;
        const struct request request = {
                .operation = SHMD_OP_CREATE,
                .body = create,
                .tail = tail,
                .tail_size = name->name_size + labels_size,
        };
        struct reply reply;
        int r;

        if (labels_size > SHMD_LABELS_MAX)
                return failure_words(&connection->failure, -EINVAL, "the labels are longer than 1024 bytes");
        create->name_size = (uint16_t) name->name_size;
        create->labels_size = (uint16_t) labels_size;
        memcpy(tail, name->name, name->name_size);
        if (labels_size > 0)
                memcpy(tail + name->name_size, labels, labels_size);

        r = connection_call(connection, &request, &reply);
        if (r < 0)
                return r;
        return opened_read(connection, &reply, create->flags, ret_opened);
}

static uint32_t flags_to_wire(unsigned flags) {
        return (flags & SHMD_READ_WRITE ? SHMD_WIRE_WRITE : 0) | (flags & SHMD_PRIVATE ? SHMD_WIRE_PRIVATE : 0);
}

static int segment_open(struct shmd *connection, const struct target *target, unsigned flags,
                        struct shmd_segment **ret_segment) {
        _cleanup_(hold_freep) struct hold *hold = NULL;
        struct opened opened;
        int r;

        r = hold_reserve(connection, target, flags, &hold);
        if (r < 0)
                return r;
        r = call_open(connection, target, flags_to_wire(flags), &opened);
        if (r < 0)
                return r;
        *ret_segment = hold_admit(TAKE_PTR(hold), &opened);
        return 0;
}

/* The fast path first: what is held already. */
static int segment_get(struct shmd *connection, const struct target *target, unsigned flags,
                       struct shmd_segment **ret_segment) {
        struct hold *hold;
        int r;

        if (flags & ~(SHMD_READ_WRITE | SHMD_PRIVATE))
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        r = connection_prepare(connection);
        if (r < 0)
                return r;
        if (!(flags & SHMD_PRIVATE)) {
                hold = hold_find(connection, target, flags & SHMD_READ_WRITE ? SHMD_ACCESS_WRITE : SHMD_ACCESS_READ);
                if (hold && hold_is_current(hold))
                        return segment_new(hold, ret_segment);
        }
        return segment_open(connection, target, flags, ret_segment);
}

_public_ int shmd_open(struct shmd *connection, const char *name, unsigned flags, struct shmd_segment **ret_segment) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : segment_get(connection, &target, flags, ret_segment);
}

_public_ int shmd_open_id(struct shmd *connection, uint64_t id, unsigned flags, struct shmd_segment **ret_segment) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : segment_get(connection, &target, flags, ret_segment);
}

/* --- creation --- */

static bool label_is_valid(const char *label, size_t size) {
        if (size == 0 || label[0] == '=' || !memchr(label, '=', size))
                return false;
        for (size_t i = 0; i < size; i++)
                if ((unsigned char) label[i] < 0x20 || label[i] == 0x7f)
                        return false;
        return true;
}

static bool labels_are_valid(const char *labels) {
        while (*labels != '\0') {
                const char *end = strchr(labels, '\n');

                if (!end || !label_is_valid(labels, (size_t) (end - labels)))
                        return false;
                labels = end + 1;
        }
        return true;
}

static int create_options_check(struct shmd *connection, const struct shmd_create_options *options) {
        struct failure *failure = &connection->failure;

        if (options->mode & ~0777u)
                return failure_words(failure, -EINVAL, "invalid mode");
        if (options->lifetime > SHMD_LIFETIME_CREATOR)
                return failure_words(failure, -EINVAL, "invalid lifetime");
        if (options->linger_usec != 0 && options->lifetime != SHMD_LIFETIME_LINGER)
                return failure_words(failure, -EINVAL, "a time to linger is for lifetime linger alone");
        if (options->labels && !labels_are_valid(options->labels))
                return failure_words(failure, -EINVAL, "invalid labels: not lines of \"key=value\"");
        if (!wire_is_zero(options->reserved, sizeof(options->reserved)))
                return failure_words(failure, -EINVAL, "reserved options are not zero");
        return 0;
}

/* Memory is not for execution: those bits are no permission here. */
static uint32_t create_mode(const struct shmd_create_options *options) {
        return options->mode == 0 ? 0600 : options->mode & 0666 & ~process_umask();
}

_public_ int shmd_create(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                         const struct shmd_create_options *options, struct shmd_segment **ret_segment) {
        static const struct shmd_create_options defaults;
        _cleanup_(hold_freep) struct hold *hold = NULL;
        struct shmd_wire_create create;
        struct target target;
        struct opened opened;
        int r;

        if (!options)
                options = &defaults;
        if (flags & ~(SHMD_READ_WRITE | SHMD_PRIVATE | SHMD_EXCLUSIVE))
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        if (size_bytes == 0)
                return failure_words(&connection->failure, -EINVAL, "a segment of no bytes is none");
        r = target_by_name(connection, name, &target);
        if (r < 0)
                return r;
        r = create_options_check(connection, options);
        if (r < 0)
                return r;

        flags |= SHMD_READ_WRITE;
        create = (struct shmd_wire_create) {
                .size = size_bytes,
                .linger_usec = options->linger_usec,
                .mode = create_mode(options),
                .flags = flags_to_wire(flags) | (flags & SHMD_EXCLUSIVE ? 0 : SHMD_WIRE_CREATE),
                .lifetime = options->lifetime,
        };
        r = hold_reserve(connection, &target, flags, &hold);
        if (r < 0)
                return r;
        r = call_create(connection, &target, &create, options->labels, &opened);
        if (r < 0)
                return r;
        *ret_segment = hold_admit(TAKE_PTR(hold), &opened);
        return 0;
}

/* --- a segment that is open --- */

_public_ struct shmd_segment *shmd_close(struct shmd_segment *segment) {
        struct hold *hold;

        if (!segment)
                return NULL;
        hold = segment->hold;
        LIST_REMOVE(segment, entry);
        free(segment);
        if (LIST_EMPTY(&hold->segments))
                hold_free(hold);
        return NULL;
}

/* What shm_open made has no size until somebody gives it one, perhaps after it was opened here. */
static void hold_refresh_size(struct hold *hold) {
        struct stat st;

        if (hold->size == 0 && fstat(hold->fd, &st) == 0)
                hold->size = (uint64_t) st.st_size;
}

static int hold_map(struct hold *hold) {
        int protection = hold->access == SHMD_ACCESS_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
        void *address;

        hold_refresh_size(hold);
        if (hold->size > SIZE_MAX)
                return failure_errno(&hold->connection->failure, -ENOMEM);
        address = mmap(NULL, (size_t) hold->size, protection, MAP_SHARED, hold->fd, 0);
        if (address == MAP_FAILED)
                return failure_errno(&hold->connection->failure, negative_errno());
        hold->address = address;
        return 0;
}

_public_ int shmd_map(struct shmd_segment *segment, void **ret_address, size_t *ret_size_bytes) {
        struct hold *hold = segment->hold;
        int r;

        if (!hold->address) {
                r = hold_map(hold);
                if (r < 0)
                        return r;
        }
        *ret_address = hold->address;
        if (ret_size_bytes)
                *ret_size_bytes = (size_t) hold->size;
        return 0;
}

_public_ int shmd_fd(const struct shmd_segment *segment) {
        return segment->hold->fd;
}

_public_ uint64_t shmd_id(const struct shmd_segment *segment) {
        return segment->hold->id;
}

_public_ uint64_t shmd_size(const struct shmd_segment *segment) {
        return segment->hold->size;
}

_public_ int shmd_created(const struct shmd_segment *segment) {
        return segment->created;
}
