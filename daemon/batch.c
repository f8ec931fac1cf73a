/* SPDX-License-Identifier: MIT */
#include "batch.h"

#include <fcntl.h>
#include <string.h>

#include "creating.h"
#include "daemon.h"
#include "util.h"

/* Creations a turn: an eighth of a millisecond, about. */
#define CREATIONS_A_TURN 8u
/* Openings a turn for which the memory has to be opened, too; the others cost next to nothing. */
#define OPENINGS_A_TURN 16u

static struct shmd_wire_item items[SHMD_DESCRIPTORS_MAX];

/* Nothing of it is left in the context for the next one. */
static struct shmd_wire_item failed_item(struct op_context *context, int r) {
        report_refusal(context, r);
        context->segment = NULL;
        context->name = NULL;
        context->refusal = (struct shmd_wire_refusal) { 0 };
        return (struct shmd_wire_item) { .status = r < 0 ? status_from_errno(r) : (uint32_t) r };
}

/* --- OPEN_MANY: one thread, one at a time --- */

static struct opening openings[SHMD_DESCRIPTORS_MAX];

/* The next name of a tail: a 16-bit size before it. False if it is not all there. */
static bool take_name(const char **tail, size_t *tail_size, const char **ret_name, size_t *ret_size) {
        uint16_t size;

        if (*tail_size < sizeof(size))
                return false;
        memcpy(&size, *tail, sizeof(size));
        if (size > *tail_size - sizeof(size))
                return false;
        *ret_name = *tail + sizeof(size);
        *ret_size = size;
        *tail += sizeof(size) + size;
        *tail_size -= sizeof(size) + size;
        return true;
}

static bool names_are_all_there(const char *tail, size_t tail_size, uint32_t count) {
        const char *name = NULL;
        size_t size = 0;

        for (uint32_t i = 0; i < count; i++)
                if (!take_name(&tail, &tail_size, &name, &size))
                        return false;
        return tail_size == 0;
}

static int prepare_by_name(struct op_context *context, const char *name, size_t size, uint32_t flags, struct opening *opening) {
        struct segment *segment;
        int r;

        r = op_check_name(name, size, &name, &size);
        if (r != 0)
                return r;
        context->name = name;
        context->name_size = size;
        segment = registry_find_name(&context->daemon->registry, name, size);
        if (!segment)
                return SHMD_NOT_FOUND;
        (void) memfd_refresh(segment);
        return opening_prepare_open(context, segment, flags, opening);
}

/* How many of the names stand for segments whose memory has to be opened. */
static uint32_t count_costly(struct op_context *context, const struct shmd_wire_many *body) {
        bool write = body->flags & SHMD_WIRE_WRITE;
        const char *tail = context->tail, *name = NULL;
        size_t tail_size = context->tail_size, size = 0;
        uint32_t count = 0;

        if (body->flags & (SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED))
                return body->count;
        for (uint32_t i = 0; i < body->count; i++) {
                struct segment *segment;

                (void) take_name(&tail, &tail_size, &name, &size);
                if (op_check_name(name, size, &name, &size) != 0)
                        continue;
                segment = registry_find_name(&context->daemon->registry, name, size);
                count += segment && segment->custody.shared_fd[write] < 0;
        }
        return count;
}

static int batch_start(struct op_context *context, const struct shmd_wire_many *body);

