/* SPDX-License-Identifier: MIT */
#include "shmid.h"

#include "util.h"

/*
 * SHM_STAT_ANY asks without a right to the segment, but by its place in the kernel's table: the low 15 bits of its id, or 24
 * where the machine was started with ipcmni_extend. Any other segment in that place has another id.
 */
int shmid_stat(int shmid, struct shmid_ds *ret_ds) {
        static const int index_masks[] = { 0x7fff, 0xffffff };
        struct shmid_ds ds = { .shm_nattch = 0 }; /* valgrind does not know that the kernel writes it */

        if (shmid < 0)
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTSOF(index_masks); i++)
                if (shmctl(shmid & index_masks[i], SHM_STAT_ANY, &ds) == shmid) {
                        *ret_ds = ds;
                        return 0;
                }
        if (shmctl(shmid, IPC_STAT, &ds) < 0)
                return errno == EIDRM ? -EINVAL : negative_errno();
        *ret_ds = ds;
        return 0;
}
