/* SPDX-License-Identifier: MIT */
/*
 * Where the pages come from: allocated in advance, at whose cost, or in huge pages; and what is said where there are
 * not enough of them.
 */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define PAGE ((uint64_t) test_page_size())

static struct shmd *connection;

/* Memory is what is to be short here, and not what a user may have. */
static void start(void (*prepare)(void *userdata), void *userdata) {
        static char path[96];
        const char *const arguments[] = { "--config", path, NULL };
        FILE *file;

        snprintf(path, sizeof(path), "%s/unlimited.conf", test_directory());
        file = fopen(path, "we");
        ck_assert_ptr_nonnull(file);
        fputs("[limits]\nbytes = unlimited\n[total]\nbytes = unlimited\n", file);
        fclose(file);
        daemon_start(&the_daemon, &(struct daemon_options) { .arguments = arguments, .prepare = prepare, .userdata = userdata });
        connection = client_connect();
}

static void setup(void) {
        start(NULL, NULL);
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        daemon_teardown();
}

/* As it was before anybody asked for something. */
static void check_nothing_left(void) {
        daemon_await_segments(&the_daemon, 0);
        ck_assert_uint_eq(daemon_status(&the_daemon).bytes, 0);
        ck_assert_uint_eq(client_count(connection, NULL, 0), 0);
        ck_assert_uint_eq(client_count(connection, NULL, SHMD_LIST_UNLINKED), 0);
}

/* --- in advance --- */

START_TEST(test_pages_are_there) {
        struct shmd_segment *segment = NULL;

        shmd_close(client_create(connection, "lazy", 8 * MIB, SHMD_LIFETIME_PERSIST));
        ck_assert_uint_eq(client_stat(connection, "lazy").resident_bytes, 0);
        ASSERT_OK(connection, shmd_create(connection, "ready", 8 * MIB, SHMD_PREALLOCATE | SHMD_EXCLUSIVE, NULL, &segment));
        ck_assert_uint_eq(client_stat(connection, "ready").resident_bytes, 8 * MIB);
        ck_assert_uint_eq(client_stat(connection, "ready").state, SHMD_STATE_PUBLISHED);
        /* All of them: using them makes no more. */
        memset(client_map(segment), 1, 8 * MIB);
        ck_assert_uint_eq(client_stat(connection, "ready").resident_bytes, 8 * MIB);
        ck_assert_int_eq(shmd_created(segment), 1);
}
END_TEST

static struct shmd_segment *preallocate(const char *name, uint64_t size, unsigned flags,
                                        const struct shmd_create_options *options) {
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, size, SHMD_PREALLOCATE | flags, options, &segment));
        return segment;
}

START_TEST(test_together_with) {
        const struct shmd_create_options resizable = { .maximum_bytes = 4 * MIB };
        struct shmd_segment *segment;

        /* A size that is no whole number of pages */
        preallocate("odd", 2 * PAGE + 1, SHMD_EXCLUSIVE, NULL);
        ck_assert_uint_eq(client_stat(connection, "odd").resident_bytes, 3 * PAGE);
        /* of what can grow, its size */
        preallocate("resizable", MIB, SHMD_EXCLUSIVE, &resizable);
        ck_assert_uint_eq(client_stat(connection, "resizable").resident_bytes, MIB);
        /* in steps of one's own */
        segment = preallocate("unpublished", MIB, SHMD_UNPUBLISHED, NULL);
        ck_assert(!client_exists(connection, "unpublished"));
        ck_assert_uint_eq(client_stat_id(connection, shmd_id(segment)).resident_bytes, MIB);
        ASSERT_OK(connection, shmd_publish(segment, 0));
        /* one writer */
        segment = preallocate("one", MIB, SHMD_SINGLE_WRITER, NULL);
        ck_assert_uint_eq(client_stat(connection, "one").resident_bytes, MIB);
        memset(client_map(segment), 1, MIB);
        /* and what is there already. */
        ck_assert_int_eq(client_try_create(connection, "one", MIB, SHMD_PREALLOCATE | SHMD_EXCLUSIVE, NULL), -EEXIST);
        segment = preallocate("odd", PAGE, 0, NULL);
        ck_assert_int_eq(shmd_created(segment), 0);
        ck_assert_uint_eq(shmd_size(segment), 2 * PAGE + 1);
        ck_assert_int_eq(client_try_create(connection, "odd", MIB, SHMD_PREALLOCATE, NULL), -EINVAL);
}
END_TEST

