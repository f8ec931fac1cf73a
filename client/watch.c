/* SPDX-License-Identifier: MIT */
/*
 * Watches: what happens to names.
 *
 * Owns the watches and the events that were received for them and not yet told. Their number is bounded: beyond it
 * events are dropped, and each watch is told so after the last that it gets.
 *
 * A snapshot begins after the watch does, so that what changes meanwhile comes as an event. Those wait until the
 * snapshot has been told: its pages are asked for one by one, as the program dispatches.
 *
 * Numbers of watches are the library's own, as the daemon's change when a watch is set again on a new connection.
 */
#include "internal.h"

#include <string.h>

/* Of one connection, all watches together. */
#define EVENTS_MAX 4096u

struct snapshot;

struct watch {
        RB_ENTRY(watch) by_key;
        LIST_ENTRY(watch) entry;
        uint64_t number;
        uint64_t key; /* the daemon's number */
        uint32_t flags; /* enum shmd_wire_watch_flags */
        size_t prefix_size;
        char prefix[SHMD_NAME_MAX + 1];
        shmd_event_function function;
        void *userdata;
        struct notice lost;
        LIST_HEAD(, event) events;
        struct snapshot *snapshot;
};

struct event {
        struct notice notice; /* first */
        LIST_ENTRY(event) entry;
        struct watch *watch;
        struct shmd_wire_event wire;
        char names[]; /* the name, the old name */
};

struct snapshot {
        struct watch *watch; /* NULL: it has ended, while a page was told */
        bool telling;
        struct async *async; /* the page that was asked for */
        struct list_cursor cursor;
        struct notice_queue held; /* of the watch, until the end */
};

static int watch_compare(struct watch *a, struct watch *b) {
        return (a->key > b->key) - (a->key < b->key);
}

TREE_GENERATE(watch_keys, watch, by_key, watch_compare)

/* --- telling --- */

/* In order, and after the snapshot. */
static void watch_queue(struct shmd *connection, struct watch *watch, struct notice *notice) {
        if (watch->snapshot)
                notice_insert(&watch->snapshot->held, notice);
        else
                notice_queue(connection, notice);
}

static void event_free(struct shmd *connection, struct event *event) {
        notice_cancel(&event->notice);
        LIST_REMOVE(event, entry);
        connection->events_count--;
        free(event);
}

static unsigned event_deliver(struct shmd *connection, struct notice *notice) {
        struct event *event = (struct event *) notice; /* its first member */
        struct watch *watch = event->watch;
        const struct shmd_wire_event *wire = &event->wire;
        struct shmd_event told = {
                .watch = watch->number,
                .id = wire->id,
                .size_bytes = wire->size,
                .time_usec = wire->time_usec,
                .kind = wire->kind,
                .uid = wire->uid,
        };

        memcpy(told.name, event->names, wire->name_size);
        memcpy(told.old_name, event->names + wire->name_size, wire->old_name_size);
        event_free(connection, event);
        watch->function(connection, &told, watch->userdata);
        return 1;
}

static unsigned lost_deliver(struct shmd *connection, struct notice *notice) {
        struct watch *watch = (struct watch *) ((char *) notice - offsetof(struct watch, lost));

        watch->function(connection, &(struct shmd_event) { .kind = SHMD_EVENT_LOST }, watch->userdata);
        return 1;
}

/* After all that was received before: what the program then looks up is newer than anything it has been told. */
static void watch_set_lost(struct shmd *connection, struct watch *watch) {
        notice_cancel(&watch->lost);
        watch_queue(connection, watch, &watch->lost);
}

static void watches_set_lost(struct shmd *connection) {
        struct watch *watch;

        LIST_FOREACH(watch, &connection->watches, entry)
                watch_set_lost(connection, watch);
}

/* --- receiving --- */

static bool name_is_valid(const char *name, size_t size) {
        const char *start;
        size_t length;

        return name_check(name, size, &start, &length) == NAME_OK && start == name;
}

