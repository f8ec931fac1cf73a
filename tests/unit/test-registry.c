/* SPDX-License-Identifier: MIT */
/* Segments, names, holds and their ends, one rule a test: daemon/core/registry.h. */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "faults.h"
#include "registry.h"
#include "state.h"
#include "status.h"
#include "util.h"

enum { ALICE = 1000, BOB = 1001, CAROL = 1002, ROOT = 0 };

#define FIRST_ID 100u
#define READ SHMD_ACCESS_READ
#define WRITE SHMD_ACCESS_WRITE

static struct quota quota;
static struct registry registry;
static struct shmd_wire_refusal refusal;
static unsigned live_before;
static uint64_t now; /* CLOCK_REALTIME of these tests */

static struct credentials alice_credentials = { .uid = ALICE, .gid = 100, .pid = 11 };
static struct credentials bob_credentials = { .uid = BOB, .gid = 200, .pid = 22 };
static struct credentials root_credentials = { .uid = ROOT, .gid = 0, .pid = 33, .administrator = true };
static struct client alice, bob, root;

/* What the observer was told, in order. */
static struct {
        uint64_t id, size;
        int kind;
        enum wire_state state;
        char name[8], old_name[8];
} events[64];
static unsigned n_events, n_expected;

static void on_event(struct segment *segment, int event, const char *old_name, size_t old_size, void *userdata) {
        if (userdata != &registry || n_events >= ELEMENTSOF(events))
                return;
        events[n_events].id = segment->id;
        events[n_events].size = segment->size;
        events[n_events].kind = event;
        events[n_events].state = segment->state;
        memcpy(events[n_events].name, segment->name, MIN(segment->name_size + 1u, sizeof(events[0].name)));
        if (old_name)
                memcpy(events[n_events].old_name, old_name, MIN(old_size, sizeof(events[0].old_name)));
        n_events++;
}

static void observe_from_now_on(void) {
        memset(events, 0, sizeof(events));
        n_events = n_expected = 0;
        registry.observer = on_event;
        registry.observer_userdata = &registry;
}

/* The next one, and the last so far if nothing more is expected. */
static void expect_event(const struct segment *segment, enum wire_event kind) {
        ck_assert_uint_lt(n_expected, n_events);
        ck_assert_int_eq(events[n_expected].kind, kind);
        ck_assert_uint_eq(events[n_expected].id, segment->id);
        ck_assert_str_eq(events[n_expected].name, segment->name);
        if (kind != WIRE_EVENT_RENAMED)
                ck_assert_str_eq(events[n_expected].old_name, "");
        n_expected++;
}

static void expect_no_more_events(void) {
        ck_assert_uint_eq(n_events, n_expected);
}

/* A little at a time. */
static void end_client(struct client *client, uint64_t now_usec) {
        while (!client_reap(client, 3, now_usec))
                registry_check(&registry);
        registry_check(&registry);
}

static void clients_init(void) {
        client_init(&alice, &registry, &alice_credentials);
        client_init(&bob, &registry, &bob_credentials);
        client_init(&root, &registry, &root_credentials);
}

static void clients_done(void) {
        end_client(&alice, ++now);
        end_client(&bob, ++now);
        end_client(&root, ++now);
}

static void setup(void) {
        live_before = faults_live();
        now = 1000;
        memset(&refusal, 0, sizeof(refusal));
        quota_init(&quota);
        registry_init(&registry, &quota, FIRST_ID);
        clients_init();
}

/* Whatever a test leaves, nothing may be left of it when clients and segments have gone. */
static void teardown(void) {
        registry_check(&registry);
        clients_done();
        registry_done(&registry);
        ck_assert_uint_eq(registry.segments, 0);
        ck_assert_uint_eq(registry.nameless_count, 0);
        ck_assert_uint_eq(registry.bytes, 0);
        ck_assert_uint_eq(registry.holds, 0);
        ck_assert(TAILQ_EMPTY(&registry.idle));
        ck_assert(RB_EMPTY(&registry.names));
        ck_assert(RB_EMPTY(&registry.lingering));
        ck_assert(RB_EMPTY(&quota.accounts));
        ck_assert_uint_eq(faults_live(), live_before);
}

static struct segment_plan plan_of(const char *name, uint64_t size, enum wire_lifetime lifetime) {
        return (struct segment_plan) {
                .name = name, .name_size = strlen(name), .size = size, .maximum = size, .mode = 0640, .lifetime = lifetime,
        };
}

static int try_open(struct client *client, struct segment *segment, enum shmd_access access, bool detached) {
        struct hold *hold;
        int r = hold_reserve(client, segment, &hold, &refusal);

        if (r == 0)
                hold_commit(hold, access, detached, ++now);
        return r;
}

static void open_as(struct client *client, struct segment *segment, enum shmd_access access, bool detached) {
        ck_assert_int_eq(try_open(client, segment, access, detached), 0);
        registry_check(&registry);
}

static int release(struct client *client, const struct segment *segment, enum shmd_access access) {
        int r = hold_release(client, segment->id, access, ++now);

        registry_check(&registry);
        return r;
}

/* With nobody's hold: for tests that give the first one themselves. */
static struct segment *create_unheld(struct client *client, const struct segment_plan *plan) {
        struct segment *segment = NULL;

        ck_assert_int_eq(registry_reserve(&registry, client, plan, ++now, &segment, &refusal), 0);
        registry_commit(segment);
        return segment;
}

/* As CREATE does it: its creator holds it read-write. */
static struct segment *create(struct client *client, const char *name, enum wire_lifetime lifetime) {
        const struct segment_plan plan = plan_of(name, 4096, lifetime);
        struct segment *segment = create_unheld(client, &plan);

        open_as(client, segment, WRITE, false);
        return segment;
}

/* As CREATE does it with SHMD_WIRE_UNPUBLISHED. */
static struct segment *create_unpublished(struct client *client, const char *name) {
        struct segment_plan plan = plan_of(name, 4096, WIRE_LIFETIME_HOLDERS);
        struct segment *segment;

        plan.unpublished = true;
        segment = create_unheld(client, &plan);
        open_as(client, segment, WRITE, false);
        return segment;
}

static struct segment *create_linger(struct client *client, const char *name, uint64_t linger_usec) {
        struct segment_plan plan = plan_of(name, 4096, WIRE_LIFETIME_LINGER);
        struct segment *segment;

        plan.linger_usec = linger_usec;
        segment = create_unheld(client, &plan);
        open_as(client, segment, WRITE, false);
        return segment;
}

/* Held by nobody, and asked about. */
static struct segment *create_idle(struct client *client, const char *name, enum wire_lifetime lifetime) {
        struct segment *segment = create(client, name, lifetime);

        ck_assert_int_eq(release(client, segment, WRITE), 0);
        return segment;
}

static struct segment *find(const char *name) {
        return registry_find_name(&registry, name, strlen(name));
}

static int rename_to(struct segment *segment, const char *name) {
        int r = registry_rename(segment, name, strlen(name));

        registry_check(&registry);
        return r;
}

/* The kernel says that nobody has it. What is taken out is freed. */
static enum settled settle_at(struct segment *segment, uint64_t monotonic_usec) {
        enum settled verdict = registry_settle(segment, monotonic_usec, ++now);

        if (verdict == SETTLED_FREE)
                segment_free(segment);
        registry_check(&registry);
        return verdict;
}

static enum settled settle(struct segment *segment) {
        return settle_at(segment, 5000);
}

/* What is queued next is this very segment; it comes out. */
static void expect_idle(struct segment *segment) {
        ck_assert_ptr_eq(registry_take_idle(&registry), segment);
}

static void expect_nothing_idle(void) {
        ck_assert_ptr_null(registry_take_idle(&registry));
}

/* "The kernel says that somebody has it": the effects side watches it. */
static void watch(struct segment *segment) {
        expect_idle(segment);
        segment->custody.watch = 1;
        registry_check(&registry);
}

static void unwatch(struct segment *segment) {
        segment->custody.watch = -1;
}

static void ck_used(uid_t uid, uint64_t bytes, uint64_t segments, uint64_t holds) {
        ck_assert_uint_eq(quota_used(&quota, uid, QUOTA_BYTES), bytes);
        ck_assert_uint_eq(quota_used(&quota, uid, QUOTA_SEGMENTS), segments);
        ck_assert_uint_eq(quota_used(&quota, uid, QUOTA_HOLDS), holds);
}

static void ck_refusal(enum shmd_limit limit, uid_t uid, uint64_t requested, uint64_t used, uint64_t maximum) {
        ck_assert_uint_eq(refusal.limit, limit);
        ck_assert_uint_eq(refusal.uid, uid);
        ck_assert_uint_eq(refusal.requested, requested);
        ck_assert_uint_eq(refusal.used, used);
        ck_assert_uint_eq(refusal.maximum, maximum);
}

/* --- reserve, commit, abort --- */

START_TEST(test_reserve) {
        const struct segment_plan plan = {
                .name = "bill/myshare, and more", .name_size = 12,
                .labels = "a=1\nb=2\n and more", .labels_size = 8,
                .size = 8192, .maximum = 12288, .linger_usec = 77, .mode = 0640,
                .lifetime = WIRE_LIFETIME_LINGER, .backing = WIRE_BACKING_HUGETLB, .page_shift = 21, .posix = true,
                .resizable = true, .single_writer = true,
        };
        struct segment *segment = NULL;

        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, 1234, &segment, &refusal), 0);
        ck_assert_uint_eq(segment->id, FIRST_ID);
        ck_assert_ptr_eq(segment->registry, &registry);
        ck_assert_uint_eq(segment->name_size, 12);
        ck_assert_str_eq(segment->name, "bill/myshare");
        ck_assert_uint_eq(segment->labels_size, 8);
        ck_assert_str_eq(segment->labels, "a=1\nb=2\n");
        ck_assert_uint_eq(segment->size, 8192);
        ck_assert_uint_eq(segment->maximum, 12288);
        ck_assert_uint_eq(segment->page_shift, 21);
        ck_assert(segment->resizable);
        ck_assert(segment->single_writer);
        ck_assert(!segment->frozen);
        ck_assert(!segment->had_name);
        ck_assert_uint_eq(segment->linger_usec, 77);
        ck_assert_int_eq(segment->lifetime, WIRE_LIFETIME_LINGER);
        ck_assert_int_eq(segment->backing, WIRE_BACKING_HUGETLB);
        ck_assert(segment->posix);
        ck_assert_uint_eq(segment->owner.uid, ALICE);
        ck_assert_uint_eq(segment->owner.gid, 100);
        ck_assert_uint_eq(segment->owner.mode, 0640);
        ck_assert_ptr_eq(segment->creator.client, &alice);
        ck_assert_int_eq(segment->creator.pid, 11);
        ck_assert_uint_eq(segment->creator.uid, ALICE);
        ck_assert_uint_eq(segment->created_usec, 1234);
        ck_assert_uint_eq(segment->opened_usec, 1234);
        ck_assert_int_lt(segment->custody.guard_fd, 0);
        ck_assert_int_lt(segment->custody.shared_fd[READ], 0);
        ck_assert_int_lt(segment->custody.shared_fd[WRITE], 0);
        ck_assert_int_lt(segment->custody.watch, 0);

        /* Charged, and nobody else sees anything. */
        ck_used(ALICE, 12288, 1, 0); /* what it may grow to */
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_DESCRIPTORS), 1);
        ck_assert_ptr_null(find("bill/myshare"));
        ck_assert_ptr_null(registry_find_id(&registry, segment->id));
        ck_assert_ptr_null(registry_first(&registry));
        ck_assert_uint_eq(registry.segments, 0);
        ck_assert_uint_eq(registry.bytes, 0);

        registry_commit(segment);
        open_as(&alice, segment, WRITE, false);
        ck_assert_int_eq(segment->state, WIRE_STATE_PUBLISHED);
        ck_assert_ptr_eq(find("bill/myshare"), segment);
        ck_assert_ptr_eq(registry_find_id(&registry, segment->id), segment);
        ck_assert_uint_eq(registry.segments, 1);
        ck_assert_uint_eq(registry.bytes, 12288);
        ck_assert_uint_eq(registry.nameless_count, 0);
        ck_assert(segment->had_name);
        ck_used(ALICE, 12288, 1, 1);
}
END_TEST

START_TEST(test_abort) {
        const struct segment_plan plan = plan_of("a", 4096, WIRE_LIFETIME_PERSIST);
        struct segment *segment;
        struct hold *hold;

        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), 0);
        ck_assert_int_eq(hold_reserve(&alice, segment, &hold, &refusal), 0);
        ck_used(ALICE, 4096, 1, 1);
        hold_abort(hold);
        ck_used(ALICE, 4096, 1, 0);
        registry_abort(segment);
        ck_assert(RB_EMPTY(&quota.accounts));
        ck_assert_ptr_null(find("a"));
        registry_abort(NULL);
        hold_abort(NULL);
        segment_free(NULL);
}
END_TEST

