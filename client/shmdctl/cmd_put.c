/* SPDX-License-Identifier: MIT */
/*
 * put: a segment of a file's bytes. They are read into the mapping, rather than copied from a mapping
 * of the file, so that a file that somebody truncates meanwhile is an error and no signal.
 */
#include "shmdctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* As much as is read at once: small enough for a smooth bar. Bytes. */
#define PIECE ((size_t) 4 << 20)
/* What a buffer of unknown size begins with. Bytes. */
#define BUFFER_MIN ((size_t) 1 << 20)

/* Where bytes come from: a descriptor, or all of them are in memory already. */
struct source {
        char *label; /* for messages: quoted, if it is a path */
        int fd;
        uint64_t size;
        char *bytes; /* NULL: still to be read from fd */
};

static void source_done(struct source *source) {
        if (source->fd > STDIN_FILENO)
                (void) close(source->fd);
        free(source->label);
        free(source->bytes);
}

static int fail_source(const struct source *source, const char *action, int error) {
        if (interrupt_pending()) /* who interrupts knows */
                return STATUS_FAILED;
        return fail("cannot %s %s: %s", action, source->label, strerror(error));
}

static int source_open(struct source *source, const char *path) {
        bool is_path = path && strcmp(path, "-") != 0;
        int r = is_path ? asprintf(&source->label, "\"%s\"", path) : asprintf(&source->label, "standard input");

        if (r < 0)
                fail_memory();
        source->fd = is_path ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY) : STDIN_FILENO;
        return source->fd < 0 ? fail_source(source, "open", errno) : STATUS_DONE;
}

/* read(2), but told that it was interrupted only if that shall end us. */
static ssize_t read_some(int fd, void *buffer, size_t size) {
        ssize_t n;

        do
                n = read(fd, buffer, size);
        while (n < 0 && errno == EINTR && !interrupt_pending());
        return n;
}

/* --- what has no size of its own --- */

static void buffer_grow(struct source *source, size_t *capacity) {
        size_t wanted = *capacity > 0 ? 2 * *capacity : BUFFER_MIN;
        char *bytes = wanted > *capacity ? realloc(source->bytes, wanted) : NULL;

        if (!bytes)
                fail_memory();
        source->bytes = bytes;
        *capacity = wanted;
}

static int source_read_all(struct source *source) {
        size_t capacity = 0;
        ssize_t n = -1;

        progress_begin(0, true);
        while (!interrupt_pending()) {
                if (source->size == capacity)
                        buffer_grow(source, &capacity);
                n = read_some(source->fd, source->bytes + source->size, MIN(capacity - source->size, PIECE));
                if (n <= 0)
                        break;
                source->size += (uint64_t) n;
                progress_update(source->size);
        }
        progress_end();
        return n < 0 ? fail_source(source, "read", errno) : STATUS_DONE;
}

/* --- what has --- */

/* From where it stands to the end, as for "put NAME <FILE" after somebody has read the beginning. */
static uint64_t size_left(int fd) {
        struct stat stat;
        off_t offset;

        if (fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode))
                return 0;
        offset = lseek(fd, 0, SEEK_CUR);
        return offset >= 0 && offset < stat.st_size ? (uint64_t) (stat.st_size - offset) : 0;
}

/* Files that say zero may have bytes all the same, as those of /proc. */
static int source_measure(struct source *source) {
        int status = STATUS_DONE;

        source->size = size_left(source->fd);
        if (source->size == 0)
                status = source_read_all(source);
        if (status == STATUS_DONE && source->size == 0)
                return fail("%s is empty, and a segment has at least one byte", source->label);
        return status;
}

static int fail_read(const struct source *source, ssize_t n, uint64_t done) {
        if (n == 0)
                return fail("%s shrank while it was read: %" PRIu64 " of %" PRIu64 " bytes", source->label,
                            done, source->size);
        /* The kernel's way to say that it found no page for the segment. */
        return fail_source(source, "read", errno == EFAULT ? ENOMEM : errno);
}

