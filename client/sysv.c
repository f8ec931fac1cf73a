/* SPDX-License-Identifier: MIT */
/*
 * SysV segments of the kernel: made or adopted under a name; and a program's own, which the daemon is told of.
 *
 * A program's own stay the kernel's in every way. Telling the daemon may fail, and changes nothing about them. What is told
 * goes over the process's channels, and the daemon looks for itself. Owns nothing.
 */
#include "internal.h"
#include "shmid.h"

#include <string.h>
#include <sys/stat.h>

/* So often is tried again what is neither there nor can be made. */
#define ATTEMPTS_MAX 8

static const struct shmd_create_options default_options;

/* --- what the daemon is told --- */

/* When it was last changed, by which the daemon knows that both mean the same segment. 0 or -errno. */
static int changed_sec(int shmid, uint64_t *ret_sec) {
        struct shmid_ds ds;
        int r;

        r = shmid_stat(shmid, &ds);
        if (r == 0)
                *ret_sec = (uint64_t) ds.shm_ctime;
        return r;
}

static int call_sysv(struct shmd *connection, const struct target *name, struct shmd_wire_create_sysv *body, const char *labels,
                     struct reply *ret_reply) {
        size_t name_size = name ? name->name_size : 0, labels_size = labels ? strlen(labels) : 0;
        char tail[SHMD_NAME_MAX + SHMD_LABELS_MAX];

        body->ipc_namespace = process_ipc_namespace();
        body->create.name_size = (uint16_t) name_size;
        body->create.labels_size = (uint16_t) labels_size;
        body->create.token = connection_creation_token(connection);
        if (name_size > 0)
                memcpy(tail, name->name, name_size);
        if (labels_size > 0)
                memcpy(tail + name_size, labels, labels_size);
        return connection_call(connection, &(struct request) {
                                                   .operation = SHMD_OP_CREATE_SYSV,
                                                   .body = body,
                                                   .tail = tail,
                                                   .tail_size = name_size + labels_size,
                                           }, ret_reply);
}

/* --- made, adopted --- */

int sysv_options_check(struct shmd *connection, uint64_t size_bytes, unsigned flags, const struct shmd_create_options *options) {
        struct failure *failure = &connection->failure;

        if (options->sysv > SHMD_SYSV_ADOPT || (options->sysv == 0 && options->sysv_number != 0))
                return failure_words(failure, -EINVAL, "invalid kind of SysV segment");
        if (options->sysv == 0)
                return 0;
        if (options->maximum_bytes || options->page_bytes || (flags & (SHMD_UNPUBLISHED | SHMD_SINGLE_WRITER | SHMD_PREALLOCATE)))
                return failure_words(failure, -EINVAL, "a SysV segment is neither resizable, of huge pages, unpublished nor preallocated");
        if (options->sysv == SHMD_SYSV_ADOPT && (size_bytes || options->mode || options->sysv_number > INT32_MAX))
                return failure_words(failure, -EINVAL, "a SysV segment that is adopted has its own size and mode");
        return 0;
}

static int sysv_body(struct shmd *connection, uint64_t size_bytes, unsigned flags, const struct shmd_create_options *options,
                     struct shmd_wire_create_sysv *ret_body) {
        struct shmd_wire_create_sysv body = {
                .create = create_to_wire(size_bytes, flags, options, options->mode == 0 ? 0 : process_umask()),
                .kind = options->sysv == SHMD_SYSV_ADOPT ? SHMD_WIRE_SYSV_ADOPT : SHMD_WIRE_SYSV_MAKE,
        };
        int r;

        if (options->sysv == SHMD_SYSV_MAKE) {
                body.key = options->sysv_number;
                *ret_body = body;
                return 0;
        }
        body.shmid = options->sysv_number;
        body.create.mode = 0;
        body.create.flags &= ~(uint32_t) SHMD_WIRE_CREATE;
        r = changed_sec((int) body.shmid, &body.changed_sec);
        if (r < 0)
                return failure_words(&connection->failure, -ENOENT, "no such SysV segment");
        *ret_body = body;
        return 0;
}

int sysv_create(struct shmd *connection, const struct target *target, uint64_t size_bytes, unsigned flags,
                const struct shmd_create_options *options, struct shmd_segment **ret_segment) {
        _cleanup_(hold_freep) struct hold *hold = NULL;
        struct shmd_wire_create_sysv body;
        struct opened opened;
        struct reply reply;
        int r;

        r = sysv_body(connection, size_bytes, flags, options, &body);
        if (r < 0)
                return r;
        r = hold_reserve(connection, target, flags, &hold);
        if (r < 0)
                return r;
        r = call_sysv(connection, target, &body, options->labels, &reply);
        if (r == 0)
                r = opened_read(connection, &reply, &opened);
        return r < 0 ? r : hold_admit(TAKE_PTR(hold), &opened, ret_segment);
}

/* --- registered --- */

