/* SPDX-License-Identifier: MIT */
/*
 * wait and watch: what has not happened yet.
 *
 * A watch never tells less than it says: where events were lost, because standard output was not read fast
 * enough or the daemon was away, it says so and tells of everything that is there, as at the beginning of a snapshot.
 */
#include "shmdctl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* --- wait --- */

int cmd_wait(struct ctl *ctl, int n_arguments, char **arguments) {
        int status = connect_to_daemon(ctl);
        struct shmd_segment *segment;
        uint64_t id;
        int r;

        (void) n_arguments;
        if (status != STATUS_DONE)
                return status;
        r = shmd_open_wait(ctl->connection, arguments[0], SHMD_READ_ONLY, ctl->options.timeout_usec, &segment);
        if (r != 0)
                return fail_shmd(ctl, r, "wait for", arguments[0]);
        id = shmd_id(segment);
        shmd_close(segment); /* so that it does not show as a holder */
        return show_quietly(ctl, id);
}

/* --- what happened --- */

struct watch {
        struct ctl *ctl;
        const char *prefix;
        uint64_t id;
        uint64_t deadline_usec; /* CLOCK_MONOTONIC; UINT64_MAX: none */
        uint64_t wanted;        /* UINT64_MAX: no end */
        uint64_t seen;
        bool lost;
};

static const struct {
        const char *word;
        bool change; /* of a segment: what --count counts */
} kinds[] = {
        [SHMD_EVENT_CREATED] = { "created", true },
        [SHMD_EVENT_PUBLISHED] = { "published", true },
        [SHMD_EVENT_FROZEN] = { "frozen", true },
        [SHMD_EVENT_RESIZED] = { "resized", true },
        [SHMD_EVENT_UNLINKED] = { "unlinked", true },
        [SHMD_EVENT_FREED] = { "freed", true },
        [SHMD_EVENT_RENAMED] = { "renamed", true },
        [SHMD_EVENT_LOST] = { "lost", false },
        [SHMD_EVENT_PRESENT] = { "present", false },
        [SHMD_EVENT_SNAPSHOT_END] = { "snapshot-end", false },
};

static bool is_about_segment(const struct shmd_event *event) {
        return event->kind != SHMD_EVENT_LOST && event->kind != SHMD_EVENT_SNAPSHOT_END;
}

static void print_json_event(const struct shmd_event *event, uint64_t time_usec) {
        struct json_object *object = json_new_object();

        json_add_number(object, "time_usec", time_usec);
        json_add_string(object, "event", kinds[event->kind].word);
        if (is_about_segment(event)) {
                json_add_number(object, "id", event->id);
                json_add_number(object, "size", event->size_bytes);
                json_add_number(object, "uid", event->uid);
                json_add_string(object, "name", event->name);
        }
        if (event->kind == SHMD_EVENT_RENAMED)
                json_add_string(object, "old_name", event->old_name);
        json_print_line(object);
}

static void print_text_event(const struct ctl *ctl, const struct shmd_event *event, uint64_t time_usec) {
        char at[TEXT_SIZE_MAX], size[TEXT_SIZE_MAX];

        printf("%s %-12s", format_moment(time_usec, at), kinds[event->kind].word);
        if (is_about_segment(event)) {
                printf(" %15" PRIu64 " %8s ", event->id, format_size(event->size_bytes, ctl->options.bytes, size));
                print_escaped(stdout, event->name);
        }
        if (event->kind == SHMD_EVENT_RENAMED) {
                fputs(" (was ", stdout);
                print_escaped(stdout, event->old_name);
                putchar(')');
        }
        putchar('\n');
}

static void on_event(struct shmd *connection, const struct shmd_event *event, void *userdata) {
        struct watch *watch = userdata;
        uint64_t time_usec = event->time_usec > 0 ? event->time_usec : now_realtime_usec();

        (void) connection;
        if (event->kind >= ELEMENTSOF(kinds) || !kinds[event->kind].word || watch->seen == watch->wanted)
                return;
        if (watch->ctl->options.json)
                print_json_event(event, time_usec);
        else
                print_text_event(watch->ctl, event, time_usec);
        /* Whoever reads this may act on it: no line waits for the next one. */
        fflush(stdout);
        stdout_check();
        watch->seen += kinds[event->kind].change;
        watch->lost |= event->kind == SHMD_EVENT_LOST;
}

