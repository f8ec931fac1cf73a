/* SPDX-License-Identifier: MIT */
/*
 * Puts the daemon together, runs its loop, takes it apart.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "control.h"
#include "daemon.h"
#include "handover.h"
#include "log.h"
#include "op_end.h"
#include "replace.h"

/* What is done at one turn of the loop of what is left to do: some tens of microseconds each. */
#define SETTLE_HOLDS 64u
#define SETTLE_SEGMENTS 12u
#define SETTLE_WAITS 8u

/* Threads that freeze, resize and free memory; and that close what clients sent, where each user may block one. */
#define WORKERS 4u
#define WORKERS_A_USER 2u
#define DISCARDERS WORKER_THREADS_MAX

/* --- segments that go --- */

/* The registry's observer: what is told may not change the registry. */
static void on_event(struct segment *segment, int event, const char *old_name, size_t old_size, void *userdata) {
        struct daemon *daemon = userdata;

        if (event == WIRE_EVENT_UNLINKED && segment->expired)
                report_expired(daemon, segment);
        if (event != WIRE_EVENT_CREATED && event != WIRE_EVENT_PUBLISHED)
                generation_advance(&daemon->generation, segment->id);
        watcher_notify(daemon, segment, event, old_name, old_size);
}

/* The registry's recorder. */
static void on_record(struct segment *segment, void *userdata) {
        struct daemon *daemon = userdata;

        store_record(&daemon->store, segment);
}

