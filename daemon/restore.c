/* SPDX-License-Identifier: MIT */
#include "restore.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "absent.h"
#include "carried.h"
#include "control.h"
#include "daemon.h"
#include "log.h"
#include "state.h"
#include "store.h"
#include "util.h"

struct restoring {
        struct daemon *daemon;
        struct restored *restored;
        bool no_memory;
};

/* --- the logs --- */

struct mapped_log {
        void *base;
        size_t size;
        uint64_t number;
};

static const struct state_header *log_header(const struct mapped_log *log) {
        return log->base;
}

static int map_log(const struct kept_fd *kept, struct mapped_log *ret_log) {
        struct stat st;
        void *base;
        int r;

        if (fstat(kept->fd, &st) < 0)
                return negative_errno();
        if (st.st_size == 0)
                return -EBADMSG;
        base = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_SHARED, kept->fd, 0);
        if (base == MAP_FAILED)
                return negative_errno();
        r = state_check(base, (size_t) st.st_size);
        if (r < 0) {
                (void) munmap(base, (size_t) st.st_size);
                return r;
        }
        *ret_log = (struct mapped_log) { .base = base, .size = (size_t) st.st_size, .number = kept->number };
        return 0;
}

/* By their names: nothing damages those. */
static int by_epoch(const void *a, const void *b) {
        uint64_t x = ((const struct mapped_log *) a)->number, y = ((const struct mapped_log *) b)->number;

        return (x > y) - (x < y);
}

/* Those that can be read, the earliest first. */
static int map_logs(const struct kept_list *list, struct mapped_log *logs) {
        int count = 0;

        for (unsigned i = 0; i < list->count; i++) {
                int r = map_log(&list->item[i], &logs[count]);

                if (r == 0)
                        count++;
                else
                        log_error("cannot read state log %" PRIu64 ": %s", list->item[i].number,
                                  r == -EBADMSG ? "it is damaged" : strerror(-r));
        }
        qsort(logs, (size_t) count, sizeof(*logs), by_epoch);
        return count;
}

/* --- records --- */

static void remove_segment(struct segment *segment) {
        registry_remove(segment);
        segment_free(segment);
}

static void on_done(uint64_t age, const struct state_cause *cause, void *userdata) {
        struct restoring *restoring = userdata;
        struct absent *absent = cause->token ? absent_get(&restoring->daemon->absents, cause->token, cause->uid) : NULL;

        if (!absent)
                return;
        absent->serial = cause->serial;
        absent->age = age;
}

static void note_cause(struct restoring *restoring, const struct state_cause *cause) {
        on_done(0, cause, restoring);
}

static struct client *find_creator(struct restoring *restoring, const struct state_segment *state) {
        struct absents *absents = &restoring->daemon->absents;
        struct absent *absent = state->creator.token ? absent_get(absents, state->creator.token, state->creator.uid) : NULL;

        if (!absent)
                return NULL;
        absent->keeps = state->plan.kept;
        absent->started = absent->keeps ? keeper_started(absent->token) : state->creator.started;
        absent->credentials.pid = absent->keeps ? keeper_pid(absent->token) : state->creator.pid;
        return &absent->client;
}

/* What has its id is what it was before. What has its name has lost it, and the record of that. */
static void make_way(struct registry *registry, const struct state_segment *state) {
        struct segment *segment = registry_find_id(registry, state->id);

        if (segment)
                remove_segment(segment);
        segment = registry_find_name(registry, state->plan.name, state->plan.name_size);
        if (segment && (state->state == WIRE_STATE_PUBLISHED || state->state == WIRE_STATE_FROZEN))
                registry_unlink(segment, now_realtime_usec());
}

static void on_segment(const struct state_segment *state, const struct state_cause *cause, void *userdata) {
        struct restoring *restoring = userdata;
        struct registry *registry = &restoring->daemon->registry;
        struct segment *segment;
        int r;

        note_cause(restoring, cause);
        make_way(registry, state);
        r = registry_restore(registry, state, find_creator(restoring, state), now_realtime_usec(), &segment);
        if (r < 0)
                restoring->no_memory = true;
}

