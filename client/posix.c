/* SPDX-License-Identifier: MIT */
/*
 * shm_open(3) and shm_unlink(3), for shmd.h and for the interposer.
 *
 * Owns nothing: descriptors belong to the program, which may dup, pass and close them at will, so that the
 * kernel alone can tell who holds what ("detached"). How the daemon is reached is channel.c's affair.
 */
#include "internal.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>

/* What shm_open(3) knows, and what has no meaning here but does no harm, since open(2) has it. */
#define MEANT_FLAGS (O_RDWR | O_CREAT | O_EXCL | O_TRUNC)
#define HARMLESS_FLAGS (O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_LARGEFILE | O_APPEND | O_SYNC | O_DSYNC)
/* Those that a descriptor remembers. */
#define STATUS_FLAGS (O_NONBLOCK | O_APPEND)

/* --- names --- */

/*
 * The daemon's names are UTF-8 without control characters; those of POSIX are any bytes. What the daemon's can't have
 * becomes a percent sign and two hexadecimal digits, in capitals; so does a percent sign that could be taken for the start of that. What
 * gets too long by it, or by a prefix, is cut and ends with "%~" and a hash of the whole.
 */
#define HASH_SIZE 18u

struct name_writer {
        char *buffer;
        size_t size, cut; /* cut: the last place where it may be cut */
        bool overflow;
};

static void write_part(struct name_writer *writer, const char *bytes, size_t size) {
        writer->overflow |= writer->size + size > SHMD_NAME_MAX;
        if (writer->overflow)
                return;
        memcpy(writer->buffer + writer->size, bytes, size);
        writer->size += size;
        if (writer->size <= SHMD_NAME_MAX - HASH_SIZE)
                writer->cut = writer->size;
}

static void write_escaped(struct name_writer *writer, unsigned char byte) {
        static const char digits[] = "0123456789ABCDEF";
        const char bytes[] = { '%', digits[byte >> 4], digits[byte & 15] };

        write_part(writer, bytes, sizeof(bytes));
}

static bool is_hex(char c) {
        return c && strchr("0123456789ABCDEF", c);
}

static bool looks_escaped(const char *s) {
        return s[0] == '%' && (s[1] == '~' || (is_hex(s[1]) && is_hex(s[2])));
}

static void write_hash(struct name_writer *writer, const char *name) {
        uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

        for (; *name; name++)
                hash = (hash ^ (unsigned char) *name) * UINT64_C(1099511628211);
        writer->size = writer->cut;
        writer->overflow = false;
        write_part(writer, "%~", 2);
        for (int shift = 60; shift >= 0; shift -= 4)
                write_part(writer, &"0123456789ABCDEF"[hash >> shift & 15], 1);
}

/* The name that the daemon has for one of POSIX, which has any bytes; its length. buffer: SHMD_NAME_MAX + 1. */
static size_t name_to_wire(const char *prefix, const char *name, char *buffer) {
        struct name_writer writer = { .buffer = buffer };

        write_part(&writer, prefix, strlen(prefix));
        for (const char *s = name; *s;) {
                size_t length = name_character_size(s);

                if (length > 0 && !looks_escaped(s)) {
                        write_part(&writer, s, length);
                        s += length;
                } else
                        write_escaped(&writer, (unsigned char) *s++);
        }
        if (writer.overflow)
                write_hash(&writer, name);
        buffer[writer.size] = '\0';
        return writer.size;
}

static int name_to_target(const struct posix_options *options, const char *name, char (*buffer)[SHMD_NAME_MAX + 1], size_t *ret_size) {
        const char *checked;
        size_t size;

        if (name[0] == '\0')
                return -EINVAL;
        if (strlen(name) > SHMD_NAME_MAX)
                return -ENAMETOOLONG;
        size = name_to_wire(options->prefix, name, *buffer);
        if (name_check(*buffer, size, &checked, ret_size) != NAME_OK)
                return -EINVAL;
        return 0;
}

/* --- opening --- */

static uint32_t oflag_to_wire(int oflag) {
        uint32_t flags = SHMD_WIRE_DETACHED;

        if ((oflag & O_ACCMODE) != O_RDONLY)
                flags |= SHMD_WIRE_WRITE;
        if (oflag & O_TRUNC)
                flags |= SHMD_WIRE_TRUNCATE;
        if (!(oflag & O_CREAT))
                return flags;

        flags |= SHMD_WIRE_POSIX;
        if (!(oflag & O_EXCL))
                flags |= SHMD_WIRE_CREATE;
        return flags;
}

uint64_t posix_keeper(const struct posix_options *options) {
        if (options->lifetime == WIRE_LIFETIME_PERSIST)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(options->keepers); i++) {
                pid_t pid = (pid_t) (options->keepers[i] & ((1u << 22) - 1));

                if (pid > 0 && (kill(pid, 0) == 0 || errno == EPERM))
                        return options->keepers[i];
        }
        return process_keeper();
}

/* Of what was opened write-only the descriptor is read-write. */
static int access_of(int oflag) {
        return (oflag & O_ACCMODE) == O_RDONLY ? O_RDONLY : O_RDWR;
}

