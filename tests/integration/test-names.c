/* SPDX-License-Identifier: MIT */
/* What is done to segments by name: unlink, rename, chmod, chown, stat, list. */
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

/* Makes one and lets it go: it persists. */
static uint64_t make(const char *name, uint64_t size) {
        struct shmd_segment *segment = client_create(connection, name, size, SHMD_LIFETIME_PERSIST);
        uint64_t id = shmd_id(segment);

        shmd_close(segment);
        return id;
}

/* --- unlink --- */

START_TEST(test_unlink) {
        uint64_t id = make("gone", 4096);

        ASSERT_OK(connection, shmd_unlink(connection, "/gone"));
        ck_assert_int_eq(shmd_unlink(connection, "gone"), -ENOENT);
        ck_assert_int_eq(client_try_open(connection, "gone", 0), -ENOENT);
        ck_assert_int_eq(shmd_unlink_id(connection, id), -ENOENT);
        ck_assert_int_eq(shmd_unlink(connection, "bad//name"), -EINVAL);

        id = make("gone", 4096);
        ASSERT_OK(connection, shmd_unlink_id(connection, id));
        ck_assert(!client_exists(connection, "gone"));
}
END_TEST

/* Only what nobody has: a hold, a mapping alone, and a hold that ended too lately are in the way. */
START_TEST(test_unlink_idle) {
        uint64_t hour_usec = UINT64_C(3600) * 1000000, id;
        struct shmd_segment *segment = client_create(connection, "kept", 4096, SHMD_LIFETIME_PERSIST);
        struct shmd_stat stat;
        void *memory;

        id = shmd_id(segment);
        ck_assert_int_eq(shmd_unlink_idle(connection, id, 0), -EBUSY);
        memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, shmd_fd(segment), 0);
        ck_assert_ptr_ne(memory, MAP_FAILED);
        shmd_close(segment);
        ck_assert_int_eq(shmd_unlink_idle(connection, id, 0), -EBUSY);
        munmap(memory, 4096);
        ck_assert_int_eq(shmd_unlink_idle(connection, id, hour_usec), -EBUSY);
        ASSERT_OK(connection, shmd_stat_id(connection, id, &stat));
        ck_assert_uint_eq(stat.opens, 1);
        ASSERT_OK(connection, shmd_unlink_idle(connection, id, 0));
        ck_assert(!client_exists(connection, "kept"));
        ck_assert_int_eq(shmd_unlink_idle(connection, id, 0), -ENOENT);
}
END_TEST

/* The name is free at once; whoever holds the old segment keeps it, with what is in it. */
START_TEST(test_made_anew_while_held) {
        struct shmd_segment *old = client_create(connection, "twice", 4096, SHMD_LIFETIME_PERSIST);
        struct shmd_segment *new;
        struct shmd_stat stat;

        strcpy(client_map(old), "old");
        ASSERT_OK(connection, shmd_unlink(connection, "twice"));
        new = client_create(connection, "twice", 8192, SHMD_LIFETIME_PERSIST);
        strcpy(client_map(new), "new");

        ck_assert_uint_gt(shmd_id(new), shmd_id(old));
        ck_assert_str_eq(client_map(old), "old");
        ck_assert_uint_eq(client_stat(connection, "twice").id, shmd_id(new));
        stat = client_stat_id(connection, shmd_id(old));
        ck_assert_uint_eq(stat.state, SHMD_STATE_UNLINKED);
        ck_assert_str_eq(stat.name, "twice"); /* the name it had */
        ck_assert_uint_eq(stat.holders, 1);
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 1);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 1);

        shmd_close(old);
        daemon_await_segments(&the_daemon, 1);
        ck_assert_int_eq(shmd_stat_id(connection, stat.id, &stat), -ENOENT);
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 0);
        shmd_close(new);
}
END_TEST

