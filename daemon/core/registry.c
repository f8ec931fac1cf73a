/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_internal.h"
#include "state.h"
#include "status.h"
#include "util.h"

static int compare_u64(uint64_t a, uint64_t b) {
        return (a > b) - (a < b);
}

static int compare_names(const char *a, size_t a_size, const char *b, size_t b_size) {
        int r = memcmp(a, b, MIN(a_size, b_size));

        return r != 0 ? r : (a_size > b_size) - (a_size < b_size);
}

static int segment_compare_id(struct segment *a, struct segment *b) {
        return compare_u64(a->id, b->id);
}

static int segment_compare_name(struct segment *a, struct segment *b) {
        return compare_names(a->name, a->name_size, b->name, b->name_size);
}

static int segment_compare_linger(struct segment *a, struct segment *b) {
        int r = compare_u64(a->linger_until_usec, b->linger_until_usec);

        return r != 0 ? r : compare_u64(a->id, b->id);
}

TREE_GENERATE(id_tree, segment, by_id, segment_compare_id)
TREE_GENERATE(nameless_tree, segment, by_name, segment_compare_id)
TREE_GENERATE(name_tree, segment, by_name, segment_compare_name)
TREE_GENERATE(linger_tree, segment, by_linger, segment_compare_linger)

void registry_init(struct registry *registry, struct quota *quota, uint64_t first_id) {
        *registry = (struct registry) { .quota = quota, .next_id = first_id, .next_key = 1 };
        RB_INIT(&registry->ids);
        RB_INIT(&registry->names);
        RB_INIT(&registry->nameless);
        RB_INIT(&registry->lingering);
        TAILQ_INIT(&registry->idle);
}

void registry_done(struct registry *registry) {
        struct segment *segment;

        while ((segment = RB_MIN(id_tree, &registry->ids))) {
                registry_remove(segment);
                segment_free(segment);
        }
}

/* --- finding --- */

struct segment *registry_find_id(struct registry *registry, uint64_t id) {
        struct segment key = { .id = id };

        return RB_FIND(id_tree, &registry->ids, &key);
}

struct segment *registry_find_name(struct registry *registry, const char *name, size_t size) {
        struct segment key = { .name = (char *) name, .name_size = (uint16_t) size };

        return RB_FIND(name_tree, &registry->names, &key);
}

static bool name_begins_with(const struct segment *segment, const char *prefix, size_t size) {
        return segment->name_size >= size && memcmp(segment->name, prefix, size) == 0;
}

struct segment *registry_next_name(struct registry *registry, const char *prefix, size_t prefix_size, const char *after,
                                   size_t after_size) {
        struct segment key = { .name = (char *) prefix, .name_size = (uint16_t) prefix_size };
        struct segment *segment;
        bool behind_prefix = compare_names(after, after_size, prefix, prefix_size) >= 0 && after_size > 0;

        if (behind_prefix)
                key = (struct segment) { .name = (char *) after, .name_size = (uint16_t) after_size };
        segment = RB_NFIND(name_tree, &registry->names, &key);
        if (segment && behind_prefix && segment_compare_name(segment, &key) == 0)
                segment = RB_NEXT(name_tree, &registry->names, segment);
        return segment && name_begins_with(segment, prefix, prefix_size) ? segment : NULL;
}

struct segment *registry_next_nameless(struct registry *registry, uint64_t after_id) {
        struct segment key = { .id = after_id + 1 };

        return after_id == UINT64_MAX ? NULL : RB_NFIND(nameless_tree, &registry->nameless, &key);
}

static void observe(struct segment *segment, int event) {
        if (segment->registry->observer)
                segment->registry->observer(segment, event, NULL, 0, segment->registry->observer_userdata);
}

static void record(struct segment *segment) {
        if (segment->registry->recorder)
                segment->registry->recorder(segment, segment->registry->observer_userdata);
}

struct segment_times segment_times(const struct segment *segment) {
        return (struct segment_times) {
                .opened_usec = segment->opened_usec,
                .idle_usec = segment->idle_usec,
                .linger_until_usec = segment->linger_until_usec,
        };
}

