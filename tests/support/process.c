/* SPDX-License-Identifier: MIT */
#include "process.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "test.h"
#include "wire.h"

int process_pidfd(pid_t pid) {
        int fd = (int) syscall(SYS_pidfd_open, pid, 0);

        ck_assert_int_ge(fd, 0);
        return fd;
}

int process_wait(pid_t pid, int pidfd, const char *what) {
        int status = -1;
        pid_t ended;

        test_wait_readable(pidfd, what);
        do
                ended = waitpid(pid, &status, 0);
        while (ended < 0 && errno == EINTR);
        ck_assert_int_eq(ended, pid);
        return status;
}

void identity_assume(const struct identity *identity) {
        ck_assert_int_eq(setgroups(identity->group_count, identity->groups), 0);
        ck_assert_int_eq(setresgid(identity->gid, identity->gid, identity->gid), 0);
        ck_assert_int_eq(setresuid(identity->uid, identity->uid, identity->uid), 0);
        /* Else /proc/self/fd is root's, and a failing reopen proves nothing. */
        ck_assert_int_eq(prctl(PR_SET_DUMPABLE, 1), 0);
}

/* Closes what a parent's clients have: sockets and memfds. Check's own files and the standard streams stay. */
static void close_inherited(int channel) {
        DIR *stream = opendir("/proc/self/fd");
        struct dirent *entry;
        char target[64];

        ck_assert_ptr_nonnull(stream);
        while ((entry = readdir(stream))) {
                ssize_t n = readlinkat(dirfd(stream), entry->d_name, target, sizeof(target) - 1);
                int fd = atoi(entry->d_name);

                if (n <= 0 || fd == channel || fd <= STDERR_FILENO)
                        continue;
                target[n] = '\0';
                if (strncmp(target, "socket:", 7) == 0 || strncmp(target, "/memfd:", 7) == 0)
                        close(fd);
        }
        closedir(stream);
}

static void start(struct child *child, bool inherits, const struct identity *identity, child_function function,
                  void *userdata) {
        pid_t parent = getpid();
        int pair[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fflush(NULL);
        child->pid = fork();
        ck_assert_int_ge(child->pid, 0);
        if (child->pid == 0) {
                close(pair[0]);
                if (!inherits)
                        close_inherited(pair[1]);
                if (identity)
                        identity_assume(identity);
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(1);
                function(pair[1], userdata);
                fflush(NULL);
                _exit(0);
        }
        close(pair[1]);
        child->channel = pair[0];
        child->pidfd = process_pidfd(child->pid);
}

void child_start(struct child *child, child_function function, void *userdata) {
        start(child, false, NULL, function, userdata);
}

void child_start_as(struct child *child, const struct identity *identity, child_function function, void *userdata) {
        start(child, false, identity, function, userdata);
}

void child_start_inheriting(struct child *child, child_function function, void *userdata) {
        start(child, true, NULL, function, userdata);
}

static int child_end(struct child *child) {
        int status = process_wait(child->pid, child->pidfd, "a child's end");

        child->channel = close_fd(child->channel);
        child->pidfd = close_fd(child->pidfd);
        return status;
}

void child_join(struct child *child) {
        int status = child_end(child);

        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                ck_abort_msg("a child failed: wait status 0x%x", (unsigned) status);
}

/*
 * Each assertion of a child writes to the file of Check that it has in common with its parent. SIGKILL can cut that short, and then Check
 * can read no more of it: write(2) looks for that signal after each page. SIGSTOP is heeded when it is done.
 */
static bool has_stopped(const struct child *child) {
        siginfo_t info = { .si_pid = 0 };
        _cleanup_free_ char *text = NULL;
        const char *state;
        char path[64];

        if (waitid(P_PID, (id_t) child->pid, &info, WSTOPPED | WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid != 0)
                return true;
        snprintf(path, sizeof(path), "/proc/%d/stat", (int) child->pid);
        text = test_read_file(path);
        state = text ? strrchr(text, ')') : NULL;
        return state && state[1] && state[2] == 't'; /* by its tracer, who knows it already */
}

void children_kill(struct child *children, size_t count) {
        int status;

        for (size_t i = 0; i < count; i++)
                ck_assert_int_eq(kill(children[i].pid, SIGSTOP), 0);
        for (size_t i = 0; i < count; i++)
                TEST_UNTIL(has_stopped(&children[i]), "a child to stop");
        for (size_t i = 0; i < count; i++)
                ck_assert_int_eq(kill(children[i].pid, SIGKILL), 0);
        for (size_t i = 0; i < count; i++) {
                status = child_end(&children[i]);
                ck_assert(WIFSIGNALED(status));
                ck_assert_int_eq(WTERMSIG(status), SIGKILL);
        }
}

void child_kill(struct child *child) {
        children_kill(child, 1);
}

void step_send_data(int channel, const void *data, size_t size) {
        ssize_t n = send(channel, data, size, MSG_NOSIGNAL);

        ck_assert_msg(n == (ssize_t) size, "the other side of a channel has gone");
}

void step_receive_data(int channel, void *data, size_t size) {
        ssize_t n;

        test_wait_readable(channel, "a step of another process");
        n = recv(channel, data, size, 0);
        ck_assert_msg(n == (ssize_t) size, "the other side of a channel has gone (%zd)", n);
}

void step_send(int channel, char step) {
        step_send_data(channel, &step, 1);
}

void step_expect(int channel, char step) {
        char received = 0;

        step_receive_data(channel, &received, 1);
        ck_assert_int_eq(received, step);
}

void step_send_fd(int channel, int fd) {
        const struct shmd_wire_header header = { .operation = 1 };

        ck_assert_int_eq(wire_send(channel, &header, NULL, 0, NULL, 0, &fd, 1, 0), 0);
}

int step_receive_fd(int channel) {
        struct shmd_wire_header header;
        struct wire_fds fds = WIRE_FDS_INIT;

        test_wait_readable(channel, "a descriptor from another process");
        ck_assert_int_eq(wire_receive(channel, &header, sizeof(header), &fds, 0), sizeof(header));
        ck_assert_uint_eq(fds.count, 1);
        return fds.fd[0];
}

void outcome_done(struct outcome *outcome) {
        free(outcome->output);
        free(outcome->errors);
        *outcome = (struct outcome) OUTCOME_INIT;
}

static int temporary_file(char *path, size_t size, const char *name) {
        int fd;

        snprintf(path, size, "%s/%d.%s", test_directory(), (int) getpid(), name);
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        return fd;
}

void process_run(const char *const *arguments, void (*prepare)(void *userdata), void *userdata,
                 struct outcome *outcome) {
        char output_path[128], errors_path[128];
        int output = temporary_file(output_path, sizeof(output_path), "output");
        int errors = temporary_file(errors_path, sizeof(errors_path), "errors");
        int pidfd;
        pid_t pid;

        outcome_done(outcome);
        fflush(NULL);
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                dup2(output, STDOUT_FILENO);
                dup2(errors, STDERR_FILENO);
                if (prepare)
                        prepare(userdata);
                execvp(arguments[0], (char **) arguments);
                perror(arguments[0]);
                _exit(126);
        }
        pidfd = process_pidfd(pid);
        outcome->status = process_wait(pid, pidfd, arguments[0]);
        close(pidfd);
        close(output);
        close(errors);
        outcome->output = test_read_file(output_path);
        outcome->errors = test_read_file(errors_path);
        unlink(output_path);
        unlink(errors_path);
}
