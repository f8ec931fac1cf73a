/* SPDX-License-Identifier: MIT */
/*
 * Ends the process by SIGKILL right before it makes the system call that $SHMD_TEST_KILL names, or right after with a "+" before it:
 * "rename", "unlink" (of files that are being reclaimed), "shmget", "shmat", "IPC_SET", "IPC_RMID". To be
 * preloaded into what is tested.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

#include "util.h"

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

static void at(const char *point, bool after) {
        const char *wanted = getenv("SHMD_TEST_KILL");

        if (wanted && (*wanted == '+') == after && strcmp(wanted + after, point) == 0)
                (void) raise(SIGKILL);
}

#define AROUND(point, expression)                                 \
        ({                                                        \
                at(point, false);                                 \
                __typeof__(expression) result_ = (expression);    \
                at(point, true);                                  \
                result_;                                          \
        })

_public_ int renameat2(int old_fd, const char *old_path, int new_fd, const char *new_path, unsigned flags) {
        return AROUND("rename", REAL(renameat2)(old_fd, old_path, new_fd, new_path, flags));
}

_public_ int unlinkat(int fd, const char *path, int flags) {
        return AROUND("unlink", REAL(unlinkat)(fd, path, flags));
}

_public_ int shmget(key_t key, size_t size, int flags) {
        return AROUND("shmget", REAL(shmget)(key, size, flags));
}

_public_ void *shmat(int shmid, const void *address, int flags) {
        return AROUND("shmat", REAL(shmat)(shmid, address, flags));
}

_public_ int shmctl(int shmid, int command, struct shmid_ds *ds) {
        switch (command) {
        case IPC_SET:
                return AROUND("IPC_SET", REAL(shmctl)(shmid, command, ds));
        case IPC_RMID:
                return AROUND("IPC_RMID", REAL(shmctl)(shmid, command, ds));
        default:
                return REAL(shmctl)(shmid, command, ds);
        }
}
