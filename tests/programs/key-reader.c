/* SPDX-License-Identifier: MIT */
/* The textbooks' reader of a string: what key-writer has written. */
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/shm.h>

int main(void) {
        int id = shmget((key_t) 0x44, 4096, 0666);
        const char *memory;

        if (id < 0) {
                perror("shmget");
                return 1;
        }
        memory = shmat(id, NULL, SHM_RDONLY);
        if (memory == (void *) -1) {
                perror("shmat");
                return 1;
        }
        puts(memory);
        return shmdt(memory) < 0;
}
