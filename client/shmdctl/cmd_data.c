/* SPDX-License-Identifier: MIT */
/*
 * cat and dump. They read with pread(2), not from a mapping: a segment of shm_open may be
 * truncated under them.
 */
#include "shmdctl.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* Bytes. */
#define PIECE ((size_t) 1 << 20)

/* With the size at this moment: that of a shm_open segment may have changed since shmd saw it. What can be resized
 * is always there up to its maximum. */
static int open_to_read(struct ctl *ctl, const char *name, struct shmd_segment **ret_segment, uint64_t *ret_size) {
        int status = connect_to_daemon(ctl);
        struct shmd_segment *segment;
        struct stat stat;
        int r;

        if (status != STATUS_DONE)
                return status;
        r = segment_open(ctl, name, SHMD_READ_ONLY, &segment);
        if (r != 0)
                return fail_shmd(ctl, r, "open", name);
        if (fstat(shmd_fd(segment), &stat) < 0) {
                shmd_close(segment);
                return fail("cannot read \"%s\": %s", name, strerror(errno));
        }
        *ret_size = shmd_maximum(segment) > shmd_size(segment) ? shmd_size(segment) : (uint64_t) stat.st_size;
        *ret_segment = segment;
        return STATUS_DONE;
}

/* What is left of a file that somebody has made shorter is worth writing, but it is not the segment. */
static int check_complete(struct ctl *ctl, const char *name, const struct shmd_segment *segment, uint64_t size) {
        struct shmd_stat stat;

        if (size >= shmd_size(segment) || segment_stat(ctl, name, &stat) != 0 || !stat.truncated)
                return STATUS_DONE;
        return fail("of \"%s\" only %" PRIu64 " of %" PRIu64 " bytes are left: somebody has made its file shorter", name, size,
                    shmd_size(segment));
}

static ssize_t pread_some(int fd, void *buffer, size_t size, uint64_t offset) {
        ssize_t n;

        do
                n = pread(fd, buffer, size, (off_t) offset);
        while (n < 0 && errno == EINTR && !interrupt_pending());
        return n;
}

static int fail_pread(const char *name, ssize_t n) {
        if (interrupt_pending())
                return STATUS_FAILED;
        if (n == 0)
                return fail("\"%s\" was truncated while it was read", name);
        return fail("cannot read \"%s\": %s", name, strerror(errno));
}

/* --- cat --- */

static int write_all(const char *bytes, size_t size) {
        while (size > 0) {
                ssize_t n = write(STDOUT_FILENO, bytes, size);

                if (n < 0 && (errno != EINTR || interrupt_pending()))
                        return -errno;
                if (n > 0) {
                        bytes += n;
                        size -= (size_t) n;
                }
        }
        return 0;
}

/* Whoever closed the pipe knows, and so does who interrupts. */
static int fail_write(int error) {
        if (error != -EPIPE && error != -EINTR)
                fail("cannot write to standard output: %s", strerror(-error));
        return STATUS_FAILED;
}

static int copy_piece(int fd, char *buffer, uint64_t size, uint64_t *done, const char *name) {
        ssize_t n = pread_some(fd, buffer, MIN(size - *done, PIECE), *done);
        int r;

        if (n <= 0)
                return fail_pread(name, n);
        r = write_all(buffer, (size_t) n);
        if (r < 0)
                return fail_write(r);
        *done += (uint64_t) n;
        return STATUS_DONE;
}

static int copy(int fd, uint64_t size, const char *name) {
        _cleanup_(freep) char *buffer = malloc(PIECE);
        uint64_t done = 0;
        int status = STATUS_DONE;

        if (!buffer)
                fail_memory();
        progress_begin(size, !isatty(STDOUT_FILENO));
        while (done < size && status == STATUS_DONE && !interrupt_pending()) {
                status = copy_piece(fd, buffer, size, &done, name);
                progress_update(done);
        }
        progress_end();
        return status;
}

