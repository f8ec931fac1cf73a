/* SPDX-License-Identifier: MIT */
#include "creating.h"

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

bool creating_may_be_kept(uint32_t lifetime) {
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
        if ((flags & SHMD_WIRE_POSIX) && body->maximum != 0 && (!(flags & SHMD_WIRE_DETACHED) || !creating_may_be_kept(body->lifetime)))
                return false;
        /* What is unpublished is held by its creator's connection, and found by nobody. */
        if ((flags & SHMD_WIRE_UNPUBLISHED) && (flags & (SHMD_WIRE_DETACHED | SHMD_WIRE_CREATE)))
                return false;
        if ((flags & SHMD_WIRE_SINGLE_WRITER) && (!(flags & SHMD_WIRE_UNPUBLISHED) || !(flags & SHMD_WIRE_WRITE)))
                return false;
        return !file || !(body->page_shift || body->maximum ||
                          (flags & (SHMD_WIRE_POSIX | SHMD_WIRE_SINGLE_WRITER | SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED)));
}

static enum wire_backing backing_of(const struct shmd_wire_create *body, enum source source) {
        if (source != SOURCE_NEW)
                return source == SOURCE_FILE ? WIRE_BACKING_FILE : WIRE_BACKING_SYSV;
        return body->page_shift ? WIRE_BACKING_HUGETLB : WIRE_BACKING_MEMFD;
}

int creating_plan(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size,
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

struct segment *creating_find(struct op_context *context, const char *name, size_t size) {
        struct registry *registry = &context->daemon->registry;
        struct segment *segment = registry_find_name(registry, name, size);

        if (!segment || !segment->idle_queued)
                return segment;
        lease_await(&context->daemon->lease, segment);
        return registry_find_name(registry, name, size);
}

/* The client asked already, on a connection that was lost before the answer came. */
bool creating_is_repeated(const struct op_context *context, const struct shmd_wire_create *body, const struct segment *segment) {
        return body->token != 0 && body->token == segment->token &&
               segment->creator.uid == context->session->credentials.uid;
}

int creating_open_again(struct op_context *context, const struct shmd_wire_create *body, struct segment *segment,
                        struct opening *ret_opening) {
        int r = opening_prepare_open(context, segment, body->flags & OPEN_FLAGS, ret_opening);

        if (r == 0)
                ret_opening->made_before = true;
        return r;
}

int creating_open_existing(struct op_context *context, const struct shmd_wire_create *body, struct segment *segment,
                           struct opening *ret_opening) {
        (void) memfd_refresh(segment);
        if (creating_is_repeated(context, body, segment))
                return creating_open_again(context, body, segment, ret_opening);
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

static void remember_creator(const struct session *session, struct segment *segment) {
        struct creator *creator = &segment->creator;

        creator->started = session->started;
        memcpy(creator->command, session->command, sizeof(creator->command));
        memcpy(creator->unit, session->unit, sizeof(creator->unit));
        memcpy(creator->executable, session->executable, sizeof(creator->executable));
}

int creating_keep(struct op_context *context, struct segment *segment, uint64_t keeper) {
        remember_creator(context->session, segment);
        set_keeper(context, segment, keeper);
        return store_put(&context->daemon->store, segment);
}

int creating_prepare(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size,
                     int *files, struct opening *ret_opening) {
        struct session *session = context->session;
        struct registry *registry = &context->daemon->registry;
        struct opening opening;
        struct segment_plan plan;
        struct segment *existing;
        int r;

        r = creating_plan(context, body, tail, tail_size, files ? SOURCE_FILE : SOURCE_NEW, &plan);
        if (r != 0)
                return r;
        existing = plan.unpublished ? NULL : creating_find(context, plan.name, plan.name_size);
        if (existing)
                return creating_open_existing(context, body, existing, ret_opening);
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
        if (r == 0)
                r = creating_keep(context, opening.segment, plan.posix ? body->maximum : 0);
        if (r != 0) {
                opening_abort(context, &opening);
                return r;
        }
        *ret_opening = opening;
        return 0;
}

static int create(struct op_context *context, const struct shmd_wire_create *body, int *files) {
        struct opening opening;
        int r;

        r = creating_prepare(context, body, context->tail, context->tail_size, files, &opening);
        return r != 0 ? r : opening_answer(context, &opening);
}

int op_create(struct op_context *context, const struct shmd_wire_create *body) {
        return create(context, body, NULL);
}

int op_create_file(struct op_context *context, const struct shmd_wire_create *body) {
        return create(context, body, context->fds->fd);
}