void segment_keep_times(struct segment *segment) {
        if (segment->kept_times)
                *segment->kept_times = segment_times(segment);
}

/* --- the queue of the idle, and of the lingering --- */

void registry_queue_idle(struct segment *segment) {
        if (segment->idle_queued)
                return;
        segment->idle_queued = true;
        TAILQ_INSERT_TAIL(&segment->registry->idle, segment, idle_entry);
}

static void unqueue_idle(struct segment *segment) {
        if (!segment->idle_queued)
                return;
        segment->idle_queued = false;
        TAILQ_REMOVE(&segment->registry->idle, segment, idle_entry);
}

struct segment *registry_take_idle(struct registry *registry) {
        struct segment *segment = TAILQ_FIRST(&registry->idle);

        if (segment)
                unqueue_idle(segment);
        return segment;
}

void segment_linger_stop(struct segment *segment) {
        if (segment->linger_until_usec == 0)
                return;
        RB_REMOVE(linger_tree, &segment->registry->lingering, segment);
        segment->linger_until_usec = 0;
        segment_keep_times(segment);
}

static void linger_start(struct segment *segment, uint64_t until_usec) {
        if (segment->linger_until_usec != 0)
                return;
        segment->linger_until_usec = MAX(until_usec, 1u);
        RB_INSERT(linger_tree, &segment->registry->lingering, segment);
        segment_keep_times(segment);
}

struct segment *registry_next_linger(struct registry *registry) {
        return RB_MIN(linger_tree, &registry->lingering);
}

/* Nobody asked for it. */
static void expire(struct segment *segment, uint64_t now_usec) {
        segment->expired = segment->state != WIRE_STATE_UNLINKED;
        registry_unlink(segment, now_usec);
}

void registry_linger_over(struct segment *segment, uint64_t now_usec) {
        segment_linger_stop(segment);
        expire(segment, now_usec);
}

