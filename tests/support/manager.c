/* SPDX-License-Identifier: MIT */
#include "manager.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "process.h"
#include "test.h"

/* --- what it keeps --- */

static void forget(struct manager *manager, const char *name) {
        for (unsigned i = 0; i < manager->count;)
                if (strcmp(manager->kept[i].name, name) == 0) {
                        close(manager->kept[i].fd);
                        manager->kept[i] = manager->kept[--manager->count];
                } else
                        i++;
}

static bool is_same(int a, int b) {
        struct stat x, y;

        return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void keep(struct manager *manager, const char *name, int fd) {
        for (unsigned i = 0; i < manager->count; i++)
                if (is_same(manager->kept[i].fd, fd)) {
                        close(fd);
                        return;
                }
        if (manager->limit > 0 && manager->count >= manager->limit) {
                close(fd);
                return;
        }
        if (manager->count == MANAGER_KEPT_MAX)
                abort();
        snprintf(manager->kept[manager->count].name, sizeof(manager->kept[0].name), "%s", name);
        manager->kept[manager->count++].fd = fd;
        manager->stores++;
}

/* --- what it is told --- */

static void handle_message(struct manager *manager, char *message, const int *fds, unsigned count) {
        const char *name = "stored";
        bool store = false, remove = false;

        for (char *save, *line = strtok_r(message, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                store |= strcmp(line, "FDSTORE=1") == 0;
                remove |= strcmp(line, "FDSTOREREMOVE=1") == 0;
                if (strncmp(line, "FDNAME=", 7) == 0)
                        name = line + 7;
                if (strcmp(line, "READY=1") == 0)
                        manager->readies++;
        }
        if (remove)
                forget(manager, name);
        for (unsigned i = 0; i < count; i++)
                if (store && !manager->refuse)
                        keep(manager, name, fds[i]);
                else /* of a barrier: closing it is the answer */
                        close(fds[i]);
        pthread_cond_broadcast(&manager->changed);
}

static void receive_message(struct manager *manager) {
        char text[4096];
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(16 * sizeof(int))];
        } control;
        struct iovec part = { .iov_base = text, .iov_len = sizeof(text) - 1 };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        ssize_t n = recvmsg(manager->notify_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        int fds[16];
        unsigned count = 0;

        if (n < 0)
                return;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
                        count = (unsigned) ((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                        memcpy(fds, CMSG_DATA(c), count * sizeof(int));
                }
        text[n] = '\0';
        handle_message(manager, text, fds, count);
}

/* --- the daemon --- */

/* In the forked child of a program with threads: nothing here may allocate. */
static void run_daemon(const struct manager *manager, char *const *argv, char **environment, char *pid_variable) {
        int last = 3 + (int) manager->count, log;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        log = open(manager->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        /* First out of the way, then to their places. */
        for (int i = 3; i <= last; i++) {
                int from = i == 3 ? manager->listen_fd : manager->kept[i - 4].fd;

                if (fcntl(from, F_DUPFD_CLOEXEC, 2000 + i) != 2000 + i)
                        _exit(125);
        }
        for (int i = 3; i <= last; i++)
                dup2(2000 + i, i);
        if (manager->nofile > 0)
                setrlimit(RLIMIT_NOFILE, &(struct rlimit) { manager->nofile, manager->nofile });
        snprintf(pid_variable, 32, "LISTEN_PID=%d", (int) getpid());
        execve(argv[0], argv, environment);
        _exit(126);
}

static bool is_passed_on(const char *variable) {
        static const char *const beginnings[] = { "ASAN_", "UBSAN_", "LSAN_", "LD_PRELOAD=", "SHMD_TEST_KILL=" };

        for (size_t i = 0; i < ELEMENTSOF(beginnings); i++)
                if (strncmp(variable, beginnings[i], strlen(beginnings[i])) == 0)
                        return true;
        return false;
}

static void launch(struct manager *manager) {
        static char names[MANAGER_KEPT_MAX * 65 + 64];
        char notify[160], count[32], pid_variable[32], names_variable[sizeof(names) + 32], *to = names;
        char *environment[64] = { notify, count, pid_variable, names_variable };
        const char *arguments[32] = { test_environment("SHMD_TEST_DAEMON"), "--socket", manager->socket,
                                      geteuid() == 0 ? "--system" : "--user" };
        unsigned n = 4, e = 4;

        for (unsigned i = 0; manager->arguments && manager->arguments[i]; i++)
                arguments[n++] = manager->arguments[i];
        to += sprintf(to, "shmd.socket");
        for (unsigned i = 0; i < manager->count; i++)
                to += sprintf(to, ":%s", manager->kept[i].name);
        snprintf(notify, sizeof(notify), "NOTIFY_SOCKET=%s/notify", manager->directory);
        snprintf(count, sizeof(count), "LISTEN_FDS=%u", manager->count + 1);
        snprintf(names_variable, sizeof(names_variable), "LISTEN_FDNAMES=%s", names);
        for (unsigned i = 0; manager->environment && manager->environment[i]; i++)
                environment[e++] = (char *) manager->environment[i];
        for (char **variable = environ; *variable && e < ELEMENTSOF(environment) - 1; variable++)
                if (is_passed_on(*variable))
                        environment[e++] = *variable;

        manager->pid = fork();
        if (manager->pid < 0)
                abort();
        if (manager->pid == 0)
                run_daemon(manager, (char *const *) arguments, environment, pid_variable);
        manager->pidfd = process_pidfd(manager->pid);
        manager->starts++;
        pthread_cond_broadcast(&manager->changed);
}

static void bury(struct manager *manager) {
        if (waitpid(manager->pid, &manager->status, 0) != manager->pid)
                abort();
        if (!(WIFEXITED(manager->status) && WEXITSTATUS(manager->status) == 0) &&
            !(WIFSIGNALED(manager->status) && WTERMSIG(manager->status) == SIGKILL) && manager->failure == 0)
                manager->failure = manager->status;
        close(manager->pidfd);
        manager->pid = 0;
        manager->pidfd = -EBADF;
        pthread_cond_broadcast(&manager->changed);
}

static void *manager_main(void *userdata) {
        struct manager *manager = userdata;

        pthread_mutex_lock(&manager->lock);
        while (!manager->stop) {
                struct pollfd items[] = {
                        { .fd = manager->notify_fd, .events = POLLIN },
                        { .fd = manager->wake_fd, .events = POLLIN },
                        { .fd = manager->pidfd, .events = POLLIN },
                };
                uint64_t ignored;

                pthread_mutex_unlock(&manager->lock);
                (void) poll(items, 3, -1);
                pthread_mutex_lock(&manager->lock);
                if (items[1].revents)
                        (void) !read(manager->wake_fd, &ignored, sizeof(ignored));
                /* All that it said comes before its end. */
                if (items[0].revents)
                        receive_message(manager);
                else if (items[2].revents && manager->pid > 0)
                        bury(manager);
                if (manager->pid == 0 && manager->restart && !manager->stop)
                        launch(manager);
        }
        pthread_mutex_unlock(&manager->lock);
        return NULL;
}

/* --- for the test --- */

static void wake(struct manager *manager) {
        const uint64_t one = 1;

        (void) !write(manager->wake_fd, &one, sizeof(one));
}

static void wait_for_change(struct manager *manager, const char *what) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += test_deadline_msec() / 1000;
        if (pthread_cond_timedwait(&manager->changed, &manager->lock, &until) != 0) {
                _cleanup_free_ char *text = test_read_file(manager->log);

                pthread_mutex_unlock(&manager->lock);
                ck_abort_msg("waited in vain for: %s; log: %s", what, text ? text : "");
        }
}

void manager_await_ready(struct manager *manager, unsigned times) {
        pthread_mutex_lock(&manager->lock);
        while (manager->readies < times)
                wait_for_change(manager, "the daemon to become ready");
        pthread_mutex_unlock(&manager->lock);
}

static int listen_at(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        memcpy(address.sun_path, path, strlen(path));
        ck_assert_int_eq(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
        ck_assert_int_eq(chmod(path, 0666), 0);
        ck_assert_int_eq(listen(fd, SOMAXCONN), 0);
        return fd;
}

void manager_start(struct manager *manager, const char *const *arguments) {
        static unsigned number;
        const char *const *environment = manager->environment;
        bool refuse = manager->refuse;
        char notify[128];

        *manager = (struct manager) { .arguments = arguments, .restart = true, .refuse = refuse, .environment = environment,
                                      .pidfd = -EBADF };
        pthread_mutex_init(&manager->lock, NULL);
        pthread_cond_init(&manager->changed, NULL);
        snprintf(manager->directory, sizeof(manager->directory), "%s/m%d.%u", test_directory(), (int) getpid(), ++number);
        ck_assert_int_eq(mkdir(manager->directory, 0755), 0);
        snprintf(manager->socket, sizeof(manager->socket), "%s/shmd.sock", manager->directory);
        snprintf(manager->log, sizeof(manager->log), "%s/log", manager->directory);
        snprintf(notify, sizeof(notify), "%s/notify", manager->directory);
        manager->listen_fd = listen_at(manager->socket);
        manager->notify_fd = daemon_notify_socket(notify);
        manager->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ck_assert_int_eq(pthread_create(&manager->thread, NULL, manager_main, manager), 0);
        wake(manager);
        manager_await_ready(manager, 1);
}

void manager_kill(struct manager *manager, int number) {
        pthread_mutex_lock(&manager->lock);
        if (manager->pid > 0)
                kill(manager->pid, number);
        pthread_mutex_unlock(&manager->lock);
}

void manager_crash(struct manager *manager) {
        unsigned readies;

        pthread_mutex_lock(&manager->lock);
        readies = manager->readies;
        if (manager->pid > 0)
                kill(manager->pid, SIGKILL);
        pthread_mutex_unlock(&manager->lock);
        manager_await_ready(manager, readies + 1);
}

void manager_end(struct manager *manager, int number) {
        pthread_mutex_lock(&manager->lock);
        manager->restart = false;
        if (manager->pid > 0 && number != 0)
                kill(manager->pid, number);
        while (manager->pid > 0)
                wait_for_change(manager, "the daemon's end");
        pthread_mutex_unlock(&manager->lock);
}

void manager_launch(struct manager *manager) {
        unsigned readies;

        pthread_mutex_lock(&manager->lock);
        readies = manager->readies;
        manager->restart = true;
        pthread_mutex_unlock(&manager->lock);
        wake(manager);
        manager_await_ready(manager, readies + 1);
}

void manager_launch_in_vain(struct manager *manager) {
        unsigned starts;

        pthread_mutex_lock(&manager->lock);
        starts = manager->starts;
        manager->restart = true;
        wake(manager);
        while (manager->starts == starts)
                wait_for_change(manager, "a daemon to be started");
        manager->restart = false;
        while (manager->pid > 0)
                wait_for_change(manager, "the daemon's end");
        manager->failure = 0;
        pthread_mutex_unlock(&manager->lock);
}

void manager_limit(struct manager *manager, unsigned limit, unsigned nofile) {
        pthread_mutex_lock(&manager->lock);
        manager->limit = limit;
        manager->nofile = nofile;
        pthread_mutex_unlock(&manager->lock);
}

void manager_pause(struct manager *manager) {
        struct sockaddr_un address;
        socklen_t size = sizeof(address);
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        pthread_mutex_lock(&manager->lock);
        ck_assert_int_eq(getsockname(manager->notify_fd, (struct sockaddr *) &address, &size), 0);
        while (sendto(fd, "X=1", 3, 0, (struct sockaddr *) &address, size) == 3)
                ;
        ck_assert_int_eq(errno, EAGAIN);
        close(fd);
}

void manager_resume(struct manager *manager) {
        pthread_mutex_unlock(&manager->lock);
}

void manager_lose(struct manager *manager, const char *name) {
        pthread_mutex_lock(&manager->lock);
        forget(manager, name);
        pthread_mutex_unlock(&manager->lock);
}

void manager_stop(struct manager *manager) {
        manager_end(manager, SIGTERM);
        pthread_mutex_lock(&manager->lock);
        manager->stop = true;
        pthread_mutex_unlock(&manager->lock);
        wake(manager);
        pthread_join(manager->thread, NULL);
        while (manager->count > 0)
                forget(manager, manager->kept[0].name);
        close(manager->listen_fd);
        close(manager->notify_fd);
        close(manager->wake_fd);
        pthread_mutex_destroy(&manager->lock);
        pthread_cond_destroy(&manager->changed);
        ck_assert_msg(manager->failure == 0, "a daemon ended with status %d", manager->failure);
        ck_assert_msg(WIFEXITED(manager->status) && WEXITSTATUS(manager->status) == 0, "the daemon ended with status %d",
                      manager->status);
}

static bool name_begins(const char *name, const char *prefix) {
        return strncmp(name, prefix, strlen(prefix)) == 0;
}

static unsigned count_kept(const struct manager *manager, const char *prefix) {
        unsigned count = 0;

        for (unsigned i = 0; i < manager->count; i++)
                count += name_begins(manager->kept[i].name, prefix);
        return count;
}

unsigned manager_count(struct manager *manager, const char *prefix) {
        unsigned count;

        pthread_mutex_lock(&manager->lock);
        count = count_kept(manager, prefix);
        pthread_mutex_unlock(&manager->lock);
        return count;
}

void manager_await_count(struct manager *manager, const char *prefix, unsigned count) {
        pthread_mutex_lock(&manager->lock);
        while (count_kept(manager, prefix) != count)
                wait_for_change(manager, "the number of descriptors that are kept");
        pthread_mutex_unlock(&manager->lock);
}

int manager_fd(struct manager *manager, const char *prefix) {
        int fd = -EBADF;

        pthread_mutex_lock(&manager->lock);
        for (unsigned i = 0; fd < 0 && i < manager->count; i++)
                if (name_begins(manager->kept[i].name, prefix))
                        fd = manager->kept[i].fd;
        pthread_mutex_unlock(&manager->lock);
        return fd;
}
