/* SPDX-License-Identifier: MIT */
/*
 * A long random walk of the core beside a naive model of it: flat arrays, obvious code, every sum made anew. Each step is
 * taken by both; results are compared each time, then all that either knows, and registry_check() walks the rest.
 *
 * Clients connect, create, publish, open one or many, release, die at any point and are reaped bit by bit; descriptors and
 * mappings live on in processes that nobody knows of; limits change; memory runs out now and then. The walk plays the
 * daemon's effects side (lease_await() and ask() in daemon/lease.c, on_free() and on_linger() in daemon/daemon.c), and
 * the kernel.
 *
 * One walk is always the same, the other always new: SHMD_TEST_SEED repeats one, SHMD_TEST_STEPS says how long.
 */
#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "faults.h"
#include "registry.h"
#include "status.h"
#include "util.h"

#define STEPS_DEFAULT 50000u /* of each of the two walks */
#define FIRST_ID 1000u
#define CLIENTS 10
#define SEGMENTS 40

/* The first of them connect; the others only come to own segments, and so have an account now and then. */
#define CONNECTING_USERS 5
static const uid_t users[] = { 0, 1000, 1001, 1002, 1003, 2000, 2001, 2002, 2003 };
static struct credentials credentials[ELEMENTSOF(users)];

static const char *const prefixes[] = { "", "a", "a/", "a/b", "b", "\xc3", "zz", "x" };
static char names[24][SHMD_NAME_MAX + 1];

/* --- the model --- */

/* What a segment's owner is charged for it. */
struct model_charge {
        uid_t uid;
        uint64_t amount, pooled;
};
/* In the order of charging. */
static const enum quota_resource charged[] = { QUOTA_SEGMENTS, QUOTA_DESCRIPTORS, QUOTA_BYTES };

struct model_segment {
        struct segment *real; /* NULL: a free slot */
        uint64_t id;
        char name[SHMD_NAME_MAX + 1];
        bool unpublished, named; /* at most one of them; neither: unlinked */
        bool had_name, frozen, posix, resizable, labelled;
        struct ownership owner;
        struct model_charge charges[ELEMENTSOF(charged)];
        uint64_t size, maximum;
        enum wire_lifetime lifetime;
        uint64_t linger_usec, linger_until; /* zero: does not linger */
        uint64_t created, opened, idle_since;
        int creator; /* -1: gone */
        uid_t creator_uid;
        uint64_t queued; /* its number in the idle queue; zero: not in it */
        bool handed_out;
        bool watched;    /* by the effects side */
        unsigned users;  /* the world: descriptors and mappings there are, whoever has them */
};

struct model_hold { /* no opens and no reservations: none */
        uint64_t attached[2], detached[2], key, since;
        unsigned reserved;
};

/* What happens, and is told. */
struct happening {
        uint64_t id, size;
        int kind;
        enum wire_state state;
        uid_t uid;
        bool had_name;
        char name[SHMD_NAME_MAX + 1], old_name[SHMD_NAME_MAX + 1];
};

static struct model_segment segments[SEGMENTS];
static struct model_hold holds[CLIENTS][SEGMENTS];
static int client_user[CLIENTS]; /* -1: there is none; else an index of users */
static bool dying[CLIENTS];       /* its connection has ended, but not all that it had has */
static uint64_t client_key[CLIENTS];
static uint64_t maximum[QUOTA_COUNT], pool[QUOTA_COUNT];
static struct happening happened[128], told[128];
static unsigned n_happened, n_told;
static uint64_t next_id, next_key, next_queued;

/* --- the core --- */

static struct quota quota;
static struct registry registry;
static struct client clients[CLIENTS];
static struct charge connections[CLIENTS];

/* --- the walk --- */

static uint64_t seed, step, monotonic, now;
static uint64_t random_state;
static const char *doing;
static unsigned live_before;
static struct {
        unsigned enomem, refused, freed, lingered, linger_over, kept, detached_ended, deaths;
        unsigned published, replaced, together, never_published, not_published, lifetimes, resized, frozen;
        unsigned reserved_again, reaps, pool_refused, events;
} seen;

