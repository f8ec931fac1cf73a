/* SPDX-License-Identifier: MIT */
/*
 * Questions: stat, list, holders, status. They change nothing, so that any of them may be asked twice.
 *
 * Lists come a page at a time. A page is decoded entry by entry as it is visited; each entry must come after the one
 * before, which makes every list end, whatever the daemon sends.
 */
#include "internal.h"
#include "measure.h"

#include <string.h>

/* --- a segment --- */

/* What is left of a tail that is being decoded. */
struct reader {
        const uint8_t *data;
        size_t size;
};

static bool reader_take(struct reader *reader, void *ret_data, size_t size) {
        if (size > reader->size)
                return false;
        memcpy(ret_data, reader->data, size);
        reader->data += size;
        reader->size -= size;
        return true;
}

/* A string for a buffer of capacity bytes, which are zero. */
static bool reader_take_string(struct reader *reader, char *ret_string, size_t size, size_t capacity) {
        return size < capacity && reader_take(reader, ret_string, size) && !memchr(ret_string, '\0', size);
}

static bool reader_skip_padding(struct reader *reader, size_t size) {
        if (size > reader->size || !wire_is_zero(reader->data, size))
                return false;
        reader->data += size;
        reader->size -= size;
        return true;
}

static bool strings_read(struct reader *reader, const struct shmd_wire_segment *wire, struct shmd_stat *stat) {
        size_t strings = (size_t) wire->name_size + wire->labels_size + wire->command_size + wire->unit_size + wire->executable_size;
        const char *start;
        size_t size;

        return reader_take_string(reader, stat->name, wire->name_size, sizeof(stat->name)) &&
               reader_take_string(reader, stat->labels, wire->labels_size, sizeof(stat->labels)) &&
               reader_take_string(reader, stat->creator_command, wire->command_size, sizeof(stat->creator_command)) &&
               reader_take_string(reader, stat->creator_unit, wire->unit_size, sizeof(stat->creator_unit)) &&
               reader_take_string(reader, stat->creator_executable, wire->executable_size,
                                  sizeof(stat->creator_executable)) &&
               reader_skip_padding(reader, ALIGN8(strings) - strings) &&
               name_check(stat->name, wire->name_size, &start, &size) == NAME_OK && start == stat->name;
}

/* The structure has been taken from the reader; its strings follow there. How much memory it has may be left to measure_segment(). */
static bool segment_read(struct reader *reader, const struct shmd_wire_segment *wire, struct shmd_stat *ret_stat) {
        if (wire->page_shift > 63)
                return false;
        *ret_stat = (struct shmd_stat) {
                .id = wire->id,
                .size_bytes = wire->size,
                .resident_bytes = wire->flags & SHMD_WIRE_SEGMENT_UNMEASURED ? UINT64_MAX : wire->resident,
                .linger_usec = wire->linger_usec,
                .created_usec = wire->created_usec,
                .opened_usec = wire->opened_usec,
                .idle_usec = wire->idle_usec,
                .uid = wire->uid,
                .gid = wire->gid,
                .mode = wire->mode,
                .holders = wire->holders,
                .lifetime = wire->lifetime,
                .state = wire->state,
                .backing = wire->backing,
                .posix = !!(wire->flags & SHMD_WIRE_SEGMENT_POSIX),
                .unknown_holder = !!(wire->flags & SHMD_WIRE_SEGMENT_UNKNOWN),
                .creator_pid = wire->creator_pid,
                .creator_uid = wire->creator_uid,
                .resizable = !!(wire->flags & SHMD_WIRE_SEGMENT_RESIZABLE),
                .single_writer = !!(wire->flags & SHMD_WIRE_SEGMENT_SINGLE_WRITER),
                .truncated = !!(wire->flags & SHMD_WIRE_SEGMENT_TRUNCATED),
                .maximum_bytes = wire->maximum,
                .page_bytes = wire->page_shift ? UINT64_C(1) << wire->page_shift : 0,
                .device = wire->device,
                .inode = wire->inode,
                .creator_started = wire->creator_started,
                .opens = wire->opens,
                .sysv_key = wire->sysv_key,
                .sysv_id = wire->sysv_id,
                .sysv_attached = wire->sysv_attached,
                .registered = !!(wire->flags & SHMD_WIRE_SEGMENT_REGISTERED),
        };
        return wire->id != 0 && wire->padding == 0 && strings_read(reader, wire, ret_stat);
}

