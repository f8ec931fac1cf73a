/* SPDX-License-Identifier: MIT */
#include "manager.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon.h"
#include "handover.h"
#include "log.h"
#include "util.h"

struct manager_job {
        struct job job;
        struct manager *manager;
        struct kept_name name;
        uint64_t number;
        manager_confirm_function confirm; /* or NULL: it is to be dropped */
        int fd;                           /* to be kept; or -EBADF: that was told already */
        int result;
};

struct kept_name kept_name(const char *kind, uint64_t number) {
        struct kept_name name = { 0 };

        (void) snprintf(name.name, sizeof(name.name), "%s-%" PRIu64, kind, number);
        return name;
}

static void run(struct job *base) {
        struct manager_job *job = (struct manager_job *) base;

        if (!job->confirm) {
                job->result = handover_unkeep(job->name.name);
                return;
        }
        if (job->fd >= 0)
                job->result = handover_keep(job->name.name, job->fd);
        job->fd = close_fd(job->fd);
        if (job->result == 0)
                job->result = handover_wait(UINT64_MAX);
}

static void done(struct job *base) {
        struct manager_job *job = (struct manager_job *) base;
        struct daemon *daemon = job->manager->daemon;

        if (job->confirm)
                job->confirm(daemon, job->number, job->result);
        else if (job->result < 0)
                log_warning("the service manager cannot be told to drop %s: %s", job->name.name, strerror(-job->result));
        free(job);
        /* To go on with what waited for it; which may have been the daemon's idle end. */
        daemon_settle_later(daemon);
}

static struct manager_job *job_new(struct manager *manager, const char *kind, uint64_t number, manager_confirm_function confirm) {
        struct manager_job *job = calloc(1, sizeof(*job));

        if (!job)
                return NULL;
        *job = (struct manager_job) {
                .job = { .run = run, .done = done },
                .manager = manager,
                .name = kept_name(kind, number),
                .number = number,
                .confirm = confirm,
                .fd = -EBADF,
        };
        return job;
}

int manager_keep(struct manager *manager, const char *kind, uint64_t number, int fd, manager_confirm_function confirm,
                 bool *ret_told) {
        _cleanup_close_ int taken = fd;
        struct manager_job *job = job_new(manager, kind, number, confirm);

        if (!job)
                return -ENOMEM;
        *ret_told = handover_try_to_keep(job->name.name, taken) == 0;
        if (!*ret_told)
                job->fd = TAKE_FD(taken);
        worker_submit(&manager->thread, &job->job);
        return 0;
}

/* Where it can't be told it stays, to no harm but memory: the next daemon drops it. */
void manager_drop(struct manager *manager, const char *kind, uint64_t number) {
        struct manager_job *job = job_new(manager, kind, number, NULL);

        if (job)
                worker_submit(&manager->thread, &job->job);
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
