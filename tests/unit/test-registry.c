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

static void clients_init(void) {
        client_init(&alice, &registry, &alice_credentials);
        client_init(&bob, &registry, &bob_credentials);
        client_init(&root, &registry, &root_credentials);
}

static void clients_done(void) {
        client_done(&alice, ++now);
        client_done(&bob, ++now);
        client_done(&root, ++now);
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
        ck_assert_uint_eq(registry.unlinked, 0);
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
                .name = name, .name_size = strlen(name), .size = size, .mode = 0640, .lifetime = lifetime,
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
                .size = 8192, .linger_usec = 77, .mode = 0640,
                .lifetime = WIRE_LIFETIME_LINGER, .backing = WIRE_BACKING_HUGETLB, .posix = true,
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
        ck_assert_uint_eq(segment->linger_usec, 77);
        ck_assert_int_eq(segment->lifetime, WIRE_LIFETIME_LINGER);
        ck_assert_int_eq(segment->backing, WIRE_BACKING_HUGETLB);
        ck_assert(segment->posix);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNPUBLISHED);
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
        ck_used(ALICE, 8192, 1, 0);
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
        ck_assert_uint_eq(registry.bytes, 8192);
        ck_used(ALICE, 8192, 1, 1);
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

        plan.size = 4097;
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_BYTES, ALICE, 4097, 4096, 8192);
        ck_used(ALICE, 4096, 1, 1); /* the count, charged first, is back */
        ck_assert_ptr_null(segment);

        create(&alice, "c", WIRE_LIFETIME_PERSIST);
        plan.size = 0;
        ck_assert_int_eq(registry_reserve(&registry, &alice, &plan, ++now, &segment, &refusal), SHMD_OVER_LIMIT);
        ck_refusal(SHMD_LIMIT_SEGMENTS, ALICE, 1, 2, 2);
        ck_used(ALICE, 8192, 2, 2);

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
        client_done(&second, ++now);

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
                client_done(&bob, ++now);
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
        client_done(&alice, 7777);
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
        client_done(&alice, 8888); /* nothing more */
        registry_check(&registry);
}
END_TEST

/* --- lifetimes --- */

START_TEST(test_persist) {
        struct segment *segment = create_idle(&alice, "a", WIRE_LIFETIME_PERSIST);

        expect_nothing_idle();
        client_done(&alice, ++now);
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
        client_done(&alice, ++now);
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
        client_done(&bob, ++now); /* nor is another's end */
        ck_assert_ptr_eq(find("a"), segment);

        open_as(&root, segment, READ, false);
        client_done(&alice, ++now);
        registry_check(&registry);
        ck_assert_int_eq(segment->state, WIRE_STATE_UNLINKED);
        ck_assert_ptr_null(find("a"));
        expect_nothing_idle(); /* the name is gone, the memory goes with the last holder */
        client_done(&root, ++now);
        expect_idle(segment);
        ck_assert_int_eq(settle(segment), SETTLED_FREE);
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
                client_done(&bob, ++now);
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
        client_done(&bob, ++now);
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
        client_done(&alice, ++now);
        registry_check(&registry);
        ck_assert_uint_eq(segment->holders, 1);
        ck_assert_uint_eq(segment->attached, 0);
        ck_assert_uint_eq(segment->idle_usec, 0);
        watch(segment);
        client_done(&bob, ++now);
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
        ck_assert_uint_eq(registry.unlinked, 1);
        ck_assert_uint_eq(registry.segments, 1);
        ck_used(ALICE, 4096, 1, 1); /* it is there, and paid for */
        expect_nothing_idle();

        registry_unlink(segment, ++now); /* twice is once */
        registry_check(&registry);
        ck_assert_uint_eq(registry.unlinked, 1);
        ck_assert_ptr_null(registry_next_name(&registry, "", 0, "", 0));
}
END_TEST