static int stat_read(struct shmd *connection, const struct reply *reply, struct shmd_stat *ret_stat) {
        struct reader reader = { reply->tail, reply->tail_size };
        struct shmd_wire_segment wire;
        struct measure measure = { 0 };
        struct shmd_stat stat;

        memcpy(&wire, reply->body, sizeof(wire));
        if (!segment_read(&reader, &wire, &stat) || reader.size > 0)
                return connection_break(connection);
        measure_segment(&measure, &stat);
        measure_done(&measure);
        *ret_stat = stat;
        return 0;
}

static struct request stat_request(const struct target *target, const struct shmd_wire_stat *body) {
        return (struct request) {
                .operation = SHMD_OP_STAT,
                .body = body,
                .tail = target->name,
                .tail_size = target->name_size,
        };
}

static int stat_target(struct shmd *connection, const struct target *target, struct shmd_stat *ret_stat) {
        const struct shmd_wire_stat body = { .target = target->wire };
        const struct request request = stat_request(target, &body);
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        return r < 0 ? r : stat_read(connection, &reply, ret_stat);
}

_public_ int shmd_stat(struct shmd *connection, const char *name, struct shmd_stat *ret_stat) {
        struct target target;
        int r;

        r = target_by_name(connection, name, &target);
        return r < 0 ? r : stat_target(connection, &target, ret_stat);
}

_public_ int shmd_stat_id(struct shmd *connection, uint64_t id, struct shmd_stat *ret_stat) {
        struct target target;
        int r;

        r = target_by_id(connection, id, &target);
        return r < 0 ? r : stat_target(connection, &target, ret_stat);
}

static int async_read_stat(struct async *async, const struct reply *reply) {
        return stat_read(async->connection, reply, async->stat);
}

_public_ int shmd_stat_async(struct shmd *connection, const char *name, shmd_result_function function, void *userdata) {
        struct shmd_wire_stat body;
        struct request request;
        struct target target;
        struct async *async;
        int r;

        r = target_by_name(connection, name, &target);
        if (r < 0)
                return r;
        async = async_new(connection, async_read_stat, &(struct callback) { function, userdata });
        if (!async)
                return -ENOMEM;
        async->stat = malloc(sizeof(*async->stat));
        if (!async->stat) {
                async_free(async);
                return failure_errno(&connection->failure, -ENOMEM);
        }
        body = (struct shmd_wire_stat) { .target = target.wire };
        request = stat_request(&target, &body);
        return async_submit(async, &request, DO_NOT_WAIT);
}

/* --- a list of segments --- */

void list_request_init(struct list_request *request, const struct list_cursor *cursor) {
        bool by_id = cursor->flags & SHMD_WIRE_LIST_UNLINKED;
        size_t after_size = by_id ? 0 : strlen(cursor->last.name);

        request->body = (struct shmd_wire_list) {
                .after_id = cursor->after_id,
                .flags = cursor->flags,
                .prefix_size = (uint16_t) cursor->prefix_size,
                .after_size = (uint16_t) after_size,
        };
        memcpy(request->tail, cursor->prefix, cursor->prefix_size);
        memcpy(request->tail + cursor->prefix_size, cursor->last.name, after_size);
        request->request = (struct request) {
                .operation = SHMD_OP_LIST,
                .body = &request->body,
                .tail = request->tail,
                .tail_size = cursor->prefix_size + after_size,
        };
}

