/* SPDX-License-Identifier: MIT */
/*
 * libshmd-preload: a program's own shm_open(3) and shm_unlink(3), served by shmd, and its shmget(2), of which shmd is told. Preloaded:
 * ld.so(8), LD_PRELOAD.
 *
 * Owns what the environment said, and whether this process is served or has the native calls: that is decided by its first call, and stays
 * so, also in its forked children, lest half of a program's objects are here and half there. Contains all of libshmd that it takes, so that
 * it needs nothing but the C library, in containers for example.
 *
 * What is not the name of an object goes to the C library, whose errors are then its own. So does nothing else: whoever would make natively
 * what he can't have from the daemon would hide a failure until somebody looks for it in the other place.
 */
#include "internal.h"
#include "words.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>

enum decision {
        UNDECIDED,
        SERVED,
        NATIVE,
};

static int (*native_shm_open)(const char *name, int oflag, mode_t mode);
static int (*native_shm_unlink)(const char *name);
static int (*native_shmget)(key_t key, size_t size, int flags);
static int (*native_shmctl)(int shmid, int command, struct shmid_ds *buffer);
static struct posix_options options;
static bool required;
static struct stat standard_error; /* as the program found it; st_mode 0: it had none */
static atomic_int decision;
static atomic_bool warned;
static struct {
        char missing[320], silent[320], denied[320], strange[320];
} reasons; /* why there is no daemon; made at the start, as signal handlers may have to tell */

/* --- telling --- */

/* The program may have closed it and got its number for something else. */
static bool standard_error_is_good(void) {
        struct pollfd poll_fd = { .fd = STDERR_FILENO, .events = POLLOUT };
        struct stat now;

        return standard_error.st_mode != 0 && fstat(STDERR_FILENO, &now) == 0 && now.st_dev == standard_error.st_dev &&
               now.st_ino == standard_error.st_ino && poll(&poll_fd, 1, 0) == 1 && poll_fd.revents == POLLOUT;
}

/* One line in a process's life, whatever there is to be said. */
static void warn_once(const char *what, const char *about) {
        char line[512];
        size_t length;

        if (atomic_exchange(&warned, true) || !standard_error_is_good())
                return;
        (void) snprintf(line, sizeof(line), "libshmd-preload: %s%s", what, about);
        length = strlen(line); /* what is too long ends there, as a line all the same */
        line[length++] = '\n';
        (void) !write(STDERR_FILENO, line, length);
}

static void prepare_reasons(void) {
        char places[256];

        channel_describe_places(places, sizeof(places));
        (void) snprintf(reasons.missing, sizeof(reasons.missing), "no such socket: %s", places);
        (void) snprintf(reasons.silent, sizeof(reasons.silent), "nobody listens on %s", places);
        (void) snprintf(reasons.denied, sizeof(reasons.denied), "permission denied to connect to %s", places);
        (void) snprintf(reasons.strange, sizeof(reasons.strange), "what listens on %s does not answer as shmd does", places);
}

static const char *describe(int error) {
        switch (error) {
        case -ENOENT:
                return reasons.missing;
        case -ECONNREFUSED:
                return reasons.silent;
        case -EACCES:
        case -EPERM:
                return reasons.denied;
        default:
                return reasons.strange;
        }
}

/* --- the environment --- */

static void read_lifetime(const char *text) {
        const char *problem = words_parse_lifetime(text, false, &options.lifetime, &options.linger_usec);
        char what[160];

        if (!problem)
                return;
        (void) snprintf(what, sizeof(what), "%s, so persist is taken: $SHMD_PRELOAD_LIFETIME is ", problem);
        warn_once(what, text);
}

/* With a component behind it, it has to be a name. */
static bool read_prefix(const char *text) {
        char name[SHMD_NAME_MAX + 2];
        const char *checked;
        size_t size;

        if (strlen(text) > SHMD_NAME_MAX / 2)
                return false;
        stpcpy(stpcpy(name, text), "x");
        if (name_check(name, strlen(name), &checked, &size) != NAME_OK)
                return false;
        checked = text + (text[0] == '/');
        stpcpy(options.prefix, checked);
        return true;
}

