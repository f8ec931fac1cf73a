/* SPDX-License-Identifier: MIT */
#include "opening.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "daemon.h"
#include "name.h"
#include "util.h"

/* Half of the address space is a process's own: what is larger nobody can map. Bytes. */
#if defined(__x86_64__)
#define SIZE_MAX_BYTES (UINT64_C(1) << 47)
#elif defined(__LP64__)
#define SIZE_MAX_BYTES (UINT64_C(1) << 48)
#else
#define SIZE_MAX_BYTES (UINT64_C(1) << 31)
#endif

static enum shmd_access wire_access(uint32_t flags) {
        return flags & SHMD_WIRE_WRITE ? SHMD_ACCESS_WRITE : SHMD_ACCESS_READ;
}

static void opening_init(struct opening *opening) {
        *opening = (struct opening) { .fd = -EBADF };
}

void opening_abort(struct op_context *context, struct opening *opening) {
        struct daemon *daemon = context->daemon;

        if (opening->fd_owned)
                close_fd(opening->fd);
        hold_abort(opening->hold);
        if (opening->created) {
                if (opening->segment->backing == WIRE_BACKING_SYSV)
                        sysv_release(&daemon->sysv, opening->segment, opening->segment->sysv.made);
                store_drop(&daemon->store, opening->segment);
                memfd_close_segment(&daemon->memfd, opening->segment, &daemon->worker, &daemon->discarder);
                registry_abort(opening->segment);
        }
        opening_init(opening);
}

/* --- what is there --- */

/* O_TRUNC empties what POSIX lets be emptied. */
static int truncate_segment(struct op_context *context, struct segment *segment) {
        if (!segment->posix)
                return SHMD_INVALID;
        if (policy_open(&context->session->credentials, &segment->owner, true) != 0)
                return op_refuse(context, SHMD_DENIED, segment);
        if (ftruncate(segment->custody.guard_fd, 0) < 0)
                return errno == EPERM ? SHMD_SEALED : negative_errno();
        (void) memfd_refresh(segment);
        return 0;
}

/* Without its name it is its owner's business: an id is no secret, but no key either. Unpublished, only its creator's. */
static int check_visible(struct op_context *context, const struct segment *segment) {
        if (segment->state == WIRE_STATE_UNPUBLISHED)
                return segment->creator.client == &context->session->client ? 0 : SHMD_NOT_FOUND;
        if (segment->state == WIRE_STATE_UNLINKED && policy_manage(&context->session->credentials, &segment->owner) != 0)
                return SHMD_NOT_FOUND;
        return 0;
}

/* Of a SysV segment its creator has the owner's rights, too: ipc/util.c, ipcperms(). */
static struct ownership ownership_for(struct op_context *context, const struct segment *segment) {
        struct ownership owner = segment->owner;

        if (segment->backing == WIRE_BACKING_SYSV && context->session->credentials.uid == segment->sysv.creator_uid)
                owner.uid = segment->sysv.creator_uid;
        return owner;
}

static int check_open(struct op_context *context, struct segment *segment, uint32_t flags) {
        bool write = flags & SHMD_WIRE_WRITE;
        struct ownership as_kernel_has_it = ownership_for(context, segment);
        int r;

        r = check_visible(context, segment);
        if (r != 0)
                return r;
        r = policy_open(&context->session->credentials, &as_kernel_has_it, write);
        if (r != 0)
                return op_refuse(context, r, segment);
        if (write && segment->frozen)
                return op_refuse(context, SHMD_FROZEN, segment);
        if (write && segment->single_writer && segment->state != WIRE_STATE_UNPUBLISHED)
                return op_refuse(context, SHMD_ONE_WRITER, segment);
        return 0;
}

/* A registered segment's descriptor is got when somebody wants it. */
static int open_sysv_guard(struct op_context *context, struct segment *segment) {
        bool exported = segment->sysv.exported;
        int r;

        r = sysv_open_guard(&context->daemon->sysv, segment);
        if (!exported && segment->sysv.exported)
                store_record(&context->daemon->store, segment);
        return r;
}

