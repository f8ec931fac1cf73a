/* SPDX-License-Identifier: MIT */
/* The textbooks' writer of a string: 4096 bytes under key 0x44. key-reader reads it. Nobody removes it. */
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

int main(void) {
        int id = shmget((key_t) 0x44, 4096, IPC_CREAT | 0666);
        char *memory;

        if (id < 0) {
                perror("shmget");
                return 1;
        }
        memory = shmat(id, NULL, 0);
        if (memory == (void *) -1) {
                perror("shmat");
                return 1;
        }
        strcpy(memory, "hello, world");
        return shmdt(memory) < 0;
}