static int call_create_or_open(const struct posix_options *options, const char *recent_name, const char *name, size_t name_size, int oflag,
                               mode_t mode, struct channel_reply *reply) {
        struct shmd_wire_create create = {
                .mode = mode,
                .flags = oflag_to_wire(oflag),
                .lifetime = options->lifetime,
                .linger_usec = options->linger_usec,
                .maximum = oflag & O_CREAT ? posix_keeper(options) : 0,
                .name_size = (uint16_t) name_size,
        };
        const struct shmd_wire_open open_body = { .target = { .name_size = (uint16_t) name_size }, .flags = create.flags };
        const bool creates = oflag & O_CREAT;

        return channel_call(&(struct channel_request) {
                                    .operation = creates ? SHMD_OP_CREATE : SHMD_OP_OPEN,
                                    .body = creates ? (const void *) &create : &open_body,
                                    .tail = name,
                                    .tail_size = name_size,
                                    .creation_token = creates ? &create.token : NULL,
                                    .reserve = oflag & (O_CREAT | O_TRUNC),
                                    .recent_name = recent_name,
                                    .access = access_of(oflag),
                            }, reply);
}

static int call_unlink(const char *name, size_t name_size, struct channel_reply *reply) {
        const struct shmd_wire_unlink body = { .target = { .name_size = (uint16_t) name_size } };

        return channel_call(&(struct channel_request) {
                                    .operation = SHMD_OP_UNLINK,
                                    .body = &body,
                                    .tail = name,
                                    .tail_size = name_size,
                            }, reply);
}

/* Another thread took the last number, which had been free a moment before. */
static int give_up(const char *name, size_t name_size, const struct channel_reply *reply) {
        struct channel_reply unlinked;

        if (reply->opened.created)
                (void) call_unlink(name, name_size, &unlinked);
        return -EMFILE;
}

/* The daemon opened it so that it would not have to wait (O_NONBLOCK). */
static int set_status_flags(int fd, int oflag) {
        return fcntl(fd, F_SETFL, oflag & STATUS_FLAGS) < 0 ? negative_errno() : 0;
}

static int ask_to_open(const struct posix_options *options, const char *name, int oflag, mode_t mode, enum daemon_seen *ret_seen) {
        char copy[SHMD_NAME_MAX + 1], wire_name[SHMD_NAME_MAX + 1];
        size_t size = strnlen(name, sizeof(copy));
        struct channel_reply reply;
        int r;

        if (size == sizeof(copy))
                return -ENAMETOOLONG;
        /* Others may write where it stands: it has to be remembered for what was opened by it, and for nothing else. */
        *(char *) mempcpy(copy, name, size) = '\0';
        r = name_to_target(options, copy, &wire_name, &size);
        if (r < 0)
                return r;
        r = call_create_or_open(options, copy, wire_name, size, oflag, mode, &reply);
        *ret_seen = channel_daemon_seen(r);
        if (r < 0)
                return r;
        if (reply.status != SHMD_OK)
                return -status_to_errno(reply.status);
        if (reply.fd < 0)
                return give_up(wire_name, size, &reply);
        r = set_status_flags(reply.fd, oflag);
        if (r < 0) {
                close_fd(reply.fd);
                return r;
        }
        return reply.fd;
}

int posix_open(const struct posix_options *options, const char *name, int oflag, mode_t mode, enum daemon_seen *ret_seen) {
        int r;

        *ret_seen = DAEMON_UNKNOWN;
        if ((oflag & ~(MEANT_FLAGS | O_WRONLY | HARMLESS_FLAGS)) || (oflag & O_ACCMODE) == O_ACCMODE)
                return -EINVAL;
        name = posix_name(name);
        if (!(oflag & (O_EXCL | O_TRUNC))) {
                r = channel_reopen(name, access_of(oflag), oflag & STATUS_FLAGS);
                if (r >= 0)
                        return r;
        }
        if (oflag & O_CREAT)
                mode &= 0777 & ~process_umask();
        return ask_to_open(options, name, oflag, mode, ret_seen);
}

int posix_unlink(const struct posix_options *options, const char *name, enum daemon_seen *ret_seen) {
        char wire_name[SHMD_NAME_MAX + 1];
        struct channel_reply reply;
        size_t size;
        int r;

        *ret_seen = DAEMON_UNKNOWN;
        name = posix_name(name);
        r = name_to_target(options, name, &wire_name, &size);
        if (r < 0) /* the C library finds nothing of that name, where shm_open finds it invalid */
                return name[0] == '\0' ? -ENOENT : r;
        r = call_unlink(wire_name, size, &reply);
        *ret_seen = channel_daemon_seen(r);
        if (r == 0)
                r = -status_to_errno(reply.status);
        return r == -EPERM ? -EACCES : r; /* as POSIX has it */
}

/* --- shmd.h --- */

static const struct posix_options no_options;

/* On success errno stays as it was. */
static int posix_result(int r, int saved_errno) {
        errno = r < 0 ? -r : saved_errno;
        return r < 0 ? -1 : r;
}

/* Like the C library's, these are no cancellation points. */
_public_ int shmd_shm_open(const char *name, int oflag, mode_t mode) {
        int saved_errno = errno, cancel_state, r;
        enum daemon_seen seen;

        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
        r = posix_open(&no_options, name, oflag, mode, &seen);
        (void) pthread_setcancelstate(cancel_state, &cancel_state);
        return posix_result(r, saved_errno);
}

_public_ int shmd_shm_unlink(const char *name) {
        int saved_errno = errno, cancel_state, r;
        enum daemon_seen seen;

        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
        r = posix_unlink(&no_options, name, &seen);
        (void) pthread_setcancelstate(cancel_state, &cancel_state);
        return posix_result(r, saved_errno);
}
