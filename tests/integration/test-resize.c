/* SPDX-License-Identifier: MIT */
/*
 * Segments that grow and shrink while others have them mapped: nobody gets SIGBUS, what is beyond the size is zeros and
 * is given back to the machine, and the maximum is what was charged, whatever the size.
 */
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

#define PAGE ((uint64_t) test_page_size())

static struct shmd_segment *create_resizable(const char *name, uint64_t size, uint64_t maximum) {
        const struct shmd_create_options options = { .maximum_bytes = maximum };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, size, SHMD_EXCLUSIVE, &options, &segment));
        ck_assert_uint_eq(shmd_maximum(segment), maximum);
        ck_assert_uint_eq(shmd_size(segment), size);
        return segment;
}

/* The mapping reaches to the maximum, whatever the size that is told. */
static unsigned char *map_maximum(struct shmd_segment *segment) {
        return client_map(segment);
}

/* How many bytes of a range are not the given one. */
static size_t count_others(const unsigned char *bytes, size_t from, size_t to, unsigned char value) {
        size_t count = 0;

        for (size_t i = from; i < to; i++)
                count += bytes[i] != value;
        return count;
}

/* --- twenty readers --- */

#define READERS 20u
#define KILLED_READERS 5u
#define CROWD_MAXIMUM (256 * PAGE)
#define RESIZES_MIN 200u
#define PASSES_MIN 5u

/* What parent and children have in common, so that nothing slows them down. */
struct crowd {
        atomic_uint stop;
        atomic_uint passes[READERS];
};

static struct crowd *crowd;

struct reader {
        unsigned number;
};

/*
 * Touches each page up to the maximum, again and again. What it finds is what the writer wrote, or zero. Fails by
 * SIGBUS if any page is not there.
 */
static void read_all(int channel, void *userdata) {
        const struct reader *reader = userdata;
        struct shmd *own = client_connect();
        const unsigned char *bytes = map_maximum(client_open(own, "crowd", SHMD_READ_ONLY));

        step_send(channel, 'r');
        while (!atomic_load(&crowd->stop)) {
                TEST_REQUIRE(bytes[0], ==, 0xaa);
                for (size_t i = 0; i < CROWD_MAXIMUM; i += PAGE) {
                        unsigned char byte = ((const volatile unsigned char *) bytes)[i];

                        if (byte != 0)
                                TEST_REQUIRE(byte, ==, 0xaa);
                }
                atomic_fetch_add(&crowd->passes[reader->number], 1);
        }
        shmd_disconnect(own);
}

static bool all_have_read(unsigned from) {
        for (unsigned i = from; i < READERS; i++)
                if (atomic_load(&crowd->passes[i]) < PASSES_MIN)
                        return false;
        return true;
}

