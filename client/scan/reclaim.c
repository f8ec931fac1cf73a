/* SPDX-License-Identifier: MIT */
#include "reclaim.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/random.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../proc.h"
#include "shmid.h"
#include "util.h"

const char *reclaim_result_words(enum reclaim_result result) {
        static const char *const words[] = {
                [RECLAIM_FREED] = "freed",
                [RECLAIM_IN_USE] = "somebody uses it by now",
                [RECLAIM_CHANGED] = "it has been used, or replaced, since it was looked at",
                [RECLAIM_GONE] = "it is gone already",
                [RECLAIM_DENIED] = "no right to it",
                [RECLAIM_LATE] = "attached in the last moment: it has lost its key, and goes when its last user detaches it",
                [RECLAIM_UNJUDGED] = "whether it is leaked can't be said any more",
                [RECLAIM_ASIDE] = "it has been used, or replaced, and its name was taken meanwhile: "
                                    "it is beside that, as .shmd-reclaim-...",
        };

        return words[result];
}

static int result_of(int error) {
        switch (error) {
        case -EACCES:
        case -EPERM:
                return RECLAIM_DENIED;
        case -ENOENT:
        case -EINVAL:
        case -EIDRM:
        case -ENOTDIR:
        case -EXDEV:
        case -ELOOP:
                return RECLAIM_GONE;
        default:
                return error;
        }
}

/* --- posix --- */

/* The directory that a path below /dev/shm is in, opened without following anything; *ret_name points into path. */
static int open_parent(int top_fd, const char *path, const char **ret_name) {
        struct open_how how = {
                .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
        };
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *parent = slash ? strndup(path, (size_t) (slash - path)) : strdup(".");
        int fd;

        if (!parent)
                return -ENOMEM;
        *ret_name = slash ? slash + 1 : path;
        fd = (int) syscall(SYS_openat2, top_fd, parent, &how, sizeof(how));
        return fd < 0 ? negative_errno() : fd;
}

