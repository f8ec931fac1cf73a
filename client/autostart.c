/* SPDX-License-Identifier: MIT */
/*
 * The per-user daemon, started by whoever needs it first, as gpg does with its agent.
 *
 * The library binds and listens before the daemon runs and hands the socket over as a service manager
 * would, so that clients queue up at once and none has to wait for readiness. Whoever has the lock beside the
 * socket, which is the daemon's own, may make the socket; who comes later finds somebody listening.
 *
 * The program must not notice: no SIGCHLD and no child that its own wait(2) finds (a clone without exit signal),
 * no descriptor, signal mask, umask or directory changed. Between clone and exec only async-signal-safe functions
 * are called, since other threads' locks may have been cloned in any state.
 *
 * Owns nothing that lasts. The socket file exists afterwards only if a daemon was started for it.
 */
#include "internal.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define LOCK_SUFFIX ".lock" /* daemon/server.c takes the same one */
#define IDLE_EXIT_SECONDS "60"
/* Service managers pass descriptors from here on: sd_listen_fds(3). */
#define LISTEN_FD 3
#define STATUS_FD 4
/* Above all that are put in their places. */
#define SPARE_FD 10
/* A daemon that has the lock and does not listen is just starting or ending. */
#define CLAIM_PAUSE_NSEC 5000000
#define CLAIM_ATTEMPTS 400

/* --- the directory, its lock, the socket --- */