START_TEST(test_twenty_readers) {
        struct shmd_segment *segment = create_resizable("crowd", CROWD_MAXIMUM, CROWD_MAXIMUM);
        struct child children[READERS];
        struct reader readers[READERS];
        unsigned char *bytes;
        unsigned seed = 1, n, killed = 0;

        crowd = mmap(NULL, sizeof(*crowd), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        ck_assert_ptr_ne(crowd, MAP_FAILED);
        bytes = map_maximum(segment);
        memset(bytes, 0xaa, CROWD_MAXIMUM);
        for (unsigned i = 0; i < READERS; i++) {
                readers[i].number = i;
                child_start(&children[i], read_all, &readers[i]);
        }
        for (unsigned i = 0; i < READERS; i++)
                step_expect(children[i].channel, 'r');

        for (n = 0; n < RESIZES_MIN || !all_have_read(KILLED_READERS); n++) {
                /* At full speed, from one page to all of them. */
                uint64_t size = n % 2 ? CROWD_MAXIMUM : 1 + (uint64_t) rand_r(&seed) % CROWD_MAXIMUM;

                ASSERT_OK(connection, shmd_resize(connection, "crowd", size));
                if (n % 16 == 1)
                        memset(bytes + PAGE, 0xaa, CROWD_MAXIMUM - PAGE);
                if (killed < KILLED_READERS && n % 40 == 20)
                        child_kill(&children[killed++]);
        }
        ASSERT_OK(connection, shmd_resize(connection, "crowd", PAGE));
        atomic_store(&crowd->stop, 1);
        for (unsigned i = killed; i < READERS; i++)
                child_join(&children[i]);
        ck_assert_uint_eq(killed, KILLED_READERS);

        ck_assert_uint_eq(client_stat(connection, "crowd").size_bytes, PAGE);
        ck_assert_uint_eq(count_others(bytes, 0, PAGE, 0xaa), 0);
        ck_assert_uint_eq(count_others(bytes, PAGE, CROWD_MAXIMUM, 0), 0);
        daemon_settle(&the_daemon, 1);
        ck_assert_uint_eq(client_stat(connection, "crowd").holders, 1);
        munmap(crowd, sizeof(*crowd));
}
END_TEST

/* --- what is in it --- */

/* Also within the page in which it ends; and for those who mapped it before, or only while it was small. */
START_TEST(test_zeros) {
        const uint64_t maximum = 8 * PAGE, small = PAGE + 100;
        struct shmd *other = client_connect(), *late = client_connect();
        unsigned char *mine = map_maximum(create_resizable("zeros", maximum, maximum));
        const unsigned char *before = map_maximum(client_open(other, "zeros", SHMD_READ_ONLY)), *within;

        memset(mine, 0x55, maximum);
        ck_assert_uint_eq(count_others(before, 0, maximum, 0x55), 0);
        ASSERT_OK(connection, shmd_resize(connection, "zeros", small));
        within = map_maximum(client_open(late, "zeros", SHMD_READ_ONLY));
        ck_assert_uint_eq(count_others(mine, 0, small, 0x55), 0);
        ck_assert_uint_eq(count_others(mine, small, maximum, 0), 0);
        ASSERT_OK(connection, shmd_resize(connection, "zeros", maximum));

        ck_assert_uint_eq(count_others(mine, 0, small, 0x55), 0);
        ck_assert_uint_eq(count_others(mine, small, maximum, 0), 0);
        ck_assert_uint_eq(count_others(before, small, maximum, 0), 0);
        ck_assert_uint_eq(count_others(within, 0, small, 0x55), 0);
        ck_assert_uint_eq(count_others(within, small, maximum, 0), 0);
        mine[maximum - 1] = 7;
        ck_assert_uint_eq(before[maximum - 1], 7);
        ck_assert_uint_eq(within[maximum - 1], 7);
        shmd_disconnect(late);
        shmd_disconnect(other);
}
END_TEST

/* What is opened later has the size of then. */
START_TEST(test_size_of_later_openers) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = create_resizable("later", PAGE, 4 * PAGE), *theirs;

        ASSERT_OK(connection, shmd_resize_id(connection, shmd_id(segment), 3 * PAGE + 1));
        theirs = client_open(other, "later", SHMD_READ_ONLY);
        ck_assert_uint_eq(shmd_size(theirs), 3 * PAGE + 1);
        ck_assert_uint_eq(shmd_maximum(theirs), 4 * PAGE);
        shmd_disconnect(other);
}
END_TEST

static uint64_t count_resident(unsigned char *bytes, size_t size) {
        unsigned char *there = malloc(size / PAGE);
        uint64_t count = 0;

        ck_assert_ptr_nonnull(there);
        ck_assert_int_eq(mincore(bytes, size, there), 0);
        for (size_t i = 0; i < size / PAGE; i++)
                count += there[i] & 1;
        free(there);
        return count * PAGE;
}

/* The answer comes when the memory has gone: with a reader that had touched all of it. */
START_TEST(test_memory_goes_back) {
        const uint64_t maximum = UINT64_C(64) << 20;
        struct shmd *other = client_connect();
        unsigned char *bytes = map_maximum(create_resizable("memory", maximum, maximum));
        unsigned char *theirs = map_maximum(client_open(other, "memory", SHMD_READ_ONLY));
        uint64_t machine;

        memset(bytes, 1, maximum);
        ck_assert_uint_eq(count_others(theirs, 0, maximum, 1), 0);
        ck_assert_uint_eq(client_stat(connection, "memory").resident_bytes, maximum);
        machine = test_meminfo("Shmem");
        ASSERT_OK(connection, shmd_resize(connection, "memory", PAGE));
        ck_assert_uint_eq(client_stat(connection, "memory").resident_bytes, PAGE);
        ck_assert_uint_eq(count_resident(bytes, maximum), PAGE);
        /* Other tests use memory meanwhile, but hardly so much. */
        TEST_UNTIL(test_meminfo("Shmem") + maximum / 2 < machine, "the machine to have it back");
        shmd_disconnect(other);
}
END_TEST

