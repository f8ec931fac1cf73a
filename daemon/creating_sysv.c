/* SPDX-License-Identifier: MIT */
/*
 * CREATE_SYSV: a segment of the kernel's is made, adopted under a name, or registered, and what was registered is told to be removed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "creating.h"
#include "daemon.h"
#include "util.h"

/* The kernel's, in the caller's words: he has to mean the same segment, in the same namespace. */
static int find_in_kernel(struct op_context *context, const struct shmd_wire_create_sysv *body, struct sysv_facts *ret_facts) {
        struct sysv_facts facts;
        int r;

        r = body->shmid > INT32_MAX ? -EINVAL : sysv_kernel_stat((int) body->shmid, &facts);
        if (r == -EINVAL)
                return SHMD_NOT_FOUND;
        if (r < 0)
                return r;
        if (facts.removed || facts.changed_sec != (int64_t) body->changed_sec)
                return SHMD_NOT_FOUND;
        *ret_facts = facts;
        context->refusal.uid = facts.uid;
        context->refusal.gid = facts.gid;
        context->refusal.mode = facts.mode;
        return 0;
}

/* Who registers pays: so it is the owner himself, whatever else he may be. */
static int may_take(struct op_context *context, const struct shmd_wire_create_sysv *body, const struct sysv_facts *facts) {
        const struct ownership owner = { facts->uid, facts->gid, facts->mode };

        if (body->kind == SHMD_WIRE_SYSV_ADOPT)
                return policy_manage(&context->session->credentials, &owner);
        return context->session->credentials.uid == facts->uid ? 0 : SHMD_NOT_OWNER;
}

static int check_sysv(struct op_context *context, const struct shmd_wire_create_sysv *body) {
        uint32_t flags = body->create.flags;

        if (body->padding != 0 || body->kind < SHMD_WIRE_SYSV_MAKE || body->kind > SHMD_WIRE_SYSV_REMOVED)
                return SHMD_MALFORMED;
        if ((flags & ~(SHMD_WIRE_WRITE | SHMD_WIRE_CREATE | SHMD_WIRE_PRIVATE)) || body->create.page_shift)
                return SHMD_INVALID;
        /* The keeper of what is registered. */
        if (body->create.maximum && (body->kind != SHMD_WIRE_SYSV_REGISTER || !creating_may_be_kept(body->create.lifetime)))
                return SHMD_INVALID;
        /* What is adopted is what was meant, or nothing. */
        if (body->kind != SHMD_WIRE_SYSV_MAKE && ((flags & SHMD_WIRE_CREATE) || body->create.mode || body->create.size || body->key))
                return SHMD_INVALID;
        if (body->kind == SHMD_WIRE_SYSV_MAKE && (body->shmid || body->changed_sec))
                return SHMD_INVALID;
        return body->ipc_namespace != 0 && body->ipc_namespace == context->daemon->sysv.ipc_namespace ? 0 : SHMD_OTHER_NAMESPACE;
}

static int build_sysv(struct op_context *context, const struct shmd_wire_create_sysv *body, struct sysv_facts *facts,
                      struct segment *segment, int *ret_fd) {
        struct sysv *sysv = &context->daemon->sysv;
        int r;

        switch (body->kind) {
        case SHMD_WIRE_SYSV_MAKE:
                store_begin_making(&context->daemon->store, body->key, segment->size);
                r = sysv_make(sysv, body->key, segment->size, &segment->owner, facts, ret_fd);
                return r < 0 ? sysv_refuse_make(r, segment->size, &context->refusal) : 0;
        case SHMD_WIRE_SYSV_ADOPT:
                r = sysv_export(sysv, facts, ret_fd);
                return r == -EINVAL || r == -ESTALE ? SHMD_NOT_FOUND : sysv_refuse_export(r);
        default:
                return 0;
        }
}

