/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_internal.h"
#include "status.h"
#include "util.h"

/* A copy with a terminating zero, which is not counted. */
char *segment_copy_bytes(const char *data, size_t size) {
        char *copy = malloc(size + 1);

        if (!copy)
                return NULL;
        memcpy(copy, data, size);
        copy[size] = '\0';
        return copy;
}

int segment_new(struct registry *registry, const struct segment_plan *plan, struct segment **ret_segment) {
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
        segment->name = segment_copy_bytes(plan->name, plan->name_size);
        if (plan->labels_size > 0)
                segment->labels = segment_copy_bytes(plan->labels, plan->labels_size);
        TAILQ_INIT(&segment->holds);

        if (!segment->name || (plan->labels_size > 0 && !segment->labels)) {
                segment_free(segment);
                return -ENOMEM;
        }
        *ret_segment = segment;
        return 0;
}

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

/* --- what its owner pays for it --- */

/* A file can be made larger than anybody can map; no sum of such sizes may overflow. Bytes. */
uint64_t segment_chargeable(uint64_t size) {
        return MIN(size, UINT64_C(1) << 47);
}

/* A file comes with two, one for each access: nobody could open it again through the other. */
uint64_t segment_descriptors(const struct segment *segment) {
        return segment->backing == WIRE_BACKING_FILE ? 2 : 1;
}

int segment_charge(struct segment *segment, uid_t uid, struct shmd_wire_refusal *refusal) {
        struct quota *quota = segment->registry->quota;
        int r;

        r = quota_charge(quota, uid, QUOTA_SEGMENTS, 1, &segment->count, refusal);
        if (r != 0)
                return r;
        r = quota_charge(quota, uid, QUOTA_DESCRIPTORS, segment_descriptors(segment), &segment->descriptor, refusal);
        if (r != 0)
                return r;
        return quota_charge(quota, uid, QUOTA_BYTES, segment_chargeable(segment->maximum), &segment->bytes, refusal);
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

int segment_move_charges(struct segment *segment, uid_t uid, struct shmd_wire_refusal *refusal) {
        struct charge *charges[7];
        size_t count = charges_of(segment, &charges);
        uid_t before = segment->owner.uid;

        for (size_t i = 0; i < count; i++) {
                int r = charge_move(charges[i], uid, refusal);

                if (r == 0)
                        continue;
                /* They came from there, whatever the limit is now. */
                while (i-- > 0)
                        charge_force(charges[i], before, charges[i]->amount);
                return r;
        }
        return 0;
}

void segment_force_charges(struct segment *segment, uid_t uid) {
        struct charge *charges[7];
        size_t count = charges_of(segment, &charges);

        /* If there is no memory for the new owner's account, all stay where they are. */
        charge_force(&segment->count, uid, 1);
        for (size_t i = 0; i < count; i++)
                charge_force(charges[i], segment->count.account->uid, charges[i]->amount);
}

void segment_force_bytes(struct segment *segment, uint64_t size) {
        charge_force(&segment->bytes, segment->bytes.account->uid, segment_chargeable(size));
}

int segment_charge_facts(struct segment *segment, uid_t uid) {
        struct quota *quota = segment->registry->quota;

        if (quota_charge_fact(quota, uid, QUOTA_SEGMENTS, 1, &segment->count) < 0 ||
            quota_charge_fact(quota, uid, QUOTA_DESCRIPTORS, segment_descriptors(segment), &segment->descriptor) < 0 ||
            quota_charge_fact(quota, uid, QUOTA_BYTES, segment_chargeable(segment->maximum), &segment->bytes) < 0)
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
