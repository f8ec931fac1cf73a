/* SPDX-License-Identifier: MIT */
/*
 * What processes do to each other by locks, conditions and bells, one of them at each single instruction of it: killed there, nobody
 * else waits for ever or is misled; stopped there and continued, no wake-up is lost to it.
 *
 * The one is traced, from the same point on, a step further each time. What else happens is
 * done while it stands still, so nothing depends on time.
 */
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

#if defined(__x86_64__)

#define STEPS_MAX 20000u

static struct shmd *connection;
static struct shmd_segment *segment;

struct data {
        uint64_t first, second; /* equal, but within a section */
        uint64_t flag;
        uint32_t bell;
};
static struct data *data;

static void setup(void) {
        test_watch_over();
        daemon_setup();
        connection = client_connect();
        segment = client_create(connection, "stepped", 4096, SHMD_LIFETIME_HOLDERS);
        data = client_map(segment);
        ASSERT_OK(connection, shmd_prepare_locks(segment));
}

/* Steps are many times faster if tracer and traced share a processor. */
static void setup_steps(void) {
        cpu_set_t set;

        setup();
        CPU_ZERO(&set);
        CPU_SET((size_t) sched_getcpu(), &set);
        ck_assert_int_eq(sched_setaffinity(0, sizeof(set), &set), 0);
}

static void teardown(void) {
        shmd_close(segment);
        connection = shmd_disconnect(connection);
        daemon_teardown();
}

/* --- one that is traced --- */

__attribute__((__noinline__)) static void end_of_act(void) {
        __asm__ __volatile__("");
}

/* What it does, after what makes it ready, and before what it does if it comes to that, untraced. */
struct act {
        void (*prepare)(void);
        void (*perform)(void);
        void (*finish)(void);
};

static void be_traced(int channel, void *userdata) {
        const struct act *act = userdata;

        (void) channel;
        act->prepare();
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
                _exit(77);
        raise(SIGSTOP);
        act->perform();
        end_of_act();
        if (act->finish)
                act->finish();
}

static void await_stop(const struct child *child) {
        int status = 0;

        ck_assert_int_eq(waitpid(child->pid, &status, 0), child->pid);
        ck_assert_msg(WIFSTOPPED(status), "a traced child: wait status 0x%x", (unsigned) status);
}

static void traced_start(struct child *child, const struct act *act) {
        child_start_inheriting(child, be_traced, (void *) act);
        await_stop(child);
}

/* Whether the next step is to sleep. Its program is ours, so that can be seen here. */
static bool is_about_to_sleep(const struct user_regs_struct *registers) {
        static const unsigned char instruction[] = { 0x0f, 0x05 }; /* syscall */

        if (memcmp((const void *) (uintptr_t) registers->rip, instruction, sizeof(instruction)) != 0)
                return false;
        return registers->rax == SYS_futex &&
               ((registers->rsi & FUTEX_CMD_MASK) == FUTEX_WAIT || (registers->rsi & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET);
}

static void step_on(const struct child *child) {
        ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, child->pid, NULL, NULL), 0);
}

enum reached {
        REACHED_STEP,
        REACHED_SLEEP,
        REACHED_END,
};

/* Asking the clock is one step: it changes nothing. */
static bool is_in_clock(const struct user_regs_struct *registers) {
        return registers->rip - getauxval(AT_SYSINFO_EHDR) < 8192;
}

/* Lets it do that many instructions; it stops before that where it would sleep, or has done all. */
static enum reached step(const struct child *child, unsigned count) {
        struct user_regs_struct registers;

        for (unsigned i = 0;; i += !is_in_clock(&registers)) {
                ck_assert_msg(ptrace(PTRACE_GETREGS, child->pid, NULL, &registers) == 0, "no registers");
                if (registers.rip == (uintptr_t) end_of_act)
                        return REACHED_END;
                if (is_about_to_sleep(&registers))
                        return REACHED_SLEEP;
                if (i == count)
                        return REACHED_STEP;
                step_on(child);
                await_stop(child);
        }
}

/* Of the longest acts not every step, unless there is time. */
static unsigned stride(unsigned count) {
        return count < 300 || test_is_long() ? 1 : 3;
}

/* Goes on, and must come to its end. */
static void traced_finish(struct child *child) {
        ck_assert_int_eq(ptrace(PTRACE_DETACH, child->pid, NULL, NULL), 0);
        child_join(child);
}

/* --- one that waits --- */

static bool is_asleep(pid_t pid) {
        char path[32], *text, state;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
        text = test_read_file(path);
        state = text ? strrchr(text, ')')[2] : '?';
        free(text);
        return state == 'S';
}

