/* SPDX-License-Identifier: MIT */
/* What the kernel says of a SysV segment, for whoever may not attach it, too. */
#pragma once

#include <sys/ipc.h>
#include <sys/shm.h>

#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15
#endif
#ifndef SHM_DEST
#define SHM_DEST 01000
#endif

/*
 * Takes no right to the segment. 0; -EINVAL: there is none with that id; or -errno, where the kernel does not know the question
 * (SHM_STAT_ANY, Linux 4.17) and nobody gave the right.
 */
int shmid_stat(int shmid, struct shmid_ds *ret_ds);