/* --- until it is enough --- */

static int begin(struct watch *watch, unsigned flags) {
        struct ctl *ctl = watch->ctl;
        int r = shmd_watch(ctl->connection, watch->prefix, flags, on_event, watch, &watch->id);

        return r != 0 ? fail_shmd(ctl, r, watch->prefix ? "watch" : "watch segments", watch->prefix) : STATUS_DONE;
}

/* What comes between the end of the old watch and the beginning of the new one is in the snapshot. */
static int begin_again(struct watch *watch) {
        int r = shmd_unwatch(watch->ctl->connection, watch->id);

        if (r != 0 && r != -ENOENT)
                return fail_shmd(watch->ctl, r, "end a watch", NULL);
        watch->lost = false;
        return begin(watch, SHMD_WATCH_SNAPSHOT);
}

static uint64_t time_left(const struct watch *watch) {
        uint64_t now = now_monotonic_usec();

        if (watch->deadline_usec == UINT64_MAX)
                return UINT64_MAX;
        return watch->deadline_usec > now ? watch->deadline_usec - now : 0;
}

/* Positive: there is something to dispatch; 0: the end has come; or a negative errno value. */
static int wait_for_events(struct watch *watch) {
        struct pollfd fds[] = {
                { .fd = shmd_poll_fd(watch->ctl->connection), .events = POLLIN },
                { .fd = STDOUT_FILENO }, /* tells if the reader of a pipe has gone, though nothing happens */
        };
        uint64_t left_usec = time_left(watch);
        int r = interrupt_poll(fds, ELEMENTSOF(fds), left_usec);

        if (r == -EINTR && !interrupt_pending())
                return 1;
        if (r > 0 && fds[1].revents != 0)
                return -EPIPE;
        return r > 0 && left_usec == 0 ? 0 : r; /* however much is coming */
}

static int fail_too_few(const struct watch *watch) {
        return fail("timed out: %" PRIu64 " of %" PRIu64 " events", watch->seen, watch->wanted);
}

static int finish(const struct watch *watch, int r) {
        if (interrupt_pending())
                return STATUS_DONE; /* that is how a watch ends */
        if (r == -EPIPE)
                return STATUS_FAILED;
        if (r < 0)
                return fail("cannot wait for events: %s", strerror(-r));
        return watch->wanted == UINT64_MAX ? STATUS_DONE : fail_too_few(watch);
}

static int follow(struct watch *watch) {
        while (!interrupt_pending() && !ferror(stdout)) {
                int r = shmd_dispatch(watch->ctl->connection), status;

                if (r < 0)
                        return fail_shmd(watch->ctl, r, "watch", watch->prefix);
                if (watch->seen == watch->wanted)
                        return STATUS_DONE;
                status = watch->lost ? begin_again(watch) : STATUS_DONE;
                if (status != STATUS_DONE)
                        return status;
                r = wait_for_events(watch);
                if (r <= 0)
                        return finish(watch, r);
        }
        return STATUS_DONE; /* if it was for standard output, that shows when it is closed */
}

int cmd_watch(struct ctl *ctl, int n_arguments, char **arguments) {
        const struct options *options = &ctl->options;
        struct watch watch = {
                .ctl = ctl,
                .prefix = n_arguments > 0 ? arguments[0] : NULL,
                .wanted = options->count > 0 ? options->count : UINT64_MAX,
                .deadline_usec = UINT64_MAX,
        };
        int status = connect_to_daemon(ctl);

        if (status != STATUS_DONE)
                return status;
        if (options->timeout_usec < UINT64_MAX - now_monotonic_usec())
                watch.deadline_usec = now_monotonic_usec() + options->timeout_usec;
        interrupt_catch();
        status = begin(&watch, options->snapshot ? SHMD_WATCH_SNAPSHOT : 0);
        if (status != STATUS_DONE)
                return status;
        /* So whoever reads this knows that from now on nothing is missed. */
        if (!options->json && !options->no_headings)
                printf("%-23s %-12s %15s %8s %s\n", "TIME", "EVENT", "ID", "SIZE", "NAME");
        fflush(stdout);
        return follow(&watch);
}
