/* SPDX-License-Identifier: MIT */
/*
 * The few idioms that every part shares: cleanup attributes, ownership of
 * descriptors, retrying interrupted calls. Nothing here has state.
 */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define ELEMENTSOF(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define _cleanup_(function) __attribute__((__cleanup__(function)))
#define _printf_(a, b) __attribute__((__format__(__printf__, a, b)))
#define _public_ __attribute__((__visibility__("default")))

/* Rounds up to a multiple of eight: the alignment of everything on the wire. */
#define ALIGN8(n) (((n) + 7) & ~(size_t) 7)

/* Takes ownership out of a variable. */
#define TAKE(variable, empty)                       \
        ({                                          \
                __typeof__(variable) taken_ = (variable); \
                (variable) = (empty);               \
                taken_;                             \
        })
#define TAKE_PTR(pointer) TAKE(pointer, NULL)
#define TAKE_FD(fd) TAKE(fd, -EBADF)

/* Closes a descriptor if it is one, keeps errno, gives the value of "none". EINTR from close(2) means closed, on Linux. */
static inline int close_fd(int fd) {
        if (fd >= 0) {
                int saved = errno;
                (void) close(fd);
                errno = saved;
        }
        return -EBADF;
}

static inline void close_fdp(int *fd) {
        *fd = close_fd(*fd);
}
#define _cleanup_close_ _cleanup_(close_fdp)

static inline void freep(void *pointer) {
        free(*(void **) pointer);
}
#define _cleanup_free_ _cleanup_(freep)

/* errno as a negative value, never zero, so that "failed" can't look like success. */
static inline int negative_errno(void) {
        return errno > 0 ? -errno : -EIO;
}
