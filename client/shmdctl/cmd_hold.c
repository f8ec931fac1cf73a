/* SPDX-License-Identifier: MIT */
/*
 * hold, and what create and put have in common with it: a program runs with a segment held. shmdctl stays, and its
 * connection with it, so that the hold shows with a process that has something to do with it, until the program ends.
 */
#include "shmdctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* --- signals: those sent to us are meant for the program --- */

static const int forwarded[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 };
static volatile sig_atomic_t program_pid;

static void on_signal(int signal_number, siginfo_t *info, void *context) {
        int saved = errno;

        (void) context;
        /* What the kernel sends, for a key pressed or a terminal gone, the program gets by itself. */
        if (info->si_code <= 0 && program_pid > 0)
                (void) kill(program_pid, signal_number);
        errno = saved;
}

static void forwarded_set(sigset_t *set) {
        sigemptyset(set);
        for (size_t i = 0; i < ELEMENTSOF(forwarded); i++)
                sigaddset(set, forwarded[i]);
}

/* What is ignored, by nohup(1) say, stays so for both of us. */
static void catch_signals(void) {
        struct sigaction old, action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

        for (size_t i = 0; i < ELEMENTSOF(forwarded); i++) {
                if (sigaction(forwarded[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
                        sigaction(forwarded[i], &action, NULL);
        }
}

/* --- the program --- */

static void export_number(const char *name, uint64_t number) {
        char text[TEXT_SIZE_MAX];

        snprintf(text, sizeof(text), "%" PRIu64, number);
        if (setenv(name, text, 1) < 0)
                fail_memory();
}

/* In the child: does not return. */
_noreturn_ static void execute(char **program, int fd, const sigset_t *mask, pid_t parent) {
        int flags = fcntl(fd, F_GETFD);

        if (parent != 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent))
                _exit(126);
        if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) < 0) {
                fail("cannot pass the descriptor on: %s", strerror(errno));
                _exit(126);
        }
        sigprocmask(SIG_SETMASK, mask, NULL);
        execvp(program[0], program);
        flags = errno;
        fail("cannot run \"%s\": %s", program[0], strerror(flags));
        _exit(flags == ENOENT || flags == ENOTDIR ? 127 : 126);
}

static int wait_for(pid_t pid) {
        int result;

        while (waitpid(pid, &result, 0) < 0) {
                if (errno != EINTR)
                        return fail("cannot wait for the program: %s", strerror(errno));
        }
        return WIFSIGNALED(result) ? 128 + WTERMSIG(result) : WEXITSTATUS(result);
}

int hold_run(char **program, struct shmd_segment *segment, bool bound) {
        pid_t parent = bound ? getpid() : 0;
        int fd = shmd_fd(segment);
        sigset_t set, mask;
        pid_t pid;

        export_number("SHMD_FD", (uint64_t) fd);
        export_number("SHMD_SIZE", shmd_size(segment));
        export_number("SHMD_MAXIMUM", shmd_maximum(segment));

        /* No signal may come between the birth of the program and our knowing whom to send it on to. */
        forwarded_set(&set);
        sigprocmask(SIG_BLOCK, &set, &mask);
        pid = fork();
        if (pid < 0)
                return fail("cannot run \"%s\": %s", program[0], strerror(errno));
        if (pid == 0)
                execute(program, fd, &mask, parent);
        program_pid = pid;
        catch_signals();
        sigprocmask(SIG_SETMASK, &mask, NULL);
        return wait_for(pid);
}

int cmd_hold(struct ctl *ctl, int n_arguments, char **arguments) {
        _cleanup_(segment_closep) struct shmd_segment *segment = NULL;
        /* Private: where the program reads and writes shall not depend on what another one did. */
        unsigned flags = SHMD_PRIVATE | (ctl->options.read_write ? SHMD_READ_WRITE : SHMD_READ_ONLY);
        int status = connect_to_daemon(ctl);
        int r;

        (void) n_arguments;
        if (status != STATUS_DONE)
                return status;
        r = segment_open(ctl, arguments[0], flags, &segment);
        if (r == -EOPNOTSUPP) /* made of a file, of which there are no others */
                r = segment_open(ctl, arguments[0], flags & ~SHMD_PRIVATE, &segment);
        if (r != 0)
                return fail_shmd(ctl, r, "open", arguments[0]);
        return hold_run(ctl->program, segment, false);
}