START_TEST(test_name_is_taken) {
        const struct segment_plan plan = plan_of("a", 4096, WIRE_LIFETIME_PERSIST);
        struct segment *first = create(&alice, "a", WIRE_LIFETIME_PERSIST), *second = NULL;

        ck_assert_int_eq(registry_reserve(&registry, &bob, &plan, ++now, &second, &refusal), SHMD_EXISTS);
        ck_assert_ptr_null(second);
        ck_used(BOB, 0, 0, 0);

        /* After unlink it is free at once, though the first is still held. */
        registry_unlink(first, ++now);
        second = create(&bob, "a", WIRE_LIFETIME_PERSIST);
        ck_assert_ptr_eq(find("a"), second);
        ck_assert_ptr_eq(registry_find_id(&registry, first->id), first);
        ck_assert_uint_eq(first->holders, 1);
}
END_TEST

START_TEST(test_limits) {
        struct segment_plan plan = plan_of("b", 4096, WIRE_LIFETIME_PERSIST);
        struct segment *segment = NULL;

        quota.maximum[QUOTA_SEGMENTS] = 2;
        quota.maximum[QUOTA_BYTES] = 8192;
        create(&alice, "a", WIRE_LIFETIME_PERSIST);

        plan.size = plan.maximum = 4097;
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_BYTES, ALICE, 4097, 4096, 8192);
        ck_used(ALICE, 4096, 1, 1); /* the count, charged first, is back */
        ck_assert_ptr_null(segment);

        create(&alice, "c", WIRE_LIFETIME_PERSIST);
        plan.size = plan.maximum = 0;
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_SEGMENTS, ALICE, 1, 2, 2);
        ck_used(ALICE, 8192, 2, 2);

        quota.maximum[QUOTA_SEGMENTS] = 3;
        quota.pool[QUOTA_DESCRIPTORS] = 2;
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_DESCRIPTORS, ALICE, 1, 2, 2);
        ck_used(ALICE, 8192, 2, 2);
        quota.pool[QUOTA_DESCRIPTORS] = QUOTA_UNLIMITED;

        create(&bob, "b", WIRE_LIFETIME_PERSIST); /* whose limit is his own */
        for (unsigned i = 0; i < 4; i++) {
                char name[] = { 'r', (char) ('0' + i), '\0' };

                create(&root, name, WIRE_LIFETIME_PERSIST);
        }
}
END_TEST

/* Neither those of reservations that came to nothing, nor those of what is gone. */
START_TEST(test_ids_are_never_used_again) {
        const struct segment_plan plan = plan_of("a", 0, WIRE_LIFETIME_HOLDERS);
        uint64_t last = FIRST_ID - 1;

        for (unsigned i = 0; i < 100; i++) {
                struct segment *segment;

                ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), 0);
                ck_assert_uint_gt(segment->id, last);
                last = segment->id;
                if (i % 3 == 0) {
                        registry_abort(segment);
                        continue;
                }
                registry_commit(segment);
                open_as(&alice, segment, READ, false);
                ck_assert_int_eq(release(&alice, segment, READ), 0);
                expect_idle(segment);
                ck_assert_int_eq(settle(segment), SETTLED_FREE);
                ck_assert_ptr_null(registry_find_id(&registry, last));
        }
        ck_assert_uint_ge(registry.next_id, last + 1);
}
END_TEST

/* --- names --- */

static const char *const names[] = { /* as they sort: bytes, and the shorter first */
        "A", "a", "a b", "a-b", "a/b", "a/b/c", "a/bc", "a/c", "ab", "b", "b/\x7e", "b/\xc3\xb6", "b/\xf0\x9f\x90\x8b", "c",
};

static void create_names(void) {
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                create(&alice, names[i * 5 % ELEMENTSOF(names)], WIRE_LIFETIME_PERSIST);
}

START_TEST(test_find_name) {
        create_names();
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                ck_assert_ptr_nonnull(find(names[i]));
                ck_assert_str_eq(find(names[i])->name, names[i]);
        }
        ck_assert_ptr_null(find(""));
        ck_assert_ptr_null(find("a/"));
        ck_assert_ptr_null(find("a/b/"));
        ck_assert_ptr_null(find("B"));
        ck_assert_ptr_null(find("b/\xc3"));
        ck_assert_ptr_null(registry_find_name(&registry, "a\0", 2));
        ck_assert_ptr_eq(registry_find_name(&registry, "abc", 2), find("ab")); /* no terminating zero is needed */
        ck_assert_ptr_null(registry_find_id(&registry, 0));
        ck_assert_ptr_null(registry_find_id(&registry, FIRST_ID - 1));
        ck_assert_ptr_null(registry_find_id(&registry, UINT64_MAX));
}
END_TEST

static const struct {
        const char *prefix, *after, *next;
} pages[] = {
        { "", "", "A" },
        { "", "A", "a" },
        { "", "B", "a" }, /* it need not be there */
        { "", "a", "a b" },
        { "", "a/b/c", "a/bc" },
        { "", "a/b/b", "a/b/c" },
        { "", "c", NULL },
        { "", "\xff", NULL },
        { "a", "", "a" },
        { "a", "A", "a" }, /* before the prefix */
        { "a", "a", "a b" }, /* the prefix itself, which is a name */
        { "a", "ab", NULL },
        { "a", "b", NULL },
        { "a/", "", "a/b" },
        { "a/", "a/", "a/b" }, /* the prefix itself, which is none */
        { "a/", "a", "a/b" },
        { "a/", "a/c", NULL },
        { "a/b", "", "a/b" },
        { "a/b", "a/b", "a/b/c" },
        { "a/b", "a/b/c", "a/bc" },
        { "a/b", "a/bc", NULL },
        { "b/", "b", "b/\x7e" },
        { "b/", "b/\x7f", "b/\xc3\xb6" }, /* bytes have no sign */
        { "b/\xc3", "", "b/\xc3\xb6" },
        { "b/", "b/\xf0\x9f\x90\x8b", NULL },
        { "B", "", NULL },
        { "d", "", NULL },
        { "aa", "", NULL },
        { "a/b/c/d", "", NULL },
};

START_TEST(test_next_name) {
        const char *prefix = pages[_i].prefix, *after = pages[_i].after;
        struct segment *segment;

        create_names();
        segment = registry_next_name(&registry, prefix, strlen(prefix), after, strlen(after));
        if (pages[_i].next) {
                ck_assert_ptr_nonnull(segment);
                ck_assert_str_eq(segment->name, pages[_i].next);
        } else
                ck_assert_ptr_null(segment);
}
END_TEST

/* A page ends anywhere; the next one begins after it, even if that name has gone meanwhile. */
START_TEST(test_listing) {
        struct segment *segment = NULL;
        size_t n = 0;

        ck_assert_ptr_null(registry_next_name(&registry, "", 0, "", 0));
        create_names();
        while ((segment = registry_next_name(&registry, "", 0, n > 0 ? names[n - 1] : "", n > 0 ? strlen(names[n - 1]) : 0))) {
                ck_assert_uint_lt(n, ELEMENTSOF(names));
                ck_assert_str_eq(segment->name, names[n++]);
                if (n % 2 == 0)
                        registry_unlink(segment, ++now);
        }
        ck_assert_uint_eq(n, ELEMENTSOF(names));
}
END_TEST

START_TEST(test_longest_names) {
        char name[SHMD_NAME_MAX + 1] = { 0 };
        struct segment *longest, *shorter;

        memset(name, 'x', SHMD_NAME_MAX);
        longest = create(&alice, name, WIRE_LIFETIME_PERSIST);
        name[SHMD_NAME_MAX - 1] = '\0';
        ck_assert_ptr_null(find(name));
        shorter = create(&alice, name, WIRE_LIFETIME_PERSIST);
        ck_assert_ptr_eq(registry_next_name(&registry, "x", 1, "", 0), shorter);
        ck_assert_ptr_eq(registry_next_name(&registry, "x", 1, name, SHMD_NAME_MAX - 1), longest);
        ck_assert_ptr_null(registry_next_name(&registry, "x", 1, longest->name, SHMD_NAME_MAX));
}
END_TEST

START_TEST(test_rename) {
        struct segment *a = create(&alice, "a", WIRE_LIFETIME_PERSIST), *b = create(&bob, "b", WIRE_LIFETIME_PERSIST);

        open_as(&bob, a, READ, false);
        ck_assert_int_eq(rename_to(a, "z/longer"), 0);
        ck_assert_ptr_null(find("a"));
        ck_assert_ptr_eq(find("z/longer"), a);
        ck_assert_str_eq(a->name, "z/longer");
        ck_assert_uint_eq(a->name_size, 8);
        ck_assert_uint_eq(a->holders, 2);
        ck_assert_ptr_eq(registry_next_name(&registry, "", 0, "", 0), b); /* it has moved in the order too */
        ck_assert_ptr_eq(registry_next_name(&registry, "", 0, "b", 1), a);
        ck_used(ALICE, 4096, 1, 1);

        ck_assert_int_eq(rename_to(a, "z/longer"), 0); /* what it has already */
        ck_assert_int_eq(rename_to(a, "b"), SHMD_EXISTS);
        ck_assert_ptr_eq(find("b"), b);
        ck_assert_ptr_eq(find("z/longer"), a);
        ck_assert_int_eq(rename_to(b, "a"), 0); /* the old name is free */
        ck_assert_ptr_eq(find("a"), b);
        ck_assert_int_eq(rename_to(a, "z"), 0); /* from its own buffer's beginning, so to say */
        ck_assert_int_eq(registry_rename(a, a->name, 1), 0);
}
END_TEST

/* What has no name can't get one. */
START_TEST(test_rename_unlinked) {
        struct segment *a = create(&alice, "a", WIRE_LIFETIME_PERSIST), *b;

        registry_unlink(a, ++now);
        ck_assert_int_eq(rename_to(a, "c"), SHMD_NOT_FOUND);
        ck_assert_int_eq(rename_to(a, "a"), SHMD_NOT_FOUND);
        ck_assert_ptr_null(find("c"));
        ck_assert_ptr_null(find("a"));
        b = create(&alice, "a", WIRE_LIFETIME_PERSIST);
        ck_assert_int_ne(rename_to(a, "a"), 0);
        ck_assert_ptr_eq(find("a"), b);
}
END_TEST

/* --- holds --- */

START_TEST(test_hold) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);
        struct hold *hold = NULL, *again = NULL;

        ck_assert_int_eq(hold_reserve(&bob, segment, &hold, &refusal), 0);
        ck_used(BOB, 0, 0, 1);
        ck_assert_uint_eq(segment->holders, 1); /* not counted yet */
        ck_assert_uint_eq(registry.holds, 1);
        ck_assert_int_eq(hold_release(&bob, segment->id, READ, ++now), SHMD_NOT_HELD);
        hold_commit(hold, READ, false, 2000);
        registry_check(&registry);
        ck_assert_ptr_eq(hold->segment, segment);
        ck_assert_ptr_eq(hold->client, &bob);
        ck_assert_uint_eq(hold->since_usec, 2000);
        ck_assert_uint_eq(segment->opened_usec, 2000);
        ck_assert_uint_eq(segment->holders, 2);
        ck_assert_uint_eq(segment->attached, 2);
        ck_assert_uint_eq(registry.holds, 2);

        /* One client's opens of a segment are one hold, whatever the access. */
        ck_assert_int_eq(hold_reserve(&bob, segment, &again, &refusal), 0);
        ck_assert_ptr_eq(again, hold);
        hold_commit(again, WRITE, false, 3000);
        registry_check(&registry);
        ck_assert_uint_eq(hold->since_usec, 2000);
        ck_assert_uint_eq(segment->opened_usec, 3000);
        ck_assert_uint_eq(hold->attached[READ], 1);
        ck_assert_uint_eq(hold->attached[WRITE], 1);
        ck_assert_uint_eq(segment->holders, 2);
        ck_assert_uint_eq(segment->attached, 2);
        ck_used(BOB, 0, 0, 1);

        /* To abort one more open takes nothing away. */
        ck_assert_int_eq(hold_reserve(&bob, segment, &again, &refusal), 0);
        hold_abort(again);
        ck_assert_uint_eq(hold->attached[READ], 1);
        ck_used(BOB, 0, 0, 1);

        ck_assert_int_eq(release(&bob, segment, READ), 0);
        ck_assert_int_eq(release(&bob, segment, READ), SHMD_NOT_HELD);
        ck_assert_uint_eq(segment->holders, 2);
        ck_assert_int_eq(release(&bob, segment, WRITE), 0);
        ck_assert_uint_eq(segment->holders, 1);
        ck_assert_uint_eq(segment->attached, 1);
        ck_assert_uint_eq(registry.holds, 1);
        ck_used(BOB, 0, 0, 0);
        ck_assert_int_eq(release(&bob, segment, WRITE), SHMD_NOT_HELD);
        ck_used(ALICE, 4096, 1, 1); /* hers is untouched */
}
END_TEST

START_TEST(test_opens_are_counted) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_HOLDERS);

        for (unsigned i = 0; i < 10; i++)
                open_as(&bob, segment, READ, false);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        for (unsigned i = 0; i < 10; i++) {
                ck_assert_uint_eq(segment->holders, 1);
                ck_assert_uint_eq(segment->idle_usec, 0);
                expect_nothing_idle();
                ck_assert_int_eq(release(&bob, segment, WRITE), SHMD_NOT_HELD);
                ck_assert_int_eq(release(&bob, segment, READ), 0);
        }
        ck_assert_uint_eq(segment->holders, 0);
        ck_assert_uint_eq(segment->idle_usec, now);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