/* By id it is still reached, for as long as somebody holds it. */
START_TEST(test_open_unlinked_by_id) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = client_create(connection, "byid", 4096, SHMD_LIFETIME_PERSIST);
        struct shmd_segment *same = NULL;
        uint64_t id = shmd_id(segment);

        strcpy(client_map(segment), "here");
        ASSERT_OK(connection, shmd_unlink(connection, "byid"));
        ASSERT_OK(other, shmd_open_id(other, id, SHMD_READ_ONLY, &same));
        ck_assert_uint_eq(shmd_id(same), id);
        shmd_close(segment);
        ck_assert_str_eq(client_map(same), "here");
        TEST_UNTIL(client_stat_id(other, id).holders == 1, "the close to arrive");
        shmd_disconnect(other);
        daemon_await_segments(&the_daemon, 0);
        ck_assert_int_eq(shmd_open_id(connection, id, SHMD_READ_ONLY, &same), -ENOENT);
}
END_TEST

/* --- rename --- */

START_TEST(test_rename) {
        uint64_t id = make("from", 4096), other = make("taken", 4096);

        ASSERT_OK(connection, shmd_rename(connection, "from", "/to/there"));
        ck_assert(!client_exists(connection, "from"));
        ck_assert_uint_eq(client_stat(connection, "to/there").id, id);

        ck_assert_int_eq(shmd_rename(connection, "to/there", "taken"), -EEXIST);
        ck_assert_int_eq(shmd_rename(connection, "from", "x"), -ENOENT);
        ck_assert_int_eq(shmd_rename(connection, "to/there", "x//y"), -EINVAL);
        ck_assert_int_eq(shmd_rename(connection, "to/there", ""), -EINVAL);
        ck_assert_uint_eq(client_stat(connection, "to/there").id, id);
        ck_assert_uint_eq(client_stat(connection, "taken").id, other);

        ASSERT_OK(connection, shmd_rename_id(connection, id, "by-id"));
        ck_assert_uint_eq(client_stat(connection, "by-id").id, id);
        make("from", 1); /* the old name is free */
        ck_assert_uint_eq(client_count(connection, NULL, 0), 3);
}
END_TEST

START_TEST(test_rename_unlinked) {
        struct shmd_segment *segment = client_create(connection, "held", 4096, SHMD_LIFETIME_PERSIST);

        ASSERT_OK(connection, shmd_unlink(connection, "held"));
        ck_assert_int_eq(shmd_rename_id(connection, shmd_id(segment), "back"), -ENOENT);
        ck_assert(!client_exists(connection, "back"));
        shmd_close(segment);
}
END_TEST

/* --- mode and owner --- */

static struct stat inode_of(const char *name, unsigned flags) {
        struct shmd_segment *segment = client_open(connection, name, flags);
        struct stat inode;

        ck_assert_int_eq(fstat(shmd_fd(segment), &inode), 0);
        shmd_close(segment);
        return inode;
}

/* One truth: what the daemon says is what the inode says. */
START_TEST(test_chmod) {
        uint64_t id = make("mode", 4096);

        ASSERT_OK(connection, shmd_chmod(connection, "mode", 0640));
        ck_assert_uint_eq(client_stat(connection, "mode").mode, 0640);
        ck_assert_uint_eq(inode_of("mode", SHMD_READ_WRITE).st_mode & 07777, 0640);
        ASSERT_OK(connection, shmd_chmod_id(connection, id, 0644));
        ck_assert_uint_eq(client_stat(connection, "mode").mode, 0644);

        /* Execute bits are dropped. */
        ASSERT_OK(connection, shmd_chmod(connection, "mode", 0777));
        ck_assert_uint_eq(client_stat(connection, "mode").mode, 0666);
        ck_assert_uint_eq(inode_of("mode", SHMD_READ_WRITE).st_mode & 07777, 0666);

        ck_assert_int_eq(shmd_chmod(connection, "nothing", 0600), -ENOENT);
        ck_assert_int_eq(shmd_chmod(connection, "mode", 04600), -EINVAL);
        ck_assert_int_eq(shmd_chmod(connection, "mode", 01000), -EINVAL);
        ck_assert_uint_eq(client_stat(connection, "mode").mode, 0666);
}
END_TEST

START_TEST(test_chown_to_oneself) {
        uint64_t id = make("own", 4096);

        ASSERT_OK(connection, shmd_chown(connection, "own", (uid_t) -1, (gid_t) -1));
        ASSERT_OK(connection, shmd_chown(connection, "own", geteuid(), getegid()));
        ASSERT_OK(connection, shmd_chown_id(connection, id, (uid_t) -1, getegid()));
        ck_assert_int_eq(shmd_chown(connection, "nothing", geteuid(), getegid()), -ENOENT);
        ck_assert_uint_eq(client_stat(connection, "own").uid, geteuid());
        ck_assert_uint_eq(client_stat(connection, "own").gid, getegid());
}
END_TEST