#define same(condition)                                                                                              \
        do {                                                                                                         \
                if (!(condition))                                                                                    \
                        ck_abort_msg("SHMD_TEST_SEED=%" PRIu64 ", step %" PRIu64 ", %s: not the same: %s", seed, step, doing, \
                                     #condition);                                                                    \
        } while (0)

/* splitmix64 */
static uint64_t random_u64(void) {
        uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

static unsigned below(unsigned n) {
        return (unsigned) (random_u64() % n);
}

static bool one_in(unsigned n) {
        return below(n) == 0;
}

/* --- the model's rules --- */

static bool is_empty(const struct model_hold *hold) {
        return hold->attached[0] + hold->attached[1] + hold->detached[0] + hold->detached[1] == 0;
}

static bool is_attached(const struct model_hold *hold) {
        return hold->attached[0] + hold->attached[1] > 0;
}

static unsigned count_holders(int s) {
        unsigned n = 0;

        for (int c = 0; c < CLIENTS; c++)
                n += !is_empty(&holds[c][s]);
        return n;
}

static unsigned count_attached(int s) {
        unsigned n = 0;

        for (int c = 0; c < CLIENTS; c++)
                n += is_attached(&holds[c][s]);
        return n;
}

static bool is_there(const struct model_hold *hold) {
        return !is_empty(hold) || hold->reserved > 0;
}

static enum wire_state model_state(int s) {
        if (segments[s].unpublished)
                return WIRE_STATE_UNPUBLISHED;
        if (segments[s].named)
                return segments[s].frozen ? WIRE_STATE_FROZEN : WIRE_STATE_PUBLISHED;
        return WIRE_STATE_UNLINKED;
}

/* What all charges of a user come to, or with pooled what those of all users count in the pool. */
static uint64_t model_sum(bool of_all, uid_t uid, enum quota_resource resource, bool pooled) {
        uint64_t sum = 0;

        for (int s = 0; s < SEGMENTS; s++)
                for (size_t i = 0; i < ELEMENTSOF(charged) && segments[s].real; i++) {
                        const struct model_charge *charge = &segments[s].charges[i];

                        if (charged[i] == resource && (of_all || charge->uid == uid))
                                sum += pooled ? charge->pooled : charge->amount;
                }
        for (int c = 0; c < CLIENTS; c++) {
                if (client_user[c] < 0 || (!of_all && users[client_user[c]] != uid))
                        continue;
                sum += resource == QUOTA_CONNECTIONS && !dying[c];
                for (int s = 0; s < SEGMENTS && resource == QUOTA_HOLDS; s++)
                        sum += is_there(&holds[c][s]);
        }
        return sum;
}

static uint64_t model_used(uid_t uid, enum quota_resource resource) {
        return model_sum(false, uid, resource, false);
}

static uint64_t model_total(enum quota_resource resource) {
        return model_sum(true, 0, resource, true);
}

static uint64_t model_maximum(uid_t uid, enum quota_resource resource) {
        uint64_t available, total = model_total(resource);

        if (uid == 0)
                return UINT64_MAX;
        if (pool[resource] == QUOTA_UNLIMITED)
                return maximum[resource];
        available = model_used(uid, resource) + (pool[resource] > total ? pool[resource] - total : 0);
        return MIN(maximum[resource], available - available / 4);
}

/* The three that have most, each once, and of those that have as much the smallest uid first. */
static void model_biggest(enum quota_resource resource, struct shmd_wire_refusal *refusal) {
        bool taken[ELEMENTSOF(users)] = { false };

        for (unsigned place = 0; place < ELEMENTSOF(refusal->biggest); place++) {
                int best = -1;

                for (unsigned u = 0; u < ELEMENTSOF(users); u++) /* which are in order */
                        if (!taken[u] && model_used(users[u], resource) > (best < 0 ? 0 : model_used(users[best], resource)))
                                best = (int) u;
                if (best < 0)
                        return;
                taken[best] = true;
                refusal->biggest[place].used = model_used(users[best], resource);
                refusal->biggest[place].uid = users[best];
        }
}

static int model_charge(uid_t uid, enum quota_resource resource, uint64_t amount, struct shmd_wire_refusal *refusal) {
        static const enum shmd_limit limits[QUOTA_COUNT] = {
                SHMD_LIMIT_BYTES, SHMD_LIMIT_SEGMENTS, SHMD_LIMIT_HOLDS,
                SHMD_LIMIT_CONNECTIONS, SHMD_LIMIT_WATCHES, SHMD_LIMIT_DESCRIPTORS,
                SHMD_LIMIT_DESCRIPTORS,
        };
        uint64_t used = model_used(uid, resource);
        uint64_t max = model_maximum(uid, resource);

        if (used <= max && amount <= max - used)
                return 0;
        *refusal = (struct shmd_wire_refusal) { .limit = limits[resource], .uid = uid, .requested = amount, .used = used,
                                                .maximum = max };
        model_biggest(resource, refusal);
        seen.pool_refused += max < maximum[resource];
        return SHMD_OVER_LIMIT;
}

/* A fact: all of it is charged, and counts in the pool as far as it would have been granted. */
static void model_force(int s, size_t i, uid_t uid, uint64_t amount) {
        struct model_charge *charge = &segments[s].charges[i];
        uint64_t used, max;

        *charge = (struct model_charge) { .uid = uid };
        used = model_used(uid, charged[i]);
        max = model_maximum(uid, charged[i]);
        charge->amount = amount;
        charge->pooled = MIN(amount, max > used ? max - used : 0);
}

static uint64_t chargeable(uint64_t size) {
        return MIN(size, UINT64_C(1) << 47);
}

static int model_find_name(const char *name) {
        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real && segments[s].named && strcmp(segments[s].name, name) == 0)
                        return s;
        return -1;
}

static void model_tell(int s, enum wire_event kind, const char *old_name) {
        struct happening *happening = &happened[n_happened++];

        same(n_happened < ELEMENTSOF(happened));
        *happening = (struct happening) {
                .id = segments[s].id, .size = segments[s].size, .kind = kind, .state = model_state(s),
                .uid = segments[s].owner.uid, .had_name = segments[s].had_name,
        };
        memcpy(happening->name, segments[s].name, sizeof(happening->name));
        memcpy(happening->old_name, old_name, strlen(old_name));
}

static bool model_idleness_matters(int s) {
        return model_state(s) == WIRE_STATE_UNLINKED || segments[s].lifetime == WIRE_LIFETIME_HOLDERS ||
               segments[s].lifetime == WIRE_LIFETIME_LINGER;
}

static void model_queue(int s) {
        if (segments[s].queued == 0)
                segments[s].queued = ++next_queued;
}

static int model_first_queued(void) {
        int first = -1;

        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real && segments[s].queued > 0 && (first < 0 || segments[s].queued < segments[first].queued))
                        first = s;
        return first;
}

static int model_first_lingering(void) {
        int first = -1;

        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real && segments[s].linger_until > 0 &&
                    (first < 0 || segments[s].linger_until < segments[first].linger_until ||
                     (segments[s].linger_until == segments[first].linger_until && segments[s].id < segments[first].id)))
                        first = s;
        return first;
}

static void model_unlink(int s);

/* Something that kept it has ended. */
static void model_ended(int s) {
        if (segments[s].unpublished && count_attached(s) == 0) {
                seen.never_published++;
                model_unlink(s);
        }
        if (count_holders(s) == 0 && segments[s].idle_since == 0)
                segments[s].idle_since = now;
        if (count_attached(s) == 0 && model_idleness_matters(s))
                model_queue(s);
}

static void model_unlink(int s) {
        bool named = segments[s].named;

        if (!named && !segments[s].unpublished)
                return;
        segments[s].named = segments[s].unpublished = false;
        segments[s].linger_until = 0;
        model_ended(s);
        if (named)
                model_tell(s, WIRE_EVENT_UNLINKED, "");
}

static void model_open(int c, int s, enum shmd_access access, bool detached) {
        struct model_hold *hold = &holds[c][s];

        if (is_empty(hold)) {
                hold->key = next_key++;
                hold->since = now;
        }
        if (detached)
                hold->detached[access]++;
        else
                hold->attached[access]++;
        segments[s].handed_out = true;
        segments[s].idle_since = 0;
        segments[s].opened = now;
        segments[s].linger_until = 0;
        if (count_attached(s) == 0 && model_idleness_matters(s))
                model_queue(s);
}

static void model_forget(int s) {
        for (int c = 0; c < CLIENTS; c++)
                holds[c][s] = (struct model_hold) { 0 };
        segments[s] = (struct model_segment) { 0 };
}

static enum settled model_settle(int s) {
        if (count_attached(s) > 0)
                return SETTLED_KEEP;
        for (int c = 0; c < CLIENTS; c++) {
                seen.detached_ended += !is_empty(&holds[c][s]);
                holds[c][s] = (struct model_hold) { 0 };
        }
        segments[s].handed_out = false;
        if (segments[s].idle_since == 0)
                segments[s].idle_since = now;
        if (segments[s].named && segments[s].lifetime == WIRE_LIFETIME_LINGER) {
                if (segments[s].linger_until == 0) {
                        segments[s].linger_until = monotonic + segments[s].linger_usec;
                        if (segments[s].linger_until < monotonic)
                                segments[s].linger_until = UINT64_MAX;
                }
                return SETTLED_LINGER;
        }
        if (segments[s].named && segments[s].lifetime != WIRE_LIFETIME_HOLDERS)
                return SETTLED_KEEP;
        model_unlink(s);
        model_tell(s, WIRE_EVENT_FREED, "");
        return SETTLED_FREE;
}

/* --- comparing --- */

static void compare_holds(int s) {
        const struct segment *real = segments[s].real;
        const struct hold *hold;
        uint64_t key = 0;

        same(real->holders == count_holders(s));
        same(real->attached == count_attached(s));
        TAILQ_FOREACH(hold, &real->holds, by_age) {
                int c = (int) (hold->client - clients);
                const struct model_hold *model = &holds[c][s];

                same(!is_empty(model));
                for (int access = 0; access < 2; access++) {
                        same(hold->attached[access] == model->attached[access]);
                        same(hold->detached[access] == model->detached[access]);
                }
                same(hold->reserved == model->reserved);
                same(hold->key == model->key);
                same(hold->since_usec == model->since);
                same(hold->key > key);
                key = hold->key;
        }
}