/* Nobody but the user may have a hand in it. The file names in it are ours alone. */
static int directory_open(const char *directory, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF;
        struct stat st;

        if (mkdir(directory, 0700) < 0 && errno != EEXIST)
                return negative_errno();
        fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return negative_errno();
        if (fstat(fd, &st) < 0)
                return negative_errno();
        if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
                return -EPERM;

        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int lock_open(int directory_fd, const char *socket_name, int *ret_fd) {
        char name[NAME_MAX + 1];
        int fd;

        if (strlen(socket_name) + sizeof(LOCK_SUFFIX) > sizeof(name))
                return -ENAMETOOLONG;
        stpcpy(stpcpy(name, socket_name), LOCK_SUFFIX);
        fd = openat(directory_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return negative_errno();
        *ret_fd = fd;
        return 0;
}

static bool somebody_listens(const char *path) {
        _cleanup_close_ int fd = -EBADF;

        return socket_connect(path, &fd) >= 0;
}

/* Waits until the lock is taken (0), or somebody listens (1). -EBUSY: neither comes about. */
static int lock_take(int lock_fd, const char *path) {
        const struct timespec pause = { .tv_nsec = CLAIM_PAUSE_NSEC };

        for (unsigned attempt = 0; attempt < CLAIM_ATTEMPTS; attempt++) {
                /* First, so that the daemon that comes up rarely finds the lock with us; but what holds is what we see with it. */
                if (somebody_listens(path))
                        return 1;
                if (flock(lock_fd, LOCK_EX | LOCK_NB) == 0)
                        return somebody_listens(path);
                (void) nanosleep(&pause, NULL);
        }
        return -EBUSY;
}

/* Explicitly: a child that another thread forks meanwhile has a duplicate, which would keep the lock. */
static void lock_drop(int *fd) {
        if (*fd >= 0)
                (void) flock(*fd, LOCK_UN);
        *fd = close_fd(*fd);
}

/* The path has been connected to, so it fits. */
static int socket_listen(const char *path, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        *stpncpy(address.sun_path, path, sizeof(address.sun_path) - 1) = '\0';
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return negative_errno();
        /* The file inherits the mode of the socket, less the umask: nobody else may connect, not even for a moment. */
        if (fchmod(fd, 0600) < 0)
                return negative_errno();
        if (unlink(path) < 0 && errno != ENOENT) /* nobody listens there: it is a dead daemon's */
                return negative_errno();
        if (bind(fd, (const struct sockaddr *) &address, sizeof(address)) < 0)
                return negative_errno();
        if (listen(fd, SOMAXCONN) < 0)
                return negative_errno();

        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* --- what the daemon is started with --- */

struct command {
        const char *program;
        char **environment;
        char listen_pid[sizeof("LISTEN_PID=") + 20];
        int listen_fd;
};

static char *const command_arguments[] = {
        (char *) "shmd", (char *) "--user",      (char *) "--idle-exit", (char *) IDLE_EXIT_SECONDS,
        (char *) "--log-target", (char *) "auto", NULL,
};

/* What speaks of the program itself, not of the user's session, is not for the daemon. */
static bool variable_is_private(const char *variable) {
        static const char *const names[] = {
                "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES=", "LISTEN_PIDFDID=", "NOTIFY_SOCKET=", "WATCHDOG_PID=",
                "WATCHDOG_USEC=", "FDSTORE=", "MAINPID=", "INVOCATION_ID=", "LD_PRELOAD=",
        };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (strncmp(variable, names[i], strlen(names[i])) == 0)
                        return true;
        return false;
}

static int command_make_environment(struct command *command) {
        static char listen_fds[] = "LISTEN_FDS=1";
        size_t count = 0, n = 0;

        while (environ && environ[count])
                count++;
        command->environment = calloc(count + 3, sizeof(char *));
        if (!command->environment)
                return -ENOMEM;
        for (size_t i = 0; i < count; i++)
                if (!variable_is_private(environ[i]))
                        command->environment[n++] = environ[i];
        command->environment[n++] = listen_fds;
        command->environment[n++] = command->listen_pid; /* written by the process that it speaks of */
        return 0;
}

static const char *daemon_program(void) {
        const char *program = secure_getenv("SHMD_DAEMON");

        return program && program[0] != '\0' ? program : SHMD_DAEMON_PATH;
}

/* --- in the cloned process: async-signal-safe functions only --- */

/* A child without an exit signal: no SIGCHLD, and found by no wait(2) that doesn't ask for such ones. */
static pid_t clone_silently(void) {
        return (pid_t) syscall(SYS_clone, 0UL, NULL, NULL, NULL, 0UL);
}

static void write_listen_pid(char *variable) {
        char digits[20];
        size_t n = 0;
        char *end = stpcpy(variable, "LISTEN_PID=");

        for (unsigned long pid = (unsigned long) getpid(); pid > 0; pid /= 10)
                digits[n++] = (char) ('0' + pid % 10);
        while (n > 0)
                *end++ = digits[--n];
        *end = '\0';
}

static void signals_reset(void) {
        struct sigaction action = { .sa_handler = SIG_DFL };
        sigset_t none;

        for (int signal = 1; signal < NSIG; signal++)
                (void) sigaction(signal, &action, NULL); /* fails for those that are fixed */
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Where close_range(2) is missing, one by one. */
static void descriptors_close_from(unsigned first) {
        long count;

        if (close_range(first, UINT_MAX, 0) == 0)
                return;
        count = sysconf(_SC_OPEN_MAX);
        for (long fd = first; fd < count; fd++)
                (void) close((int) fd);
}

/* /dev/null as 0, 1, 2; the socket as 3; the pipe, which exec closes, as 4; no other. */
static int descriptors_arrange(int listen_fd, int status_fd) {
        int null_fd;

        null_fd = open("/dev/null", O_RDWR);
        if (null_fd < 0)
                return negative_errno();
        listen_fd = fcntl(listen_fd, F_DUPFD, SPARE_FD);
        if (listen_fd < 0)
                return negative_errno();
        status_fd = fcntl(status_fd, F_DUPFD, SPARE_FD);
        if (status_fd < 0)
                return negative_errno();
        null_fd = fcntl(null_fd, F_DUPFD, SPARE_FD);
        if (null_fd < 0)
                return negative_errno();

        for (int fd = 0; fd < 3; fd++)
                if (dup2(null_fd, fd) < 0)
                        return negative_errno();
        if (dup2(listen_fd, LISTEN_FD) < 0 || dup3(status_fd, STATUS_FD, O_CLOEXEC) < 0)
                return negative_errno();
        descriptors_close_from(STATUS_FD + 1);
        return 0;
}

_Noreturn static void become_daemon(struct command *command, int status_fd) {
        int error;

        error = descriptors_arrange(command->listen_fd, status_fd);
        if (error == 0) {
                status_fd = STATUS_FD;
                (void) umask(077);
                error = chdir("/") < 0 ? negative_errno() : 0;
        }
        if (error == 0) {
                signals_reset();
                write_listen_pid(command->listen_pid);
                (void) execve(command->program, command_arguments, command->environment);
                error = negative_errno();
        }
        (void) !write(status_fd, &error, sizeof(error));
        _exit(EXIT_FAILURE);
}

/*
 * The process between: makes the daemon an orphan in a session of its own, and its exit status tells how exec went. The
 * pipe is its own, so that no child which the program forks meanwhile can keep it open.
 */
_Noreturn static void start_and_exit(struct command *command) {
        int pipe_fds[2], error = 0;
        pid_t pid;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                _exit(errno);
        (void) setsid();
        pid = clone_silently();
        if (pid < 0)
                _exit(errno);
        if (pid == 0)
                become_daemon(command, pipe_fds[1]);

        (void) close(pipe_fds[1]);
        while (read(pipe_fds[0], &error, sizeof(error)) < 0 && errno == EINTR)
                ;
        _exit(-error);
}

/* --- in the program --- */

/* All signals wait, lest a handler of the program runs in the cloned process. */
static pid_t clone_with_signals_blocked(struct command *command) {
        sigset_t all, before;
        pid_t pid;

        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before);
        pid = clone_silently();
        if (pid == 0)
                start_and_exit(command);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        return pid < 0 ? negative_errno() : pid;
}

static int command_start(struct command *command) {
        int status = 0;
        pid_t pid, r;

        pid = clone_with_signals_blocked(command);
        if (pid < 0)
                return pid;
        do
                r = waitpid(pid, &status, __WALL);
        while (r < 0 && errno == EINTR);
        if (r < 0) /* the program waits for all, even such children: if it failed, HELLO will tell */
                return 0;
        return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

/* Makes a socket that listens already, and the daemon that will serve it, which takes the lock that is dropped. */
static int start_listening(const char *path, int *lock_fd, struct failure *failure) {
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char **environment = NULL;
        struct command command = { .program = daemon_program() };
        int r;

        r = command_make_environment(&command);
        if (r < 0)
                return failure_errno(failure, r);
        environment = command.environment;
        r = socket_listen(path, &fd);
        if (r < 0)
                return failure_start(failure, r, path);
        lock_drop(lock_fd);

        command.listen_fd = fd;
        r = command_start(&command);
        if (r < 0) {
                /* Before it is closed: as long as it listens, nobody else makes one there. */
                (void) unlink(path);
                return failure_start(failure, r, command.program);
        }
        return 0;
}

static int socket_claim(const char *path, int *ret_lock_fd) {
        _cleanup_free_ char *directory = NULL;
        _cleanup_close_ int directory_fd = -EBADF;
        _cleanup_(lock_drop) int lock_fd = -EBADF;
        const char *slash = strrchr(path, '/'); /* the path is absolute */
        int r;

        directory = strndup(path, (size_t) (slash - path));
        if (!directory)
                return -ENOMEM;
        r = directory_open(directory, &directory_fd);
        if (r < 0)
                return r;
        r = lock_open(directory_fd, slash + 1, &lock_fd);
        if (r < 0)
                return r;
        r = lock_take(lock_fd, path);
        if (r == 0)
                *ret_lock_fd = TAKE_FD(lock_fd);
        return r;
}

int autostart_daemon(const char *path, struct failure *failure) {
        _cleanup_(lock_drop) int lock_fd = -EBADF;
        int r;

        r = socket_claim(path, &lock_fd);
        if (r < 0)
                return failure_start(failure, r, path);
        return r > 0 ? 0 : start_listening(path, &lock_fd, failure);
}