START_TEST(test_charged_is_the_maximum) {
        const uint64_t before = client_status(connection).my_bytes.used;
        struct shmd_segment *segment = create_resizable("charge", PAGE, 16 * PAGE);
        struct shmd_stat stat = client_stat(connection, "charge");

        ck_assert_uint_eq(stat.resizable, 1);
        ck_assert_uint_eq(stat.size_bytes, PAGE);
        ck_assert_uint_eq(stat.maximum_bytes, 16 * PAGE);
        ck_assert_uint_eq(client_status(connection).my_bytes.used, before + 16 * PAGE);
        ASSERT_OK(connection, shmd_resize(connection, "charge", 16 * PAGE));
        ck_assert_uint_eq(client_status(connection).my_bytes.used, before + 16 * PAGE);
        ASSERT_OK(connection, shmd_resize(connection, "charge", 1));
        ck_assert_uint_eq(client_status(connection).my_bytes.used, before + 16 * PAGE);
        ck_assert_uint_eq(client_stat(connection, "charge").size_bytes, 1);
        ASSERT_OK(connection, shmd_unlink(connection, "charge"));
        shmd_close(segment);
        TEST_UNTIL(client_status(connection).my_bytes.used == before, "the charge to be given back");
}
END_TEST

/* --- who may not --- */

START_TEST(test_refusals) {
        struct shmd_segment *plain = client_create(connection, "plain", 2 * PAGE, SHMD_LIFETIME_PERSIST), *none = NULL;
        const struct shmd_create_options smaller = { .maximum_bytes = PAGE };
        char limit[32];

        create_resizable("resizable", PAGE, 4 * PAGE);
        ck_assert_int_eq(shmd_resize(connection, "resizable", 4 * PAGE + 1), -EFBIG);
        snprintf(limit, sizeof(limit), "%llu KiB", (unsigned long long) (4 * PAGE / 1024));
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), limit));
        ck_assert_int_eq(shmd_resize(connection, "resizable", UINT64_MAX), -EFBIG);
        ck_assert_int_eq(shmd_resize(connection, "resizable", 0), -EINVAL);
        ck_assert_int_eq(shmd_resize(connection, "nothing", PAGE), -ENOENT);
        ck_assert_uint_eq(client_stat(connection, "resizable").size_bytes, PAGE);

        ck_assert_int_eq(shmd_resize(connection, "plain", PAGE), -ENOTSUP);
        ck_assert_int_eq(shmd_resize(connection, "plain", 3 * PAGE), -ENOTSUP);
        ck_assert_int_eq(shmd_resize_id(connection, shmd_id(plain), 2 * PAGE), -ENOTSUP);
        ck_assert_uint_eq(client_stat(connection, "plain").size_bytes, 2 * PAGE);
        ck_assert_uint_eq(client_stat(connection, "plain").resizable, 0);

        ck_assert_int_eq(shmd_create(connection, "smaller", PAGE + 1, 0, &smaller, &none), -EFBIG);
        ck_assert_ptr_null(none);
        ck_assert(!client_exists(connection, "smaller"));

        /* The descriptor is no way around it. */
        ck_assert_int_eq(ftruncate(shmd_fd(plain), (off_t) PAGE), -1);
        ck_assert_int_eq(errno, EPERM);
}
END_TEST

static void resize_as_stranger(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(shmd_resize(own, "private", PAGE), -EACCES);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(own), "0600"));
        ck_assert_int_eq(shmd_resize(own, "readable", PAGE), -EACCES);
        ASSERT_OK(own, shmd_resize(own, "writable", PAGE));
        shmd_disconnect(own);
}

/* Whoever may write it may resize it, and nobody else. */
START_TEST(test_strangers) {
        static const char *const names[] = { "private", "readable", "writable" };
        static const mode_t modes[] = { 0600, 0644, 0666 };
        struct child child;

        if (!test_as_root("test_strangers"))
                return;
        for (unsigned i = 0; i < ELEMENTSOF(names); i++) {
                create_resizable(names[i], 2 * PAGE, 4 * PAGE);
                ASSERT_OK(connection, shmd_chmod(connection, names[i], modes[i]));
        }
        child_start_as(&child, &(struct identity) { .uid = 65533, .gid = 65533 }, resize_as_stranger, NULL);
        child_join(&child);
        ck_assert_uint_eq(client_stat(connection, "private").size_bytes, 2 * PAGE);
        ck_assert_uint_eq(client_stat(connection, "readable").size_bytes, 2 * PAGE);
        ck_assert_uint_eq(client_stat(connection, "writable").size_bytes, PAGE);
}
END_TEST

/* --- who learns of it --- */

struct heard {
        unsigned count;
        uint64_t sizes[64];
        uint64_t id;
};

