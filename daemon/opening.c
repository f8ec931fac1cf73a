/* SPDX-License-Identifier: MIT */
#include "opening.h"

#include <string.h>

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

static int check_open(struct op_context *context, struct segment *segment, uint32_t flags) {
        bool write = flags & SHMD_WIRE_WRITE;
        int r;

        r = check_visible(context, segment);
        if (r != 0)
                return r;
        r = policy_open(&context->session->credentials, &segment->owner, write);
        if (r != 0)
                return op_refuse(context, r, segment);
        if (write && segment->frozen)
                return op_refuse(context, SHMD_FROZEN, segment);
        if (write && segment->single_writer && segment->state != WIRE_STATE_UNPUBLISHED)
                return op_refuse(context, SHMD_ONE_WRITER, segment);
        return 0;
}

int opening_prepare_open(struct op_context *context, struct segment *segment, uint32_t flags, struct opening *ret_opening) {
        bool write = flags & SHMD_WIRE_WRITE, private = flags & (SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED);
        struct opening opening;
        int r;

        opening_init(&opening);
        opening.segment = segment;
        opening.flags = flags;
        r = check_open(context, segment, flags);
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

static int refuse_size(struct op_context *context, uint64_t requested, uint64_t maximum, enum shmd_limit limit) {
        context->refusal.limit = limit;
        context->refusal.requested = requested;
        context->refusal.maximum = maximum;
        return limit == SHMD_LIMIT_EXISTING ? SHMD_INVALID : SHMD_TOO_LARGE;
}

static int plan_size(struct op_context *context, const struct shmd_wire_create *body, bool file, struct segment_plan *plan) {
        uint64_t page = UINT64_C(1) << body->page_shift, maximum = body->maximum ? body->maximum : body->size;

        if (plan->posix && (body->size != 0 || body->maximum != 0 || body->page_shift != 0))
                return SHMD_INVALID;
        if (!plan->posix && !file && body->size == 0)
                return SHMD_INVALID;
        if (maximum < body->size)
                return refuse_size(context, body->size, maximum, SHMD_LIMIT_MAXIMUM);
        if (maximum > SIZE_MAX_BYTES)
                return refuse_size(context, maximum, SIZE_MAX_BYTES, SHMD_LIMIT_SIZE);
        plan->resizable = body->maximum != 0;
        plan->maximum = (maximum + page - 1) & ~(page - 1);
        plan->size = plan->resizable ? body->size : plan->maximum;
        return 0;
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
        /* What is unpublished is held by its creator's connection, and found by nobody. */
        if ((flags & SHMD_WIRE_UNPUBLISHED) && (flags & (SHMD_WIRE_DETACHED | SHMD_WIRE_CREATE)))
                return false;
        if ((flags & SHMD_WIRE_SINGLE_WRITER) && (!(flags & SHMD_WIRE_UNPUBLISHED) || !(flags & SHMD_WIRE_WRITE)))
                return false;
        return !file || !(body->page_shift || body->maximum || (flags & (SHMD_WIRE_POSIX | SHMD_WIRE_SINGLE_WRITER | SHMD_WIRE_PRIVATE | SHMD_WIRE_DETACHED)));
}

/* Everything about a CREATE that can be judged without looking at the registry. */
static int make_plan(struct op_context *context, const struct shmd_wire_create *body, const char *tail, size_t tail_size, bool file,
                     struct segment_plan *ret_plan) {
        const char *labels = tail + body->name_size;
        struct segment_plan plan = {
                .labels = labels,
                .labels_size = body->labels_size,
                .linger_usec = body->linger_usec,
                .lifetime = body->lifetime,
                .backing = file ? WIRE_BACKING_FILE : body->page_shift ? WIRE_BACKING_HUGETLB : WIRE_BACKING_MEMFD,
                .page_shift = (uint8_t) body->page_shift,
                .token = body->token,
                .posix = body->flags & SHMD_WIRE_POSIX,
                .unpublished = body->flags & SHMD_WIRE_UNPUBLISHED,
                .single_writer = body->flags & SHMD_WIRE_SINGLE_WRITER,
        };
        int r;

        if (body->padding != 0 || (size_t) body->name_size + body->labels_size != tail_size)
                return SHMD_MALFORMED;
        if (!combination_is_valid(body, file))
                return SHMD_INVALID;
        r = op_check_name(tail, body->name_size, &plan.name, &plan.name_size);
        if (r != 0)
                return r;
        if (body->labels_size > SHMD_LABELS_MAX || !labels_check(labels, body->labels_size))
                return SHMD_INVALID;
        context->name = plan.name;
        context->name_size = plan.name_size;
        plan.mode = plan.posix ? body->mode : body->mode & 0666;
        r = plan_size(context, body, file, &plan);
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
        if (r == SHMD_NO_HUGE_PAGES) {
                context->refusal.limit = SHMD_LIMIT_HUGE_PAGES;
                context->refusal.requested = opening->segment->maximum >> opening->segment->page_shift;
                context->refusal.maximum = memfd_huge_pages_free(opening->segment->page_shift);
                context->refusal.mode = opening->segment->page_shift;
        }
        return r;
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

        r = make_plan(context, body, tail, tail_size, files, &plan);
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
                r = store_put(&context->daemon->store, opening.segment);
        }
        if (r != 0) {
                opening_abort(context, &opening);
                return r;
        }
        *ret_opening = opening;
        return 0;
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

        /* Answer before the commit: it is the last step that can fail. */
        r = op_reply(context, &reply, &opening->fd, 1);
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