static bool event_is_valid(const struct shmd_wire_event *wire, const char *names, size_t size) {
        if (!wire_is_zero(wire->padding, sizeof(wire->padding)) || size != (size_t) wire->name_size + wire->old_name_size)
                return false;
        if (wire->kind == WIRE_EVENT_LOST)
                return size == 0;
        return name_is_valid(names, wire->name_size) &&
               (wire->old_name_size == 0 || name_is_valid(names + wire->name_size, wire->old_name_size));
}

static bool event_insert(struct shmd *connection, struct watch *watch, const struct shmd_wire_event *wire, const char *names,
                         size_t size) {
        struct event *event = connection->events_count < EVENTS_MAX ? malloc(sizeof(*event) + size) : NULL;

        if (!event)
                return false;
        event->notice = (struct notice) { .deliver = event_deliver };
        event->watch = watch;
        event->wire = *wire;
        memcpy(event->names, names, size);
        LIST_INSERT_HEAD(&watch->events, event, entry);
        connection->events_count++;
        watch_queue(connection, watch, &event->notice);
        return true;
}

bool watch_receive(struct shmd *connection, const uint8_t *bytes, size_t size) {
        struct shmd_wire_event wire;
        const char *names = (const char *) bytes + sizeof(wire);
        struct watch key, *watch;

        if (size < sizeof(wire))
                return false;
        memcpy(&wire, bytes, sizeof(wire));
        size -= sizeof(wire);
        if (!event_is_valid(&wire, names, size))
                return false;

        if (wire.kind == WIRE_EVENT_LOST) {
                watches_set_lost(connection);
                return true;
        }
        if (wire.kind == WIRE_EVENT_RESIZED)
                holds_set_size(connection, wire.id, wire.size);
        key.key = wire.watch;
        watch = RB_FIND(watch_keys, &connection->watch_keys, &key);
        /* It may have been on its way when the watch ended; kinds that are newer than we are nobody asked for. */
        if (!watch || wire.kind < WIRE_EVENT_CREATED || wire.kind > WIRE_EVENT_LOST)
                return true;
        if (!event_insert(connection, watch, &wire, names, size))
                watch_set_lost(connection, watch);
        return true;
}

/* --- the snapshot --- */

/* What was held comes next. */
static void snapshot_end(struct shmd *connection, struct snapshot *snapshot) {
        struct watch *watch = snapshot->watch;

        watch->snapshot = NULL;
        notice_queue_first(connection, &snapshot->held);
        free(snapshot);
        watch->function(connection, &(struct shmd_event) { .watch = watch->number, .kind = SHMD_EVENT_SNAPSHOT_END },
                        watch->userdata);
}

static void snapshot_fail(struct shmd *connection, struct snapshot *snapshot) {
        watch_set_lost(connection, snapshot->watch);
        snapshot_end(connection, snapshot);
}

static void tell_present(struct shmd *connection, const struct watch *watch, const struct shmd_stat *stat) {
        struct shmd_event told = {
                .watch = watch->number,
                .id = stat->id,
                .size_bytes = stat->size_bytes,
                .time_usec = stat->created_usec,
                .kind = SHMD_EVENT_PRESENT,
                .uid = stat->uid,
        };

        memcpy(told.name, stat->name, sizeof(told.name));
        watch->function(connection, &told, watch->userdata);
}

/* The very name comes first of all that begin so. */
static bool is_wanted(struct snapshot *snapshot) {
        struct watch *watch = snapshot->watch;

        if (!(watch->flags & SHMD_WIRE_WATCH_EXACT))
                return true;
        snapshot->cursor.more = false;
        return strlen(snapshot->cursor.last.name) == watch->prefix_size;
}

/* Each function that is called may end the watch. */
static int tell_page(struct shmd *connection, struct snapshot *snapshot, struct list_page *page) {
        int r;

        while (snapshot->watch) {
                r = list_page_next(page, &snapshot->cursor);
                if (r <= 0)
                        return r;
                if (!is_wanted(snapshot))
                        return 0;
                tell_present(connection, snapshot->watch, &snapshot->cursor.last);
        }
        return 0;
}

static int read_page(struct async *async, const struct reply *reply) {
        size_t body_size = sizeof(struct shmd_wire_list_reply);

        async->page_size = body_size + reply->tail_size;
        async->page = malloc(async->page_size);
        if (!async->page)
                return failure_errno(&async->connection->failure, -ENOMEM);
        memcpy(async->page, reply->body, async->page_size); /* the tail follows */
        return 0;
}

