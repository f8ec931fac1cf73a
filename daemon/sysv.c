/* SPDX-License-Identifier: MIT */
#include "sysv.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

#include "clock.h"
#include "log.h"
#include "status.h"
#include "util.h"
#include "wire.h"

/* A helper that is being started by the service manager may take so long for its first answer; then it is not asked for so long. */
#define HELPER_TIMEOUT_USEC 2000000
#define HELPER_RETRY_USEC UINT64_C(10000000)

#ifndef CAP_CHECKPOINT_RESTORE
#define CAP_CHECKPOINT_RESTORE 40
#endif

static int compare_shmids(struct segment *a, struct segment *b) {
        return (a->sysv.shmid > b->sysv.shmid) - (a->sysv.shmid < b->sysv.shmid);
}

TREE_GENERATE(shmid_tree, segment, custody.by_shmid, compare_shmids)

/* --- what the daemon may do --- */

static bool has_capability(const struct __user_cap_data_struct *data, unsigned capability) {
        return data[capability / 32].effective & 1u << capability % 32;
}

static bool is_privileged(void) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

        return syscall(SYS_capget, &header, data) == 0 && has_capability(data, CAP_SYS_ADMIN) &&
               has_capability(data, CAP_IPC_OWNER) && has_capability(data, CAP_CHECKPOINT_RESTORE);
}

int sysv_init(struct sysv *sysv, const char *socket_path) {
        const char *slash = strrchr(socket_path, '/'), *named = getenv("SHMD_SYSV_SOCKET");
        struct stat st;

        *sysv = (struct sysv) { .helper_fd = -EBADF, .privileged = is_privileged() };
        RB_INIT(&sysv->shmids);
        if (named)
                sysv->helper_path = strdup(named);
        else if (asprintf(&sysv->helper_path, "%.*s/sysv.sock", slash ? (int) (slash - socket_path) : 1, slash ? socket_path : ".") < 0)
                sysv->helper_path = NULL;
        if (!sysv->helper_path)
                return -ENOMEM;
        if (stat("/proc/self/ns/ipc", &st) == 0)
                sysv->ipc_namespace = st.st_ino;
        return 0;
}

void sysv_done(struct sysv *sysv) {
        sysv->helper_fd = close_fd(sysv->helper_fd);
        free(TAKE_PTR(sysv->helper_path));
}

/* --- the helper --- */

static int helper_connect(struct sysv *sysv) {
        const struct timeval timeout = { .tv_sec = HELPER_TIMEOUT_USEC / 1000000 };
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -EBADF;

        if (sysv->helper_fd >= 0)
                return 0;
        if (now_monotonic_usec() < sysv->helper_retry_usec)
                return -ENOENT;
        if (strlen(sysv->helper_path) >= sizeof(address.sun_path))
                return -ENOENT;
        strcpy(address.sun_path, sysv->helper_path);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return negative_errno();
        if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0)
                return negative_errno();
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0)
                return negative_errno();
        sysv->helper_fd = TAKE_FD(fd);
        return 0;
}

static ssize_t helper_receive(int socket_fd, struct sysv_reply *reply, struct wire_fds *fds) {
        struct sysv_reply received;
        ssize_t n;

        do
                n = wire_receive(socket_fd, &received, sizeof(received), fds, 0);
        while (n == -EINTR);
        if (n == 0)
                return -ECONNRESET;
        if (n < 0)
                return n;
        if (n != sizeof(received) || received.result > 0)
                return -EPROTO;
        *reply = received;
        return 0;
}

static int helper_call(int socket_fd, const struct sysv_request *request, struct sysv_reply *reply, int *ret_fd) {
        struct wire_fds fds = WIRE_FDS_INIT;
        bool gives = request->operation == SYSV_EXPORT;
        int r;

        if (send(socket_fd, request, sizeof(*request), MSG_NOSIGNAL) < 0)
                return negative_errno();
        r = (int) helper_receive(socket_fd, reply, &fds);
        if (r == 0 && fds.count != (reply->result == 0 && gives ? 1u : 0u))
                r = -EPROTO;
        if (r == 0 && fds.count == 1)
                *ret_fd = TAKE_FD(fds.fd[0]);
        wire_fds_done(&fds);
        return r;
}

