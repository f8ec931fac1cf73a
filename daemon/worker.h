/* SPDX-License-Identifier: MIT */
/*
 * Threads for what takes long, so that the event loop never waits: freeing
 * gigabytes takes the kernel a good part of a second, in whoever closes last.
 *
 * Started when there are jobs; an idle daemon has none. Each user has a queue of his own, of which only so many jobs run
 * at once, and users take turns: nobody's jobs keep all threads. Of the jobs of the same order, such as a segment's, one runs
 * at a time, and those of one user in the order in which they came.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include <bsd/sys/queue.h>
#include <event2/event.h>

#include "quota.h"

struct worker;
struct worker_user;

struct job {
        TAILQ_ENTRY(job) entry;
        void (*run)(struct job *job);  /* in a thread of the worker */
        void (*done)(struct job *job); /* in the event loop, afterwards; owns the job */
        uid_t uid;                     /* for whom */
        uint64_t order;                /* not beside another of the same number; zero: beside any */
        struct worker_user *user;      /* the worker's own */
};

TAILQ_HEAD(job_queue, job);

struct worker_user {
        TAILQ_ENTRY(worker_user) entry;
        struct job_queue waiting;
        uid_t uid;
        unsigned load;    /* jobs submitted and not yet done */
        unsigned undone;  /* of these: waiting or running */
        unsigned running;
};

TAILQ_HEAD(worker_user_list, worker_user);

struct worker_thread {
        struct worker *worker;
        pthread_t thread;
        uint64_t order; /* of the job that runs */
};

#define WORKER_THREADS_MAX 16u

struct worker {
        pthread_mutex_t lock;
        pthread_cond_t wake;
        struct worker_user_list users; /* whose turn is next first */
        struct job_queue finished;
        struct event *event;
        struct worker_thread thread[WORKER_THREADS_MAX];
        int event_fd;
        unsigned threads, threads_max, idle;
        unsigned user_max; /* threads that one user's jobs may have */
        bool stop;
};

/* 0 or -errno. */
int worker_init(struct worker *worker, struct event_base *base, unsigned threads_max, unsigned user_max);

/* Runs what is waiting to its end, without done(), and joins the threads. */
void worker_done(struct worker *worker);

/* The same for one whose jobs may never end: after a second it leaves them, and the worker, to the end of the process. */
void worker_abandon(struct worker *worker);

/* Hands a job over. Where no thread can be had it is run at once. */
void worker_submit(struct worker *worker, struct job *job);

/* Closes a descriptor over there, for a user. Takes it. */
void worker_close(struct worker *worker, uid_t uid, int fd);

/* The same; its charge is taken, too, and refunded once it is closed. */
void worker_close_charged(struct worker *worker, uid_t uid, int fd, struct charge *charge);

/* How many jobs of a user wait or run. */
unsigned worker_load(struct worker *worker, uid_t uid);

/* Whether all that was handed over is done. */
bool worker_is_idle(struct worker *worker);
