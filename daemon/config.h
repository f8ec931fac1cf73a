/* SPDX-License-Identifier: MIT */
/*
 * The configuration file: limits, who administers, what is reclaimed by itself. Read at start and again on SIGHUP; a file that is wrong
 * changes nothing. inih reads it; shmd.conf(5) describes it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "quota.h"

struct config {
        uint64_t maximum[QUOTA_COUNT]; /* for each user */
        uint64_t pool[QUOTA_COUNT];    /* for all together */
        gid_t administrators;          /* (gid_t) -1: no group */
};

/*
 * What applies without a file. descriptors: how many the daemon may have open.
 */
void config_init(struct config *config, uint64_t descriptors);

/*
 * Reads a file over what is there. 0; -ENOENT if there is none, which is no error unless the user named it; or another
 * -errno. What is wrong is said on the log, with file and line, and *config is as it was.
 */
int config_read(struct config *config, const char *path);