int cmd_cat(struct ctl *ctl, int n_arguments, char **arguments) {
        _cleanup_(segment_closep) struct shmd_segment *segment = NULL;
        uint64_t size = 0;
        int status = open_to_read(ctl, arguments[0], &segment, &size);

        (void) n_arguments;
        if (status != STATUS_DONE)
                return status;
        interrupt_catch();
        status = copy(shmd_fd(segment), size, arguments[0]);
        interrupt_deliver();
        return status == STATUS_DONE ? check_complete(ctl, arguments[0], segment, size) : status;
}

/* --- dump: the form of hexdump -C --- */

enum { ROW = 16 };

static void print_row(uint64_t offset, const unsigned char *bytes, size_t size) {
        char line[100], *end = line;

        end += sprintf(end, "%08" PRIx64 " ", offset);
        for (size_t i = 0; i < ROW; i++) {
                if (i % 8 == 0)
                        *end++ = ' ';
                end += i < size ? sprintf(end, "%02x ", bytes[i]) : sprintf(end, "   ");
        }
        end += sprintf(end, " |");
        for (size_t i = 0; i < size; i++)
                *end++ = bytes[i] >= 0x20 && bytes[i] < 0x7f ? (char) bytes[i] : '.';
        strcpy(end, "|\n");
        fputs(line, stdout);
}

struct dump {
        uint64_t offset;
        unsigned char last[ROW];
        bool begun;
        bool folding;
};

static void dump_row(struct dump *dump, const unsigned char *bytes, size_t size) {
        if (dump->begun && size == ROW && memcmp(dump->last, bytes, ROW) == 0) {
                if (!dump->folding)
                        fputs("*\n", stdout);
                dump->folding = true;
        } else {
                print_row(dump->offset, bytes, size);
                memcpy(dump->last, bytes, size);
                dump->folding = false;
        }
        dump->begun = true;
        dump->offset += size;
}

/* Reads until the buffer is full, or the end. */
static ssize_t pread_full(int fd, unsigned char *buffer, size_t size, uint64_t offset) {
        size_t done = 0;

        while (done < size) {
                ssize_t n = pread_some(fd, buffer + done, size - done, offset + done);

                if (n < 0)
                        return n;
                if (n == 0)
                        break;
                done += (size_t) n;
        }
        return (ssize_t) done;
}

static int dump_bytes(int fd, uint64_t offset, uint64_t end, const char *name) {
        _cleanup_(freep) unsigned char *buffer = malloc(PIECE);
        struct dump dump = { .offset = offset };

        if (!buffer)
                fail_memory();
        while (dump.offset < end && !ferror(stdout)) {
                size_t wanted = MIN(end - dump.offset, PIECE);
                ssize_t n = pread_full(fd, buffer, wanted, dump.offset);

                for (ssize_t i = 0; i < n; i += ROW)
                        dump_row(&dump, buffer + i, MIN((size_t) (n - i), ROW));
                if (n < (ssize_t) wanted)
                        return fail_pread(name, n < 0 ? n : 0);
                stdout_check();
        }
        if (dump.begun)
                printf("%08" PRIx64 "\n", dump.offset);
        return STATUS_DONE;
}

int cmd_dump(struct ctl *ctl, int n_arguments, char **arguments) {
        _cleanup_(segment_closep) struct shmd_segment *segment = NULL;
        uint64_t size = 0, offset = ctl->options.offset_bytes, length;
        int status = open_to_read(ctl, arguments[0], &segment, &size);

        (void) n_arguments;
        if (status != STATUS_DONE)
                return status;
        if (offset > size)
                return fail("offset %" PRIu64 " is past the end of \"%s\" (%" PRIu64 " bytes)", offset, arguments[0],
                            size);
        length = ctl->options.has_length ? MIN(ctl->options.length_bytes, size - offset) : size - offset;
        status = dump_bytes(shmd_fd(segment), offset, offset + length, arguments[0]);
        return status == STATUS_DONE ? check_complete(ctl, arguments[0], segment, size) : status;
}