START_TEST(test_next_unlinked) {
        struct segment *segments[7];

        ck_assert_ptr_null(registry_next_unlinked(&registry, 0));
        for (unsigned i = 0; i < ELEMENTSOF(segments); i++)
                segments[i] = create(&alice, (char[]) { (char) ('g' - i), '\0' }, WIRE_LIFETIME_PERSIST);
        ck_assert_ptr_null(registry_next_unlinked(&registry, 0));
        registry_unlink(segments[5], ++now);
        registry_unlink(segments[1], ++now);
        registry_unlink(segments[2], ++now);
        ck_assert_ptr_eq(registry_next_unlinked(&registry, 0), segments[1]);
        ck_assert_ptr_eq(registry_next_unlinked(&registry, segments[0]->id), segments[1]);
        ck_assert_ptr_eq(registry_next_unlinked(&registry, segments[1]->id), segments[2]);
        ck_assert_ptr_eq(registry_next_unlinked(&registry, segments[2]->id), segments[5]);
        ck_assert_ptr_eq(registry_next_unlinked(&registry, segments[4]->id), segments[5]);
        ck_assert_ptr_null(registry_next_unlinked(&registry, segments[5]->id));
        ck_assert_ptr_null(registry_next_unlinked(&registry, UINT64_MAX));
        ck_assert_ptr_null(registry_next_unlinked(&registry, UINT64_MAX - 1));
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

static struct segment *create_sized(struct client *client, const char *name, uint64_t size) {
        const struct segment_plan plan = plan_of(name, size, WIRE_LIFETIME_PERSIST);
        struct segment *segment = create_unheld(client, &plan);

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

/* --- the end --- */

START_TEST(test_registry_done) {
        for (unsigned i = 0; i < 8; i++)
                create_linger(&alice, (char[]) { (char) ('a' + i), '\0' }, 10);
        registry_unlink(find("b"), ++now);
        client_done(&alice, ++now);
        registry_check(&registry);
        ck_assert_int_eq(settle(find("c")), SETTLED_LINGER);
        registry_done(&registry);
        expect_nothing_idle();
        ck_assert_ptr_null(registry_first(&registry));
}
END_TEST

/* --- does registry_check() see anything? --- */

static void break_it(int how, struct segment *held, struct segment *idle) {
        struct hold *hold = TAILQ_FIRST(&held->holds);

        switch (how) {
        case 0: registry.segments++; break;
        case 1: registry.unlinked++; break;
        case 2: registry.bytes--; break;
        case 3: registry.holds--; break;
        case 4: held->holders++; break;
        case 5: held->attached--; break;
        case 6: held->state = WIRE_STATE_UNLINKED; registry.unlinked++; break;
        case 7: held->state = WIRE_STATE_UNPUBLISHED; break;
        case 8: held->size++; registry.bytes++; break;
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
        default: break;
        }
}
#define N_BROKEN 21

START_TEST(test_check_aborts) {
        const struct rlimit no_core = { 0, 0 };
        struct segment *held = create_sized(&alice, "b", 10), *idle = create_idle(&alice, "a", WIRE_LIFETIME_HOLDERS);

        registry_check(&registry);
        setrlimit(RLIMIT_CORE, &no_core);
        break_it(_i, held, idle);
        registry_check(&registry);
}
END_TEST

/* --- without memory --- */

/* Everything that a failure must leave as it was. */
struct picture {
        uint64_t used[4][QUOTA_COUNT];
        uint64_t segments, unlinked, bytes, holds, accounts, live;
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
        ret->unlinked = registry.unlinked;
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
        { hold_and_abort, 2, false },
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

static struct segment *create_if_possible(struct client *client, const char *name, enum wire_lifetime lifetime, bool detached) {
        const struct segment_plan plan = plan_of(name, 10, lifetime);
        struct segment *segment = NULL;
        struct hold *hold = NULL;

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
        if (c) {
                (void) registry_rename(c, "a", 1);
                (void) try_open(&bob, c, READ, false);
                registry_unlink(c, ++now);
        }
        client_done(&bob, ++now);
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
        tcase_add_test(tests, test_next_unlinked);
        tcase_add_test(tests, test_remove);
        tcase_add_test(tests, test_set_owner);
        tcase_add_test(tests, test_set_owner_refused);
        tcase_add_test(tests, test_set_owner_refused_from_beyond_the_limit);
        tcase_add_test(tests, test_refresh);
        tcase_add_test(tests, test_refresh_of_unlinked);
        tcase_add_loop_test(tests, test_refresh_without_memory, 0, 2);
        tcase_add_test(tests, test_registry_done);
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