static void on_gone(uint64_t id, const struct state_cause *cause, void *userdata) {
        struct restoring *restoring = userdata;
        struct segment *segment = registry_find_id(&restoring->daemon->registry, id);

        note_cause(restoring, cause);
        if (segment)
                remove_segment(segment);
}

static void on_damaged(size_t offset, size_t size, void *userdata) {
        struct restoring *restoring = userdata;

        restoring->restored->lost++;
        log_error("the state log is damaged: %zu bytes at %zu are no record; the segment they were of is lost, "
                  "or is as it was before its last change",
                  size, offset);
}

/* More were never used: what says so is damaged. The records tell of most, and the clock: server_first_id(). */
#define ID_PLAUSIBLE (UINT64_C(1) << 53)

static void read_log(struct restoring *restoring, const struct mapped_log *log) {
        const struct state_reader reader = {
                .segment = on_segment,
                .gone = on_gone,
                .done = on_done,
                .damaged = on_damaged,
                .userdata = restoring,
        };
        struct restored *restored = restoring->restored;
        const struct state_header *header = log_header(log);

        state_read(log->base, log->size, &reader);
        if (header->next_id <= ID_PLAUSIBLE)
                restoring->daemon->registry.next_id = MAX(restoring->daemon->registry.next_id, header->next_id);
        restored->restarts = MAX(restored->restarts, header->restarts + 1);
        if (header->header_size >= offsetof(struct state_header, making) && header->started_usec != 0)
                restored->started_usec = header->started_usec;
        if (header->header_size >= sizeof(*header) && header->making.since_sec != 0)
                restored->making = header->making;
}

/* Everything from the last complete one on. */
static int read_logs(struct restoring *restoring, const struct handover *handover) {
        _cleanup_free_ struct mapped_log *logs = calloc(handover->states.count + 1, sizeof(*logs));
        int count, first;

        if (!logs)
                return -ENOMEM;
        count = map_logs(&handover->states, logs);
        for (first = count - 1; first > 0 && !log_header(&logs[first])->complete; first--)
                ;
        for (int i = MAX(first, 0); i < count; i++)
                read_log(restoring, &logs[i]);
        for (int i = 0; i < count; i++)
                (void) munmap(logs[i].base, logs[i].size);
        /* What could not be read is not to be taken for the new one, either. */
        for (unsigned i = 0; i < handover->states.count; i++)
                restoring->restored->epoch = MAX(restoring->restored->epoch, handover->states.item[i].number);
        return restoring->no_memory ? -ENOMEM : 0;
}

/* --- the carriers --- */

/* A lease that the daemon had taken when it died would keep everybody waiting. */
static void adopt_guard(struct segment *segment, struct wire_fds *fds) {
        segment->custody.guard_fd = TAKE_FD(fds->fd[0]);
        if (segment->backing == WIRE_BACKING_FILE)
                segment->custody.shared_fd[SHMD_ACCESS_READ] = TAKE_FD(fds->fd[1]);
        else
                (void) fcntl(segment->custody.guard_fd, F_SETLEASE, F_UNLCK);
}

/* It was sent again when it got control memory: what is new in the later message, whichever is read first. */
static int adopt(struct segment *segment, struct carrier *carrier, const struct carried *carried, struct wire_fds *fds) {
        unsigned next = carried_own_fds(segment);
        bool news = segment->backing != WIRE_BACKING_SYSV && segment->custody.guard_fd < 0;
        int r = 0;

        if (news)
                adopt_guard(segment, fds);
        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++) {
                int *fd = carried->control & 1u << i ? &fds->fd[next++] : NULL;

                if (!fd || segment->custody.control_fd[i] >= 0)
                        continue;
                news = true;
                r = control_restore(segment, i, TAKE_FD(*fd));
                if (r < 0)
                        break;
        }
        if (news)
                carrier_adopt(carrier, segment);
        return r;
}

/* Huge pages are reserved without being counted; a file is its owner's to keep. */
static bool has_memory(int fd) {
        struct statfs fs;
        struct stat st;

        return fstat(fd, &st) < 0 || st.st_blocks > 0 || (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC);
}

/* What was freed shortly before the earlier daemon's end may not have been emptied. */
static bool pins_memory(const struct wire_fds *fds) {
        for (unsigned i = 0; i < fds->count; i++)
                if (has_memory(fds->fd[i]))
                        return true;
        return false;
}

