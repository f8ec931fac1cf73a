/* SPDX-License-Identifier: MIT */
/*
 * Handlers of a segment's life between creation and end: PUBLISH, SET_LIFETIME, RESIZE, FREEZE.
 *
 * What may take the kernel long, proving that nobody can write or giving gigabytes back, is the
 * worker's; those of one segment run one after the other. The client that
 * asked is not read from meanwhile, so that its requests keep theirs.
 */
#include <fcntl.h>
#include <string.h>

#include "daemon.h"
#include "dispatch.h"
#include "util.h"

/* --- PUBLISH, SET_LIFETIME --- */

/*
 * Each single writer has his mapping by now; nobody else gets one. A seal can't be taken back, so all are looked at before
 * the first is set: only a client that seals one of his own in that very moment gets a part of them.
 */
static int seal_single_writers(struct op_context *context, const uint64_t *ids, uint32_t count) {
        static int (*const steps[])(const struct segment *segment) = { memfd_may_seal_future_write, memfd_seal_future_write };

        for (size_t step = 0; step < ELEMENTSOF(steps); step++)
                for (uint32_t i = 0; i < count; i++) {
                        struct segment *segment = registry_find_id(&context->daemon->registry, ids[i]);
                        int r = segment->single_writer ? steps[step](segment) : 0;

                        if (r != 0) {
                                context->refusal.item = i;
                                return r;
                        }
                }
        return 0;
}

int op_publish(struct op_context *context, const struct shmd_wire_publish *body) {
        static const struct shmd_wire_empty reply;
        struct registry *registry = &context->daemon->registry;
        const uint64_t *ids = (const uint64_t *) context->tail;
        int r;

        if (body->count == 0 || body->count > SHMD_DESCRIPTORS_MAX || context->tail_size != body->count * sizeof(*ids))
                return SHMD_MALFORMED;
        if (body->flags & ~SHMD_WIRE_PUBLISH_REPLACE)
                return SHMD_INVALID;
        r = registry_may_publish(&context->session->client, ids, body->count, body->flags & SHMD_WIRE_PUBLISH_REPLACE,
                                 &context->refusal);
        if (r != 0)
                return r;
        /* Both of each pair change. */
        r = store_make_room(&context->daemon->store, 2 * body->count * state_record_max());
        if (r == 0)
                r = seal_single_writers(context, ids, body->count);
        if (r != 0)
                return r;

        /* Nobody may open a replaced segment from what he remembers once the answer is out. */
        for (uint32_t i = 0; i < body->count; i++) {
                struct segment *segment = registry_find_id(registry, ids[i]);
                struct segment *taken = registry_find_name(registry, segment->name, segment->name_size);

                if (taken)
                        generation_advance(&context->daemon->generation, taken->id);
        }
        for (uint32_t i = 0; i < body->count; i++)
                registry_publish(registry_find_id(registry, ids[i]), context->now_usec);
        return op_reply(context, &reply, NULL, 0);
}

int op_set_lifetime(struct op_context *context, const struct shmd_wire_set_lifetime *body) {
        static const struct shmd_wire_empty reply;
        int r;

        if (context->tail_size > 0 || body->padding != 0)
                return SHMD_MALFORMED;
        if (body->lifetime > WIRE_LIFETIME_CREATOR || (body->linger_usec != 0 && body->lifetime != WIRE_LIFETIME_LINGER))
                return SHMD_INVALID;
        if (body->lifetime == WIRE_LIFETIME_CREATOR || (context->segment->kept && body->lifetime != WIRE_LIFETIME_PERSIST))
                r = absents_expect(&context->daemon->absents, context->segment);
        else
                r = 0;
        if (r != 0 && !(r == SHMD_CREATOR_GONE && context->segment->kept))
                return r;
        r = registry_set_lifetime(context->segment, body->lifetime, body->linger_usec, context->now_usec);
        if (r != 0)
                return r;
        return op_reply(context, &reply, NULL, 0);
}

/* --- RESIZE, FREEZE --- */

struct life_job {
        struct job job;
        struct daemon *daemon;
        uint64_t client; /* key: it may have gone when the job is done */
        uint64_t segment;
        uint64_t size, maximum;
        uint32_t serial;
        unsigned page_shift;
        uint16_t operation;
        int fd; /* a duplicate of the guard */
        int result;
};