static unsigned page_deliver(struct shmd *connection, struct async *async);

/* The first page, or the one after the last entry. Waits for room, if need be: the program may have submitted a lot. */
static int snapshot_ask(struct shmd *connection, struct snapshot *snapshot) {
        struct list_request request;
        struct async *async;
        int r;

        async = async_new(connection, read_page, NULL);
        if (!async)
                return -ENOMEM;
        async->owner = snapshot;
        async->finish = page_deliver;
        list_request_init(&request, &snapshot->cursor);
        r = async_submit(async, &request.request, WAIT_FOR_ROOM);
        if (r == 0)
                snapshot->async = async;
        return r;
}

static int page_read(struct shmd *connection, struct snapshot *snapshot, struct async *async) {
        size_t body_size = sizeof(struct shmd_wire_list_reply);
        struct list_page page;
        int r;

        if (async->result < 0)
                return async->result;
        r = list_page_init(&page, &snapshot->cursor, async->page, (const uint8_t *) async->page + body_size,
                           async->page_size - body_size);
        if (r == 0)
                r = tell_page(connection, snapshot, &page);
        return r == -EPROTO ? connection_break(connection) : r;
}

static unsigned page_deliver(struct shmd *connection, struct async *async) {
        struct snapshot *snapshot = async->owner;
        int r;

        snapshot->async = NULL;
        snapshot->telling = true;
        r = page_read(connection, snapshot, async);
        snapshot->telling = false;
        if (!snapshot->watch) {
                free(snapshot);
                return 1;
        }
        if (r == 0 && snapshot->cursor.more)
                r = snapshot_ask(connection, snapshot);
        else if (r == 0)
                snapshot_end(connection, snapshot);
        if (r < 0)
                snapshot_fail(connection, snapshot);
        return 1;
}

static int snapshot_begin(struct shmd *connection, struct watch *watch) {
        struct snapshot *snapshot = calloc(1, sizeof(*snapshot));

        if (!snapshot)
                return failure_errno(&connection->failure, -ENOMEM);
        snapshot->watch = watch;
        snapshot->cursor = (struct list_cursor) { .prefix = watch->prefix, .prefix_size = watch->prefix_size, .more = true };
        TAILQ_INIT(&snapshot->held);
        watch->snapshot = snapshot;
        return snapshot_ask(connection, snapshot);
}

/* --- a watch --- */

static void snapshot_cancel(struct snapshot *snapshot) {
        if (!snapshot)
                return;
        snapshot->watch = NULL;
        if (snapshot->telling) /* then who tells frees it */
                return;
        if (snapshot->async)
                async_forget(snapshot->async);
        free(snapshot);
}

static void watch_free(struct shmd *connection, struct watch *watch) {
        struct event *event;

        while ((event = LIST_FIRST(&watch->events)))
                event_free(connection, event);
        notice_cancel(&watch->lost);
        snapshot_cancel(watch->snapshot);
        if (watch->key != 0)
                (void) RB_REMOVE(watch_keys, &connection->watch_keys, watch);
        LIST_REMOVE(watch, entry);
        free(watch);
}

static int watch_new(struct shmd *connection, const char *prefix, unsigned flags, shmd_event_function function,
                     void *userdata,
                     struct watch **ret_watch) {
        enum name_verdict verdict;
        struct watch *watch;
        const char *start;
        size_t size;

        if (flags & ~(SHMD_WATCH_EXACT | SHMD_WATCH_SNAPSHOT))
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        if (!function)
                return failure_words(&connection->failure, -EINVAL, "no function to call");
        verdict = name_check_prefix(prefix ?: "", prefix ? strlen(prefix) : 0, &start, &size);
        if (verdict == NAME_OK && (flags & SHMD_WATCH_EXACT))
                verdict = name_check(start, size, &start, &size);
        if (verdict != NAME_OK)
                return failure_name(&connection->failure, verdict);

        watch = calloc(1, sizeof(*watch));
        if (!watch)
                return failure_errno(&connection->failure, -ENOMEM);
        watch->flags = flags & SHMD_WATCH_EXACT ? SHMD_WIRE_WATCH_EXACT : 0;
        watch->prefix_size = size;
        memcpy(watch->prefix, start, size);
        watch->function = function;
        watch->userdata = userdata;
        watch->lost.deliver = lost_deliver;
        *ret_watch = watch;
        return 0;
}