/* It may have been restarted since it was last asked: once more, then. -ECONNREFUSED and the like: there is none. */
static int helper_perform(struct sysv *sysv, const struct sysv_request *request, struct sysv_reply *reply, int *ret_fd) {
        bool fresh;
        int r;

        do {
                fresh = sysv->helper_fd < 0;
                r = helper_connect(sysv);
                if (r < 0)
                        return r;
                r = helper_call(sysv->helper_fd, request, reply, ret_fd);
                if (r == 0)
                        return 0;
                sysv->helper_fd = close_fd(sysv->helper_fd);
        } while (!fresh && (r == -ECONNRESET || r == -EPIPE));
        log_error("shmd-sysv does not answer at %s: %s", sysv->helper_path, r == -EAGAIN ? "no answer in time" : strerror(-r));
        sysv->helper_retry_usec = now_monotonic_usec() + HELPER_RETRY_USEC;
        return r;
}

/* What it made is its own to change and to remove, whoever's it is now: ipc/util.c, ipcctl_obtain_check(). */
static bool may_do_itself(const struct sysv *sysv, const struct sysv_request *request) {
        return sysv->privileged || (request->operation != SYSV_EXPORT && request->expected.creator_uid == geteuid());
}

/*
 * What the daemon may not do itself the helper does. Where there is none, what the kernel lets an owner do is done.
 */
static int perform(struct sysv *sysv, const struct sysv_request *request, struct sysv_facts *ret_facts, int *ret_fd) {
        struct sysv_reply reply = { 0 };
        int fd = -EBADF;

        if (may_do_itself(sysv, request) || helper_perform(sysv, request, &reply, &fd) < 0)
                (void) sysv_kernel_perform(request, &reply, &fd);
        if (reply.result < 0)
                return reply.result;
        if (ret_facts)
                *ret_facts = reply.facts;
        if (ret_fd)
                *ret_fd = fd;
        else
                close_fd(fd);
        return 0;
}

static int give(struct sysv *sysv, const struct sysv_facts *facts, const struct ownership *owner, struct sysv_facts *ret_facts) {
        const struct sysv_request request = {
                .operation = SYSV_SET,
                .shmid = facts->shmid,
                .uid = owner->uid,
                .gid = owner->gid,
                .mode = owner->mode,
                .expected = *facts,
        };

        return perform(sysv, &request, ret_facts, NULL);
}

static int remove_it(struct sysv *sysv, const struct sysv_facts *facts) {
        return perform(sysv, &(struct sysv_request) { .operation = SYSV_REMOVE, .shmid = facts->shmid, .expected = *facts }, NULL, NULL);
}

/* Nobody else may attach it until its owner is the right one. */
int sysv_make(struct sysv *sysv, uint32_t key, uint64_t size, const struct ownership *owner, struct sysv_facts *ret_facts, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF;
        struct sysv_facts facts, now;
        int r;

        r = sysv_kernel_make(key, size, &facts);
        if (r < 0)
                return r;
        r = sysv_export(sysv, &facts, &fd);
        if (r == 0)
                r = give(sysv, &facts, owner, ret_facts);
        if (r == 0)
                *ret_fd = TAKE_FD(fd);
        else if (sysv_kernel_stat(facts.shmid, &now) == 0 && sysv_facts_match(&facts, &now))
                (void) remove_it(sysv, &now);
        return r;
}

/* A daemon may have been stopped in between for some time. */
#define MAKING_SEC 10

static bool is_unrecorded(struct sysv *sysv, const struct state_making *making, const struct sysv_facts *facts) {
        return facts->key == making->key && facts->size == making->size && facts->creator_pid == (int32_t) making->pid &&
               facts->creator_uid == geteuid() && facts->attached == 0 && facts->changed_sec >= making->since_sec &&
               facts->changed_sec <= making->since_sec + MAKING_SEC && !sysv_find(sysv, facts->shmid);
}

