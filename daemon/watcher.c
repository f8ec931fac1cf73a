/* SPDX-License-Identifier: MIT */
#include "watcher.h"

#include <string.h>

#include "daemon.h"
#include "dispatch.h"
#include "util.h"

/* --- what there is to tell --- */

/* An event as it was when it happened; told to one watcher after the other, in turns. */
struct notice {
        TAILQ_ENTRY(notice) entry;
        uint64_t number; /* in the order of what happened */
        struct shmd_wire_event event;
        struct ownership owner;
        bool had_name;
        char names[]; /* the name, the old name */
};

/* So many at most: then watchers are told that events are missing. */
#define NOTICES_MAX 4096u
/* From so many on, whoever causes more has to wait until these are told. */
#define NOTICES_HIGH 64u

/* What may be done at one turn of the loop. To send an event takes about as long as to pass over so many watches. */
#define TURN_COST 256u
#define SEND_COST 16u

void notices_init(struct notices *notices) {
        *notices = (struct notices) { .next_number = 1 };
        TAILQ_INIT(&notices->queue);
}

static void drop_first(struct notices *notices) {
        struct notice *notice = TAILQ_FIRST(&notices->queue);

        TAILQ_REMOVE(&notices->queue, notice, entry);
        notices->count--;
        notices->begun = notices->old = false;
        notices->next = NULL;
        free(notice);
}

void notices_done(struct notices *notices) {
        while (notices->count > 0)
                drop_first(notices);
}

bool notices_are_many(const struct notices *notices) {
        return notices->count >= NOTICES_HIGH;
}

/* The watch after one (NULL: the first) that a change concerns: by the name, and of a renaming then by the old name alone. */
static struct watch *next_concerned(struct watch_index *index, const struct shmd_wire_event *event, const char *name,
                                    const char *old_name, struct watch *watch, bool *old) {
        if (!*old) {
                watch = watch_next(index, name, event->name_size, watch);
                if (watch || event->old_name_size == 0)
                        return watch;
                *old = true;
        }
        do
                watch = watch_next(index, old_name, event->old_name_size, watch);
        while (watch && watch_concerns(watch, name, event->name_size));
        return watch;
}

static void advance(struct daemon *daemon, struct watch *watch) {
        struct notices *notices = &daemon->notices;
        const struct notice *notice = TAILQ_FIRST(&notices->queue);

        notices->next = next_concerned(&daemon->watches, &notice->event, notice->names, notice->names + notice->event.name_size, watch,
                                       &notices->old);
}

/* What never had a name is its creator's business. */
static bool may_hear(const struct watcher *watcher, const struct notice *notice) {
        return notice->had_name || policy_manage(&watcher->session->credentials, &notice->owner) == 0;
}

/* Gives what it cost. */
static unsigned tell(struct watcher *watcher, struct notice *notice) {
        struct session *session = watcher->session;

        if (session->events_lost || session->broken || notice->number < MAX(watcher->from, session->events_from) ||
            !may_hear(watcher, notice))
                return 1;
        notice->event.watch = watcher->watch.key;
        session_send_event(session, &notice->event, notice->names);
        return SEND_COST;
}

bool watcher_tell_some(struct daemon *daemon) {
        struct notices *notices = &daemon->notices;

        for (unsigned cost = 0; cost < TURN_COST && notices->count > 0; cost++) {
                if (!notices->begun) {
                        notices->begun = true;
                        advance(daemon, NULL);
                } else if (notices->next) {
                        struct watch *watch = notices->next;

                        advance(daemon, watch);
                        cost += tell((struct watcher *) watch, TAILQ_FIRST(&notices->queue));
                } else
                        drop_first(notices);
        }
        if (!notices_are_many(notices))
                session_release_held(daemon);
        return notices->count > 0;
}

static struct notice *notice_new(const struct segment *segment, const struct shmd_wire_event *event, const char *old_name) {
        struct notice *notice = malloc(sizeof(*notice) + event->name_size + event->old_name_size);

        if (!notice)
                return NULL;
        notice->event = *event;
        notice->owner = segment->owner;
        notice->had_name = segment->had_name;
        memcpy(notice->names, segment->name, event->name_size);
        if (event->old_name_size > 0)
                memcpy(notice->names + event->name_size, old_name, event->old_name_size);
        return notice;
}

/* There is no room for one more: all whom it concerns look again. */
static void lose(struct daemon *daemon, const struct segment *segment, const struct shmd_wire_event *event, const char *old_name) {
        struct watch *watch = NULL;
        bool old = false;

        while ((watch = next_concerned(&daemon->watches, event, segment->name, old_name, watch, &old)))
                session_lose_events(((struct watcher *) watch)->session);
}

static void note(struct daemon *daemon, const struct segment *segment, int kind, const char *old_name, size_t old_size) {
        const struct shmd_wire_event event = {
                .id = segment->id,
                .size = segment->size,
                .time_usec = now_realtime_usec(),
                .kind = (uint32_t) kind,
                .uid = segment->owner.uid,
                .name_size = segment->name_size,
                .old_name_size = (uint16_t) old_size,
        };
        struct notices *notices = &daemon->notices;
        struct notice *notice;
        bool old = false;

        if (!next_concerned(&daemon->watches, &event, segment->name, old_name, NULL, &old))
                return;
        notice = notices->count < NOTICES_MAX ? notice_new(segment, &event, old_name) : NULL;
        if (!notice) {
                lose(daemon, segment, &event, old_name);
                return;
        }
        notice->number = notices->next_number++;
        TAILQ_INSERT_TAIL(&notices->queue, notice, entry);
        notices->count++;
        daemon_settle_later(daemon);
}

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
        watcher->from = daemon->notices.next_number;
        watch_insert(&daemon->watches, &watcher->watch, prefix, size, exact);
        LIST_INSERT_HEAD(&session->watchers, watcher, entry);
        *ret_watcher = watcher;
        return 0;
}

void watcher_free(struct watcher *watcher) {
        struct daemon *daemon = watcher->session->daemon;

        if (daemon->notices.next == &watcher->watch)
                advance(daemon, &watcher->watch);
        watch_remove(&daemon->watches, &watcher->watch);
        LIST_REMOVE(watcher, entry);
        charge_done(&watcher->charge);
        free(watcher);
}

void watcher_free_all(struct session *session) {
        struct watcher *watcher;

        while ((watcher = LIST_FIRST(&session->watchers)))
                watcher_free(watcher);
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
        note(daemon, segment, event, old_name, old_size);
        if (event == WIRE_EVENT_PUBLISHED || event == WIRE_EVENT_RENAMED)
                make_ready(daemon, segment);
}