START_TEST(test_not_held) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        ck_assert_int_eq(hold_release(&alice, 0, READ, ++now), SHMD_NOT_HELD);
        ck_assert_int_eq(hold_release(&alice, segment->id + 1, WRITE, ++now), SHMD_NOT_HELD);
        ck_assert_int_eq(release(&alice, segment, READ), SHMD_NOT_HELD);
        ck_assert_int_eq(release(&bob, segment, WRITE), SHMD_NOT_HELD);
        ck_assert_uint_eq(segment->holders, 1);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
}
END_TEST

/* By its id one can hold and release what has no name any more. */
START_TEST(test_holds_of_unlinked) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        registry_unlink(segment, ++now);
        open_as(&bob, segment, READ, false);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_nothing_idle();
        ck_assert_int_eq(release(&bob, segment, READ), 0);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

START_TEST(test_holders_in_order) {
        struct client *order[] = { &bob, &root, &alice };
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);
        struct hold *hold;
        uint64_t last = 0;
        size_t n = 0;

        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        for (size_t i = 0; i < ELEMENTSOF(order); i++)
                open_as(order[i], segment, READ, false);
        open_as(&bob, segment, READ, false); /* he stays where he was */
        TAILQ_FOREACH(hold, &segment->holds, by_age) {
                ck_assert_ptr_eq(hold->client, order[n++]);
                ck_assert_uint_gt(hold->key, last);
                last = hold->key;
        }
        ck_assert_uint_eq(n, 3);
        ck_assert_uint_ne(alice.key, bob.key);
        ck_assert_uint_ne(alice.key, root.key);
}
END_TEST

START_TEST(test_hold_limit) {
        struct segment *a = create(&alice, "a", WIRE_LIFETIME_PERSIST), *b = create(&alice, "b", WIRE_LIFETIME_PERSIST);
        struct client second;
        struct hold *hold = NULL;

        quota.maximum[QUOTA_HOLDS] = 1;
        open_as(&bob, a, READ, false);
        ck_assert_int_eq(hold_reserve(&bob, b, &hold, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_HOLDS, BOB, 1, 1, 1);
        ck_assert_ptr_null(hold);
        ck_used(BOB, 0, 0, 1);
        open_as(&bob, a, WRITE, false); /* not one more */

        client_init(&second, &registry, &bob_credentials); /* the limit is the user's, not the connection's */
        ck_assert_int_eq(hold_reserve(&second, a, &hold, &refusal), SHMD_OVER_LIMIT);
        end_client(&second, ++now);

        ck_assert_int_eq(release(&bob, a, READ), 0);
        ck_assert_int_eq(try_open(&bob, b, READ, false), SHMD_OVER_LIMIT);
        ck_assert_int_eq(release(&bob, a, WRITE), 0);
        open_as(&bob, b, READ, false);
        open_as(&root, a, READ, false);
        open_as(&root, b, READ, false);
}
END_TEST

/* However often: nobody can make a counter come round. */
START_TEST(test_opens_without_end) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);
        struct hold *hold;

        for (int detached = 0; detached < 2; detached++) {
                open_as(&bob, segment, READ, detached);
                hold = TAILQ_LAST(&segment->holds, segment_holds);
                ck_assert_ptr_eq(hold->client, &bob);
                *(detached ? &hold->detached[READ] : &hold->attached[READ]) = UINT32_MAX;
                (void) try_open(&bob, segment, READ, detached); /* may be refused, of course */
                registry_check(&registry);
                ck_assert_uint_eq(segment->holders, 2);
                ck_assert_uint_eq(segment->attached, detached ? 1 : 2);
                end_client(&bob, ++now);
                ck_assert_uint_eq(segment->holders, 1);
        }
}
END_TEST

/* --- clients go --- */

START_TEST(test_client_dies) {
        struct segment *segments[20];

        for (unsigned i = 0; i < ELEMENTSOF(segments); i++) {
                char name[] = { (char) ('a' + i), '\0' };

                segments[i] = create(&alice, name, i % 2 == 0 ? WIRE_LIFETIME_HOLDERS : WIRE_LIFETIME_PERSIST);
                open_as(&alice, segments[i], READ, false);
                if (i % 3 == 0)
                        open_as(&bob, segments[i], READ, false);
        }
        end_client(&alice, 7777);
        registry_check(&registry);
        ck_used(ALICE, 4096 * ELEMENTSOF(segments), ELEMENTSOF(segments), 0);
        ck_used(BOB, 0, 0, 7);
        ck_assert_uint_eq(registry.holds, 7);

        for (unsigned i = 0; i < ELEMENTSOF(segments); i++) {
                ck_assert_uint_eq(segments[i]->holders, i % 3 == 0 ? 1 : 0);
                ck_assert_uint_eq(segments[i]->idle_usec, i % 3 == 0 ? 0 : 7777);
                ck_assert_int_eq(segments[i]->idle_queued, i % 3 != 0 && i % 2 == 0);
                ck_assert_ptr_null(segments[i]->creator.client);
                ck_assert_int_eq(segments[i]->creator.pid, 11); /* what is known of it stays */
                ck_assert_uint_eq(segments[i]->creator.uid, ALICE);
        }
        end_client(&alice, 8888); /* nothing more */
        registry_check(&registry);
}
END_TEST

/* --- lifetimes --- */

START_TEST(test_persist) {
        struct segment *segment = create_idle(&alice, "a", WIRE_LIFETIME_PERSIST);

        expect_nothing_idle();
        end_client(&alice, ++now);
        expect_nothing_idle();
        /* Somebody asked all the same. */
        registry_queue_idle(segment);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert(!segment->handed_out);
        ck_assert_ptr_eq(find("a"), segment);

        registry_unlink(segment, ++now);
        registry_check(&registry);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
        ck_assert(RB_EMPTY(&quota.accounts));
}
END_TEST

START_TEST(test_holders) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_HOLDERS);

        open_as(&bob, segment, READ, false);
        end_client(&alice, ++now);
        expect_nothing_idle();
        ck_assert_int_eq(release(&bob, segment, READ), 0);
        ck_assert_uint_eq(segment->idle_usec, now);
        ck_assert_ptr_eq(find("a"), segment); /* until the kernel has been asked */
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
        ck_assert_ptr_null(find("a"));
        ck_assert_uint_eq(registry.segments, 0);
        ck_assert_uint_eq(registry.bytes, 0);
        ck_assert(RB_EMPTY(&quota.accounts));
}
END_TEST

START_TEST(test_creator) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_CREATOR);

        ck_assert_int_eq(release(&alice, segment, WRITE), 0); /* its hold is not what counts */
        expect_nothing_idle();
        registry_queue_idle(segment);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        open_as(&bob, segment, READ, false);
        end_client(&bob, ++now); /* nor is another's end */
        ck_assert_ptr_eq(find("a"), segment);

        open_as(&root, segment, READ, false);
        end_client(&alice, ++now);
        registry_check(&registry);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
        ck_assert_ptr_null(find("a"));
        expect_nothing_idle(); /* the name is gone, the memory goes with the last holder */
        end_client(&root, ++now);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

/* A keeper stands for the creator: until it has gone, what nobody holds stays. */
START_TEST(test_keeper) {
        struct segment_plan plan = plan_of("a", 4096, WIRE_LIFETIME_HOLDERS);
        struct segment *segment = NULL;

        plan.posix = true;
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), 0);
        segment->kept = true;
        segment->creator.client = &root;
        registry_commit(segment);
        open_as(&alice, segment, WRITE, false);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_nothing_idle();
        end_client(&alice, ++now);
        expect_nothing_idle();
        registry_queue_idle(segment);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert_ptr_eq(find("a"), segment);

        end_client(&root, ++now);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
        ck_assert_ptr_null(find("a"));
}
END_TEST

START_TEST(test_linger) {
        struct segment *segment = create_linger(&alice, "a", 500);

        ck_assert_ptr_null(registry_next_linger(&registry));
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        ck_assert_ptr_null(registry_next_linger(&registry)); /* the clock runs from what the kernel says */
        expect_idle(segment);
        ck_assert_int_eq(settle_at(segment, 10000), SETTLED_LINGER);
        ck_assert_ptr_eq(registry_next_linger(&registry), segment);
        ck_assert_uint_eq(segment->linger_until_usec, 10500);
        ck_assert_ptr_eq(find("a"), segment);
        ck_assert_int_eq(settle_at(segment, 10100), SETTLED_LINGER); /* asked again: the clock runs on */
        ck_assert_uint_eq(segment->linger_until_usec, 10500);

        registry_linger_over(segment, 9999);
        registry_check(&registry);
        ck_assert_ptr_null(registry_next_linger(&registry));
        ck_assert_ptr_null(find("a"));
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
        ck_assert(RB_EMPTY(&quota.accounts));
}
END_TEST

START_TEST(test_linger_is_stopped_by_open) {
        for (int detached = 0; detached < 2; detached++) {
                struct segment *segment = create_linger(&alice, "a", 500);

                ck_assert_int_eq(release(&alice, segment, WRITE), 0);
                expect_idle(segment);
                ck_assert_int_eq(settle_at(segment, 10000), SETTLED_LINGER);

                open_as(&bob, segment, READ, detached);
                ck_assert_ptr_null(registry_next_linger(&registry));
                ck_assert_uint_eq(segment->linger_until_usec, 0);
                ck_assert_uint_eq(segment->idle_usec, 0);
                end_client(&bob, ++now);
                expect_idle(segment);
                ck_assert_int_eq(settle_at(segment, 20000), SETTLED_LINGER); /* and begins anew */
                ck_assert_uint_eq(segment->linger_until_usec, 20500);

                registry_unlink(segment, ++now);
                registry_check(&registry);
                ck_assert_ptr_null(registry_next_linger(&registry));
                expect_idle(segment);
                ck_assert_int_eq(settle(segment), SETTLED_FREE);
        }
}
END_TEST

START_TEST(test_linger_order) {
        static const uint64_t lingers[] = { 300, 100, 0, 200, 100, 100 };
        static const unsigned order[] = { 2, 1, 4, 5, 3, 0 }; /* the older first, where they are equal */
        struct segment *segments[ELEMENTSOF(lingers)];

        for (unsigned i = 0; i < ELEMENTSOF(lingers); i++) {
                char name[] = { (char) ('a' + i), '\0' };

                segments[i] = create_linger(&alice, name, lingers[i]);
                ck_assert_int_eq(release(&alice, segments[i], WRITE), 0);
                expect_idle(segments[i]);
                ck_assert_int_eq(settle_at(segments[i], 1000), SETTLED_LINGER);
        }
        for (unsigned i = 0; i < ELEMENTSOF(order); i++) {
                struct segment *segment = registry_next_linger(&registry);

                ck_assert_ptr_eq(segment, segments[order[i]]);
                registry_linger_over(segment, ++now);
                registry_check(&registry);
                expect_idle(segment);
                ck_assert_int_eq(settle(segment), SETTLED_FREE);
        }
        ck_assert_ptr_null(registry_next_linger(&registry));
}
END_TEST

/* So long that it never ends: the time may not come round and be over at once. */
START_TEST(test_linger_for_ever) {
        static const uint64_t for_ever[] = { UINT64_MAX, UINT64_MAX - 9999, UINT64_MAX - 10000 };
        char name[] = "a";

        for (size_t i = 0; i < ELEMENTSOF(for_ever); i++) {
                struct segment *segment = create_linger(&alice, name, for_ever[i]);

                name[0]++;
                ck_assert_int_eq(release(&alice, segment, WRITE), 0);
                expect_idle(segment);
                ck_assert_int_eq(settle_at(segment, 10000), SETTLED_LINGER);
                ck_assert_uint_eq(segment->linger_until_usec, UINT64_MAX);
        }
}
END_TEST

/* Time zero means "not lingering", but a clock may show it. */
START_TEST(test_linger_at_time_zero) {
        struct segment *segment = create_linger(&alice, "a", 0);

        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_idle(segment);
        ck_assert_int_eq(settle_at(segment, 0), SETTLED_LINGER);
        ck_assert_ptr_eq(registry_next_linger(&registry), segment);
        registry_linger_over(segment, ++now);
        ck_assert_ptr_null(registry_next_linger(&registry));
}
END_TEST

/* --- idle --- */

START_TEST(test_idle_queue) {
        struct segment *a = create_idle(&alice, "a", WIRE_LIFETIME_HOLDERS);
        struct segment *b = create_idle(&alice, "b", WIRE_LIFETIME_HOLDERS);
        struct segment *c = create_idle(&alice, "c", WIRE_LIFETIME_HOLDERS);

        registry_queue_idle(a); /* once is enough, and it keeps its place */
        expect_idle(a);
        registry_queue_idle(a);
        expect_idle(b);
        ck_assert_int_eq(settle(b), SETTLED_FREE);
        ck_assert_int_eq(settle(a), SETTLED_FREE); /* freed while queued */
        expect_idle(c);
        expect_nothing_idle();
        registry_queue_idle(c);
        registry_remove(c);
        segment_free(c);
        expect_nothing_idle();
}
END_TEST