void sysv_remove_unrecorded(struct sysv *sysv, const struct state_making *making) {
        struct sysv_facts facts;
        int index = 0;

        while (sysv_kernel_next(&index, &facts)) {
                if (!is_unrecorded(sysv, making, &facts))
                        continue;
                if (remove_it(sysv, &facts) == 0)
                        log_info("removed SysV segment %d, which the earlier daemon was making when it was killed", facts.shmid);
        }
}

int sysv_export(struct sysv *sysv, const struct sysv_facts *facts, int *ret_fd) {
        const struct sysv_request request = { .operation = SYSV_EXPORT, .shmid = facts->shmid, .expected = *facts };

        return perform(sysv, &request, NULL, ret_fd);
}

/* --- what the kernel says --- */

static struct sysv_facts known_facts(const struct segment *segment) {
        return (struct sysv_facts) {
                .shmid = segment->sysv.shmid,
                .size = segment->size,
                .creator_uid = segment->sysv.creator_uid,
                .creator_gid = segment->sysv.creator_gid,
                .creator_pid = segment->sysv.creator_pid,
                .changed_sec = segment->sysv.changed_sec,
        };
}

/* 0; SHMD_REMOVED: it is not there any more; or -errno. */
static int look(const struct segment *segment, struct sysv_facts *ret_facts) {
        const struct sysv_facts known = known_facts(segment);
        int r;

        if (segment->sysv.gone)
                return SHMD_REMOVED;
        r = sysv_kernel_stat(segment->sysv.shmid, ret_facts);
        if (r == -EINVAL)
                return SHMD_REMOVED;
        if (r < 0)
                return r;
        return sysv_facts_match(&known, ret_facts) ? 0 : SHMD_REMOVED;
}

static void note(struct segment *segment, const struct sysv_facts *facts) {
        segment->sysv.changed_sec = facts->changed_sec;
        segment->sysv.key = facts->key; /* of one that is removed none: ipc/shm.c, do_shm_rmid() */
}

/* The inode's mode decides who may open a descriptor again: it has to say what the segment's says. */
static void set_inode(const struct segment *segment, const struct stat *st) {
        const struct ownership *owner = &segment->owner;
        int fd = segment->custody.guard_fd;

        if (((st->st_mode & 0777) != (owner->mode & 0666) && fchmod(fd, owner->mode & 0666) < 0) ||
            ((st->st_uid != owner->uid || st->st_gid != owner->gid) && fchown(fd, owner->uid, owner->gid) < 0 && errno != EPERM))
                log_warning("cannot set owner and mode of SysV segment %d: %s", segment->sysv.shmid, strerror(errno));
}

static uint64_t refresh_inode(struct segment *segment) {
        struct stat st;

        if (segment->custody.guard_fd < 0 || fstat(segment->custody.guard_fd, &st) < 0)
                return 0;
        segment->device = st.st_dev;
        segment->inode = st.st_ino;
        segment->truncated = (uint64_t) st.st_size < segment->size;
        set_inode(segment, &st);
        return (uint64_t) st.st_blocks * 512;
}

/* That a program removes what it has made itself is no news: some do so a thousand times a second. */
static void lose_name(struct segment *segment, const char *why) {
        if (segment->state == WIRE_STATE_UNLINKED)
                return;
        log_message(segment->sysv.registered ? LOG_DEBUG : LOG_INFO, "SysV segment %d (\"%s\") %s: it loses its name",
                    segment->sysv.shmid, segment->name, why);
        registry_unlink(segment, now_realtime_usec());
}

/* It is none of shmd's any more: what it was charged for is the business of whoever gave it away until the last holder goes. */
static void let_go(struct segment *segment) {
        segment->sysv.gone = true;
        lose_name(segment, "was given to another user");
}

/* A process that has registered it keeps nothing of it: where the kernel has freed it, that is over. */
static void end_registrations(struct segment *segment) {
        if (!segment->sysv.registered || segment->sysv.exported || segment->sysv.gone)
                return;
        segment->sysv.gone = true;
        registry_detach(segment);
}