static void hear(struct shmd *from, const struct shmd_event *event, void *userdata) {
        struct heard *heard = userdata;

        (void) from;
        if (event->kind != SHMD_EVENT_RESIZED)
                return;
        ck_assert_uint_lt(heard->count, ELEMENTSOF(heard->sizes));
        heard->sizes[heard->count++] = event->size_bytes;
        heard->id = event->id;
}

static void dispatch_once(struct shmd *which) {
        int r = shmd_dispatch(which);

        if (r == 0) {
                test_wait_readable(shmd_poll_fd(which), "something to dispatch");
                r = shmd_dispatch(which);
        }
        if (r < 0)
                ck_abort_msg("shmd_dispatch: %s", shmd_error_message(which));
}

START_TEST(test_events) {
        struct shmd *other = client_connect();
        struct shmd_segment *segment = create_resizable("told", PAGE, 64 * PAGE), *theirs;
        struct heard heard = { .count = 0 };
        uint64_t watch;

        theirs = client_open(other, "told", SHMD_READ_ONLY);
        ck_assert_uint_eq(shmd_size(theirs), PAGE);
        ASSERT_OK(other, shmd_watch(other, "told", SHMD_WATCH_EXACT, hear, &heard, &watch));
        for (uint64_t i = 1; i <= 40; i++)
                ASSERT_OK(connection, shmd_resize(connection, "told", i * PAGE));
        ck_assert_int_eq(shmd_resize(connection, "told", 65 * PAGE), -EFBIG); /* of which nobody hears */
        ASSERT_OK(connection, shmd_resize(connection, "told", 5));
        while (heard.count < 41)
                dispatch_once(other);
        for (uint64_t i = 1; i <= 40; i++)
                ck_assert_uint_eq(heard.sizes[i - 1], i * PAGE);
        ck_assert_uint_eq(heard.sizes[40], 5);
        ck_assert_uint_eq(heard.id, shmd_id(segment));
        shmd_disconnect(other);
}
END_TEST

/* --- order --- */

struct results {
        unsigned count;
        int errors[8];
};

static void note_result(struct shmd *from, const struct shmd_result *result, void *userdata) {
        struct results *results = userdata;

        (void) from;
        ck_assert_uint_lt(results->count, ELEMENTSOF(results->errors));
        results->errors[results->count++] = result->error;
}

static void await_results(struct shmd *which, struct results *results, unsigned count) {
        while (results->count < count)
                dispatch_once(which);
}

/* Requests of one client are carried out in their order. */
START_TEST(test_freeze_between) {
        struct shmd_segment *segment = create_resizable("order", PAGE, 4 * PAGE);
        struct results results = { .count = 0 };

        ck_assert_int_eq(shmd_resize_async(connection, "order", 2 * PAGE, note_result, &results), 0);
        ck_assert_int_eq(shmd_freeze_async(connection, "order", note_result, &results), 0);
        ck_assert_int_eq(shmd_resize_async(connection, "order", 3 * PAGE, note_result, &results), 0);
        ck_assert_int_eq(shmd_resize_async(connection, "order", 4 * PAGE, note_result, &results), 0);
        ck_assert_int_eq(shmd_resize_async(connection, "order", 1, note_result, &results), 0);
        await_results(connection, &results, 5);
        ck_assert_int_eq(results.errors[0], 0);
        ck_assert_int_eq(results.errors[1], 0);
        for (unsigned i = 2; i < 5; i++)
                ck_assert_int_eq(results.errors[i], -EPERM);
        ck_assert_uint_eq(client_stat(connection, "order").size_bytes, 2 * PAGE);
        ck_assert_uint_eq(client_stat(connection, "order").state, SHMD_STATE_FROZEN);
        shmd_close(segment);
}
END_TEST

/*
 * Two clients at the same time: whichever comes first, what is frozen has the size that it was frozen with. Fails
 * if the daemon looks whether a segment is frozen only when the request comes, while the freeze is under way: for
 * that, both have to wait until somebody's memory has been given back.
 */
