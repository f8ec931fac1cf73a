/* SPDX-License-Identifier: MIT */
/* Starting, pinning and stopping the servers that are measured. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "bench.h"

#define START_MSEC 10000
#define STOP_MSEC 5000

void child_enter(pid_t supervisor) {
        sigset_t none;

        sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != supervisor)
                _exit(1);
}

int child_enter_with(pid_t parent, int fd) {
        const int kept_fd = STDERR_FILENO + 1;

        child_enter(parent);
        (void) prctl(PR_SET_NAME, "bench-load");
        if (fd != kept_fd && dup2(fd, kept_fd) < 0)
                _exit(1);
        (void) close_range((unsigned) kept_fd + 1, UINT_MAX, 0);
        return kept_fd;
}

static int bind_socket(const char *path, int type) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -EBADF;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path));
        fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || bind(fd, (const struct sockaddr *) &address, sizeof(address)) < 0)
                return negative_errno();
        return TAKE_FD(fd);
}

static void server_trouble(struct server *server, const char *what, int error) {
        snprintf(server->trouble, sizeof(server->trouble), "%s: %s", what, strerror(-error));
}

static void server_is_running(struct server *server, pid_t pid) {
        server->pid = pid;
        server->cpu = -1;
        if (clock_getcpuclockid(pid, &server->clock) != 0)
                server->clock = CLOCK_PROCESS_CPUTIME_ID; /* server_cpu_nsec() knows it for none */
}

void server_start_broker(struct bench *bench) {
        struct server *server = &bench->servers[SERVER_BROKER];
        _cleanup_close_ int fd = -EBADF;
        pid_t supervisor = getpid(), pid;

        snprintf(server->socket_path, sizeof(server->socket_path), "%s/broker.sock", bench->directory);
        fd = bind_socket(server->socket_path, SOCK_SEQPACKET);
        if (fd < 0) {
                server_trouble(server, "the bare broker's socket", fd);
                return;
        }
        if (listen(fd, SOMAXCONN) < 0 || (pid = fork()) < 0) {
                server_trouble(server, "the bare broker", negative_errno());
                return;
        }
        if (pid == 0) {
                child_enter(supervisor);
                (void) setpgid(0, 0);
                (void) prctl(PR_SET_NAME, "bare-broker");
                _exit(broker_serve(fd) < 0);
        }
        server_is_running(server, pid);
}

/* In the child that becomes the daemon: not in the terminal's process group, its log in a file */
static void daemon_exec(const struct bench *bench, const char *socket_path, const char *notify_path,
                        const char *log_path) {
        const char *path = bench->options.daemon_path;
        int log_fd;

        (void) setpgid(0, 0);
        log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (log_fd < 0 || dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
                _exit(126);
        close_fd(log_fd);
        (void) setenv("NOTIFY_SOCKET", notify_path, 1);
        (void) setenv("XDG_RUNTIME_DIR", bench->directory, 1);
        (void) unsetenv("LISTEN_FDS");
        (void) unsetenv("LISTEN_PID");
        (void) unsetenv("WATCHDOG_USEC");
        /* What this host limits is not what is measured. */
        execl(path, path, "--socket", socket_path, "--config", "/dev/null", "--log-target", "stderr", (char *) NULL);
        dprintf(STDERR_FILENO, "cannot execute %s: %s\n", path, strerror(errno));
        _exit(127);
}

/* Whether a datagram to the notification socket says READY=1, on a line of its own */
static bool receive_ready(int notify_fd) {
        char text[1024];
        ssize_t n;

        n = recv(notify_fd, text, sizeof(text) - 1, MSG_DONTWAIT);
        if (n <= 0)
                return false;
        text[n] = '\0';
        for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
                if (strcmp(line, "READY=1") == 0)
                        return true;
        return false;
}

/* --- a service manager that keeps descriptors, and does nothing else --- */

#define KEPT_MAX 4096

struct kept {
        char name[64];
        int fd;
};

static void keeper_forget(struct kept *kept, unsigned *count, const char *name) {
        for (unsigned i = 0; i < *count;)
                if (strcmp(kept[i].name, name) == 0) {
                        close_fd(kept[i].fd);
                        kept[i] = kept[--*count];
                } else
                        i++;
}

static void keeper_handle(struct kept *kept, unsigned *count, char *text, int fd, int ready_fd) {
        const char *name = "";
        bool store = false, forget = false;

        for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                store |= strcmp(line, "FDSTORE=1") == 0;
                forget |= strcmp(line, "FDSTOREREMOVE=1") == 0;
                if (strncmp(line, "FDNAME=", 7) == 0)
                        name = line + 7;
                if (strcmp(line, "READY=1") == 0)
                        (void) send(ready_fd, line, strlen(line), MSG_NOSIGNAL);
        }
        if (forget)
                keeper_forget(kept, count, name);
        if (!store || *count == KEPT_MAX) {
                close_fd(fd); /* of a barrier: that answers it */
                return;
        }
        snprintf(kept[*count].name, sizeof(kept[0].name), "%s", name);
        kept[(*count)++].fd = fd;
}

