/* SPDX-License-Identifier: MIT */
#include "registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

static int hold_compare(struct hold *a, struct hold *b) {
        return compare_u64(a->segment->id, b->segment->id);
}

TREE_GENERATE(id_tree, segment, by_id, segment_compare_id)
TREE_GENERATE(nameless_tree, segment, by_name, segment_compare_id)
TREE_GENERATE(name_tree, segment, by_name, segment_compare_name)
TREE_GENERATE(linger_tree, segment, by_linger, segment_compare_linger)
TREE_GENERATE(hold_tree, hold, by_segment, hold_compare)

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

static void keep_times(struct segment *segment) {
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

static void linger_stop(struct segment *segment) {
        if (segment->linger_until_usec == 0)
                return;
        RB_REMOVE(linger_tree, &segment->registry->lingering, segment);
        segment->linger_until_usec = 0;
        keep_times(segment);
}

static void linger_start(struct segment *segment, uint64_t until_usec) {
        if (segment->linger_until_usec != 0)
                return;
        segment->linger_until_usec = MAX(until_usec, 1u);
        RB_INSERT(linger_tree, &segment->registry->lingering, segment);
        keep_times(segment);
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
        linger_stop(segment);
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

/* Whether the last holder's going has a consequence. */
static bool idleness_matters(const struct segment *segment) {
        if (segment->state == WIRE_STATE_UNLINKED || segment->state == WIRE_STATE_UNPUBLISHED)
                return true;
        if (segment->creator.client && segment_heeds_creator(segment))
                return false;
        return segment->lifetime == WIRE_LIFETIME_HOLDERS || segment->lifetime == WIRE_LIFETIME_LINGER;
}

/* To be called whenever something that kept a segment has ended. */
static void consider_idle(struct segment *segment, uint64_t now_usec) {
        /* Only its creator has it, and gives it up: it will never be published. */
        if (segment->state == WIRE_STATE_UNPUBLISHED && segment->attached == 0 && !segment->restored)
                registry_unlink(segment, now_usec);
        if (segment->holders == 0 && segment->idle_usec == 0) {
                segment->idle_usec = now_usec;
                keep_times(segment);
        }
        if (segment->attached == 0 && idleness_matters(segment))
                registry_queue_idle(segment);
}

/* --- segments --- */

void segment_free(struct segment *segment) {
        if (!segment)
                return;
        charge_done(&segment->bytes);
        charge_done(&segment->count);
        charge_done(&segment->descriptor);
        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++)
                registry_refund_control(segment, i);
        free(segment->name);
        free(segment->labels);
        free(segment);
}

/* A copy with a terminating zero, which is not counted. */
static char *copy_bytes(const char *data, size_t size) {
        char *copy = malloc(size + 1);

        if (!copy)
                return NULL;
        memcpy(copy, data, size);
        copy[size] = '\0';
        return copy;
}

static int segment_new(struct registry *registry, const struct segment_plan *plan, struct segment **ret_segment) {
        struct segment *segment = calloc(1, sizeof(*segment));

        if (!segment)
                return -ENOMEM;
        segment->registry = registry;
        segment->custody = (struct custody) CUSTODY_INIT;
        segment->size = plan->size;
        segment->maximum = plan->maximum;
        segment->linger_usec = plan->linger_usec;
        segment->lifetime = plan->lifetime;
        segment->backing = plan->backing;
        segment->page_shift = plan->page_shift;
        segment->token = plan->token;
        segment->posix = plan->posix;
        segment->kept = plan->kept;
        segment->resizable = plan->resizable;
        segment->single_writer = plan->single_writer;
        segment->state = WIRE_STATE_UNPUBLISHED;
        segment->name_size = (uint16_t) plan->name_size;
        segment->labels_size = (uint16_t) plan->labels_size;
        segment->name = copy_bytes(plan->name, plan->name_size);
        if (plan->labels_size > 0)
                segment->labels = copy_bytes(plan->labels, plan->labels_size);
        TAILQ_INIT(&segment->holds);

        if (!segment->name || (plan->labels_size > 0 && !segment->labels)) {
                segment_free(segment);
                return -ENOMEM;
        }
        *ret_segment = segment;
        return 0;
}

/* A file can be made larger than anybody can map; no sum of such sizes may overflow. Bytes. */
static uint64_t chargeable(uint64_t size) {
        return MIN(size, UINT64_C(1) << 47);
}

/* A file comes with two, one for each access: nobody could open it again through the other. */
static uint64_t descriptors_of(const struct segment *segment) {
        return segment->backing == WIRE_BACKING_FILE ? 2 : 1;
}

static int segment_charge(struct segment *segment, uid_t uid, struct shmd_wire_refusal *refusal) {
        struct quota *quota = segment->registry->quota;
        int r;

        r = quota_charge(quota, uid, QUOTA_SEGMENTS, 1, &segment->count, refusal);
        if (r != 0)
                return r;
        r = quota_charge(quota, uid, QUOTA_DESCRIPTORS, descriptors_of(segment), &segment->descriptor, refusal);
        if (r != 0)
                return r;
        return quota_charge(quota, uid, QUOTA_BYTES, chargeable(segment->maximum), &segment->bytes, refusal);
}

int registry_charge_control(struct segment *segment, enum shmd_wire_control_part part, uint64_t bytes,
                            struct shmd_wire_refusal *refusal) {
        struct quota *quota = segment->registry->quota;
        uid_t uid = segment->owner.uid;
        int r;

        if (segment->control[part].account)
                return 0;
        r = quota_charge(quota, uid, QUOTA_BYTES, bytes, &segment->control[part], refusal);
        if (r == 0)
                r = quota_charge(quota, uid, QUOTA_DESCRIPTORS, 1, &segment->control_descriptor[part], refusal);
        if (r != 0)
                registry_refund_control(segment, part);
        return r;
}

void registry_refund_control(struct segment *segment, enum shmd_wire_control_part part) {
        charge_done(&segment->control[part]);
        charge_done(&segment->control_descriptor[part]);
}

/* All that the segment's owner is charged with for it. Gives how many. */
static size_t charges_of(struct segment *segment, struct charge *(*ret_charges)[7]) {
        struct charge *all[] = {
                &segment->count,      &segment->descriptor, &segment->bytes,                 &segment->control[0],
                &segment->control[1], &segment->control_descriptor[0], &segment->control_descriptor[1],
        };
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                if (all[i]->account)
                        (*ret_charges)[n++] = all[i];
        return n;
}

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
        linger_stop(segment);
        record(segment);
        consider_idle(segment, now_usec);
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
        consider_idle(segment, now_usec);
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
        copy = copy_bytes(name, size);
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
        linger_stop(segment);
        segment->lifetime = lifetime;
        segment->linger_usec = linger_usec;
        record(segment);
        consider_idle(segment, now_usec);
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
        struct charge *charges[7];
        size_t count = charges_of(segment, &charges);
        uid_t before = segment->owner.uid;

        for (size_t i = 0; i < count; i++) {
                int r = charge_move(charges[i], owner->uid, refusal);

                if (r == 0)
                        continue;
                /* They came from there, whatever the limit is now. */
                while (i-- > 0)
                        charge_force(charges[i], before, charges[i]->amount);
                return r;
        }
        segment->owner = *owner;
        record(segment);
        return 0;
}

