/* SPDX-License-Identifier: MIT */
/*
 * Segments, made: of memory, of a file; at once, or in steps.
 *
 * In steps: what has to be made ready, its pages allocated or its only writer's mapping made, is created without its
 * name, and published when it is ready. Whatever fails before that, a death included, leaves nothing.
 *
 * Owns nothing.
 */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* So often is tried again what is neither there, to be opened, nor free, to be made. */
#define ATTEMPTS_MAX 8
/* The kernel takes some milliseconds for so much, and looks at signals only in between. */
#define ALLOCATE_BYTES (UINT64_C(64) << 20)
#define ALLOCATE_BYTES_MIN (UINT64_C(256) << 10)

#define CREATE_FLAGS \
        (SHMD_READ_WRITE | SHMD_PRIVATE | SHMD_EXCLUSIVE | SHMD_UNPUBLISHED | SHMD_SINGLE_WRITER | SHMD_PREALLOCATE)
#define CREATE_FILE_FLAGS (SHMD_READ_WRITE | SHMD_EXCLUSIVE | SHMD_UNPUBLISHED)

static const struct shmd_create_options default_options;

/* --- what is asked for --- */

int lifetime_check(struct shmd *connection, uint32_t lifetime, uint64_t linger_usec) {
        if (lifetime > SHMD_LIFETIME_CREATOR)
                return failure_words(&connection->failure, -EINVAL, "invalid lifetime");
        if (linger_usec != 0 && lifetime != SHMD_LIFETIME_LINGER)
                return failure_words(&connection->failure, -EINVAL, "a time to linger is for lifetime linger alone");
        return 0;
}

static int create_options_check(struct shmd *connection, const struct shmd_create_options *options) {
        size_t labels_size = options->labels ? strnlen(options->labels, SHMD_LABELS_MAX + 1) : 0;
        struct failure *failure = &connection->failure;

        if (options->mode & ~0777u)
                return failure_words(failure, -EINVAL, "invalid mode");
        if (labels_size > SHMD_LABELS_MAX)
                return failure_words(failure, -EINVAL, "the labels are longer than 1024 bytes");
        if (!labels_check(options->labels, labels_size))
                return failure_words(failure, -EINVAL, "invalid labels: not lines of \"key=value\"");
        if (options->page_bytes != 0 && options->page_bytes != 1u << 21 && options->page_bytes != 1u << 30)
                return failure_words(failure, -EINVAL, "huge pages are of 2 MiB or of 1 GiB");
        if (!wire_is_zero(options->reserved, sizeof(options->reserved)))
                return failure_words(failure, -EINVAL, "reserved options are not zero");
        return lifetime_check(connection, options->lifetime, options->linger_usec);
}

/* Memory is not for execution: those bits are no permission here. */
static uint32_t create_mode(const struct shmd_create_options *options, mode_t mask) {
        return options->mode == 0 ? 0600 : options->mode & 0666 & ~mask;
}

static uint32_t create_flags_to_wire(unsigned flags) {
        uint32_t wire = flags_to_wire(flags);

        if (flags & SHMD_SINGLE_WRITER)
                wire |= SHMD_WIRE_SINGLE_WRITER;
        if (flags & SHMD_UNPUBLISHED)
                wire |= SHMD_WIRE_UNPUBLISHED;
        else if (!(flags & SHMD_EXCLUSIVE))
                wire |= SHMD_WIRE_CREATE;
        return wire;
}

struct shmd_wire_create create_to_wire(uint64_t size_bytes, unsigned flags, const struct shmd_create_options *options,
                                       mode_t mask) {
        return (struct shmd_wire_create) {
                .size = size_bytes,
                .maximum = options->maximum_bytes,
                .linger_usec = options->linger_usec,
                .mode = create_mode(options, mask),
                .flags = create_flags_to_wire(flags),
                .lifetime = options->lifetime,
                .page_shift = options->page_bytes == 0 ? 0 : (uint32_t) __builtin_ctzll(options->page_bytes),
        };
}

/* Asked for only where it matters. */
static mode_t umask_for(const struct shmd_create_options *options) {
        return options->mode == 0 ? 0 : process_umask();
}