static void compare_charge(const struct charge *real, const struct model_charge *model) {
        same(real->account->uid == model->uid);
        same(real->amount == model->amount);
        same(real->pooled == model->pooled);
}

static void compare_segment(int s) {
        const struct model_segment *model = &segments[s];
        const struct segment *real = model->real;

        same(registry_find_id(&registry, model->id) == real);
        same(real->id == model->id);
        same(real->name_size == strlen(model->name) && strcmp(real->name, model->name) == 0);
        same(real->state == model_state(s));
        same(real->frozen == model->frozen);
        same(real->had_name == model->had_name);
        same(!model->named || registry_find_name(&registry, model->name, strlen(model->name)) == real);
        same(real->size == model->size && real->maximum == model->maximum && real->resizable == model->resizable);
        compare_charge(&real->count, &model->charges[0]);
        compare_charge(&real->descriptor, &model->charges[1]);
        compare_charge(&real->bytes, &model->charges[2]);
        same(real->owner.uid == model->owner.uid && real->owner.gid == model->owner.gid);
        same(real->owner.mode == model->owner.mode);
        same(real->lifetime == model->lifetime && real->linger_usec == model->linger_usec && real->posix == model->posix);
        same((real->labels != NULL) == model->labelled);
        same(real->linger_until_usec == model->linger_until);
        same(real->created_usec == model->created);
        same(real->opened_usec == model->opened);
        same(real->idle_usec == model->idle_since);
        same(real->handed_out == model->handed_out);
        same(real->idle_queued == (model->queued > 0));
        same(real->creator.client == (model->creator < 0 ? NULL : &clients[model->creator]));
        same(real->creator.uid == model->creator_uid);
        compare_holds(s);
}

static void compare_queue(void) {
        const struct segment *segment;
        uint64_t last = 0;
        unsigned n = 0, expected = 0;

        for (int s = 0; s < SEGMENTS; s++)
                expected += segments[s].real && segments[s].queued > 0;
        TAILQ_FOREACH(segment, &registry.idle, idle_entry) {
                int s = 0;

                while (s < SEGMENTS && segments[s].real != segment)
                        s++;
                same(s < SEGMENTS);
                same(segments[s].queued > last);
                last = segments[s].queued;
                n++;
        }
        same(n == expected);
}

static void compare_created(void) {
        const struct segment *segment;
        unsigned n = 0, expected = 0;

        for (int s = 0; s < SEGMENTS; s++)
                expected += segments[s].real && segments[s].creator >= 0;
        for (int c = 0; c < CLIENTS; c++) {
                if (client_user[c] < 0)
                        continue;
                same(clients[c].key == client_key[c]);
                TAILQ_FOREACH(segment, &clients[c].created, by_creator) {
                        same(segment->creator.client == &clients[c]);
                        n++;
                }
        }
        same(n == expected);
}

static unsigned count_accounts(const struct account *root) {
        return root ? 1 + count_accounts(RB_LEFT(root, by_uid)) + count_accounts(RB_RIGHT(root, by_uid)) : 0;
}

static void compare_accounts(unsigned *allocations) {
        bool has[ELEMENTSOF(users)] = { false };
        unsigned accounts = 0;

        for (unsigned u = 0; u < ELEMENTSOF(users); u++)
                for (enum quota_resource r = 0; r < QUOTA_COUNT; r++) {
                        uint64_t used = model_used(users[u], r);

                        same(quota_used(&quota, users[u], r) == used);
                        has[u] |= used > 0; /* who has only bytes has a segment, too */
                }
        for (unsigned u = 0; u < ELEMENTSOF(users); u++)
                accounts += has[u];
        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++)
                same(quota.total[r] == model_total(r));
        same(count_accounts(RB_ROOT(&quota.accounts)) == accounts);
        *allocations += accounts;
}

static void compare_sums(void) {
        unsigned n = 0, n_nameless = 0, n_holds = 0, allocations = 0;
        uint64_t bytes = 0;
        int first;

        for (int s = 0; s < SEGMENTS; s++) {
                if (!segments[s].real)
                        continue;
                n++;
                n_nameless += !segments[s].named;
                n_holds += count_holders(s);
                bytes += chargeable(segments[s].maximum);
                allocations += 2 + segments[s].labelled; /* itself, its name, its labels */
                for (int c = 0; c < CLIENTS; c++)
                        allocations += is_there(&holds[c][s]);
        }
        same(registry.segments == n);
        same(registry.nameless_count == n_nameless);
        same(registry.holds == n_holds);
        same(registry.bytes == bytes);
        same(registry.next_id == next_id);
        same(registry.next_key == next_key);

        compare_accounts(&allocations);
        same(faults_live() - live_before == allocations); /* nothing is lost, and nothing else kept */

        first = model_first_lingering();
        same(registry_next_linger(&registry) == (first < 0 ? NULL : segments[first].real));
}

/* Everything that happened was told, once and in order. */
static void compare_events(void) {
        same(n_told == n_happened);
        for (unsigned i = 0; i < n_told; i++) {
                same(told[i].id == happened[i].id);
                same(told[i].kind == happened[i].kind);
                same(told[i].state == happened[i].state);
                same(told[i].size == happened[i].size);
                same(told[i].uid == happened[i].uid);
                same(told[i].had_name == happened[i].had_name);
                same(strcmp(told[i].name, happened[i].name) == 0);
                same(strcmp(told[i].old_name, happened[i].old_name) == 0);
        }
        seen.events += n_told;
        n_told = n_happened = 0;
}

static void on_event(struct segment *segment, int event, const char *old_name, size_t old_size, void *userdata) {
        struct happening *happening = &told[n_told++];

        same(n_told < ELEMENTSOF(told) && userdata == told);
        *happening = (struct happening) {
                .id = segment->id, .size = segment->size, .kind = event, .state = segment->state,
                .uid = segment->owner.uid, .had_name = segment->had_name,
        };
        memcpy(happening->name, segment->name, segment->name_size);
        if (old_name)
                memcpy(happening->old_name, old_name, old_size);
}

static void compare_all(void) {
        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real)
                        compare_segment(s);
        compare_queue();
        compare_created();
        compare_sums();
        compare_events();
        registry_check(&registry);
}

static void compare_refusals(const struct shmd_wire_refusal *real, const struct shmd_wire_refusal *model) {
        same(real->limit == model->limit);
        same(real->uid == model->uid);
        same(real->requested == model->requested);
        same(real->used == model->used);
        same(real->maximum == model->maximum);
        same(real->item == model->item);
        for (unsigned i = 0; i < ELEMENTSOF(real->biggest); i++) {
                same(real->biggest[i].used == model->biggest[i].used);
                same(real->biggest[i].uid == model->biggest[i].uid);
        }
}