void registry_refresh(struct segment *segment, const struct ownership *owner, uint64_t size) {
        if (owner->uid != segment->owner.uid) {
                struct charge *charges[7];
                size_t count = charges_of(segment, &charges);

                /* If there is no memory for the new owner's account, all stay where they are. */
                charge_force(&segment->count, owner->uid, 1);
                for (size_t i = 0; i < count; i++)
                        charge_force(charges[i], segment->count.account->uid, charges[i]->amount);
        }
        if (segment->posix && size != segment->size) {
                segment->registry->bytes -= segment->bytes.amount;
                charge_force(&segment->bytes, segment->bytes.account->uid, chargeable(size));
                segment->registry->bytes += segment->bytes.amount;
                segment->size = segment->maximum = size;
        }
        segment->owner = *owner;
        segment->owner.uid = segment->bytes.account->uid;
}

/* --- holds --- */

static void hold_free(struct hold *hold) {
        struct segment *segment = hold->segment;

        RB_REMOVE(hold_tree, &hold->client->holds, hold);
        TAILQ_REMOVE(&segment->holds, hold, by_age);
        segment->holders--;
        segment->registry->holds--;
        charge_done(&hold->charge);
        free(hold);
}

static bool hold_is_attached(const struct hold *hold) {
        return hold->attached[0] > 0 || hold->attached[1] > 0;
}

static bool hold_is_empty(const struct hold *hold) {
        return !hold_is_attached(hold) && hold->detached[0] == 0 && hold->detached[1] == 0;
}

static struct hold *hold_find(struct client *client, struct segment *segment) {
        struct hold key = { .segment = segment };

        return RB_FIND(hold_tree, &client->holds, &key);
}

