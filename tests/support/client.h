/* SPDX-License-Identifier: MIT */
/* The library as most tests use it: against the fixture's daemon, and where nothing is expected to fail. */
#pragma once

#include <stdbool.h>

#include "shmd.h"

/* Calls that must succeed: the library's own words are in the message of the failure. */
#define ASSERT_OK(connection, call)                                                                                \
        do {                                                                                                       \
                int result_ = (call);                                                                              \
                if (result_ != 0)                                                                                  \
                        ck_abort_msg("%s: %s: %s", #call, strerror(-result_), shmd_error_message(connection));     \
        } while (0)

struct shmd *client_connect(void);

/* Exclusively, mode 0600 whatever the umask. */
struct shmd_segment *client_create(struct shmd *connection, const char *name, uint64_t size_bytes,
                                   enum shmd_lifetime lifetime);
struct shmd_segment *client_open(struct shmd *connection, const char *name, unsigned flags);
void *client_map(struct shmd_segment *segment);

/* Whether it can be opened: 0 or -errno; what was opened is closed again. */
int client_try_open(struct shmd *connection, const char *name, unsigned flags);
int client_try_create(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                      const struct shmd_create_options *options);

struct shmd_stat client_stat(struct shmd *connection, const char *name);
struct shmd_stat client_stat_id(struct shmd *connection, uint64_t id);
bool client_exists(struct shmd *connection, const char *name);
bool client_id_exists(struct shmd *connection, uint64_t id);
struct shmd_status client_status(struct shmd *connection);

/* How many a list shows. */
unsigned client_count(struct shmd *connection, const char *prefix, unsigned flags);