/* The whole listing of a prefix, or of what has no name, from somewhere on. */
static void compare_listings(void) {
        const char *prefix = prefixes[below(ELEMENTSOF(prefixes))], *after = one_in(2) ? "" : names[below(ELEMENTSOF(names))];
        uint64_t after_id = one_in(2) ? 0 : FIRST_ID + below((unsigned) (next_id - FIRST_ID) + 2);

        for (;;) {
                const struct segment *real = registry_next_name(&registry, prefix, strlen(prefix), after, strlen(after));
                int first = -1;

                for (int s = 0; s < SEGMENTS; s++)
                        if (segments[s].real && segments[s].named && strncmp(segments[s].name, prefix, strlen(prefix)) == 0 &&
                            strcmp(segments[s].name, after) > 0 &&
                            (first < 0 || strcmp(segments[s].name, segments[first].name) < 0))
                                first = s;
                same(real == (first < 0 ? NULL : segments[first].real));
                if (first < 0)
                        break;
                after = segments[first].name;
        }
        for (;;) {
                const struct segment *real = registry_next_nameless(&registry, after_id);
                int first = -1;

                for (int s = 0; s < SEGMENTS; s++)
                        if (segments[s].real && !segments[s].named && segments[s].id > after_id &&
                            (first < 0 || segments[s].id < segments[first].id))
                                first = s;
                same(real == (first < 0 ? NULL : segments[first].real));
                if (first < 0)
                        break;
                after_id = segments[first].id;
        }
}

/* --- memory that runs out, sometimes --- */

static void maybe_arm(void) {
        unsigned nth = 1 + below(5);
        bool for_good = one_in(2);

        if (one_in(8))
                faults_arm(nth, for_good);
}

/* What may never need any: releasing, dying, settling, committing. */
static void arm_always(void) {
        faults_arm(1, true);
}

static void disarm_unused(void) {
        same(!faults_disarm());
}

/* The result must be the model's, or that memory ran out if it did. */
static bool went_well(int r, bool out_of_memory, int model_r, const struct shmd_wire_refusal *refusal,
                      const struct shmd_wire_refusal *model_refusal) {
        same(r == (out_of_memory ? -ENOMEM : model_r));
        if (r == SHMD_OVER_LIMIT)
                compare_refusals(refusal, model_refusal);
        seen.enomem += r == -ENOMEM;
        seen.refused += r > 0;
        return r == 0;
}

/* --- the effects side --- */

static void conclude_free(int s) {
        struct segment *real = segments[s].real;
        enum settled verdict, model_verdict;

        segments[s].watched = false;
        real->custody.watch = -1;
        arm_always();
        verdict = registry_settle(real, monotonic, now);
        disarm_unused();
        model_verdict = model_settle(s);
        same(verdict == model_verdict);
        seen.kept += verdict == SETTLED_KEEP;
        seen.lingered += verdict == SETTLED_LINGER;
        if (verdict != SETTLED_FREE)
                return;
        same(segments[s].users == 0); /* never freed in use */
        seen.freed++;
        segment_free(real);
        model_forget(s);
}

static void await(int s) {
        if (!segments[s].watched) {
                if (segments[s].users == 0) {
                        conclude_free(s);
                        return;
                }
                segments[s].watched = true;
                segments[s].real->custody.watch = s;
        }
        if (segments[s].users == 0)
                conclude_free(s);
}

/* A descriptor was closed: inotify tells. */
static void closed(int s) {
        if (!segments[s].watched)
                return;
        if (count_attached(s) > 0) {
                segments[s].watched = false;
                segments[s].real->custody.watch = -1;
        } else if (segments[s].users == 0)
                conclude_free(s);
}

static void settle_queued(void) {
        for (;;) {
                int s = model_first_queued();

                same(registry_take_idle(&registry) == (s < 0 ? NULL : segments[s].real));
                if (s < 0)
                        return;
                segments[s].queued = 0;
                await(s);
        }
}

static void on_linger(void) {
        for (;;) {
                int s = model_first_lingering();
                struct segment *real = registry_next_linger(&registry);

                same(real == (s < 0 ? NULL : segments[s].real));
                if (s < 0 || segments[s].linger_until > monotonic)
                        break;
                registry_linger_over(real, now);
                model_unlink(s);
                seen.linger_over++;
        }
}

/* --- what clients do --- */

static int any_client(void) {
        int c = (int) below(CLIENTS);

        return client_user[c] < 0 || dying[c] ? -1 : c;
}

static int any_segment(void) {
        int s = (int) below(SEGMENTS);

        return segments[s].real ? s : -1;
}

static int free_slot(void) {
        for (int s = 0; s < SEGMENTS; s++)
                if (!segments[s].real)
                        return s;
        return -1;
}

static void do_connect(void) {
        struct shmd_wire_refusal refusal, model_refusal;
        int c = (int) below(CLIENTS), u = (int) below(CONNECTING_USERS), r, model_r;

        doing = "connect";
        if (client_user[c] >= 0)
                return;
        maybe_arm();
        r = quota_charge(&quota, users[u], QUOTA_CONNECTIONS, 1, &connections[c], &refusal);
        model_r = model_charge(users[u], QUOTA_CONNECTIONS, 1, &model_refusal);
        if (!went_well(r, faults_disarm(), model_r, &refusal, &model_refusal))
                return;
        client_init(&clients[c], &registry, &credentials[u]);
        client_user[c] = u;
        client_key[c] = next_key++;
}

/* The order in which a client lets go of several segments is the core's own affair. */
static void adopt_order(const uint64_t queued_before[SEGMENTS]) {
        const struct segment *real;

        TAILQ_FOREACH(real, &registry.idle, idle_entry)
                for (int s = 0; s < SEGMENTS; s++)
                        if (segments[s].real == real && segments[s].queued > 0 && queued_before[s] == 0)
                                segments[s].queued = ++next_queued;
}

static bool real_holds(int c, int s) {
        const struct hold *hold;

        TAILQ_FOREACH(hold, &segments[s].real->holds, by_age)
                if (hold->client == &clients[c])
                        return true;
        return false;
}

/* Which holds end first is the core's own affair, as long as there are as many as it may. */
static unsigned model_reap_holds(int c, unsigned budget) {
        unsigned had = 0, ended = 0;

        for (int s = 0; s < SEGMENTS; s++) {
                if (is_empty(&holds[c][s]))
                        continue;
                had++;
                if (real_holds(c, s))
                        continue;
                ended++;
                holds[c][s] = (struct model_hold) { 0 };
                model_ended(s);
        }
        same(ended == MIN(had, budget));
        return had - ended;
}

/* What it made first goes first. */
static int model_first_created(int c) {
        int first = -1;

        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real && segments[s].creator == c && (first < 0 || segments[s].id < segments[first].id))
                        first = s;
        return first;
}

static bool model_reap(int c, unsigned budget) {
        unsigned had = 0, left;
        int s;

        for (s = 0; s < SEGMENTS; s++)
                had += !is_empty(&holds[c][s]);
        left = model_reap_holds(c, budget);
        for (budget -= had - left; budget > 0 && (s = model_first_created(c)) >= 0; budget--) {
                segments[s].creator = -1;
                seen.never_published += segments[s].unpublished;
                if (segments[s].lifetime == WIRE_LIFETIME_CREATOR || segments[s].unpublished)
                        model_unlink(s);
        }
        return left == 0 && model_first_created(c) < 0;
}