uint64_t sysv_refresh(struct segment *segment) {
        struct sysv_facts facts;
        int r = look(segment, &facts);

        if (r == SHMD_REMOVED) {
                lose_name(segment, "was removed from the kernel");
                end_registrations(segment);
                return refresh_inode(segment);
        }
        if (r < 0)
                return refresh_inode(segment);
        if (facts.uid != segment->owner.uid) {
                let_go(segment);
                return refresh_inode(segment);
        }
        note(segment, &facts);
        registry_refresh(segment, &(struct ownership) { facts.uid, facts.gid, facts.mode }, segment->size);
        if (facts.removed)
                lose_name(segment, "was removed from the kernel");
        return refresh_inode(segment);
}

uint64_t sysv_attached(const struct segment *segment) {
        struct sysv_facts facts;

        return look(segment, &facts) == 0 ? facts.attached : 0;
}

bool sysv_is_held(struct segment *segment, bool (*ask)(struct segment *segment)) {
        struct sysv_facts facts;
        int r;

        if (segment->sysv.registered && segment->creator.client && segment->state != WIRE_STATE_UNLINKED)
                return true;
        r = look(segment, &facts);
        if (r < 0 || (r == 0 && facts.attached > 0))
                return true;
        if (segment->custody.guard_fd < 0)
                return segment->sysv.exported && r == 0; /* and nobody can tell who has a descriptor: on doubt yes */
        return ask(segment);
}

/* --- segments --- */

struct segment *sysv_find(struct sysv *sysv, int shmid) {
        struct segment *segment = RB_FIND(shmid_tree, &sysv->shmids, &(struct segment) { .sysv.shmid = shmid });
        struct sysv_facts facts;

        if (!segment || look(segment, &facts) != SHMD_REMOVED)
                return segment;
        /* The number is another segment's by now, or nobody's. */
        (void) sysv_refresh(segment);
        RB_REMOVE(shmid_tree, &sysv->shmids, segment);
        segment->sysv.gone = true;
        return NULL;
}

void sysv_sweep(struct sysv *sysv, struct registry *registry, unsigned budget) {
        struct segment *segment;

        for (unsigned i = 0; i < budget; i++) {
                segment = registry_next_nameless(registry, sysv->swept_id);
                sysv->swept_id = segment ? segment->id : 0;
                if (!segment)
                        return;
                if (segment->backing == WIRE_BACKING_SYSV && segment->sysv.registered)
                        (void) sysv_refresh(segment);
        }
}

static bool is_indexed(struct sysv *sysv, struct segment *segment) {
        return RB_FIND(shmid_tree, &sysv->shmids, segment) == segment;
}

void sysv_hold(struct sysv *sysv, struct segment *segment, const struct sysv_facts *facts, int fd) {
        segment->sysv.shmid = facts->shmid;
        segment->sysv.creator_uid = facts->creator_uid;
        segment->sysv.creator_gid = facts->creator_gid;
        segment->sysv.creator_pid = facts->creator_pid;
        segment->custody.guard_fd = fd;
        note(segment, facts);
        (void) sysv_find(sysv, facts->shmid); /* forgets one that had the number before */
        (void) RB_INSERT(shmid_tree, &sysv->shmids, segment);
        (void) refresh_inode(segment);
}

/*
 * Its memory goes with the last that refers to it. That takes the kernel long if it is large: it shall be the guard, which is closed
 * elsewhere, and not the removal.
 */
#define REMOVE_LARGE_BYTES (UINT64_C(1) << 20)

static void remove_from_kernel(struct sysv *sysv, struct segment *segment) {
        struct sysv_facts facts;
        int r;

        if (segment->size >= REMOVE_LARGE_BYTES)
                (void) sysv_open_guard(sysv, segment);
        if (look(segment, &facts) != 0)
                return;
        r = remove_it(sysv, &facts);
        if (r < 0 && r != -EINVAL)
                log_warning("SysV segment %d (\"%s\") stays in the kernel: %s", segment->sysv.shmid, segment->name,
                            r == -EBUSY ? "it is attached" : strerror(-r));
}