static int is_waiter(const struct shmd_lock_user *user, void *userdata) {
        return user->waiting && user->pid == (uint32_t) *(pid_t *) userdata;
}

/* Asleep because it waits for the lock. */
static void await_sleep(const struct child *child) {
        pid_t pid = child->pid;

        TEST_UNTIL(shmd_lock_users(connection, shmd_id(segment), is_waiter, &pid, NULL) == 1 && is_asleep(pid), "a waiter to sleep");
}

static void take(unsigned flags) {
        int r = shmd_lock(segment, flags, SHMD_FOREVER);

        if (r == -EOWNERDEAD && flags == SHMD_LOCK_EXCLUSIVE) {
                data->second = data->first;
                r = shmd_mark_consistent(segment);
        }
        if (r == 0)
                TEST_REQUIRE(data->first, ==, data->second);
        else
                TEST_REQUIRE(r, ==, -EOWNERDEAD);
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

static void wait_for_lock(int channel, void *userdata) {
        (void) channel;
        take(userdata ? SHMD_LOCK_SHARED : SHMD_LOCK_EXCLUSIVE);
}

static void share_until_told(int channel, void *userdata) {
        (void) userdata;
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_SHARED, SHMD_FOREVER), ==, 0);
        step_expect(channel, 'u');
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

/*
 * Who lets go of the lock and wants it again at once gives way to one who waits to share it; there may be no time for that, but
 * hardly ever.
 */
START_TEST(test_gives_way) {
        unsigned gave_way = 0;

        for (unsigned i = 0; i < 20; i++) {
                struct child child;
                int r;

                TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), ==, 0);
                child_start_inheriting(&child, share_until_told, NULL);
                await_sleep(&child);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                r = shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 20000);
                gave_way += r == -ETIMEDOUT;
                if (r == 0)
                        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                step_send(child.channel, 'u');
                child_join(&child);
        }
        ck_assert_uint_ge(gave_way, 15);
}
END_TEST

/* Both sides can be had, at once. */
static void require_free(bool may_be_dirty) {
        int r = shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0);

        if (r == -EOWNERDEAD && may_be_dirty) {
                data->second = data->first;
                r = shmd_mark_consistent(segment);
        }
        TEST_REQUIRE(r, ==, 0);
        TEST_REQUIRE(data->first, ==, data->second);
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_SHARED, 0), ==, 0);
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

/* --- acts --- */

static void section(void) {
        __atomic_store_n(&data->first, data->first + 1, __ATOMIC_RELAXED);
        __atomic_store_n(&data->second, data->second + 1, __ATOMIC_RELAXED);
}

static void lock_and_unlock(void) {
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), ==, 0);
        section();
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

static void share_and_unlock(void) {
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_SHARED, SHMD_FOREVER), ==, 0);
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

static void write_something(void) {
        TEST_REQUIRE(shmd_write_begin(segment, SHMD_FOREVER), ==, 0);
        section();
        TEST_REQUIRE(shmd_write_end(segment), ==, 0);
}

static void wait_shortly(void) {
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), ==, 0);
        TEST_REQUIRE(shmd_condition_wait(segment, 0), ==, -ETIMEDOUT);
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

static void repair(void) {
        take(SHMD_LOCK_EXCLUSIVE);
}

static void just_unlock(void) {
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

static void hold_exclusively(void) {
        lock_and_unlock();
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), ==, 0);
}

static void hold_shared(void) {
        share_and_unlock();
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_SHARED, SHMD_FOREVER), ==, 0);
}

/* --- killed at each step --- */

static void die_with_lock(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER), ==, 0);
}

static const struct {
        struct act act;
        bool dirty; /* who dies may have had the lock exclusively */
        bool inherits; /* it begins with a dead holder */
} killed[] = {
        { { lock_and_unlock, lock_and_unlock, NULL }, true, false },
        { { share_and_unlock, share_and_unlock, NULL }, false, false },
        { { share_and_unlock, lock_and_unlock, NULL }, true, false },
        { { write_something, write_something, NULL }, true, false },
        { { wait_shortly, wait_shortly, NULL }, true, false },
        { { lock_and_unlock, repair, NULL }, true, true },
};

START_TEST(test_killed) {
        enum reached reached = REACHED_STEP;
        unsigned count = 0;

        for (; reached == REACHED_STEP && count < STEPS_MAX; count += stride(count)) {
                struct child child;

                traced_start(&child, &killed[_i].act);
                if (killed[_i].inherits) {
                        struct child dead;

                        child_start_inheriting(&dead, die_with_lock, NULL);
                        child_join(&dead);
                }
                reached = step(&child, count);
                child_kill(&child);
                require_free(killed[_i].dirty);
        }
        TEST_REQUIRE(reached, ==, REACHED_END);
}
END_TEST

