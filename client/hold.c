/* SPDX-License-Identifier: MIT */
/*
 * What a connection holds.
 *
 * Owns the holds: for each segment and access that is not private there is one, however
 * often the program opened it. It is in the tree of ids, and under the name by which it was last asked for in
 * the tree of names; from both an open is answered without the daemon, while the daemon's page says that
 * nothing about the segment's name or permissions has changed. What is unpublished is under no name, and the hold of a
 * single writer, whom the daemon grants no second one, in neither tree.
 *
 * When a hold ends, mapping and descriptor go first and the daemon is told last: it may then ask the kernel whether
 * anybody is left. Where it can't be told at once, as it has to be read from first, that is made up for with the next
 * request or dispatch.
 */
#include "internal.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* --- the trees --- */

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
                (void) RB_REMOVE(hold_names, &hold->connection->names, hold);
        hold->in_names = false;
}

/* A name stands for what was opened by it last. */
static void hold_enter_names(struct hold *hold) {
        struct hold *former;

        if (!hold->name || hold->unpublished)
                return;
        former = RB_FIND(hold_names, &hold->connection->names, hold);
        if (former)
                hold_leave_names(former);
        (void) RB_INSERT(hold_names, &hold->connection->names, hold);
        hold->in_names = true;
}

static void hold_leave_all(struct hold *hold) {
        hold_leave_names(hold);
        if (hold->in_ids)
                (void) RB_REMOVE(hold_ids, &hold->connection->ids, hold);
        if (hold->in_list)
                LIST_REMOVE(hold, entry);
        hold->in_ids = hold->in_list = false;
}

/*
 * A daemon that was killed changes nothing in its page any more, and where nobody keeps its segments for it the next one has another page;
 * but its sockets are closed. That is asked now and then only: it takes a system call, and all the rest none.
 */