static void life_run(struct job *job) {
        struct life_job *life = (struct life_job *) job;

        if (life->operation == SHMD_OP_FREEZE)
                life->result = memfd_freeze(life->fd);
        else
                life->result = memfd_resize(life->fd, life->size, life->maximum, life->page_shift);
}

static int finish_freeze(struct daemon *daemon, struct session *session, struct segment *segment, uint32_t serial) {
        static const struct shmd_wire_empty reply;

        memfd_close_shared(&daemon->memfd, segment);
        registry_set_frozen(segment);
        return session ? dispatch_late_reply(session, SHMD_OP_FREEZE, serial, &reply) : 0;
}

static int finish_resize(struct session *session, struct segment *segment, uint64_t size, uint32_t serial) {
        struct shmd_wire_resize_reply reply = { .id = segment->id, .size = size };

        registry_set_size(segment, size);
        return session ? dispatch_late_reply(session, SHMD_OP_RESIZE, serial, &reply) : 0;
}

/* While the job waited for its turn others' were done. */
static int life_result(const struct life_job *life, const struct segment *segment) {
        if (!segment)
                return SHMD_NOT_FOUND;
        if (life->operation == SHMD_OP_RESIZE && segment->frozen)
                return SHMD_FROZEN;
        return life->result;
}

static void life_done(struct job *job) {
        struct life_job *life = (struct life_job *) job;
        struct daemon *daemon = life->daemon;
        struct session *session = server_find(&daemon->server, life->client);
        struct segment *segment = registry_find_id(&daemon->registry, life->segment);
        int result = life_result(life, segment), r;

        close_fd(life->fd);
        if (session)
                session_set_busy(session, false);
        if (result != 0)
                r = session ? dispatch_late_refusal(session, life->operation, life->serial, result) : 0;
        else if (life->operation == SHMD_OP_FREEZE)
                r = finish_freeze(daemon, session, segment, life->serial);
        else
                r = finish_resize(session, segment, life->size, life->serial);
        if (r < 0 && session)
                session_break(session, r);
        free(life);
}

static int start_job(struct op_context *context, uint64_t size) {
        struct segment *segment = context->segment;
        struct life_job *life = calloc(1, sizeof(*life));

        if (!life)
                return -ENOMEM;
        *life = (struct life_job) {
                .job = { .run = life_run, .done = life_done, .uid = context->session->credentials.uid, .order = segment->id },
                .daemon = context->daemon,
                .client = context->session->client.key,
                .segment = segment->id,
                .size = size,
                .page_shift = segment->page_shift,
                .maximum = segment->maximum,
                .serial = context->serial,
                .operation = context->operation->number,
                .fd = fcntl(segment->custody.guard_fd, F_DUPFD_CLOEXEC, 3),
        };
        if (life->fd < 0) {
                free(life);
                return negative_errno();
        }
        op_answer_later(context);
        session_set_busy(context->session, true);
        worker_submit(&context->daemon->worker, &life->job);
        return 0;
}

int op_freeze(struct op_context *context, const struct shmd_wire_freeze *body) {
        (void) body;
        if (context->tail_size > 0)
                return SHMD_MALFORMED;
        if (context->segment->backing == WIRE_BACKING_FILE)
                return SHMD_OF_FILE;
        /* The kernel lets nobody seal its own segments. */
        if (context->segment->backing == WIRE_BACKING_SYSV)
                return SHMD_OF_SYSV;
        return start_job(context, 0);
}

int op_resize(struct op_context *context, const struct shmd_wire_resize *body) {
        struct segment *segment = context->segment;
        int r;

        if (context->tail_size > 0)
                return SHMD_MALFORMED;
        r = policy_open(&context->session->credentials, &segment->owner, true);
        if (r != 0)
                return op_refuse(context, r, segment);
        if (!segment->resizable)
                return op_refuse(context, SHMD_FIXED_SIZE, segment);
        if (segment->frozen)
                return op_refuse(context, SHMD_FROZEN, segment);
        if (body->size == 0)
                return SHMD_INVALID;
        if (body->size > segment->maximum) {
                context->refusal.limit = SHMD_LIMIT_MAXIMUM;
                context->refusal.requested = body->size;
                context->refusal.maximum = segment->maximum;
                return SHMD_TOO_LARGE;
        }
        return start_job(context, body->size);
}