static enum channel_daemon read_daemon(void) {
        const char *text = secure_getenv("SHMD_PRELOAD_DAEMON");

        if (text && strcmp(text, "user") == 0)
                return CHANNEL_USER;
        if (text && strcmp(text, "system") == 0)
                return CHANNEL_SYSTEM;
        if (text && text[0] != '\0')
                warn_once("neither user nor system, so any daemon is taken: $SHMD_PRELOAD_DAEMON is ", text);
        return CHANNEL_ANY;
}

static void read_environment(void) {
        const char *lifetime = secure_getenv("SHMD_PRELOAD_LIFETIME"), *prefix = secure_getenv("SHMD_PRELOAD_PREFIX");
        const char *word = secure_getenv("SHMD_PRELOAD_REQUIRED");

        required = word && strcmp(word, "1") == 0;
        if (word && !required && word[0] != '\0' && strcmp(word, "0") != 0)
                warn_once("neither 1 nor 0, so no daemon is required: $SHMD_PRELOAD_REQUIRED is ", word);
        if (lifetime)
                read_lifetime(lifetime);
        if (prefix && !read_prefix(prefix))
                warn_once("not the beginning of a name, so none is taken: $SHMD_PRELOAD_PREFIX is ", prefix);
}

/*
 * What this program makes is kept as long as the one lives that was run, and if that has gone, this one; its forked children too stand
 * behind it.
 */
static void choose_keepers(void) {
        const char *run = secure_getenv("SHMD_PRELOAD_KEEPER");

        if (options.lifetime == WIRE_LIFETIME_PERSIST)
                return;
        options.keepers[0] = run ? strtoull(run, NULL, 10) : 0;
        options.keepers[1] = process_keeper();
}

static void init_once(void) {
        int saved_errno = errno;

        native_shm_open = (int (*)(const char *, int, mode_t)) dlsym(RTLD_NEXT, "shm_open");
        native_shm_unlink = (int (*)(const char *)) dlsym(RTLD_NEXT, "shm_unlink");
        native_shmget = (int (*)(key_t, size_t, int)) dlsym(RTLD_NEXT, "shmget");
        native_shmctl = (int (*)(int, int, struct shmid_ds *)) dlsym(RTLD_NEXT, "shmctl");
        if (fstat(STDERR_FILENO, &standard_error) < 0)
                standard_error.st_mode = 0;
        read_environment();
        choose_keepers();
        channel_init(read_daemon());
        prepare_reasons();
        errno = saved_errno;
}

/* At once, so that a signal handler finds it done; but constructors of other libraries may come first. */
__attribute__((__constructor__)) static void init(void) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        (void) pthread_once(&once, init_once);
}

/* --- the calls --- */

static bool is_native(void) {
        return atomic_load(&decision) == NATIVE;
}

/* What the C library finds invalid as a name, and what would be the directory. */
static bool is_name(const char *name) {
        name = posix_name(name);
        return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/') &&
               strlen(name) <= SHMD_NAME_MAX;
}

static int call_native_open(const char *name, int oflag, mode_t mode) {
        if (native_shm_open)
                return native_shm_open(name, oflag, mode);
        errno = ENOSYS;
        return -1;
}

static int call_native_unlink(const char *name) {
        if (native_shm_unlink)
                return native_shm_unlink(name);
        errno = ENOSYS;
        return -1;
}

/* Whether the native call is to be made instead; error: of the call to the daemon. Only who has looked for it decides. */
static bool decide(enum daemon_seen seen, int error) {
        int before = UNDECIDED;

        if (seen == DAEMON_THERE)
                (void) atomic_compare_exchange_strong(&decision, &before, SERVED);
        else if (seen == DAEMON_UNKNOWN)
                return is_native();
        else if (required)
                warn_once("no daemon, but it is required: ", describe(error));
        else if (atomic_compare_exchange_strong(&decision, &before, NATIVE))
                warn_once("no daemon, so shared memory is the system's own: ", describe(error));
        else if (before == SERVED)
                warn_once("the daemon has gone: ", describe(error));
        return is_native();
}