/* --- killed while another one waits, and a third one takes what is free at that moment --- */

static const struct {
        struct act act;
        bool reads; /* who waits */
} released[] = {
        { { hold_exclusively, just_unlock, NULL }, false },
        { { hold_exclusively, just_unlock, NULL }, true },
        { { hold_shared, just_unlock, NULL }, false },
};

START_TEST(test_killed_while_awaited) {
        enum reached reached = REACHED_STEP;
        bool steals = _i % 2;

        for (unsigned count = 0; reached == REACHED_STEP && count < STEPS_MAX; count += stride(count)) {
                struct child holder, waiter;
                int r = -EBUSY;

                traced_start(&holder, &released[_i / 2].act);
                child_start_inheriting(&waiter, wait_for_lock, released[_i / 2].reads ? segment : NULL);
                await_sleep(&waiter);
                reached = step(&holder, count);
                if (steals)
                        r = shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0);
                TEST_REQUIRE(r == 0 || r == -EBUSY, ==, 1);
                child_kill(&holder);
                if (r == 0)
                        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                child_join(&waiter);
                require_free(true);
        }
        TEST_REQUIRE(reached, ==, REACHED_END);
}
END_TEST

/* The one that was woken dies before it has the lock, which a third one has meanwhile. */
START_TEST(test_woken_and_killed) {
        static const struct act act = { lock_and_unlock, lock_and_unlock, NULL };
        enum reached reached = REACHED_STEP;

        for (unsigned count = 0; reached == REACHED_STEP && count < STEPS_MAX; count += stride(count)) {
                struct child first, second;

                traced_start(&first, &act);
                TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), ==, 0);
                TEST_REQUIRE(step(&first, STEPS_MAX), ==, REACHED_SLEEP);
                step_on(&first);
                await_sleep(&first);
                child_start_inheriting(&second, wait_for_lock, NULL);
                await_sleep(&second);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                await_stop(&first);
                TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), ==, 0);
                reached = step(&first, count);
                child_kill(&first);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                child_join(&second);
                require_free(true);
        }
        TEST_REQUIRE(reached, ==, REACHED_SLEEP);
}
END_TEST

/* --- stopped at each step, and continued --- */

/* Who waits for the lock, exclusively or to share it, while the holder lets go. */
START_TEST(test_lock_awaited) {
        static const struct act acts[] = { { lock_and_unlock, lock_and_unlock, NULL }, { share_and_unlock, share_and_unlock, NULL } };
        enum reached reached = REACHED_STEP;

        for (unsigned count = 0; reached == REACHED_STEP && count < STEPS_MAX; count += stride(count)) {
                struct child child;

                traced_start(&child, &acts[_i]);
                TEST_REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0), ==, 0);
                reached = step(&child, count);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                traced_finish(&child);
        }
        TEST_REQUIRE(reached, ==, REACHED_SLEEP);
}
END_TEST

static void wait_for_flag(unsigned flags) {
        TEST_REQUIRE(shmd_lock(segment, flags, SHMD_FOREVER), ==, 0);
        while (!__atomic_load_n(&data->flag, __ATOMIC_RELAXED))
                TEST_REQUIRE(shmd_condition_wait(segment, SHMD_FOREVER), ==, 0);
        TEST_REQUIRE(shmd_unlock(segment), ==, 0);
}

static void wait_exclusively(void) {
        wait_for_flag(SHMD_LOCK_EXCLUSIVE);
}

static void wait_sharing(void) {
        wait_for_flag(SHMD_LOCK_SHARED);
}

START_TEST(test_condition) {
        static const struct act acts[] = { { lock_and_unlock, wait_exclusively, NULL }, { share_and_unlock, wait_sharing, NULL } };
        enum reached reached = REACHED_STEP;

        for (unsigned count = 0; reached == REACHED_STEP && count < STEPS_MAX; count += stride(count)) {
                struct child child;
                int r;

                traced_start(&child, &acts[_i]);
                __atomic_store_n(&data->flag, 0, __ATOMIC_RELAXED);
                reached = step(&child, count);
                r = shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0);
                if (r == -EBUSY) { /* then it has to go on first */
                        ck_assert_int_eq(ptrace(PTRACE_DETACH, child.pid, NULL, NULL), 0);
                        r = shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER);
                }
                TEST_REQUIRE(r, ==, 0);
                __atomic_store_n(&data->flag, 1, __ATOMIC_RELAXED);
                TEST_REQUIRE(shmd_condition_signal(segment), ==, 0);
                TEST_REQUIRE(shmd_unlock(segment), ==, 0);
                (void) ptrace(PTRACE_DETACH, child.pid, NULL, NULL);
                child_join(&child);
        }
        TEST_REQUIRE(reached, ==, REACHED_SLEEP);
}
END_TEST

