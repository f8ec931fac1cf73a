/* SPDX-License-Identifier: MIT */
/*
 * shmdctl leaks, among 10,000 files of which 1,000 processes have half. All that is in a mount namespace of its own, and ends with the
 * process that has made it; which is not in the way of other rows for longer than these are run.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "rows.h"

#define FILES 10000u
#define PROCESSES 1000u
#define FILES_EACH (FILES / PROCESSES / 2)
/* Their owner: not root, so that it takes a right to ask about them. */
#define OWNER 1u

/* One world for all rows. Of the process that has it: a byte for each scan, and its answer. */
static int world_fd = -EBADF;
static unsigned world_users;

struct leaks_row {
        unsigned runs;
        bool uses_world;
};

enum { ASK = 'a', LOOK = 'l' };

/* --- the world --- */

static int make_file(unsigned index, int flags) {
        char path[64];

        snprintf(path, sizeof(path), "/dev/shm/bench-%u", index);
        return open(path, flags | O_CLOEXEC, 0600);
}

static int make_files(void) {
        for (unsigned i = 0; i < FILES; i++) {
                int fd = make_file(i, O_RDWR | O_CREAT | O_EXCL);

                if (fd < 0 || fchown(fd, OWNER, OWNER) < 0)
                        return negative_errno();
                close(fd);
        }
        return 0;
}

static int make_process(unsigned number, int ready_fd) {
        pid_t parent = getpid(), pid = fork();

        if (pid != 0)
                return pid < 0 ? negative_errno() : 0;
        child_enter(parent);
        for (unsigned i = 0; i < FILES_EACH; i++)
                if (make_file(FILES_EACH * number + i, O_RDWR) < 0)
                        _exit(1);
        if (write(ready_fd, "r", 1) != 1)
                _exit(1);
        for (;;)
                pause();
}

static int make_processes(void) {
        int ends[2], r = 0;
        char byte;

        if (pipe2(ends, O_CLOEXEC) < 0)
                return negative_errno();
        for (unsigned i = 0; r == 0 && i < PROCESSES; i++)
                r = make_process(i, ends[1]);
        close(ends[1]);
        for (unsigned i = 0; r == 0 && i < PROCESSES; i++)
                if (read(ends[0], &byte, 1) != 1)
                        r = -ECHILD;
        close(ends[0]);
        return r;
}

static int make_world(void) {
        int r;

        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("none", "/dev/shm", "tmpfs", 0, "mode=1777") < 0)
                return negative_errno();
        r = make_files();
        return r < 0 ? r : make_processes();
}

static int scan(char how) {
        const char *program = getenv("SHMD_TEST_SHMDCTL");
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

                (void) dup2(null_fd, STDOUT_FILENO);
                if (how == LOOK)
                        (void) prctl(PR_CAPBSET_DROP, CAP_LEASE, 0, 0, 0);
                (void) execlp(program ? program : "shmdctl", "shmdctl", "leaks", "--kind", "posix", "--json", NULL);
                _exit(127);
        }
        if (pid < 0 || waitpid(pid, &status, 0) < 0)
                return negative_errno();
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

_Noreturn static void world_main(int fd) {
        int result = make_world();
        char how;

        while (send(fd, &result, sizeof(result), MSG_NOSIGNAL) == sizeof(result) && recv(fd, &how, 1, 0) == 1)
                result = scan(how);
        _exit(0);
}

/* --- rows --- */

int leaks_setup(struct series *series) {
        struct leaks_row *row;

        if (geteuid() != 0)
                return series_refuse(series, 1, "it takes root, for a mount namespace");
        row = calloc(1, sizeof(*row));
        if (!row)
                return series_refuse(series, -ENOMEM, "out of memory");
        row->uses_world = true;
        series->state = row;
        world_users++;
        return 0;
}

static int receive_result(struct series *series) {
        int result;

        if (recv(world_fd, &result, sizeof(result), 0) != sizeof(result))
                result = -ECHILD;
        return result < 0 ? series_refuse(series, result, "shmdctl leaks: %s", strerror(-result)) : 0;
}

static int world_start(struct series *series) {
        pid_t parent = getpid(), pid;
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return series_refuse(series, negative_errno(), "socketpair");
        fflush(NULL);
        pid = fork();
        if (pid == 0)
                world_main(child_enter_with(parent, pair[1]));
        close(pair[1]);
        world_fd = pair[0];
        return pid < 0 ? series_refuse(series, -EAGAIN, "fork") : receive_result(series);
}

static void world_leave(struct leaks_row *row) {
        if (row->uses_world && --world_users == 0)
                world_fd = close_fd(world_fd);
        row->uses_world = false;
}

static int leaks_run(struct series *series, char how) {
        struct leaks_row *row = series->state;
        int r = 0;

        if (world_fd < 0) /* in a run that is not timed */
                r = world_start(series);
        if (r < 0)
                return r;
        if (send(world_fd, &how, 1, MSG_NOSIGNAL) != 1)
                return series_refuse(series, -ECHILD, "their world has ended");
        r = receive_result(series);
        if (++row->runs == 2 * series->row->rounds)
                world_leave(row);
        return r;
}

int leaks_ask_run(struct series *series) {
        return leaks_run(series, ASK);
}

int leaks_look_run(struct series *series) {
        return leaks_run(series, LOOK);
}

void leaks_teardown(struct series *series) {
        if (series->state)
                world_leave(series->state);
        free(series->state);
}