START_TEST(test_chown_as_root) {
        struct stat inode;

        if (!test_as_root("test_chown_as_root"))
                return;
        make("own", 4096);
        ASSERT_OK(connection, shmd_chown(connection, "own", 61001, 61002));
        ck_assert_uint_eq(client_stat(connection, "own").uid, 61001);
        ck_assert_uint_eq(client_stat(connection, "own").gid, 61002);
        inode = inode_of("own", SHMD_READ_ONLY);
        ck_assert_uint_eq(inode.st_uid, 61001);
        ck_assert_uint_eq(inode.st_gid, 61002);
        ASSERT_OK(connection, shmd_chown(connection, "own", (uid_t) -1, 61003));
        ck_assert_uint_eq(client_stat(connection, "own").uid, 61001);
        ck_assert_uint_eq(client_stat(connection, "own").gid, 61003);
}
END_TEST

/* An ordinary user gives nothing away, as with files. */
START_TEST(test_chown_to_others) {
        if (geteuid() == 0) {
                test_skip("test_chown_to_others: needs to be no root");
                return;
        }
        make("own", 4096);
        ck_assert_int_eq(shmd_chown(connection, "own", geteuid() + 1, (gid_t) -1), -EPERM);
        ck_assert_int_eq(shmd_chown(connection, "own", 0, (gid_t) -1), -EPERM);
        ck_assert_uint_eq(client_stat(connection, "own").uid, geteuid());
}
END_TEST

START_TEST(test_umask) {
        struct shmd_create_options options = { .mode = 0666 };

        umask(027);
        ck_assert_int_eq(client_try_create(connection, "a", 1, SHMD_EXCLUSIVE, &options), 0);
        ck_assert_uint_eq(client_stat(connection, "a").mode, 0640);
        ck_assert_uint_eq(inode_of("a", 0).st_mode & 07777, 0640);
        umask(0);
        ck_assert_int_eq(client_try_create(connection, "b", 1, SHMD_EXCLUSIVE, &options), 0);
        ck_assert_uint_eq(client_stat(connection, "b").mode, 0666);
        options.mode = 0777; /* execute bits are dropped */
        ck_assert_int_eq(client_try_create(connection, "c", 1, SHMD_EXCLUSIVE, &options), 0);
        ck_assert_uint_eq(client_stat(connection, "c").mode, 0666);
        umask(0777); /* the default is what it is */
        options.mode = 0;
        ck_assert_int_eq(client_try_create(connection, "d", 1, SHMD_EXCLUSIVE, &options), 0);
        ck_assert_uint_eq(client_stat(connection, "d").mode, 0600);
        ck_assert_int_eq(umask(022), 0777); /* as we left it */
}
END_TEST

/* --- stat --- */