/* It is in the kernel, and from now on in the segment's keeping. */
static int take_sysv(struct op_context *context, const struct shmd_wire_create_sysv *body, const struct sysv_facts *facts, int fd,
                     struct opening *opening) {
        struct segment *segment = opening->segment;
        bool write = opening->flags & SHMD_WIRE_WRITE;

        segment->sysv.made = body->kind == SHMD_WIRE_SYSV_MAKE;
        segment->sysv.registered = body->kind == SHMD_WIRE_SYSV_REGISTER;
        segment->sysv.exported = fd >= 0;
        /* What is adopted is its owner's, whoever asks for it. */
        registry_refresh(segment, &(struct ownership) { facts->uid, facts->gid, facts->mode }, segment->size);
        sysv_hold(&context->daemon->sysv, segment, facts, fd);
        if (segment->sysv.registered)
                return 0;
        return memfd_open_segment(&context->daemon->memfd, segment, write, true, &opening->fd, &opening->fd_owned);
}

/*
 * A program that is registered may make and remove segments without end. What the kernel has freed is looked for a little with each,
 * which keeps up with it; and much if the program would be refused for it.
 */
#define SWEEP_SEGMENTS 4u
#define SWEEP_SEGMENTS_MAX 1024u

static int reserve_sysv(struct op_context *context, struct segment_plan *plan, bool registered, struct segment **ret_segment) {
        struct daemon *daemon = context->daemon;
        struct client *client = &context->session->client;
        int r;

        if (registered)
                sysv_sweep(&daemon->sysv, &daemon->registry, SWEEP_SEGMENTS);
        r = registry_reserve(&daemon->registry, client, plan, context->now_usec, ret_segment, &context->refusal);
        if (r != SHMD_OVER_LIMIT || !registered)
                return r;
        for (unsigned i = 0; r == SHMD_OVER_LIMIT && i < SWEEP_SEGMENTS_MAX; i += SWEEP_SEGMENTS) {
                sysv_sweep(&daemon->sysv, &daemon->registry, SWEEP_SEGMENTS);
                if (TAILQ_EMPTY(&daemon->registry.idle))
                        continue;
                (void) daemon_ask_about_idle(daemon);
                r = registry_reserve(&daemon->registry, client, plan, context->now_usec, ret_segment, &context->refusal);
        }
        return r;
}

/* What shmd does not know yet. facts: of the kernel's segment, if it is there. */
static int prepare_unknown(struct op_context *context, const struct shmd_wire_create_sysv *body, struct segment_plan *plan,
                           struct sysv_facts *facts, struct opening *ret_opening) {
        struct session *session = context->session;
        struct opening opening;
        int fd = -EBADF, r;

        session_describe(session);
        opening_init(&opening);
        opening.flags = body->create.flags;
        r = reserve_sysv(context, plan, body->kind == SHMD_WIRE_SYSV_REGISTER, &opening.segment);
        if (r != 0)
                return r;
        opening.created = true;
        r = hold_reserve(&session->client, opening.segment, &opening.hold, &context->refusal);
        if (r == 0)
                r = build_sysv(context, body, facts, opening.segment, &fd);
        if (r == 0)
                r = take_sysv(context, body, facts, fd, &opening);
        if (r == 0)
                r = creating_keep(context, opening.segment, body->create.maximum);
        if (r != 0) {
                opening_abort(context, &opening);
                return r;
        }
        *ret_opening = opening;
        return 0;
}

/* A name for what has none: sysv/SHMID. Where somebody has taken that, with the id that the segment will have behind it. */
static void choose_name(struct op_context *context, int shmid, char *buffer, size_t size) {
        struct registry *registry = &context->daemon->registry;
        int length = snprintf(buffer, size, "sysv/%d", shmid);

        if (registry_find_name(registry, buffer, (size_t) length))
                (void) snprintf(buffer, size, "sysv/%d.%" PRIu64, shmid, registry->next_id);
}