int opening_prepare_open(struct op_context *context, struct segment *segment, uint32_t flags, struct opening *ret_opening) {
        bool write = flags & SHMD_WIRE_WRITE, private = flags & (SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED);
        struct opening opening;
        int r;

        opening_init(&opening);
        opening.segment = segment;
        opening.flags = flags;
        r = check_open(context, segment, flags);
        if (r == 0 && segment->backing == WIRE_BACKING_SYSV)
                r = open_sysv_guard(context, segment);
        if (r != 0)
                return r;
        r = hold_reserve(&context->session->client, segment, &opening.hold, &context->refusal);
        if (r != 0)
                return r;
        if (flags & SHMD_WIRE_TRUNCATE)
                r = truncate_segment(context, segment);
        if (r == 0)
                r = memfd_open_segment(&context->daemon->memfd, segment, write, private, &opening.fd, &opening.fd_owned);
        if (r != 0) {
                opening.fd = -EBADF;
                opening_abort(context, &opening);
                /* Where the daemon is unprivileged, it is the kernel that knows of the mode. */
                return r == -EACCES ? op_refuse(context, SHMD_DENIED, segment) : r;
        }
        *ret_opening = opening;
        return 0;
}

/* --- what is new --- */

/* Where its memory comes from. */
enum source {
        SOURCE_NEW,
        SOURCE_FILE,
        SOURCE_SYSV,
};

static int refuse_size(struct op_context *context, uint64_t requested, uint64_t maximum, enum shmd_limit limit) {
        context->refusal.limit = limit;
        context->refusal.requested = requested;
        context->refusal.maximum = maximum;
        return limit == SHMD_LIMIT_EXISTING ? SHMD_INVALID : SHMD_TOO_LARGE;
}

static int plan_size(struct op_context *context, const struct shmd_wire_create *body, bool file, struct segment_plan *plan) {
        uint64_t page = UINT64_C(1) << body->page_shift, asked = plan->posix ? 0 : body->maximum, maximum = asked ? asked : body->size;

        if (plan->posix && (body->size != 0 || body->page_shift != 0))
                return SHMD_INVALID;
        if (!plan->posix && !file && body->size == 0)
                return SHMD_INVALID;
        if (maximum < body->size)
                return refuse_size(context, body->size, maximum, SHMD_LIMIT_MAXIMUM);
        if (maximum > SIZE_MAX_BYTES)
                return refuse_size(context, maximum, SIZE_MAX_BYTES, SHMD_LIMIT_SIZE);
        plan->resizable = asked != 0;
        plan->maximum = (maximum + page - 1) & ~(page - 1);
        plan->size = plan->resizable ? body->size : plan->maximum;
        return 0;
}

static bool may_be_kept(uint32_t lifetime) {
        return lifetime == WIRE_LIFETIME_HOLDERS || lifetime == WIRE_LIFETIME_LINGER;
}

static bool combination_is_valid(const struct shmd_wire_create *body, bool file) {
        uint32_t flags = body->flags;

        if ((flags & ~CREATE_FLAGS) || body->mode > 0777 || body->lifetime > WIRE_LIFETIME_CREATOR)
                return false;
        if ((flags & SHMD_WIRE_TRUNCATE) && !(flags & SHMD_WIRE_POSIX))
                return false;
        if (body->linger_usec != 0 && body->lifetime != WIRE_LIFETIME_LINGER)
                return false;
        if (body->page_shift != 0 && body->page_shift != 21 && body->page_shift != 30)
                return false;
        if ((flags & SHMD_WIRE_POSIX) && body->maximum != 0 && (!(flags & SHMD_WIRE_DETACHED) || !may_be_kept(body->lifetime)))
                return false;
        /* What is unpublished is held by its creator's connection, and found by nobody. */
        if ((flags & SHMD_WIRE_UNPUBLISHED) && (flags & (SHMD_WIRE_DETACHED | SHMD_WIRE_CREATE)))
                return false;
        if ((flags & SHMD_WIRE_SINGLE_WRITER) && (!(flags & SHMD_WIRE_UNPUBLISHED) || !(flags & SHMD_WIRE_WRITE)))
                return false;
        return !file || !(body->page_shift || body->maximum || (flags & (SHMD_WIRE_POSIX | SHMD_WIRE_SINGLE_WRITER | SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED)));
}

