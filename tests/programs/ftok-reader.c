/* SPDX-License-Identifier: MIT */
/* The textbooks' reader of two ints: adds what ftok-writer has written, and removes it. */
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/shm.h>

int main(void) {
        int id = shmget(ftok("./", 66), 8, 0666), *numbers;

        if (id < 0) {
                perror("shmget");
                return 1;
        }
        numbers = shmat(id, NULL, 0);
        if (numbers == (void *) -1) {
                perror("shmat");
                return 1;
        }
        printf("%d + %d = %d\n", numbers[0], numbers[1], numbers[0] + numbers[1]);
        if (shmdt(numbers) < 0 || shmctl(id, IPC_RMID, NULL) < 0) {
                perror("IPC_RMID");
                return 1;
        }
        return 0;
}
