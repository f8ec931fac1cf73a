/* SPDX-License-Identifier: MIT */
#include "sysv_kernel.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "shmid.h"
#include "util.h"

/* --- asking --- */

static struct sysv_facts facts_from(int shmid, const struct shmid_ds *ds) {
        return (struct sysv_facts) {
                .size = ds->shm_segsz,
                .attached = ds->shm_nattch,
                .changed_sec = ds->shm_ctime,
                .attached_sec = ds->shm_atime,
                .detached_sec = ds->shm_dtime,
                .shmid = shmid,
                .key = (uint32_t) ds->shm_perm.__key,
                .uid = ds->shm_perm.uid,
                .gid = ds->shm_perm.gid,
                .creator_uid = ds->shm_perm.cuid,
                .creator_gid = ds->shm_perm.cgid,
                .mode = ds->shm_perm.mode & 0777,
                .creator_pid = ds->shm_cpid,
                .last_pid = ds->shm_lpid,
                .removed = !!(ds->shm_perm.mode & SHM_DEST),
        };
}

int sysv_kernel_stat(int shmid, struct sysv_facts *ret_facts) {
        struct shmid_ds ds;
        int r;

        r = shmid_stat(shmid, &ds);
        if (r == 0)
                *ret_facts = facts_from(shmid, &ds);
        return r;
}

bool sysv_kernel_next(int *index, struct sysv_facts *ret_facts) {
        struct shm_info info;
        struct shmid_ds ds;
        int last = shmctl(0, SHM_INFO, (struct shmid_ds *) &info), shmid;

        while (*index <= last) {
                shmid = shmctl((*index)++, SHM_STAT_ANY, &ds);
                if (shmid < 0)
                        continue;
                *ret_facts = facts_from(shmid, &ds);
                return true;
        }
        return false;
}

bool sysv_facts_match(const struct sysv_facts *earlier, const struct sysv_facts *later) {
        return earlier->shmid == later->shmid && earlier->size == later->size && earlier->creator_uid == later->creator_uid &&
               earlier->creator_gid == later->creator_gid && earlier->creator_pid == later->creator_pid &&
               earlier->changed_sec <= later->changed_sec;
}

/* --- acting --- */

static int set_owner(int shmid, uid_t uid, gid_t gid, mode_t mode) {
        struct shmid_ds ds = { .shm_perm = { .uid = uid, .gid = gid, .mode = (unsigned short) mode } };

        return shmctl(shmid, IPC_SET, &ds) < 0 ? negative_errno() : 0;
}

/*
 * A descriptor of an attached segment is found where the process's mappings are: proc(5), map_files. Takes CAP_CHECKPOINT_RESTORE.
 * The mapping is only looked at, so it is attached read-only, whatever the descriptor is for.
 */
static int open_mapping(const void *address, uint64_t size, int *ret_fd) {
        uint64_t page = (uint64_t) sysconf(_SC_PAGESIZE), start = (uint64_t) (uintptr_t) address;
        char path[96];
        int fd;

        (void) snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIx64 "-%" PRIx64, start,
                        start + ((size + page - 1) & ~(page - 1)));
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return negative_errno();
        *ret_fd = fd;
        return 0;
}

/* Whether the kernel removes a segment with its last attachment: proc_sys_kernel(5), shm_rmid_forced, of this IPC namespace. */
static bool is_removal_forced(void) {
        _cleanup_close_ int fd = open("/proc/sys/kernel/shm_rmid_forced", O_RDONLY | O_CLOEXEC);
        char digit = '0';

        return fd >= 0 && read(fd, &digit, 1) == 1 && digit != '0';
}

/* Ours may be the only attachment, and to end it the end of the segment. */
static int export_segment(const struct sysv_facts *facts, int *ret_fd) {
        const void *address;
        int r;

        if (facts->attached == 0 && is_removal_forced())
                return -EIDRM;
        address = shmat(facts->shmid, NULL, SHM_RDONLY);
        if (address == (void *) -1)
                return negative_errno();
        r = open_mapping(address, facts->size, ret_fd);
        (void) shmdt(address);
        return r == -ENOENT ? -EOPNOTSUPP : r; /* its mapping is longer, as it is of larger pages */
}

int sysv_kernel_make(uint32_t key, uint64_t size, struct sysv_facts *ret_facts) {
        int shmid = shmget((key_t) key, size, IPC_CREAT | IPC_EXCL);

        return shmid < 0 ? negative_errno() : sysv_kernel_stat(shmid, ret_facts);
}

/* The segment as it is now, if it is the one that was meant. */
static int check(const struct sysv_request *request, struct sysv_facts *facts) {
        int r;

        r = sysv_kernel_stat(request->shmid, facts);
        if (r < 0)
                return r;
        return sysv_facts_match(&request->expected, facts) ? 0 : -ESTALE;
}

static bool is_unchanged(const struct sysv_facts *expected, const struct sysv_facts *facts) {
        return expected->uid == facts->uid && expected->gid == facts->gid && expected->changed_sec == facts->changed_sec &&
               expected->attached_sec == facts->attached_sec && expected->detached_sec == facts->detached_sec &&
               expected->last_pid == facts->last_pid;
}

/*
 * The kernel has no "remove if nobody has attached it". Who attaches it between the question and the answer loses nothing: the
 * segment then goes with his detachment, as after any IPC_RMID.
 */
static int remove_segment(const struct sysv_request *request, const struct sysv_facts *facts) {
        if (!is_unchanged(&request->expected, facts))
                return -ESTALE;
        if (facts->attached > 0)
                return -EBUSY;
        return shmctl(request->shmid, IPC_RMID, NULL) < 0 ? negative_errno() : 0;
}

static int set(const struct sysv_request *request, struct sysv_facts *facts) {
        int r;

        if (request->mode & ~0777u)
                return -EINVAL;
        if (request->expected.uid != facts->uid || request->expected.gid != facts->gid || request->expected.mode != facts->mode)
                return -ESTALE;
        r = set_owner(request->shmid, request->uid, request->gid, request->mode);
        return r < 0 ? r : sysv_kernel_stat(request->shmid, facts);
}

static int perform(const struct sysv_request *request, struct sysv_facts *facts, int *ret_fd) {
        int r;

        r = check(request, facts);
        if (r < 0)
                return r;
        switch (request->operation) {
        case SYSV_EXPORT:
                return export_segment(facts, ret_fd);
        case SYSV_SET:
                return set(request, facts);
        case SYSV_REMOVE:
                return remove_segment(request, facts);
        default:
                return -EPROTO;
        }
}

int sysv_kernel_perform(const struct sysv_request *request, struct sysv_reply *ret_reply, int *ret_fd) {
        struct sysv_reply reply = { 0 };

        reply.result = perform(request, &reply.facts, ret_fd);
        *ret_reply = reply;
        return reply.result;
}