START_TEST(test_freeze_against_resize) {
        const uint64_t ballast = UINT64_C(16) << 20;
        struct shmd *other = client_connect(), *slow = client_connect();
        unsigned char *bytes = map_maximum(create_resizable("ballast", ballast, ballast));

        for (unsigned i = 0; i < 40; i++) {
                uint64_t size = i % 2 ? 4 * PAGE : 2 * PAGE, then;
                struct results freeze = { .count = 0 }, resize = { .count = 0 }, waste = { .count = 0 };
                struct shmd_segment *segment = create_resizable("race", 3 * PAGE, 4 * PAGE);
                struct shmd_stat stat;

                memset(bytes, 1, ballast);
                ck_assert_int_eq(shmd_resize_async(slow, "ballast", 1, note_result, &waste), 0);
                ck_assert_int_eq(shmd_freeze_async(connection, "race", note_result, &freeze), 0);
                ck_assert_int_eq(shmd_resize_async(other, "race", size, note_result, &resize), 0);
                await_results(connection, &freeze, 1);
                then = client_stat(connection, "race").size_bytes;
                await_results(other, &resize, 1);
                await_results(slow, &waste, 1);
                ck_assert_int_eq(waste.errors[0], 0);
                ck_assert_int_eq(freeze.errors[0], 0);
                stat = client_stat(connection, "race");
                ck_assert_uint_eq(stat.state, SHMD_STATE_FROZEN);
                ck_assert_msg(stat.size_bytes == then, "it was frozen, and then its size changed");
                if (resize.errors[0] == 0)
                        ck_assert_uint_eq(stat.size_bytes, size);
                else {
                        ck_assert_int_eq(resize.errors[0], -EPERM);
                        ck_assert_uint_eq(stat.size_bytes, 3 * PAGE);
                }
                ASSERT_OK(connection, shmd_unlink(connection, "race"));
                shmd_close(segment);
        }
        shmd_disconnect(slow);
        shmd_disconnect(other);
}
END_TEST

/* --- deaths meanwhile --- */

static void resize_until_killed(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) userdata;
        step_send(channel, 'r');
        for (uint64_t i = 0;; i++)
                ASSERT_OK(own, shmd_resize(own, "deadly", (i % 2 ? 1 : 64) * PAGE));
}

START_TEST(test_resizers_die) {
        struct shmd_segment *segment = create_resizable("deadly", 32 * PAGE, 64 * PAGE);
        unsigned char *bytes = map_maximum(segment);

        for (unsigned i = 0; i < 20; i++) {
                struct child child;
                uint64_t size;

                child_start(&child, resize_until_killed, NULL);
                step_expect(child.channel, 'r');
                TEST_UNTIL(client_stat(connection, "deadly").size_bytes == PAGE, "it to resize");
                child_kill(&child);
                daemon_settle(&the_daemon, 1);
                ASSERT_OK(connection, shmd_resize(connection, "deadly", 32 * PAGE));
                size = client_stat(connection, "deadly").size_bytes;
                ck_assert_uint_eq(size, 32 * PAGE);
                memset(bytes, 1, 64 * PAGE);
        }
        ck_assert_uint_eq(client_stat(connection, "deadly").holders, 1);
}
END_TEST

/* It goes while its size is being changed: the answer is one or the other, and nothing is left. */
START_TEST(test_freed_meanwhile) {
        struct shmd *other = client_connect();

        for (unsigned i = 0; i < 50; i++) {
                struct results results = { .count = 0 };
                struct shmd_segment *segment = create_resizable("brief", 256 * PAGE, 256 * PAGE);
                uint64_t id = shmd_id(segment);

                memset(map_maximum(segment), 1, 256 * PAGE);
                ck_assert_int_eq(shmd_resize_async(other, "brief", PAGE, note_result, &results), 0);
                ASSERT_OK(connection, shmd_unlink(connection, "brief"));
                shmd_close(segment);
                await_results(other, &results, 1);
                ck_assert(results.errors[0] == 0 || results.errors[0] == -ENOENT);
                TEST_UNTIL(!client_id_exists(connection, id), "it to go");
        }
        shmd_disconnect(other);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("resize");
        TCase *tests;

        tests = test_case(suite, "readers", setup, teardown);
        tcase_add_test(tests, test_twenty_readers);

        tests = test_case(suite, "contents", setup, teardown);
        tcase_add_test(tests, test_zeros);
        tcase_add_test(tests, test_size_of_later_openers);
        tcase_add_test(tests, test_memory_goes_back);
        tcase_add_test(tests, test_charged_is_the_maximum);

        tests = test_case(suite, "refusals", setup, teardown);
        tcase_add_test(tests, test_refusals);
        tcase_add_test(tests, test_strangers);

        tests = test_case(suite, "events", setup, teardown);
        tcase_add_test(tests, test_events);

        tests = test_case(suite, "order", setup, teardown);
        tcase_add_test(tests, test_freeze_between);
        tcase_add_test(tests, test_freeze_against_resize);

        tests = test_case(suite, "deaths", setup, teardown);
        tcase_add_test(tests, test_resizers_die);
        tcase_add_test(tests, test_freed_meanwhile);
        return test_run(suite);
}
