/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into the daemon: a write lease that the kernel grants is refused all the same, as often as
 * $SHMD_TEST_LEASE_REFUSALS says, for each descriptor and each time anew. Just so it looks when somebody's
 * last close has been told of (inotify) and is not yet counted (fs/file_table.c, __fput), which happens rarely
 * and cannot be made to happen.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "util.h"

#define DESCRIPTORS 1024

typedef int (*fcntl_function)(int fd, int command, ...);

_public_ int fcntl(int fd, int command, ...);
_public_ int fcntl64(int fd, int command, ...);

static int refused[DESCRIPTORS]; /* how often in a row */

static int allowed_refusals(void) {
        const char *value = getenv("SHMD_TEST_LEASE_REFUSALS");

        return value ? atoi(value) : 0;
}

static int call(const char *symbol, int fd, int command, void *argument) {
        fcntl_function next = (fcntl_function) dlsym(RTLD_NEXT, symbol);
        int result = next(fd, command, argument);

        if (result < 0 || command != F_SETLEASE || argument != (void *) F_WRLCK || fd >= DESCRIPTORS)
                return result;
        if (refused[fd] == allowed_refusals()) {
                refused[fd] = 0;
                return result;
        }
        refused[fd]++;
        (void) !write(STDERR_FILENO, "preload: refused\n", 17); /* the test looks for it */
        (void) next(fd, F_SETLEASE, (void *) F_UNLCK);
        errno = EAGAIN;
        return -1;
}

int fcntl(int fd, int command, ...) {
        va_list arguments;
        void *argument;

        va_start(arguments, command);
        argument = va_arg(arguments, void *);
        va_end(arguments);
        return call("fcntl", fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
        va_list arguments;
        void *argument;

        va_start(arguments, command);
        argument = va_arg(arguments, void *);
        va_end(arguments);
        return call("fcntl64", fd, command, argument);
}