void sysv_release(struct sysv *sysv, struct segment *segment, bool remove) {
        if (remove)
                remove_from_kernel(sysv, segment);
        if (is_indexed(sysv, segment))
                RB_REMOVE(shmid_tree, &sysv->shmids, segment);
}

int sysv_open_guard(struct sysv *sysv, struct segment *segment) {
        struct sysv_facts facts;
        int r;

        if (segment->custody.guard_fd >= 0)
                return 0;
        r = look(segment, &facts);
        if (r != 0)
                return r;
        r = sysv_export(sysv, &facts, &segment->custody.guard_fd);
        if (r < 0)
                return r == -EINVAL || r == -ESTALE ? SHMD_REMOVED : sysv_refuse_export(r);
        segment->sysv.exported = true;
        (void) refresh_inode(segment);
        return 0;
}

bool sysv_restore(struct sysv *sysv, struct segment *segment) {
        struct sysv_facts facts;

        if (look(segment, &facts) != 0) {
                segment->sysv.gone = true;
                return false;
        }
        (void) RB_INSERT(shmid_tree, &sysv->shmids, segment);
        if (segment->sysv.exported && sysv_open_guard(sysv, segment) != 0)
                log_warning("SysV segment %d (\"%s\") stays until it is known who has a descriptor of it", segment->sysv.shmid,
                            segment->name);
        (void) sysv_refresh(segment);
        return true;
}

int sysv_set_owner(struct sysv *sysv, struct segment *segment, const struct ownership *owner) {
        struct sysv_facts facts;
        int r;

        r = look(segment, &facts);
        if (r != 0)
                return r;
        r = give(sysv, &facts, owner, &facts);
        if (r < 0)
                return r == -EPERM ? SHMD_NO_SYSV : r == -EINVAL ? SHMD_REMOVED : r;
        note(segment, &facts);
        segment->owner = *owner;
        (void) refresh_inode(segment);
        return 0;
}

/* --- refusals --- */

static uint64_t read_limit(const char *path) {
        FILE *file = fopen(path, "re");
        uint64_t value = 0;

        if (!file)
                return 0;
        if (fscanf(file, "%" SCNu64, &value) != 1)
                value = 0;
        (void) fclose(file);
        return value;
}

/* shmget(2): ENOSPC means either of two limits. */
static int refuse_space(uint64_t size, struct shmd_wire_refusal *refusal) {
        uint64_t page = (uint64_t) sysconf(_SC_PAGESIZE);
        struct shm_info info = { 0 };

        (void) shmctl(0, SHM_INFO, (struct shmid_ds *) &info);
        refusal->limit = SHMD_LIMIT_SHMMNI;
        refusal->requested = 1;
        refusal->used = (uint64_t) info.used_ids;
        refusal->maximum = read_limit("/proc/sys/kernel/shmmni");
        if (refusal->used < refusal->maximum) {
                refusal->limit = SHMD_LIMIT_SHMALL;
                refusal->requested = (size + page - 1) / page;
                refusal->used = info.shm_tot;
                refusal->maximum = read_limit("/proc/sys/kernel/shmall");
        }
        return SHMD_OVER_LIMIT;
}

int sysv_refuse_export(int error) {
        switch (-error) {
        case EPERM:
        case EACCES:
                return SHMD_NO_SYSV;
        case EIDRM:
                return SHMD_RMID_FORCED;
        case EOPNOTSUPP:
                return SHMD_HUGE_SYSV;
        default:
                return error;
        }
}

int sysv_refuse_make(int error, uint64_t size, struct shmd_wire_refusal *refusal) {
        switch (-error) {
        case EEXIST:
                return SHMD_KEY_TAKEN;
        case ENOSPC:
                return refuse_space(size, refusal);
        case EINVAL:
                refusal->limit = SHMD_LIMIT_SHMMAX;
                refusal->requested = size;
                refusal->maximum = read_limit("/proc/sys/kernel/shmmax");
                return SHMD_TOO_LARGE;
        default:
                return sysv_refuse_export(error);
        }
}
