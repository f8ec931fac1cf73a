/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon.h"
#include "dispatch.h"
#include "log.h"

struct message_kind {
        const char *id;
        const char *subject;
        int level;
};

static const struct message_kind kinds[] = {
#define MESSAGE(NAME, id, level, subject) { id, subject, LOG_##level },
#include "messages.def"
#undef MESSAGE
};

_Static_assert(MESSAGE_COUNT <= THROTTLE_KINDS_MAX, "each kind has a bucket for those who find no place");

/* --- how often --- */

static void arm(struct report *report) {
        uint64_t next = throttle_next_usec(&report->throttle), now = now_monotonic_usec(), wait;
        struct timeval timeout;

        if (next == UINT64_MAX)
                return;
        wait = next > now ? next - now : 0;
        timeout = (struct timeval) { (time_t) (wait / 1000000), (suseconds_t) (wait % 1000000) };
        (void) evtimer_add(report->timer, &timeout);
}

static void tell_summary(const struct throttle_summary *summary) {
        const struct message_kind *kind = &kinds[summary->kind];
        struct log_fields fields = { .message_id = kind->id, .uid = MAX(summary->uid, -1) };
        char whom[48] = "";

        if (summary->uid >= 0)
                (void) snprintf(whom, sizeof(whom), " about user %" PRIi64, summary->uid);
        else if (summary->uid == THROTTLE_OTHERS)
                (void) snprintf(whom, sizeof(whom), " about other users");
        log_fields(kind->level, &fields, "%" PRIu64 " more messages%s were left out: %s", summary->suppressed, whom, kind->subject);
}

static void tell_summaries(struct report *report, uint64_t now_usec) {
        struct throttle_summary summary;

        while (throttle_take_summary(&report->throttle, now_usec, &summary))
                tell_summary(&summary);
}

static void on_timer(evutil_socket_t fd, short what, void *userdata) {
        struct report *report = userdata;

        (void) fd;
        (void) what;
        tell_summaries(report, now_monotonic_usec());
        arm(report);
}

int report_init(struct report *report, struct event_base *base) {
        throttle_init(&report->throttle);
        report->timer = evtimer_new(base, on_timer, report);
        return report->timer ? 0 : -ENOMEM;
}

void report_done(struct report *report) {
        if (!report->timer)
                return;
        tell_summaries(report, UINT64_MAX);
        event_free(TAKE_PTR(report->timer));
}

/* Asked first, so that what is not told costs next to nothing. */
static bool may_tell(struct report *report, enum message message, int64_t uid) {
        if (!log_is_enabled(kinds[message].level))
                return false;
        if (throttle_admit(&report->throttle, message, uid, now_monotonic_usec()))
                return true;
        if (!event_pending(report->timer, EV_TIMEOUT, NULL))
                arm(report);
        return false;
}

static void _printf_(3, 4) tell(enum message message, struct log_fields *fields, const char *format, ...) {
        char text[512];
        va_list ap;

        fields->message_id = kinds[message].id;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        log_fields(kinds[message].level, fields, "%s", text);
}

/* --- who and what, in words --- */

/* "process 12 (cat) of user 1000" */
static const char *client_to_words(struct session *session, char (*buffer)[96]) {
        const struct credentials *credentials = &session->credentials;

        session_describe(session);
        if (session->command[0])
                (void) snprintf(*buffer, sizeof(*buffer), "process %d (%s) of user %u", (int) credentials->pid, session->command,
                                (unsigned) credentials->uid);
        else
                (void) snprintf(*buffer, sizeof(*buffer), "process %d of user %u", (int) credentials->pid, (unsigned) credentials->uid);
        return *buffer;
}

static const char *limit_to_words(uint32_t limit) {
        static const char *const words[SHMD_LIMIT_COUNT] = {
                [SHMD_LIMIT_BYTES] = " bytes",
                [SHMD_LIMIT_SEGMENTS] = " segments",
                [SHMD_LIMIT_HOLDS] = " holds",
                [SHMD_LIMIT_CONNECTIONS] = " connections",
                [SHMD_LIMIT_WATCHES] = " watches and waits",
                [SHMD_LIMIT_DESCRIPTORS] = " of the daemon's descriptors",
                [SHMD_LIMIT_HUGE_PAGES] = " huge pages",
        };

        return limit < SHMD_LIMIT_COUNT && words[limit] ? words[limit] : "";
}

