/* SPDX-License-Identifier: MIT */
/* The textbooks' consumer: prints what posix-producer has put into "/shm-example", and unlinks it. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

int main(void) {
        const char *memory;
        int fd = shm_open("/shm-example", O_RDONLY, 0666);

        if (fd < 0) {
                perror("shm_open");
                return 1;
        }
        memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) {
                perror("mmap");
                return 1;
        }
        puts(memory);
        if (shm_unlink("/shm-example") < 0) {
                perror("shm_unlink");
                return 1;
        }
        return 0;
}