int list_page_init(struct list_page *page, struct list_cursor *cursor, const void *body, const uint8_t *tail,
                   size_t tail_size) {
        bool by_id = cursor->flags & SHMD_WIRE_LIST_UNLINKED;
        struct shmd_wire_list_reply wire;

        memcpy(&wire, body, sizeof(wire));
        /* Each page has to bring it forward, or it would never end. A page by id may have passed over what does not fit. */
        if (wire.more && (by_id ? wire.after_id <= cursor->after_id : wire.count == 0))
                return -EPROTO;
        cursor->after_id = wire.after_id;
        *page = (struct list_page) { .data = tail, .size = tail_size, .left = wire.count };
        cursor->more = wire.more;
        return 0;
}

static bool list_entry_follows(const struct list_cursor *cursor, const struct shmd_stat *next) {
        if (cursor->flags & SHMD_WIRE_LIST_UNLINKED)
                return next->id > cursor->last.id;
        return strcmp(next->name, cursor->last.name) > 0 && strncmp(next->name, cursor->prefix, cursor->prefix_size) == 0;
}

int list_page_next(struct list_page *page, struct list_cursor *cursor) {
        struct reader reader = { page->data, page->size };
        struct shmd_wire_segment wire;
        struct shmd_stat stat;

        if (page->left == 0)
                return page->size > 0 ? -EPROTO : 0;
        if (!reader_take(&reader, &wire, sizeof(wire)) || !segment_read(&reader, &wire, &stat) ||
            !list_entry_follows(cursor, &stat))
                return -EPROTO;
        *page = (struct list_page) { .data = reader.data, .size = reader.size, .left = page->left - 1 };
        cursor->last = stat;
        return 1;
}

/* What a list is told to. */
struct visitor {
        shmd_list_function function;
        void *userdata;
        struct measure measure;
};

static void visitor_done(struct visitor *visitor) {
        measure_done(&visitor->measure);
}

static int list_visit_page(struct shmd *connection, struct list_cursor *cursor, const struct reply *reply, struct visitor *visitor) {
        struct list_page page;
        int r;

        r = list_page_init(&page, cursor, reply->body, reply->tail, reply->tail_size);
        if (r < 0)
                return connection_break(connection);
        while ((r = list_page_next(&page, cursor)) > 0) {
                measure_segment(&visitor->measure, &cursor->last);
                r = visitor->function(&cursor->last, visitor->userdata);
                if (r != 0)
                        return r;
        }
        return r < 0 ? connection_break(connection) : 0;
}

_public_ int shmd_list(struct shmd *connection, const char *prefix, unsigned flags, shmd_list_function function,
                       void *userdata) {
        struct list_cursor cursor = { .flags = flags & SHMD_LIST_UNLINKED ? SHMD_WIRE_LIST_UNLINKED : 0, .more = true };
        _cleanup_(visitor_done) struct visitor visitor = { .function = function, .userdata = userdata };
        struct list_request request;
        enum name_verdict verdict;
        struct reply reply;
        int r;

        if (flags & ~SHMD_LIST_UNLINKED)
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        verdict = name_check_prefix(prefix ?: "", prefix ? strlen(prefix) : 0, &cursor.prefix, &cursor.prefix_size);
        if (verdict != NAME_OK)
                return failure_name(&connection->failure, verdict);

        while (cursor.more) {
                list_request_init(&request, &cursor);
                r = connection_call(connection, &request.request, &reply);
                if (r < 0)
                        return r;
                r = list_visit_page(connection, &cursor, &reply, &visitor);
                if (r != 0)
                        return r;
        }
        return 0;
}

/* --- the holders of a segment --- */

struct holders_walk {
        struct shmd *connection;
        struct target target;
        shmd_holder_function function;
        void *userdata;
        uint64_t last; /* key of the holder visited last */
        bool more;
};

static int holders_ask(struct holders_walk *walk, struct reply *ret_reply) {
        const struct shmd_wire_holders body = { .target = walk->target.wire, .after = walk->last };
        const struct request request = { .operation = SHMD_OP_HOLDERS, .body = &body };

        return connection_call(walk->connection, &request, ret_reply);
}