static enum wire_backing backing_of(const struct shmd_wire_create *body, enum source source) {
        if (source != SOURCE_NEW)
                return source == SOURCE_FILE ? WIRE_BACKING_FILE : WIRE_BACKING_SYSV;
        return body->page_shift ? WIRE_BACKING_HUGETLB : WIRE_BACKING_MEMFD;
}

/* Everything about a CREATE that can be judged without looking at the registry. */
static int make_plan(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size,
                     enum source source, struct segment_plan *ret_plan) {
        const char *labels = tail + body->name_size;
        struct segment_plan plan = {
                .labels = labels,
                .labels_size = body->labels_size,
                .linger_usec = body->linger_usec,
                .lifetime = body->lifetime,
                .backing = backing_of(body, source),
                .page_shift = (uint8_t) body->page_shift,
                .token = body->token,
                .posix = body->flags & SHMD_WIRE_POSIX,
                .unpublished = body->flags & SHMD_WIRE_UNPUBLISHED,
                .single_writer = body->flags & SHMD_WIRE_SINGLE_WRITER,
        };
        int r;

        if (body->padding != 0 || (size_t) body->name_size + body->labels_size != tail_size)
                return SHMD_MALFORMED;
        if (!combination_is_valid(body, source == SOURCE_FILE))
                return SHMD_INVALID;
        r = op_check_name(tail, body->name_size, &plan.name, &plan.name_size);
        if (r != 0)
                return r;
        if (body->labels_size > SHMD_LABELS_MAX || !labels_check(labels, body->labels_size))
                return SHMD_INVALID;
        context->name = plan.name;
        context->name_size = plan.name_size;
        plan.mode = plan.posix ? body->mode : body->mode & 0666;
        r = plan_size(context, body, source == SOURCE_FILE, &plan);
        if (r != 0)
                return r;
        *ret_plan = plan;
        return 0;
}

/*
 * What has the name, if anything. If all that keeps it is that its turn to be asked about has not come, it is asked
 * about now: a client that has closed what goes with its holder may use the name again at once.
 */
static struct segment *find_living(struct op_context *context, const char *name, size_t size) {
        struct registry *registry = &context->daemon->registry;
        struct segment *segment = registry_find_name(registry, name, size);

        if (!segment || !segment->idle_queued)
                return segment;
        lease_await(&context->daemon->lease, segment);
        return registry_find_name(registry, name, size);
}

/* The client asked already, on a connection that was lost before the answer came. */
static bool is_own_creation(const struct op_context *context, const struct shmd_wire_create *body, const struct segment *segment) {
        return body->token != 0 && body->token == segment->token &&
               segment->creator.uid == context->session->credentials.uid;
}

static int open_existing(struct op_context *context, const struct shmd_wire_create *body, struct segment *segment,
                         struct opening *ret_opening) {
        (void) memfd_refresh(segment);
        if (is_own_creation(context, body, segment)) {
                int r = opening_prepare_open(context, segment, body->flags & OPEN_FLAGS, ret_opening);

                ret_opening->made_before = r == 0;
                return r;
        }
        if (!(body->flags & SHMD_WIRE_CREATE))
                return op_refuse(context, SHMD_EXISTS, segment);
        if (segment->size < body->size) {
                (void) op_refuse(context, 0, segment);
                return refuse_size(context, body->size, segment->size, SHMD_LIMIT_EXISTING);
        }
        return opening_prepare_open(context, segment, body->flags & OPEN_FLAGS, ret_opening);
}

/* Files may be only so large in this process, if somebody said so. Bytes. */
static uint64_t file_size_limit(void) {
        struct rlimit limit;

        return getrlimit(RLIMIT_FSIZE, &limit) < 0 ? SIZE_MAX_BYTES : MIN((uint64_t) limit.rlim_cur, SIZE_MAX_BYTES);
}

