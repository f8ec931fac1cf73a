/* SPDX-License-Identifier: MIT */
/*
 * Other processes of a test: clients that run a function, also as another user, and programs.
 *
 * Parent and child go step by step, over a socket pair: nothing is ever left to time. Whatever a
 * test starts it waits for; what is left when it ends, Check kills.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Whom a client runs as; needs root. */
struct identity {
        uid_t uid;
        gid_t gid;
        size_t group_count;
        gid_t groups[4]; /* supplementary */
};

struct child {
        pid_t pid;
        int pidfd;
        int channel;
};

/* What a child does. It exits with 0 when this returns; a failed assertion in it fails the test. */
typedef void (*child_function)(int channel, void *userdata);

/*
 * Forks a child. It has no socket and no segment of its parent but its channel: so a connection
 * of the parent ends when the parent ends it.
 */
void child_start(struct child *child, child_function function, void *userdata);
void child_start_as(struct child *child, const struct identity *identity, child_function function, void *userdata);

/* Forks a child that has all of its parent's descriptors, as fork leaves it. */
void child_start_inheriting(struct child *child, child_function function, void *userdata);

/* Waits until it has ended; it must have succeeded. */
void child_join(struct child *child);
/* Kills it with SIGKILL and waits. */
void child_kill(struct child *child);
/* Several at the same moment. */
void children_kill(struct child *children, size_t count);
/* Waits for the end of a process; gives what waitpid(2) tells. */
int process_wait(pid_t pid, int pidfd, const char *what);
int process_pidfd(pid_t pid);

/* Goes over to other credentials for good. */
void identity_assume(const struct identity *identity);

/* The steps: a byte, a number or a descriptor. The other side's death fails the test. */
void step_send(int channel, char step);
void step_expect(int channel, char step);
void step_send_data(int channel, const void *data, size_t size);
void step_receive_data(int channel, void *data, size_t size);
void step_send_fd(int channel, int fd);
int step_receive_fd(int channel);

/* A program that runs to its end: its wait status and what it wrote. Free both texts by outcome_done(). */
struct outcome {
        int status;
        char *output;
        char *errors;
};
#define OUTCOME_INIT { .status = -1, .output = NULL, .errors = NULL }
void outcome_done(struct outcome *outcome);

/* Runs a program; prepare (may be NULL) is called in the child before exec. */
void process_run(const char *const *arguments, void (*prepare)(void *userdata), void *userdata,
                 struct outcome *outcome);