bool client_holds(struct client *client, struct segment *segment, enum shmd_access access) {
        const struct hold *hold = hold_find(client, segment);

        if (!hold)
                return false;
        if (hold->attached[SHMD_ACCESS_WRITE] > 0 || hold->detached[SHMD_ACCESS_WRITE] > 0)
                return true;
        return access == SHMD_ACCESS_READ && !hold_is_empty(hold);
}

static int hold_new(struct client *client, struct segment *segment, struct hold **ret_hold, struct shmd_wire_refusal *refusal) {
        struct hold *hold = calloc(1, sizeof(*hold));
        int r;

        if (!hold)
                return -ENOMEM;
        hold->segment = segment;
        hold->client = client;
        r = quota_charge(client->registry->quota, client->credentials->uid, QUOTA_HOLDS, 1, &hold->charge, refusal);
        if (r != 0) {
                free(hold);
                return r;
        }
        RB_INSERT(hold_tree, &client->holds, hold);
        *ret_hold = hold;
        return 0;
}

int hold_reserve(struct client *client, struct segment *segment, struct hold **ret_hold, struct shmd_wire_refusal *refusal) {
        struct hold *hold = hold_find(client, segment);

        if (!hold) {
                int r = hold_new(client, segment, &hold, refusal);

                if (r != 0)
                        return r;
        }
        hold->reserved++;
        *ret_hold = hold;
        return 0;
}

/* The first open that a hold counts makes it visible. */
static void hold_show(struct hold *hold, uint64_t now_usec) {
        struct segment *segment = hold->segment;
        struct registry *registry = segment->registry;

        hold->key = registry->next_key++;
        hold->since_usec = now_usec;
        TAILQ_INSERT_TAIL(&segment->holds, hold, by_age);
        segment->holders++;
        registry->holds++;
}

void hold_commit(struct hold *hold, enum shmd_access access, bool detached, uint64_t now_usec) {
        struct segment *segment = hold->segment;

        hold->reserved--;
        if (hold_is_empty(hold))
                hold_show(hold, now_usec);
        if (detached)
                hold->detached[access]++;
        else {
                if (!hold_is_attached(hold))
                        segment->attached++;
                hold->attached[access]++;
        }
        segment->handed_out = true;
        /* Another process that has it, its creator's child for one, may come back first, and go again: it is still its creator's. */
        if (segment->state != WIRE_STATE_UNPUBLISHED || hold->client == segment->creator.client)
                segment->restored = false;
        segment->opens++;
        segment->idle_usec = 0;
        segment->opened_usec = now_usec;
        linger_stop(segment);
        keep_times(segment);
        /* A detached open is the kernel's to account for from its first moment. */
        consider_idle(segment, now_usec);
}

void hold_abort(struct hold *hold) {
        if (!hold)
                return;
        hold->reserved--;
        if (hold->reserved > 0 || !hold_is_empty(hold))
                return;
        RB_REMOVE(hold_tree, &hold->client->holds, hold);
        charge_done(&hold->charge);
        free(hold);
}

static void hold_end(struct hold *hold, uint64_t now_usec) {
        struct segment *segment = hold->segment;

        if (hold_is_attached(hold))
                segment->attached--;
        hold_free(hold);
        consider_idle(segment, now_usec);
}

int hold_release(struct client *client, uint64_t id, enum shmd_access access, uint64_t now_usec) {
        struct segment *segment = registry_find_id(client->registry, id);
        struct hold *hold = segment ? hold_find(client, segment) : NULL;

        if (!hold || hold->attached[access] == 0)
                return SHMD_NOT_HELD;

        hold->attached[access]--;
        if (hold_is_attached(hold))
                return 0;
        segment->attached--;
        if (hold_is_empty(hold))
                hold_free(hold);
        consider_idle(segment, now_usec);
        return 0;
}

/* Ends what only the kernel accounted for. */
static void forget_detached(struct segment *segment) {
        struct hold *hold, *next;

        for (hold = TAILQ_FIRST(&segment->holds); hold; hold = next) {
                next = TAILQ_NEXT(hold, by_age);
                hold->detached[0] = hold->detached[1] = 0;
                if (hold_is_empty(hold))
                        hold_free(hold);
        }
}

enum settled registry_settle(struct segment *segment, uint64_t monotonic_usec, uint64_t now_usec) {
        if (segment->attached > 0)
                return SETTLED_KEEP; /* opened again meanwhile */

