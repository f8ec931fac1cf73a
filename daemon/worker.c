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

/* --- whose turn it is --- */

static struct worker_user *user_find(struct worker *worker, uid_t uid) {
        struct worker_user *user;

        TAILQ_FOREACH(user, &worker->users, entry)
                if (user->uid == uid)
                        return user;
        return NULL;
}

/* With the lock held: threads walk the list. */
static struct worker_user *user_get(struct worker *worker, uid_t uid) {
        struct worker_user *user = user_find(worker, uid);

        if (user)
                return user;
        user = calloc(1, sizeof(*user));
        if (!user)
                return NULL;
        user->uid = uid;
        TAILQ_INIT(&user->waiting);
        TAILQ_INSERT_TAIL(&worker->users, user, entry);
        return user;
}

static void user_free(struct worker *worker, struct worker_user *user) {
        TAILQ_REMOVE(&worker->users, user, entry);
        free(user);
}

static bool order_is_running(const struct worker *worker, uint64_t order) {
        for (unsigned i = 0; order != 0 && i < worker->threads; i++)
                if (worker->thread[i].order == order)
                        return true;
        return false;
}

static struct job *take_of_user(struct worker *worker, struct worker_user *user) {
        struct job *job;

        if (user->running >= worker->user_max)
                return NULL;
        TAILQ_FOREACH(job, &user->waiting, entry)
                if (!order_is_running(worker, job->order))
                        break;
        if (job)
                TAILQ_REMOVE(&user->waiting, job, entry);
        return job;
}

/* One of each user in turn. */
static struct job *take_waiting(struct worker *worker) {
        struct worker_user *user;
        struct job *job = NULL;

        TAILQ_FOREACH(user, &worker->users, entry) {
                job = take_of_user(worker, user);
                if (job)
                        break;
        }
        if (job) {
                TAILQ_REMOVE(&worker->users, user, entry);
                TAILQ_INSERT_TAIL(&worker->users, user, entry);
        }
        return job;
}

/* --- a thread --- */

/* With the lock held, but not while the job runs. */
static void run_job(struct worker_thread *thread, struct job *job) {
        struct worker *worker = thread->worker;

        job->user->running++;
        thread->order = job->order;
        pthread_mutex_unlock(&worker->lock);
        job->run(job);
        pthread_mutex_lock(&worker->lock);
        thread->order = 0;
        job->user->running--;
        job->user->undone--;
        TAILQ_INSERT_TAIL(&worker->finished, job, entry);
        announce(worker);
        /* What waited for this one's end, another thread may take. */
        pthread_cond_broadcast(&worker->wake);
}

static void *worker_main(void *userdata) {
        struct worker_thread *thread = userdata;
        struct worker *worker = thread->worker;
        struct job *job;

        pthread_mutex_lock(&worker->lock);
        for (;;) {
                job = take_waiting(worker);
                if (job)
                        run_job(thread, job);
                else if (worker->stop)
                        break;
                else {
                        worker->idle++;
                        pthread_cond_wait(&worker->wake, &worker->lock);
                        worker->idle--;
                }
        }
        pthread_mutex_unlock(&worker->lock);
        return NULL;
}

/* --- in the event loop --- */

static struct job *take_finished(struct worker *worker) {
        struct worker_user *user;
        struct job *job;

        pthread_mutex_lock(&worker->lock);
        job = TAILQ_FIRST(&worker->finished);
        if (job) {
                TAILQ_REMOVE(&worker->finished, job, entry);
                user = TAKE_PTR(job->user);
                if (--user->load == 0)
                        user_free(worker, user);
        }
        pthread_mutex_unlock(&worker->lock);
        return job;
}

static void on_finished(evutil_socket_t fd, short what, void *userdata) {
        struct worker *worker = userdata;
        struct job *job;
        uint64_t count;

        (void) what;
        (void) !read(fd, &count, sizeof(count));
        while ((job = take_finished(worker)))
                job->done(job);
}

int worker_init(struct worker *worker, struct event_base *base, unsigned threads_max, unsigned user_max) {
        *worker = (struct worker) { .event_fd = -EBADF, .threads_max = MIN(threads_max, WORKER_THREADS_MAX), .user_max = user_max };
        TAILQ_INIT(&worker->users);
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
        pthread_cond_broadcast(&worker->wake);
        pthread_mutex_unlock(&worker->lock);
}

static void free_parts(struct worker *worker) {
        struct job *job;

        while (worker->event && (job = take_finished(worker)))
                free(job);
        if (worker->event)
                event_free(TAKE_PTR(worker->event));
        worker->event_fd = close_fd(worker->event_fd);
        pthread_cond_destroy(&worker->wake);
        pthread_mutex_destroy(&worker->lock);
}

void worker_done(struct worker *worker) {
        if (worker->threads > 0)
                tell_to_stop(worker);
        for (unsigned i = 0; i < worker->threads; i++)
                pthread_join(worker->thread[i].thread, NULL);
        free_parts(worker);
}

void worker_abandon(struct worker *worker) {
        struct timespec until;

        if (worker->threads > 0)
                tell_to_stop(worker);
        (void) clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        for (unsigned i = 0; i < worker->threads; i++)
                if (pthread_timedjoin_np(worker->thread[i].thread, NULL, &until) != 0)
                        return;
        free_parts(worker);
}

/* One more, if all are at work and there may be. Signals are the event loop's. With the lock held. */
static void start_thread(struct worker *worker) {
        struct worker_thread *thread = &worker->thread[worker->threads];
        sigset_t all, before;

        if (worker->idle > 0 || worker->threads == worker->threads_max)
                return;
        *thread = (struct worker_thread) { .worker = worker };
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&thread->thread, NULL, worker_main, thread) == 0)
                worker->threads++;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void worker_submit(struct worker *worker, struct job *job) {
        struct worker_user *user;

        pthread_mutex_lock(&worker->lock);
        start_thread(worker);
        user = worker->threads > 0 ? user_get(worker, job->uid) : NULL;
        if (user) {
                job->user = user;
                user->load++;
                user->undone++;
                TAILQ_INSERT_TAIL(&user->waiting, job, entry);
                pthread_cond_signal(&worker->wake);
        }
        pthread_mutex_unlock(&worker->lock);
        if (!user) {
                job->run(job);
                job->done(job);
        }
}

unsigned worker_load(struct worker *worker, uid_t uid) {
        const struct worker_user *user;
        unsigned load;

        pthread_mutex_lock(&worker->lock);
        user = user_find(worker, uid);
        load = user ? user->undone : 0;
        pthread_mutex_unlock(&worker->lock);
        return load;
}

bool worker_is_idle(struct worker *worker) {
        bool idle;

        pthread_mutex_lock(&worker->lock);
        idle = TAILQ_EMPTY(&worker->users);
        pthread_mutex_unlock(&worker->lock);
        return idle;
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

void worker_close_charged(struct worker *worker, uid_t uid, int fd, struct charge *charge) {
        struct close_job *job;

        if (fd < 0)
                return;
        job = malloc(sizeof(*job));
        if (!job) {
                close_fd(fd);
                charge_done(charge);
                return;
        }
        *job = (struct close_job) { .job = { .run = close_run, .done = close_done, .uid = uid }, .charge = *charge, .fd = fd };
        *charge = (struct charge) { 0 };
        worker_submit(worker, &job->job);
}

void worker_close(struct worker *worker, uid_t uid, int fd) {
        struct charge none = { 0 };

        worker_close_charged(worker, uid, fd, &none);
}