/* Those of shm_open(3); the native call's file system has no quotas, but a size. */
static int to_posix_error(int error, enum daemon_seen seen) {
        if (seen == DAEMON_MISSING)
                return ECONNREFUSED;
        return error == -EDQUOT ? ENOSPC : -error;
}

static int finish(int r, enum daemon_seen seen, int saved_errno) {
        errno = r < 0 ? to_posix_error(r, seen) : saved_errno;
        return r < 0 ? -1 : r;
}

_public_ int shm_open(const char *name, int oflag, mode_t mode) {
        int saved_errno = errno, cancel_state, r;
        enum daemon_seen seen;
        bool native;

        init();
        if (is_native() || !is_name(name))
                return call_native_open(name, oflag, mode);
        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
        r = posix_open(&options, name, oflag, mode, &seen);
        native = decide(seen, r);
        (void) pthread_setcancelstate(cancel_state, &cancel_state);
        return native ? call_native_open(name, oflag, mode) : finish(r, seen, saved_errno);
}

_public_ int shm_unlink(const char *name) {
        int saved_errno = errno, cancel_state, r;
        enum daemon_seen seen;
        bool native;

        init();
        if (is_native() || !is_name(name))
                return call_native_unlink(name);
        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
        r = posix_unlink(&options, name, &seen);
        native = decide(seen, r);
        (void) pthread_setcancelstate(cancel_state, &cancel_state);
        return native ? call_native_unlink(name) : finish(r, seen, saved_errno);
}

/* --- SysV: the kernel's own, of which the daemon is told --- */

/* 0, or why it may not be: a positive errno value. What the daemon may not or cannot know of is not registered. */
static int register_segment(int shmid) {
        const struct shmd_create_options how = { .lifetime = options.lifetime, .linger_usec = options.linger_usec };
        enum daemon_seen seen;
        int r;

        r = sysv_tell(SHMD_WIRE_SYSV_REGISTER, shmid, &how, posix_keeper(&options));
        seen = r == SHMD_NOT_FOUND ? DAEMON_UNKNOWN : channel_daemon_seen(r); /* which can be found out without asking it */
        (void) decide(seen, r);
        if (r == SHMD_OTHER_NAMESPACE)
                warn_once("the daemon is in another IPC namespace, and does not look after SysV segments of this one", "");
        if (seen == DAEMON_MISSING && required)
                return ECONNREFUSED;
        return r == SHMD_OVER_LIMIT ? ENOSPC : 0;
}

_public_ int shmget(key_t key, size_t size, int flags) {
        int saved_errno = errno, shmid, error;
        bool made;

        init();
        if (!native_shmget) {
                errno = ENOSYS;
                return -1;
        }
        if (is_native())
                return native_shmget(key, size, flags);
        shmid = sysv_get(key, size, flags, &made, native_shmget);
        if (shmid < 0)
                return -1;
        error = register_segment(shmid);
        if (error != 0 && made) {
                (void) native_shmctl(shmid, IPC_RMID, NULL);
                errno = error;
                return -1;
        }
        errno = saved_errno;
        return shmid;
}

_public_ int shmctl(int shmid, int command, struct shmid_ds *buffer) {
        static const struct shmd_create_options nothing;
        int result;

        init();
        if (!native_shmctl) {
                errno = ENOSYS;
                return -1;
        }
        result = native_shmctl(shmid, command, buffer);
        if (result == 0 && command == IPC_RMID && !is_native())
                (void) sysv_tell(SHMD_WIRE_SYSV_REMOVED, shmid, &nothing, 0);
        return result;
}
