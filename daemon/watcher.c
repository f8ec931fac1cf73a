/* SPDX-License-Identifier: MIT */
#include "watcher.h"

#include <string.h>

#include "daemon.h"
#include "dispatch.h"
#include "util.h"

/* --- watches --- */

int watcher_new(struct session *session, const char *prefix, size_t size, bool exact, struct watcher **ret_watcher,
                struct shmd_wire_refusal *refusal) {
        struct daemon *daemon = session->daemon;
        struct watcher *watcher = calloc(1, sizeof(*watcher));
        int r;

        if (!watcher)
                return -ENOMEM;
        r = quota_charge(&daemon->quota, session->credentials.uid, QUOTA_WATCHES, 1, &watcher->charge, refusal);
        if (r != 0) {
                free(watcher);
                return r;
        }
        watcher->session = session;
        watch_insert(&daemon->watches, &watcher->watch, prefix, size, exact);
        LIST_INSERT_HEAD(&session->watchers, watcher, entry);
        *ret_watcher = watcher;
        return 0;
}

void watcher_free(struct watcher *watcher) {
        watch_remove(&watcher->session->daemon->watches, &watcher->watch);
        LIST_REMOVE(watcher, entry);
        charge_done(&watcher->charge);
        free(watcher);
}

void watcher_free_all(struct session *session) {
        struct watcher *watcher;

        while ((watcher = LIST_FIRST(&session->watchers)))
                watcher_free(watcher);
}

/* What never had a name is its creator's business. */
static bool may_hear(const struct watcher *watcher, const struct segment *segment) {
        if (segment->had_name)
                return true;
        return policy_manage(&watcher->session->credentials, &segment->owner) == 0;
}

static void tell(struct watcher *watcher, struct segment *segment, int kind, const char *old_name, size_t old_size) {
        struct shmd_wire_event event = {
                .watch = watcher->watch.key,
                .id = segment->id,
                .size = segment->size,
                .time_usec = now_realtime_usec(),
                .kind = (uint32_t) kind,
                .uid = segment->owner.uid,
                .name_size = segment->name_size,
                .old_name_size = (uint16_t) old_size,
        };

        if (may_hear(watcher, segment))
                session_send_event(watcher->session, &event, segment->name, old_name);
}

static void tell_all(struct daemon *daemon, struct segment *segment, int event, const char *old_name, size_t old_size) {
        struct watch *watch = NULL;

        while ((watch = watch_next(&daemon->watches, segment->name, segment->name_size, watch)))
                tell((struct watcher *) watch, segment, event, old_name, old_size);
}

/* Those who watch the old name and not the new one hear of a renaming, too. */
static void tell_old(struct daemon *daemon, struct segment *segment, const char *old_name, size_t old_size) {
        struct watch *watch = NULL;

        while ((watch = watch_next(&daemon->watches, old_name, old_size, watch))) {
                bool told = watch->size <= segment->name_size && memcmp(watch->prefix, segment->name, watch->size) == 0 &&
                            (!watch->exact || watch->size == segment->name_size);

                if (!told)
                        tell((struct watcher *) watch, segment, WIRE_EVENT_RENAMED, old_name, old_size);
        }
}

/* --- waits --- */

static void on_timeout(evutil_socket_t fd, short what, void *userdata) {
        struct wait *wait = userdata;
        struct session *session = wait->session;
        uint32_t serial = wait->serial;
        int r;

        (void) fd;
        (void) what;
        wait_free(wait);
        r = dispatch_late_refusal(session, SHMD_OP_OPEN, serial, SHMD_TIMED_OUT);
        if (r < 0) {
                report_broken(session, r);
                session_close(session);
        }
}

/* A century is for ever, and fits every time_t's arithmetic. */
#define TIMEOUT_MAX_USEC (UINT64_C(100) * 365 * 86400 * 1000000)