        forget_detached(segment);
        segment->handed_out = false;
        if (segment->idle_usec == 0)
                segment->idle_usec = now_usec;
        keep_times(segment);

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

static int charge_facts(struct segment *segment, uid_t uid) {
        struct quota *quota = segment->registry->quota;

        if (quota_charge_fact(quota, uid, QUOTA_SEGMENTS, 1, &segment->count) < 0 ||
            quota_charge_fact(quota, uid, QUOTA_DESCRIPTORS, descriptors_of(segment), &segment->descriptor) < 0 ||
            quota_charge_fact(quota, uid, QUOTA_BYTES, chargeable(segment->maximum), &segment->bytes) < 0)
                return -ENOMEM;
        return 0;
}

int registry_force_control(struct segment *segment, enum shmd_wire_control_part part, uint64_t bytes) {
        struct quota *quota = segment->registry->quota;
        uid_t uid = segment->owner.uid;

        if (quota_charge_fact(quota, uid, QUOTA_BYTES, bytes, &segment->control[part]) < 0 ||
            quota_charge_fact(quota, uid, QUOTA_DESCRIPTORS, 1, &segment->control_descriptor[part]) < 0) {
                registry_refund_control(segment, part);
                return -ENOMEM;
        }
        return 0;
}

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
        r = charge_facts(segment, state->owner.uid);
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
        segment->idle_usec = state->times.idle_usec ? state->times.idle_usec : now_usec;
        segment->state = (uint8_t) state->state;
        segment->frozen = state->frozen;
        segment->had_name = state->had_name || segment_has_name(segment);
        segment->truncated = state->truncated;
        segment->sysv = state->sysv;
        segment->handed_out = segment->restored = true;
        insert_restored(segment);
        if (state->times.linger_until_usec != 0 && segment_has_name(segment))
                linger_start(segment, state->times.linger_until_usec);
        consider_idle(segment, now_usec);
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
        struct hold *hold;

        while ((hold = TAILQ_FIRST(&segment->holds))) {
                if (hold_is_attached(hold))
                        segment->attached--;
                hold_free(hold);
        }
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
                        consider_idle(segment, now_usec);
        }
        return RB_EMPTY(&client->holds) && TAILQ_EMPTY(&client->created);
}

/* --- invariants --- */

static void require(bool condition) {
        if (!condition)
                abort();
}

static void check_segment(struct segment *segment) {
        struct segment *named = registry_find_name(segment->registry, segment->name, segment->name_size);
        uint32_t holders = 0, attached = 0;
        uint64_t key = 0;
        struct hold *hold;

        TAILQ_FOREACH(hold, &segment->holds, by_age) {
                require(hold->segment == segment && hold->key > key && !hold_is_empty(hold));
                require(hold_find(hold->client, segment) == hold && hold->charge.amount == 1);
                key = hold->key;
                holders++;
                attached += hold_is_attached(hold);
        }
        require(holders == segment->holders && attached == segment->attached);
        require((named == segment) == segment_has_name(segment));
        require(segment_has_name(segment) || RB_FIND(nameless_tree, &segment->registry->nameless, segment) == segment);
        require(segment->state != WIRE_STATE_UNPUBLISHED || segment->restored ||
                (segment->creator.client && segment->attached > 0));
        require(!segment->restored || segment->holders == 0 || segment->state == WIRE_STATE_UNPUBLISHED);
        require(segment->size <= segment->maximum);
        require(segment->bytes.amount == chargeable(segment->maximum) && segment->bytes.account->uid == segment->owner.uid);
        require(segment->count.amount == 1 && segment->count.account->uid == segment->owner.uid);
        require(segment->descriptor.amount == descriptors_of(segment));
        require(segment->descriptor.account->uid == segment->owner.uid);
        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++) {
                const struct account *account = segment->control[i].account;

                require(account == segment->control_descriptor[i].account);
                require(!account || account->uid == segment->owner.uid);
        }
        require(segment->holders == 0 || segment->handed_out);
        require((segment->idle_usec == 0) == (segment->holders > 0) || !segment->handed_out);
        /* Nothing is lost from sight: what has to go is queued, watched or waited for. */
        require(segment->attached > 0 || !idleness_matters(segment) || segment->idle_queued ||
                segment->linger_until_usec != 0 || segment->custody.watch >= 0);
}

void registry_check(struct registry *registry) {
        uint64_t segments = 0, nameless = 0, bytes = 0, holds = 0;
        struct segment *segment;

        RB_FOREACH(segment, id_tree, &registry->ids) {
                require(segment->id < registry->next_id);
                check_segment(segment);
                segments++;
                nameless += !segment_has_name(segment);
                bytes += segment->bytes.amount;
                holds += segment->holders;
        }
        require(segments == registry->segments && nameless == registry->nameless_count);
        require(bytes == registry->bytes && holds == registry->holds);
}