int create_check(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                        const struct shmd_create_options *options, struct target *ret_target) {
        int r;

        if (flags & ~CREATE_FLAGS)
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        if (size_bytes == 0 && options->sysv != SHMD_SYSV_ADOPT)
                return failure_words(&connection->failure, -EINVAL, "a segment of no bytes is none");
        r = target_by_name(connection, name, ret_target);
        if (r == 0)
                r = create_options_check(connection, options);
        return r < 0 ? r : sysv_options_check(connection, size_bytes, flags, options);
}

/* --- CREATE --- */

/* The request with its tail, which lies in the buffer. */
static struct request create_request(struct shmd *connection, const struct target *name, struct shmd_wire_create *create,
                                     const char *labels, const int *fds, char (*tail)[SHMD_NAME_MAX + SHMD_LABELS_MAX]) {
        size_t labels_size = labels ? strlen(labels) : 0;

        create->name_size = (uint16_t) name->name_size;
        create->labels_size = (uint16_t) labels_size;
        create->token = connection_creation_token(connection);
        memcpy(*tail, name->name, name->name_size);
        if (labels_size > 0)
                memcpy(*tail + name->name_size, labels, labels_size);
        return (struct request) {
                .operation = fds ? SHMD_OP_CREATE_FILE : SHMD_OP_CREATE,
                .body = create,
                .tail = *tail,
                .tail_size = name->name_size + labels_size,
                .fds = fds,
        };
}

/* The call itself, without keeping anything of it. fds: for CREATE_FILE, else NULL. */
static int call_create(struct shmd *connection, const struct target *name, struct shmd_wire_create *create, const char *labels,
                       const int *fds, struct opened *ret_opened) {
        char tail[SHMD_NAME_MAX + SHMD_LABELS_MAX];
        const struct request request = create_request(connection, name, create, labels, fds, &tail);
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        return r < 0 ? r : opened_read(connection, &reply, ret_opened);
}

/* In one step. */
static int segment_create(struct shmd *connection, const struct target *target, uint64_t size_bytes, unsigned flags,
                          const struct shmd_create_options *options, const int *fds, struct shmd_segment **ret_segment) {
        struct shmd_wire_create create = create_to_wire(size_bytes, flags, options, umask_for(options));
        _cleanup_(hold_freep) struct hold *hold = NULL;
        struct opened opened;
        int r;

        r = hold_reserve(connection, target, flags, &hold);
        if (r < 0)
                return r;
        r = call_create(connection, target, &create, options->labels, fds, &opened);
        return r < 0 ? r : hold_admit(TAKE_PTR(hold), &opened, ret_segment);
}

/* --- making it ready --- */

/*
 * Before each part, whether there is memory for all that is still missing: where there isn't, the kernel would kill
 * somebody for it.
 */
static int check_memory(struct hold *hold, uint64_t done, bool huge) {
        char where[128];
        uint64_t available;

        if (huge) /* those pages are reserved already */
                return 0;
        available = memory_available(&where);
        if (available >= hold->size - done)
                return 0;
        return failure_memory(&hold->connection->failure, hold->size, available + done, where);
}

static int allocation_failed(struct hold *hold, int error, uint64_t done) {
        char where[128];
        uint64_t available;

        if (error != -ENOSPC && error != -ENOMEM)
                return failure_errno(&hold->connection->failure, error);
        available = memory_available(&where);
        return failure_memory(&hold->connection->failure, hold->size, available + done, where);
}

/* By this process, whose control group pays for it. A signal undoes the part that it interrupts: then in smaller ones. */
static int hold_allocate(struct hold *hold, uint64_t page_bytes) {
        uint64_t part = MAX(ALLOCATE_BYTES, page_bytes), least = MAX(ALLOCATE_BYTES_MIN, page_bytes);
        int r;

        for (uint64_t done = 0; done < hold->size;) {
                uint64_t size = MIN(part, hold->size - done);

                r = check_memory(hold, done, page_bytes != 0);
                if (r < 0)
                        return r;
                if (fallocate(hold->fd, 0, (off_t) done, (off_t) size) == 0)
                        done += size;
                else if (errno == EINTR)
                        part = MAX(part / 2, least);
                else
                        return allocation_failed(hold, negative_errno(), done);
        }
        return 0;
}

