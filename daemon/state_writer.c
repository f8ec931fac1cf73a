/* SPDX-License-Identifier: MIT */
#include "state_writer.h"

#include <fcntl.h>
#include <string.h>

#include "daemon.h"
#include "log.h"
#include "util.h"

/* A log is compacted when it is so much larger than twice what it was after the last time. Bytes. */
#define LOG_SLACK (UINT64_C(1) << 20)

/* At one turn of the loop. */
#define COPIES_A_TURN 64u

static struct state_header *header_of(const struct state_file *file) {
        return state_header(&file->log);
}

struct state_header *state_writer_header(const struct state_writer *writer) {
        return header_of(&writer->file);
}

/* --- records --- */

static struct state_file *file_to_write(struct state_writer *writer) {
        return writer->next_kept ? &writer->next : &writer->file;
}

static void retry_later(struct state_writer *writer) {
        static const struct timeval patience = { .tv_sec = 1 };

        if (!evtimer_pending(writer->retry_event, NULL))
                (void) evtimer_add(writer->retry_event, &patience);
}

static void on_retry(evutil_socket_t fd, short what, void *userdata) {
        struct state_writer *writer = userdata;

        (void) fd;
        (void) what;
        daemon_settle_later(writer->daemon);
}

int state_writer_make_room(struct state_writer *writer, size_t bytes) {
        int r = state_file_make_room(file_to_write(writer), bytes);

        if (r == 0)
                return 0;
        writer->missed++;
        store_fails(&writer->daemon->store, WIRE_STORE_FAILURE_LOG, r);
        retry_later(writer);
        return r;
}

static bool has_room(struct state_writer *writer) {
        return state_writer_make_room(writer, state_record_max()) == 0;
}

void state_writer_put(struct state_writer *writer, struct segment *segment) {
        struct state_file *file = file_to_write(writer);

        segment->kept_times = state_append(&file->log, segment);
        header_of(file)->next_id = MAX(header_of(file)->next_id, segment->id + 1);
}

bool state_writer_record(struct state_writer *writer, struct segment *segment) {
        if (!has_room(writer))
                return false;
        segment->kept_times = state_append(&file_to_write(writer)->log, segment);
        return true;
}

bool state_writer_gone(struct state_writer *writer, uint64_t id) {
        if (!has_room(writer))
                return false;
        state_append_gone(&file_to_write(writer)->log, id);
        return true;
}

void state_writer_begin_making(struct state_writer *writer, const struct state_making *making) {
        state_begin_making(&file_to_write(writer)->log, making);
}

void state_writer_commit(struct state_writer *writer) {
        state_commit(&writer->file.log);
        if (writer->next.fd >= 0)
                state_commit(&writer->next.log);
}

/* --- for whom --- */

void state_writer_set_cause(struct state_writer *writer, const struct state_cause *cause) {
        writer->file.log.cause = writer->next.log.cause = *cause;
        writer->cause_position = file_to_write(writer)->log.position;
}

bool state_writer_clear_cause(struct state_writer *writer) {
        writer->file.log.cause = writer->next.log.cause = (struct state_cause) { 0 };
        return file_to_write(writer)->log.position != writer->cause_position;
}

static void copy_done_of(struct state_file *file, const struct state_cause *cause, uint64_t age) {
        if (cause->token == 0 || cause->serial == 0 || age >= ABSENT_AGE_MAX)
                return;
        /* Without room a request that is repeated may be refused then, where it was done. */
        if (state_file_make_room(file, state_record_max()) == 0)
                state_append_done(&file->log, cause, age);
}

/* What was done last for whom: the records of that are in a log that goes. daemons: how many more have been since. */
static void copy_done(struct state_writer *writer, struct state_file *file, uint64_t daemons) {
        struct daemon *daemon = writer->daemon;
        const struct session *session;
        struct absent *absent;

        TAILQ_FOREACH(session, &daemon->server.sessions, entry) {
                uint32_t serial = session->recorded_serial ?: session->done_serial;

                copy_done_of(file, &(struct state_cause) { session->client.token, session->credentials.uid, serial }, 0);
        }
        for (absent = absent_next(&daemon->absents, NULL); absent; absent = absent_next(&daemon->absents, absent))
                copy_done_of(file, &(struct state_cause) { absent->token, absent->credentials.uid, absent->serial }, absent->age + daemons);
}

/* --- compaction --- */

static bool log_lacks_something(const struct state_writer *writer) {
        return writer->covered != writer->missed;
}

static bool log_is_long(const struct state_writer *writer) {
        return writer->file.log.position > 2 * writer->compacted_size + LOG_SLACK;
}

static void copy_header(struct state_file *to, const struct state_file *from) {
        header_of(to)->next_id = header_of(from)->next_id;
        header_of(to)->restarts = header_of(from)->restarts;
        header_of(to)->started_usec = header_of(from)->started_usec;
}

