/* SPDX-License-Identifier: MIT */
#include "worker.h"

#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>

#include "util.h"

static void announce(struct worker *worker) {
        uint64_t one = 1;

        /* Can only fail when the counter is full, and then the loop is awake anyway. */
        (void) !write(worker->event_fd, &one, sizeof(one));
}

static void *worker_main(void *userdata) {
        struct worker *worker = userdata;
        struct job *job;

        pthread_mutex_lock(&worker->lock);
        for (;;) {
                while (!(job = TAILQ_FIRST(&worker->waiting)) && !worker->stop)
                        pthread_cond_wait(&worker->wake, &worker->lock);
                if (!job)
                        break;
                TAILQ_REMOVE(&worker->waiting, job, entry);
                pthread_mutex_unlock(&worker->lock);
                job->run(job);
                pthread_mutex_lock(&worker->lock);
                TAILQ_INSERT_TAIL(&worker->finished, job, entry);
                announce(worker);
        }
        pthread_mutex_unlock(&worker->lock);
        return NULL;
}

static struct job *take_finished(struct worker *worker) {
        struct job *job;

        pthread_mutex_lock(&worker->lock);
        job = TAILQ_FIRST(&worker->finished);
        if (job)
                TAILQ_REMOVE(&worker->finished, job, entry);
        pthread_mutex_unlock(&worker->lock);
        return job;
}

static void on_finished(evutil_socket_t fd, short what, void *userdata) {
        struct worker *worker = userdata;
        struct job *job;
        uint64_t count;

        (void) what;
        (void) !read(fd, &count, sizeof(count));
        while ((job = take_finished(worker))) {
                worker->load--;
                job->done(job);
        }
}

int worker_init(struct worker *worker, struct event_base *base) {
        *worker = (struct worker) { .event_fd = -EBADF };
        TAILQ_INIT(&worker->waiting);
        TAILQ_INIT(&worker->finished);
        pthread_mutex_init(&worker->lock, NULL);
        pthread_cond_init(&worker->wake, NULL);
        worker->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (worker->event_fd < 0)
                return negative_errno();
        worker->event = event_new(base, worker->event_fd, EV_READ | EV_PERSIST, on_finished, worker);
        if (!worker->event || event_add(worker->event, NULL) < 0)
                return -ENOMEM;
        return 0;
}

static void tell_to_stop(struct worker *worker) {
        pthread_mutex_lock(&worker->lock);
        worker->stop = true;
        pthread_cond_signal(&worker->wake);
        pthread_mutex_unlock(&worker->lock);
}

static void free_parts(struct worker *worker) {
        struct job *job;

        while ((job = take_finished(worker)))
                free(job);
        if (worker->event)
                event_free(TAKE_PTR(worker->event));
        worker->event_fd = close_fd(worker->event_fd);
        pthread_cond_destroy(&worker->wake);
        pthread_mutex_destroy(&worker->lock);
}

void worker_done(struct worker *worker) {
        if (worker->started) {
                tell_to_stop(worker);
                pthread_join(worker->thread, NULL);
        }
        free_parts(worker);
}

void worker_abandon(struct worker *worker) {
        struct timespec until;

        if (worker->started) {
                (void) clock_gettime(CLOCK_REALTIME, &until);
                until.tv_sec++;
                tell_to_stop(worker);
                if (pthread_timedjoin_np(worker->thread, NULL, &until) != 0)
                        return;
        }
        free_parts(worker);
}

/* Signals are the event loop's. */
static bool worker_start(struct worker *worker) {
        sigset_t all, before;

        if (worker->started)
                return true;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        worker->started = pthread_create(&worker->thread, NULL, worker_main, worker) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return worker->started;
}

void worker_submit(struct worker *worker, struct job *job) {
        if (!worker_start(worker)) {
                job->run(job);
                job->done(job);
                return;
        }
        worker->load++;
        pthread_mutex_lock(&worker->lock);
        TAILQ_INSERT_TAIL(&worker->waiting, job, entry);
        pthread_cond_signal(&worker->wake);
        pthread_mutex_unlock(&worker->lock);
}

struct close_job {
        struct job job;
        struct charge charge;
        int fd;
};

static void close_run(struct job *job) {
        close_fd(((struct close_job *) job)->fd);
}

static void close_done(struct job *job) {
        charge_done(&((struct close_job *) job)->charge);
        free(job);
}

void worker_close_charged(struct worker *worker, int fd, struct charge *charge) {
        struct close_job *job;

        if (fd < 0)
                return;
        job = malloc(sizeof(*job));
        if (!job) {
                close_fd(fd);
                charge_done(charge);
                return;
        }
        *job = (struct close_job) { .job = { .run = close_run, .done = close_done }, .charge = *charge, .fd = fd };
        *charge = (struct charge) { 0 };
        worker_submit(worker, &job->job);
}

void worker_close(struct worker *worker, int fd) {
        struct charge none = { 0 };

        worker_close_charged(worker, fd, &none);
}
