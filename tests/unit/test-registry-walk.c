/* SPDX-License-Identifier: MIT */
/*
 * A long random walk of the core beside a naive model of it: flat arrays, obvious code, every sum made anew. Each step is
 * taken by both; results are compared each time, then all that either knows, and registry_check() walks the rest.
 *
 * Clients connect, create, open, release, die at any point; descriptors and mappings live on in processes that
 * nobody knows of; memory runs out now and then. The walk plays the daemon's effects side (lease_await() and ask_again()
 * in daemon/lease.c, on_free() and on_linger() in daemon/daemon.c) and the kernel.
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

#define STEPS_DEFAULT 100000u /* of each of the two walks */
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

struct model_segment {
        struct segment *real; /* NULL: a free slot */
        uint64_t id;
        char name[SHMD_NAME_MAX + 1];
        bool named, posix, labelled;
        struct ownership owner;
        uint64_t size;
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

struct model_hold { /* no opens: none */
        uint64_t attached[2], detached[2], key, since;
};

static struct model_segment segments[SEGMENTS];
static struct model_hold holds[CLIENTS][SEGMENTS];
static int client_user[CLIENTS]; /* -1: not connected; else an index of users */
static uint64_t client_key[CLIENTS];
static uint64_t maximum[QUOTA_COUNT];
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
static struct { unsigned enomem, refused, freed, lingered, linger_over, kept, detached_ended, deaths; } seen;

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

static uint64_t model_used(uid_t uid, enum quota_resource resource) {
        uint64_t sum = 0;

        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real && segments[s].owner.uid == uid)
                        sum += resource == QUOTA_BYTES ? segments[s].size : resource == QUOTA_SEGMENTS ? 1 : 0;
        for (int c = 0; c < CLIENTS; c++) {
                if (client_user[c] < 0 || users[client_user[c]] != uid)
                        continue;
                sum += resource == QUOTA_CONNECTIONS;
                for (int s = 0; s < SEGMENTS && resource == QUOTA_HOLDS; s++)
                        sum += !is_empty(&holds[c][s]);
        }
        return sum;
}

static int model_charge(uid_t uid, enum quota_resource resource, uint64_t amount, struct shmd_wire_refusal *refusal) {
        static const enum shmd_limit limits[QUOTA_COUNT] = { SHMD_LIMIT_BYTES, SHMD_LIMIT_SEGMENTS, SHMD_LIMIT_HOLDS,
                                                             SHMD_LIMIT_CONNECTIONS, SHMD_LIMIT_WATCHES };
        uint64_t used = model_used(uid, resource);
        uint64_t max = uid == 0 ? UINT64_MAX : maximum[resource];

        if (used <= max && amount <= max - used)
                return 0;
        *refusal = (struct shmd_wire_refusal) { .limit = limits[resource], .uid = uid, .requested = amount, .used = used,
                                                .maximum = max };
        return SHMD_OVER_LIMIT;
}

static int model_find_name(const char *name) {
        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real && segments[s].named && strcmp(segments[s].name, name) == 0)
                        return s;
        return -1;
}

static bool model_idleness_matters(int s) {
        return !segments[s].named || segments[s].lifetime == WIRE_LIFETIME_HOLDERS ||
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

/* Something that kept it has ended. */
static void model_ended(int s) {
        if (count_holders(s) == 0 && segments[s].idle_since == 0)
                segments[s].idle_since = now;
        if (count_attached(s) == 0 && model_idleness_matters(s))
                model_queue(s);
}

static void model_unlink(int s) {
        if (!segments[s].named)
                return;
        segments[s].named = false;
        segments[s].linger_until = 0;
        model_ended(s);
}

static void model_open(int c, int s, enum shmd_access access, bool detached) {
        struct model_hold *hold = &holds[c][s];

        if (is_empty(hold))
                *hold = (struct model_hold) { .key = next_key++, .since = now };
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
        return segments[s].named && segments[s].lifetime != WIRE_LIFETIME_HOLDERS ? SETTLED_KEEP : SETTLED_FREE;
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
                same(hold->key == model->key);
                same(hold->since_usec == model->since);
                same(hold->key > key);
                key = hold->key;
        }
}

