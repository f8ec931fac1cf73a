/* SPDX-License-Identifier: MIT */
/*
 * shm_open(3) and shm_unlink(3) on one connection of the process.
 *
 * Owns that connection and its lock, which is free again in a forked child. It keeps nothing about segments:
 * descriptors belong to the program, which may dup, pass and close them at will, so that the
 * kernel alone can tell who holds what ("detached"). The daemon knows a connection by the
 * credentials it was made with: where the process has others now, it gets a new one.
 */
#include "internal.h"

#include <fcntl.h>
#include <string.h>

/* What shm_open(3) knows, and what has no meaning here but does no harm, since open(2) has it. */
#define MEANT_FLAGS (O_RDWR | O_CREAT | O_EXCL | O_TRUNC)
#define HARMLESS_FLAGS (O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_LARGEFILE)

static struct shmd *default_connection;
static uid_t default_uid;
static gid_t default_gid;

int default_connection_get(struct shmd **ret_connection) {
        uid_t uid = geteuid();
        gid_t gid = getegid();
        int r;

        if (default_connection && (default_uid != uid || default_gid != gid))
                default_connection = shmd_disconnect(default_connection);
        if (!default_connection) {
                r = connection_new_unobtrusive(&default_connection);
                if (r < 0)
                        return r;
                default_uid = uid;
                default_gid = gid;
        }
        *ret_connection = default_connection;
        return 0;
}

/* shm_open(3) of the C library takes any number of leading slashes. */
static const char *posix_name(const char *name) {
        return name + strspn(name, "/");
}

static uint32_t oflag_to_wire(int oflag) {
        uint32_t flags = SHMD_WIRE_DETACHED;

        if ((oflag & O_ACCMODE) == O_RDWR)
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

static int default_open(const char *name, int oflag, mode_t mode) {
        struct shmd_wire_create create = { .mode = mode, .flags = oflag_to_wire(oflag) };
        struct shmd *connection;
        struct target target;
        struct opened opened;
        int r;

        r = default_connection_get(&connection);
        if (r < 0)
                return r;
        r = target_by_name(connection, posix_name(name), &target);
        if (r < 0)
                return r;
        if (oflag & O_CREAT)
                r = call_create(connection, &target, &create, NULL, NULL, &opened);
        else
                r = call_open(connection, &target, create.flags, &opened);
        if (r < 0)
                return r;
        return opened.fd < 0 ? -EMFILE : opened.fd; /* there was no room for it */
}

static int default_unlink(const char *name) {
        struct shmd *connection;
        int r;

        r = default_connection_get(&connection);
        if (r < 0)
                return r;
        if (posix_name(name)[0] == '\0') /* the C library finds nothing of that name, where shm_open finds it invalid */
                return -ENOENT;
        r = shmd_unlink(connection, posix_name(name));
        return r == -EPERM ? -EACCES : r; /* as POSIX has it */
}

/* Like the C library's, these are no cancellation points: a thread that is cancelled would take the lock with it. */
int default_connection_lock(int *ret_cancel_state) {
        int r;

        r = process_init();
        if (r < 0)
                return r;
        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, ret_cancel_state);
        (void) pthread_mutex_lock(&process_page->default_lock);
        return 0;
}

void default_connection_unlock(int cancel_state) {
        (void) pthread_mutex_unlock(&process_page->default_lock);
        (void) pthread_setcancelstate(cancel_state, &cancel_state);
}

/* On success errno stays as it was. */
static int posix_result(int r, int saved_errno) {
        errno = r < 0 ? -r : saved_errno;
        return r < 0 ? -1 : r;
}

_public_ int shmd_shm_open(const char *name, int oflag, mode_t mode) {
        int saved_errno = errno, cancel_state, r;

        if ((oflag & ~(MEANT_FLAGS | HARMLESS_FLAGS)) || (oflag & O_ACCMODE) == O_ACCMODE)
                return posix_result(-EINVAL, saved_errno);
        if (oflag & O_CREAT)
                mode &= 0777 & ~process_umask();

        r = default_connection_lock(&cancel_state);
        if (r >= 0) {
                r = default_open(name, oflag, mode);
                default_connection_unlock(cancel_state);
        }
        return posix_result(r, saved_errno);
}

_public_ int shmd_shm_unlink(const char *name) {
        int saved_errno = errno, cancel_state, r;

        r = default_connection_lock(&cancel_state);
        if (r >= 0) {
                r = default_unlink(name);
                default_connection_unlock(cancel_state);
        }
        return posix_result(r, saved_errno);
}
