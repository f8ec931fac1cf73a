/* SPDX-License-Identifier: MIT */
/*
 * What the kernel offers without any daemon: shm_open and SysV. Names and keys are the supervisor's choice, and
 * removed by it.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>

#include "rows.h"

static int refuse_errno(struct series *series, const char *call) {
        int error = negative_errno();

        return series_refuse(series, error, "%s: %s", call, strerror(-error));
}

/* A kernel without it, or a mount or a limit that forbids it, is a reason to skip. */
static int skip_errno(struct series *series, const char *call) {
        (void) refuse_errno(series, call);
        return 1;
}

int raw_open_setup(struct series *series) {
        const char *name = series->bench->shm_names[EXISTING];
        _cleanup_close_ int fd = shm_open(name, O_RDWR | O_CREAT, 0600); /* of all rows that open it */

        if (fd < 0)
                return skip_errno(series, "shm_open");
        return ftruncate(fd, SEGMENT_SIZE) < 0 ? refuse_errno(series, "ftruncate") : 0;
}

int raw_open_run(struct series *series) {
        _cleanup_close_ int fd = shm_open(series->bench->shm_names[EXISTING], O_RDWR, 0);
        struct stat stat;

        if (fd < 0 || fstat(fd, &stat) < 0 || map_page(fd, false) < 0)
                return refuse_errno(series, "shm_open, fstat or mmap");
        return 0;
}

void raw_open_teardown(struct series *series) {
        (void) shm_unlink(series->bench->shm_names[EXISTING]);
}

/* Opens and maps a page so many times, and only then unmaps and closes: a process with many mappings pays more for each. */
int raw_open_many_run(struct series *series) {
        struct {
                int fd;
                void *page;
        } opened[64];
        unsigned count = MIN(series->row->segments, (unsigned) ELEMENTSOF(opened)), done = 0;
        struct stat stat;

        for (; done < count; done++) {
                int fd = shm_open(series->bench->shm_names[EXISTING], O_RDWR, 0);

                opened[done].fd = fd;
                opened[done].page = MAP_FAILED;
                if (fd >= 0 && fstat(fd, &stat) == 0)
                        opened[done].page = mmap(NULL, SEGMENT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                if (opened[done].page == MAP_FAILED) {
                        (void) refuse_errno(series, "shm_open, fstat or mmap");
                        close_fd(fd);
                        break;
                }
        }
        for (unsigned i = 0; i < done; i++) {
                (void) munmap(opened[i].page, SEGMENT_SIZE);
                close_fd(opened[i].fd);
        }
        return done == count ? 0 : -EIO;
}

int raw_create_run(struct series *series) {
        const char *name = series->bench->shm_names[CREATED];
        _cleanup_close_ int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);

        if (fd < 0)
                return refuse_errno(series, "shm_open");
        if (ftruncate(fd, SEGMENT_SIZE) < 0 || map_page(fd, true) < 0)
                return refuse_errno(series, "ftruncate or mmap");
        fd = close_fd(fd);
        return shm_unlink(name) < 0 ? refuse_errno(series, "shm_unlink") : 0;
}

/* Attaches, touches if asked to, and detaches. */
static int attach_page(int id, bool touch) {
        void *page = shmat(id, NULL, 0);

        if (page == (void *) -1)
                return negative_errno();
        if (touch)
                *(volatile unsigned char *) page = 1;
        return shmdt(page) < 0 ? negative_errno() : 0;
}

int sysv_open_setup(struct series *series) {
        if (shmget(series->bench->sysv_keys[EXISTING], SEGMENT_SIZE, IPC_CREAT | IPC_EXCL | 0600) < 0)
                return skip_errno(series, "shmget");
        return 0;
}

int sysv_open_run(struct series *series) {
        int id = shmget(series->bench->sysv_keys[EXISTING], 0, 0);

        return id < 0 || attach_page(id, false) < 0 ? refuse_errno(series, "shmget, shmat or shmdt") : 0;
}

void sysv_open_teardown(struct series *series) {
        int id = shmget(series->bench->sysv_keys[EXISTING], 0, 0);

        if (id >= 0)
                (void) shmctl(id, IPC_RMID, NULL);
}

int sysv_create_setup(struct series *series) {
        return sysv_create_run(series) < 0 ? 1 : 0;
}

int sysv_create_run(struct series *series) {
        int id = shmget(series->bench->sysv_keys[CREATED], SEGMENT_SIZE, IPC_CREAT | IPC_EXCL | 0600);

        if (id < 0)
                return refuse_errno(series, "shmget");
        if (attach_page(id, true) < 0 || shmctl(id, IPC_RMID, NULL) < 0)
                return refuse_errno(series, "shmat, shmdt or shmctl");
        return 0;
}
