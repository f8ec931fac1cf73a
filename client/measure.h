/* SPDX-License-Identifier: MIT */
/*
 * How much of a SysV segment is in memory of which the daemon has no descriptor: it can't know that cheaply, as the kernel tells it only in
 * its list of all segments, two microseconds each. So whoever asks reads that himself, and once for a whole list.
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

/*
 * Where the daemon did not know it: stat->inode is then the number of the IPC namespace that the segment is in, and is set to zero, as
 * there is no inode to be told of.
 */
void measure_segment(struct measure *measure, struct shmd_stat *stat);
