/* SPDX-License-Identifier: MIT */
/*
 * The thread for what takes long, so that the event loop never waits: freeing
 * gigabytes takes the kernel a good part of a second, in whoever closes last.
 *
 * Started at the first job; an idle daemon has none. Jobs run one after the other.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include <bsd/sys/queue.h>
#include <event2/event.h>

#include "quota.h"

struct job {
        TAILQ_ENTRY(job) entry;
        void (*run)(struct job *job);  /* in the worker's thread */
        void (*done)(struct job *job); /* in the event loop, afterwards; owns the job */
};

TAILQ_HEAD(job_queue, job);

struct worker {
        pthread_mutex_t lock;
        pthread_cond_t wake;
        struct job_queue waiting, finished;
        struct event *event;
        pthread_t thread;
        int event_fd;
        unsigned load; /* jobs submitted and not yet done */
        bool started, stop;
};

int worker_init(struct worker *worker, struct event_base *base);

/* Runs what is waiting to its end, without done(), and joins the thread. */
void worker_done(struct worker *worker);

/* The same for one whose jobs may never end: after a second it leaves them, and the worker, to the end of the process. */
void worker_abandon(struct worker *worker);

/* Hands a job over. Where no thread can be had it is run at once. */
void worker_submit(struct worker *worker, struct job *job);

/* Closes a descriptor over there. Takes it. */
void worker_close(struct worker *worker, int fd);

/* The same; its charge is taken, too, and refunded once it is closed. */
void worker_close_charged(struct worker *worker, int fd, struct charge *charge);

/* How many jobs wait or run. Event loop only. */
static inline unsigned worker_load(const struct worker *worker) {
        return worker->load;
}
