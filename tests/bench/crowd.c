/* SPDX-License-Identifier: MIT */
#include "crowd.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "shmd.h"

/* How many go into one call */
#define AT_ONCE 250u

/* Enough for the daemon to let a thread free it: then that is there, and can be placed. */
#define LARGE_BYTES (UINT64_C(4) << 20)

struct plan {
        unsigned segments, clients;
};

static const struct plan plans[SERVER_KINDS] = {
        [SERVER_FEW] = { .segments = 10, .clients = 1 },
        [SERVER_CROWDED] = { .segments = 10000, .clients = 1000 },
};

/* What the process says when they are there */
struct crowd_report {
        int error;
        struct plan made;
        char trouble[256];
};

void crowd_name(char *name, unsigned index) {
        snprintf(name, CROWD_NAME_SIZE, "crowd/%05u", index);
}

void raise_descriptor_limit(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max;
        (void) setrlimit(RLIMIT_NOFILE, &limit);
}

/* Daemon and clients have a descriptor for each segment, and some for each connection. */
static struct plan fit_to_limit(struct plan plan) {
        struct rlimit limit;

        raise_descriptor_limit();
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 16384 && plan.clients > 1) {
                plan.segments = MIN(plan.segments, (unsigned) limit.rlim_cur / 2);
                plan.clients = MIN(plan.clients, (unsigned) limit.rlim_cur / 16);
        }
        return plan;
}

static int first_failure(const int *results, size_t count) {
        for (size_t i = 0; i < count; i++)
                if (results[i] < 0)
                        return results[i];
        return 0;
}

static int create_segments(struct shmd *connection, unsigned segments) {
        struct shmd_create_item items[AT_ONCE];
        char names[AT_ONCE][CROWD_NAME_SIZE];
        struct shmd_segment *made[AT_ONCE];
        int results[AT_ONCE], r = 0;

        for (unsigned first = 0; r == 0 && first < segments; first += AT_ONCE) {
                unsigned count = MIN(AT_ONCE, segments - first);

                for (unsigned i = 0; i < count; i++) {
                        crowd_name(names[i], first + i);
                        items[i] = (struct shmd_create_item) { .name = names[i], .size_bytes = SEGMENT_SIZE };
                }
                r = shmd_create_many(connection, items, count, SHMD_EXCLUSIVE, made, results);
                if (r == 0)
                        r = first_failure(results, count);
                if (r == 0)
                        shmd_close_many(made, count);
        }
        return r;
}

int crowd_open(struct shmd *connection, unsigned first, unsigned count) {
        char names[AT_ONCE][CROWD_NAME_SIZE];
        const char *pointers[AT_ONCE];
        struct shmd_segment *opened[AT_ONCE];
        int results[AT_ONCE], r = 0;

        for (unsigned last = first + count; r == 0 && first < last; first += AT_ONCE) {
                unsigned n = MIN(AT_ONCE, last - first);

                for (unsigned i = 0; i < n; i++) {
                        crowd_name(names[i], first + i);
                        pointers[i] = names[i];
                }
                r = shmd_open_many(connection, pointers, n, SHMD_READ_WRITE, opened, results);
                if (r == 0)
                        r = first_failure(results, n);
        }
        return r;
}

static int free_something_large(struct shmd *connection) {
        struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        struct shmd_segment *segment;
        int r;

        r = shmd_create(connection, "crowd/large", LARGE_BYTES, SHMD_EXCLUSIVE, &options, &segment);
        if (r == 0)
                shmd_close(segment);
        return r;
}

/* Each client holds its part of the segments. The connections end with the process. */
static int be_clients(const char *socket_path, const struct plan *plan, struct crowd_report *report) {
        struct shmd *connection;
        int r = 0;

        for (unsigned i = 0; r == 0 && i < plan->clients; i++) {
                unsigned first = (unsigned) ((uint64_t) plan->segments * i / plan->clients);
                unsigned end = (unsigned) ((uint64_t) plan->segments * (i + 1) / plan->clients);

                r = shmd_connect(socket_path, &connection);
                if (r == 0 && i == 0) {
                        r = create_segments(connection, plan->segments);
                        if (r == 0)
                                r = free_something_large(connection);
                }
                if (r == 0)
                        r = crowd_open(connection, first, end - first);
                if (r < 0)
                        snprintf(report->trouble, sizeof(report->trouble), "client %u of %u: %s", i + 1, plan->clients,
                                 strerror(-r));
        }
        return r;
}

static void crowd_main(const struct bench *bench, enum server_kind kind, int channel_fd) {
        struct crowd_report report = { .made = fit_to_limit(plans[kind]) };
        char byte;

        report.error = be_clients(bench->servers[kind].socket_path, &report.made, &report);
        (void) send(channel_fd, &report, sizeof(report), MSG_NOSIGNAL);
        (void) recv(channel_fd, &byte, 1, 0); /* until the one who measures has gone */
        _exit(0);
}

static int crowd_start(struct bench *bench, enum server_kind kind, struct crowd_report *ret_report) {
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        pid_t parent = getpid(), pid;
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return negative_errno();
        ours = pair[0];
        theirs = pair[1];
        fflush(NULL);
        pid = fork();
        if (pid < 0)
                return negative_errno();
        if (pid == 0)
                crowd_main(bench, kind, child_enter_with(parent, theirs));
        theirs = close_fd(theirs);
        if (recv(ours, ret_report, sizeof(*ret_report), 0) != sizeof(*ret_report))
                return -ECHILD;
        bench->crowds[kind].channel_fd = TAKE_FD(ours);
        return 0;
}

int crowd_ensure(struct bench *bench, enum server_kind kind) {
        struct crowd *crowd = &bench->crowds[kind];
        struct crowd_report report = { 0 };

        if (crowd->tried)
                return crowd->error;
        crowd->tried = true;
        crowd->error = crowd_start(bench, kind, &report);
        if (crowd->error == 0)
                crowd->error = report.error;
        crowd->segments = report.made.segments;
        crowd->clients = report.made.clients;
        memcpy(crowd->trouble, report.trouble, sizeof(crowd->trouble));
        if (crowd->error < 0 && crowd->trouble[0] == '\0')
                snprintf(crowd->trouble, sizeof(crowd->trouble), "%s", strerror(-crowd->error));
        return crowd->error;
}
