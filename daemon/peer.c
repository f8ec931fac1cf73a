/* SPDX-License-Identifier: MIT */
#include "peer.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"
#include "status.h"
#include "util.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* How many groups a process can have: NGROUPS_MAX of the kernel. */
#define GROUPS_MAX 65536u

/* So many parents are looked at. */
#define ANCESTORS_MAX 32u

static int peer_groups(int socket_fd, gid_t **ret_groups, size_t *ret_count) {
        gid_t few[32];
        socklen_t size = sizeof(few);
        gid_t *groups;

        if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, few, &size) == 0) {
                if (size == 0)
                        return 0;
                groups = malloc(size);
                if (!groups)
                        return -ENOMEM;
                memcpy(groups, few, size);
        } else {
                /* ERANGE tells the size that is needed. */
                if (errno != ERANGE || size > GROUPS_MAX * sizeof(gid_t))
                        return negative_errno();
                groups = malloc(size);
                if (!groups)
                        return -ENOMEM;
                if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0) {
                        free(groups);
                        return negative_errno();
                }
        }
        *ret_groups = groups;
        *ret_count = size / sizeof(gid_t);
        return 0;
}

/* --- users that our user namespace lacks --- */

/* Ids that there are: all but (uid_t) -1. */
#define ALL_IDS UINT64_C(4294967295)

/* Whether /proc/self/uid_map or gid_map has all ids; not if it can't be read. */
static bool has_all_ids(const char *path) {
        FILE *file = fopen(path, "re");
        unsigned long long count, sum = 0;

        if (!file)
                return false;
        while (fscanf(file, "%*u %*u %llu", &count) == 1)
                sum += count;
        (void) fclose(file);
        return sum >= ALL_IDS;
}

/* The number that stands for those that are lacking; (uid_t) -1, which nobody has, if none are. */
static uint32_t find_overflow_id(const char *map, const char *setting) {
        _cleanup_close_ int fd = -EBADF;
        char text[16];
        ssize_t n;

        if (has_all_ids(map))
                return UINT32_MAX;
        fd = open(setting, O_RDONLY | O_CLOEXEC);
        n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;
        text[MAX(n, 0)] = '\0';
        return n > 0 ? (uint32_t) strtoul(text, NULL, 10) : 65534;
}

static struct {
        bool known;
        bool logged;
        uid_t uid;
        gid_t gid;
} overflow;

/* A namespace's map is written once, before anybody runs in it. */
static void know_overflow(void) {
        if (overflow.known)
                return;
        overflow.uid = find_overflow_id("/proc/self/uid_map", "/proc/sys/kernel/overflowuid");
        overflow.gid = find_overflow_id("/proc/self/gid_map", "/proc/sys/kernel/overflowgid");
        overflow.known = true;
}

/* Once is enough: he may come back as often as he likes. */
static int refuse_unknown(pid_t pid) {
        if (!overflow.logged)
                log_warning("refusing process %d, "
                            "and all others whose user or group this daemon's user namespace does not have", (int) pid);
        overflow.logged = true;
        return SHMD_DENIED;
}

static void drop_unknown_groups(struct credentials *credentials) {
        size_t kept = 0;

        for (size_t i = 0; i < credentials->n_groups; i++)
                if (credentials->groups[i] != overflow.gid)
                        credentials->groups[kept++] = credentials->groups[i];
        credentials->n_groups = kept;
}

int peer_credentials(int socket_fd, struct credentials *ret_credentials) {
        struct credentials credentials = { 0 };
        struct ucred cred;
        socklen_t size = sizeof(cred);
        int r;

        if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
                return negative_errno();
        know_overflow();
        if (cred.uid == overflow.uid || cred.gid == overflow.gid)
                return refuse_unknown(cred.pid);
        r = peer_groups(socket_fd, &credentials.groups, &credentials.n_groups);
        if (r < 0)
                return r;
        drop_unknown_groups(&credentials);
        credentials.uid = cred.uid;
        credentials.gid = cred.gid;
        credentials.pid = cred.pid;
        *ret_credentials = credentials;
        return 0;
}

void credentials_done(struct credentials *credentials) {
        free(credentials->groups);
        credentials->groups = NULL;
        credentials->n_groups = 0;
}