/* A little of what a client had ends that is no more. */
static void reap(int c, unsigned budget) {
        uint64_t queued_before[SEGMENTS];
        bool done;

        for (int s = 0; s < SEGMENTS; s++)
                queued_before[s] = segments[s].queued;
        arm_always();
        done = client_reap(&clients[c], budget, now);
        disarm_unused();
        same(done == model_reap(c, budget));
        adopt_order(queued_before);
        seen.reaps++;
        if (done) {
                client_user[c] = -1;
                dying[c] = false;
        }
}

static void do_reap(void) {
        int c = (int) below(CLIENTS);

        doing = "reap";
        if (dying[c])
                reap(c, one_in(4) ? 1000 : below(4));
}

/* Its descriptors go with it, but for those that it gave away. */
static void do_die(void) {
        bool closes[SEGMENTS] = { false };
        int c = any_client();

        doing = "die";
        if (c < 0)
                return;
        seen.deaths++;
        charge_done(&connections[c]);
        dying[c] = true;
        for (int s = 0; s < SEGMENTS; s++) {
                struct model_hold *hold = &holds[c][s];
                uint64_t opens = hold->attached[0] + hold->attached[1] + hold->detached[0] + hold->detached[1];

                for (; segments[s].real && opens > 0 && segments[s].users > 0 && !one_in(8); opens--) {
                        segments[s].users--;
                        closes[s] = true;
                }
        }
        if (!one_in(3)) /* the kernel's word of the closing may come before it, or after */
                reap(c, one_in(3) ? 1000 : below(6));
        for (int s = 0; s < SEGMENTS; s++)
                if (closes[s])
                        closed(s);
}

static void commit_open(struct hold *hold, int c, int s, enum shmd_access access, bool detached, bool new_descriptor) {
        arm_always();
        hold_commit(hold, access, detached, now);
        disarm_unused();
        holds[c][s].reserved--;
        model_open(c, s, access, detached);
        segments[s].users += new_descriptor;
}

static struct segment_plan any_plan(const char *name) {
        static const uint64_t lingers[] = { 0, 1, 50, 1000, UINT64_MAX, UINT64_MAX - 100 };
        struct segment_plan plan = { .name = name, .name_size = strlen(name) };

        plan.size = one_in(50) ? UINT64_MAX - below(1000) : below(2000);
        plan.mode = below(01000);
        plan.lifetime = below(4);
        plan.posix = one_in(2);
        plan.backing = !plan.posix && one_in(3) ? WIRE_BACKING_FILE : WIRE_BACKING_MEMFD;
        plan.resizable = !plan.posix && one_in(2);
        plan.maximum = plan.resizable && plan.size < 2000 ? plan.size + below(2000) : plan.size;
        plan.unpublished = one_in(2);
        if (plan.lifetime == WIRE_LIFETIME_LINGER)
                plan.linger_usec = lingers[below(ELEMENTSOF(lingers))];
        if (one_in(3)) {
                plan.labels = "key=value\n";
                plan.labels_size = 10;
        }
        return plan;
}

static int model_create(int s, uid_t uid, const struct segment_plan *plan, struct shmd_wire_refusal *refusal) {
        const uint64_t descriptors = plan->backing == WIRE_BACKING_FILE ? 2 : 1;
        const uint64_t amounts[ELEMENTSOF(charged)] = { 1, descriptors, chargeable(plan->maximum) };

        if (!plan->unpublished && model_find_name(plan->name) >= 0)
                return SHMD_EXISTS;
        for (size_t i = 0; i < ELEMENTSOF(charged); i++) {
                int r = model_charge(uid, charged[i], amounts[i], refusal);

                if (r != 0)
                        return r;
        }
        for (size_t i = 0; i < ELEMENTSOF(charged); i++)
                segments[s].charges[i] = (struct model_charge) { uid, amounts[i], amounts[i] };
        return 0;
}

static void do_create(void) {
        struct shmd_wire_refusal refusal, model_refusal;
        int c = any_client(), s = free_slot(), r, model_r;
        const char *name = names[below(ELEMENTSOF(names))];
        struct segment_plan plan = any_plan(name);
        enum shmd_access access = below(2);
        bool detached = !plan.unpublished && one_in(3);
        struct segment *segment = NULL;
        struct hold *hold = NULL;
        uid_t uid;

        doing = "create";
        if (c < 0 || s < 0)
                return;
        uid = users[client_user[c]];
        maybe_arm();
        r = registry_reserve(&registry, &clients[c], &plan, now, &segment, &refusal);
        model_r = model_create(s, uid, &plan, &model_refusal);
        if (!went_well(r, faults_disarm(), model_r, &refusal, &model_refusal)) {
                same(!segment);
                return;
        }
        same(segment->id == next_id++);
        segments[s].real = segment; /* to count what is charged for it */
        for (enum quota_resource resource = 0; resource < QUOTA_COUNT; resource++)
                same(quota_used(&quota, uid, resource) == model_used(uid, resource));
        same(!registry_find_id(&registry, segment->id));
        same(plan.unpublished || !registry_find_name(&registry, name, plan.name_size));

        maybe_arm();
        r = hold_reserve(&clients[c], segment, &hold, &refusal);
        model_r = model_charge(uid, QUOTA_HOLDS, 1, &model_refusal);
        if (!went_well(r, faults_disarm(), model_r, &refusal, &model_refusal) || one_in(10)) { /* or no answer gets out */
                hold_abort(hold);
                registry_abort(segment);
                model_forget(s);
                return;
        }

        arm_always();
        registry_commit(segment);
        disarm_unused();
        segments[s].id = segment->id;
        memcpy(segments[s].name, name, plan.name_size + 1);
        segments[s].unpublished = plan.unpublished;
        segments[s].named = segments[s].had_name = !plan.unpublished;
        segments[s].posix = plan.posix;
        segments[s].resizable = plan.resizable;
        segments[s].labelled = plan.labels_size > 0;
        segments[s].owner = (struct ownership) { uid, credentials[client_user[c]].gid, plan.mode };
        segments[s].size = plan.size;
        segments[s].maximum = plan.maximum;
        segments[s].lifetime = plan.lifetime;
        segments[s].linger_usec = plan.linger_usec;
        segments[s].created = segments[s].opened = now;
        segments[s].creator = c;
        segments[s].creator_uid = uid;
        model_tell(s, WIRE_EVENT_CREATED, "");
        if (!plan.unpublished)
                model_tell(s, WIRE_EVENT_PUBLISHED, "");
        holds[c][s].reserved++;
        commit_open(hold, c, s, access, detached, true);
}

static struct hold *try_reserve(int c, int s) {
        struct shmd_wire_refusal refusal, model_refusal;
        struct hold *hold = NULL;
        int r, model_r = 0;

        maybe_arm();
        r = hold_reserve(&clients[c], segments[s].real, &hold, &refusal);
        if (!is_there(&holds[c][s]))
                model_r = model_charge(users[client_user[c]], QUOTA_HOLDS, 1, &model_refusal);
        if (!went_well(r, faults_disarm(), model_r, &refusal, &model_refusal)) {
                same(!hold);
                return NULL;
        }
        seen.reserved_again += holds[c][s].reserved++ > 0;
        return hold;
}