static int read_carrier(struct daemon *daemon, const struct kept_fd *kept) {
        struct carrier *carrier = carriers_add(&daemon->store.carriers, kept->number);
        struct carried carried;
        int zero = 0, r = 0;
        ssize_t n;

        if (!carrier)
                return -ENOMEM;
        if (setsockopt(kept->fd, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)) < 0)
                return negative_errno();
        for (;;) {
                struct wire_fds fds = WIRE_FDS_INIT;
                struct segment *segment;

                n = carried_peek(kept->fd, &carried, &fds);
                if (n <= 0) {
                        wire_fds_done(&fds);
                        return n == 0 || n == -EAGAIN ? 0 : (int) n;
                }
                carrier->entries++;
                segment = n == sizeof(carried) ? registry_find_id(&daemon->registry, carried.id) : NULL;
                if (segment && carried_fits(segment, &carried, &fds))
                        r = adopt(segment, carrier, &carried, &fds);
                else if (!segment)
                        carrier->rebuild |= pins_memory(&fds);
                wire_fds_done(&fds);
                if (r < 0)
                        return r;
        }
}

static int read_carriers(struct daemon *daemon, const struct handover *handover) {
        for (unsigned i = 0; i < handover->carriers.count; i++) {
                struct kept_fd *kept = &handover->carriers.item[i];
                int r = read_carrier(daemon, kept);

                /* Its entries take many: whoever keeps the carrier has one of his own. */
                kept->fd = close_fd(kept->fd);
                if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
                        return r;
                if (r < 0)
                        log_error("cannot read carrier %" PRIu64 ": %s", handover->carriers.item[i].number, strerror(-r));
        }
        return 0;
}

/* --- together --- */

/* What was removed in the kernel meanwhile goes as any other whose name is taken away. */
static void check_sysv(struct daemon *daemon, struct segment *segment, struct restored *restored) {
        if (sysv_restore(&daemon->sysv, segment)) {
                restored->segments++;
                return;
        }
        /* One that had no name any more was to go: an earlier daemon had got so far, and then was killed. */
        if (segment->state == WIRE_STATE_UNLINKED)
                return;
        report_lost(daemon, segment->name, segment->id, segment->owner.uid, "it was removed from the kernel");
        registry_unlink(segment, now_realtime_usec());
        restored->lost++;
}

static void check_all(struct daemon *daemon, struct restored *restored) {
        struct segment *segment;
        uint64_t id = 0;

        while ((segment = registry_next_id(&daemon->registry, id))) {
                id = segment->id;
                if (!control_check(segment))
                        log_error("the lock of \"%s\" (%" PRIu64 ") was not kept: it gets no other while anybody has it",
                                  segment->name, segment->id);
                if (segment->backing == WIRE_BACKING_SYSV) {
                        check_sysv(daemon, segment, restored);
                        continue;
                }
                if (segment->custody.guard_fd >= 0) {
                        (void) memfd_refresh(segment);
                        restored->segments++;
                        continue;
                }
                report_lost(daemon, segment->name, segment->id, segment->owner.uid, "there is its record, but not its memory");
                remove_segment(segment);
                restored->lost++;
        }
}

int restore(struct daemon *daemon, const struct handover *handover, struct restored *ret_restored) {
        struct restoring restoring = { .daemon = daemon, .restored = ret_restored };
        int r;

        *ret_restored = (struct restored) { 0 };
        /* Carriers without a log are of a daemon that died as it began: nothing lives in them, but their numbers are used. */
        if (handover->states.count == 0 && handover->carriers.count == 0)
                return 0;
        r = read_logs(&restoring, handover);
        if (r == 0)
                r = read_carriers(daemon, handover);
        if (r < 0) {
                /* The next one may have more luck; if nothing is lost by then. */
                log_error("cannot bring back the segments: %s", strerror(-r));
                return r;
        }
        check_all(daemon, ret_restored);
        if (ret_restored->making.since_sec != 0)
                sysv_remove_unrecorded(&daemon->sysv, &ret_restored->making);
        absents_watch(&daemon->absents);
        if (handover->states.count > 0)
                report_restored(daemon, ret_restored->segments, daemon->registry.bytes, ret_restored->lost);
        return 0;
}