/* --- bells --- */

static void open_bell(void) {
        TEST_REQUIRE(shmd_bell_open(segment, &data->bell), ==, 0);
}

static void open_polled_bell(void) {
        open_bell();
        TEST_REQUIRE(shmd_bell_fd(segment), >=, 0);
}

static void await_ring(void) {
        TEST_REQUIRE(shmd_bell_wait(segment, SHMD_FOREVER, NULL), ==, 0);
}

static bool heard;

static void listen_once(void) {
        heard = shmd_bell_wait(segment, 0, NULL) == 0;
}

/* Whatever it did not hear then it sees now. */
static void see_if_not_heard(void) {
        if (!heard)
                test_wait_readable(shmd_bell_fd(segment), "the ring");
}

static void begin_to_poll(void) {
        TEST_REQUIRE(shmd_bell_fd(segment), >=, 0);
}

START_TEST(test_ring_awaited) {
        static const struct act acts[] = {
                { open_bell, await_ring, NULL },
                { open_polled_bell, await_ring, NULL },
                { open_polled_bell, listen_once, see_if_not_heard },
                { open_bell, begin_to_poll, see_if_not_heard },
        };
        enum reached reached = REACHED_STEP;

        for (unsigned count = 0; reached == REACHED_STEP && count < STEPS_MAX; count += stride(count)) {
                struct child child;

                traced_start(&child, &acts[_i]);
                reached = step(&child, count);
                TEST_REQUIRE(shmd_bell_ring(segment, data->bell), ==, 0);
                traced_finish(&child);
        }
        TEST_REQUIRE(reached, ==, acts[_i].finish ? REACHED_END : REACHED_SLEEP);
}
END_TEST

static void ring(void) {
        TEST_REQUIRE(shmd_bell_ring(segment, data->bell), ==, 0);
}

static void ring_as_other(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        ring();
}

/* What it was about to tell may remain untold; but the next ring is heard, and nothing is heard twice. */
START_TEST(test_ringer_killed) {
        static const struct act act = { ring, ring, NULL };
        enum reached reached = REACHED_STEP;
        int fd;

        open_bell();
        fd = _i ? shmd_bell_fd(segment) : -1;
        for (unsigned count = 0; reached == REACHED_STEP && count < STEPS_MAX; count += stride(count)) {
                struct child child, other;
                uint32_t rings = 0;

                traced_start(&child, &act);
                ck_assert_int_eq(shmd_bell_wait(segment, SHMD_FOREVER, NULL), 0);
                reached = step(&child, count);
                child_kill(&child);
                child_start_inheriting(&other, ring_as_other, NULL);
                if (_i)
                        test_wait_readable(fd, "a ring");
                TEST_REQUIRE(shmd_bell_wait(segment, SHMD_FOREVER, &rings), ==, 0);
                child_join(&other);
                if (shmd_bell_wait(segment, 0, NULL) == 0)
                        rings++;
                TEST_REQUIRE(rings, <=, 2);
        }
        TEST_REQUIRE(reached, ==, REACHED_END);
}
END_TEST

static Suite *steps_suite(void) {
        Suite *suite = suite_create("steps");
        TCase *tests = test_case(suite, "turns", setup, teardown);

        tcase_add_test(tests, test_gives_way);
        tests = test_case(suite, "steps", setup_steps, teardown);
        tcase_add_loop_test(tests, test_killed, 0, ELEMENTSOF(killed));
        tcase_add_loop_test(tests, test_killed_while_awaited, 0, 2 * ELEMENTSOF(released));
        tcase_add_test(tests, test_woken_and_killed);
        tcase_add_loop_test(tests, test_lock_awaited, 0, 2);
        tcase_add_loop_test(tests, test_condition, 0, 2);
        tcase_add_loop_test(tests, test_ring_awaited, 0, 4);
        tcase_add_loop_test(tests, test_ringer_killed, 0, 2);
        return suite;
}

int main(void) {
        if (test_has_sanitizers()) {
                test_skip("sanitizers make too many instructions of one");
                return 77;
        }
        return test_run(steps_suite());
}

#else

int main(void) {
        test_skip("only x86-64 is known well enough to tell when a process is about to sleep");
        return 77;
}

#endif