static uint64_t now_usec(void) {
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

START_TEST(test_stat) {
        const struct shmd_create_options options = { .mode = 0600, .labels = "role=producer\nrate=50 Hz\n" };
        uint64_t before = now_usec();
        struct shmd_segment *segment = NULL;
        struct shmd_stat stat;
        char *bytes;

        ASSERT_OK(connection, shmd_create(connection, "stat/me", 100 * 4096, SHMD_EXCLUSIVE, &options, &segment));
        bytes = client_map(segment);
        stat = client_stat(connection, "stat/me");
        ck_assert_uint_eq(stat.id, shmd_id(segment));
        ck_assert_str_eq(stat.name, "stat/me");
        ck_assert_uint_eq(stat.size_bytes, 100 * 4096);
        ck_assert_uint_eq(stat.resident_bytes, 0);
        ck_assert_uint_eq(stat.uid, geteuid());
        ck_assert_uint_eq(stat.gid, getegid());
        ck_assert_uint_eq(stat.holders, 1);
        ck_assert_uint_eq(stat.lifetime, SHMD_LIFETIME_PERSIST);
        ck_assert_uint_eq(stat.state, SHMD_STATE_PUBLISHED);
        ck_assert_uint_eq(stat.backing, SHMD_BACKING_MEMFD);
        ck_assert_uint_eq(stat.posix, 0);
        ck_assert_uint_eq(stat.unknown_holder, 0);
        ck_assert_uint_eq(stat.creator_pid, getpid());
        ck_assert_uint_eq(stat.creator_uid, geteuid());
        ck_assert_str_eq(stat.creator_command, "test-names");
        ck_assert_str_eq(stat.labels, options.labels);
        ck_assert_uint_eq(stat.idle_usec, 0);
        /* Give or take the clock's resolution. */
        ck_assert_uint_ge(stat.created_usec + 10000, before);
        ck_assert_uint_le(stat.created_usec, now_usec() + 10000);
        ck_assert_uint_ge(stat.opened_usec, stat.created_usec);

        memset(bytes, 1, 65536); /* now pages exist */
        ck_assert_uint_eq(client_stat(connection, "stat/me").resident_bytes, 65536);

        shmd_close(segment);
        TEST_UNTIL(client_stat(connection, "stat/me").holders == 0, "the close to arrive");
        stat = client_stat_id(connection, stat.id);
        ck_assert_uint_ge(stat.idle_usec, stat.created_usec);
        ck_assert_str_eq(stat.name, "stat/me");
        ck_assert_int_eq(shmd_stat_id(connection, stat.id + 1, &stat), -ENOENT);
        ck_assert_int_eq(shmd_stat_id(connection, 0, &stat), -ENOENT);
}
END_TEST

START_TEST(test_bad_options) {
        static const char *const bad[] = { "novalue", "novalue\n", "=x\n", "a=b", "a=b\n\n", "a=\x01\n", "a=\xff\n" };
        struct shmd_create_options options = { .mode = 0600 };
        char long_labels[1100];

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                options.labels = bad[i];
                ck_assert_int_eq(client_try_create(connection, "x", 1, 0, &options), -EINVAL);
        }
        memset(long_labels, 'l', sizeof(long_labels));
        long_labels[1] = '=';
        strcpy(long_labels + 1024, "\n"); /* 1025 bytes */
        options.labels = long_labels;
        ck_assert_int_lt(client_try_create(connection, "x", 1, 0, &options), 0);
        options = (struct shmd_create_options) { .mode = 01600 };
        ck_assert_int_eq(client_try_create(connection, "x", 1, 0, &options), -EINVAL);
        options = (struct shmd_create_options) { .lifetime = 4 };
        ck_assert_int_eq(client_try_create(connection, "x", 1, 0, &options), -EINVAL);
        options = (struct shmd_create_options) { .reserved = { [8] = 1 } };
        ck_assert_int_eq(client_try_create(connection, "x", 1, 0, &options), -EINVAL);
        ck_assert_int_eq(client_try_create(connection, "x", 1, 0x40000000u, NULL), -EINVAL);
        ck_assert(!client_exists(connection, "x"));

        strcpy(long_labels + 1023, "\n"); /* 1024: the most there may be */
        options = (struct shmd_create_options) { .labels = long_labels };
        ck_assert_int_eq(client_try_create(connection, "x", 1, 0, &options), 0);
        ck_assert_str_eq(client_stat(connection, "x").labels, long_labels);
}
END_TEST

/* --- holders --- */

static int keep_holder(const struct shmd_holder *holder, void *userdata) {
        struct shmd_holder **next = userdata;

        *(*next)++ = *holder;
        return 0;
}

START_TEST(test_holders) {
        struct shmd_holder holders[4], *end = holders;
        struct shmd *other = client_connect();
        struct shmd_segment *segment = client_create(connection, "held", 4096, SHMD_LIFETIME_PERSIST);

        client_open(connection, "held", SHMD_READ_WRITE);
        client_open(other, "held", SHMD_READ_ONLY);
        ASSERT_OK(connection, shmd_holders(connection, shmd_id(segment), keep_holder, &end));
        ck_assert_int_eq(end - holders, 2);
        for (int i = 0; i < 2; i++) {
                ck_assert_uint_eq(holders[i].pid, getpid());
                ck_assert_uint_eq(holders[i].uid, geteuid());
                ck_assert_uint_eq(holders[i].gid, getegid());
                ck_assert_str_eq(holders[i].command, "test-names");
                ck_assert_uint_gt(holders[i].since_usec, 0);
                ck_assert_uint_eq(holders[i].detached, 0);
        }
        ck_assert_uint_eq(holders[0].write, 1);
        ck_assert_uint_eq(holders[1].write, 0);
        ck_assert_uint_eq(client_stat(connection, "held").holders, 2);
        ck_assert_int_eq(shmd_holders(connection, shmd_id(segment) + 1, keep_holder, &end), -ENOENT);
        shmd_disconnect(other);
}
END_TEST