/* The plan of a segment that is in the kernel already: its size and mode are what they are. */
static int plan_sysv(struct op_context *context, const struct shmd_wire_create_sysv *body, const struct sysv_facts *facts,
                     char (*tail)[SHMD_NAME_MAX + SHMD_LABELS_MAX], struct segment_plan *ret_plan) {
        struct shmd_wire_create create = body->create;
        char name[64];

        create.maximum = 0;
        if (context->tail_size > sizeof(*tail) || create.name_size > context->tail_size)
                return SHMD_MALFORMED;
        memcpy(*tail, context->tail, context->tail_size);
        if (body->kind != SHMD_WIRE_SYSV_MAKE) {
                create.size = facts->size;
                create.mode = facts->mode;
        }
        if (create.name_size == 0 && body->kind == SHMD_WIRE_SYSV_REGISTER) {
                if (context->tail_size > SHMD_LABELS_MAX)
                        return SHMD_INVALID;
                choose_name(context, (int) body->shmid, name, sizeof(name));
                create.name_size = (uint16_t) strlen(name);
                memcpy(*tail + create.name_size, context->tail, context->tail_size);
                memcpy(*tail, name, create.name_size);
                return creating_plan(context, &create, *tail, context->tail_size + create.name_size, SOURCE_SYSV, ret_plan);
        }
        return creating_plan(context, &create, *tail, context->tail_size, SOURCE_SYSV, ret_plan);
}

/* Another process of those that use it, or the same one again. */
static int hold_registered(struct op_context *context, struct segment *segment, struct opening *ret_opening) {
        struct ownership owner = opening_ownership(context, segment);
        struct opening opening;
        int r;

        r = policy_open(&context->session->credentials, &owner, false);
        if (r != 0)
                return op_refuse(context, r, segment);
        opening_init(&opening);
        opening.segment = segment;
        r = hold_reserve(&context->session->client, segment, &opening.hold, &context->refusal);
        if (r == 0)
                *ret_opening = opening;
        return r;
}

static int prepare_known(struct op_context *context, const struct shmd_wire_create_sysv *body, struct segment *segment,
                         struct opening *ret_opening) {
        if (body->kind == SHMD_WIRE_SYSV_REGISTER)
                return hold_registered(context, segment, ret_opening);
        if (creating_is_repeated(context, &body->create, segment))
                return creating_open_again(context, &body->create, segment, ret_opening);
        return op_refuse(context, SHMD_ADOPTED, segment);
}

/* As creating_prepare(); where it only registers there is no descriptor. */
static int prepare(struct op_context *context, const struct shmd_wire_create_sysv *body, struct opening *ret_opening) {
        static char tail[SHMD_NAME_MAX + SHMD_LABELS_MAX]; /* the context's name points to it until the request is answered */
        struct segment *existing = NULL;
        struct sysv_facts facts = { 0 };
        struct segment_plan plan;
        int r;

        if (body->kind != SHMD_WIRE_SYSV_MAKE) {
                existing = body->shmid > INT32_MAX ? NULL : sysv_find(&context->daemon->sysv, (int) body->shmid);
                if (existing)
                        return prepare_known(context, body, existing, ret_opening);
                r = find_in_kernel(context, body, &facts);
                if (r == 0)
                        r = may_take(context, body, &facts);
                if (r != 0)
                        return r;
        }
        r = plan_sysv(context, body, &facts, &tail, &plan);
        if (r != 0)
                return r;
        existing = creating_find(context, plan.name, plan.name_size);
        if (existing && body->kind == SHMD_WIRE_SYSV_MAKE)
                return creating_open_existing(context, &body->create, existing, ret_opening);
        if (existing)
                return op_refuse(context, SHMD_EXISTS, existing);
        return prepare_unknown(context, body, &plan, &facts, ret_opening);
}

/* It says that it has removed a segment: what counts is whether the kernel still has it. */
static int note_removed(struct op_context *context, uint32_t shmid) {
        struct segment *segment = shmid > INT32_MAX ? NULL : sysv_find(&context->daemon->sysv, (int) shmid);
        const struct shmd_wire_opened reply = { .id = segment ? segment->id : 0 };

        if (segment)
                (void) sysv_refresh(segment);
        return op_reply(context, &reply, NULL, 0);
}

int op_create_sysv(struct op_context *context, const struct shmd_wire_create_sysv *body) {
        struct opening opening;
        int r;

        r = check_sysv(context, body);
        if (r != 0)
                return r;
        if (body->kind == SHMD_WIRE_SYSV_REMOVED)
                return context->tail_size > 0 ? SHMD_MALFORMED : note_removed(context, body->shmid);
        r = prepare(context, body, &opening);
        return r != 0 ? r : opening_answer(context, &opening);
}