/* A client's time to linger may be for ever. */
static uint64_t add_saturating(uint64_t a, uint64_t b) {
        return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

bool segment_heeds_creator(const struct segment *segment) {
        switch (segment->lifetime) {
        case WIRE_LIFETIME_CREATOR:
                return true;
        case WIRE_LIFETIME_HOLDERS:
        case WIRE_LIFETIME_LINGER:
                return segment->kept;
        default:
                return false;
        }
}

bool segment_idleness_matters(const struct segment *segment) {
        if (segment->state == WIRE_STATE_UNLINKED || segment->state == WIRE_STATE_UNPUBLISHED)
                return true;
        if (segment->control_lost != 0)
                return true;
        if (segment->creator.client && segment_heeds_creator(segment))
                return false;
        return segment->lifetime == WIRE_LIFETIME_HOLDERS || segment->lifetime == WIRE_LIFETIME_LINGER;
}

void segment_consider_idle(struct segment *segment, uint64_t now_usec) {
        /* Only its creator has it, and gives it up: it will never be published. */
        if (segment->state == WIRE_STATE_UNPUBLISHED && segment->attached == 0 && !segment->restored)
                registry_unlink(segment, now_usec);
        if (segment->holders == 0 && segment->idle_usec == 0) {
                segment->idle_usec = now_usec;
                segment_keep_times(segment);
        }
        if (segment->attached == 0 && segment_idleness_matters(segment))
                registry_queue_idle(segment);
}

/* --- segments --- */

int registry_reserve(struct registry *registry, struct client *client, const struct segment_plan *plan, uint64_t now_usec,
                     struct segment **ret_segment, struct shmd_wire_refusal *refusal) {
        const struct credentials *credentials = client->credentials;
        struct segment *segment;
        int r;

        if (!plan->unpublished && registry_find_name(registry, plan->name, plan->name_size))
                return SHMD_EXISTS;
        r = segment_new(registry, plan, &segment);
        if (r != 0)
                return r;
        r = segment_charge(segment, credentials->uid, refusal);
        if (r != 0) {
                segment_free(segment);
                return r;
        }

        segment->id = registry->next_id++;
        segment->owner = (struct ownership) { credentials->uid, credentials->gid, plan->mode };
        segment->creator = (struct creator) { .client = client, .token = client->token, .pid = credentials->pid, .uid = credentials->uid };
        segment->created_usec = segment->opened_usec = now_usec;
        segment->state = plan->unpublished ? WIRE_STATE_UNPUBLISHED : WIRE_STATE_PUBLISHED;
        *ret_segment = segment;
        return 0;
}

static void insert_nameless(struct segment *segment) {
        RB_INSERT(nameless_tree, &segment->registry->nameless, segment);
        segment->registry->nameless_count++;
}

static void remove_nameless(struct segment *segment) {
        RB_REMOVE(nameless_tree, &segment->registry->nameless, segment);
        segment->registry->nameless_count--;
}

void registry_commit(struct segment *segment) {
        struct registry *registry = segment->registry;

        RB_INSERT(id_tree, &registry->ids, segment);
        TAILQ_INSERT_TAIL(&segment->creator.client->created, segment, by_creator);
        registry->segments++;
        registry->bytes += segment->bytes.amount;
        segment->had_name = segment_has_name(segment);
        if (segment->had_name)
                RB_INSERT(name_tree, &registry->names, segment);
        else
                insert_nameless(segment);
        observe(segment, WIRE_EVENT_CREATED);
        if (segment_has_name(segment))
                observe(segment, WIRE_EVENT_PUBLISHED);
}

void registry_abort(struct segment *segment) {
        segment_free(segment);
}

void registry_unlink(struct segment *segment, uint64_t now_usec) {
        bool had_name = segment_has_name(segment);

        if (segment->state == WIRE_STATE_UNLINKED)
                return;
        if (had_name) {
                RB_REMOVE(name_tree, &segment->registry->names, segment);
                insert_nameless(segment);
        }
        segment->state = WIRE_STATE_UNLINKED;
        segment_linger_stop(segment);
        record(segment);
        segment_consider_idle(segment, now_usec);
        if (had_name)
                observe(segment, WIRE_EVENT_UNLINKED);
}

/* Whether a name comes again among those before it. Quadratic, but of what fits one message. */
static bool name_comes_twice(struct segment *const *segments, size_t index) {
        for (size_t i = 0; i < index; i++)
                if (segments[i]->name_size == segments[index]->name_size &&
                    memcmp(segments[i]->name, segments[index]->name, segments[index]->name_size) == 0)
                        return true;
        return false;
}

static int may_publish_one(struct client *client, struct segment *segment, bool replace) {
        struct segment *taken;

        if (!segment || segment->state != WIRE_STATE_UNPUBLISHED || segment->creator.client != client)
                return SHMD_NOT_FOUND;
        taken = registry_find_name(client->registry, segment->name, segment->name_size);
        if (!taken)
                return 0;
        return replace ? policy_manage(client->credentials, &taken->owner) : SHMD_EXISTS;
}

int registry_may_publish(struct client *client, const uint64_t *ids, size_t count, bool replace, struct shmd_wire_refusal *refusal) {
        struct segment *segments[SHMD_DESCRIPTORS_MAX];

        for (size_t i = 0; i < count; i++) {
                int r;

                segments[i] = registry_find_id(client->registry, ids[i]);
                r = may_publish_one(client, segments[i], replace);
                if (r == 0 && name_comes_twice(segments, i))
                        r = SHMD_INVALID;
                if (r != 0) {
                        refusal->item = (uint32_t) i;
                        return r;
                }
        }
        return 0;
}

void registry_publish(struct segment *segment, uint64_t now_usec) {
        struct segment *taken = registry_find_name(segment->registry, segment->name, segment->name_size);

        if (taken)
                registry_unlink(taken, now_usec);
        remove_nameless(segment);
        segment->state = segment->frozen ? WIRE_STATE_FROZEN : WIRE_STATE_PUBLISHED;
        segment->had_name = true;
        RB_INSERT(name_tree, &segment->registry->names, segment);
        record(segment);
        segment_consider_idle(segment, now_usec);
        observe(segment, WIRE_EVENT_PUBLISHED);
}

int registry_rename(struct segment *segment, const char *name, size_t size) {
        struct registry *registry = segment->registry;
        struct segment *other = registry_find_name(registry, name, size);
        char *copy, *old_name;
        size_t old_size;

        if (!segment_has_name(segment))
                return SHMD_NOT_FOUND;
        if (other == segment)
                return 0;
        if (other)
                return SHMD_EXISTS;
        copy = segment_copy_bytes(name, size);
        if (!copy)
                return -ENOMEM;

        RB_REMOVE(name_tree, &registry->names, segment);
        old_name = segment->name;
        old_size = segment->name_size;
        segment->name = copy;
        segment->name_size = (uint16_t) size;
        RB_INSERT(name_tree, &registry->names, segment);
        record(segment);
        if (registry->observer)
                registry->observer(segment, WIRE_EVENT_RENAMED, old_name, old_size, registry->observer_userdata);
        free(old_name);
        return 0;
}

int registry_set_lifetime(struct segment *segment, enum wire_lifetime lifetime, uint64_t linger_usec, uint64_t now_usec) {
        if (lifetime == WIRE_LIFETIME_CREATOR && !segment->creator.client)
                return SHMD_CREATOR_GONE;
        segment_linger_stop(segment);
        segment->lifetime = lifetime;
        segment->linger_usec = linger_usec;
        record(segment);
        segment_consider_idle(segment, now_usec);
        return 0;
}

void registry_set_size(struct segment *segment, uint64_t size) {
        segment->size = size;
        record(segment);
        observe(segment, WIRE_EVENT_RESIZED);
}

void registry_set_frozen(struct segment *segment) {
        if (segment->frozen)
                return;
        segment->frozen = true;
        if (segment->state == WIRE_STATE_PUBLISHED)
                segment->state = WIRE_STATE_FROZEN;
        record(segment);
        observe(segment, WIRE_EVENT_FROZEN);
}

int registry_set_owner(struct segment *segment, const struct ownership *owner, struct shmd_wire_refusal *refusal) {
        int r = segment_move_charges(segment, owner->uid, refusal);

        if (r != 0)
                return r;
        segment->owner = *owner;
        record(segment);
        return 0;
}

void registry_refresh(struct segment *segment, const struct ownership *owner, uint64_t size) {
        if (owner->uid != segment->owner.uid)
                segment_force_charges(segment, owner->uid);
        if (segment->posix && size != segment->size) {
                segment->registry->bytes -= segment->bytes.amount;
                segment_force_bytes(segment, size);
                segment->registry->bytes += segment->bytes.amount;
                segment->size = segment->maximum = size;
        }
        segment->owner = *owner;
        segment->owner.uid = segment->bytes.account->uid;
}

enum settled registry_settle(struct segment *segment, uint64_t monotonic_usec, uint64_t now_usec) {
        if (segment->attached > 0)
                return SETTLED_KEEP; /* opened again meanwhile */

        segment_forget_detached(segment);
        segment->handed_out = false;
        segment->control_made &= (uint8_t) ~segment->control_lost;
        segment->control_lost = 0;
        if (segment->idle_usec == 0)
                segment->idle_usec = now_usec;
        segment_keep_times(segment);

        /* Unpublished, and its creator has not kept it over the daemon's end: it will never be published. */
        if (segment->state != WIRE_STATE_UNLINKED && segment->state != WIRE_STATE_UNPUBLISHED) {
                if (segment->creator.client && segment_heeds_creator(segment))
                        return SETTLED_KEEP; /* asked about again when that ends */
                if (segment->lifetime == WIRE_LIFETIME_LINGER) {
                        linger_start(segment, add_saturating(monotonic_usec, segment->linger_usec));
                        return SETTLED_LINGER;
                }
                if (segment->lifetime != WIRE_LIFETIME_HOLDERS)
                        return SETTLED_KEEP;
                segment->expired = true;
        }
        registry_remove(segment);
        observe(segment, WIRE_EVENT_FREED);
        return SETTLED_FREE;
}

/* --- those of an earlier daemon --- */

static bool is_taken(struct registry *registry, const struct state_segment *state) {
        bool named = state->state == WIRE_STATE_PUBLISHED || state->state == WIRE_STATE_FROZEN;

        return registry_find_id(registry, state->id) ||
               (named && registry_find_name(registry, state->plan.name, state->plan.name_size));
}

static void insert_restored(struct segment *segment) {
        struct registry *registry = segment->registry;

        RB_INSERT(id_tree, &registry->ids, segment);
        if (segment->creator.client)
                TAILQ_INSERT_TAIL(&segment->creator.client->created, segment, by_creator);
        registry->segments++;
        registry->bytes += segment->bytes.amount;
        registry->next_id = MAX(registry->next_id, segment->id + 1);
        if (segment_has_name(segment))
                RB_INSERT(name_tree, &registry->names, segment);
        else
                insert_nameless(segment);
}

int registry_restore(struct registry *registry, const struct state_segment *state, struct client *creator, uint64_t now_usec,
                     struct segment **ret_segment) {
        struct segment *segment;
        int r;

        if (is_taken(registry, state))
                return -EEXIST;
        r = segment_new(registry, &state->plan, &segment);
        if (r != 0)
                return r;
        r = segment_charge_facts(segment, state->owner.uid);
        if (r != 0) {
                segment_free(segment);
                return r;
        }
        segment->id = state->id;
        segment->owner = state->owner;
        segment->creator = state->creator;
        segment->creator.client = creator;
        segment->created_usec = state->created_usec;
        segment->opened_usec = state->times.opened_usec;
        segment->idle_usec = state->times.idle_usec;
        segment->state = (uint8_t) state->state;
        segment->frozen = state->frozen;
        segment->had_name = state->had_name || segment_has_name(segment);
        segment->truncated = state->truncated;
        segment->control_made = state->control_made;
        segment->sysv = state->sysv;
        segment->handed_out = segment->restored = true;
        insert_restored(segment);
        if (state->times.linger_until_usec != 0 && segment_has_name(segment))
                linger_start(segment, state->times.linger_until_usec);
        segment_consider_idle(segment, now_usec);
        *ret_segment = segment;
        return 0;
}

void client_inherit(struct client *client, struct client *former) {
        struct segment *segment;

        TAILQ_FOREACH(segment, &former->created, by_creator)
                segment->creator.client = client;
        TAILQ_CONCAT(&client->created, &former->created, by_creator);
}

struct segment *registry_next_id(struct registry *registry, uint64_t after_id) {
        struct segment key = { .id = after_id + 1 };

        return after_id == UINT64_MAX ? NULL : RB_NFIND(id_tree, &registry->ids, &key);
}

struct segment *registry_first(struct registry *registry) {
        return RB_MIN(id_tree, &registry->ids);
}

void registry_remove(struct segment *segment) {
        struct registry *registry = segment->registry;

        segment_end_holds(segment);
        registry_unlink(segment, 0);
        unqueue_idle(segment);
        RB_REMOVE(id_tree, &registry->ids, segment);
        if (segment->creator.client)
                TAILQ_REMOVE(&segment->creator.client->created, segment, by_creator);
        remove_nameless(segment);
        registry->segments--;
        registry->bytes -= segment->bytes.amount;
}

/* --- clients --- */

void client_init(struct client *client, struct registry *registry, struct credentials *credentials) {
        *client = (struct client) { .registry = registry, .credentials = credentials, .key = registry->next_key++ };
        RB_INIT(&client->holds);
        TAILQ_INIT(&client->created);
}

bool client_reap(struct client *client, unsigned budget, uint64_t now_usec) {
        struct segment *segment;
        struct hold *hold;

        for (; budget > 0 && (hold = RB_ROOT(&client->holds)); budget--)
                hold_end(hold, now_usec);
        for (; budget > 0 && (segment = TAILQ_FIRST(&client->created)); budget--) {
                TAILQ_REMOVE(&client->created, segment, by_creator);
                segment->creator.client = NULL;
                if (segment->lifetime == WIRE_LIFETIME_CREATOR || segment->state == WIRE_STATE_UNPUBLISHED)
                        expire(segment, now_usec);
                else if (segment_heeds_creator(segment) || segment->sysv.registered)
                        segment_consider_idle(segment, now_usec);
        }
        return RB_EMPTY(&client->holds) && TAILQ_EMPTY(&client->created);
}