/* Before anything is allocated: else this test would be the end of the machine. */
START_TEST(test_more_than_there_is) {
        const uint64_t size = test_meminfo("MemAvailable") + 8 * GIB;
        const char *words;

        ck_assert_int_eq(client_try_create(connection, "vast", size, SHMD_PREALLOCATE | SHMD_EXCLUSIVE, NULL), -ENOMEM);
        words = shmd_error_message(connection);
        ck_assert_msg(strstr(words, "not enough memory") && strstr(words, "GiB wanted") && strstr(words, "available"), "%s", words);
        ck_assert(!client_exists(connection, "vast"));
        check_nothing_left();
        /* The name is as free as before, and without the flag there is no objection. */
        shmd_close(client_create(connection, "vast", size, SHMD_LIFETIME_PERSIST));
        ck_assert_uint_eq(client_stat(connection, "vast").resident_bytes, 0);
}
END_TEST

static unsigned alarms;

static void on_alarm(int number) {
        (void) number;
        alarms++;
}

/* The kernel gives up an allocation for a signal, and all of it. */
START_TEST(test_signals) {
        const struct sigaction action = { .sa_handler = on_alarm }; /* without SA_RESTART */
        const struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { 0 };

        ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
        for (unsigned i = 0; i < 50 && alarms < 5; i++) {
                struct shmd_segment *segment;

                ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
                segment = preallocate("interrupted", 64 * MIB, SHMD_EXCLUSIVE, NULL);
                ck_assert_int_eq(setitimer(ITIMER_REAL, &never, NULL), 0);
                ck_assert_uint_eq(client_stat(connection, "interrupted").resident_bytes, 64 * MIB);
                ASSERT_OK(connection, shmd_unlink(connection, "interrupted"));
                shmd_close(segment);
        }
        ck_assert_uint_ge(alarms, 5);
}
END_TEST

static void preallocate_much(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        client_try_create(own, "much", *(const uint64_t *) userdata, SHMD_PREALLOCATE | SHMD_EXCLUSIVE, NULL);
        shmd_disconnect(own);
}

/* Whoever dies while he allocates leaves nothing. */
START_TEST(test_killed_meanwhile) {
        uint64_t size = 512 * MIB;
        unsigned caught = 0;

        if (test_meminfo("MemAvailable") < 4 * size) {
                test_skip("test_killed_meanwhile: needs 2 GiB of free memory");
                return;
        }
        for (unsigned i = 0; i < 5 && caught < 1; i++) {
                struct child child;
                struct shmd_stat stat;

                child_start(&child, preallocate_much, &size);
                daemon_await_segments(&the_daemon, 1);
                child_kill(&child);
                daemon_settle(&the_daemon, 1);
                if (shmd_stat(connection, "much", &stat) == 0) { /* it was done already: then it is whole */
                        ck_assert_uint_eq(stat.resident_bytes, size);
                        ASSERT_OK(connection, shmd_unlink(connection, "much"));
                } else
                        caught++;
                check_nothing_left();
        }
        ck_assert_uint_ge(caught, 1);
}
END_TEST

/* --- who pays --- */

/* A hierarchy of control groups in which memory is counted: version 2, or 1. */
struct hierarchy {
        unsigned version;
        const char *root;
        const char *limit, *use; /* files */
};

static struct hierarchy hierarchy;

static bool write_text(const char *path, const char *text) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t) strlen(text);

        if (fd >= 0)
                close(fd);
        return done;
}

static uint64_t read_number(const char *path) {
        _cleanup_free_ char *text = test_read_file(path);

        return text ? strtoull(text, NULL, 10) : 0;
}

static pid_t main_pid; /* of whose tests the groups are */

static void group_path(char (*path)[160], const char *group, const char *file) {
        snprintf(*path, sizeof(*path), "%s/shmd-test-%d-%s%s%s", hierarchy.root, (int) main_pid, group, file ? "/" : "",
                 file ? file : "");
}

static bool try_hierarchy(const struct hierarchy *candidate) {
        char path[160];
        bool good;

        hierarchy = *candidate;
        if (hierarchy.version == 2) {
                snprintf(path, sizeof(path), "%s/cgroup.subtree_control", hierarchy.root);
                (void) write_text(path, "+memory");
        }
        group_path(&path, "try", NULL);
        if (mkdir(path, 0755) < 0)
                return false;
        group_path(&path, "try", hierarchy.limit);
        good = access(path, W_OK) == 0;
        group_path(&path, "try", NULL);
        (void) rmdir(path);
        return good;
}

