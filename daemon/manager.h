/* SPDX-License-Identifier: MIT */
/*
 * What the service manager is told to keep, or to drop, while the daemon serves: by a thread of its own, as the manager may be
 * slow, or stopped, and the event loop waits for nobody.
 *
 * Owns the descriptors that are under way to the manager. It is told in the order in which these functions are called.
 */
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol.h"
#include "worker.h"

struct daemon;

struct manager {
        struct daemon *daemon;
        struct worker thread;
        unsigned to_tell;      /* how many messages there have been for the manager */
        _Atomic unsigned told; /* and how many of them were sent */
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

/* In the event loop, when the manager has it; or has not: -errno. */
typedef void (*manager_confirm_function)(struct daemon *daemon, int result);

/* Takes fd. With confirm the thread waits for the manager to have it. 0 or -ENOMEM. */
int manager_keep(struct manager *manager, const char *kind, uint64_t number, int fd, manager_confirm_function confirm);
void manager_drop(struct manager *manager, const char *kind, uint64_t number);

/* Waits until the manager was sent all messages up to that number of them, for two seconds at most. */
void manager_await(const struct manager *manager, unsigned number);

/* Nothing is under way. */
bool manager_is_idle(struct manager *manager);