/* "over the limit: 64 segments at most, 64 used, 1 more asked for", or what the status says */
static const char *refusal_to_words(unsigned status, const struct shmd_wire_refusal *refusal, char (*buffer)[192]) {
        if (refusal->limit != SHMD_LIMIT_NONE)
                (void) snprintf(*buffer, sizeof(*buffer), "%s: %" PRIu64 "%s at most, %" PRIu64 " used, %" PRIu64 " more asked for",
                                status_to_words(status), refusal->maximum, limit_to_words(refusal->limit), refusal->used,
                                refusal->requested);
        else if (status == SHMD_DENIED || status == SHMD_NOT_OWNER)
                (void) snprintf(*buffer, sizeof(*buffer), "%s (owner %u, mode %04o)", status_to_words(status), (unsigned) refusal->uid,
                                (unsigned) refusal->mode & 07777);
        else
                (void) snprintf(*buffer, sizeof(*buffer), "%s", status_to_words(status));
        return *buffer;
}

/* Which kind of message a refusal is. False for those that are a client's own business: no such name, a bad argument. */
static bool classify(unsigned status, enum message *ret_message) {
        switch (status) {
        case SHMD_DENIED:
        case SHMD_NOT_OWNER:
        case SHMD_NOT_ADMINISTRATOR:
        case SHMD_NOT_FOR_CALLER:
                *ret_message = MESSAGE_DENIED;
                return true;
        case SHMD_OVER_LIMIT:
                *ret_message = MESSAGE_LIMIT;
                return true;
        case SHMD_NO_MEMORY:
        case SHMD_NO_DESCRIPTORS:
        case SHMD_NO_HUGE_PAGES:
                *ret_message = MESSAGE_EXHAUSTED;
                return true;
        case SHMD_FAILED:
                *ret_message = MESSAGE_FAILED;
                return true;
        default:
                return false;
        }
}

/* --- the messages --- */

/* The name of what a request is about, as a string: what it asked for, or of the segment that an id stands for. */
static const char *name_of_request(const struct op_context *context, char (*buffer)[SHMD_NAME_MAX + 1]) {
        const char *name = context->segment ? context->segment->name : context->name;
        size_t size = context->segment ? context->segment->name_size : context->name_size;

        if (!name)
                return NULL;
        memcpy(*buffer, name, size);
        (*buffer)[size] = '\0';
        return *buffer;
}

void report_refusal(struct op_context *context, int result) {
        unsigned status = result < 0 ? status_from_errno(result) : (unsigned) result;
        struct session *session = context->session;
        char client[96], words[192], name[SHMD_NAME_MAX + 1];
        struct log_fields fields = { .uid = session->credentials.uid, .pid = session->credentials.pid };
        enum message message;

        if (!classify(status, &message) || !may_tell(&context->daemon->report, message, fields.uid))
                return;
        fields.segment = name_of_request(context, &name);
        fields.id = context->segment ? context->segment->id : 0;
        tell(message, &fields, "refused %s to %s%s%s%s: %s", context->operation->name, client_to_words(session, &client),
             fields.segment ? ", \"" : "", fields.segment ? fields.segment : "", fields.segment ? "\"" : "",
             result < 0 ? strerror(-result) : refusal_to_words(status, &context->refusal, &words));
}

void report_turned_away(struct daemon *daemon, const struct credentials *credentials, unsigned status,
                        const struct shmd_wire_refusal *refusal) {
        struct log_fields fields = LOG_FIELDS_NONE;
        enum message message;
        char words[192];

        if (credentials) {
                fields.uid = credentials->uid;
                fields.pid = credentials->pid;
        }
        if (!classify(status, &message) || !may_tell(&daemon->report, message, fields.uid))
                return;
        (void) refusal_to_words(status, refusal, &words);
        if (credentials)
                tell(message, &fields, "turned away process %d of user %u: %s", (int) fields.pid, (unsigned) fields.uid, words);
        else
                tell(message, &fields, "turned away a client: %s", words);
}

void report_cut_off(struct session *session, const char *why) {
        struct log_fields fields = { .uid = session->credentials.uid, .pid = session->credentials.pid };
        char client[96];

        if (may_tell(&session->daemon->report, MESSAGE_CUT_OFF, fields.uid))
                tell(MESSAGE_CUT_OFF, &fields, "disconnecting %s: %s", client_to_words(session, &client), why);
}

