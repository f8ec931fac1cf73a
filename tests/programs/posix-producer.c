/* SPDX-License-Identifier: MIT */
/* The textbooks' producer: "/shm-example", 4096 bytes, two strings one after the other. posix-consumer reads them. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void) {
        static const char *const messages[] = { "Hello", "World!" };
        char *memory;
        int fd = shm_open("/shm-example", O_CREAT | O_RDWR, 0666);

        if (fd < 0) {
                perror("shm_open");
                return 1;
        }
        if (ftruncate(fd, 4096) < 0) {
                perror("ftruncate");
                return 1;
        }
        memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) {
                perror("mmap");
                return 1;
        }
        for (size_t i = 0; i < sizeof(messages) / sizeof(*messages); i++)
                memory += sprintf(memory, "%s ", messages[i]);
        return 0;
}