static int build_memory(struct op_context *context, struct opening *opening, int *files) {
        struct memfd *memfd = &context->daemon->memfd;
        bool write = opening->flags & SHMD_WIRE_WRITE;
        int r;

        if (files)
                return memfd_adopt_file(opening->segment, files, write, &opening->fd);
        do
                r = memfd_create_segment(memfd, opening->segment, write, &opening->fd);
        while ((r == -EMFILE || r == -ENFILE) && memfd_shrink(memfd));
        if (r == 0)
                opening->fd_owned = true;
        if (r == -EINVAL)
                return SHMD_TOO_LARGE;
        if (r == -EFBIG)
                return refuse_size(context, opening->segment->maximum, file_size_limit(), SHMD_LIMIT_SIZE);
        if (r == SHMD_NO_HUGE_PAGES) {
                context->refusal.limit = SHMD_LIMIT_HUGE_PAGES;
                context->refusal.requested = opening->segment->maximum >> opening->segment->page_shift;
                context->refusal.maximum = memfd_huge_pages_free(opening->segment->page_shift);
                context->refusal.mode = opening->segment->page_shift;
        }
        return r;
}

/* It stands for the creator, also before the segment has its name. */
static void set_keeper(struct op_context *context, struct segment *segment, uint64_t token) {
        struct client *keeper = token ? absent_keeper(&context->daemon->absents, &token, &context->session->credentials) : NULL;

        if (!keeper)
                return;
        segment->creator.client = keeper;
        segment->creator.token = token;
        segment->kept = true;
}

static void remember_creator(struct session *session, struct segment *segment) {
        struct creator *creator = &segment->creator;

        creator->started = session->started;
        memcpy(creator->command, session->command, sizeof(creator->command));
        memcpy(creator->unit, session->unit, sizeof(creator->unit));
        memcpy(creator->executable, session->executable, sizeof(creator->executable));
}

int opening_prepare_create(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size,
                           int *files, struct opening *ret_opening) {
        struct session *session = context->session;
        struct registry *registry = &context->daemon->registry;
        struct opening opening;
        struct segment_plan plan;
        struct segment *existing;
        int r;

        r = make_plan(context, body, tail, tail_size, files ? SOURCE_FILE : SOURCE_NEW, &plan);
        if (r != 0)
                return r;
        existing = plan.unpublished ? NULL : find_living(context, plan.name, plan.name_size);
        if (existing)
                return open_existing(context, body, existing, ret_opening);
        if (files) {
                r = memfd_check_files(files, body->flags & SHMD_WIRE_WRITE, body->size, &plan.size);
                if (r != 0)
                        return r;
                plan.maximum = plan.size;
        }

        /* While it waits for the answer it is surely there. */
        session_describe(session);
        opening_init(&opening);
        opening.flags = body->flags;
        r = registry_reserve(registry, &session->client, &plan, context->now_usec, &opening.segment, &context->refusal);
        if (r != 0)
                return r;
        opening.created = true;
        r = hold_reserve(&session->client, opening.segment, &opening.hold, &context->refusal);
        if (r == 0)
                r = build_memory(context, &opening, files);
        if (r == 0) {
                remember_creator(session, opening.segment);
                set_keeper(context, opening.segment, plan.posix ? body->maximum : 0);
                r = store_put(&context->daemon->store, opening.segment);
        }
        if (r != 0) {
                opening_abort(context, &opening);
                return r;
        }
        *ret_opening = opening;
        return 0;
}

/* --- SysV --- */

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
        if (body->create.maximum && (body->kind != SHMD_WIRE_SYSV_REGISTER || !may_be_kept(body->create.lifetime)))
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

/* CREATE_SYSV of what shmd does not know yet. facts: of the kernel's segment, if it is there. */
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

static int prepare_sysv(struct op_context *context, const struct shmd_wire_create_sysv *body, struct segment_plan *plan,
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
        if (r == 0) {
                remember_creator(session, opening.segment);
                set_keeper(context, opening.segment, body->create.maximum);
                r = store_put(&context->daemon->store, opening.segment);
        }
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
                return make_plan(context, &create, *tail, context->tail_size + create.name_size, SOURCE_SYSV, ret_plan);
        }
        return make_plan(context, &create, *tail, context->tail_size, SOURCE_SYSV, ret_plan);
}

/* Another process of those that use it, or the same one again. */
static int hold_registered(struct op_context *context, struct segment *segment, struct opening *ret_opening) {
        struct ownership owner = ownership_for(context, segment);
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
        if (is_own_creation(context, &body->create, segment)) {
                int r = opening_prepare_open(context, segment, body->create.flags & OPEN_FLAGS, ret_opening);

                ret_opening->made_before = r == 0;
                return r;
        }
        return op_refuse(context, SHMD_ADOPTED, segment);
}

