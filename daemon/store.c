/* SPDX-License-Identifier: MIT */
#include "store.h"

#include <fcntl.h>
#include <string.h>

#include "carried.h"
#include "clock.h"
#include "daemon.h"
#include "emptying.h"
#include "log.h"
#include "restore.h"
#include "util.h"

/* The service manager is given so long, at the start, to say that it is there. */
#define MANAGER_TIMEOUT_USEC UINT64_C(5000000)

/* --- what fails --- */

static const char *const failures[] = {
        [WIRE_STORE_FAILURE_LOG] = "write the state log",
        [WIRE_STORE_FAILURE_MANAGER] = "have descriptors kept by the service manager",
};

void store_fails(struct store *store, enum wire_store_failure failure, int error) {
        if (store->failing_usec[failure] != 0)
                return;
        store->failing_usec[failure] = now_realtime_usec();
        report_store_failing(store->daemon, failures[failure], error);
}

void store_recovers(struct store *store, enum wire_store_failure failure) {
        if (store->failing_usec[failure] == 0)
                return;
        store->failing_usec[failure] = 0;
        report_store_recovered(store->daemon, failures[failure]);
}

enum wire_store_failure store_failure(const struct store *store, uint64_t *ret_since_usec) {
        for (enum wire_store_failure i = WIRE_STORE_FAILURE_LOG; i < ELEMENTSOF(store->failing_usec); i++)
                if (store->failing_usec[i] != 0) {
                        *ret_since_usec = store->failing_usec[i];
                        return i;
                }
        *ret_since_usec = 0;
        return WIRE_STORE_FAILURE_NONE;
}

/* --- what is recorded --- */

int store_make_room(struct store *store, size_t bytes) {
        return store->active ? state_writer_make_room(&store->writer, bytes) : 0;
}

void store_set_cause(struct store *store, const struct state_cause *cause) {
        state_writer_set_cause(&store->writer, cause);
}

bool store_clear_cause(struct store *store) {
        return state_writer_clear_cause(&store->writer);
}

void store_commit(struct store *store) {
        if (store->active)
                state_writer_commit(&store->writer);
}

bool store_settle(struct store *store) {
        bool more;

        if (!store->active)
                return false;
        more = state_writer_settle(&store->writer);
        more |= carriers_settle(&store->carriers);
        store_commit(store);
        return more;
}

/* --- segments --- */

int store_put(struct store *store, struct segment *segment) {
        int r;

        if (!store->active)
                return 0;
        r = store_make_room(store, state_record_max());
        if (r < 0)
                return r;
        if (carried_is_needed(segment))
                r = carriers_put(&store->carriers, segment);
        if (r < 0)
                return r;
        segment->custody.recorded = true;
        state_writer_put(&store->writer, segment);
        return 0;
}

void store_begin_making(struct store *store, uint32_t key, uint64_t size) {
        const struct state_making making = {
                .since_sec = now_kernel_sec(), /* ipc/shm.c: ktime_get_real_seconds() */
                .size = size,
                .key = key,
                .pid = (uint32_t) getpid(),
        };

        if (store->active)
                state_writer_begin_making(&store->writer, &making);
}

int store_put_again(struct store *store, struct segment *segment) {
        if (!store->active || !segment->custody.recorded)
                return 0;
        return carriers_put(&store->carriers, segment);
}

void store_record(struct store *store, struct segment *segment) {
        if (store->active && segment->custody.recorded)
                state_writer_record(&store->writer, segment);
}

void store_drop(struct store *store, struct segment *segment) {
        bool forgotten = true;

        segment->kept_times = NULL;
        if (store->active && segment->custody.recorded)
                forgotten = state_writer_gone(&store->writer, segment->id);
        /* Its record may not be found with its contents gone: then it goes with its carrier. */
        store_commit(store);
        if (store->active && segment->custody.carrier)
                carrier_release(segment, !forgotten || emptying_start(store->daemon, segment) < 0);
}

/* --- beginning --- */

int store_init(struct store *store, struct daemon *daemon) {
        int r;

        *store = (struct store) STORE_INIT;
        store->daemon = daemon;
        r = state_writer_init(&store->writer, daemon, &store->manager);
        if (r == 0)
                r = carriers_init(&store->carriers, daemon, &store->manager);
        return r < 0 ? r : manager_init(&store->manager, daemon);
}

/* kept: it has what an earlier daemon left; without it that would come back, but not what is done from now on. */
static int find_manager(struct store *store, bool kept) {
        int r;

        if (!handover_is_possible())
                return 0;
        r = carriers_begin(&store->carriers, MANAGER_TIMEOUT_USEC, kept);
        if (r < 0)
                return r;
        store->active = store->carriers.current;
        if (!store->active)
                log_info("the service manager keeps no descriptors: segments end with the daemon");
        return 0;
}

/* All at once, at the start. */
static int write_all(struct store *store) {
        struct segment *segment = NULL;
        uint64_t id = 0;
        int r;

        while ((segment = registry_next_id(&store->daemon->registry, id))) {
                r = store_make_room(store, state_record_max());
                if (r == 0 && !segment->custody.carrier && carried_is_needed(segment))
                        r = carriers_put(&store->carriers, segment);
                if (r < 0)
                        return r;
                segment->custody.recorded = true;
                state_writer_put(&store->writer, segment);
                id = segment->id;
        }
        return 0;
}