static struct shmd_wire_watch watch_body(const struct watch *watch) {
        return (struct shmd_wire_watch) { .flags = watch->flags, .prefix_size = (uint16_t) watch->prefix_size };
}

/* On a connection that has gone a watch has gone, too: no harm in asking again. */
static struct request watch_request(const struct watch *watch, const struct shmd_wire_watch *body) {
        return (struct request) {
                .operation = SHMD_OP_WATCH,
                .body = body,
                .tail = watch->prefix,
                .tail_size = watch->prefix_size,
        };
}

static int watch_admit(struct shmd *connection, struct watch *watch, const struct reply *reply) {
        struct shmd_wire_watch_reply body;
        int r;

        r = reply_read(connection, reply, &body, sizeof(body));
        if (r < 0)
                return r;
        watch->key = body.watch;
        if (body.watch != 0 && !RB_INSERT(watch_keys, &connection->watch_keys, watch))
                return 0;
        watch->key = 0;
        return connection_break(connection);
}

static int watch_set(struct shmd *connection, struct watch *watch) {
        const struct shmd_wire_watch body = watch_body(watch);
        const struct request request = watch_request(watch, &body);
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        return r < 0 ? r : watch_admit(connection, watch, &reply);
}

_public_ int shmd_watch(struct shmd *connection, const char *prefix, unsigned flags, shmd_event_function function,
                        void *userdata, uint64_t *ret_watch) {
        struct watch *watch = NULL;
        int r;

        r = watch_new(connection, prefix, flags, function, userdata, &watch);
        if (r < 0)
                return r;
        r = watch_set(connection, watch);
        if (r < 0) {
                free(watch);
                return r;
        }
        watch->number = ++connection->last_watch;
        LIST_INSERT_HEAD(&connection->watches, watch, entry);
        if (flags & SHMD_WATCH_SNAPSHOT) {
                r = snapshot_begin(connection, watch);
                if (r < 0) {
                        (void) shmd_unwatch(connection, watch->number);
                        return r;
                }
        }
        if (ret_watch)
                *ret_watch = watch->number;
        return 0;
}

/* The daemon need not be there: then there is nothing to end. */
_public_ int shmd_unwatch(struct shmd *connection, uint64_t number) {
        struct shmd_wire_unwatch body;
        struct watch *watch;

        LIST_FOREACH(watch, &connection->watches, entry)
                if (watch->number == number)
                        break;
        if (!watch)
                return failure_words(&connection->failure, -ENOENT, "no such watch");

        body.watch = watch->key;
        watch_free(connection, watch);
        if (connection_is_ready(connection))
                (void) async_call(connection, &(struct request) { .operation = SHMD_OP_UNWATCH, .of_connection = true, .body = &body },
                                  &(struct callback) { NULL, NULL }, WAIT_FOR_ROOM);
        return 0;
}

/* --- after a loss, in a child --- */

int watches_resume(struct shmd *connection) {
        struct watch *watch;
        struct reply reply;
        int r;

        RB_INIT(&connection->watch_keys);
        LIST_FOREACH(watch, &connection->watches, entry)
                watch->key = 0;
        LIST_FOREACH(watch, &connection->watches, entry) {
                const struct shmd_wire_watch body = watch_body(watch);
                const struct request request = watch_request(watch, &body);

                r = call_perform(connection, &request, NULL, &reply);
                if (r == 0)
                        r = reply.status == SHMD_OK ? watch_admit(connection, watch, &reply)
                                                    : reply_refused(&connection->failure, &reply);
                if (r < 0)
                        return r;
        }
        watches_set_lost(connection);
        return 0;
}

void watches_drop(struct shmd *connection) {
        struct watch *watch;

        while ((watch = LIST_FIRST(&connection->watches)))
                watch_free(connection, watch);
}
