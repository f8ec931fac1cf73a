/* SPDX-License-Identifier: MIT */
/*
 * Handlers of what ends the daemon: HANDOVER, STOP.
 *
 * HANDOVER gives everything to the daemon that asks: from the moment that its answer is sent nothing may change here any more, so
 * the loop is left at once; it is come back to if that daemon does not say that it has everything.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon.h"
#include "dispatch.h"
#include "handover.h"
#include "log.h"
#include "op_end.h"
#include "util.h"

/* What a daemon has besides its segments. */
#define OWN_ITEMS 3u
/* So long may a daemon take for coming up with 10,000 segments, and clients wait. */
#define TAKER_PATIENCE_MSEC 10000

struct export {
        struct wire_fds fds;
        struct kept_name names[SHMD_DESCRIPTORS_MAX];
};

static int add(struct export *export, const char *name, int fd) {
        int copy;

        if (fd < 0)
                return 0;
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (copy < 0)
                return negative_errno();
        memset(&export->names[export->fds.count], 0, sizeof(export->names[0]));
        memcpy(export->names[export->fds.count].name, name, strlen(name));
        export->fds.fd[export->fds.count++] = copy;
        return 0;
}

static int gather(struct daemon *daemon, struct export *export) {
        int r;

        r = add(export, "listen", daemon->server.listen_fd);
        if (r == 0)
                r = add(export, "lock", daemon->server.lock_fd);
        if (r == 0)
                r = add(export, "generation", daemon->generation.keep_fd);
        if (r < 0)
                return r;
        for (unsigned i = export->fds.count; i < SHMD_DESCRIPTORS_MAX; i++)
                export->fds.fd[i] = -EBADF;
        r = store_export(&daemon->store, export->fds.fd + export->fds.count, export->names + export->fds.count,
                         SHMD_DESCRIPTORS_MAX - OWN_ITEMS);
        /* Those that were made before it failed are closed with the rest. */
        export->fds.count = r < 0 ? SHMD_DESCRIPTORS_MAX : export->fds.count + (unsigned) r;
        return MIN(r, 0);
}

static int send_export(struct op_context *context, struct export *export) {
        struct shmd_wire_header header = { .operation = context->operation->number, .serial = context->serial };
        struct shmd_wire_many_reply reply = { .count = export->fds.count };

        context->answered = true;
        return session_send_now(context->session, &header, &reply, sizeof(reply), export->names,
                                export->fds.count * sizeof(export->names[0]), export->fds.fd, export->fds.count);
}

int op_handover(struct op_context *context, const struct shmd_wire_handover *body) {
        static struct export export;
        struct daemon *daemon = context->daemon;
        int r;

        if (body->flags != 0 || body->padding != 0)
                return SHMD_MALFORMED;
        if (!context->session->credentials.administrator)
                return SHMD_NOT_FOR_CALLER;
        if (daemon->store.active)
                return SHMD_UNSUPPORTED;
        export.fds = (struct wire_fds) WIRE_FDS_INIT;
        r = gather(daemon, &export);
        if (r == 0)
                r = send_export(context, &export);
        wire_fds_done(&export.fds);
        if (r < 0) {
                store_export_abort(&daemon->store);
                return r;
        }
        log_info("process %d is about to take this daemon's place", (int) context->session->credentials.pid);
        daemon->taker = context->session;
        daemon_end(daemon, END_HANDED_OVER);
        return 0;
}

static bool says_taken(int fd) {
        struct {
                struct shmd_wire_header header;
                struct shmd_wire_handover body;
        } message;

        /* MSG_TRUNC: the length that it had, so that a longer one is none. */
        return recv(fd, &message, sizeof(message), MSG_DONTWAIT | MSG_TRUNC) == sizeof(message) &&
               message.header.operation == SHMD_OP_HANDOVER && message.body.flags == SHMD_WIRE_HANDOVER_TAKEN &&
               message.body.padding == 0;
}

/* It may still be about to take our place. */
static void say_we_go_on(struct session *taker) {
        const struct shmd_wire_header header = { .operation = SHMD_OP_HANDOVER, .status = SHMD_TIMED_OUT };
        const struct shmd_wire_refusal refusal = { 0 };

        (void) session_send_now(taker, &header, &refusal, sizeof(refusal), NULL, 0, NULL, 0);
}

/* Shut down first: what it has not said by now it can't say any more, and knows so. */
bool op_handover_is_taken(struct daemon *daemon) {
        struct session *taker = TAKE_PTR(daemon->taker);
        struct pollfd poll_fd = { .fd = taker->fd, .events = POLLIN };
        uint64_t end_usec = now_monotonic_usec() + TAKER_PATIENCE_MSEC * UINT64_C(1000), now_usec;

        while ((now_usec = now_monotonic_usec()) < end_usec)
                if (poll(&poll_fd, 1, (int) ((end_usec - now_usec) / 1000) + 1) > 0)
                        break;
        (void) shutdown(taker->fd, SHUT_RD);
        if (says_taken(taker->fd))
                return true;
        say_we_go_on(taker);
        log_warning("process %d has not taken this daemon's place, so this one goes on", (int) taker->credentials.pid);
        store_export_abort(&daemon->store);
        daemon->end = END_KEPT;
        return false;
}

static void purge(struct daemon *daemon, uint64_t now_usec) {
        struct segment *segment;
        uint64_t id = 0;

        while ((segment = registry_next_id(&daemon->registry, id))) {
                id = segment->id;
                registry_unlink(segment, now_usec);
        }
}

/* The manager may keep what it has across a restart and a failure, but not across an end. */
static bool would_lose(const struct daemon *daemon) {
        return daemon->store.active && daemon->registry.segments > 0 && !handover_outlives_end();
}

int op_stop(struct op_context *context, const struct shmd_wire_stop *body) {
        static const struct shmd_wire_empty reply;
        struct daemon *daemon = context->daemon;
        const struct credentials *credentials = &context->session->credentials;

        if ((body->flags & ~SHMD_WIRE_STOP_PURGE) || body->padding != 0)
                return SHMD_MALFORMED;
        if (!credentials->administrator)
                return SHMD_NOT_FOR_CALLER;
        if (!(body->flags & SHMD_WIRE_STOP_PURGE) && would_lose(daemon))
                return SHMD_NOT_KEPT;
        log_message(LOG_NOTICE, "process %d of user %u asks to stop%s", (int) credentials->pid, (unsigned) credentials->uid,
                    body->flags & SHMD_WIRE_STOP_PURGE ? ", and to keep no segment" : "");
        if (body->flags & SHMD_WIRE_STOP_PURGE)
                purge(daemon, context->now_usec);
        daemon_end(daemon, body->flags & SHMD_WIRE_STOP_PURGE ? END_PURGED : END_KEPT);
        return op_reply(context, &reply, NULL, 0);
}
