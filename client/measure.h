/* SPDX-License-Identifier: MIT */
/*
 * How much memory SysV segments have of which the daemon has no descriptor: it can't know that cheaply, as the kernel tells it in a list of
 * all segments alone, two microseconds each. So whoever asks reads it himself, and once for a whole list.
 */
#pragma once

#include "proc.h"

struct shmd_stat;

/* What has been read so far: nothing, at first. */
struct measure {
        struct proc_sysv *rows; /* in order of shmid */
        size_t count;
        bool done;
};

void measure_done(struct measure *measure);

/* If it is not known, stat->inode is the number of the IPC namespace that it is in, and is set to zero: there is no inode to be told of. */
void measure_segment(struct measure *measure, struct shmd_stat *stat);