/* The first moment counts, until it is held again. */
START_TEST(test_idle_since) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);
        uint64_t since;

        ck_assert_uint_eq(segment->idle_usec, 0);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        since = now;
        ck_assert_uint_eq(segment->idle_usec, since);
        registry_queue_idle(segment);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        registry_unlink(segment, ++now);
        ck_assert_uint_eq(segment->idle_usec, since);
        open_as(&bob, segment, READ, false);
        ck_assert_uint_eq(segment->idle_usec, 0);
        end_client(&bob, ++now);
        ck_assert_uint_eq(segment->idle_usec, now);
}
END_TEST

/* A verdict that comes too late. */
START_TEST(test_settle_when_held_again) {
        struct segment *segment = create_idle(&alice, "a", WIRE_LIFETIME_HOLDERS);

        watch(segment);
        open_as(&bob, segment, READ, false);
        unwatch(segment);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert_uint_eq(segment->holders, 1);
        ck_assert(segment->handed_out);
        registry_unlink(segment, ++now);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert_int_eq(release(&bob, segment, READ), 0);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

START_TEST(test_handed_out) {
        const struct segment_plan plan = plan_of("a", 4096, WIRE_LIFETIME_PERSIST);
        struct segment *segment = create_unheld(&alice, &plan);

        registry_check(&registry);
        ck_assert(!segment->handed_out);
        open_as(&alice, segment, READ, false);
        ck_assert(segment->handed_out);
        ck_assert_int_eq(release(&alice, segment, READ), 0);
        ck_assert(segment->handed_out); /* who knows where it went */
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert(!segment->handed_out);
        open_as(&bob, segment, READ, true);
        ck_assert(segment->handed_out);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert_uint_eq(segment->idle_usec, now);
}
END_TEST

/* --- opens that the kernel accounts for --- */

START_TEST(test_detached) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);
        struct hold *hold;

        open_as(&bob, segment, READ, true);
        open_as(&bob, segment, WRITE, true);
        hold = TAILQ_LAST(&segment->holds, segment_holds);
        ck_assert_uint_eq(hold->detached[READ], 1);
        ck_assert_uint_eq(hold->detached[WRITE], 1);
        ck_assert_uint_eq(segment->holders, 2);
        ck_assert_uint_eq(segment->attached, 1);
        ck_used(BOB, 0, 0, 1);
        ck_assert_int_eq(release(&bob, segment, READ), SHMD_NOT_HELD);

        open_as(&bob, segment, READ, false); /* the same hold accounts for both */
        ck_assert_uint_eq(segment->holders, 2);
        ck_assert_uint_eq(segment->attached, 2);
        ck_assert_int_eq(release(&bob, segment, READ), 0);
        ck_assert_uint_eq(segment->holders, 2);
        ck_assert_uint_eq(segment->attached, 1);

        /* While anybody is attached, the kernel can't tell. */
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert_uint_eq(segment->holders, 2);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        ck_assert_uint_eq(segment->holders, 1);
        ck_assert_uint_eq(segment->idle_usec, 0);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert_uint_eq(segment->holders, 0);
        ck_assert_uint_eq(segment->idle_usec, now);
        ck_used(BOB, 0, 0, 0);
}
END_TEST

/* A descriptor may go without a word: the kernel must be asked, from the first moment on. */
START_TEST(test_detached_alone) {
        static const enum wire_lifetime lifetimes[] = { WIRE_LIFETIME_HOLDERS, WIRE_LIFETIME_LINGER };

        for (size_t i = 0; i < ELEMENTSOF(lifetimes); i++) {
                const struct segment_plan plan = plan_of("a", 4096, lifetimes[i]);
                struct segment *segment = create_unheld(&alice, &plan);

                open_as(&alice, segment, WRITE, true);
                ck_assert_uint_eq(segment->idle_usec, 0);
                watch(segment);
                /* And when it has been attached for a while. */
                open_as(&bob, segment, READ, false);
                unwatch(segment);
                registry_check(&registry);
                ck_assert_int_eq(release(&bob, segment, READ), 0);
                expect_idle(segment);
                ck_assert_int_eq(settle(segment), i == 0 ? SETTLED_FREE : SETTLED_LINGER);
                ck_used(ALICE, i == 0 ? 0 : 4096, i == 0 ? 0 : 1, 0);
        }
}
END_TEST

START_TEST(test_detached_of_unlinked) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        open_as(&bob, segment, READ, true);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_nothing_idle();
        registry_unlink(segment, ++now);
        registry_check(&registry);
        watch(segment);
        ck_assert_uint_eq(segment->holders, 1);
        unwatch(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
        ck_assert(RB_EMPTY(&quota.accounts));
}
END_TEST

/* With its connection a client's detached opens end as well, whoever inherited the descriptor. */
START_TEST(test_detached_client_dies) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_HOLDERS);

        open_as(&bob, segment, READ, true);
        open_as(&alice, segment, READ, true);
        end_client(&alice, ++now);
        registry_check(&registry);
        ck_assert_uint_eq(segment->holders, 1);
        ck_assert_uint_eq(segment->attached, 0);
        ck_assert_uint_eq(segment->idle_usec, 0);
        watch(segment);
        end_client(&bob, ++now);
        registry_check(&registry);
        ck_assert_uint_eq(segment->holders, 0);
        ck_assert_uint_eq(segment->idle_usec, now);
}
END_TEST

/* --- unlink --- */

START_TEST(test_unlink) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        registry_unlink(segment, ++now);
        registry_check(&registry);
        ck_assert_ptr_null(find("a"));
        ck_assert_ptr_eq(registry_find_id(&registry, segment->id), segment);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
        ck_assert_uint_eq(registry.nameless_count, 1);
        ck_assert_uint_eq(registry.segments, 1);
        ck_used(ALICE, 4096, 1, 1); /* it is there, and paid for */
        expect_nothing_idle();

        registry_unlink(segment, ++now); /* twice is once */
        registry_check(&registry);
        ck_assert_uint_eq(registry.nameless_count, 1);
        ck_assert_ptr_null(registry_next_name(&registry, "", 0, "", 0));
}
END_TEST

START_TEST(test_next_nameless) {
        struct segment *segments[7];

        ck_assert_ptr_null(registry_next_nameless(&registry, 0));
        for (unsigned i = 0; i < ELEMENTSOF(segments); i++)
                segments[i] = create(&alice, (char[]) { (char) ('g' - i), '\0' }, WIRE_LIFETIME_PERSIST);
        ck_assert_ptr_null(registry_next_nameless(&registry, 0));
        registry_unlink(segments[5], ++now);
        registry_unlink(segments[1], ++now);
        registry_unlink(segments[2], ++now);
        ck_assert_ptr_eq(registry_next_nameless(&registry, 0), segments[1]);
        ck_assert_ptr_eq(registry_next_nameless(&registry, segments[0]->id), segments[1]);
        ck_assert_ptr_eq(registry_next_nameless(&registry, segments[1]->id), segments[2]);
        ck_assert_ptr_eq(registry_next_nameless(&registry, segments[2]->id), segments[5]);
        ck_assert_ptr_eq(registry_next_nameless(&registry, segments[4]->id), segments[5]);
        ck_assert_ptr_null(registry_next_nameless(&registry, segments[5]->id));
        ck_assert_ptr_null(registry_next_nameless(&registry, UINT64_MAX));
        ck_assert_ptr_null(registry_next_nameless(&registry, UINT64_MAX - 1));
}
END_TEST

START_TEST(test_remove) {
        struct segment *a = create(&alice, "a", WIRE_LIFETIME_LINGER), *b = create(&alice, "b", WIRE_LIFETIME_PERSIST),
                       *c = create(&bob, "c", WIRE_LIFETIME_CREATOR);

        ck_assert_ptr_eq(registry_first(&registry), a);
        open_as(&bob, b, READ, false);
        open_as(&root, b, READ, true);
        registry_unlink(b, ++now);
        ck_assert_int_eq(release(&alice, a, WRITE), 0);
        expect_idle(a);
        ck_assert_int_eq(settle(a), SETTLED_LINGER);

        registry_remove(a);
        registry_check(&registry);
        ck_assert_ptr_null(registry_next_linger(&registry));
        ck_used(ALICE, 8192, 2, 1); /* charged until it is freed */
        segment_free(a);
        ck_used(ALICE, 4096, 1, 1);

        registry_remove(b);
        registry_check(&registry);
        ck_assert_uint_eq(b->holders, 0);
        ck_assert_uint_eq(b->attached, 0);
        ck_used(ALICE, 4096, 1, 0);
        ck_used(BOB, 4096, 1, 1);
        ck_assert_int_eq(hold_release(&bob, b->id, READ, ++now), SHMD_NOT_HELD);
        segment_free(b);
        ck_assert_ptr_eq(registry_first(&registry), c);
        ck_assert_uint_eq(registry.segments, 1);
        expect_nothing_idle();
}
END_TEST

/* --- owners --- */

/* Whose size its holders may change, as POSIX has it. */
static struct segment *create_sized(struct client *client, const char *name, uint64_t size) {
        struct segment_plan plan = plan_of(name, size, WIRE_LIFETIME_PERSIST);
        struct segment *segment;

        plan.posix = true;
        segment = create_unheld(client, &plan);
        open_as(client, segment, WRITE, false);
        return segment;
}

static int give_to(struct segment *segment, uid_t uid) {
        const struct ownership owner = { uid, 555, 0604 };
        int r = registry_set_owner(segment, &owner, &refusal);

        registry_check(&registry);
        return r;
}

static void ck_owner(const struct segment *segment, uid_t uid, gid_t gid, mode_t mode) {
        ck_assert_uint_eq(segment->owner.uid, uid);
        ck_assert_uint_eq(segment->owner.gid, gid);
        ck_assert_uint_eq(segment->owner.mode, mode);
        ck_assert_uint_eq(segment->count.account->uid, uid);
        ck_assert_uint_eq(segment->descriptor.account->uid, uid);
        ck_assert_uint_eq(segment->bytes.account->uid, uid);
}

START_TEST(test_set_owner) {
        struct segment *segment = create_sized(&alice, "a", 1000);

        ck_assert_int_eq(give_to(segment, BOB), 0);
        ck_owner(segment, BOB, 555, 0604);
        ck_used(ALICE, 0, 0, 1); /* the hold is hers still */
        ck_used(BOB, 1000, 1, 0);
        ck_assert_uint_eq(segment->creator.uid, ALICE);
        ck_assert_ptr_eq(segment->creator.client, &alice);

        ck_assert_int_eq(registry_set_owner(segment, &(struct ownership) { BOB, 1, 0 }, &refusal), 0);
        ck_owner(segment, BOB, 1, 0);
        ck_used(BOB, 1000, 1, 0);
}
END_TEST

START_TEST(test_set_owner_refused) {
        struct segment *segment = create_sized(&alice, "a", 1000);

        create_sized(&bob, "b", 50);
        quota.maximum[QUOTA_BYTES] = 1049;
        ck_assert_int_eq(give_to(segment, BOB), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_BYTES, BOB, 1000, 50, 1049);
        ck_owner(segment, ALICE, 100, 0640);
        ck_used(ALICE, 1000, 1, 1);
        ck_used(BOB, 50, 1, 1);

        quota.maximum[QUOTA_SEGMENTS] = 1;
        ck_assert_int_eq(give_to(segment, BOB), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_SEGMENTS, BOB, 1, 1, 1);
        ck_owner(segment, ALICE, 100, 0640);

        ck_assert_int_eq(give_to(segment, ROOT), 0); /* who has no limit */
        ck_used(ROOT, 1000, 1, 0);
}
END_TEST

/* She has more than she may already, as facts can't be refused; a refusal by him must leave all of it with her. */
START_TEST(test_set_owner_refused_from_beyond_the_limit) {
        struct segment *segment = create_sized(&alice, "a", 1000);

        create_sized(&alice, "b", 1000);
        create_sized(&alice, "c", 1000);
        quota.maximum[QUOTA_SEGMENTS] = 1;
        quota.maximum[QUOTA_BYTES] = 999;
        ck_assert_int_eq(give_to(segment, BOB), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_BYTES, BOB, 1000, 0, 999);
        ck_owner(segment, ALICE, 100, 0640);
        ck_used(ALICE, 3000, 3, 3);
        ck_used(BOB, 0, 0, 0);
        ck_assert_int_eq(give_to(segment, ALICE), 0); /* whose it is: no question of limits */
        ck_owner(segment, ALICE, 555, 0604);
}
END_TEST