static void close_segment(struct daemon *daemon, struct segment *segment, bool remove) {
        /* As long as the kernel has it there is a record of it: a daemon that is killed here leaves the rest to the next. */
        if (segment->backing == WIRE_BACKING_SYSV) {
                store_commit(&daemon->store);
                sysv_release(&daemon->sysv, segment, remove);
        }
        store_drop(&daemon->store, segment);
        control_close(segment);
        memfd_close_segment(&daemon->memfd, segment, &daemon->worker, &daemon->discarder);
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

static void tell_totals(struct daemon *daemon) {
        const struct notify_totals totals = {
                .segments = daemon->registry.segments,
                .bytes = daemon->registry.bytes,
                .clients = daemon->server.count,
        };

        notify_update(&daemon->notify, &totals);
}

/* Nobody has it, says the kernel. */
static void on_free(struct segment *segment, void *userdata) {
        struct daemon *daemon = userdata;

        switch (registry_settle(segment, now_monotonic_usec(), now_realtime_usec())) {
        case SETTLED_KEEP: /* that it was looked after may have been all that kept the daemon */
                server_consider_idle(&daemon->server);
                return;
        case SETTLED_LINGER:
                arm_linger(daemon);
                return;
        case SETTLED_FREE:
                close_segment(daemon, segment, true);
                server_consider_idle(&daemon->server);
                tell_totals(daemon);
                return;
        }
}

static void close_broken(struct daemon *daemon) {
        struct session *session;

        while ((session = TAILQ_FIRST(&daemon->broken)))
                session_close(session);
}

/* True if any are left. */
static bool reap_clients(struct daemon *daemon) {
        struct session *session = TAILQ_FIRST(&daemon->dying);

        if (session)
                (void) session_reap(session, SETTLE_HOLDS);
        return !TAILQ_EMPTY(&daemon->dying);
}

bool daemon_ask_about_idle(struct daemon *daemon) {
        struct segment *segment;

        for (unsigned i = 0; i < SETTLE_SEGMENTS && (segment = registry_take_idle(&daemon->registry)); i++)
                lease_await(&daemon->lease, segment);
        return !TAILQ_EMPTY(&daemon->registry.idle);
}

void daemon_let_others(void) {
        (void) sched_yield();
}

void daemon_settle_later(struct daemon *daemon) {
        static const struct timeval at_once;

        (void) evtimer_add(daemon->settle_event, &at_once);
}

void daemon_settle(struct daemon *daemon) {
        bool more;

        if (daemon->settling)
                return;
        daemon->settling = true;
        close_broken(daemon);
        more = watcher_tell_some(daemon);
        more |= absents_reap(&daemon->absents, SETTLE_HOLDS); /* what they leave is asked about below */
        /* What ends is told, too. */
        if (!notices_are_many(&daemon->notices)) {
                more |= reap_clients(daemon);
                more |= daemon_ask_about_idle(daemon);
        }
        more |= wait_answer_some(daemon, SETTLE_WAITS);
        more |= store_settle(&daemon->store);
        daemon->settling = false;
        if (more || !TAILQ_EMPTY(&daemon->broken))
                daemon_settle_later(daemon);
        server_consider_idle(&daemon->server);
        tell_totals(daemon);
}

static void on_settle(evutil_socket_t fd, short what, void *userdata) {
        (void) fd;
        (void) what;
        daemon_let_others();
        daemon_settle(userdata);
}

static void on_linger(evutil_socket_t fd, short what, void *userdata) {
        struct daemon *daemon = userdata;
        struct segment *segment;

        (void) fd;
        (void) what;
        for (unsigned i = 0; i < SETTLE_SEGMENTS && (segment = registry_next_linger(&daemon->registry)) &&
                             segment->linger_until_usec <= now_monotonic_usec();
             i++)
                registry_linger_over(segment, now_realtime_usec());
        arm_linger(daemon);
        daemon_settle(daemon);
}

/* Not event_base_loopexit(), which allocates. */
void daemon_end(struct daemon *daemon, enum daemon_end end) {
        daemon->end = end;
        (void) event_base_loopbreak(daemon->base);
}

bool daemon_may_rest(struct daemon *daemon) {
        return daemon->registry.segments == 0 ||
               (daemon->store.active && handover_outlives_end() && store_is_quiet(&daemon->store) && lease_is_quiet(&daemon->lease) &&
                absents_are_quiet(&daemon->absents) && TAILQ_EMPTY(&daemon->registry.idle) && TAILQ_EMPTY(&daemon->dying) &&
                !registry_next_linger(&daemon->registry));
}

/* --- configuration --- */

/* Limits apply to what is asked for from now on; nothing that is there is taken away. */
static void apply_config(struct daemon *daemon) {
        memcpy(daemon->quota.maximum, daemon->config.maximum, sizeof(daemon->quota.maximum));
        memcpy(daemon->quota.pool, daemon->config.pool, sizeof(daemon->quota.pool));
}

static int load_config(struct daemon *daemon) {
        const struct options *options = daemon->options;
        struct config config;
        int r;

        config_init(&config, daemon->descriptors_max);
        r = options->config_path ? config_read(&config, options->config_path) : 0;
        if (r == -ENOENT && options->config_named)
                log_error("cannot read %s: %s", options->config_path, strerror(ENOENT));
        if (r < 0 && (r != -ENOENT || options->config_named))
                return r;
        daemon->config = config;
        apply_config(daemon);
        return 0;
}

/*
 * A daemon that does not start, again and again, is given up by its service manager, and with it what that keeps. A mistake in
 * a file, made while the one before was running, is no reason to lose it.
 */
static int load_first_config(struct daemon *daemon, const struct handover *handover) {
        int r = load_config(daemon);

        if (r == 0 || handover->states.count == 0)
                return r;
        log_error("starting with the default configuration, for the segments that an earlier daemon has left");
        config_init(&daemon->config, daemon->descriptors_max);
        apply_config(daemon);
        notify_config(&daemon->notify, r);
        return 0;
}

static void on_reload(evutil_socket_t signal_number, short what, void *userdata) {
        struct daemon *daemon = userdata;
        int r;

        (void) signal_number;
        (void) what;
        notify_reloading(&daemon->notify);
        r = load_config(daemon);
        if (r < 0)
                log_error("keeping the configuration as it was");
        else
                log_info("configuration read again");
        notify_config(&daemon->notify, r);
        notify_ready(&daemon->notify);
}

/* --- beginning and end --- */

static void on_signal(evutil_socket_t signal_number, short what, void *userdata) {
        struct daemon *daemon = userdata;

        (void) what;
        log_debug("got signal %d, exiting", (int) signal_number);
        daemon_end(daemon, END_KEPT);
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

/* So many more descriptors are provided for from the beginning: half a mebibyte of the kernel's memory. */
#define PROVIDED_DESCRIPTORS UINT64_C(65536)

/*
 * The kernel makes a table of descriptors larger when it is full, and if the process has threads it waits for
 * an RCU grace period then, in whatever call that is: some milliseconds. As long as there is one thread it does not.
 */
static void provide_descriptors(uint64_t maximum) {
        int highest = (int) MIN(maximum, PROVIDED_DESCRIPTORS) - 1;

        close_fd(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, highest));
}

static int set_up_signals(void) {
        sigset_t none;

        /* Whoever started us may have blocked some: sigprocmask(2), it is inherited. */
        sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        /*
         * SIGPIPE: clients go away. SIGIO: a lease that breaks in the moment of asking: fcntl(2), F_SETLEASE. SIGXFSZ: a memfd that
         * becomes larger than files may be is an error of who asked for it: setrlimit(2), RLIMIT_FSIZE.
         */
        return signal(SIGPIPE, SIG_IGN) == SIG_ERR || signal(SIGIO, SIG_IGN) == SIG_ERR || signal(SIGXFSZ, SIG_IGN) == SIG_ERR
                       ? negative_errno()
                       : 0;
}

static int fail(const char *what, int r) {
        log_error("cannot %s: %s", what, strerror(-r));
        return r;
}

static int init_parts(struct daemon *daemon, const struct handover *handover) {
        int r;

        r = report_init(&daemon->report, daemon->base);
        if (r < 0)
                return fail("make a timer", r);
        r = memfd_init(&daemon->memfd, (unsigned) MIN(daemon->descriptors_max / 4, 65536u));
        if (r < 0)
                return fail("use /proc/self/fd", r);
        r = sysv_init(&daemon->sysv, daemon->options->socket_path);
        if (r < 0)
                return fail("remember a path", r);
        r = lease_init(&daemon->lease, daemon->base, &daemon->memfd, on_free, daemon);
        if (r < 0)
                return fail("use inotify", r);
        r = worker_init(&daemon->worker, daemon->base, WORKERS, WORKERS_A_USER);
        if (r < 0)
                return fail("make an eventfd", r);
        r = worker_init(&daemon->discarder, daemon->base, DISCARDERS, 1);
        if (r < 0)
                return fail("make an eventfd", r);
        r = generation_init(&daemon->generation, handover->generation_fd);
        if (r < 0)
                return fail("make the page of name generations", r);
        r = store_init(&daemon->store, daemon);
        if (r < 0)
                return fail("prepare the store", r);
        return 0;
}

static int take_over(struct daemon *daemon, struct handover *handover) {
        int r;

        r = init_parts(daemon, handover);
        if (r < 0)
                return r;
        r = server_init(&daemon->server, daemon, daemon->options->socket_path, TAKE_FD(handover->listen_fd), TAKE_FD(handover->lock_fd));
        if (r < 0)
                return r;
        r = store_start(&daemon->store, handover);
        if (r < 0)
                return r;
        daemon->registry.next_id = MAX(daemon->registry.next_id, server_first_id(&daemon->server));
        server_note_id(&daemon->server, daemon->registry.next_id);
        daemon->registry.observer = on_event;
        daemon->registry.recorder = on_record;
        daemon->registry.observer_userdata = daemon;
        arm_linger(daemon);
        daemon_settle_later(daemon);
        return 0;
}

/* If there is none, this one just starts. */
static int replace_running(const struct options *options, struct handover *handover) {
        int r;

        if (handover->listen_fd >= 0)
                return fail("take another daemon's place under a service manager: restart it there", -EINVAL);
        r = replace_daemon(options->socket_path, handover);
        return r == -ENOENT || r == -ECONNREFUSED ? 0 : r;
}

static int daemon_init(struct daemon *daemon, const struct options *options) {
        struct handover handover = HANDOVER_INIT;
        int r;

        *daemon = (struct daemon) {
                .options = options,
                .started_usec = now_realtime_usec(),
                .started_monotonic_usec = now_monotonic_usec(),
                .descriptors_max = raise_descriptor_limit(),
                .notify.socket = NOTIFY_SOCKET_INIT,
                .generation.fd = -EBADF,
                .generation.keep_fd = -EBADF,
                .store = STORE_INIT,
                .lease.inotify_fd = -EBADF,
                .sysv.helper_fd = -EBADF,
                .worker.event_fd = -EBADF,
                .discarder.event_fd = -EBADF,
                .memfd.proc_fd = -EBADF,
        };
        provide_descriptors(daemon->descriptors_max);
        quota_init(&daemon->quota);
        registry_init(&daemon->registry, &daemon->quota, 1);
        absents_init(&daemon->absents, daemon);
        watch_index_init(&daemon->watches);
        watch_index_init(&daemon->waits);
        notices_init(&daemon->notices);
        TAILQ_INIT(&daemon->held);
        TAILQ_INIT(&daemon->in_flight);
        TAILQ_INIT(&daemon->ready);
        TAILQ_INIT(&daemon->dying);
        TAILQ_INIT(&daemon->broken);
        TAILQ_INIT(&daemon->server.sessions);
        if (getrandom(&daemon->instance, sizeof(daemon->instance), 0) != sizeof(daemon->instance))
                return fail("get random bytes", negative_errno());
        r = set_up_signals();
        if (r < 0)
                return fail("set up signals", r);
        daemon->base = event_base_new();
        daemon->linger_event = daemon->base ? evtimer_new(daemon->base, on_linger, daemon) : NULL;
        daemon->settle_event = daemon->base ? evtimer_new(daemon->base, on_settle, daemon) : NULL;
        if (!daemon->linger_event || !daemon->settle_event)
                return fail("make an event loop", -ENOMEM);
        r = notify_init(&daemon->notify, daemon->base);
        if (r < 0)
                return fail("make timers", r);
        r = handover_take(&handover);
        if (r == 0)
                r = load_first_config(daemon, &handover);
        if (r == 0 && options->replace)
                r = replace_running(options, &handover);
        if (r == 0)
                r = take_over(daemon, &handover);
        if (r == 0 && options->replace)
                r = replace_confirm(&handover);
        /* What was not taken over is another daemon's still. */
        if (r < 0 && handover.replaced_fd >= 0)
                daemon->end = END_NOT_BEGUN;
        handover_done(&handover);
        return r;
}

static void close_all_segments(struct daemon *daemon) {
        struct segment *segment;

        if (daemon->registry.segments > 0 && daemon->kept)
                log_info("%" PRIu64 " segments (%" PRIu64 " bytes) stay with %s", daemon->registry.segments, daemon->registry.bytes,
                         daemon->end == END_HANDED_OVER  ? "the daemon that takes this one's place" :
                         daemon->end == END_NOT_BEGUN    ? "the daemon whose place was to be taken" :
                         handover_outlives_end()         ? "the service manager" :
                                                           "the service manager, if this is a restart");
        else if (daemon->registry.segments > 0)
                report_lost_all(daemon, daemon->registry.segments, daemon->registry.bytes);
        while ((segment = registry_first(&daemon->registry))) {
                /* Nobody looks after it from here on: what shmd made goes, and what was to go already. */
                bool remove = !daemon->kept && (segment->sysv.made || segment->state == WIRE_STATE_UNLINKED);

                lease_forget(&daemon->lease, segment);
                registry_remove(segment);
                close_segment(daemon, segment, remove);
        }
}

static void daemon_done(struct daemon *daemon) {
        struct session *session;

        /* From here on nothing that happens is a client's doing. */
        bool elsewhere = daemon->end == END_HANDED_OVER || daemon->end == END_NOT_BEGUN;

        daemon->kept = elsewhere || (daemon->end == END_KEPT && daemon->store.active);
        daemon->registry.observer = NULL;
        daemon->registry.recorder = NULL;
        store_commit(&daemon->store);
        if (daemon->end == END_PURGED)
                store_purge(&daemon->store);
        if (elsewhere)
                server_leave_socket(&daemon->server);
        store_done(&daemon->store);
        if (daemon->base)
                server_done(&daemon->server);
        while ((session = TAILQ_FIRST(&daemon->dying)))
                (void) session_reap(session, UINT_MAX);
        absents_done(&daemon->absents);
        close_all_segments(daemon);
        notices_done(&daemon->notices);
        worker_done(&daemon->worker);
        worker_abandon(&daemon->discarder);
        lease_done(&daemon->lease);
        sysv_done(&daemon->sysv);
        generation_done(&daemon->generation);
        memfd_done(&daemon->memfd);
        registry_done(&daemon->registry);
        quota_done(&daemon->quota);
        report_done(&daemon->report);
        notify_done(&daemon->notify);
        if (daemon->linger_event)
                event_free(daemon->linger_event);
        if (daemon->settle_event)
                event_free(daemon->settle_event);
        if (daemon->base)
                event_base_free(daemon->base);
}

static int run(struct daemon *daemon) {
        struct event *sigterm = evsignal_new(daemon->base, SIGTERM, on_signal, daemon);
        struct event *sigint = evsignal_new(daemon->base, SIGINT, on_signal, daemon);
        struct event *sighup = evsignal_new(daemon->base, SIGHUP, on_reload, daemon);
        int r = -ENOMEM;

        if (sigterm && sigint && sighup && event_add(sigterm, NULL) == 0 && event_add(sigint, NULL) == 0 &&
            event_add(sighup, NULL) == 0) {
                log_debug("listening on %s", daemon->options->socket_path);
                notify_ready(&daemon->notify);
                do
                        r = event_base_dispatch(daemon->base) < 0 ? -EIO : 0;
                while (r == 0 && daemon->end == END_HANDED_OVER && !op_handover_is_taken(daemon));
                notify_stopping(&daemon->notify);
        }
        if (sigterm)
                event_free(sigterm);
        if (sigint)
                event_free(sigint);
        if (sighup)
                event_free(sighup);
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