static void compare_segment(int s) {
        const struct model_segment *model = &segments[s];
        const struct segment *real = model->real;

        same(registry_find_id(&registry, model->id) == real);
        same(real->id == model->id);
        same(real->name_size == strlen(model->name) && strcmp(real->name, model->name) == 0);
        same(real->state == (model->named ? WIRE_STATE_PUBLISHED : WIRE_STATE_UNLINKED));
        same(!model->named || registry_find_name(&registry, model->name, strlen(model->name)) == real);
        same(real->size == model->size);
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

static void compare_sums(void) {
        unsigned n = 0, n_unlinked = 0, n_holds = 0, accounts = 0, allocations = 0;
        uint64_t bytes = 0;
        int first;

        for (int s = 0; s < SEGMENTS; s++) {
                if (!segments[s].real)
                        continue;
                n++;
                n_unlinked += !segments[s].named;
                n_holds += count_holders(s);
                bytes += segments[s].size;
                allocations += 2 + segments[s].labelled; /* itself, its name, its labels */
        }
        same(registry.segments == n);
        same(registry.unlinked == n_unlinked);
        same(registry.holds == n_holds);
        same(registry.bytes == bytes);
        same(registry.next_id == next_id);
        same(registry.next_key == next_key);

        for (unsigned u = 0; u < ELEMENTSOF(users); u++) {
                for (enum quota_resource r = 0; r < QUOTA_COUNT; r++)
                        same(quota_used(&quota, users[u], r) == model_used(users[u], r));
                accounts += model_used(users[u], QUOTA_SEGMENTS) + model_used(users[u], QUOTA_HOLDS) +
                                    model_used(users[u], QUOTA_CONNECTIONS) > 0;
        }
        same(count_accounts(RB_ROOT(&quota.accounts)) == accounts);
        same(faults_live() - live_before == allocations + n_holds + accounts); /* nothing is lost, and nothing else kept */

        first = model_first_lingering();
        same(registry_next_linger(&registry) == (first < 0 ? NULL : segments[first].real));
}

static void compare_all(void) {
        for (int s = 0; s < SEGMENTS; s++)
                if (segments[s].real)
                        compare_segment(s);
        compare_queue();
        compare_created();
        compare_sums();
        registry_check(&registry);
}

static void compare_refusals(const struct shmd_wire_refusal *real, const struct shmd_wire_refusal *model) {
        same(real->limit == model->limit);
        same(real->uid == model->uid);
        same(real->requested == model->requested);
        same(real->used == model->used);
        same(real->maximum == model->maximum);
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
                const struct segment *real = registry_next_unlinked(&registry, after_id);
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

        return client_user[c] < 0 ? -1 : c;
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

/* Its descriptors go with it, but for those that it gave away. */
static void do_die(void) {
        uint64_t queued_before[SEGMENTS];
        bool closes[SEGMENTS] = { false };
        int c = any_client();

        doing = "die";
        if (c < 0)
                return;
        arm_always();
        client_done(&clients[c], now);
        charge_done(&connections[c]);
        disarm_unused();
        seen.deaths++;

        for (int s = 0; s < SEGMENTS; s++) {
                struct model_hold *hold = &holds[c][s];
                uint64_t opens = hold->attached[0] + hold->attached[1] + hold->detached[0] + hold->detached[1];

                queued_before[s] = segments[s].queued;
                if (!segments[s].real)
                        continue;
                for (; opens > 0 && segments[s].users > 0 && !one_in(8); opens--) {
                        segments[s].users--;
                        closes[s] = true;
                }
                if (!is_empty(hold)) {
                        *hold = (struct model_hold) { 0 };
                        model_ended(s);
                }
                if (segments[s].creator == c) {
                        segments[s].creator = -1;
                        if (segments[s].lifetime == WIRE_LIFETIME_CREATOR)
                                model_unlink(s);
                }
        }
        adopt_order(queued_before);
        client_user[c] = -1;
        for (int s = 0; s < SEGMENTS; s++)
                if (closes[s])
                        closed(s);
}

static void commit_open(struct hold *hold, int c, int s, enum shmd_access access, bool detached, bool new_descriptor) {
        arm_always();
        hold_commit(hold, access, detached, now);
        disarm_unused();
        model_open(c, s, access, detached);
        segments[s].users += new_descriptor;
}

static void do_create(void) {
        static const uint64_t lingers[] = { 0, 1, 50, 1000, UINT64_MAX, UINT64_MAX - 100 };
        struct shmd_wire_refusal refusal, model_refusal;
        int c = any_client(), s = free_slot(), r, model_r;
        const char *name = names[below(ELEMENTSOF(names))];
        enum shmd_access access = below(2);
        bool detached = one_in(3);
        struct segment_plan plan = { .name = name, .name_size = strlen(name) };
        struct segment *segment = NULL;
        struct hold *hold = NULL;
        uid_t uid;

        doing = "create";
        if (c < 0 || s < 0)
                return;
        uid = users[client_user[c]];
        plan.size = one_in(50) ? UINT64_MAX - below(1000) : below(2000);
        plan.mode = below(01000);
        plan.lifetime = below(4);
        plan.posix = one_in(2);
        if (plan.lifetime == WIRE_LIFETIME_LINGER)
                plan.linger_usec = lingers[below(ELEMENTSOF(lingers))];
        if (one_in(3)) {
                plan.labels = "key=value\n";
                plan.labels_size = 10;
        }

        maybe_arm();
        r = registry_reserve(&registry, &clients[c], &plan, now, &segment, &refusal);
        if (model_find_name(name) >= 0)
                model_r = SHMD_EXISTS;
        else {
                model_r = model_charge(uid, QUOTA_SEGMENTS, 1, &model_refusal);
                if (model_r == 0)
                        model_r = model_charge(uid, QUOTA_BYTES, plan.size, &model_refusal);
        }
        if (!went_well(r, faults_disarm(), model_r, &refusal, &model_refusal)) {
                same(!segment);
                return;
        }
        same(segment->id == next_id++);
        same(quota_used(&quota, uid, QUOTA_BYTES) == model_used(uid, QUOTA_BYTES) + plan.size);
        same(quota_used(&quota, uid, QUOTA_SEGMENTS) == model_used(uid, QUOTA_SEGMENTS) + 1);
        same(!registry_find_id(&registry, segment->id));
        same(!registry_find_name(&registry, name, plan.name_size));

        maybe_arm();
        r = hold_reserve(&clients[c], segment, &hold, &refusal);
        model_r = model_charge(uid, QUOTA_HOLDS, 1, &model_refusal);
        if (!went_well(r, faults_disarm(), model_r, &refusal, &model_refusal) || one_in(10)) { /* or no answer gets out */
                hold_abort(hold);
                registry_abort(segment);
                return;
        }

        arm_always();
        registry_commit(segment);
        disarm_unused();
        segments[s] = (struct model_segment) {
                .real = segment, .id = segment->id, .named = true, .posix = plan.posix, .labelled = plan.labels_size > 0,
                .owner = { uid, credentials[client_user[c]].gid, plan.mode }, .size = plan.size, .lifetime = plan.lifetime,
                .linger_usec = plan.linger_usec, .created = now, .opened = now, .creator = c, .creator_uid = uid,
        };
        memcpy(segments[s].name, name, plan.name_size + 1);
        commit_open(hold, c, s, access, detached, true);
}

/* OPEN, or RESUME: which gives no descriptor, as the client has one. */
static void do_open(void) {
        struct shmd_wire_refusal refusal, model_refusal;
        int c = any_client(), s = any_segment(), r, model_r = 0;
        bool detached = one_in(3), resume = !detached && one_in(4);
        enum shmd_access access = below(2);
        struct hold *hold = NULL;

        doing = resume ? "resume" : "open";
        if (c < 0 || s < 0 || (resume && segments[s].users == 0))
                return;
        maybe_arm();
        r = hold_reserve(&clients[c], segments[s].real, &hold, &refusal);
        if (is_empty(&holds[c][s]))
                model_r = model_charge(users[client_user[c]], QUOTA_HOLDS, 1, &model_refusal);
        if (!went_well(r, faults_disarm(), model_r, &refusal, &model_refusal)) {
                same(!hold);
                return;
        }
        if (one_in(10))
                hold_abort(hold);
        else
                commit_open(hold, c, s, access, detached, !resume);
}

static void do_release(void) {
        int c = any_client(), s = any_segment(), r;
        enum shmd_access access = below(2);
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
        model_r = other == s ? 0 : other >= 0 ? SHMD_EXISTS : !segments[s].named ? SHMD_NOT_FOUND : 0;
        if (went_well(r, faults_disarm(), model_r, NULL, NULL))
                memcpy(segments[s].name, name, strlen(name) + 1);
}

static struct ownership any_owner(void) {
        /* One by one: the order within an initializer is the compiler's choice, and a seed means the same walk everywhere. */
        uid_t uid = users[below(ELEMENTSOF(users))];
        gid_t gid = below(5);
        mode_t mode = below(01000);

        return (struct ownership) { uid, gid, mode };
}

static void do_set_owner(void) {
        struct shmd_wire_refusal refusal, model_refusal;
        struct ownership owner = any_owner();
        int s = any_segment(), r, model_r = 0;

        doing = "set owner";
        if (s < 0)
                return;
        if (one_in(4))
                owner.uid = segments[s].owner.uid; /* chmod */
        maybe_arm();
        r = registry_set_owner(segments[s].real, &owner, &refusal);
        if (owner.uid != segments[s].owner.uid) {
                model_r = model_charge(owner.uid, QUOTA_SEGMENTS, 1, &model_refusal);
                if (model_r == 0)
                        model_r = model_charge(owner.uid, QUOTA_BYTES, segments[s].size, &model_refusal);
        }
        if (faults_disarm()) {
                /* With memory for the account, bytes might have been refused: either way nothing has changed. */
                same(r == -ENOMEM);
                seen.enomem++;
        } else if (went_well(r, false, model_r, &refusal, &model_refusal))
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
        size = segments[s].posix && one_in(2) ? below(4000) : segments[s].size;
        if (!one_in(4))
                owner.uid = segments[s].owner.uid;
        maybe_arm();
        registry_refresh(segments[s].real, &owner, size);
        failed = faults_disarm();
        if (failed)
                owner.uid = segments[s].owner.uid; /* it stays charged to whom it was */
        segments[s].owner = owner;
        segments[s].size = size;
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
        quota.maximum[QUOTA_BYTES] = maximum[QUOTA_BYTES] = one_in(4) ? QUOTA_UNLIMITED : below(20000);
        quota.maximum[QUOTA_SEGMENTS] = maximum[QUOTA_SEGMENTS] = one_in(4) ? QUOTA_UNLIMITED : below(15);
        quota.maximum[QUOTA_HOLDS] = maximum[QUOTA_HOLDS] = one_in(4) ? QUOTA_UNLIMITED : below(40);
        quota.maximum[QUOTA_CONNECTIONS] = maximum[QUOTA_CONNECTIONS] = one_in(4) ? QUOTA_UNLIMITED : 1 + below(CLIENTS);
}

static const struct {
        unsigned weight;
        void (*function)(void);
} actions[] = {
        { 10, do_connect }, { 2, do_die },    { 20, do_create },   { 40, do_open },    { 40, do_release }, { 20, do_close },
        { 4, do_unlink },   { 6, do_rename }, { 5, do_set_owner }, { 5, do_refresh }, { 5, do_stat },     { 5, do_late_verdict },
        { 1, do_limits },
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
                credentials[u] = (struct credentials) { .uid = users[u], .gid = users[u] + 10, .pid = (pid_t) u + 1 };
        for (int c = 0; c < CLIENTS; c++)
                client_user[c] = -1;
        make_names();
        live_before = faults_live();
        quota_init(&quota);
        registry_init(&registry, &quota, FIRST_ID);
        do_limits();
}

/* Half of the walks end like the world, with everybody going: what has no lifetime beyond that must be gone, too. */
static void end_with_clients(void) {
        for (int c = 0; c < CLIENTS; c++)
                while (client_user[c] >= 0)
                        do_die();
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
        for (int c = 0; c < CLIENTS; c++) {
                if (client_user[c] < 0)
                        continue;
                client_done(&clients[c], now);
                charge_done(&connections[c]);
        }
        registry_done(&registry);
        same(registry.segments == 0 && registry.unlinked == 0 && registry.bytes == 0 && registry.holds == 0);
        same(RB_EMPTY(&registry.ids) && RB_EMPTY(&registry.names) && RB_EMPTY(&registry.lingering));
        same(TAILQ_EMPTY(&registry.idle));
        same(RB_EMPTY(&quota.accounts));
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
        printf("%u refusals, %u times no memory, %u deaths\n", seen.refused, seen.enomem, seen.deaths);
        fflush(stdout);
        /* A walk that does not get anywhere shows nothing. */
        if (steps >= STEPS_DEFAULT)
                same(seen.freed > 100 && seen.kept > 20 && seen.lingered > 100 && seen.linger_over > 30 &&
                     seen.detached_ended > 30 && seen.refused > 100 && seen.enomem > 100 && seen.deaths > 100);
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