/* As opening_prepare_create(); where it only registers there is no descriptor. */
static int opening_prepare_sysv(struct op_context *context, const struct shmd_wire_create_sysv *body, struct opening *ret_opening) {
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
        existing = find_living(context, plan.name, plan.name_size);
        if (existing && body->kind == SHMD_WIRE_SYSV_MAKE)
                return open_existing(context, &body->create, existing, ret_opening);
        if (existing)
                return op_refuse(context, SHMD_EXISTS, existing);
        return prepare_sysv(context, body, &plan, &facts, ret_opening);
}

/* --- both --- */

void opening_commit(struct op_context *context, struct opening *opening) {
        bool private = opening->flags & (SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED);

        if (opening->fd_owned && opening->created && !private)
                memfd_share(&context->daemon->memfd, opening->segment, opening->flags & SHMD_WIRE_WRITE, opening->fd);
        else if (opening->fd_owned)
                close_fd(opening->fd);
        if (opening->created)
                registry_commit(opening->segment);
        hold_commit(opening->hold, wire_access(opening->flags), opening->flags & SHMD_WIRE_DETACHED, context->now_usec);
        if (opening->created)
                server_note_id(&context->daemon->server, context->daemon->registry.next_id);
        opening_init(opening);
}

struct shmd_wire_opened opening_describe(struct daemon *daemon, const struct opening *opening) {
        const struct segment *segment = opening->segment;

        return (struct shmd_wire_opened) {
                .id = segment->id,
                .size = segment->size,
                .maximum = segment->maximum,
                .generation = generation_get(&daemon->generation, segment->id),
                .created = opening->created || opening->made_before,
        };
}

static int answer_and_commit(struct op_context *context, struct opening *opening) {
        struct shmd_wire_opened reply = opening_describe(context->daemon, opening);
        int r;

        /* Answer before the commit: it is the last step that can fail. Who registers has no use for a descriptor. */
        r = op_reply(context, &reply, &opening->fd, opening->fd >= 0);
        if (r < 0)
                opening_abort(context, opening);
        else
                opening_commit(context, opening);
        return r;
}

int op_open_segment(struct op_context *context, struct segment *segment, uint32_t flags) {
        struct opening opening;
        int r;

        r = opening_prepare_open(context, segment, flags & OPEN_FLAGS, &opening);
        return r != 0 ? r : answer_and_commit(context, &opening);
}

int op_open(struct op_context *context, const struct shmd_wire_open *body) {
        bool wait = body->flags & SHMD_WIRE_WAIT;
        int r;

        if (body->padding != 0 || (!wait && body->timeout_usec != 0))
                return SHMD_MALFORMED;
        if ((body->flags & ~(OPEN_FLAGS | SHMD_WIRE_WAIT)) || (wait && body->target.id != 0))
                return SHMD_INVALID;
        r = op_find_target(context, &body->target);
        if (context->tail_size > 0 && (r == 0 || r == SHMD_NOT_FOUND))
                return SHMD_MALFORMED;
        if (r == SHMD_NOT_FOUND && wait) {
                r = wait_new(context->session, context->name, context->name_size, context->serial, body->flags & OPEN_FLAGS,
                             body->timeout_usec, &context->refusal);
                if (r == 0)
                        op_answer_later(context);
                return r;
        }
        return r != 0 ? r : op_open_segment(context, context->segment, body->flags);
}

static int create(struct op_context *context, const struct shmd_wire_create *body, int *files) {
        struct opening opening;
        int r;

        r = opening_prepare_create(context, body, context->tail, context->tail_size, files, &opening);
        return r != 0 ? r : answer_and_commit(context, &opening);
}

int op_create(struct op_context *context, const struct shmd_wire_create *body) {
        return create(context, body, NULL);
}

int op_create_file(struct op_context *context, const struct shmd_wire_create *body) {
        return create(context, body, context->fds->fd);
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
        r = opening_prepare_sysv(context, body, &opening);
        return r != 0 ? r : answer_and_commit(context, &opening);
}
