/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "registry_internal.h"
#include "status.h"
#include "util.h"

static int hold_compare(struct hold *a, struct hold *b) {
        return (a->segment->id > b->segment->id) - (a->segment->id < b->segment->id);
}

TREE_GENERATE(hold_tree, hold, by_segment, hold_compare)

static void hold_free(struct hold *hold) {
        struct segment *segment = hold->segment;

        RB_REMOVE(hold_tree, &hold->client->holds, hold);
        TAILQ_REMOVE(&segment->holds, hold, by_age);
        segment->holders--;
        segment->registry->holds--;
        charge_done(&hold->charge);
        free(hold);
}

bool hold_is_attached(const struct hold *hold) {
        return hold->attached[0] > 0 || hold->attached[1] > 0;
}

bool hold_is_empty(const struct hold *hold) {
        return !hold_is_attached(hold) && hold->detached[0] == 0 && hold->detached[1] == 0;
}

struct hold *hold_find(struct client *client, struct segment *segment) {
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
        segment_linger_stop(segment);
        segment_keep_times(segment);
        /* A detached open is the kernel's to account for from its first moment. */
        segment_consider_idle(segment, now_usec);
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

void hold_end(struct hold *hold, uint64_t now_usec) {
        struct segment *segment = hold->segment;

        if (hold_is_attached(hold))
                segment->attached--;
        hold_free(hold);
        segment_consider_idle(segment, now_usec);
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
        segment_consider_idle(segment, now_usec);
        return 0;
}

void registry_detach(struct segment *segment) {
        struct hold *hold;

        TAILQ_FOREACH(hold, &segment->holds, by_age) {
                if (hold_is_attached(hold))
                        segment->attached--;
                for (size_t i = 0; i < ELEMENTSOF(hold->attached); i++) {
                        hold->detached[i] += hold->attached[i];
                        hold->attached[i] = 0;
                }
        }
        registry_queue_idle(segment);
}

void segment_forget_detached(struct segment *segment) {
        struct hold *hold, *next;

        for (hold = TAILQ_FIRST(&segment->holds); hold; hold = next) {
                next = TAILQ_NEXT(hold, by_age);
                hold->detached[0] = hold->detached[1] = 0;
                if (hold_is_empty(hold))
                        hold_free(hold);
        }
}

void segment_end_holds(struct segment *segment) {
        struct hold *hold;

        while ((hold = TAILQ_FIRST(&segment->holds))) {
                if (hold_is_attached(hold))
                        segment->attached--;
                hold_free(hold);
        }
}