static void keeper_main(int notify_fd, int ready_fd) {
        static struct kept kept[KEPT_MAX];
        unsigned count = 0;

        for (;;) {
                char text[1024];
                union {
                        struct cmsghdr header;
                        char bytes[CMSG_SPACE(sizeof(int))];
                } control;
                struct iovec part = { .iov_base = text, .iov_len = sizeof(text) - 1 };
                struct msghdr message = {
                        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
                };
                struct pollfd polled = { .fd = notify_fd, .events = POLLIN };
                int fd = -EBADF;
                ssize_t n;

                (void) poll(&polled, 1, -1);
                n = recvmsg(notify_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                if (n < 0)
                        continue;
                if (message.msg_controllen > 0 && CMSG_FIRSTHDR(&message)->cmsg_type == SCM_RIGHTS)
                        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
                text[n] = '\0';
                keeper_handle(kept, &count, text, fd, ready_fd);
        }
}

/* Takes the notification socket over, and passes on that the daemon is ready: gives where. It ends with this process. */
static int keeper_start(int notify_fd) {
        pid_t supervisor = getpid(), pid;
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return negative_errno();
        pid = fork();
        if (pid < 0)
                return negative_errno();
        if (pid == 0) {
                child_enter(supervisor);
                (void) prctl(PR_SET_NAME, "bench-keeper");
                keeper_main(notify_fd, pair[1]);
        }
        close_fd(pair[1]);
        close_fd(notify_fd);
        return pair[0];
}

/* 0 once it is ready; -ECHILD if it ended instead, -EINTR if the supervisor is to stop, -ETIMEDOUT */
static int wait_ready(const struct bench *bench, pid_t pid, int notify_fd) {
        _cleanup_close_ int pid_fd = pidfd_open(pid, 0);
        struct pollfd polled[] = {
                { .fd = notify_fd, .events = POLLIN },
                { .fd = pid_fd, .events = POLLIN },
                { .fd = bench->signal_fd, .events = POLLIN },
        };

        if (pid_fd < 0)
                return negative_errno();
        for (;;) {
                int n = poll(polled, ELEMENTSOF(polled), START_MSEC);

                if (n < 0)
                        return negative_errno();
                if (n == 0)
                        return -ETIMEDOUT;
                if (polled[0].revents && receive_ready(notify_fd))
                        return 0;
                if (polled[1].revents)
                        return -ECHILD;
                if (polled[2].revents)
                        return -EINTR;
        }
}

/* What a log begins with: the reason why the daemon ended */
static void read_first_line(const char *path, char *line, int size) {
        FILE *file = fopen(path, "re");

        if (!file || !fgets(line, size, file))
                snprintf(line, (size_t) size, "it said nothing");
        line[strcspn(line, "\n")] = '\0';
        if (file)
                fclose(file);
}

static void daemon_did_not_start(struct server *server, int error, const char *log_path) {
        char line[256];

        read_first_line(log_path, line, sizeof(line));
        snprintf(server->trouble, sizeof(server->trouble), "the daemon %s: %s",
                 error == -ECHILD ? "ended instead of becoming ready" : "did not become ready", line);
        server_stop(server);
}

void server_start_daemon(struct bench *bench, enum server_kind kind) {
        static const char *const names[SERVER_KINDS] = {
                [SERVER_DAEMON] = "shmd",
                [SERVER_FEW] = "few",
                [SERVER_CROWDED] = "crowded",
                [SERVER_KEPT] = "kept",
        };
        struct server *server = &bench->servers[kind];
        char notify_path[sizeof(bench->directory) + 16], log_path[sizeof(bench->directory) + 16];
        _cleanup_close_ int notify_fd = -EBADF;
        pid_t supervisor = getpid(), pid;
        int r;

        snprintf(server->socket_path, sizeof(server->socket_path), "%s/%s.sock", bench->directory, names[kind]);
        if (!bench->options.daemon_path || access(bench->options.daemon_path, X_OK) < 0) {
                server->missing = true;
                snprintf(server->trouble, sizeof(server->trouble), "no daemon to measure: %s",
                         bench->options.daemon_path ? bench->options.daemon_path : "give it by --daemon");
                return;
        }
        snprintf(notify_path, sizeof(notify_path), "%s/%s.notify", bench->directory, names[kind]);
        snprintf(log_path, sizeof(log_path), "%s/%s.log", bench->directory, names[kind]);
        notify_fd = bind_socket(notify_path, SOCK_DGRAM);
        if (notify_fd < 0) {
                server_trouble(server, "the notification socket", notify_fd);
                return;
        }
        if (kind == SERVER_KEPT)
                notify_fd = keeper_start(notify_fd);
        pid = notify_fd < 0 ? -1 : fork();
        if (pid < 0) {
                server_trouble(server, "the daemon", negative_errno());
                return;
        }
        if (pid == 0) {
                child_enter(supervisor);
                daemon_exec(bench, server->socket_path, notify_path, log_path);
        }
        server_is_running(server, pid);
        r = wait_ready(bench, pid, notify_fd);
        if (r < 0)
                daemon_did_not_start(server, r, log_path);
}

static bool has_ended_within(pid_t pid, int msec) {
        _cleanup_close_ int pid_fd = pidfd_open(pid, 0);
        struct pollfd polled = { .fd = pid_fd, .events = POLLIN };

        return pid_fd >= 0 && poll(&polled, 1, msec) > 0;
}

void server_stop(struct server *server) {
        if (server->pid <= 0)
                return;
        (void) kill(server->pid, SIGTERM);
        if (!has_ended_within(server->pid, STOP_MSEC))
                (void) kill(server->pid, SIGKILL);
        while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
                ;
        server->pid = 0;
}

int server_pin(struct server *server, int cpu, int helper_cpu) {
        char path[64];
        struct dirent *entry;
        DIR *directory;

        /* Threads that it has started since have the main one's: then it is to be done again. */
        if (server->cpu == cpu && server->helper_cpu == helper_cpu && cpu == helper_cpu)
                return 0;
        snprintf(path, sizeof(path), "/proc/%d/task", (int) server->pid);
        directory = opendir(path);
        if (!directory)
                return negative_errno();
        while ((entry = readdir(directory))) {
                pid_t tid = (pid_t) strtol(entry->d_name, NULL, 10);
                int r = tid > 0 ? pin_process(tid, tid == server->pid ? cpu : helper_cpu) : 0;

                if (r < 0 && r != -ESRCH) {
                        closedir(directory);
                        return r;
                }
        }
        closedir(directory);
        server->cpu = cpu;
        server->helper_cpu = helper_cpu;
        return 0;
}

uint64_t server_cpu_nsec(const struct server *server) {
        struct timespec time;

        if (server->clock == CLOCK_PROCESS_CPUTIME_ID || clock_gettime(server->clock, &time) < 0)
                return 0;
        return (uint64_t) time.tv_sec * 1000000000u + (uint64_t) time.tv_nsec;
}