static int segment_make_ready(struct shmd_segment *segment, unsigned flags, const struct shmd_create_options *options) {
        struct hold *hold = segment->hold;
        int r;

        r = flags & SHMD_SINGLE_WRITER ? hold_map(hold) : 0;
        if (r == 0 && (flags & SHMD_PREALLOCATE))
                r = hold_allocate(hold, options->page_bytes);
        return r;
}

/* --- in steps --- */

/* The same that the daemon says of it: a segment that exists has to be large enough. */
static int open_existing(struct shmd *connection, const struct target *target, uint64_t size_bytes, unsigned flags,
                         struct shmd_segment **ret_segment) {
        struct shmd_segment *segment;
        uint64_t size;
        int r;

        r = segment_get(connection, target, (flags & SHMD_PRIVATE) | SHMD_READ_WRITE, &segment);
        if (r < 0)
                return r;
        size = shmd_size(segment);
        if (size < size_bytes) {
                shmd_close(segment);
                return failure_refused(&connection->failure, SHMD_INVALID, &(struct shmd_wire_refusal) {
                        .limit = SHMD_LIMIT_EXISTING,
                        .requested = size_bytes,
                        .maximum = size,
                });
        }
        *ret_segment = segment;
        return 0;
}

/* Spares the work if it is to be in vain; publication decides. */
static int check_free(struct shmd *connection, const struct target *target) {
        const struct shmd_wire_stat body = { .target = target->wire };
        struct reply reply;
        int r;

        r = connection_call(connection, &(struct request) {
                                                .operation = SHMD_OP_STAT,
                                                .body = &body,
                                                .tail = target->name,
                                                .tail_size = target->name_size,
                                        }, &reply);
        if (r == 0)
                return failure_refused(&connection->failure, SHMD_EXISTS, &(struct shmd_wire_refusal) { 0 });
        return r == -ENOENT ? 0 : r;
}

static int create_ready(struct shmd *connection, const struct target *target, uint64_t size_bytes, unsigned flags,
                        const struct shmd_create_options *options, struct shmd_segment **ret_segment) {
        struct shmd_segment *segment;
        int r;

        r = segment_create(connection, target, size_bytes, flags | SHMD_UNPUBLISHED, options, NULL, &segment);
        if (r < 0)
                return r;
        r = segment_make_ready(segment, flags, options);
        if (r == 0 && !(flags & SHMD_UNPUBLISHED))
                r = shmd_publish(segment, 0);
        if (r < 0) {
                shmd_close(segment);
                return r;
        }
        *ret_segment = segment;
        return 0;
}

bool create_takes_steps(unsigned flags) {
        if (flags & SHMD_PREALLOCATE)
                return true;
        return (flags & SHMD_SINGLE_WRITER) && !(flags & SHMD_UNPUBLISHED);
}

int create_in_steps(struct shmd *connection, const struct target *target, uint64_t size_bytes, unsigned flags,
                    const struct shmd_create_options *options, struct shmd_segment **ret_segment) {
        int r;

        if (flags & SHMD_UNPUBLISHED)
                return create_ready(connection, target, size_bytes, flags, options, ret_segment);
        if (flags & SHMD_EXCLUSIVE) {
                r = check_free(connection, target);
                return r < 0 ? r : create_ready(connection, target, size_bytes, flags, options, ret_segment);
        }
        for (unsigned attempt = 0;; attempt++) {
                r = open_existing(connection, target, size_bytes, flags, ret_segment);
                if (r != -ENOENT)
                        return r;
                r = create_ready(connection, target, size_bytes, flags, options, ret_segment);
                if (r != -EEXIST || attempt == ATTEMPTS_MAX)
                        return r;
        }
}

_public_ int shmd_create(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                         const struct shmd_create_options *options, struct shmd_segment **ret_segment) {
        struct target target;
        int r;

        if (!options)
                options = &default_options;
        r = create_check(connection, name, size_bytes, flags, options, &target);
        if (r < 0)
                return r;
        flags |= SHMD_READ_WRITE;
        if (options->sysv)
                return sysv_create(connection, &target, size_bytes, flags, options, ret_segment);
        if (create_takes_steps(flags))
                return create_in_steps(connection, &target, size_bytes, flags, options, ret_segment);
        return segment_create(connection, &target, size_bytes, flags, options, NULL, ret_segment);
}

/* --- submitted --- */

