/* SPDX-License-Identifier: MIT */
/*
 * The built daemon as a process of its own, in a fresh directory, with its own socket.
 *
 * The harness knows that it is ready by its readiness notification, and talks to it over a raw control
 * connection of its own. When a daemon is stopped, the harness makes sure that nothing is left
 * behind: no descriptor, file, process, or complaint of a sanitizer.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "raw.h"

struct test_daemon {
        pid_t pid;
        int pidfd;
        int notify; /* the socket that its notifications come to */
        struct raw control;
        int baseline; /* its open descriptors with nobody connected but us */
        char directory[96];
        char place[112];  /* where its socket and the socket's lock are, and nothing else */
        char socket[128];
        char log[112];    /* what it wrote to standard error */
};

struct daemon_options {
        const char *const *arguments; /* besides --socket; NULL-terminated, or NULL */
        bool without_socket;          /* does not give --socket either, and makes no control connection */
        void (*prepare)(void *userdata); /* called in the process before it becomes the daemon */
        void *userdata;
};

/* The one that the fixtures start and stop, for programs with one daemon a test. */
extern struct test_daemon the_daemon;
void daemon_setup(void);
void daemon_teardown(void);

/*
 * Starts one and waits until it is ready. As root: a system daemon, so that other users are let in. options may
 * be NULL.
 */
void daemon_start(struct test_daemon *daemon, const struct daemon_options *options);
/* Again, in the same place; it must have ended. */
void daemon_start_again(struct test_daemon *daemon, const struct daemon_options *options);

/* Starts another one that takes its place, and waits for its end. */
void daemon_replace(struct test_daemon *daemon);

/* Waits for an end that is its own, or caused by a signal; gives the wait status. */
int daemon_wait(struct test_daemon *daemon);
void daemon_kill(struct test_daemon *daemon, int number);
/* Stops it for a while: what is done meanwhile it finds all at once, in that order. */
void daemon_pause(struct test_daemon *daemon);
void daemon_resume(struct test_daemon *daemon);

/*
 * Removes all names, waits until nothing is held, connected or charged, compares the descriptors with what they
 * were at first, ends it with SIGTERM, and checks what is left.
 */
void daemon_stop(struct test_daemon *daemon);
/* The end of that alone, for a daemon that has been waited for: its log, files and processes. */
void daemon_finish(struct test_daemon *daemon);

/* Gives up all that was opened over the control connection. */
void daemon_reconnect(struct test_daemon *daemon);

/* What it says of itself. */
struct shmd_wire_status_reply daemon_status(struct test_daemon *daemon);
/* Waits until the daemon has noticed everybody's end: as many connections are left besides our own. */
void daemon_settle(struct test_daemon *daemon, unsigned connections);
/* Takes all names away. */
void daemon_unlink_all(struct test_daemon *daemon);
/* Waits until that many segments are left, named or not. */
void daemon_await_segments(struct test_daemon *daemon, unsigned segments);
/* Waits until the kernel shows as many descriptors as at first, plus that many. */
void daemon_await_descriptors(struct test_daemon *daemon, int more);
/* Its open descriptors by /proc; -1 if we may not look. */
int daemon_count_descriptors(const struct test_daemon *daemon);
/* The memory it has of its own (not shared, not files), bytes. */
uint64_t daemon_own_memory(const struct test_daemon *daemon);
/* Whether a text is in its log. */
bool daemon_log_has(const struct test_daemon *daemon, const char *text);

/* Waits for "READY=1" on a notification socket, or for the end of the process: then the test fails. */
void daemon_await_ready(int notify, int pidfd, const char *log);
/* A bound notification socket at that path. */
int daemon_notify_socket(const char *path);