static const struct hierarchy candidates[] = {
        { 2, "/sys/fs/cgroup", "memory.max", "memory.current" },
        { 1, "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes" },
};

static bool find_hierarchy(const char *part) {
        if (!test_as_root(part))
                return false;
        for (size_t i = 0; i < ELEMENTSOF(candidates); i++)
                if (try_hierarchy(&candidates[i]))
                        return true;
        test_skip("%s: there is no hierarchy of control groups for memory that could be written to", part);
        return false;
}

static void group_make(const char *group, uint64_t limit) {
        char path[160], text[32];

        group_path(&path, group, NULL);
        ck_assert_int_eq(mkdir(path, 0755), 0);
        group_path(&path, group, hierarchy.limit);
        snprintf(text, sizeof(text), "%llu", (unsigned long long) limit);
        ck_assert(write_text(path, text));
}

static uint64_t group_use(const char *group) {
        char path[160];

        group_path(&path, group, hierarchy.use);
        return read_number(path);
}

static void group_remove(const char *group) {
        char path[160];

        group_path(&path, group, NULL);
        TEST_UNTIL(rmdir(path) == 0, "a control group to be empty");
}

/* What failing tests have left. */
static void remove_groups(void) {
        static const char *const groups[] = { "try", "daemon", "creator", "small" };
        char path[160];

        for (size_t i = 0; i < ELEMENTSOF(candidates); i++)
                for (size_t j = 0; j < ELEMENTSOF(groups); j++) {
                        hierarchy = candidates[i];
                        group_path(&path, groups[j], NULL);
                        (void) rmdir(path);
                }
}

/* To be called by who is to be in it; the path was made by who has made the group. */
static void join(void *userdata) {
        ck_assert(write_text(userdata, "0"));
}

struct payer {
        char group[160]; /* its cgroup.procs */
        uint64_t size;
        int expected;
};