static void holder_read(const struct shmd_wire_holder *wire, struct shmd_holder *ret_holder) {
        *ret_holder = (struct shmd_holder) {
                .since_usec = wire->since_usec,
                .pid = wire->pid,
                .uid = wire->uid,
                .gid = wire->gid,
                .write = wire->access == SHMD_ACCESS_WRITE,
                .count = wire->count,
                .detached = wire->detached != 0,
        };
        memcpy(ret_holder->command, wire->command, strnlen(wire->command, sizeof(wire->command)));
        memcpy(ret_holder->unit, wire->unit, strnlen(wire->unit, sizeof(wire->unit)));
}

static int holders_visit_entry(struct holders_walk *walk, struct reader *reader) {
        struct shmd_wire_holder wire;
        struct shmd_holder holder;

        if (!reader_take(reader, &wire, sizeof(wire)) || wire.key <= walk->last || wire.access > SHMD_ACCESS_WRITE)
                return connection_break(walk->connection);
        walk->last = wire.key;
        holder_read(&wire, &holder);
        return walk->function(&holder, walk->userdata);
}

static int holders_visit_page(struct holders_walk *walk, const struct reply *reply) {
        struct reader reader = { reply->tail, reply->tail_size };
        struct shmd_wire_holders_reply page;
        int r;

        memcpy(&page, reply->body, sizeof(page));
        if (page.hidden)
                return failure_words(&walk->connection->failure, -EPERM,
                                     "only its owner or an administrator may see who holds it");
        for (uint32_t i = 0; i < page.count; i++) {
                r = holders_visit_entry(walk, &reader);
                if (r != 0)
                        return r;
        }
        if (reader.size > 0 || (page.more && page.count == 0))
                return connection_break(walk->connection);
        walk->more = page.more;
        return 0;
}

_public_ int shmd_holders(struct shmd *connection, uint64_t id, shmd_holder_function function, void *userdata) {
        struct holders_walk walk = {
                .connection = connection,
                .function = function,
                .userdata = userdata,
                .more = true,
        };
        struct reply reply;
        int r;

        r = target_by_id(connection, id, &walk.target);
        if (r < 0)
                return r;
        while (walk.more) {
                r = holders_ask(&walk, &reply);
                if (r < 0)
                        return r;
                r = holders_visit_page(&walk, &reply);
                if (r != 0)
                        return r;
        }
        return 0;
}

/* --- the daemon --- */

/* The order of the wire's account: bytes, segments, holds, connections, watches. */
static struct shmd_use use_at(const struct shmd_wire_status_reply *wire, unsigned i) {
        return (struct shmd_use) { .used = wire->used[i], .maximum = wire->maximum[i] };
}

static void status_read(const struct shmd_wire_status_reply *wire, struct shmd_status *ret_status) {
        *ret_status = (struct shmd_status) {
                .started_usec = wire->started_usec,
                .uptime_usec = wire->uptime_usec,
                .instance = wire->instance,
                .segments = wire->segments,
                .unlinked = wire->unlinked,
                .bytes = wire->bytes,
                .holds = wire->holds,
                .connections = wire->connections,
                .descriptors = wire->descriptors,
                .descriptors_max = wire->descriptors_max,
                .memory_available_bytes = wire->memory_available,
                .pid = wire->pid,
                .uid = wire->uid,
                .my_bytes = use_at(wire, 0),
                .my_segments = use_at(wire, 1),
                .my_holds = use_at(wire, 2),
                .my_connections = use_at(wire, 3),
                .my_watches = use_at(wire, 4),
                .watchdog_usec = wire->watchdog_usec,
        };
        ret_status->restarts = wire->restarts;
        ret_status->serving_usec = wire->serving_usec;
        ret_status->store = wire->store;
        ret_status->store_entries = wire->store_entries;
        ret_status->store_failing_usec = wire->store_failing_usec;
        ret_status->store_failure = wire->store_failure;
        memcpy(ret_status->version, wire->version, strnlen(wire->version, sizeof(ret_status->version) - 1));
}