static void abort_open(struct hold *hold, int c, int s) {
        arm_always();
        hold_abort(hold);
        disarm_unused();
        holds[c][s].reserved--;
}

/* OPEN, or RESUME: which gives no descriptor, as the client has one. */
static void do_open(void) {
        int c = any_client(), s = any_segment();
        bool detached = one_in(3), resume = !detached && one_in(4);
        enum shmd_access access = below(2);
        struct hold *hold;

        doing = resume ? "resume" : "open";
        if (c < 0 || s < 0 || (resume && segments[s].users == 0))
                return;
        hold = try_reserve(c, s);
        if (!hold)
                return;
        if (one_in(10))
                abort_open(hold, c, s);
        else
                commit_open(hold, c, s, access, detached, !resume);
}

/* OPEN_MANY: all are reserved, then the answer is sent, then all are committed or aborted; the same may come twice. */
static void do_open_many(void) {
        struct {
                struct hold *hold;
                int segment;
        } opens[8];
        unsigned n = 0, wanted = 2 + below(ELEMENTSOF(opens) - 1), outcome = below(4);
        int c = any_client(), some[] = { any_segment(), any_segment(), any_segment() };
        bool detached = one_in(3);

        doing = "open many";
        if (c < 0)
                return;
        for (unsigned i = 0; i < wanted; i++) {
                int s = some[below(ELEMENTSOF(some))];

                if (s < 0)
                        continue;
                opens[n].hold = try_reserve(c, s);
                opens[n].segment = s;
                if (!opens[n].hold)
                        continue;
                for (unsigned j = 0; j < n; j++)
                        same((opens[j].segment == s) == (opens[j].hold == opens[n].hold));
                n++;
        }
        compare_all();
        for (unsigned i = 0; i < n; i++) {
                if (outcome == 0 || (outcome == 1 && one_in(2)))
                        abort_open(opens[i].hold, c, opens[i].segment);
                else
                        commit_open(opens[i].hold, c, opens[i].segment, below(2), detached, true);
                compare_all();
        }
}

/* --- publication --- */

static int model_may_publish(int c, const int *list, unsigned count, bool replace, uint32_t *ret_item) {
        const struct credentials *who = &credentials[client_user[c]];

        for (unsigned i = 0; i < count; i++) {
                int s = list[i], taken;

                *ret_item = i;
                if (s < 0 || !segments[s].unpublished || segments[s].creator != c)
                        return SHMD_NOT_FOUND;
                taken = model_find_name(segments[s].name);
                if (taken >= 0 && !replace)
                        return SHMD_EXISTS;
                if (taken >= 0 && !who->administrator && segments[taken].owner.uid != who->uid)
                        return SHMD_NOT_OWNER;
                for (unsigned j = 0; j < i; j++)
                        if (strcmp(segments[list[j]].name, segments[s].name) == 0)
                                return SHMD_INVALID;
        }
        return 0;
}

static void publish(int s) {
        int taken = model_find_name(segments[s].name);

        arm_always();
        registry_publish(segments[s].real, now);
        disarm_unused();
        if (taken >= 0) {
                model_unlink(taken);
                seen.replaced++;
        }
        segments[s].unpublished = false;
        segments[s].named = segments[s].had_name = true;
        model_ended(s);
        model_tell(s, WIRE_EVENT_PUBLISHED, "");
        seen.published++;
}

/* Mostly the next of its own, now and then of anybody's or of nobody's; -1: there is no such segment. */
static int any_to_publish(int c, int after) {
        int s = (after + 1) % SEGMENTS;

        if (one_in(20))
                return any_segment();
        for (int i = 0; i < SEGMENTS; i++, s = (s + 1) % SEGMENTS)
                if (segments[s].real && segments[s].unpublished && segments[s].creator == c)
                        return s;
        return one_in(10) ? any_segment() : -1;
}

static void do_publish(void) {
        struct shmd_wire_refusal refusal = { 0 };
        unsigned count = one_in(2) ? 1 : 1 + below(4);
        uint32_t item;
        uint64_t ids[4];
        int list[4], c = any_client(), r, model_r;
        bool replace = !one_in(3);

        doing = "publish";
        if (c < 0)
                return;
        for (unsigned i = 0; i < count; i++) {
                list[i] = any_to_publish(c, i == 0 ? (int) below(SEGMENTS) : list[i - 1]);
                if (i > 0 && list[i] == list[0] && !one_in(8)) { /* it has no more of them */
                        count = i;
                        break;
                }
                ids[i] = list[i] < 0 ? random_u64() : segments[list[i]].id;
        }
        if (list[0] < 0 && !one_in(10))
                return;
        arm_always();
        r = registry_may_publish(&clients[c], ids, count, replace, &refusal);
        disarm_unused();
        model_r = model_may_publish(c, list, count, replace, &item);
        same(r == model_r);
        same(r == 0 || refusal.item == item);
        compare_all(); /* to ask changes nothing */
        seen.not_published += r != 0;
        if (r != 0 || one_in(10)) /* or the answer can't be sent */
                return;
        for (unsigned i = 0; i < count; i++) {
                publish(list[i]);
                compare_all();
        }
        seen.together += count > 1;
}

/* --- what owners do --- */

static void do_set_lifetime(void) {
        static const uint64_t lingers[] = { 0, 20, 500, UINT64_MAX };
        enum wire_lifetime lifetime = below(4);
        uint64_t linger_usec = lifetime == WIRE_LIFETIME_LINGER ? lingers[below(ELEMENTSOF(lingers))] : 0;
        int s = any_segment(), r;

        doing = "set lifetime";
        if (s < 0)
                return;
        arm_always();
        r = registry_set_lifetime(segments[s].real, lifetime, linger_usec, now);
        disarm_unused();
        if (lifetime == WIRE_LIFETIME_CREATOR && segments[s].creator < 0) {
                same(r == SHMD_CREATOR_GONE);
                return;
        }
        same(r == 0);
        seen.lifetimes++;
        segments[s].lifetime = lifetime;
        segments[s].linger_usec = linger_usec;
        segments[s].linger_until = 0;
        model_ended(s);
}

static void do_set_size(void) {
        int s = any_segment();

        doing = "set size";
        if (s < 0 || !segments[s].resizable || segments[s].frozen)
                return;
        segments[s].size = segments[s].maximum > 4000 ? segments[s].maximum : below((unsigned) segments[s].maximum + 1);
        registry_set_size(segments[s].real, segments[s].size);
        model_tell(s, WIRE_EVENT_RESIZED, "");
        seen.resized++;
}

static void do_freeze(void) {
        int s = any_segment();

        doing = "freeze";
        if (s < 0)
                return;
        registry_set_frozen(segments[s].real);
        if (segments[s].frozen)
                return;
        segments[s].frozen = true;
        model_tell(s, WIRE_EVENT_FROZEN, "");
        seen.frozen++;
}

/* One that it has, if there is one; or now and then anything, or -1. */
static int any_to_release(int c, enum shmd_access access) {
        int s = (int) below(SEGMENTS);

        for (int i = 0; i < SEGMENTS && c >= 0 && !one_in(40); i++, s = (s + 1) % SEGMENTS)
                if (holds[c][s].attached[access] > 0)
                        return s;
        return any_segment();
}