START_TEST(test_refresh) {
        struct segment *segment = create_sized(&alice, "a", 1000), *refused = NULL;
        const struct segment_plan plan = plan_of("x", 0, WIRE_LIFETIME_PERSIST);

        quota.maximum[QUOTA_BYTES] = 2000;
        registry_refresh(segment, &(struct ownership) { ALICE, 7, 0600 }, 1500);
        registry_check(&registry);
        ck_owner(segment, ALICE, 7, 0600);
        ck_assert_uint_eq(segment->size, 1500);
        ck_assert_uint_eq(registry.bytes, 1500);

        /* A fact can't be refused; but nothing more is granted. */
        registry_refresh(segment, &segment->owner, 5000);
        registry_check(&registry);
        ck_used(ALICE, 5000, 1, 1);
        ck_assert_uint_eq(registry.bytes, 5000);
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &refused, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_BYTES, ALICE, 0, 5000, 2000);
        registry_refresh(segment, &segment->owner, 0);
        registry_check(&registry);
        ck_used(ALICE, 0, 1, 1);
        ck_assert_uint_eq(registry.bytes, 0);

        /* Another's, and of another size, at once; whatever his limits. */
        quota.maximum[QUOTA_SEGMENTS] = 0;
        registry_refresh(segment, &(struct ownership) { BOB, 8, 0644 }, 9000);
        registry_check(&registry);
        ck_owner(segment, BOB, 8, 0644);
        ck_used(ALICE, 0, 0, 1);
        ck_used(BOB, 9000, 1, 0);
        ck_assert_uint_eq(registry.bytes, 9000);
}
END_TEST

START_TEST(test_refresh_of_unlinked) {
        struct segment *segment = create_sized(&alice, "a", 1000);

        registry_unlink(segment, ++now);
        registry_refresh(segment, &(struct ownership) { BOB, 8, 0644 }, 2000);
        registry_check(&registry);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
        ck_assert_uint_eq(registry.bytes, 0);
        ck_assert(RB_EMPTY(&quota.accounts));
}
END_TEST

/* No memory for his account: it stays hers, all of it, whether or not there is some a moment later. */
START_TEST(test_refresh_without_memory) {
        struct segment *segment = create_sized(&alice, "a", 1000);
        const bool for_good = _i;

        faults_arm(1, for_good);
        registry_refresh(segment, &(struct ownership) { BOB, 8, 0644 }, 2000);
        ck_assert(faults_disarm());
        registry_check(&registry);
        ck_owner(segment, ALICE, 8, 0644);
        ck_assert_uint_eq(segment->size, 2000);
        ck_used(ALICE, 2000, 1, 1);
        ck_used(BOB, 0, 0, 0);

        registry_refresh(segment, &(struct ownership) { BOB, 8, 0644 }, 2000); /* the next look puts it right */
        registry_check(&registry);
        ck_owner(segment, BOB, 8, 0644);
        ck_used(ALICE, 0, 0, 1);
        ck_used(BOB, 2000, 1, 0);
}
END_TEST

/* A segment made of a file keeps two descriptors; they go with it from hand to hand. */
START_TEST(test_descriptors_of_file) {
        struct segment_plan plan = plan_of("a", 100, WIRE_LIFETIME_PERSIST);
        struct segment *segment;

        plan.backing = WIRE_BACKING_FILE;
        segment = create_unheld(&alice, &plan);
        registry_check(&registry);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_DESCRIPTORS), 2);
        ck_assert_int_eq(give_to(segment, BOB), 0);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_DESCRIPTORS), 0);
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_DESCRIPTORS), 2);
        registry_refresh(segment, &(struct ownership) { CAROL, 1, 0 }, 7);
        registry_check(&registry);
        ck_assert_uint_eq(quota_used(&quota, CAROL, QUOTA_DESCRIPTORS), 2);
        ck_assert_uint_eq(segment->size, 100);
}
END_TEST

static void ck_control(uid_t uid, uint64_t bytes, uint64_t descriptors) {
        registry_check(&registry);
        ck_assert_uint_eq(quota_used(&quota, uid, QUOTA_BYTES), bytes);
        ck_assert_uint_eq(quota_used(&quota, uid, QUOTA_DESCRIPTORS), descriptors);
}

/* What stands beside the memory is its owner's to pay for, each part once, and goes with it from hand to hand. */
START_TEST(test_control) {
        struct segment *segment = create_sized(&alice, "a", 1000);

        for (unsigned i = 0; i < 2; i++) {
                ck_assert_int_eq(registry_charge_control(segment, SHMD_WIRE_CONTROL_LOCK, 10, &refusal), 0);
                ck_control(ALICE, 1010, 2);
        }
        ck_assert_int_eq(registry_force_control(segment, SHMD_WIRE_CONTROL_MEETING, 20), 0);
        ck_control(ALICE, 1030, 3);
        ck_assert_int_eq(give_to(segment, BOB), 0);
        ck_control(ALICE, 0, 0);
        ck_control(BOB, 1030, 3);
        registry_refresh(segment, &(struct ownership) { CAROL, 1, 0 }, 1000);
        ck_control(BOB, 0, 0);
        ck_control(CAROL, 1030, 3);
        registry_refund_control(segment, SHMD_WIRE_CONTROL_LOCK);
        ck_control(CAROL, 1020, 2);
        registry_refund_control(segment, SHMD_WIRE_CONTROL_MEETING);
        ck_control(CAROL, 1000, 1);
}
END_TEST

/* Of what is refused nothing is charged. */
START_TEST(test_control_refused) {
        struct segment *segment = create_sized(&alice, "a", 1000);

        quota.maximum[QUOTA_BYTES] = 1009;
        ck_assert_int_eq(registry_charge_control(segment, SHMD_WIRE_CONTROL_LOCK, 10, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_BYTES, ALICE, 10, 1000, 1009);
        ck_control(ALICE, 1000, 1);
        quota.maximum[QUOTA_BYTES] = QUOTA_UNLIMITED;
        quota.maximum[QUOTA_DESCRIPTORS] = 1;
        ck_assert_int_eq(registry_charge_control(segment, SHMD_WIRE_CONTROL_LOCK, 10, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_DESCRIPTORS, ALICE, 1, 1, 1);
        ck_control(ALICE, 1000, 1);
}
END_TEST

static struct segment *restore(uint64_t id, const char *name, enum wire_state state, struct segment_times times) {
        const struct state_segment kept = {
                .id = id,
                .times = times,
                .owner = { ALICE, 100, 0640 },
                .state = state,
                .had_name = true,
                .truncated = true,
                .plan = plan_of(name, 100, WIRE_LIFETIME_LINGER),
        };
        struct segment *segment = NULL;

        ck_assert_int_eq(registry_restore(&registry, &kept, NULL, 5000, &segment), 0);
        registry_check(&registry);
        return segment;
}

/* Those of an earlier daemon are as they were, and their ids are not given again. */
START_TEST(test_restore) {
        struct segment *lingers = restore(170, "lingers", WIRE_STATE_PUBLISHED, (struct segment_times) { 1, 2, 3 });
        struct segment *unlinked = restore(190, "unlinked", WIRE_STATE_UNLINKED, (struct segment_times) { 1, 0, 3 });
        struct segment *next;

        ck_assert_uint_eq(lingers->idle_usec, 2);
        ck_assert_ptr_eq(registry_next_linger(&registry), lingers);
        ck_assert_uint_eq(lingers->linger_until_usec, 3);
        ck_assert(lingers->truncated);
        ck_assert(lingers->handed_out); /* somebody may have it: the kernel is to be asked */
        ck_assert_uint_eq(unlinked->idle_usec, 5000); /* whenever it was that it was held no more */
        ck_assert_uint_eq(unlinked->linger_until_usec, 0);
        ck_assert(unlinked->had_name);
        next = create_sized(&alice, "next", 1);
        ck_assert_uint_eq(next->id, 191);
}
END_TEST

/* What nobody can map may be the size of a file all the same: no sum comes round. */
START_TEST(test_refresh_of_giants) {
        static const uint64_t sizes[] = { INT64_MAX, INT64_MAX, 2 };
        struct segment *segments[3], *refused = NULL;
        const struct segment_plan plan = plan_of("x", 1, WIRE_LIFETIME_PERSIST);

        for (unsigned i = 0; i < 3; i++)
                segments[i] = create_sized(&alice, (char[]) { (char) ('a' + i), '\0' }, 0);
        quota.maximum[QUOTA_BYTES] = 1000000;
        quota.pool[QUOTA_BYTES] = 2000000;
        for (unsigned i = 0; i < 3; i++) {
                registry_refresh(segments[i], &segments[i]->owner, sizes[i]);
                registry_check(&registry);
                ck_assert_uint_eq(segments[i]->size, sizes[i]);
                ck_assert_uint_eq(segments[i]->maximum, sizes[i]);
        }
        ck_assert_uint_gt(quota_used(&quota, ALICE, QUOTA_BYTES), quota.maximum[QUOTA_BYTES]);
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &refused, &refusal), SHMD_OVER_LIMIT);
        /* Nobody else is any the worse for it. */
        ck_assert_uint_eq(quota_maximum(&quota, BOB, QUOTA_BYTES), 750000);
        create(&bob, "y", WIRE_LIFETIME_PERSIST);
        for (unsigned i = 0; i < 3; i++)
                registry_refresh(segments[i], &segments[i]->owner, 0);
        registry_check(&registry);
        ck_used(ALICE, 0, 3, 3);
        ck_assert_uint_eq(quota.total[QUOTA_BYTES], 4096);
}
END_TEST

/* The size of what is not POSIX's is not for anybody to change behind shmd's back. */
START_TEST(test_refresh_of_plain) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        registry_refresh(segment, &(struct ownership) { BOB, 1, 0600 }, 10000);
        registry_check(&registry);
        ck_owner(segment, BOB, 1, 0600);
        ck_assert_uint_eq(segment->size, 4096);
        ck_used(BOB, 4096, 1, 0);
        ck_assert_uint_eq(quota_used(&quota, BOB, QUOTA_DESCRIPTORS), 1);
        ck_assert_uint_eq(quota_used(&quota, ALICE, QUOTA_DESCRIPTORS), 0);
}
END_TEST

/* --- not yet published --- */

static int may_publish(struct client *client, struct segment *const *segments, size_t count, bool replace) {
        uint64_t ids[SHMD_DESCRIPTORS_MAX];

        for (size_t i = 0; i < count; i++)
                ids[i] = segments[i]->id;
        memset(&refusal, 0, sizeof(refusal));
        return registry_may_publish(client, ids, count, replace, &refusal);
}

static int publish(struct client *client, struct segment *segment, bool replace) {
        int r = may_publish(client, &segment, 1, replace);

        if (r == 0)
                registry_publish(segment, ++now);
        registry_check(&registry);
        return r;
}