static int status_read_reply(struct shmd *connection, const struct reply *reply, struct shmd_status *ret_status) {
        struct shmd_wire_status_reply wire;
        int r;

        r = reply_read(connection, reply, &wire, sizeof(wire));
        if (r < 0)
                return r;
        status_read(&wire, ret_status);
        return 0;
}

static const struct shmd_wire_status status_body;
static const struct request status_request = { .operation = SHMD_OP_STATUS, .body = &status_body };

_public_ int shmd_status(struct shmd *connection, struct shmd_status *ret_status) {
        struct reply reply;
        int r;

        r = connection_call(connection, &status_request, &reply);
        return r < 0 ? r : status_read_reply(connection, &reply, ret_status);
}

static int async_read_status(struct async *async, const struct reply *reply) {
        return status_read_reply(async->connection, reply, async->status);
}

_public_ int shmd_status_async(struct shmd *connection, shmd_result_function function, void *userdata) {
        struct async *async;

        async = async_new(connection, async_read_status, &(struct callback) { function, userdata });
        if (!async)
                return -ENOMEM;
        async->status = malloc(sizeof(*async->status));
        if (!async->status) {
                async_free(async);
                return failure_errno(&connection->failure, -ENOMEM);
        }
        return async_submit(async, &status_request, DO_NOT_WAIT);
}

/* --- all users --- */

struct accounts_walk {
        struct shmd *connection;
        shmd_account_function function;
        void *userdata;
        struct shmd_wire_accounts body; /* of the next request */
        bool more;
};

static struct shmd_use account_use_at(const struct shmd_wire_account *wire, unsigned i) {
        return (struct shmd_use) { .used = wire->used[i], .maximum = wire->maximum[i] };
}

static int accounts_visit_entry(struct accounts_walk *walk, struct reader *reader) {
        struct shmd_wire_account wire;
        struct shmd_account account;

        if (!reader_take(reader, &wire, sizeof(wire)) || wire.padding != 0 ||
            (walk->body.flags != 0 && wire.uid <= walk->body.after_uid))
                return connection_break(walk->connection);
        walk->body = (struct shmd_wire_accounts) { .after_uid = wire.uid, .flags = SHMD_WIRE_ACCOUNTS_AFTER };
        account = (struct shmd_account) {
                .uid = wire.uid,
                .bytes = account_use_at(&wire, 0),
                .segments = account_use_at(&wire, 1),
                .holds = account_use_at(&wire, 2),
                .connections = account_use_at(&wire, 3),
                .watches = account_use_at(&wire, 4),
        };
        return walk->function(&account, walk->userdata);
}

static int accounts_visit_page(struct accounts_walk *walk) {
        const struct request request = { .operation = SHMD_OP_ACCOUNTS, .body = &walk->body };
        struct shmd_wire_accounts_reply page;
        struct reader reader;
        struct reply reply;
        int r;

        r = connection_call(walk->connection, &request, &reply);
        if (r < 0)
                return r;
        memcpy(&page, reply.body, sizeof(page));
        reader = (struct reader) { reply.tail, reply.tail_size };
        for (uint32_t i = 0; i < page.count; i++) {
                r = accounts_visit_entry(walk, &reader);
                if (r != 0)
                        return r;
        }
        if (reader.size > 0 || (page.more && page.count == 0))
                return connection_break(walk->connection);
        walk->more = page.more;
        return 0;
}

_public_ int shmd_accounts(struct shmd *connection, shmd_account_function function, void *userdata) {
        struct accounts_walk walk = { .connection = connection, .function = function, .userdata = userdata, .more = true };
        int r = 0;

        while (r == 0 && walk.more)
                r = accounts_visit_page(&walk);
        return r;
}
