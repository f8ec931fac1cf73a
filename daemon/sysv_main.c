/* SPDX-License-Identifier: MIT */
/*
 * shmd-sysv: does to the kernel's SysV segments what shmd itself has no right to: sysv_kernel.h.
 *
 * A process of its own, so that these rights are nowhere else. Serves one connection, its standard input, and ends with it; takes only
 * requests of a fixed size, trusts nothing in them, and keeps no state. Who may connect is said by the socket's owner and mode, and
 * once more by --user. What it removes it tells on standard error, and what it gives out or changes that the peer has not made.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "sysv_kernel.h"
#include "util.h"

#define EXIT_USAGE 2

static int usage(FILE *file) {
        fputs("Usage: shmd-sysv [--user USER]\n"
              "Serves shmd on standard input, a Unix socket; started by the service manager: shmd-sysv(8).\n"
              "\n"
              "      --user USER   serve nobody but this user and root\n"
              "  -h, --help        this\n"
              "  -V, --version     print the version\n",
              file);
        return file == stdout ? EXIT_SUCCESS : EXIT_USAGE;
}

static int fail(const char *what, const char *why) {
        fprintf(stderr, "shmd-sysv: %s: %s\n", what, why);
        return EXIT_FAILURE;
}

/* --- who asks --- */

static int check_peer(const char *user, uid_t *ret_uid) {
        const struct passwd *entry;
        struct ucred peer;
        socklen_t size = sizeof(peer);
        int type = 0;

        if (getsockopt(STDIN_FILENO, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return fail("standard input", strerror(errno));
        size = sizeof(type);
        if (getsockopt(STDIN_FILENO, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
                return fail("standard input", "not a socket for packets in sequence");
        *ret_uid = peer.uid;
        if (!user || peer.uid == 0)
                return EXIT_SUCCESS;
        entry = getpwnam(user);
        if (!entry)
                return fail(user, "no such user");
        return entry->pw_uid == peer.uid ? EXIT_SUCCESS : fail("whoever is connected", "is another user");
}

/* --- requests --- */

/* Not more than one descriptor, and as the last thing that can fail: without an answer the daemon has nothing. */
static int answer(const struct sysv_reply *reply, int fd) {
        struct iovec part = { .iov_base = (void *) reply, .iov_len = sizeof(*reply) };
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control = { 0 };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
        ssize_t n;

        if (fd >= 0) {
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
                message.msg_control = &control;
                message.msg_controllen = sizeof(control);
        }
        do
                n = sendmsg(STDIN_FILENO, &message, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? negative_errno() : 0;
}

/* Whoever reads it later can tell whose segments a peer that was taken over has had. */
static void tell_adopted(const char *what, const struct sysv_facts *facts) {
        fprintf(stderr, "shmd-sysv: %s SysV segment %d (key 0x%08" PRIx32 ", user %" PRIu32 ", %" PRIu64 " bytes), "
                "made by process %d of user %" PRIu32 "\n",
                what, facts->shmid, facts->key, facts->uid, facts->size, facts->creator_pid, facts->creator_uid);
}

static void tell(const struct sysv_request *request, const struct sysv_reply *reply, uid_t peer_uid) {
        bool adopted = reply->result == 0 && reply->facts.creator_uid != peer_uid;

        if (request->operation == SYSV_EXPORT && adopted)
                tell_adopted("gave out", &reply->facts);
        if (request->operation == SYSV_SET && adopted)
                tell_adopted("changed owner and mode of", &reply->facts);
        if (request->operation != SYSV_REMOVE)
                return;
        if (reply->result < 0)
                fprintf(stderr, "shmd-sysv: does not remove SysV segment %d: %s\n", request->shmid,
                        reply->result == -ESTALE  ? "it is not what was asked for"
                        : reply->result == -EBUSY ? "it is attached"
                                                  : strerror(-reply->result));
        else
                fprintf(stderr, "shmd-sysv: removed SysV segment %d (key 0x%08" PRIx32 ", user %" PRIu32 ", %" PRIu64 " bytes)\n",
                        request->shmid, reply->facts.key, reply->facts.uid, reply->facts.size);
}

static int serve(uid_t peer_uid) {
        for (;;) {
                _cleanup_close_ int fd = -EBADF;
                struct sysv_request request;
                struct sysv_reply reply;
                ssize_t n;

                /* Descriptors that come with it are dropped by the kernel; a longer message shows by its length. */
                n = recv(STDIN_FILENO, &request, sizeof(request), MSG_TRUNC);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n == 0)
                        return EXIT_SUCCESS;
                if (n != sizeof(request))
                        return fail("request", n < 0 ? strerror(errno) : "of another size");
                (void) sysv_kernel_perform(&request, &reply, &fd);
                tell(&request, &reply, peer_uid);
                if (answer(&reply, fd) < 0)
                        return fail("answer", strerror(errno));
        }
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "user", required_argument, NULL, 'u' },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, 'V' },
                { 0 },
        };
        const char *user = NULL;
        int option, status;
        uid_t peer_uid = 0;

        while ((option = getopt_long(argc, argv, "hV", options, NULL)) != -1)
                switch (option) {
                case 'u':
                        user = optarg;
                        break;
                case 'h':
                        return usage(stdout);
                case 'V':
                        puts("shmd-sysv " PACKAGE_VERSION);
                        return EXIT_SUCCESS;
                default:
                        return usage(stderr);
                }
        if (optind < argc)
                return usage(stderr);
        status = check_peer(user, &peer_uid);
        return status != EXIT_SUCCESS ? status : serve(peer_uid);
}
