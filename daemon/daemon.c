/* SPDX-License-Identifier: MIT */
/*
 * Puts the daemon together, runs its loop, takes it apart.
 */
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include "daemon.h"
#include "handover.h"
#include "log.h"

/* A larger memfd takes the kernel long enough to free that the loop should not wait for it. Bytes. */
#define CLOSE_ELSEWHERE_BYTES (UINT64_C(1) << 20)

static uint64_t now_usec(clockid_t clock) {
        struct timespec now;

        (void) clock_gettime(clock, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

uint64_t now_realtime_usec(void) {
        return now_usec(CLOCK_REALTIME);
}

uint64_t now_monotonic_usec(void) {
        return now_usec(CLOCK_MONOTONIC);
}

/* --- segments that go --- */

void daemon_unlink(struct daemon *daemon, struct segment *segment) {
        generation_advance(&daemon->generation, segment->id);
        registry_unlink(segment, now_realtime_usec());
}

static void close_segment(struct daemon *daemon, struct segment *segment) {
        int guard;

        generation_advance(&daemon->generation, segment->id);
        memfd_close_shared(&daemon->memfd, segment);
        guard = TAKE_FD(segment->custody.guard_fd);
        if (segment->size >= CLOSE_ELSEWHERE_BYTES)
                worker_close(&daemon->worker, guard);
        else
                close_fd(guard);
        segment_free(segment);
}

static void arm_linger(struct daemon *daemon) {
        struct segment *segment = registry_next_linger(&daemon->registry);
        uint64_t now = now_monotonic_usec(), wait;
        struct timeval timeout;

        if (!segment)
                return;
        wait = segment->linger_until_usec > now ? segment->linger_until_usec - now : 0;
        timeout = (struct timeval) { (time_t) (wait / 1000000), (suseconds_t) (wait % 1000000) };
        (void) event_add(daemon->linger_event, &timeout);
}

/* Nobody has it, says the kernel. */
static void on_free(struct segment *segment, void *userdata) {
        struct daemon *daemon = userdata;

        switch (registry_settle(segment, now_monotonic_usec(), now_realtime_usec())) {
        case SETTLED_KEEP:
                return;
        case SETTLED_LINGER:
                arm_linger(daemon);
                return;
        case SETTLED_FREE:
                close_segment(daemon, segment);
                server_consider_idle(&daemon->server);
                return;
        }
}

void daemon_settle(struct daemon *daemon) {
        struct segment *segment;

        while ((segment = registry_take_idle(&daemon->registry)))
                lease_await(&daemon->lease, segment);
}

static void on_linger(evutil_socket_t fd, short what, void *userdata) {
        struct daemon *daemon = userdata;
        struct segment *segment;

        (void) fd;
        (void) what;
        while ((segment = registry_next_linger(&daemon->registry)) && segment->linger_until_usec <= now_monotonic_usec()) {
                generation_advance(&daemon->generation, segment->id);
                registry_linger_over(segment, now_realtime_usec());
        }
        arm_linger(daemon);
        daemon_settle(daemon);
        server_consider_idle(&daemon->server);
}

/* --- beginning and end --- */

static void on_signal(evutil_socket_t signal_number, short what, void *userdata) {
        struct daemon *daemon = userdata;

        (void) what;
        log_debug("got signal %d, exiting", (int) signal_number);
        (void) event_base_loopexit(daemon->base, NULL);
}

/* Every segment and every client is a descriptor. */
static uint64_t raise_descriptor_limit(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return 1024;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                (void) getrlimit(RLIMIT_NOFILE, &limit);
        return limit.rlim_cur;
}

static int set_up_signals(void) {
        sigset_t none;

        /* Whoever started us may have blocked some: sigprocmask(2), it is inherited. */
        sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        /* SIGPIPE: clients go away. SIGIO: a lease that breaks in the moment of asking: fcntl(2), F_SETLEASE. */
        return signal(SIGPIPE, SIG_IGN) == SIG_ERR || signal(SIGIO, SIG_IGN) == SIG_ERR ? negative_errno() : 0;
}

static int fail(const char *what, int r) {
        log_error("cannot %s: %s", what, strerror(-r));
        return r;
}

static int init_parts(struct daemon *daemon) {
        int r;

        r = memfd_init(&daemon->memfd, (unsigned) MIN(daemon->descriptors_max / 4, 65536u));
        if (r < 0)
                return fail("use /proc/self/fd", r);
        r = lease_init(&daemon->lease, daemon->base, &daemon->memfd, on_free, daemon);
        if (r < 0)
                return fail("use inotify", r);
        r = worker_init(&daemon->worker, daemon->base);
        if (r < 0)
                return fail("make an eventfd", r);
        r = worker_init(&daemon->discarder, daemon->base);
        if (r < 0)
                return fail("make an eventfd", r);
        r = generation_init(&daemon->generation);
        if (r < 0)
                return fail("make the page of name generations", r);
        return 0;
}

static int daemon_init(struct daemon *daemon, const struct options *options) {
        int listen_fd, r;

        *daemon = (struct daemon) {
                .options = options,
                .started_usec = now_realtime_usec(),
                .started_monotonic_usec = now_monotonic_usec(),
                .descriptors_max = raise_descriptor_limit(),
                .generation.fd = -EBADF,
                .lease.inotify_fd = -EBADF,
                .worker.event_fd = -EBADF,
                .discarder.event_fd = -EBADF,
                .memfd.proc_fd = -EBADF,
        };
        quota_init(&daemon->quota);
        registry_init(&daemon->registry, &daemon->quota, 1);
        TAILQ_INIT(&daemon->server.sessions);
        if (getrandom(&daemon->instance, sizeof(daemon->instance), 0) != sizeof(daemon->instance))
                return fail("get random bytes", negative_errno());
        r = set_up_signals();
        if (r < 0)
                return fail("set up signals", r);
        daemon->base = event_base_new();
        daemon->linger_event = daemon->base ? evtimer_new(daemon->base, on_linger, daemon) : NULL;
        if (!daemon->linger_event)
                return fail("make an event loop", -ENOMEM);
        r = handover_take_socket(&listen_fd);
        if (r < 0)
                return r;
        r = init_parts(daemon);
        if (r < 0)
                return r;
        r = server_init(&daemon->server, daemon, options->socket_path, listen_fd);
        if (r < 0)
                return r;
        daemon->registry.next_id = server_first_id(&daemon->server);
        return 0;
}

static void close_all_segments(struct daemon *daemon) {
        struct segment *segment;

        if (daemon->registry.segments > 0)
                log_message(LOG_NOTICE, "%" PRIu64 " segments (%" PRIu64 " bytes) end with this daemon; programs that have them "
                                        "mapped keep their memory, their names are lost",
                            daemon->registry.segments, daemon->registry.bytes);
        while ((segment = registry_first(&daemon->registry))) {
                lease_forget(&daemon->lease, segment);
                registry_remove(segment);
                memfd_close_shared(&daemon->memfd, segment);
                segment->custody.guard_fd = close_fd(segment->custody.guard_fd);
                segment_free(segment);
        }
}

static void daemon_done(struct daemon *daemon) {
        if (daemon->base)
                server_done(&daemon->server);
        close_all_segments(daemon);
        worker_done(&daemon->worker);
        worker_abandon(&daemon->discarder);
        lease_done(&daemon->lease);
        generation_done(&daemon->generation);
        memfd_done(&daemon->memfd);
        registry_done(&daemon->registry);
        quota_done(&daemon->quota);
        if (daemon->linger_event)
                event_free(daemon->linger_event);
        if (daemon->base)
                event_base_free(daemon->base);
}

static int run(struct daemon *daemon) {
        struct event *sigterm = evsignal_new(daemon->base, SIGTERM, on_signal, daemon);
        struct event *sigint = evsignal_new(daemon->base, SIGINT, on_signal, daemon);
        int r = -ENOMEM;

        if (sigterm && sigint && event_add(sigterm, NULL) == 0 && event_add(sigint, NULL) == 0) {
                log_debug("listening on %s", daemon->options->socket_path);
                handover_ready(daemon->options->socket_path);
                r = event_base_dispatch(daemon->base) < 0 ? -EIO : 0;
                handover_stopping();
        }
        if (sigterm)
                event_free(sigterm);
        if (sigint)
                event_free(sigint);
        return r;
}

int daemon_run(const struct options *options) {
        /* Not on the stack: a thread that never comes back may outlive this function. */
        static struct daemon daemon;
        int r;

        r = daemon_init(&daemon, options);
        if (r == 0)
                r = run(&daemon);
        daemon_done(&daemon);
        return r;
}