static void do_release(void) {
        enum shmd_access access = below(2);
        int c = any_client(), s = any_to_release(c, access), r;
        uint64_t id = s >= 0 ? segments[s].id : random_u64();
        struct model_hold *hold = s >= 0 && c >= 0 ? &holds[c][s] : NULL;

        doing = "release";
        if (c < 0)
                return;
        arm_always();
        r = hold_release(&clients[c], id, access, now);
        disarm_unused();
        if (!hold || hold->attached[access] == 0) {
                same(r == SHMD_NOT_HELD);
                return;
        }
        same(r == 0);
        hold->attached[access]--;
        if (!is_attached(hold)) {
                if (is_empty(hold))
                        *hold = (struct model_hold) { 0 };
                model_ended(s);
        }
        if (segments[s].users > 0 && !one_in(6)) { /* sometimes it is mapped still, or was handed on */
                segments[s].users--;
                closed(s);
        }
}

/* Somebody closes or unmaps, without a word to the daemon. */
static void do_close(void) {
        int s = any_segment();

        doing = "close";
        if (s < 0 || segments[s].users == 0)
                return;
        segments[s].users = one_in(3) ? 0 : segments[s].users - 1;
        closed(s);
}

static void do_unlink(void) {
        int s = any_segment();

        doing = "unlink";
        if (s < 0)
                return;
        arm_always();
        registry_unlink(segments[s].real, now);
        disarm_unused();
        model_unlink(s);
}

static void do_rename(void) {
        const char *name = names[below(ELEMENTSOF(names))];
        int s = any_segment(), other = model_find_name(name), r, model_r;

        doing = "rename";
        if (s < 0)
                return;
        maybe_arm();
        r = registry_rename(segments[s].real, name, strlen(name));
        model_r = !segments[s].named ? SHMD_NOT_FOUND : other >= 0 && other != s ? SHMD_EXISTS : 0;
        if (went_well(r, faults_disarm(), model_r, NULL, NULL) && other != s) {
                char old_name[SHMD_NAME_MAX + 1];

                memcpy(old_name, segments[s].name, sizeof(old_name));
                memset(segments[s].name, 0, sizeof(segments[s].name));
                memcpy(segments[s].name, name, strlen(name));
                model_tell(s, WIRE_EVENT_RENAMED, old_name);
        }
}

static struct ownership any_owner(void) {
        /* One by one: the order within an initializer is the compiler's choice, and a seed means the same walk everywhere. */
        uid_t uid = users[below(ELEMENTSOF(users))];
        gid_t gid = below(5);
        mode_t mode = below(01000);

        return (struct ownership) { uid, gid, mode };
}

/* One charge after the other, each from one to the other; if one can't go, those before it come back, whatever the limit. */
static int model_set_owner(int s, uid_t uid, struct shmd_wire_refusal *refusal) {
        uid_t before = segments[s].owner.uid;

        for (size_t i = 0; i < ELEMENTSOF(charged) && uid != before; i++) {
                struct model_charge *charge = &segments[s].charges[i];
                int r = model_charge(uid, charged[i], charge->amount, refusal);

                if (r == 0) {
                        *charge = (struct model_charge) { uid, charge->amount, charge->amount };
                        continue;
                }
                while (i-- > 0)
                        model_force(s, i, before, segments[s].charges[i].amount);
                return r;
        }
        return 0;
}

static void do_set_owner(void) {
        struct shmd_wire_refusal refusal, model_refusal;
        struct ownership owner = any_owner();
        int s = any_segment(), r;

        doing = "set owner";
        if (s < 0)
                return;
        if (one_in(4))
                owner.uid = segments[s].owner.uid; /* chmod */
        maybe_arm();
        r = registry_set_owner(segments[s].real, &owner, &refusal);
        if (faults_disarm()) {
                /* Nothing has changed: only the first charge may need an account that is not there. */
                same(r == -ENOMEM);
                seen.enomem++;
        } else if (went_well(r, false, model_set_owner(s, owner.uid, &model_refusal), &refusal, &model_refusal))
                segments[s].owner = owner;
}

/* Somebody used fchmod, fchown or ftruncate on the descriptor itself. */
static void do_refresh(void) {
        struct ownership owner = any_owner();
        int s = any_segment();
        uint64_t size;
        bool failed;

        doing = "refresh";
        if (s < 0)
                return;
        size = one_in(50) ? INT64_MAX - (int64_t) below(3) : one_in(2) ? below(4000) : segments[s].size;
        if (!one_in(4))
                owner.uid = segments[s].owner.uid;
        maybe_arm();
        registry_refresh(segments[s].real, &owner, size);
        failed = faults_disarm();
        if (owner.uid != segments[s].owner.uid)
                for (size_t i = 0; i < ELEMENTSOF(charged); i++) /* without memory all stay with whom they were */
                        model_force(s, i, failed ? segments[s].owner.uid : owner.uid, segments[s].charges[i].amount);
        if (segments[s].posix && size != segments[s].size) {
                model_force(s, 2, segments[s].charges[2].uid, chargeable(size));
                segments[s].size = segments[s].maximum = size;
        }
        segments[s].owner = owner;
        segments[s].owner.uid = segments[s].charges[0].uid;
}

/* STAT of a segment asks the kernel, where no connection accounts for it: is_held_elsewhere() in daemon/op_query.c. */
static void do_stat(void) {
        int s = any_segment();

        doing = "stat";
        if (s < 0 || !segments[s].handed_out || count_attached(s) > 0 || segments[s].users > 0)
                return;
        registry_queue_idle(segments[s].real);
        model_queue(s);
}

/* The kernel says that nobody has it, though a connection accounts for it: closed, but not released. */
static void do_late_verdict(void) {
        int s = any_segment();

        doing = "late verdict";
        if (s >= 0 && count_attached(s) > 0 && segments[s].users == 0)
                conclude_free(s);
}

/* An administrator changes the limits, above or below what is used. */
static void do_limits(void) {
        doing = "limits";
        for (enum quota_resource r = 0; r < QUOTA_COUNT; r++)
                maximum[r] = pool[r] = QUOTA_UNLIMITED;
        if (one_in(2))
                maximum[QUOTA_BYTES] = below(40000);
        if (one_in(2))
                maximum[QUOTA_SEGMENTS] = below(15);
        if (one_in(2))
                maximum[QUOTA_HOLDS] = below(40);
        if (one_in(2))
                maximum[QUOTA_CONNECTIONS] = 1 + below(CLIENTS);
        if (one_in(3))
                pool[QUOTA_BYTES] = below(60000);
        if (one_in(4))
                pool[QUOTA_SEGMENTS] = below(60);
        if (one_in(4))
                pool[QUOTA_HOLDS] = below(150);
        if (one_in(3))
                pool[QUOTA_DESCRIPTORS] = below(60);
        memcpy(quota.maximum, maximum, sizeof(maximum));
        memcpy(quota.pool, pool, sizeof(pool));
}