static bool daemon_is_there(struct shmd *connection) {
        uint64_t now_coarse_usec;
        ssize_t n;
        char byte;

        if (!connection_is_ready(connection))
                return true;
        now_coarse_usec = coarse_usec();
        if (now_coarse_usec - connection->seen_usec < DAEMON_LOOK_USEC)
                return true;
        n = recv(connection->socket_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                return false;
        connection->seen_usec = now_coarse_usec;
        return true;
}

bool hold_is_current(struct hold *hold) {
        struct generations *generations = &hold->connection->generations;
        const atomic_uint *slots;

        if (!hold->current || !daemon_is_there(hold->connection))
                return false;
        slots = generations_map(generations);
        if (!slots)
                return false;
        return atomic_load_explicit(&slots[hold->id % generations->count], memory_order_acquire) == hold->generation;
}

struct hold *hold_find(struct shmd *connection, const struct target *target, enum shmd_access access) {
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

/* --- its end --- */

void hold_end(struct hold *hold) {
        struct shmd_segment *segment;

        hold_leave_all(hold);
        while ((segment = LIST_FIRST(&hold->segments))) {
                LIST_REMOVE(segment, entry);
                free(segment);
        }
        sync_free(atomic_load(&hold->sync));
        if (hold->address)
                (void) munmap(hold->address, hold->mapped_size);
        hold->fd = close_fd(hold->fd);
        free(TAKE_PTR(hold->name));

        if (hold->counted && connection_is_ready(hold->connection))
                LIST_INSERT_HEAD(&hold->connection->ended_holds, hold, entry);
        else
                free(hold);
}

static void ended_holds_forget(struct shmd *connection, size_t count) {
        struct hold *hold;

        while (count-- > 0 && (hold = LIST_FIRST(&connection->ended_holds))) {
                LIST_REMOVE(hold, entry);
                free(hold);
        }
}

static int send_releases(struct shmd *connection, const struct shmd_wire_release *releases, uint32_t count) {
        const struct shmd_wire_many many = { .count = count };

        if (count == 1)
                return call_send(connection, &(struct request) { .operation = SHMD_OP_RELEASE, .body = releases });
        return call_send(connection, &(struct request) {
                                             .operation = SHMD_OP_RELEASE_MANY,
                                             .body = &many,
                                             .tail = releases,
                                             .tail_size = count * sizeof(releases[0]),
                                     });
}

/* If no answer is to come the daemon reads on, whatever we do, and there will be room. */
static bool may_wait_for_room(struct shmd *connection) {
        return !call_is_pending(connection) && call_wait(connection, true, UINT64_MAX) == 0;
}

void holds_tell_ended(struct shmd *connection) {
        struct shmd_wire_release releases[SHMD_DESCRIPTORS_MAX];
        struct hold *hold;
        int r;

        while (connection_is_ready(connection) && !LIST_EMPTY(&connection->ended_holds)) {
                uint32_t count = 0;

                LIST_FOREACH(hold, &connection->ended_holds, entry) {
                        if (count == ELEMENTSOF(releases))
                                break;
                        releases[count++] = (struct shmd_wire_release) { .id = hold->id, .access = hold->access };
                }
                r = send_releases(connection, releases, count);
                if (r != -EAGAIN)
                        ended_holds_forget(connection, count);
                else if (!may_wait_for_room(connection))
                        return;
        }
        if (!connection_is_ready(connection))
                ended_holds_forget(connection, SIZE_MAX);
}

struct hold *hold_free(struct hold *hold) {
        struct shmd *connection;

        if (!hold)
                return NULL;
        connection = hold->connection;
        hold_end(hold);
        if (!LIST_EMPTY(&connection->ended_holds))
                holds_tell_ended(connection);
        return NULL;
}

void hold_freep(struct hold **hold) {
        hold_free(*hold);
}

/* --- its beginning --- */

int hold_add_segment(struct hold *hold, struct shmd_segment **ret_segment) {
        struct shmd_segment *segment = malloc(sizeof(*segment));

        if (!segment)
                return failure_errno(&hold->connection->failure, -ENOMEM);
        *segment = (struct shmd_segment) { .hold = hold };
        sync_begin(segment);
        LIST_INSERT_HEAD(&hold->segments, segment, entry);
        *ret_segment = segment;
        return 0;
}

int hold_reserve(struct shmd *connection, const struct target *target, unsigned flags, struct hold **ret_hold) {
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
                .single_writer = flags & SHMD_SINGLE_WRITER,
                .private = flags & (SHMD_PRIVATE | SHMD_SINGLE_WRITER),
                .unpublished = flags & SHMD_UNPUBLISHED,
        };
        LIST_INIT(&hold->segments);

        if (target->name && !hold->private) {
                hold->name = strndup(target->name, target->name_size);
                if (!hold->name)
                        return failure_errno(&connection->failure, -ENOMEM);
                hold->name_size = target->name_size;
        }
        r = hold_add_segment(hold, &segment);
        if (r < 0)
                return r;

        *ret_hold = TAKE_PTR(hold);
        return 0;
}

/* What POSIX made may have been mapped when it was smaller: what is not mapped is not told of. */
static void hold_set_size(struct hold *hold, uint64_t size) {
        if (!hold->address || size <= hold->mapped_size)
                hold->size = size;
}

/* The daemon gave what is held already: the old hold is good again and has the segment; the new one is given back. */
static void hold_merge(struct hold *hold, struct hold *newer) {
        struct shmd_segment *segment = LIST_FIRST(&newer->segments);

        LIST_REMOVE(segment, entry);
        segment->hold = hold;
        LIST_INSERT_HEAD(&hold->segments, segment, entry);

        hold->generation = newer->generation;
        hold->current = true;
        if (!hold->address)
                hold->maximum = newer->maximum;
        hold_set_size(hold, newer->size);
        if (newer->name) {
                hold_leave_names(hold);
                free(hold->name);
                hold->name = TAKE_PTR(newer->name);
                hold->name_size = newer->name_size;
                hold_enter_names(hold);
        }

        /* If the old one is not counted, this count is its. */
        newer->counted = hold->counted;
        hold->counted = true;
        hold_free(newer);
}

static void hold_enter_trees(struct hold *hold) {
        struct hold *former = RB_FIND(hold_ids, &hold->connection->ids, hold);

        if (former)
                return hold_merge(former, hold);
        (void) RB_INSERT(hold_ids, &hold->connection->ids, hold);
        hold->in_ids = true;
        hold_enter_names(hold);
}

int hold_admit(struct hold *hold, struct opened *opened, struct shmd_segment **ret_segment) {
        struct shmd *connection = hold->connection;
        struct shmd_segment *segment = LIST_FIRST(&hold->segments);

        segment->created = opened->wire.created != 0;
        hold->id = opened->wire.id;
        hold->size = opened->wire.size;
        hold->maximum = MAX(opened->wire.maximum, opened->wire.size);
        hold->generation = opened->wire.generation;
        hold->fd = TAKE_FD(opened->fd);
        hold->current = true;
        hold->counted = true;
        if (hold->fd < 0) { /* the daemon counts a hold that there is not */
                hold_free(hold);
                return failure_errno(&connection->failure, -EMFILE);
        }

        LIST_INSERT_HEAD(&connection->holds, hold, entry);
        hold->in_list = true;
        if (!hold->private)
                hold_enter_trees(hold);
        *ret_segment = segment;
        return 0;
}

void hold_set_published(struct hold *hold) {
        if (!hold->unpublished)
                return;
        hold->unpublished = false;
        hold_enter_names(hold);
}

int hold_resume(struct hold *hold) {
        struct shmd *connection = hold->connection;
        const struct shmd_wire_resume resume = { .id = hold->id, .access = hold->access };
        const struct request request = { .operation = SHMD_OP_RESUME, .body = &resume, .fds = &hold->fd };
        struct shmd_wire_opened opened;
        struct reply reply;
        int r;

        r = call_perform(connection, &request, NULL, &reply);
        if (r < 0 || reply.status != SHMD_OK)
                return r;
        r = reply_read(connection, &reply, &opened, sizeof(opened));
        if (r < 0)
                return r;
        if (opened.id != hold->id)
                return connection_break(connection);

        /* Its generation is of now, what is known of the name is of then: that is not taken over. */
        hold->counted = true;
        return sync_resume(hold);
}

/* --- its memory --- */

/* What shm_open made has no size until somebody gives it one, perhaps after it was opened here. */
static void hold_refresh_size(struct hold *hold) {
        struct stat st;

        if (hold->size == 0 && fstat(hold->fd, &st) == 0)
                hold->size = (uint64_t) st.st_size;
}

/* All that it may grow to: the memory has that size already, and is given back and taken within it. */
int hold_map(struct hold *hold) {
        int protection = hold->access == SHMD_ACCESS_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
        uint64_t size;
        void *address;

        if (hold->address)
                return 0;
        hold_refresh_size(hold);
        size = MAX(hold->size, hold->maximum);
        if (size > SIZE_MAX)
                return failure_errno(&hold->connection->failure, -ENOMEM);
        address = mmap(NULL, (size_t) size, protection, MAP_SHARED, hold->fd, 0);
        if (address == MAP_FAILED)
                return failure_errno(&hold->connection->failure, negative_errno());
        hold->address = address;
        hold->mapped_size = (size_t) size;
        return 0;
}

/* Private holds are found in the list alone; segments are rarely resized. */
void holds_set_size(struct shmd *connection, uint64_t id, uint64_t size) {
        struct hold *hold;

        LIST_FOREACH(hold, &connection->holds, entry)
                if (hold->id == id)
                        hold_set_size(hold, size);
}