int op_open_many(struct op_context *context, const struct shmd_wire_many *body) {
        struct shmd_wire_many_reply reply = { .count = body->count };
        const char *tail = context->tail, *name = NULL;
        size_t tail_size = context->tail_size, size = 0;
        struct wire_fds fds = WIRE_FDS_INIT;
        uint32_t opened = 0;
        int r;

        if (body->count == 0 || body->count > SHMD_DESCRIPTORS_MAX || !names_are_all_there(tail, tail_size, body->count))
                return SHMD_MALFORMED;
        if (body->flags & ~OPEN_FLAGS)
                return SHMD_INVALID;

        if (count_costly(context, body) > OPENINGS_A_TURN)
                return batch_start(context, body);
        memfd_pin(&context->daemon->memfd, true);
        for (uint32_t i = 0; i < body->count; i++) {
                (void) take_name(&tail, &tail_size, &name, &size);
                r = prepare_by_name(context, name, size, body->flags, &openings[opened]);
                if (r != 0) {
                        items[i] = failed_item(context, r);
                        continue;
                }
                items[i] = (struct shmd_wire_item) { .opened = opening_describe(context->daemon, &openings[opened]) };
                fds.fd[fds.count++] = openings[opened++].fd;
        }
        r = op_reply_with_all(context, &reply, items, body->count * sizeof(items[0]), fds.fd, fds.count);
        for (uint32_t i = 0; i < opened; i++)
                if (r < 0)
                        opening_abort(context, &openings[i]);
                else
                        opening_commit(context, &openings[i]);
        memfd_pin(&context->daemon->memfd, false);
        return r;
}

/* --- CREATE_MANY --- */

struct batch {
        struct session *session;
        struct event *event;
        char *tail;
        size_t tail_size, offset;
        uint32_t serial, count, index;
        uint16_t operation; /* OPEN_MANY or CREATE_MANY */
        uint32_t flags;     /* of an OPEN_MANY */
        struct shmd_wire_item items[SHMD_DESCRIPTORS_MAX];
        struct wire_fds fds; /* its own */
        struct charge charge; /* for as many as there may be of them */
};

void batch_free(struct batch *batch) {
        if (!batch)
                return;
        wire_fds_done(&batch->fds);
        charge_done(&batch->charge);
        if (batch->event)
                event_free(batch->event);
        free(batch->tail);
        free(batch);
}

/* The size of the item that stands at an offset of the tail, padding included; 0 if it is not all there. */
static size_t item_size(const char *tail, size_t tail_size, size_t offset) {
        const struct shmd_wire_create *create = (const struct shmd_wire_create *) (tail + offset);
        size_t strings, size;

        if (tail_size - offset < sizeof(*create))
                return 0;
        strings = (size_t) create->name_size + create->labels_size;
        size = ALIGN8(sizeof(*create) + strings);
        if (size > tail_size - offset || !wire_is_zero(tail + offset + sizeof(*create) + strings, size - sizeof(*create) - strings))
                return 0;
        return size;
}

static bool items_are_all_there(const char *tail, size_t tail_size, uint32_t count) {
        size_t offset = 0;

        for (uint32_t i = 0; i < count; i++) {
                size_t size = item_size(tail, tail_size, offset);

                if (size == 0)
                        return false;
                offset += size;
        }
        return offset == tail_size;
}

/* The descriptor has to last until the answer: what is shared may be closed meanwhile. */
static int keep_fd(struct batch *batch, struct opening *opening) {
        int fd;

        if (opening->fd_owned)
                fd = opening->fd;
        else {
                fd = fcntl(opening->fd, F_DUPFD_CLOEXEC, 3);
                if (fd < 0)
                        return negative_errno();
        }
        opening->fd_owned = false;
        batch->fds.fd[batch->fds.count++] = fd;
        return 0;
}

/* What was prepared is done, and its descriptor waits for the answer. */
static struct shmd_wire_item finish_item(struct op_context *context, struct batch *batch, struct opening *opening) {
        struct shmd_wire_item item = { .opened = opening_describe(context->daemon, opening) };
        int r;

        r = keep_fd(batch, opening);
        if (r < 0) {
                opening_abort(context, opening);
                return failed_item(context, r);
        }
        opening_commit(context, opening);
        return item;
}

static struct shmd_wire_item create_item(struct op_context *context, struct batch *batch) {
        const struct shmd_wire_create *create = (const struct shmd_wire_create *) (batch->tail + batch->offset);
        struct opening opening;
        int r;

        r = creating_prepare(context, create, (const char *) (create + 1), (size_t) create->name_size + create->labels_size,
                             NULL, &opening);
        return r != 0 ? failed_item(context, r) : finish_item(context, batch, &opening);
}

static struct shmd_wire_item open_item(struct op_context *context, struct batch *batch, const char *name, size_t size) {
        struct opening opening;
        int r;