static const struct {
        unsigned weight;
        void (*function)(void);
} actions[] = {
        { 10, do_connect },  { 3, do_die },         { 6, do_reap },     { 40, do_create }, { 40, do_open },
        { 4, do_open_many }, { 40, do_release },    { 30, do_close },   { 20, do_publish }, { 8, do_unlink },
        { 6, do_rename },    { 6, do_set_lifetime }, { 4, do_set_size }, { 2, do_freeze },  { 5, do_set_owner },
        { 5, do_refresh },   { 5, do_stat },        { 5, do_late_verdict }, { 1, do_limits },
};

static void take_step(void) {
        unsigned total = 0, pick;
        size_t i = 0;

        for (size_t j = 0; j < ELEMENTSOF(actions); j++)
                total += actions[j].weight;
        pick = below(total);
        while (pick >= actions[i].weight)
                pick -= actions[i++].weight;

        now += 1 + below(3);
        monotonic += below(50);
        actions[i].function();
        compare_all();
        if (one_in(16)) {
                doing = "list";
                compare_listings();
        }
        if (one_in(8)) {
                doing = "linger";
                on_linger();
                compare_all();
        }
        if (!one_in(4)) { /* mostly at once, as the daemon does */
                doing = "settle";
                settle_queued();
                compare_all();
        }
}

/* --- beginning and end --- */

static void make_names(void) {
        static const char *const first[] = { "a", "b", "\xc3\xb6", "ab", "z" }, *const second[] = { "", "/b", "/bc", "/b/c" };
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(first); i++)
                for (size_t j = 0; j < ELEMENTSOF(second); j++)
                        snprintf(names[n++], sizeof(names[0]), "%s%s", first[i], second[j]);
        for (; n < ELEMENTSOF(names); n++) /* the longest that there are, one beginning with the other */
                memset(names[n], 'x', SHMD_NAME_MAX + 1 - (ELEMENTSOF(names) - n));
}

static void begin(uint64_t with_seed) {
        seed = random_state = with_seed;
        step = 0;
        monotonic = now = 1;
        next_id = FIRST_ID;
        next_key = 1;
        doing = "begin";
        for (unsigned u = 0; u < ELEMENTSOF(users); u++)
                credentials[u] = (struct credentials) { .uid = users[u], .gid = users[u] + 10, .pid = (pid_t) u + 1,
                                                           .administrator = u == 0 || u == CONNECTING_USERS - 1 };
        for (int c = 0; c < CLIENTS; c++)
                client_user[c] = -1;
        make_names();
        live_before = faults_live();
        quota_init(&quota);
        registry_init(&registry, &quota, FIRST_ID);
        registry.observer = on_event;
        registry.observer_userdata = told;
        do_limits();
}

/* Half of the walks end like the world, with everybody going: what has no lifetime beyond that must be gone, too. */
static void end_with_clients(void) {
        for (int c = 0; c < CLIENTS; c++)
                while (client_user[c] >= 0) {
                        if (!dying[c]) {
                                charge_done(&connections[c]);
                                dying[c] = true;
                        }
                        reap(c, 1 + below(5));
                        compare_all();
                }
        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real && segments[s].users > 0) {
                        segments[s].users = 0;
                        closed(s);
                }
        doing = "end";
        settle_queued();
        monotonic = UINT64_MAX;
        on_linger();
        settle_queued();
        compare_all();
        for (int s = 0; s < SEGMENTS; s++)
                same(!segments[s].real || (segments[s].named && segments[s].lifetime == WIRE_LIFETIME_PERSIST));
}

/* The daemon ends: sessions first, then segments, whatever is going on. */
static void end_with_daemon(void) {
        registry.observer = NULL;
        for (int c = 0; c < CLIENTS; c++) {
                if (client_user[c] < 0)
                        continue;
                while (!client_reap(&clients[c], 1 + below(5), now))
                        registry_check(&registry);
                charge_done(&connections[c]);
        }
        registry_done(&registry);
        same(registry.segments == 0 && registry.nameless_count == 0 && registry.bytes == 0 && registry.holds == 0);
        same(RB_EMPTY(&registry.ids) && RB_EMPTY(&registry.names) && RB_EMPTY(&registry.lingering));
        same(TAILQ_EMPTY(&registry.idle));
        same(RB_EMPTY(&quota.accounts) && RB_EMPTY(&registry.nameless));
        same(faults_live() == live_before);
        quota_done(&quota);
}

static void walk(uint64_t with_seed, uint64_t steps) {
        begin(with_seed);
        for (step = 1; step <= steps; step++)
                take_step();
        if (with_seed % 2 == 0)
                end_with_clients();
        end_with_daemon();

        printf("%" PRIu64 " steps: %u freed, %u kept, %u began to linger, %u of these went, %u detached holds ended, ", steps,
               seen.freed, seen.kept, seen.lingered, seen.linger_over, seen.detached_ended);
        printf("%u refusals (%u by pools), %u times no memory, %u deaths in %u pieces, ", seen.refused, seen.pool_refused,
               seen.enomem, seen.deaths, seen.reaps);
        printf("%u published (%u replaced, %u times together, %u refused, %u never), ", seen.published, seen.replaced,
               seen.together, seen.not_published, seen.never_published);
        printf("%u lifetimes, %u sizes, %u frozen, %u reserved again, %u events\n", seen.lifetimes, seen.resized, seen.frozen,
               seen.reserved_again, seen.events);
        fflush(stdout);
        /* A walk that does not get anywhere shows nothing. */
        if (steps < STEPS_DEFAULT)
                return;
        same(seen.freed > 100 && seen.kept > 20 && seen.lingered > 50 && seen.linger_over > 30 && seen.detached_ended > 30);
        same(seen.refused > 100 && seen.pool_refused > 100 && seen.enomem > 100);
        same(seen.deaths > 100 && seen.reaps > seen.deaths);
        same(seen.published > 100 && seen.replaced > 15 && seen.together > 3);
        same(seen.not_published > 100 && seen.never_published > 100);
        same(seen.lifetimes > 100 && seen.resized > 30 && seen.frozen > 30);
        same(seen.reserved_again > 100 && seen.events > 1000);
}

static uint64_t number_from_environment(const char *name, uint64_t otherwise) {
        const char *value = getenv(name);

        return value && value[0] != '\0' ? strtoull(value, NULL, 0) : otherwise;
}

/* 0: always the same. 1: a new one, or the one that is asked for. */
START_TEST(test_walk) {
        uint64_t with_seed = 4711;

        if (_i == 1) {
                struct timespec time;

                clock_gettime(CLOCK_REALTIME, &time);
                with_seed = number_from_environment("SHMD_TEST_SEED", (uint64_t) time.tv_nsec ^ (uint64_t) getpid() << 32);
        }
        printf("SHMD_TEST_SEED=%" PRIu64 "\n", with_seed);
        fflush(stdout);
        walk(with_seed, number_from_environment("SHMD_TEST_STEPS", STEPS_DEFAULT));
}
END_TEST

static Suite *walk_suite(void) {
        Suite *suite = suite_create("registry-walk");
        TCase *tests = tcase_create("walk");

        tcase_set_timeout(tests, 100);
        tcase_add_loop_test(tests, test_walk, 0, 2);
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(walk_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