static int count_holder(const struct shmd_holder *holder, void *userdata) {
        (void) holder;
        ++*(unsigned *) userdata;
        return 0;
}

/* More holders than one message can tell of: 120 bytes each, 32 KiB a message. */
START_TEST(test_many_holders) {
        struct shmd *clients[600];
        struct shmd_segment *segment = client_create(connection, "held", 4096, SHMD_LIFETIME_PERSIST);
        unsigned count = 0;

        for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                clients[i] = client_connect();
                client_open(clients[i], "held", SHMD_READ_ONLY);
        }
        ASSERT_OK(connection, shmd_holders(connection, shmd_id(segment), count_holder, &count));
        ck_assert_uint_eq(count, ELEMENTSOF(clients) + 1);
        ck_assert_uint_eq(client_stat(connection, "held").holders, ELEMENTSOF(clients) + 1);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                shmd_disconnect(clients[i]);
}
END_TEST

/* --- list --- */

struct visit {
        char last[256];
        unsigned count;
        unsigned stop_after;
};

static int visit(const struct shmd_stat *stat, void *userdata) {
        struct visit *visit_ = userdata;

        ck_assert_msg(strcmp(stat->name, visit_->last) > 0, "\"%s\" comes after \"%s\"", stat->name, visit_->last);
        strcpy(visit_->last, stat->name);
        return ++visit_->count == visit_->stop_after ? 4711 : 0;
}

/* Many pages, in order, each once. */
START_TEST(test_list_pages) {
        const struct shmd_create_options options = { .labels = "a=0123456789012345678901234567890123456789\n" };
        struct visit all = { .count = 0 }, some = { .count = 0 }, stopped = { .stop_after = 700 };
        char name[64];

        for (unsigned i = 0; i < 1500; i++) {
                /* not in the order of their making, and of several prefixes */
                snprintf(name, sizeof(name), "%s/%u", i % 3 ? "list" : "lisa", i * 7919 % 1500);
                ck_assert_int_eq(client_try_create(connection, name, 1, SHMD_EXCLUSIVE, &options), 0);
        }
        ASSERT_OK(connection, shmd_list(connection, NULL, 0, visit, &all));
        ck_assert_uint_eq(all.count, 1500);
        ASSERT_OK(connection, shmd_list(connection, "/list/", 0, visit, &some));
        ck_assert_uint_eq(some.count, 1000);
        ck_assert_int_eq(shmd_list(connection, "", 0, visit, &stopped), 4711);
        ck_assert_uint_eq(stopped.count, 700);
}
END_TEST

/* A prefix is one of bytes, not of components. */
START_TEST(test_list_prefix) {
        static const char *const names[] = { "a", "a/b", "a/b/c", "a/bc", "ab", "b", "\xc3\xb6" };
        static const struct {
                const char *prefix;
                unsigned count;
        } prefixes[] = {
                { NULL, 7 }, { "", 7 }, { "/", 7 }, { "a", 5 }, { "/a", 5 }, { "a/", 3 }, { "a/b", 3 }, { "a/b/", 1 },
                { "a/b/c", 1 }, { "a/b/cd", 0 }, { "c", 0 }, { "\xc3", 1 }, { "b", 1 },
        };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                make(names[i], 1);
        for (size_t i = 0; i < ELEMENTSOF(prefixes); i++)
                ck_assert_msg(client_count(connection, prefixes[i].prefix, 0) == prefixes[i].count, "prefix \"%s\"",
                              prefixes[i].prefix);
}
END_TEST