START_TEST(test_unpublished) {
        struct segment *taken = create(&bob, "a", WIRE_LIFETIME_PERSIST);
        struct segment *segment = create_unpublished(&alice, "a"); /* whoever has the name */

        ck_assert_int_eq(segment->state, WIRE_STATE_UNPUBLISHED);
        ck_assert(!segment->had_name);
        ck_assert_ptr_eq(find("a"), taken);
        ck_assert_ptr_null(registry_next_name(&registry, "", 0, "a", 1));
        ck_assert_ptr_eq(registry_find_id(&registry, segment->id), segment);
        ck_assert_ptr_eq(registry_next_nameless(&registry, 0), segment);
        ck_assert_uint_eq(registry.segments, 2);
        ck_assert_uint_eq(registry.nameless_count, 1);
        ck_assert_uint_eq(registry.bytes, 8192);
        ck_used(ALICE, 4096, 1, 1);
        ck_assert_int_eq(rename_to(segment, "b"), SHMD_NOT_FOUND);
        expect_nothing_idle();

        ck_assert_int_eq(publish(&alice, segment, false), SHMD_EXISTS);
        ck_assert_uint_eq(refusal.item, 0);
        registry_unlink(taken, ++now);
        ck_assert_int_eq(publish(&alice, segment, false), 0);
        ck_assert_int_eq(segment->state, WIRE_STATE_PUBLISHED);
        ck_assert(segment->had_name);
        ck_assert_ptr_eq(find("a"), segment);
        ck_assert_uint_eq(registry.nameless_count, 1);
        ck_assert_int_eq(publish(&alice, segment, true), SHMD_NOT_FOUND); /* only once */
        expect_nothing_idle();
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

/* Its creator lets go of it: it will never be published, whatever its lifetime; nobody hears of it but that it went. */
START_TEST(test_unpublished_is_given_up) {
        for (enum wire_lifetime lifetime = WIRE_LIFETIME_PERSIST; lifetime <= WIRE_LIFETIME_CREATOR; lifetime++) {
                struct segment *segment;

                observe_from_now_on();
                segment = create_unpublished(&alice, "a");
                ck_assert_int_eq(registry_set_lifetime(segment, lifetime, 10, ++now), 0);
                registry_check(&registry);
                open_as(&alice, segment, READ, true);
                open_as(&alice, segment, READ, false);
                ck_assert_int_eq(release(&alice, segment, WRITE), 0);
                ck_assert_int_eq(segment->state, WIRE_STATE_UNPUBLISHED);
                if (lifetime % 2 == 0)
                        ck_assert_int_eq(release(&alice, segment, READ), 0);
                else {
                        end_client(&alice, ++now);
                        client_init(&alice, &registry, &alice_credentials);
                }
                ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
                ck_assert(!segment->had_name);
                ck_assert_int_eq(publish(&alice, segment, false), SHMD_NOT_FOUND);
                expect_event(segment, WIRE_EVENT_CREATED);
                expect_idle(segment);
                expect_no_more_events();
                ck_assert_int_eq(registry_settle(segment, 1, ++now), SETTLED_FREE);
                registry_check(&registry);
                expect_event(segment, WIRE_EVENT_FREED);
                expect_no_more_events();
                segment_free(segment);
        }
        ck_assert(RB_EMPTY(&quota.accounts));
}
END_TEST

/* Its creator has given a descriptor away, and dies before it has published: it goes with the last who has it. */
START_TEST(test_creator_of_unpublished_dies) {
        struct segment *segment = create_unpublished(&alice, "a");

        open_as(&bob, segment, READ, false);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNPUBLISHED); /* somebody has it */
        ck_assert_int_eq(publish(&bob, segment, false), SHMD_NOT_FOUND); /* but it is not his */
        ck_assert_int_eq(publish(&root, segment, false), SHMD_NOT_FOUND); /* nor an administrator's */
        ck_assert(!client_reap(&alice, 0, ++now));
        ck_assert_int_eq(segment->state, WIRE_STATE_UNPUBLISHED);
        end_client(&alice, ++now);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
        ck_assert_ptr_null(segment->creator.client);
        expect_nothing_idle();
        ck_assert_int_eq(release(&bob, segment, READ), 0);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

START_TEST(test_publish_replaces) {
        struct segment *old = create(&alice, "a", WIRE_LIFETIME_PERSIST), *theirs = create(&bob, "b", WIRE_LIFETIME_PERSIST);
        struct segment *new = create_unpublished(&alice, "a"), *b = create_unpublished(&alice, "b");

        open_as(&bob, old, READ, false);
        ck_assert_int_eq(publish(&alice, new, false), SHMD_EXISTS);
        observe_from_now_on();
        ck_assert_int_eq(publish(&alice, new, true), 0);
        ck_assert_ptr_eq(find("a"), new);
        ck_assert_int_eq(old->state, WIRE_STATE_UNLINKED);
        ck_assert_uint_eq(old->holders, 2); /* who has it keeps it */
        expect_event(old, WIRE_EVENT_UNLINKED);
        expect_event(new, WIRE_EVENT_PUBLISHED);
        expect_no_more_events();
        ck_assert_uint_eq(registry.nameless_count, 2);

        ck_assert_int_eq(publish(&alice, b, true), SHMD_NOT_OWNER); /* it isn't hers to unlink */
        ck_assert_ptr_eq(find("b"), theirs);
        ck_assert_int_eq(registry_set_owner(theirs, &(struct ownership) { ALICE, 1, 0 }, &refusal), 0);
        ck_assert_int_eq(publish(&alice, b, true), 0);
        ck_assert_ptr_eq(find("b"), b);

        b = create_unpublished(&root, "b"); /* who may everything */
        ck_assert_int_eq(publish(&root, b, true), 0);
        ck_assert_ptr_eq(find("b"), b);
        b = create_unpublished(&root, "c"); /* nothing is there to be replaced */
        ck_assert_int_eq(publish(&root, b, true), 0);
        ck_assert_ptr_eq(find("c"), b);
}
END_TEST

/* All or none: the first that may not be published is named. */
START_TEST(test_publish_several) {
        struct segment *a = create_unpublished(&alice, "a"), *also_a = create_unpublished(&alice, "a");
        struct segment *b = create_unpublished(&alice, "b"), *ab = create_unpublished(&alice, "ab");
        struct segment *his = create_unpublished(&bob, "c"), *named = create(&alice, "d", WIRE_LIFETIME_PERSIST);
        struct segment *root_has = create(&root, "b", WIRE_LIFETIME_PERSIST), *given_up = create_unpublished(&alice, "e");
        const uint64_t nothing[] = { a->id, 4711 };

        ck_assert_int_eq(release(&alice, given_up, WRITE), 0);
        const struct {
                struct segment *segments[4];
                size_t count;
                bool replace;
                int result;
                uint32_t item;
        } rows[] = {
                { { a }, 1, false, 0, 0 },
                { { a, ab }, 2, false, 0, 0 },
                { { a, also_a }, 2, false, SHMD_INVALID, 1 },
                { { a, also_a }, 2, true, SHMD_INVALID, 1 },
                { { ab, a, also_a, b }, 4, false, SHMD_INVALID, 2 },
                { { a, ab, a }, 3, true, SHMD_INVALID, 2 },
                { { b, a }, 2, false, SHMD_EXISTS, 0 },
                { { a, b, also_a }, 3, false, SHMD_EXISTS, 1 },
                { { a, ab, b }, 3, true, SHMD_NOT_OWNER, 2 },
                { { a, his }, 2, false, SHMD_NOT_FOUND, 1 },
                { { named }, 1, true, SHMD_NOT_FOUND, 0 },
                { { a, given_up }, 2, true, SHMD_NOT_FOUND, 1 },
                { { a }, 0, false, 0, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                ck_assert_int_eq(may_publish(&alice, rows[i].segments, rows[i].count, rows[i].replace), rows[i].result);
                ck_assert_uint_eq(refusal.item, rows[i].item);
        }
        ck_assert_int_eq(registry_may_publish(&alice, nothing, 2, true, &refusal), SHMD_NOT_FOUND);
        ck_assert_uint_eq(refusal.item, 1);

        /* To ask changes nothing. */
        ck_assert_ptr_null(find("a"));
        ck_assert_ptr_eq(find("b"), root_has);
        registry_unlink(root_has, ++now);
        ck_assert_int_eq(may_publish(&alice, (struct segment *[]) { b, ab, a }, 3, false), 0);
        registry_publish(b, ++now);
        registry_publish(ab, ++now);
        registry_publish(a, ++now);
        registry_check(&registry);
        ck_assert_ptr_eq(find("a"), a);
        ck_assert_ptr_eq(find("ab"), ab);
        ck_assert_ptr_eq(find("b"), b);
        ck_assert_int_eq(publish(&alice, also_a, true), 0);
        ck_assert_int_eq(a->state, WIRE_STATE_UNLINKED);
}
END_TEST

/* As many as fit one message. */
START_TEST(test_publish_most) {
        struct segment *segments[SHMD_DESCRIPTORS_MAX];

        for (unsigned i = 0; i < ELEMENTSOF(segments); i++) {
                char name[] = { (char) ('a' + i / 26), (char) ('a' + i % 26), '\0' };

                segments[i] = create_unpublished(&alice, name);
        }
        ck_assert_int_eq(may_publish(&alice, segments, ELEMENTSOF(segments), false), 0);
        for (unsigned i = 0; i < ELEMENTSOF(segments); i++)
                registry_publish(segments[i], ++now);
        registry_check(&registry);
        ck_assert_uint_eq(registry.nameless_count, 0);
        ck_assert_ptr_null(registry_next_nameless(&registry, 0));
}
END_TEST

/* --- lifetimes that change --- */

START_TEST(test_set_lifetime) {
        struct segment *segment = create_idle(&alice, "a", WIRE_LIFETIME_PERSIST);

        expect_nothing_idle();
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_HOLDERS, 0, ++now), 0);
        registry_check(&registry);
        expect_idle(segment); /* nobody has it already */
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_PERSIST, 0, ++now), 0);
        ck_assert_int_eq(settle(segment), SETTLED_KEEP);
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_LINGER, 100, ++now), 0);
        ck_assert_uint_eq(segment->linger_usec, 100);
        expect_idle(segment);
        ck_assert_int_eq(settle_at(segment, 1000), SETTLED_LINGER);
        ck_assert_uint_eq(segment->linger_until_usec, 1100);

        /* Another time: it runs anew. */
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_LINGER, 500, ++now), 0);
        registry_check(&registry);
        ck_assert_ptr_null(registry_next_linger(&registry));
        expect_idle(segment);
        ck_assert_int_eq(settle_at(segment, 1050), SETTLED_LINGER);
        ck_assert_uint_eq(segment->linger_until_usec, 1550);
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_CREATOR, 0, ++now), 0);
        registry_check(&registry);
        ck_assert_ptr_null(registry_next_linger(&registry));
        expect_nothing_idle();
        ck_assert_uint_eq(segment->linger_until_usec, 0);

        end_client(&alice, ++now);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

START_TEST(test_set_lifetime_while_held) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_HOLDERS);

        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_LINGER, 7, ++now), 0);
        expect_nothing_idle();
        ck_assert_uint_eq(segment->idle_usec, 0);
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_PERSIST, 0, ++now), 0);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_nothing_idle();
        ck_assert_ptr_eq(find("a"), segment);
}
END_TEST

START_TEST(test_set_lifetime_without_creator) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_LINGER);

        end_client(&alice, ++now);
        expect_idle(segment);
        ck_assert_int_eq(settle_at(segment, 1000), SETTLED_LINGER);
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_CREATOR, 0, ++now), SHMD_CREATOR_GONE);
        ck_assert_int_eq(segment->lifetime, WIRE_LIFETIME_LINGER); /* as it was */
        ck_assert_ptr_eq(registry_next_linger(&registry), segment);
        registry_check(&registry);
}
END_TEST

/* What has no name goes when nobody has it, whatever else is said of it. */
START_TEST(test_set_lifetime_of_unlinked) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        registry_unlink(segment, ++now);
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_LINGER, 1000, ++now), 0);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        ck_assert_int_eq(registry_set_lifetime(segment, WIRE_LIFETIME_PERSIST, 0, ++now), 0);
        registry_check(&registry);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
}
END_TEST

/* --- sizes, freezing --- */

START_TEST(test_set_size) {
        struct segment_plan plan = plan_of("a", 4096, WIRE_LIFETIME_PERSIST);
        struct segment *segment;

        plan.resizable = true;
        plan.maximum = 65536;
        segment = create_unheld(&alice, &plan);
        open_as(&alice, segment, WRITE, false);
        observe_from_now_on();
        ck_used(ALICE, 65536, 1, 1);
        registry_set_size(segment, 65536);
        registry_check(&registry);
        registry_set_size(segment, 1);
        registry_check(&registry);
        ck_assert_uint_eq(segment->size, 1);
        ck_assert_uint_eq(segment->maximum, 65536);
        ck_assert_uint_eq(registry.bytes, 65536);
        ck_used(ALICE, 65536, 1, 1);
        expect_event(segment, WIRE_EVENT_RESIZED);
        expect_event(segment, WIRE_EVENT_RESIZED);
        expect_no_more_events();
        ck_assert_uint_eq(events[0].size, 65536);
        ck_assert_uint_eq(events[1].size, 1);

        ck_assert_int_eq(give_to(segment, BOB), 0); /* all that it may grow to */
        ck_used(BOB, 65536, 1, 0);
        registry_refresh(segment, &(struct ownership) { CAROL, 1, 0 }, 65536); /* the file is that long all the time */
        registry_check(&registry);
        ck_assert_uint_eq(segment->size, 1);
        ck_used(CAROL, 65536, 1, 0);
        expect_no_more_events();
}
END_TEST

START_TEST(test_set_frozen) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        observe_from_now_on();
        registry_set_frozen(segment);
        registry_check(&registry);
        ck_assert_int_eq(segment->state, WIRE_STATE_FROZEN);
        ck_assert(segment->frozen);
        ck_assert_ptr_eq(find("a"), segment);
        expect_event(segment, WIRE_EVENT_FROZEN);
        registry_set_frozen(segment); /* it is already */
        expect_no_more_events();
        ck_assert_int_eq(rename_to(segment, "b"), 0);
        expect_event(segment, WIRE_EVENT_RENAMED);
        ck_assert_int_eq(segment->state, WIRE_STATE_FROZEN);
        registry_unlink(segment, ++now);
        registry_check(&registry);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
        ck_assert(segment->frozen);
        expect_event(segment, WIRE_EVENT_UNLINKED);
        expect_no_more_events();
}
END_TEST

START_TEST(test_set_frozen_unpublished) {
        struct segment *segment = create_unpublished(&alice, "a");

        registry_set_frozen(segment);
        registry_check(&registry);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNPUBLISHED);
        ck_assert_int_eq(publish(&alice, segment, false), 0);
        ck_assert_int_eq(segment->state, WIRE_STATE_FROZEN);
        ck_assert_ptr_eq(find("a"), segment);
}
END_TEST

START_TEST(test_set_frozen_unlinked) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        registry_unlink(segment, ++now);
        registry_set_frozen(segment);
        registry_check(&registry);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
        ck_assert(segment->frozen);
}
END_TEST

/* A frozen segment lives as others do. */
START_TEST(test_frozen_lifetime) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_LINGER);
        struct segment *creators = create(&alice, "b", WIRE_LIFETIME_CREATOR);

        registry_set_frozen(segment);
        registry_set_frozen(creators);
        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_LINGER);
        registry_linger_over(segment, ++now);
        registry_check(&registry);
        ck_assert_ptr_null(find("a"));
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
        end_client(&alice, ++now);
        ck_assert_ptr_null(find("b"));
}
END_TEST

/* --- what is told --- */