static int start_timer(struct wait *wait, uint64_t timeout_usec) {
        struct timeval timeout;

        if (timeout_usec > TIMEOUT_MAX_USEC)
                return 0;
        timeout = (struct timeval) { (time_t) (timeout_usec / 1000000), (suseconds_t) (timeout_usec % 1000000) };
        wait->timer = evtimer_new(wait->session->daemon->base, on_timeout, wait);
        return wait->timer && evtimer_add(wait->timer, &timeout) == 0 ? 0 : -ENOMEM;
}

int wait_new(struct session *session, const char *name, size_t size, uint32_t serial, uint32_t flags, uint64_t timeout_usec,
             struct shmd_wire_refusal *refusal) {
        struct daemon *daemon = session->daemon;
        struct wait *wait = calloc(1, sizeof(*wait));
        int r;

        if (!wait)
                return -ENOMEM;
        r = quota_charge(&daemon->quota, session->credentials.uid, QUOTA_WATCHES, 1, &wait->charge, refusal);
        if (r != 0) {
                free(wait);
                return r;
        }
        wait->session = session;
        wait->serial = serial;
        wait->flags = flags;
        watch_insert(&daemon->waits, &wait->watch, name, size, true);
        LIST_INSERT_HEAD(&session->waits, wait, entry);
        r = start_timer(wait, timeout_usec);
        if (r < 0)
                wait_free(wait);
        return r;
}

void wait_free(struct wait *wait) {
        struct daemon *daemon = wait->session->daemon;

        if (wait->ready)
                TAILQ_REMOVE(&daemon->ready, wait, ready_entry);
        if (wait->timer)
                event_free(wait->timer);
        watch_remove(&daemon->waits, &wait->watch);
        LIST_REMOVE(wait, entry);
        charge_done(&wait->charge);
        free(wait);
}

void wait_free_all(struct session *session) {
        struct wait *wait;

        while ((wait = LIST_FIRST(&session->waits)))
                wait_free(wait);
}

struct wait *wait_find(struct session *session, uint32_t serial) {
        struct wait *wait;

        LIST_FOREACH(wait, &session->waits, entry)
                if (wait->serial == serial)
                        return wait;
        return NULL;
}

static void make_ready(struct daemon *daemon, const struct segment *segment) {
        struct watch *watch = NULL;

        while ((watch = watch_next(&daemon->waits, segment->name, segment->name_size, watch))) {
                struct wait *wait = (struct wait *) watch;

                if (wait->ready)
                        continue;
                wait->ready = true;
                TAILQ_INSERT_TAIL(&daemon->ready, wait, ready_entry);
        }
        if (!TAILQ_EMPTY(&daemon->ready))
                daemon_settle_later(daemon);
}

/* One who waited gets the segment, or hears why not. If the name has gone again already, he goes on waiting. */
static void answer(struct daemon *daemon, struct wait *wait) {
        struct segment *segment = registry_find_name(&daemon->registry, wait->watch.prefix, wait->watch.size);
        struct session *session = wait->session;
        uint32_t serial = wait->serial, flags = wait->flags;
        int r;

        if (!segment)
                return;
        wait_free(wait);
        r = dispatch_late_open(session, serial, segment, flags);
        if (r < 0)
                session_break(session, r);
}

bool wait_answer_some(struct daemon *daemon, unsigned budget) {
        struct wait *wait;

        for (; budget > 0 && (wait = TAILQ_FIRST(&daemon->ready)); budget--) {
                TAILQ_REMOVE(&daemon->ready, wait, ready_entry);
                wait->ready = false;
                answer(daemon, wait);
        }
        return !TAILQ_EMPTY(&daemon->ready);
}

void watcher_notify(struct daemon *daemon, struct segment *segment, int event, const char *old_name, size_t old_size) {
        tell_all(daemon, segment, event, old_name, old_size);
        if (event == WIRE_EVENT_RENAMED)
                tell_old(daemon, segment, old_name, old_size);
        if (event == WIRE_EVENT_PUBLISHED || event == WIRE_EVENT_RENAMED)
                make_ready(daemon, segment);
}
