/* SPDX-License-Identifier: MIT */
#include "replace.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "log.h"
#include "operation.h"
#include "status.h"
#include "util.h"
#include "wire.h"

/* A daemon that does not answer is not waited for without end. */
static const struct timeval patience = { .tv_sec = 10 };

struct answer {
        struct shmd_wire_header header;
        union {
                struct shmd_wire_hello_reply hello;
                struct {
                        struct shmd_wire_many_reply reply;
                        char names[SHMD_DESCRIPTORS_MAX][SHMD_HANDOVER_NAME_SIZE];
                } handover;
        };
};

static int connect_to(const char *path, int *ret_fd) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
                return negative_errno();
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0)
                return negative_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Its answer's size after the header, or -errno. A refusal is -EACCES or -EOPNOTSUPP. */
static ssize_t ask(int fd, enum shmd_operation number, const void *body, struct answer *answer, struct wire_fds *fds) {
        const struct operation *operation = operation_find(number);
        const struct shmd_wire_header header = { .operation = (uint16_t) number, .serial = 1 };
        ssize_t n;
        int r;

        r = wire_send(fd, &header, body, operation->request_size, NULL, 0, NULL, 0, 0);
        if (r < 0)
                return r;
        n = wire_receive(fd, answer, sizeof(*answer), fds, 0);
        if (n == 0)
                return -ECONNRESET;
        if (n < 0)
                return n;
        if ((size_t) n < sizeof(answer->header) || answer->header.operation != number)
                return -EPROTO;
        if (answer->header.status != SHMD_OK)
                return answer->header.status == SHMD_UNSUPPORTED ? -EOPNOTSUPP : -EACCES;
        return (size_t) n < sizeof(answer->header) + operation->reply_size ? -EPROTO : n - (ssize_t) sizeof(answer->header);
}

static int take(struct handover *handover, const char *name, int fd) {
        if (strcmp(name, "listen") == 0)
                handover->listen_fd = fd;
        else if (strcmp(name, "lock") == 0)
                handover->lock_fd = fd;
        else
                return handover_add(handover, name, fd);
        return 0;
}

static int take_all(struct handover *handover, struct answer *answer, ssize_t size, struct wire_fds *fds) {
        uint32_t count = answer->handover.reply.count;
        int r = 0;

        if (count != fds->count || (size_t) size != sizeof(answer->handover.reply) + count * sizeof(answer->handover.names[0]))
                return -EPROTO;
        for (uint32_t i = 0; r == 0 && i < count; i++) {
                answer->handover.names[i][SHMD_HANDOVER_NAME_SIZE - 1] = '\0';
                r = take(handover, answer->handover.names[i], TAKE_FD(fds->fd[i]));
        }
        return r < 0 ? r : handover->listen_fd < 0 ? -EPROTO : 0;
}

static int ask_for_all(int fd, struct handover *handover) {
        const struct shmd_wire_hello hello = { .version_min = SHMD_PROTOCOL_VERSION, .version_max = SHMD_PROTOCOL_VERSION };
        const struct shmd_wire_handover request = { 0 };
        struct wire_fds fds = WIRE_FDS_INIT;
        struct answer answer;
        ssize_t n;
        int r;

        n = ask(fd, SHMD_OP_HELLO, &hello, &answer, &fds);
        wire_fds_done(&fds);
        if (n >= 0)
                n = ask(fd, SHMD_OP_HANDOVER, &request, &answer, &fds);
        r = n < 0 ? (int) n : take_all(handover, &answer, n, &fds);
        wire_fds_done(&fds);
        return r;
}

static const char *explain(int error) {
        switch (-error) {
        case EACCES:
                return "it refuses: only an administrator may";
        case EOPNOTSUPP:
                return "a service manager keeps its segments: restart it there";
        case EAGAIN:
                return "it does not answer";
        default:
                return strerror(-error);
        }
}

int replace_daemon(const char *socket_path, struct handover *handover) {
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = connect_to(socket_path, &fd);
        if (r == -ENOENT || r == -ECONNREFUSED)
                return r;
        if (r == 0)
                r = ask_for_all(fd, handover);
        if (r < 0) {
                log_error("cannot take the place of the daemon at %s: %s", socket_path, explain(r));
                return r;
        }
        handover->replaced_fd = TAKE_FD(fd);
        return 0;
}

/* It says so before it does. Nothing: it was killed while we came up. */
static bool other_goes_on(int fd) {
        struct wire_fds fds = WIRE_FDS_INIT;
        struct answer answer;
        ssize_t n = wire_receive(fd, &answer, sizeof(answer), &fds, 0);

        wire_fds_done(&fds);
        return n != 0 && n != -ECONNRESET;
}

int replace_confirm(struct handover *handover) {
        static const struct shmd_wire_header header = { .operation = SHMD_OP_HANDOVER, .serial = 1 };
        static const struct shmd_wire_handover body = { .flags = SHMD_WIRE_HANDOVER_TAKEN };
        int r;

        if (handover->replaced_fd < 0)
                return 0;
        r = wire_send(handover->replaced_fd, &header, &body, sizeof(body), NULL, 0, NULL, 0, 0);
        if (r < 0 && other_goes_on(handover->replaced_fd)) {
                log_error("this daemon took too long to come up, so the one whose place it was to take goes on");
                return -ETIMEDOUT;
        }
        handover->replaced_fd = close_fd(handover->replaced_fd);
        return 0;
}
