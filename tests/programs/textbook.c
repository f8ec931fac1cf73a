/* SPDX-License-Identifier: MIT */
/*
 * textbook PART: the programs with which shared memory is taught, each part a program of its own there. They know nothing of shmd, and trust
 * that their partner comes before or after them, as it is said in each book.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#define NAME "/shm-example"
#define SIZE 4096

static void *must_map(int fd, int protection) {
        void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, SIZE, protection, MAP_SHARED, fd, 0);

        if (memory == MAP_FAILED) {
                perror(NAME);
                exit(1);
        }
        return memory;
}

static void *must_attach(int shmid, int flags) {
        void *memory = shmid < 0 ? (void *) -1 : shmat(shmid, NULL, flags);

        if (memory == (void *) -1) {
                perror("shmget or shmat");
                exit(1);
        }
        return memory;
}

/* --- POSIX: a producer, a consumer --- */

static int producer(void) {
        static const char *const messages[] = { "Learning operating systems ", "is fun!\n" };
        int fd = shm_open(NAME, O_CREAT | O_RDWR, 0666);
        char *p;

        if (fd < 0 || ftruncate(fd, SIZE) < 0) {
                perror(NAME);
                return 1;
        }
        p = must_map(fd, PROT_READ | PROT_WRITE);
        for (int i = 0; i < 2; i++)
                p += sprintf(p, "%s", messages[i]);
        return 0;
}

static int consumer(void) {
        int fd = shm_open(NAME, O_RDONLY, 0666);

        printf("%s", (char *) must_map(fd, PROT_READ));
        return shm_unlink(NAME) < 0;
}

/* --- SysV: two numbers, under a key that comes from a path --- */

static int numbers_writer(void) {
        int shmid = shmget(ftok("./", 66), 8, 0666 | IPC_CREAT), *numbers = must_attach(shmid, 0);

        numbers[0] = 10;
        numbers[1] = 32;
        printf("%d\n", shmid);
        return shmdt(numbers) < 0;
}

static int numbers_reader(void) {
        int shmid = shmget(ftok("./", 66), 8, 0666), *numbers = must_attach(shmid, 0);

        printf("%d\n", numbers[0] + numbers[1]);
        return shmdt(numbers) < 0 || shmctl(shmid, IPC_RMID, NULL) < 0;
}

/* --- SysV: a greeting, under a key that both know --- */

static int greeting_writer(void) {
        int shmid = shmget(0x44, SIZE, 0666 | IPC_CREAT);

        strcpy(must_attach(shmid, 0), "hello, world");
        printf("%d\n", shmid);
        return 0;
}

static int greeting_reader(void) {
        printf("%s\n", (char *) must_attach(shmget(0x44, SIZE, 0666), SHM_RDONLY));
        return 0;
}

static const struct {
        const char *name;
        int (*run)(void);
} parts[] = {
        { "producer", producer },
        { "consumer", consumer },
        { "numbers-writer", numbers_writer },
        { "numbers-reader", numbers_reader },
        { "greeting-writer", greeting_writer },
        { "greeting-reader", greeting_reader },
};

int main(int argc, char **argv) {
        for (size_t i = 0; argc == 2 && i < sizeof(parts) / sizeof(parts[0]); i++)
                if (strcmp(parts[i].name, argv[1]) == 0)
                        return parts[i].run();
        return 2;
}