START_TEST(test_events) {
        struct segment *a, *b;

        observe_from_now_on();
        a = create(&alice, "a", WIRE_LIFETIME_HOLDERS);
        expect_event(a, WIRE_EVENT_CREATED);
        ck_assert_int_eq(events[0].state, WIRE_STATE_PUBLISHED);
        expect_event(a, WIRE_EVENT_PUBLISHED);
        expect_no_more_events();
        b = create_unpublished(&alice, "b");
        expect_event(b, WIRE_EVENT_CREATED);
        ck_assert_int_eq(events[2].state, WIRE_STATE_UNPUBLISHED);
        expect_no_more_events();
        ck_assert_int_eq(publish(&alice, b, false), 0);
        expect_event(b, WIRE_EVENT_PUBLISHED);
        ck_assert_int_eq(events[3].state, WIRE_STATE_PUBLISHED);

        ck_assert_int_eq(rename_to(a, "c"), 0);
        expect_event(a, WIRE_EVENT_RENAMED);
        ck_assert_str_eq(events[4].old_name, "a");
        expect_no_more_events();
        ck_assert_int_eq(rename_to(a, "c"), 0); /* nothing happens */
        ck_assert_int_eq(rename_to(a, "b"), SHMD_EXISTS);
        ck_assert_int_eq(registry_set_lifetime(a, WIRE_LIFETIME_HOLDERS, 0, ++now), 0);
        ck_assert_int_eq(registry_set_owner(a, &(struct ownership) { ALICE, 1, 0 }, &refusal), 0);
        ck_assert_int_eq(may_publish(&alice, &a, 1, true), SHMD_NOT_FOUND);
        open_as(&bob, a, READ, false);
        ck_assert_int_eq(release(&bob, a, READ), 0);
        ck_assert_int_eq(release(&alice, a, WRITE), 0);
        expect_no_more_events();
        expect_idle(a);
        ck_assert_int_eq(registry_settle(a, 1, ++now), SETTLED_FREE);
        expect_event(a, WIRE_EVENT_UNLINKED);
        expect_event(a, WIRE_EVENT_FREED);
        expect_no_more_events();
        segment_free(a);

        registry_unlink(b, ++now);
        registry_unlink(b, ++now);
        expect_event(b, WIRE_EVENT_UNLINKED);
        ck_assert_int_eq(events[n_expected - 1].state, WIRE_STATE_UNLINKED);
        expect_no_more_events();
        end_client(&alice, ++now);
        expect_no_more_events();
        expect_idle(b);
        ck_assert_int_eq(registry_settle(b, 1, ++now), SETTLED_FREE);
        expect_event(b, WIRE_EVENT_FREED);
        expect_no_more_events();
        segment_free(b);
}
END_TEST

START_TEST(test_events_of_lifetimes) {
        struct segment *creators = create(&alice, "a", WIRE_LIFETIME_CREATOR), *lingering = create_linger(&bob, "b", 10);

        observe_from_now_on();
        end_client(&alice, ++now);
        expect_event(creators, WIRE_EVENT_UNLINKED);
        end_client(&bob, ++now);
        expect_no_more_events();
        ck_assert_int_eq(settle(lingering), SETTLED_LINGER);
        expect_no_more_events();
        registry_linger_over(lingering, ++now);
        expect_event(lingering, WIRE_EVENT_UNLINKED);
        expect_no_more_events();
}
END_TEST

/* An aborted reservation was never there. */
START_TEST(test_events_of_abort) {
        const struct segment_plan plan = plan_of("a", 1, WIRE_LIFETIME_PERSIST);
        struct segment *segment;

        observe_from_now_on();
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), 0);
        registry_abort(segment);
        expect_no_more_events();
}
END_TEST

/* --- reservations of a batch --- */

static struct hold *reserve(struct client *client, struct segment *segment) {
        struct hold *hold = NULL;

        ck_assert_int_eq(hold_reserve(client, segment, &hold, &refusal), 0);
        return hold;
}

/* The same segment twice in one request: one hold, whatever becomes of each. */
START_TEST(test_reserved_twice) {
        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_PERSIST);

        for (unsigned commits = 0; commits < 8; commits++) {
                struct hold *holds[3];
                unsigned opens = 0;

                for (unsigned i = 0; i < 3; i++)
                        holds[i] = reserve(&bob, segment);
                ck_assert_ptr_eq(holds[0], holds[1]);
                ck_assert_ptr_eq(holds[1], holds[2]);
                ck_used(BOB, 0, 0, 1);
                ck_assert_uint_eq(segment->holders, 1);
                for (unsigned i = 0; i < 3; i++) {
                        if (commits & (1u << i)) {
                                hold_commit(holds[i], i == 1 ? WRITE : READ, false, ++now);
                                opens++;
                        } else
                                hold_abort(holds[i]);
                        ck_assert_uint_eq(segment->holders, opens > 0 ? 2 : 1);
                        ck_assert_uint_eq(segment->attached, opens > 0 ? 2 : 1);
                        registry_check(&registry);
                }
                ck_used(BOB, 0, 0, opens > 0);
                for (unsigned i = 0; i < 3; i++)
                        if (commits & (1u << i))
                                ck_assert_int_eq(release(&bob, segment, i == 1 ? WRITE : READ), 0);
                ck_used(BOB, 0, 0, 0);
                ck_assert_uint_eq(registry.holds, 1);
        }
}
END_TEST

/* At the limit the second one of the same segment costs nothing; one of another does. */
START_TEST(test_reserved_at_limit) {
        struct segment *a = create(&alice, "a", WIRE_LIFETIME_PERSIST), *b = create(&alice, "b", WIRE_LIFETIME_PERSIST);
        struct hold *first, *second, *none = NULL;

        quota.maximum[QUOTA_HOLDS] = 1;
        first = reserve(&bob, a);
        ck_assert_int_eq(hold_reserve(&bob, b, &none, &refusal), SHMD_OVER_LIMIT);
        ck_assert_ptr_null(none);
        second = reserve(&bob, a);
        hold_abort(first);
        ck_used(BOB, 0, 0, 1);
        hold_abort(second);
        ck_used(BOB, 0, 0, 0);
        open_as(&bob, b, READ, false);
}
END_TEST

/* --- the death of one who has much --- */

START_TEST(test_reap_in_pieces) {
        struct segment *segments[10];
        unsigned turns = 1;

        for (unsigned i = 0; i < ELEMENTSOF(segments); i++) {
                char name[] = { (char) ('a' + i), '\0' };

                segments[i] = create(&alice, name, i % 2 == 0 ? WIRE_LIFETIME_CREATOR : WIRE_LIFETIME_HOLDERS);
        }
        ck_assert(!client_reap(&alice, 0, ++now));
        ck_assert_uint_eq(registry.holds, 10);
        while (!client_reap(&alice, 1, ++now)) {
                registry_check(&registry);
                ck_assert_uint_eq(registry.holds, turns < 10 ? 10 - turns : 0);
                ck_used(ALICE, 4096 * 10, 10, registry.holds);
                turns++;
        }
        ck_assert_uint_eq(turns, 20); /* holds, and what it created */
        ck_assert(client_reap(&alice, 0, ++now));
        ck_assert_uint_eq(registry.nameless_count, 5);
        for (unsigned i = 0; i < ELEMENTSOF(segments); i++)
                ck_assert_int_eq(segments[i]->state, i % 2 == 0 ? WIRE_STATE_UNLINKED : WIRE_STATE_PUBLISHED);
}
END_TEST

/* Meanwhile others go on; what goes in other ways is not its any more. */
START_TEST(test_reap_and_others) {
        struct segment *a = create(&alice, "a", WIRE_LIFETIME_HOLDERS), *b = create(&alice, "b", WIRE_LIFETIME_CREATOR);
        struct segment *c = create(&bob, "c", WIRE_LIFETIME_PERSIST);

        open_as(&alice, c, READ, false);
        (void) client_reap(&alice, 1, ++now);
        registry_check(&registry);
        registry_remove(c);
        segment_free(c);
        registry_check(&registry);
        open_as(&bob, b, READ, false);
        open_as(&bob, a, READ, false);
        (void) client_reap(&alice, 2, ++now);
        registry_check(&registry);
        registry_remove(a);
        segment_free(a);
        end_client(&alice, ++now);
        ck_assert_int_eq(b->state, WIRE_STATE_UNLINKED);
        ck_assert_ptr_null(b->creator.client);
        ck_used(ALICE, 4096, 1, 0);
}
END_TEST

/* --- the end --- */

START_TEST(test_registry_done) {
        for (unsigned i = 0; i < 8; i++)
                create_linger(&alice, (char[]) { (char) ('a' + i), '\0' }, 10);
        registry_unlink(find("b"), ++now);
        end_client(&alice, ++now);
        registry_check(&registry);
        ck_assert_int_eq(settle(find("c")), SETTLED_LINGER);
        registry_done(&registry);
        expect_nothing_idle();
        ck_assert_ptr_null(registry_first(&registry));
}
END_TEST

/* --- does registry_check() see anything? --- */

/* As in the registry, for it alone. */
static int compare_ids(struct segment *a, struct segment *b) {
        return (a->id > b->id) - (a->id < b->id);
}
TREE_GENERATE(nameless_tree, segment, by_name, compare_ids)

static void break_it(int how, struct segment *held, struct segment *idle, struct segment *unpublished) {
        struct hold *hold = TAILQ_FIRST(&held->holds);

        switch (how) {
        case 0: registry.segments++; break;
        case 1: registry.nameless_count++; break;
        case 2: registry.bytes--; break;
        case 3: registry.holds--; break;
        case 4: held->holders++; break;
        case 5: held->attached--; break;
        case 6: held->state = WIRE_STATE_UNLINKED; registry.nameless_count++; break;
        case 7: held->state = WIRE_STATE_UNPUBLISHED; break;
        case 8: held->maximum++; break;
        case 9: held->owner.uid = BOB; break;
        case 10: held->handed_out = false; break;
        case 11: held->idle_usec = 1; break;
        case 12: hold->attached[WRITE] = 0; held->attached--; break;
        case 13: hold->key = 0; break;
        case 14: hold->client = &bob; break;
        case 15: expect_idle(idle); break;
        case 16: registry.next_id = held->id; break;
        case 17: charge_done(&hold->charge); break;
        case 18: held->count.amount++; break;
        case 19: idle->name[0] = 'z'; break;
        case 20: idle->idle_usec = 0; break;
        case 21: held->size++; break;
        case 22: held->descriptor.amount = 2; break;
        case 23: charge_force(&held->descriptor, BOB, 1); break;
        case 24: charge_force(&held->count, BOB, 1); break;
        case 25: charge_force(&held->bytes, held->owner.uid, 9); registry.bytes--; break;
        case 26: hold->attached[WRITE] = 0; hold->detached[WRITE] = 1; break;
        case 27: unpublished->creator.client = NULL; break;
        case 28:
                hold = TAILQ_FIRST(&unpublished->holds);
                hold->attached[WRITE] = 0;
                hold->detached[WRITE] = 1;
                unpublished->attached = 0;
                break;
        case 29: unpublished->state = WIRE_STATE_PUBLISHED; registry.nameless_count--; break;
        case 30: RB_REMOVE(nameless_tree, &registry.nameless, unpublished); break;
        default: break;
        }
}
#define N_BROKEN 31

START_TEST(test_check_aborts) {
        const struct rlimit no_core = { 0, 0 };
        struct segment *held = create_sized(&alice, "b", 10), *idle = create_idle(&alice, "a", WIRE_LIFETIME_HOLDERS);
        struct segment *unpublished = create_unpublished(&alice, "u");

        registry_check(&registry);
        setrlimit(RLIMIT_CORE, &no_core);
        break_it(_i, held, idle, unpublished);
        registry_check(&registry);
}
END_TEST

/* --- without memory --- */

/* Everything that a failure must leave as it was. */
struct picture {
        uint64_t used[4][QUOTA_COUNT];
        uint64_t segments, nameless, bytes, holds, accounts, live;
        struct ownership owner;
        struct segment *first, *named, *renamed;
        uint32_t holders;
};

static unsigned count_accounts(const struct account *top) {
        return top ? 1 + count_accounts(RB_LEFT(top, by_uid)) + count_accounts(RB_RIGHT(top, by_uid)) : 0;
}

static void take_picture(struct picture *ret) {
        memset(ret, 0, sizeof(*ret));
        for (unsigned i = 0; i < 4; i++)
                for (enum quota_resource r = 0; r < QUOTA_COUNT; r++)
                        ret->used[i][r] = quota_used(&quota, i < 3 ? ALICE + i : ROOT, r);
        ret->segments = registry.segments;
        ret->nameless = registry.nameless_count;
        ret->bytes = registry.bytes;
        ret->holds = registry.holds;
        ret->accounts = count_accounts(RB_ROOT(&quota.accounts));
        ret->live = faults_live();
        ret->first = registry_first(&registry);
        ret->owner = ret->first->owner;
        ret->holders = ret->first->holders;
        ret->named = find("a");
        ret->renamed = find("new");
}

static int reserve_and_abort(struct segment *segment) {
        struct segment_plan plan = plan_of("new", 10, WIRE_LIFETIME_HOLDERS);
        struct segment *reserved = NULL;
        int r;

        (void) segment;
        plan.labels = "k=v\n";
        plan.labels_size = 4;
        r = registry_reserve(&registry, &bob, &plan, ++now, &reserved, &refusal);
        if (r != 0 && reserved)
                return -EINVAL; /* outputs are touched on success alone */
        registry_abort(reserved);
        return r;
}

