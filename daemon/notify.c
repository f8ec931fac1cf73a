/* SPDX-License-Identifier: MIT */
#include "notify.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "clock.h"
#include "log.h"
#include "util.h"

/* Between two messages with totals. */
#define STATUS_INTERVAL_USEC UINT64_C(1000000)

static struct timeval to_timeval(uint64_t usec) {
        return (struct timeval) { (time_t) (usec / 1000000), (suseconds_t) (usec % 1000000) };
}

/* --- totals --- */

static void format_bytes(uint64_t bytes, char *buffer, size_t size) {
        static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
        double value = (double) bytes;
        size_t unit = 0;

        while (value >= 1024 && unit + 1 < ELEMENTSOF(units)) {
                value /= 1024;
                unit++;
        }
        (void) snprintf(buffer, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static const char *plural(uint64_t number) {
        return number == 1 ? "" : "s";
}

static void format_status(const struct notify *notify, char *buffer, size_t size) {
        const struct notify_totals *now = &notify->now;
        char bytes[32];

        format_bytes(now->bytes, bytes, sizeof(bytes));
        (void) snprintf(buffer, size, "%" PRIu64 " segment%s, %s, %" PRIu64 " client%s%s", now->segments, plural(now->segments), bytes,
                        now->clients, plural(now->clients),
                        notify->bad_config ? "; the configuration has errors and is not applied" : "");
}

static bool is_told(const struct notify *notify) {
        return memcmp(&notify->told, &notify->now, sizeof(notify->told)) == 0;
}

/* What has not been told yet, or again later. */
static void tell(struct notify *notify) {
        static const struct timeval interval = { .tv_sec = STATUS_INTERVAL_USEC / 1000000 };
        char message[264];
        int r;

        if (is_told(notify) && !notify->ready_owed)
                return;
        (void) strcpy(message, notify->ready_owed ? "READY=1\nSTATUS=" : "STATUS=");
        format_status(notify, message + strlen(message), sizeof(message) - strlen(message));
        r = notify_socket_send(&notify->socket, message, -1);
        if (r == 0) {
                notify->told = notify->now;
                notify->told_usec = now_monotonic_usec();
                notify->ready_owed = false;
        } else if (r == -EAGAIN)
                (void) evtimer_add(notify->status_event, &interval);
}

static void on_status(evutil_socket_t fd, short what, void *userdata) {
        (void) fd;
        (void) what;
        tell(userdata);
}

void notify_update(struct notify *notify, const struct notify_totals *totals) {
        struct timeval timeout;
        uint64_t since;

        notify->now = *totals;
        if (notify->socket.fd < 0 || is_told(notify) || evtimer_pending(notify->status_event, NULL))
                return;
        since = now_monotonic_usec() - notify->told_usec;
        timeout = to_timeval(since < STATUS_INTERVAL_USEC ? STATUS_INTERVAL_USEC - since : 0);
        (void) evtimer_add(notify->status_event, &timeout);
}

/* --- states --- */

void notify_config(struct notify *notify, int result) {
        notify->bad_config = result < 0;
}

void notify_ready(struct notify *notify) {
        notify->ready_owed = true;
        tell(notify);
}

/* sd_notify(3): the manager wants to know since when. */
void notify_reloading(struct notify *notify) {
        char message[64];

        (void) snprintf(message, sizeof(message), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_monotonic_usec());
        (void) notify_socket_send(&notify->socket, message, -1);
}

void notify_stopping(struct notify *notify) {
        (void) notify_socket_send(&notify->socket, "STOPPING=1", -1);
}

/* --- watchdog --- */

static void on_watchdog(evutil_socket_t fd, short what, void *userdata) {
        const struct notify *notify = userdata;

        (void) fd;
        (void) what;
        (void) notify_socket_send(&notify->socket, "WATCHDOG=1", -1);
}

/* At half of its time, as sd_watchdog_enabled(3) has it: one that comes late still comes in time. */
static int start_watchdog(struct notify *notify, struct event_base *base) {
        struct timeval half;
        uint64_t usec;
        int r;

        r = sd_watchdog_enabled(0, &usec);
        if (r <= 0 || notify->socket.fd < 0) {
                if (r < 0)
                        log_warning("cannot tell the watchdog's time: %s", strerror(-r));
                return 0;
        }
        half = to_timeval(usec / 2);
        notify->watchdog_event = event_new(base, -1, EV_PERSIST, on_watchdog, notify);
        if (!notify->watchdog_event || event_add(notify->watchdog_event, &half) < 0)
                return -ENOMEM;
        notify->watchdog_usec = usec;
        return 0;
}

int notify_init(struct notify *notify, struct event_base *base) {
        *notify = (struct notify) { 0 };
        notify_socket_open(&notify->socket);
        notify->status_event = evtimer_new(base, on_status, notify);
        if (!notify->status_event)
                return -ENOMEM;
        return start_watchdog(notify, base);
}

void notify_done(struct notify *notify) {
        if (notify->watchdog_event)
                event_free(TAKE_PTR(notify->watchdog_event));
        if (notify->status_event)
                event_free(TAKE_PTR(notify->status_event));
        notify_socket_close(&notify->socket);
}