        r = prepare_by_name(context, name, size, batch->flags, &opening);
        return r != 0 ? failed_item(context, r) : finish_item(context, batch, &opening);
}

/* The next item of a batch */
static void batch_step(struct op_context *context, struct batch *batch) {
        struct shmd_wire_item *item = &batch->items[batch->index++];
        const char *tail = batch->tail + batch->offset, *name = NULL;
        size_t tail_size = batch->tail_size - batch->offset, size = 0;

        if (batch->operation == SHMD_OP_CREATE_MANY) {
                *item = create_item(context, batch);
                batch->offset += item_size(batch->tail, batch->tail_size, batch->offset);
                return;
        }
        (void) take_name(&tail, &tail_size, &name, &size);
        batch->offset = batch->tail_size - tail_size;
        *item = open_item(context, batch, name, size);
}

static struct op_context batch_context(struct batch *batch) {
        return (struct op_context) {
                .daemon = batch->session->daemon,
                .session = batch->session,
                .operation = operation_find(batch->operation),
                .serial = batch->serial,
                .now_usec = now_realtime_usec(),
        };
}

static int finish(struct op_context *context, struct batch *batch) {
        struct shmd_wire_many_reply reply = { .count = batch->count };
        struct session *session = batch->session;
        int r;

        r = op_reply_with_all(context, &reply, batch->items, batch->count * sizeof(batch->items[0]), batch->fds.fd, batch->fds.count);
        batch_free(TAKE_PTR(session->batch));
        session_set_busy(session, false);
        return r;
}

static void on_turn(evutil_socket_t fd, short what, void *userdata) {
        static const struct timeval at_once;
        struct batch *batch = userdata;
        struct session *session = batch->session;
        struct op_context context = batch_context(batch);
        unsigned turn = batch->operation == SHMD_OP_CREATE_MANY ? CREATIONS_A_TURN : OPENINGS_A_TURN;
        int r = 0;

        (void) fd;
        (void) what;
        daemon_let_others();
        for (unsigned i = 0; i < turn && batch->index < batch->count; i++)
                batch_step(&context, batch);
        if (batch->index < batch->count)
                r = evtimer_add(batch->event, &at_once);
        else
                r = finish(&context, batch);
        if (r < 0) {
                report_broken(session, r);
                session_close(session);
        } else
                daemon_settle(session->daemon);
}

static int batch_new(struct op_context *context, const struct shmd_wire_many *body, struct batch **ret_batch) {
        struct batch *batch = calloc(1, sizeof(*batch));
        int r;

        if (!batch)
                return -ENOMEM;
        r = quota_charge(&context->daemon->quota, context->session->credentials.uid, QUOTA_DESCRIPTORS, body->count, &batch->charge,
                         &context->refusal);
        if (r != 0) {
                batch_free(batch);
                return r;
        }
        batch->session = context->session;
        batch->serial = context->serial;
        batch->operation = context->operation->number;
        batch->flags = body->flags;
        batch->count = body->count;
        batch->tail_size = context->tail_size;
        batch->tail = malloc(context->tail_size);
        batch->event = evtimer_new(context->daemon->base, on_turn, batch);
        if (!batch->tail || !batch->event) {
                batch_free(batch);
                return -ENOMEM;
        }
        memcpy(batch->tail, context->tail, context->tail_size);
        *ret_batch = batch;
        return 0;
}

static int batch_start(struct op_context *context, const struct shmd_wire_many *body) {
        struct batch *batch;
        int r;

        r = batch_new(context, body, &batch);
        if (r != 0)
                return r;
        op_answer_later(context);
        context->session->batch = batch;
        session_set_busy(context->session, true);
        event_active(batch->event, EV_TIMEOUT, 1);
        return 0;
}

int op_create_many(struct op_context *context, const struct shmd_wire_many *body) {
        if (body->flags != 0 || body->count == 0 || body->count > SHMD_DESCRIPTORS_MAX ||
            !items_are_all_there(context->tail, context->tail_size, body->count))
                return SHMD_MALFORMED;
        return batch_start(context, body);
}
