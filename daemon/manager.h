/* SPDX-License-Identifier: MIT */
/*
 * What the service manager is told to keep, or to drop, while the daemon serves. The manager may be slow, or stopped, and the event
 * loop waits for nobody: what does not fit into the manager's queue at once is sent by a thread of its own, which also waits for the
 * manager's confirmations.
 *
 * Owns the descriptors that are under way to the manager. What it is told of one name arrives in the order of these calls, if the
 * caller drops nothing before it is confirmed.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol.h"
#include "worker.h"

struct daemon;

struct manager {
        struct daemon *daemon;
        struct worker thread;
};

#define MANAGER_INIT { .thread.event_fd = -EBADF }

/* What the manager keeps has a name, which says what it is: of kind "carrier" or "state". */
struct kept_name {
        char name[SHMD_HANDOVER_NAME_SIZE];
};
struct kept_name kept_name(const char *kind, uint64_t number);

/* 0 or -errno. */
int manager_init(struct manager *manager, struct daemon *daemon);

/* Leaves a manager that does not read to the end of the process. */
void manager_abandon(struct manager *manager);

/* In the event loop, when the manager has taken it; or could not be told: -errno. */
typedef void (*manager_confirm_function)(struct daemon *daemon, uint64_t number, int result);

/* Takes fd. ret_told: it is in the manager's queue already, so that the daemon may die. 0 or -ENOMEM. */
int manager_keep(struct manager *manager, const char *kind, uint64_t number, int fd, manager_confirm_function confirm,
                 bool *ret_told);
void manager_drop(struct manager *manager, const char *kind, uint64_t number);

/* Nothing is under way. */
bool manager_is_idle(struct manager *manager);