void report_broken(struct session *session, int error) {
        /* EPROTO: what was wrong has been told already. */
        if (error < 0 && error != -EPIPE && error != -ECONNRESET && error != -EPROTO)
                report_cut_off(session, strerror(-error));
}

static struct log_fields segment_fields(const struct segment *segment, char (*name)[SHMD_NAME_MAX + 1]) {
        (void) snprintf(*name, sizeof(*name), "%.*s", (int) segment->name_size, segment->name);
        return (struct log_fields) { .segment = *name, .id = segment->id, .uid = segment->owner.uid, .pid = segment->creator.pid };
}

void report_expired(struct daemon *daemon, const struct segment *segment) {
        static const char *const reasons[] = {
                [WIRE_LIFETIME_HOLDERS] = "its last holder has gone",
                [WIRE_LIFETIME_LINGER] = "nobody came back in its time to linger",
                [WIRE_LIFETIME_CREATOR] = "its creator has gone",
        };
        const char *reason = segment->lifetime < ELEMENTSOF(reasons) ? reasons[segment->lifetime] : NULL;
        char name[SHMD_NAME_MAX + 1];
        struct log_fields fields;

        if (!reason || !may_tell(&daemon->report, MESSAGE_EXPIRED, segment->owner.uid))
                return;
        fields = segment_fields(segment, &name);
        tell(MESSAGE_EXPIRED, &fields, "removed \"%s\" (%" PRIu64 ") of user %u: %s", name, segment->id, (unsigned) segment->owner.uid,
             reason);
}

void report_reclaimed(struct session *session, const struct segment *segment) {
        char name[SHMD_NAME_MAX + 1], client[96];
        struct log_fields fields;

        if (segment->owner.uid == session->credentials.uid ||
            !may_tell(&session->daemon->report, MESSAGE_RECLAIMED, segment->owner.uid))
                return;
        fields = segment_fields(segment, &name);
        tell(MESSAGE_RECLAIMED, &fields, "%s removed \"%s\" (%" PRIu64 ") of user %u", client_to_words(session, &client), name,
             segment->id, (unsigned) segment->owner.uid);
}

void report_restored(struct daemon *daemon, uint64_t segments, uint64_t bytes, uint64_t lost) {
        struct log_fields fields = LOG_FIELDS_NONE;

        if (may_tell(&daemon->report, MESSAGE_RESTORED, THROTTLE_NOBODY))
                tell(MESSAGE_RESTORED, &fields,
                     "took over %" PRIu64 " segments (%" PRIu64 " bytes) from an earlier daemon; %" PRIu64 " lost",
                     segments, bytes, lost);
}

void report_lost(struct daemon *daemon, const char *name, uint64_t id, int64_t uid, const char *why) {
        struct log_fields fields = { .segment = name, .id = id, .uid = uid };

        if (may_tell(&daemon->report, MESSAGE_LOST, uid))
                tell(MESSAGE_LOST, &fields, "lost segment \"%s\" (%" PRIu64 ") of user %" PRIi64 ": %s", name ? name : "", id, uid, why);
}

void report_store_failing(struct daemon *daemon, const char *what, int error) {
        struct log_fields fields = LOG_FIELDS_NONE;

        if (may_tell(&daemon->report, MESSAGE_STORE_FAILING, THROTTLE_NOBODY))
                tell(MESSAGE_STORE_FAILING, &fields, "cannot %s: %s; segments that change now may not come back after the daemon's end",
                     what, strerror(-error));
}

void report_store_recovered(struct daemon *daemon, const char *what) {
        struct log_fields fields = LOG_FIELDS_NONE;

        if (may_tell(&daemon->report, MESSAGE_STORE_RECOVERED, THROTTLE_NOBODY))
                tell(MESSAGE_STORE_RECOVERED, &fields, "can %s again; all segments would come back after the daemon's end", what);
}

void report_lost_all(struct daemon *daemon, uint64_t segments, uint64_t bytes) {
        struct log_fields fields = LOG_FIELDS_NONE;

        if (may_tell(&daemon->report, MESSAGE_LOST, THROTTLE_NOBODY))
                tell(MESSAGE_LOST, &fields,
                     "%" PRIu64 " segments (%" PRIu64 " bytes) end with this daemon; programs that have them mapped keep their memory, "
                     "their names are lost", segments, bytes);
}
