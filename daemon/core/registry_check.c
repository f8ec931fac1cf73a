/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "registry_internal.h"
#include "util.h"

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
        require(segment_has_name(segment) || registry_next_nameless(segment->registry, segment->id - 1) == segment);
        require(segment->state != WIRE_STATE_UNPUBLISHED || segment->restored ||
                (segment->creator.client && segment->attached > 0));
        require(!segment->restored || segment->holders == 0 || segment->state == WIRE_STATE_UNPUBLISHED);
        require(segment->size <= segment->maximum);
        require(segment->bytes.amount == segment_chargeable(segment->maximum) && segment->bytes.account->uid == segment->owner.uid);
        require(segment->count.amount == 1 && segment->count.account->uid == segment->owner.uid);
        require(segment->descriptor.amount == segment_descriptors(segment));
        require(segment->descriptor.account->uid == segment->owner.uid);
        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++) {
                const struct account *account = segment->control[i].account;

                require(account == segment->control_descriptor[i].account);
                require(!account || account->uid == segment->owner.uid);
        }
        require(segment->holders == 0 || segment->handed_out);
        require((segment->idle_usec == 0) == (segment->holders > 0) || !segment->handed_out);
        /* Nothing is lost from sight: what has to go is queued, watched or waited for. */
        require(segment->attached > 0 || !segment_idleness_matters(segment) || segment->idle_queued ||
                segment->linger_until_usec != 0 || segment->custody.watch >= 0);
}

void registry_check(struct registry *registry) {
        uint64_t segments = 0, nameless = 0, bytes = 0, holds = 0;
        struct segment *segment;
        uint64_t id = 0;

        while ((segment = registry_next_id(registry, id))) {
                id = segment->id;
                require(id < registry->next_id);
                check_segment(segment);
                segments++;
                nameless += !segment_has_name(segment);
                bytes += segment->bytes.amount;
                holds += segment->holders;
        }
        require(segments == registry->segments && nameless == registry->nameless_count);
        require(bytes == registry->bytes && holds == registry->holds);
}
