/* SPDX-License-Identifier: MIT */
#include "manager.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon.h"
#include "handover.h"
#include "log.h"
#include "util.h"

struct manager_job {
        struct job job;
        struct manager *manager;
        struct kept_name name;
        manager_confirm_function confirm; /* or NULL */
        int fd;                    /* to be kept; or -EBADF: to be dropped */
        int result;
};

struct kept_name kept_name(const char *kind, uint64_t number) {
        struct kept_name name = { 0 };

        (void) snprintf(name.name, sizeof(name.name), "%s-%" PRIu64, kind, number);
        return name;
}

static void run(struct job *base) {
        struct manager_job *job = (struct manager_job *) base;
        struct manager *manager = job->manager;

        job->result = job->fd < 0 ? handover_unkeep(job->name.name) : handover_keep(job->name.name, job->fd);
        atomic_fetch_add_explicit(&manager->told, 1, memory_order_release);
        job->fd = close_fd(job->fd);
        if (job->confirm && job->result == 0)
                job->result = handover_wait(UINT64_MAX);
}

static void done(struct job *base) {
        struct manager_job *job = (struct manager_job *) base;
        struct daemon *daemon = job->manager->daemon;

        if (job->result < 0)
                log_error("the service manager does not take %s: %s", job->name.name, strerror(-job->result));
        if (job->confirm)
                job->confirm(daemon, job->result);
        free(job);
        /* To go on with what waited for it; which may have been the daemon's idle end. */
        daemon_settle_later(daemon);
}

static int tell(struct manager *manager, const char *kind, uint64_t number, int fd, manager_confirm_function confirm) {
        struct manager_job *job = calloc(1, sizeof(*job));

        if (!job)
                return -ENOMEM;
        *job = (struct manager_job) {
                .job = { .run = run, .done = done },
                .manager = manager,
                .name = kept_name(kind, number),
                .confirm = confirm,
                .fd = fd,
        };
        manager->to_tell++;
        worker_submit(&manager->thread, &job->job);
        return 0;
}

int manager_keep(struct manager *manager, const char *kind, uint64_t number, int fd, manager_confirm_function confirm) {
        int r = tell(manager, kind, number, fd, confirm);

        if (r < 0)
                close_fd(fd);
        return r;
}

/* Without memory for that it stays, to no harm but memory: the next daemon drops it. */
void manager_drop(struct manager *manager, const char *kind, uint64_t number) {
        (void) tell(manager, kind, number, -EBADF, NULL);
}

void manager_await(const struct manager *manager, unsigned number) {
        const struct timespec pause = { .tv_nsec = 100000 };

        for (unsigned i = 0; i < 20000 && (int) (atomic_load_explicit(&manager->told, memory_order_acquire) - number) < 0; i++)
                (void) nanosleep(&pause, NULL);
}

int manager_init(struct manager *manager, struct daemon *daemon) {
        manager->daemon = daemon;
        return worker_init(&manager->thread, daemon->base, 1, 1);
}

void manager_abandon(struct manager *manager) {
        worker_abandon(&manager->thread);
}

bool manager_is_idle(struct manager *manager) {
        return worker_is_idle(&manager->thread);
}