/* The manager has the next log; or has not, and then it is tried again when the present one has become longer by as much. */
static void compaction_confirmed(struct daemon *daemon, uint64_t epoch, int result) {
        struct state_writer *writer = &daemon->store.writer;

        if (result == 0) {
                writer->next_kept = true;
                return;
        }
        log_warning("the service manager cannot be told to keep a new state log: %s", strerror(-result));
        manager_drop(writer->manager, "state", epoch);
        state_file_done(&writer->next);
        writer->compacted_size = writer->file.log.position;
        if (log_lacks_something(writer))
                retry_later(writer);
}

/* The manager gets the new file first; only then something is written to it that is not in the old one. */
static int compaction_start(struct state_writer *writer) {
        uint64_t epoch = header_of(&writer->file)->epoch + 1;
        bool told;
        int fd, r;

        r = state_file_new(epoch, writer->file.log.position / 2 + STATE_FILE_STEP, &writer->next);
        if (r < 0)
                return r;
        copy_header(&writer->next, &writer->file);
        fd = fcntl(writer->next.fd, F_DUPFD_CLOEXEC, 3);
        r = fd < 0 ? negative_errno() : manager_keep(writer->manager, "state", epoch, fd, compaction_confirmed, &told);
        if (r < 0) {
                state_file_done(&writer->next);
                return r;
        }
        writer->copied_id = 0;
        writer->next_kept = false;
        writer->covering = writer->missed;
        return 0;
}

static void compaction_finish(struct state_writer *writer) {
        uint64_t epoch = header_of(&writer->file)->epoch;

        copy_done(writer, &writer->next, 0);
        state_writer_commit(writer);
        header_of(&writer->next)->complete = 1;
        manager_drop(writer->manager, "state", epoch);
        state_file_done(&writer->file);
        writer->file = writer->next;
        writer->next = (struct state_file) STATE_FILE_INIT;
        writer->next_kept = false;
        writer->compacted_size = writer->file.log.position;
        writer->covered = writer->covering;
        if (!log_lacks_something(writer))
                store_recovers(&writer->daemon->store, WIRE_STORE_FAILURE_LOG);
}

/* Some more. True if there is still something to copy. */
static bool compaction_step(struct state_writer *writer) {
        struct registry *registry = &writer->daemon->registry;
        struct segment *segment;

        for (unsigned i = 0; i < COPIES_A_TURN; i++) {
                segment = registry_next_id(registry, writer->copied_id);
                if (!segment) {
                        compaction_finish(writer);
                        return false;
                }
                if (segment->custody.recorded && !state_writer_record(writer, segment))
                        return false;
                writer->copied_id = segment->id;
        }
        return true;
}

bool state_writer_settle(struct state_writer *writer) {
        int r;

        if (evtimer_pending(writer->retry_event, NULL))
                return false;
        if (writer->next_kept)
                return compaction_step(writer);
        if (state_writer_is_compacting(writer) || (!log_is_long(writer) && !log_lacks_something(writer)))
                return false;
        r = compaction_start(writer);
        if (r == 0)
                return false;
        writer->compacted_size = writer->file.log.position; /* not again at once */
        if (log_lacks_something(writer))
                retry_later(writer);
        else
                log_warning("cannot compact the state log: %s", strerror(-r));
        return false;
}

bool state_writer_is_compacting(const struct state_writer *writer) {
        return writer->next.fd >= 0;
}

/* --- beginning and end --- */

int state_writer_begin(struct state_writer *writer, uint64_t epoch, size_t bytes) {
        return state_file_new(epoch, bytes, &writer->file);
}

void state_writer_complete(struct state_writer *writer) {
        copy_done(writer, &writer->file, 1);
        state_commit(&writer->file.log);
        header_of(&writer->file)->complete = 1;
        writer->compacted_size = writer->file.log.position;
}

void state_writer_unkeep(const struct state_writer *writer) {
        (void) handover_unkeep(kept_name("state", header_of(&writer->file)->epoch).name);
        if (state_writer_is_compacting(writer))
                (void) handover_unkeep(kept_name("state", header_of(&writer->next)->epoch).name);
}

void state_writer_abort(struct state_writer *writer) {
        state_file_done(&writer->file);
        state_file_done(&writer->next);
}

int state_writer_init(struct state_writer *writer, struct daemon *daemon, struct manager *manager) {
        writer->daemon = daemon;
        writer->manager = manager;
        writer->retry_event = evtimer_new(daemon->base, on_retry, writer);
        return writer->retry_event ? 0 : -ENOMEM;
}

void state_writer_done(struct state_writer *writer) {
        state_writer_abort(writer);
        if (writer->retry_event)
                event_free(TAKE_PTR(writer->retry_event));
}