/* Without a name of its own. */
static int tell(enum shmd_wire_sysv_kind kind, int shmid, const struct shmd_create_options *options, uint64_t keeper) {
        size_t labels_size = options->labels ? strlen(options->labels) : 0;
        struct shmd_wire_create_sysv body = {
                .create = {
                        .lifetime = options->lifetime,
                        .linger_usec = options->linger_usec,
                        .maximum = keeper,
                        .labels_size = (uint16_t) labels_size,
                },
                .ipc_namespace = process_ipc_namespace(),
                .kind = kind,
                .shmid = (uint32_t) shmid,
        };
        struct failure failure = { .kind = FAILURE_NONE };
        struct channel_reply reply;
        int r;

        if (kind == SHMD_WIRE_SYSV_REGISTER) {
                if (changed_sec(shmid, &body.changed_sec) < 0)
                        return SHMD_NOT_FOUND;
        }
        r = channel_call(&(struct channel_request) {
                                 .operation = SHMD_OP_CREATE_SYSV,
                                 .body = &body,
                                 .tail = options->labels,
                                 .tail_size = labels_size,
                                 .creation_token = &body.create.token,
                         }, &reply);
        if (r == 0)
                close_fd(reply.fd);
        if (r == 0 && reply.status == SHMD_OK)
                return 0;
        if (r < 0)
                failure_errno(&failure, r);
        else
                failure_refused(&failure, reply.status, &reply.refusal);
        failure_keep_for_thread(&failure);
        return r < 0 ? r : (int) reply.status;
}

int sysv_tell(enum shmd_wire_sysv_kind kind, int shmid, const struct shmd_create_options *options, uint64_t keeper) {
        int saved_errno = errno, cancel_state, r;

        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
        r = tell(kind, shmid, options, keeper);
        (void) pthread_setcancelstate(cancel_state, &cancel_state);
        errno = saved_errno;
        return r;
}

static bool is_for_registering(const struct shmd_create_options *options) {
        struct shmd_create_options rest = *options;

        rest.lifetime = 0;
        rest.linger_usec = 0;
        rest.labels = NULL;
        return options->lifetime <= SHMD_LIFETIME_CREATOR && (options->linger_usec == 0 || options->lifetime == SHMD_LIFETIME_LINGER) &&
               (!options->labels || strnlen(options->labels, SHMD_LABELS_MAX + 1) <= SHMD_LABELS_MAX) &&
               wire_is_zero(&rest, sizeof(rest));
}

static int to_error(int r) {
        return r > 0 ? -status_to_errno((unsigned) r) : r;
}

_public_ int shmd_sysv_register(int shmid, const struct shmd_create_options *options) {
        if (!options)
                options = &default_options;
        return is_for_registering(options) ? to_error(sysv_tell(SHMD_WIRE_SYSV_REGISTER, shmid, options, 0)) : -EINVAL;
}

_public_ int shmd_sysv_removed(int shmid) {
        return to_error(sysv_tell(SHMD_WIRE_SYSV_REMOVED, shmid, &default_options, 0));
}

/* --- the calls of <sys/shm.h> --- */

int sysv_get(key_t key, size_t size, int flags, bool *ret_made, int (*native)(key_t key, size_t size, int flags)) {
        bool exclusive = flags & IPC_EXCL;
        int shmid = -1;

        *ret_made = key == IPC_PRIVATE || ((flags & IPC_CREAT) && exclusive);
        if (*ret_made || !(flags & IPC_CREAT))
                return native(key, size, flags);
        for (unsigned i = 0; i < ATTEMPTS_MAX; i++) {
                shmid = native(key, size, flags & ~IPC_CREAT);
                if (shmid >= 0 || errno != ENOENT)
                        return shmid;
                shmid = native(key, size, flags | IPC_EXCL);
                *ret_made = shmid >= 0;
                if (shmid >= 0 || errno != EEXIST)
                        return shmid;
        }
        return native(key, size, flags);
}

_public_ int shmd_shmget(int key, size_t size, int shmflg) {
        int saved_errno = errno, shmid, r;
        bool made;

        shmid = sysv_get(key, size, shmflg, &made, shmget);
        if (shmid < 0)
                return -1;
        r = shmd_sysv_register(shmid, NULL);
        if (r == -EDQUOT && made) {
                (void) shmctl(shmid, IPC_RMID, NULL);
                errno = ENOSPC;
                return -1;
        }
        errno = saved_errno;
        return shmid;
}

_public_ void *shmd_shmat(int shmid, const void *shmaddr, int shmflg) {
        return shmat(shmid, shmaddr, shmflg);
}

_public_ int shmd_shmdt(const void *shmaddr) {
        return shmdt(shmaddr);
}

_public_ int shmd_shmctl(int shmid, int command, struct shmid_ds *buffer) {
        int result = shmctl(shmid, command, buffer);

        if (result == 0 && command == IPC_RMID)
                (void) shmd_sysv_removed(shmid);
        return result;
}