static void read_proc(pid_t pid, const char *file, char *buffer, size_t size) {
        _cleanup_close_ int fd = -EBADF;
        char path[64];
        ssize_t n;

        buffer[0] = '\0';
        (void) snprintf(path, sizeof(path), "/proc/%d/%s", (int) pid, file);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        n = read(fd, buffer, size - 1);
        buffer[MAX(n, 0)] = '\0';
}

/* The last component of the cgroup's path that systemd made for a unit: systemd.unit(5). */
static void unit_from_cgroup(char *cgroup, char *unit, size_t size) {
        static const char *const suffixes[] = { ".service", ".scope" };
        char *line = strstr(cgroup, "0::");

        unit[0] = '\0';
        if (!line)
                return;
        line[strcspn(line, "\n")] = '\0';
        for (char *component = strrchr(line, '/'); component; component = strrchr(line, '/')) {
                size_t length = strlen(component + 1);

                for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                        size_t suffix = strlen(suffixes[i]);

                        if (length > suffix && strcmp(component + 1 + length - suffix, suffixes[i]) == 0) {
                                (void) snprintf(unit, size, "%s", component + 1);
                                return;
                        }
                }
                *component = '\0';
        }
}

/* Without SO_PEERPIDFD: nobody can say, so believe it. */
static bool peer_is_alive(int socket_fd) {
        _cleanup_close_ int pidfd = -EBADF;
        socklen_t size = sizeof(pidfd);
        struct pollfd poll_fd = { .events = POLLIN };

        if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) < 0)
                return errno == ENOPROTOOPT;
        poll_fd.fd = pidfd;
        return poll(&poll_fd, 1, 0) == 0;
}

/* Field 22 of /proc/PID/stat; the command, in parentheses, may have anything in it. */
uint64_t peer_start_time(pid_t pid) {
        char text[1024];
        unsigned long long started;
        char *p;

        read_proc(pid, "stat", text, sizeof(text));
        p = strrchr(text, ')');
        if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &started) != 1)
                return 0;
        return started;
}

/* A line of /proc/PID/status */
static const char *find_line(const char *status, const char *word) {
        const char *line = strstr(status, word);

        return line ? line + strlen(word) : "";
}

/* NSpid: its numbers, from our namespace to its own */
static bool has_number(const char *status, pid_t number) {
        const char *p = find_line(status, "\nNSpid:");
        char *end;

        for (;;) {
                long value = strtol(p, &end, 10);

                if (end == p || memchr(p, '\n', (size_t) (end - p)))
                        return false;
                if (value == number)
                        return true;
                p = end;
        }
}

pid_t peer_find_ancestor(pid_t pid, pid_t number, uint64_t started) {
        char status[8192];

        for (unsigned i = 0; i < ANCESTORS_MAX && pid > 0; i++) {
                read_proc(pid, "status", status, sizeof(status));
                if (has_number(status, number) && peer_start_time(pid) == started)
                        return pid;
                pid = (pid_t) strtol(find_line(status, "\nPPid:"), NULL, 10);
        }
        return 0;
}

static void read_executable(pid_t pid, char *buffer, size_t size) {
        char path[64];
        ssize_t n;

        (void) snprintf(path, sizeof(path), "/proc/%d/exe", (int) pid);
        n = readlink(path, buffer, size - 1);
        buffer[MAX(n, 0)] = '\0';
}

static void forget(const struct peer_description *description) {
        description->command[0] = description->unit[0] = description->executable[0] = '\0';
        *description->started = 0;
}

void peer_describe(int socket_fd, pid_t pid, const struct peer_description *description) {
        char cgroup[4096];

        forget(description);
        if (pid <= 0)
                return;
        read_proc(pid, "comm", description->command, description->command_size);
        description->command[strcspn(description->command, "\n")] = '\0';
        read_proc(pid, "cgroup", cgroup, sizeof(cgroup));
        unit_from_cgroup(cgroup, description->unit, description->unit_size);
        read_executable(pid, description->executable, description->executable_size);
        *description->started = peer_start_time(pid);
        /* Asked last: if it lives now, it was it that was read. */
        if (!peer_is_alive(socket_fd))
                forget(description);
}
