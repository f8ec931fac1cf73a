/* SPDX-License-Identifier: MIT */
/*
 * A service manager for one daemon, as systemd is to it: holds its listening socket, keeps what it is given to keep, starts it
 * again whenever it ends. Runs in a thread of the test.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define MANAGER_KEPT_MAX 512

struct manager_kept {
        char name[64];
        int fd;
};

struct manager {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t changed;
        struct manager_kept kept[MANAGER_KEPT_MAX];
        unsigned count;
        char directory[96];
        char socket[128];
        char log[128];
        const char *const *arguments; /* of the daemon; NULL-terminated, or NULL */
        int listen_fd, notify_fd, wake_fd;
        int pidfd;
        pid_t pid;          /* 0: it is not running */
        unsigned starts;    /* how often it was started */
        unsigned readies;   /* how often it said that it was ready */
        unsigned stores;    /* how often it gave something to keep */
        bool restart;       /* start it whenever it has ended */
        bool refuse;        /* keep nothing */
        unsigned limit;     /* how much it keeps; zero: as much as it can */
        unsigned nofile;    /* how many descriptors the daemon may have; zero: as many as the test */
        const char *const *environment; /* what the daemon has in its, besides; NULL-terminated, or NULL */
        bool stop;
        int status;         /* of its last end: waitpid(2) */
        int failure;        /* of the first end that was neither clean nor SIGKILL: none is expected */
};

/* Starts it all, and waits until the daemon is ready. */
void manager_start(struct manager *manager, const char *const *arguments);
/* Ends the daemon, and all that was kept. */
void manager_stop(struct manager *manager);

/* Sends the daemon a signal. */
void manager_kill(struct manager *manager, int number);
/* Waits until the daemon has become ready so many times. */
void manager_await_ready(struct manager *manager, unsigned times);
/* Kills it and waits until the next one is ready. */
void manager_crash(struct manager *manager);
/* Ends it, and waits for its end; it is not started again before manager_launch(). */
void manager_end(struct manager *manager, int number);
void manager_launch(struct manager *manager);
/* Starts one that can't become ready, and waits for its end. */
void manager_launch_in_vain(struct manager *manager);
/* Changes the limits. */
void manager_limit(struct manager *manager, unsigned limit, unsigned nofile);
/* Does not read what the daemon says, and has no room for more of it; reads it all. Nothing else may be done with it in between. */
void manager_pause(struct manager *manager);
void manager_resume(struct manager *manager);
/* Loses what is kept under that name. */
void manager_lose(struct manager *manager, const char *name);

/* How many descriptors are kept whose names begin so. */
unsigned manager_count(struct manager *manager, const char *prefix);
/* Waits until it is so many. */
void manager_await_count(struct manager *manager, const char *prefix, unsigned count);
/* A kept descriptor; borrowed. */
int manager_fd(struct manager *manager, const char *prefix);