/* Its steps: d done, e end. */
static void pay(int channel, void *userdata) {
        struct payer *payer = userdata;
        struct shmd *own;
        int r;

        join(payer->group);
        own = client_connect();
        r = client_try_create(own, "paid", payer->size, SHMD_PREALLOCATE | SHMD_EXCLUSIVE, NULL);
        ck_assert_msg(r == payer->expected, "%d instead of %d: %s", r, payer->expected, shmd_error_message(own));
        if (r == -ENOMEM)
                ck_assert_msg(strstr(shmd_error_message(own), "in control group"), "%s", shmd_error_message(own));
        step_send(channel, 'd');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

START_TEST(test_creator_pays) {
        struct payer payer = { .size = 64 * MIB, .expected = 0 };
        char daemons[160];
        struct child child;

        if (!find_hierarchy("test_creator_pays"))
                return;
        group_make("daemon", 4 * GIB);
        group_make("creator", 256 * MIB);
        group_path(&daemons, "daemon", "cgroup.procs");
        group_path(&payer.group, "creator", "cgroup.procs");
        start(join, daemons);
        child_start(&child, pay, &payer);
        step_expect(child.channel, 'd');
        ck_assert_uint_eq(client_stat(connection, "paid").resident_bytes, 64 * MIB);
        ck_assert_uint_ge(group_use("creator"), 64 * MIB);
        ck_assert_uint_lt(group_use("daemon"), 48 * MIB);
        step_send(child.channel, 'e');
        child_join(&child);
        teardown();
        group_remove("creator");
        group_remove("daemon");
}
END_TEST

/* In a group that has not enough the kernel would kill the creator. */
START_TEST(test_small_group) {
        struct payer payer = { .size = 256 * MIB, .expected = -ENOMEM };
        struct child child;

        if (!find_hierarchy("test_small_group"))
                return;
        start(NULL, NULL);
        group_make("small", 48 * MIB);
        group_path(&payer.group, "small", "cgroup.procs");
        child_start(&child, pay, &payer);
        step_expect(child.channel, 'd');
        ck_assert(!client_exists(connection, "paid"));
        check_nothing_left();
        ck_assert_uint_lt(group_use("small"), 32 * MIB);
        step_send(child.channel, 'e');
        child_join(&child);
        teardown();
        group_remove("small");
}
END_TEST

/* --- huge pages --- */

#define HUGE_PAGE (2 * MIB)
#define HUGE_PAGES 8u

/* How many this run has added to those that were there. */
static unsigned huge_pages_added;

static uint64_t pool(const char *what, unsigned page_kib) {
        char path[128];

        snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%ukB/%s", page_kib, what);
        return read_number(path);
}

static uint64_t huge_pages_free(void) {
        return pool("free_hugepages", 2048) - pool("resv_hugepages", 2048);
}

/* A whole pool for this run, which waits for its turn: nobody else's tests shall take them. */
static int take_pool(void) {
        int lock = open("/proc/sys/vm/nr_hugepages", O_RDONLY | O_CLOEXEC);
        char text[32];

        if (geteuid() != 0 || lock < 0)
                return lock;
        flock(lock, LOCK_EX);
        snprintf(text, sizeof(text), "%llu", (unsigned long long) pool("nr_hugepages", 2048) + HUGE_PAGES);
        if (huge_pages_free() >= HUGE_PAGES || !write_text("/proc/sys/vm/nr_hugepages", text))
                return lock;
        huge_pages_added = HUGE_PAGES;
        return lock;
}

static void give_pool_back(int lock) {
        uint64_t pages = pool("nr_hugepages", 2048);
        char text[32];

        if (huge_pages_added > 0 && pages >= huge_pages_added) {
                snprintf(text, sizeof(text), "%llu", (unsigned long long) pages - huge_pages_added);
                (void) write_text("/proc/sys/vm/nr_hugepages", text);
        }
        if (lock >= 0)
                close(lock);
}

static bool have_huge_pages(const char *part) {
        if (huge_pages_free() >= HUGE_PAGES)
                return true;
        test_skip("%s: needs %u free huge pages of 2 MiB, which only root can reserve", part, HUGE_PAGES);
        return false;
}

static int try_huge(const char *name, uint64_t size, uint64_t maximum, uint64_t page, unsigned flags,
                    struct shmd_segment **ret_segment) {
        const struct shmd_create_options options = { .page_bytes = page, .maximum_bytes = maximum };

        return shmd_create(connection, name, size, SHMD_EXCLUSIVE | flags, &options, ret_segment);
}

/* The size of the pages behind an address, bytes. */
static uint64_t page_size_at(const void *address) {
        _cleanup_free_ char *text = test_read_file("/proc/self/smaps");
        char start_text[32];
        const char *line;

        ck_assert_ptr_nonnull(text);
        snprintf(start_text, sizeof(start_text), "%lx-", (unsigned long) (uintptr_t) address);
        line = strstr(text, start_text);
        ck_assert_ptr_nonnull(line);
        line = strstr(line, "KernelPageSize:");
        ck_assert_ptr_nonnull(line);
        return strtoull(line + strlen("KernelPageSize:"), NULL, 10) * KIB;
}

START_TEST(test_huge) {
        struct shmd_segment *segment = NULL;
        const uint64_t before = huge_pages_free();
        struct shmd_stat stat;
        void *address = NULL;
        size_t size = 0;

        if (!have_huge_pages("test_huge"))
                return;
        ASSERT_OK(connection, try_huge("huge", 3 * MIB, 0, HUGE_PAGE, 0, &segment));
        ck_assert_uint_eq(shmd_size(segment), 2 * HUGE_PAGE);
        stat = client_stat(connection, "huge");
        ck_assert_uint_eq(stat.size_bytes, 2 * HUGE_PAGE);
        ck_assert_uint_eq(stat.page_bytes, HUGE_PAGE);
        ck_assert_uint_eq(stat.backing, SHMD_BACKING_HUGETLB);
        ck_assert_uint_eq(stat.resident_bytes, 0);
        /* Reserved, before anybody touches it. */
        ck_assert_uint_eq(huge_pages_free(), before - 2);
        ck_assert_uint_eq(client_status(connection).my_bytes.used, 2 * HUGE_PAGE);

        ASSERT_OK(connection, shmd_map(segment, &address, &size));
        ck_assert_uint_eq(size, 2 * HUGE_PAGE);
        memset(address, 1, size);
        ck_assert_uint_eq(page_size_at(address), HUGE_PAGE);
        ck_assert_uint_eq(client_stat(connection, "huge").resident_bytes, 2 * HUGE_PAGE);
        ck_assert_uint_eq(huge_pages_free(), before - 2);
        ASSERT_OK(connection, shmd_unlink(connection, "huge"));
        shmd_close(segment);
        TEST_UNTIL(huge_pages_free() == before, "the pages to be free again");
}
END_TEST

START_TEST(test_huge_in_advance) {
        struct shmd_segment *segment = NULL;

        if (!have_huge_pages("test_huge_in_advance"))
                return;
        ASSERT_OK(connection, try_huge("ready", 3 * HUGE_PAGE, 0, HUGE_PAGE, SHMD_PREALLOCATE, &segment));
        ck_assert_uint_eq(client_stat(connection, "ready").resident_bytes, 3 * HUGE_PAGE);
        memset(client_map(segment), 1, 3 * HUGE_PAGE);
        ck_assert_int_eq(shmd_freeze(connection, "ready"), -EBUSY);
        shmd_close(segment);
        ASSERT_OK(connection, shmd_freeze(connection, "ready"));
        ck_assert_int_eq(((char *) client_map(client_open(connection, "ready", SHMD_READ_ONLY)))[HUGE_PAGE], 1);
}
END_TEST

/* With the numbers, so that people know how many to reserve. */
START_TEST(test_too_few_huge) {
        const uint64_t wanted = huge_pages_free() + 1000;
        struct shmd_segment *segment = NULL;
        char expected[128];

        ck_assert_int_eq(try_huge("huge", wanted * HUGE_PAGE, 0, HUGE_PAGE, 0, &segment), -ENOMEM);
        snprintf(expected, sizeof(expected), "2 MiB huge pages: %llu wanted, %llu free", (unsigned long long) wanted,
                 (unsigned long long) huge_pages_free());
        ck_assert_msg(strstr(shmd_error_message(connection), expected), "%s", shmd_error_message(connection));
        ck_assert_int_eq(try_huge("huge", MIB, wanted * HUGE_PAGE, HUGE_PAGE, 0, &segment), -ENOMEM);
        ck_assert_msg(strstr(shmd_error_message(connection), expected), "%s", shmd_error_message(connection));
        ck_assert_int_eq(try_huge("huge", wanted * HUGE_PAGE, 0, HUGE_PAGE, SHMD_PREALLOCATE, &segment), -ENOMEM);
        ck_assert_int_eq(try_huge("huge", MIB, 0, 3 * MIB, 0, &segment), -EINVAL);
        ck_assert_ptr_null(segment);
        check_nothing_left();
}
END_TEST

static unsigned char *map(struct shmd_segment *segment) {
        void *address = NULL;

        ASSERT_OK(NULL, shmd_map(segment, &address, NULL));
        return address;
}

START_TEST(test_huge_resizable) {
        struct shmd_segment *segment = NULL;
        const uint64_t before = huge_pages_free();
        unsigned char *bytes;

        if (!have_huge_pages("test_huge_resizable"))
                return;
        ASSERT_OK(connection, try_huge("grows", HUGE_PAGE, 4 * HUGE_PAGE, HUGE_PAGE, 0, &segment));
        ck_assert_uint_eq(shmd_maximum(segment), 4 * HUGE_PAGE);
        bytes = map(segment);
        memset(bytes, 1, HUGE_PAGE);
        ASSERT_OK(connection, shmd_resize(connection, "grows", 4 * HUGE_PAGE));
        ck_assert_uint_eq(client_stat(connection, "grows").size_bytes, 4 * HUGE_PAGE);
        ck_assert_uint_eq(bytes[4 * HUGE_PAGE - 1], 0);
        memset(bytes, 2, 4 * HUGE_PAGE);
        ck_assert_uint_eq(client_stat(connection, "grows").resident_bytes, 4 * HUGE_PAGE);
        ASSERT_OK(connection, shmd_resize(connection, "grows", HUGE_PAGE + 5));
        ck_assert_uint_le(client_stat(connection, "grows").resident_bytes, 2 * HUGE_PAGE);
        ck_assert_uint_eq(client_stat(connection, "grows").size_bytes, HUGE_PAGE + 5);
        ck_assert_uint_eq(bytes[HUGE_PAGE + 4], 2);
        ck_assert_uint_eq(bytes[HUGE_PAGE + 5], 0);
        ASSERT_OK(connection, shmd_resize(connection, "grows", 4 * HUGE_PAGE));
        for (size_t i = HUGE_PAGE + 5; i < 4 * HUGE_PAGE; i += 509)
                TEST_REQUIRE(bytes[i], ==, 0);
        ck_assert_int_eq(shmd_resize(connection, "grows", 4 * HUGE_PAGE + 1), -EFBIG);
        ASSERT_OK(connection, shmd_unlink(connection, "grows"));
        shmd_close(segment);
        TEST_UNTIL(huge_pages_free() == before, "the pages to be free again");
}
END_TEST

/*
 * Others take what was given back, to the last page: what is within the size stays good, and growing is refused. (What is
 * beyond the size has no page: libshmd(3).)
 */
START_TEST(test_huge_taken_by_others) {
        struct shmd_segment *segment = NULL, *others = NULL;
        unsigned char *bytes;

        if (!have_huge_pages("test_huge_taken_by_others"))
                return;
        ASSERT_OK(connection, try_huge("grows", 4 * HUGE_PAGE, 4 * HUGE_PAGE, HUGE_PAGE, 0, &segment));
        bytes = map(segment);
        memset(bytes + HUGE_PAGE, 1, 3 * HUGE_PAGE);
        ASSERT_OK(connection, shmd_resize(connection, "grows", 2 * HUGE_PAGE));
        ASSERT_OK(connection, try_huge("others", huge_pages_free() * HUGE_PAGE, 0, HUGE_PAGE, 0, &others));
        ck_assert_uint_eq(huge_pages_free(), 0);
        memset(bytes, 2, 2 * HUGE_PAGE); /* of which the first one has been reserved all the time */
        ck_assert_int_eq(shmd_resize(connection, "grows", 4 * HUGE_PAGE), -ENOMEM);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "huge pages"));
        ck_assert_uint_eq(client_stat(connection, "grows").size_bytes, 2 * HUGE_PAGE);
        memset(map(others), 3, shmd_size(others));
        ck_assert_uint_eq(bytes[2 * HUGE_PAGE - 1], 2);

        ASSERT_OK(connection, shmd_unlink(connection, "others"));
        shmd_close(others);
        TEST_UNTIL(shmd_resize(connection, "grows", 4 * HUGE_PAGE) == 0, "pages to be free again");
        memset(bytes, 4, 4 * HUGE_PAGE);
}
END_TEST

