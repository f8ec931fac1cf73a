/* SPDX-License-Identifier: MIT */
/* The textbooks' writer of two ints: 8 bytes under ftok("./", 66). ftok-reader reads and removes them. */
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/shm.h>

int main(void) {
        int id = shmget(ftok("./", 66), 8, IPC_CREAT | 0666), *numbers;

        if (id < 0) {
                perror("shmget");
                return 1;
        }
        numbers = shmat(id, NULL, 0);
        if (numbers == (void *) -1) {
                perror("shmat");
                return 1;
        }
        numbers[0] = 10;
        numbers[1] = 20;
        return shmdt(numbers) < 0;
}