static int async_read_created(struct async *async, const struct reply *reply) {
        struct opened opened;
        int r;

        r = opened_read(async->connection, reply, &opened);
        return r < 0 ? r : hold_admit(TAKE_PTR(async->hold), &opened, &async->segment);
}

static int create_submit(struct shmd *connection, const struct target *target, struct shmd_wire_create *create,
                         const char *labels,
                         unsigned flags, const struct callback *callback) {
        char tail[SHMD_NAME_MAX + SHMD_LABELS_MAX];
        const struct request request = create_request(connection, target, create, labels, NULL, &tail);
        struct async *async;
        int r;

        async = async_new(connection, async_read_created, callback);
        if (!async)
                return -ENOMEM;
        r = hold_reserve(connection, target, flags, &async->hold);
        if (r < 0) {
                async_free(async);
                return r;
        }
        return async_submit(async, &request, DO_NOT_WAIT);
}

_public_ int shmd_create_async(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                               const struct shmd_create_options *options, shmd_result_function function, void *userdata) {
        struct shmd_wire_create create;
        struct target target;
        int r;

        if (!options)
                options = &default_options;
        r = create_check(connection, name, size_bytes, flags, options, &target);
        if (r < 0)
                return r;
        if (options->sysv)
                return failure_words(&connection->failure, -EINVAL, "SysV segments can't be asked for in this way");
        if (create_takes_steps(flags))
                return failure_words(&connection->failure, -EINVAL,
                                     "this takes several steps, which can't be submitted as one");
        flags |= SHMD_READ_WRITE;
        create = create_to_wire(size_bytes, flags, options, umask_for(options));
        return create_submit(connection, &target, &create, options->labels, flags, &(struct callback) { function,
                             userdata });
}

/* --- of a file --- */

static int file_check(struct shmd *connection, int fd, unsigned flags, uint64_t *ret_size) {
        int wanted = flags & SHMD_READ_WRITE ? O_RDWR : O_RDONLY, actual = fcntl(fd, F_GETFL);
        struct stat st;

        if (actual < 0 || fstat(fd, &st) < 0)
                return failure_errno(&connection->failure, negative_errno());
        if (!S_ISREG(st.st_mode))
                return failure_words(&connection->failure, -EINVAL, "not a regular file");
        if (st.st_size == 0)
                return failure_words(&connection->failure, -EINVAL, "an empty file");
        if ((actual & O_ACCMODE) != wanted || (actual & O_PATH))
                return failure_words(&connection->failure, -EINVAL,
                                     wanted == O_RDWR ? "the file is not open for reading and writing"
                                                      : "the file is not open for reading alone");
        *ret_size = (uint64_t) st.st_size;
        return 0;
}

static int file_options_check(struct shmd *connection, unsigned flags, const struct shmd_create_options *options) {
        if (flags & ~CREATE_FILE_FLAGS)
                return failure_words(&connection->failure, -EINVAL, "invalid flags for a segment made of a file");
        if (options->sysv || options->sysv_number)
                return failure_words(&connection->failure, -EINVAL, "a file is no SysV segment");
        if (options->maximum_bytes != 0 || options->page_bytes != 0)
                return failure_words(&connection->failure, -EINVAL, "a file has its own size and pages");
        return create_options_check(connection, options);
}

/* Another description of the same file, for those who may only read. */
static int file_reopen(struct shmd *connection, int fd, int *ret_fd) {
        char path[sizeof("/proc/self/fd/") + 20];

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        *ret_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        return *ret_fd < 0 ? failure_errno(&connection->failure, negative_errno()) : 0;
}

_public_ int shmd_create_file(struct shmd *connection, const char *name, int fd, unsigned flags,
                              const struct shmd_create_options *options, struct shmd_segment **ret_segment) {
        _cleanup_close_ int read_only_fd = -EBADF;
        struct target target;
        uint64_t size = 0;
        int r;

        if (!options)
                options = &default_options;
        r = target_by_name(connection, name, &target);
        if (r == 0)
                r = file_options_check(connection, flags, options);
        if (r == 0)
                r = file_check(connection, fd, flags, &size);
        if (r == 0)
                r = file_reopen(connection, fd, &read_only_fd);
        if (r < 0)
                return r;
        return segment_create(connection, &target, size, flags, options, (const int[]) { fd, read_only_fd }, ret_segment);
}