/* The longest names and labels there may be, so that few fit on a page. */
START_TEST(test_list_long_entries) {
        char name[256], labels[1025];
        const struct shmd_create_options options = { .labels = labels };
        struct visit all = { .count = 0 };

        memset(labels, 'l', 1024);
        labels[1] = '=';
        strcpy(labels + 1023, "\n");
        memset(name, 'n', 255);
        name[255] = '\0';
        for (int i = 0; i < 100; i++) {
                snprintf(name + 250, 6, "/%04u", (unsigned) i % 10000);
                ck_assert_int_eq(client_try_create(connection, name, 1, SHMD_EXCLUSIVE, &options), 0);
        }
        ASSERT_OK(connection, shmd_list(connection, NULL, 0, visit, &all));
        ck_assert_uint_eq(all.count, 100);
}
END_TEST

/* Pages of what has lost its name, too. */
START_TEST(test_list_unlinked_pages) {
        struct shmd *other = client_connect();
        char name[64];

        for (int i = 0; i < 600; i++) {
                snprintf(name, sizeof(name), "unlinked/%d", i);
                client_create(other, name, 1, SHMD_LIFETIME_PERSIST);
                ASSERT_OK(other, shmd_unlink(other, name));
        }
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 600);
        ck_assert_uint_eq(client_count(connection, "unlinked/1", SHMD_LIST_UNLINKED), 111);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 0);
        ck_assert_uint_eq(client_status(connection).unlinked, 600);
        shmd_disconnect(other);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* --- status --- */

START_TEST(test_status) {
        struct shmd_status status = client_status(connection);
        struct shmd_segment *segment;

        ck_assert_uint_eq(status.pid, the_daemon.pid);
        ck_assert_uint_eq(status.uid, geteuid());
        ck_assert_str_eq(status.version, shmd_version());
        ck_assert_uint_eq(status.connections, 2);
        ck_assert_uint_eq(status.segments, 0);
        ck_assert_uint_gt(status.started_usec, 0);
        ck_assert_uint_gt(status.memory_available_bytes, 0);
        ck_assert_uint_gt(status.descriptors, 2);
        ck_assert_uint_gt(status.descriptors_max, status.descriptors);
        if (daemon_count_descriptors(&the_daemon) >= 0)
                ck_assert_uint_eq(status.descriptors, daemon_count_descriptors(&the_daemon));

        segment = client_create(connection, "a", 12345, SHMD_LIFETIME_PERSIST);
        status = client_status(connection);
        ck_assert_uint_eq(status.segments, 1);
        ck_assert_uint_eq(status.unlinked, 0);
        ck_assert_uint_eq(status.bytes, 12345);
        ck_assert_uint_eq(status.holds, 1);
        ck_assert_uint_eq(status.my_segments.used, 1);
        ck_assert_uint_eq(status.my_bytes.used, 12345);
        ck_assert_uint_eq(status.my_holds.used, 1);
        ck_assert_uint_eq(status.my_connections.used, 2);
        ck_assert_uint_gt(status.my_bytes.maximum, 12345);
        shmd_close(segment);
}
END_TEST

static Suite *names_suite(void) {
        Suite *suite = suite_create("names");
        TCase *tests = test_case(suite, "names", setup, teardown);

        tcase_add_test(tests, test_unlink);
        tcase_add_test(tests, test_unlink_idle);
        tcase_add_test(tests, test_made_anew_while_held);
        tcase_add_test(tests, test_open_unlinked_by_id);
        tcase_add_test(tests, test_rename);
        tcase_add_test(tests, test_rename_unlinked);

        tests = test_case(suite, "attributes", setup, teardown);
        tcase_add_test(tests, test_chmod);
        tcase_add_test(tests, test_chown_to_oneself);
        tcase_add_test(tests, test_chown_as_root);
        tcase_add_test(tests, test_chown_to_others);
        tcase_add_test(tests, test_umask);
        tcase_add_test(tests, test_stat);
        tcase_add_test(tests, test_bad_options);

        tests = test_case(suite, "lists", setup, teardown);
        tcase_add_test(tests, test_holders);
        tcase_add_test(tests, test_many_holders);
        tcase_add_test(tests, test_list_pages);
        tcase_add_test(tests, test_list_prefix);
        tcase_add_test(tests, test_list_long_entries);
        tcase_add_test(tests, test_list_unlinked_pages);
        tcase_add_test(tests, test_status);
        return suite;
}

int main(void) {
        return test_run(names_suite());
}