static bool is_same(const struct stat *a, const struct stat *b) {
        return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

/* Before the former name, where there is room for that: a number of so many digits, and a dash. */
#define PRIVATE_PREFIX ".shmd-reclaim-"
#define PRIVATE_DIGITS 16u

/* The part of such a name that is the former one; NULL: it is no such name. */
static const char *former_name(const char *name) {
        size_t prefix = strlen(PRIVATE_PREFIX);

        if (strncmp(name, PRIVATE_PREFIX, prefix) != 0 || strspn(name + prefix, "0123456789abcdef") != PRIVATE_DIGITS)
                return NULL;
        name += prefix + PRIVATE_DIGITS;
        return name[0] == '-' && name[1] != '\0' ? name + 1 : NULL;
}

/* Moves it to a name that nobody has. */
static int move_away(int directory_fd, const char *name, char private[NAME_MAX + 1]) {
        const char *kept = strlen(name) + strlen(PRIVATE_PREFIX) + PRIVATE_DIGITS + 1 <= NAME_MAX ? name : "";

        for (unsigned tries = 0; tries < 16; tries++) {
                uint64_t number;

                if (getrandom(&number, sizeof(number), 0) != sizeof(number))
                        return negative_errno();
                (void) snprintf(private, NAME_MAX + 1, PRIVATE_PREFIX "%016" PRIx64 "%s%s", number, *kept ? "-" : "", kept);
                if (renameat2(directory_fd, name, directory_fd, private, RENAME_NOREPLACE) == 0)
                        return 0;
                if (errno != EEXIST)
                        return negative_errno();
        }
        return -EEXIST;
}

/* The caller has the lease. */
static int remove_file(int directory_fd, const char *name, int lease_fd, const struct stat *st) {
        int r, result = RECLAIM_FREED;
        char private[NAME_MAX + 1];
        struct stat moved;

        r = move_away(directory_fd, name, private);
        if (r < 0)
                return r;
        if (fstatat(directory_fd, private, &moved, AT_SYMLINK_NOFOLLOW) < 0 || !is_same(st, &moved))
                result = RECLAIM_CHANGED; /* somebody was faster, and this is his */
        else if (fcntl(lease_fd, F_GETLEASE) != F_WRLCK)
                result = RECLAIM_IN_USE; /* somebody waits to open it */
        if (result == RECLAIM_FREED)
                return unlinkat(directory_fd, private, 0) < 0 ? negative_errno() : RECLAIM_FREED;
        if (renameat2(directory_fd, private, directory_fd, name, RENAME_NOREPLACE) < 0)
                return errno == EEXIST ? RECLAIM_ASIDE : negative_errno();
        return result;
}

static int reclaim_posix(const struct scan_find *find, uint64_t *ret_bytes) {
        _cleanup_close_ int directory_fd = -EBADF, lease_fd = -EBADF;
        struct scan_find now = { 0 };
        const char *name;
        struct stat st;
        int r;

        directory_fd = open_parent(find->space->fd, find->name, &name);
        if (directory_fd < 0)
                return result_of(directory_fd);
        r = scan_lease_file(directory_fd, name, &st, &lease_fd);
        if (r < 0)
                return result_of(r);
        scan_describe_file(&now, &st);
        if (now.id != find->id || now.device != find->device)
                return RECLAIM_CHANGED;
        if (r == 0 || fcntl(lease_fd, F_GETLEASE) != F_WRLCK)
                return RECLAIM_IN_USE;
        if (now.stamp != find->stamp)
                return RECLAIM_CHANGED;
        r = remove_file(directory_fd, name, lease_fd, &st);
        /* With another name it lives on. */
        if (r == RECLAIM_FREED && fstat(lease_fd, &st) == 0 && st.st_nlink == 0)
                *ret_bytes = now.resident_bytes;
        return r < 0 ? result_of(r) : r;
}

/* --- posix: of a reclaim that was interrupted --- */

static const char *last_component(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

bool reclaim_is_interrupted(const char *path) {
        return former_name(last_component(path)) != NULL;
}

/* What has changed is its name, and the times that tell of that. */
static int note_restored(struct scan_find *find, int directory_fd) {
        char *slash = strrchr(find->name, '/'), *name = slash ? slash + 1 : find->name;
        const char *former = former_name(name);
        struct stat st;

        memmove(name, former, strlen(former) + 1);
        if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_ino != find->id || st.st_dev != find->device)
                return RECLAIM_CHANGED;
        scan_describe_file(find, &st);
        return RECLAIM_FREED;
}

/* Whoever may make such a name may make the former one, too: nothing is gained by a lie. */
int reclaim_restore(struct scan_find *find) {
        _cleanup_close_ int directory_fd = -EBADF;
        const char *name;
        struct stat st;

        directory_fd = open_parent(find->space->fd, find->name, &name);
        if (directory_fd < 0)
                return result_of(directory_fd);
        if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return result_of(negative_errno());
        if (!S_ISREG(st.st_mode) || st.st_ino != find->id || st.st_dev != find->device)
                return RECLAIM_CHANGED;
        if (renameat2(directory_fd, name, directory_fd, former_name(name), RENAME_NOREPLACE) < 0)
                return errno == EEXIST ? RECLAIM_ASIDE : result_of(negative_errno());
        return note_restored(find, directory_fd);
}

/* --- sysv --- */

static void row_of(const struct shmid_ds *ds, int shmid, uint64_t rss, struct proc_sysv *ret) {
        *ret = (struct proc_sysv) {
                .key = ds->shm_perm.__key,
                .shmid = shmid,
                .mode = ds->shm_perm.mode,
                .size = ds->shm_segsz,
                .rss = rss,
                .cpid = (uint32_t) ds->shm_cpid,
                .lpid = (uint32_t) ds->shm_lpid,
                .attachments = ds->shm_nattch,
                .uid = ds->shm_perm.uid,
                .gid = ds->shm_perm.gid,
                .cuid = ds->shm_perm.cuid,
                .atime = ds->shm_atime,
                .dtime = ds->shm_dtime,
                .ctime = ds->shm_ctime,
        };
}

static int reclaim_sysv_here(const struct scan_find *find, uint64_t *ret_bytes) {
        struct scan_find now = { 0 };
        struct proc_sysv row;
        struct shmid_ds ds;
        int shmid = (int) find->id, r;

        r = shmid_stat(shmid, &ds);
        if (r < 0)
                return result_of(r);
        row_of(&ds, shmid, find->resident_bytes, &row);
        scan_judge_sysv(&now, &row);
        if (now.verdict == SCAN_IN_USE)
                return RECLAIM_IN_USE;
        if (now.stamp != find->stamp || now.uid != find->uid)
                return RECLAIM_CHANGED;
        if (now.verdict != SCAN_LEAKED)
                return RECLAIM_UNJUDGED;
        if (shmctl(shmid, IPC_RMID, NULL) < 0)
                return result_of(negative_errno());
        if (shmid_stat(shmid, &ds) == 0 && (ds.shm_perm.mode & SHM_DEST))
                return RECLAIM_LATE;
        *ret_bytes = find->resident_bytes;
        return RECLAIM_FREED;
}

struct answer {
        int result;
        uint64_t bytes;
};

/* A child enters the namespace, so that we stay where we are. */
static int reclaim_sysv_elsewhere(const struct scan_find *find, uint64_t *ret_bytes) {
        struct answer answer = { .result = -EIO };
        int ends[2];
        pid_t child;

        if (pipe2(ends, O_CLOEXEC) < 0)
                return negative_errno();
        child = fork();
        if (child == 0) {
                if (setns(find->space->fd, CLONE_NEWIPC) < 0)
                        answer.result = result_of(negative_errno());
                else
                        answer.result = reclaim_sysv_here(find, &answer.bytes);
                _exit(write(ends[1], &answer, sizeof(answer)) != sizeof(answer));
        }
        close_fd(ends[1]);
        if (child < 0)
                answer.result = negative_errno();
        else if (read(ends[0], &answer, sizeof(answer)) != sizeof(answer))
                answer = (struct answer) { .result = -EIO };
        close_fd(ends[0]);
        if (child > 0)
                while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
                        ;
        *ret_bytes = answer.bytes;
        return answer.result;
}

int reclaim(const struct scan_find *find, uint64_t *ret_bytes) {
        *ret_bytes = 0;
        if (find->kind == SCAN_POSIX)
                return reclaim_posix(find, ret_bytes);
        return find->space->fd < 0 ? reclaim_sysv_here(find, ret_bytes) : reclaim_sysv_elsewhere(find, ret_bytes);
}
