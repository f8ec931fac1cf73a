/* SPDX-License-Identifier: MIT */
/*
 * A program that knows nothing of shmd, statically linked: attaches the SysV segment with the key that it is given, writes what
 * is there to standard output, then the text that it is given over it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>

int main(int argc, char **argv) {
        int id = argc == 3 ? shmget((key_t) strtoul(argv[1], NULL, 0), 0, 0) : -1;
        char *memory = id < 0 ? (void *) -1 : shmat(id, NULL, 0);

        if (memory == (void *) -1) {
                perror("sysv-user");
                return EXIT_FAILURE;
        }
        puts(memory);
        strcpy(memory, argv[2]);
        return shmdt(memory) < 0;
}