START_TEST(test_huge_1g) {
        const char *const file = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
        struct shmd_segment *segment = NULL;
        uint64_t before = pool("nr_hugepages", 1048576);
        char text[32];
        bool had;

        if (pool("free_hugepages", 1048576) == 0 && !test_as_root("test_huge_1g: no huge page of 1 GiB is free, and to reserve one"))
                return;
        snprintf(text, sizeof(text), "%llu", (unsigned long long) before + 1);
        (void) write_text(file, text);
        snprintf(text, sizeof(text), "%llu", (unsigned long long) before);
        had = pool("free_hugepages", 1048576) > 0;
        if (had) {
                ASSERT_OK(connection, try_huge("giant", MIB, 0, GIB, 0, &segment));
                ck_assert_uint_eq(shmd_size(segment), GIB);
                *map(segment) = 1;
                ck_assert_uint_eq(page_size_at(map(segment)), GIB);
                ASSERT_OK(connection, shmd_unlink(connection, "giant"));
                shmd_close(segment);
        } else
                test_skip("test_huge_1g: no huge page of 1 GiB can be had here");
        daemon_await_segments(&the_daemon, 0);
        ck_assert_int_eq(try_huge("giant", 1000 * GIB, 0, GIB, 0, &segment), -ENOMEM);
        ck_assert_msg(strstr(shmd_error_message(connection), "1 GiB huge pages: 1000 wanted"), "%s", shmd_error_message(connection));
        TEST_UNTIL(!had || pool("free_hugepages", 1048576) > 0, "the page to be free again");
        (void) write_text(file, text);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("memory");
        TCase *tests;
        int lock, result;

        tests = test_case(suite, "in advance", setup, teardown);
        tcase_add_test(tests, test_pages_are_there);
        tcase_add_test(tests, test_together_with);
        tcase_add_test(tests, test_more_than_there_is);
        tcase_add_test(tests, test_signals);
        tcase_add_test(tests, test_killed_meanwhile);

        tests = test_case(suite, "who pays", NULL, NULL);
        tcase_add_test(tests, test_creator_pays);
        tcase_add_test(tests, test_small_group);

        tests = test_case(suite, "huge pages", setup, teardown);
        tcase_add_test(tests, test_huge);
        tcase_add_test(tests, test_huge_in_advance);
        tcase_add_test(tests, test_too_few_huge);
        tcase_add_test(tests, test_huge_resizable);
        tcase_add_test(tests, test_huge_taken_by_others);
        tcase_add_test(tests, test_huge_1g);

        main_pid = getpid();
        lock = take_pool();
        result = test_run(suite);
        remove_groups();
        give_pool_back(lock);
        return result;
}