static int begin_log(struct store *store, const struct restored *restored) {
        struct state_header *header;
        int r;

        r = state_writer_begin(&store->writer, restored->epoch + 1, 0);
        if (r < 0)
                return r;
        header = state_writer_header(&store->writer);
        header->next_id = store->daemon->registry.next_id;
        header->restarts = restored->restarts;
        header->started_usec = restored->started_usec ? restored->started_usec : store->daemon->started_usec;
        r = write_all(store);
        if (r < 0)
                return r;
        state_writer_complete(&store->writer);
        return 0;
}

/* The manager has the new log before it drops the old ones, whenever this is interrupted. */
static int hand_log_over(struct store *store, const struct handover *handover) {
        const struct state_header *header = state_writer_header(&store->writer);
        int r;

        r = handover_keep(kept_name("state", header->epoch).name, store->writer.file.fd);
        for (unsigned i = 0; r == 0 && i < handover->states.count; i++)
                r = handover_unkeep(kept_name("state", handover->states.item[i].number).name);
        if (r == 0 && store->daemon->generation.keep_fd >= 0)
                r = handover_keep("generation", store->daemon->generation.keep_fd);
        return r < 0 ? r : handover_wait(MANAGER_TIMEOUT_USEC);
}

int store_start(struct store *store, struct handover *handover) {
        struct restored restored = { 0 };
        int r;

        r = restore(store->daemon, handover, &restored);
        if (r < 0)
                return r;
        r = find_manager(store, handover->states.count > 0 && !store->daemon->options->replace);
        if (r < 0)
                log_error("cannot keep segments over the daemon's end: %s", strerror(-r));
        if (r == 0 && !store->active)
                carriers_clear(&store->carriers); /* of a daemon that was replaced */
        if (r < 0 || !store->active)
                return r;
        r = begin_log(store, &restored);
        if (r == 0)
                r = hand_log_over(store, handover);
        if (r < 0) {
                log_error("cannot hand the state log over to the service manager: %s", strerror(-r));
                return r;
        }
        carriers_tidy(&store->carriers);
        return 0;
}

/* --- for a daemon that takes this one's place --- */

static int export_log(struct store *store) {
        struct daemon *daemon = store->daemon;
        struct state_header *header;
        struct segment *segment;
        uint64_t id = 0;
        int r;

        r = state_writer_begin(&store->writer, 1, (size_t) (daemon->registry.segments + 1) * state_record_max());
        if (r < 0)
                return r;
        header = state_writer_header(&store->writer);
        header->next_id = daemon->registry.next_id;
        header->started_usec = daemon->started_usec;
        while ((segment = registry_next_id(&daemon->registry, id))) {
                (void) state_append(&store->writer.file.log, segment);
                id = segment->id;
        }
        state_writer_complete(&store->writer);
        return 0;
}

int store_export(struct store *store, int *fds, struct kept_name *names, unsigned maximum) {
        int r;

        if (store->active)
                return -EBUSY;
        r = export_log(store);
        if (r < 0)
                return r;
        fds[0] = fcntl(store->writer.file.fd, F_DUPFD_CLOEXEC, 3);
        names[0] = kept_name("state", 1);
        r = fds[0] < 0 ? negative_errno() : carriers_export(&store->carriers, fds + 1, names + 1, maximum - 1);
        return r < 0 ? r : r + 1;
}

void store_export_abort(struct store *store) {
        carriers_clear(&store->carriers);
        state_writer_abort(&store->writer);
}

/* --- the end --- */

void store_purge(struct store *store) {
        if (!store->active)
                return;
        store->active = false;
        store->purged = true;
        manager_abandon(&store->manager);
        carriers_unkeep(&store->carriers);
        state_writer_unkeep(&store->writer);
        (void) handover_unkeep("generation");
        (void) handover_wait(MANAGER_TIMEOUT_USEC);
}

bool store_is_quiet(struct store *store) {
        uint64_t since_usec;

        return store_failure(store, &since_usec) == WIRE_STORE_FAILURE_NONE && !state_writer_is_compacting(&store->writer) &&
               !carriers_are_to_rebuild(&store->carriers) &&
               manager_is_idle(&store->manager);
}

/* Their times stay as they are. */
static void let_go_of_times(struct registry *registry) {
        struct segment *segment;
        uint64_t id = 0;

        while ((segment = registry_next_id(registry, id))) {
                segment->kept_times = NULL;
                id = segment->id;
        }
}

void store_done(struct store *store) {
        if (!store->daemon)
                return;
        if (!store->purged)
                manager_abandon(&store->manager);
        let_go_of_times(&store->daemon->registry);
        carriers_done(&store->carriers);
        state_writer_done(&store->writer);
        store->active = false;
}

/* --- for status --- */

uint64_t store_serving_since(const struct store *store) {
        return store->active ? state_writer_header(&store->writer)->started_usec : store->daemon->started_usec;
}

uint64_t store_restarts(const struct store *store) {
        return store->active ? state_writer_header(&store->writer)->restarts : 0;
}

unsigned store_carriers(const struct store *store) {
        return carriers_count(&store->carriers);
}
