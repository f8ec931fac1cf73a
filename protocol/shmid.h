/* SPDX-License-Identifier: MIT */
/* What the kernel says of a SysV segment, also to those who have no right to it. */
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
 * 0; -EINVAL: there is none with that id; or -errno. Before Linux 4.17, which brought SHM_STAT_ANY, it takes the right to read the
 * segment: -EACCES.
 */
int shmid_stat(int shmid, struct shmid_ds *ret_ds);