static int reserve_unpublished_and_abort(struct segment *segment) {
        struct segment_plan plan = plan_of("a", 10, WIRE_LIFETIME_HOLDERS); /* a name that is taken */
        struct segment *reserved = NULL;
        struct hold *hold = NULL;
        int r;

        (void) segment;
        plan.unpublished = true;
        r = registry_reserve(&registry, &bob, &plan, ++now, &reserved, &refusal);
        if (r != 0)
                return reserved ? -EINVAL : r;
        r = hold_reserve(&bob, reserved, &hold, &refusal);
        hold_abort(hold);
        registry_abort(reserved);
        return r;
}

static int hold_twice_and_abort(struct segment *segment) {
        struct hold *first = NULL, *second = NULL;
        int r = hold_reserve(&bob, segment, &first, &refusal), r2;

        r2 = hold_reserve(&bob, segment, &second, &refusal); /* may succeed where the first did not */
        hold_abort(first);
        hold_abort(second);
        return r != 0 ? r : r2;
}

static int hold_and_abort(struct segment *segment) {
        struct hold *hold = NULL;
        int r = hold_reserve(&bob, segment, &hold, &refusal);

        if (r != 0 && hold)
                return -EINVAL;
        hold_abort(hold);
        return r;
}

static int rename_once(struct segment *segment) {
        return registry_rename(segment, "new", 3);
}

static int chown_once(struct segment *segment) {
        return registry_set_owner(segment, &(struct ownership) { BOB, 1, 0 }, &refusal);
}

static int chown_over_limit(struct segment *segment) {
        int r;

        quota.maximum[QUOTA_BYTES] = 10;
        r = chown_once(segment);
        return r == SHMD_OVER_LIMIT ? 0 : r;
}

static const struct {
        int (*operation)(struct segment *segment);
        unsigned allocations;
        bool changes; /* if it succeeds */
} faulty[] = {
        { reserve_and_abort, 4, false }, /* segment, name, labels, account */
        { reserve_unpublished_and_abort, 4, false }, /* segment, name, account, hold */
        { hold_and_abort, 2, false },
        { hold_twice_and_abort, 2, false },
        { rename_once, 1, true },
        { chown_once, 1, true },
        { chown_over_limit, 1, false },
};

/* The n-th allocation fails, for each n there is. Asserts allocate too: none while armed. */
START_TEST(test_operations_without_memory) {
        for (int for_good = 0; for_good < 2; for_good++)
                for (unsigned nth = 1;; nth++) {
                        struct segment *segment = create(&alice, "a", WIRE_LIFETIME_HOLDERS);
                        struct picture before, after;
                        bool failed;
                        int r;

                        take_picture(&before);
                        faults_arm(nth, for_good);
                        r = faulty[_i].operation(segment);
                        failed = faults_disarm();
                        registry_check(&registry);
                        take_picture(&after);
                        ck_assert_int_eq(r, failed ? -ENOMEM : 0);
                        if (failed || !faulty[_i].changes)
                                ck_assert_mem_eq(&before, &after, sizeof(before));

                        ck_assert_int_eq(release(&alice, segment, WRITE), 0);
                        expect_idle(segment);
                        ck_assert_int_eq(settle(segment), SETTLED_FREE);
                        quota.maximum[QUOTA_BYTES] = QUOTA_UNLIMITED;
                        if (!failed) {
                                ck_assert_uint_eq(nth, faulty[_i].allocations + 1);
                                break;
                        }
                }
}
END_TEST

/* What may not fail for want of memory: all that ends something, or comes after an answer. */
START_TEST(test_no_memory_needed) {
        struct segment *a = create(&alice, "a", WIRE_LIFETIME_LINGER), *new = create_unpublished(&alice, "a");
        struct segment *b = create_unpublished(&bob, "b"), *idle = create_idle(&alice, "c", WIRE_LIFETIME_HOLDERS);
        struct hold *holds[2];
        enum settled verdict;
        int r[4];

        holds[0] = reserve(&bob, a);
        holds[1] = reserve(&bob, a);
        observe_from_now_on();
        faults_arm(1, true);
        hold_commit(holds[0], READ, false, ++now);
        hold_abort(holds[1]);
        r[0] = registry_may_publish(&alice, &new->id, 1, true, &refusal);
        registry_publish(new, ++now);
        r[1] = registry_set_lifetime(new, WIRE_LIFETIME_HOLDERS, 0, ++now);
        registry_set_size(new, 1);
        registry_set_frozen(new);
        r[2] = hold_release(&alice, new->id, WRITE, ++now);
        r[3] = registry_may_publish(&alice, &b->id, 1, false, &refusal);
        while (!client_reap(&bob, 1, ++now))
                ;
        verdict = registry_settle(idle, 1, ++now);
        ck_assert(!faults_disarm());
        ck_assert_int_eq(r[0], 0);
        ck_assert_int_eq(r[1], 0);
        ck_assert_int_eq(r[2], 0);
        ck_assert_int_eq(r[3], SHMD_NOT_FOUND);
        ck_assert_int_eq(verdict, SETTLED_FREE);
        segment_free(idle);
        registry_check(&registry);
        ck_assert_ptr_eq(find("a"), new);
        ck_assert_uint_eq(new->size, 1);
        ck_assert_int_eq(new->state, WIRE_STATE_FROZEN);
        ck_assert_int_eq(b->state, WIRE_STATE_UNLINKED);
}
END_TEST

static struct segment *create_if_possible(struct client *client, const char *name, enum wire_lifetime lifetime, bool detached) {
        struct segment_plan plan = plan_of(name, 10, lifetime);
        struct segment *segment = NULL;
        struct hold *hold = NULL;

        plan.unpublished = name[0] == 'd';
        if (registry_reserve(&registry, client, &plan, ++now, &segment, &refusal) != 0)
                return NULL;
        if (hold_reserve(client, segment, &hold, &refusal) != 0) {
                registry_abort(segment);
                return NULL;
        }
        registry_commit(segment);
        hold_commit(hold, WRITE, detached, ++now);
        return segment;
}

static void settle_all(void) {
        struct segment *segment;

        while ((segment = registry_take_idle(&registry)))
                if (registry_settle(segment, 1, ++now) == SETTLED_FREE)
                        segment_free(segment);
        while ((segment = registry_next_linger(&registry)))
                registry_linger_over(segment, ++now);
}

/* A bit of everything. Each step does what it can with what the ones before it left. */
static void live_a_life(void) {
        struct segment *a = create_if_possible(&alice, "a", WIRE_LIFETIME_HOLDERS, false);
        struct segment *b = create_if_possible(&bob, "b", WIRE_LIFETIME_CREATOR, false);
        struct segment *c = create_if_possible(&alice, "c", WIRE_LIFETIME_LINGER, true);
        struct segment *d = create_if_possible(&alice, "d", WIRE_LIFETIME_CREATOR, false);

        if (a) {
                (void) try_open(&bob, a, READ, false);
                (void) try_open(&root, a, READ, true);
                (void) registry_rename(a, "d", 1);
                (void) registry_set_owner(a, &(struct ownership) { CAROL, 1, 0 }, &refusal);
        }
        if (b) {
                (void) try_open(&alice, b, WRITE, false);
                registry_refresh(b, &(struct ownership) { CAROL + 1, 1, 0 }, 33);
                registry_refresh(b, &(struct ownership) { CAROL, 1, 0 }, 34);
        }
        if (d) {
                const uint64_t id = d->id;

                (void) try_open(&bob, d, READ, false);
                if (registry_may_publish(&alice, &id, 1, true, &refusal) == 0)
                        registry_publish(d, ++now);
                (void) registry_set_lifetime(d, WIRE_LIFETIME_LINGER, 5, ++now);
                registry_set_size(d, 3);
        }
        if (c) {
                (void) registry_rename(c, "a", 1);
                (void) try_open(&bob, c, READ, false);
                registry_unlink(c, ++now);
        }
        end_client(&bob, ++now);
        settle_all();
        (void) create_if_possible(&alice, "e", WIRE_LIFETIME_LINGER, false);
}

START_TEST(test_life_without_memory) {
        for (int for_good = 0; for_good < 2; for_good++)
                for (unsigned nth = 1;; nth++) {
                        bool failed;

                        faults_arm(nth, for_good);
                        live_a_life();
                        failed = faults_disarm();
                        registry_check(&registry);
                        clients_done();
                        registry_check(&registry);
                        settle_all();
                        settle_all();
                        ck_assert_uint_eq(registry.segments, 0); /* all had a lifetime that ends */
                        ck_assert(RB_EMPTY(&quota.accounts));
                        ck_assert_uint_eq(faults_live(), live_before);
                        clients_init();
                        if (!failed) {
                                ck_assert_uint_ge(nth, 20);
                                break;
                        }
                }
}
END_TEST

static Suite *registry_suite(void) {
        Suite *suite = suite_create("registry");
        TCase *tests = tcase_create("registry"), *checks = tcase_create("check");

        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_add_test(tests, test_reserve);
        tcase_add_test(tests, test_abort);
        tcase_add_test(tests, test_name_is_taken);
        tcase_add_test(tests, test_limits);
        tcase_add_test(tests, test_ids_are_never_used_again);
        tcase_add_test(tests, test_find_name);
        tcase_add_loop_test(tests, test_next_name, 0, ELEMENTSOF(pages));
        tcase_add_test(tests, test_listing);
        tcase_add_test(tests, test_longest_names);
        tcase_add_test(tests, test_rename);
        tcase_add_test(tests, test_rename_unlinked);
        tcase_add_test(tests, test_hold);
        tcase_add_test(tests, test_opens_are_counted);
        tcase_add_test(tests, test_not_held);
        tcase_add_test(tests, test_holds_of_unlinked);
        tcase_add_test(tests, test_holders_in_order);
        tcase_add_test(tests, test_hold_limit);
        tcase_add_test(tests, test_opens_without_end);
        tcase_add_test(tests, test_client_dies);
        tcase_add_test(tests, test_persist);
        tcase_add_test(tests, test_holders);
        tcase_add_test(tests, test_creator);
        tcase_add_test(tests, test_keeper);
        tcase_add_test(tests, test_linger);
        tcase_add_test(tests, test_linger_is_stopped_by_open);
        tcase_add_test(tests, test_linger_order);
        tcase_add_test(tests, test_linger_for_ever);
        tcase_add_test(tests, test_linger_at_time_zero);
        tcase_add_test(tests, test_idle_queue);
        tcase_add_test(tests, test_idle_since);
        tcase_add_test(tests, test_settle_when_held_again);
        tcase_add_test(tests, test_handed_out);
        tcase_add_test(tests, test_detached);
        tcase_add_test(tests, test_detached_alone);
        tcase_add_test(tests, test_detached_of_unlinked);
        tcase_add_test(tests, test_detached_client_dies);
        tcase_add_test(tests, test_unlink);
        tcase_add_test(tests, test_next_nameless);
        tcase_add_test(tests, test_remove);
        tcase_add_test(tests, test_set_owner);
        tcase_add_test(tests, test_set_owner_refused);
        tcase_add_test(tests, test_set_owner_refused_from_beyond_the_limit);
        tcase_add_test(tests, test_refresh);
        tcase_add_test(tests, test_refresh_of_unlinked);
        tcase_add_loop_test(tests, test_refresh_without_memory, 0, 2);
        tcase_add_test(tests, test_descriptors_of_file);
        tcase_add_test(tests, test_control);
        tcase_add_test(tests, test_control_refused);
        tcase_add_test(tests, test_restore);
        tcase_add_test(tests, test_refresh_of_giants);
        tcase_add_test(tests, test_refresh_of_plain);
        tcase_add_test(tests, test_unpublished);
        tcase_add_test(tests, test_unpublished_is_given_up);
        tcase_add_test(tests, test_creator_of_unpublished_dies);
        tcase_add_test(tests, test_publish_replaces);
        tcase_add_test(tests, test_publish_several);
        tcase_add_test(tests, test_publish_most);
        tcase_add_test(tests, test_set_lifetime);
        tcase_add_test(tests, test_set_lifetime_while_held);
        tcase_add_test(tests, test_set_lifetime_without_creator);
        tcase_add_test(tests, test_set_lifetime_of_unlinked);
        tcase_add_test(tests, test_set_size);
        tcase_add_test(tests, test_set_frozen);
        tcase_add_test(tests, test_set_frozen_unpublished);
        tcase_add_test(tests, test_set_frozen_unlinked);
        tcase_add_test(tests, test_frozen_lifetime);
        tcase_add_test(tests, test_events);
        tcase_add_test(tests, test_events_of_lifetimes);
        tcase_add_test(tests, test_events_of_abort);
        tcase_add_test(tests, test_reserved_twice);
        tcase_add_test(tests, test_reserved_at_limit);
        tcase_add_test(tests, test_reap_in_pieces);
        tcase_add_test(tests, test_reap_and_others);
        tcase_add_test(tests, test_registry_done);
        tcase_add_test(tests, test_no_memory_needed);
        tcase_add_loop_test(tests, test_operations_without_memory, 0, ELEMENTSOF(faulty));
        tcase_add_test(tests, test_life_without_memory);
        suite_add_tcase(suite, tests);

        tcase_add_checked_fixture(checks, setup, NULL);
        tcase_add_loop_test_raise_signal(checks, test_check_aborts, SIGABRT, 0, N_BROKEN);
        suite_add_tcase(suite, checks);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(registry_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