static int source_read_into(struct source *source, char *target) {
        uint64_t done = 0;
        ssize_t n = 1;

        progress_begin(source->size, true);
        while (done < source->size && n > 0) {
                n = interrupt_pending() ? (errno = EINTR, -1)
                                        : read_some(source->fd, target + done, MIN(source->size - done, PIECE));
                if (n > 0)
                        done += (uint64_t) n;
                progress_update(done);
        }
        progress_end();
        if (done < source->size)
                return fail_read(source, n, done);
        if (size_left(source->fd) > 0)
                fail("%s grew while it was read: its first %" PRIu64 " bytes are put", source->label,
                     done);
        return STATUS_DONE;
}

/* --- the segment --- */

static void source_copy_into(const struct source *source, char *target) {
        progress_begin(source->size, true);
        for (uint64_t done = 0; done < source->size && !interrupt_pending();) {
                size_t size = MIN(source->size - done, PIECE);

                memcpy(target + done, source->bytes + done, size);
                done += size;
                progress_update(done);
        }
        progress_end();
}

static int fill(struct ctl *ctl, struct shmd_segment *segment, struct source *source, const char *name) {
        void *address;
        int r = shmd_map(segment, &address, NULL);

        if (r != 0)
                return fail_shmd(ctl, r, "map", name);
        if (!source->bytes)
                return source_read_into(source, address);
        source_copy_into(source, address);
        return STATUS_DONE;
}

static int publish(struct ctl *ctl, struct shmd_segment *segment, const char *name) {
        int r = shmd_publish(segment, ctl->options.replace ? SHMD_REPLACE : 0);

        return r != 0 ? fail_shmd(ctl, r, "publish", name) : STATUS_DONE;
}

/* Nobody sees it before all is in it; whatever goes wrong before that, nothing is left of it. */
static int put(struct ctl *ctl, struct source *source, const char *name, struct shmd_segment **ret_segment) {
        int status, r;

        r = shmd_create(ctl->connection, name, source->size, SHMD_UNPUBLISHED | create_flags(ctl), &ctl->options.create,
                        ret_segment);
        if (r != 0)
                return fail_shmd(ctl, r, "create", name);
        status = fill(ctl, *ret_segment, source, name);
        if (status == STATUS_DONE && interrupt_pending())
                status = STATUS_FAILED;
        return status == STATUS_DONE ? publish(ctl, *ret_segment, name) : status;
}

/* Rather now than after a long pipe has been read. */
static int check_name_is_free(struct ctl *ctl, const char *name) {
        struct shmd_stat stat;
        int r = shmd_stat(ctl->connection, name, &stat);

        if (r == 0 && !ctl->options.replace)
                return fail("cannot create \"%s\": a segment of this name exists", name);
        return r == 0 || r == -ENOENT ? STATUS_DONE : fail_shmd(ctl, r, "create", name);
}

static int put_source(struct ctl *ctl, struct source *source, const char *path, const char *name,
                      struct shmd_segment **ret_segment) {
        int status = source_open(source, path);

        if (status == STATUS_DONE)
                status = connect_to_daemon(ctl);
        if (status == STATUS_DONE)
                status = check_name_is_free(ctl, name);
        if (status == STATUS_DONE)
                status = source_measure(source);
        return status == STATUS_DONE ? put(ctl, source, name, ret_segment) : status;
}

/* From here on signals have nothing to do with the bytes any more. */
static int finish(struct ctl *ctl, struct shmd_segment **segment) {
        uint64_t id = shmd_id(*segment);

        if (ctl->program)
                return hold_run(ctl->program, *segment, false);
        *segment = shmd_close(*segment); /* so that it does not show as a holder */
        return show_quietly(ctl, id);
}

int cmd_put(struct ctl *ctl, int n_arguments, char **arguments) {
        _cleanup_(source_done) struct source source = { .fd = -EBADF };
        _cleanup_(segment_closep) struct shmd_segment *segment = NULL;
        int status = create_check_lifetime(ctl);

        if (status != STATUS_DONE)
                return status;
        interrupt_catch();
        status = put_source(ctl, &source, n_arguments > 1 ? arguments[1] : NULL, arguments[0], &segment);
        interrupt_deliver();
        return status == STATUS_DONE ? finish(ctl, &segment) : status;
}
