/* SPDX-License-Identifier: MIT */
/*
 * What every test program shares: the run itself, a directory of its own, deadlines.
 *
 * A deadline is only ever how long a failing test takes to fail: no test waits for time to pass.
 */
#pragma once

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "util.h"

/*
 * The whole of main(): runs the suite in a fresh directory. Whatever failing tests left there is
 * shown, if it is a log, and removed. Gives main's result.
 */
int test_run(Suite *suite);

/* A test case of the suite; each test of it runs in a process of its own, between setup and teardown (may be NULL). */
TCase *test_case(Suite *suite, const char *name, void (*setup)(void), void (*teardown)(void));

/* The program's own directory, which every user may search. */
const char *test_directory(void);

/* How long to wait for what must come, milliseconds. */
int test_deadline_msec(void);

/*
 * Ends this process by SIGALRM if it is still there after twice that time: for tests that wait without end, as a wait with one finds
 * what nobody woke it for when it ends.
 */
void test_watch_over(void);

/* Monotonic time, milliseconds; for deadlines alone. */
int64_t test_now_msec(void);

/* Waits until there is something to read on a descriptor (or its end); fails the test if that does not happen. */
void test_wait_readable(int fd, const char *what);

/*
 * Repeats a condition that is asked of somebody else (the daemon, the kernel) until it holds; for what
 * no event tells. Fails the test if it never does.
 */
#define TEST_UNTIL(condition, what)                                                            \
        do {                                                                                   \
                const int64_t until_ = test_now_msec() + test_deadline_msec();                 \
                for (unsigned attempt_ = 0; !(condition); attempt_++) {                        \
                        if (test_now_msec() > until_)                                          \
                                ck_abort_msg("waited in vain for: %s (%s)", what, #condition); \
                        test_yield(attempt_);                                                  \
                }                                                                              \
        } while (0)
/* Lets others run: soon for long enough that a test which fails does not keep a processor busy. */
void test_yield(unsigned attempt);

/*
 * For what is asserted by the hundred thousand: unlike Check's own, an assertion that holds costs nothing (theirs
 * write a line to a file each). Shows both numbers if it fails.
 */
#define TEST_REQUIRE(a, operator, b)                                                                            \
        do {                                                                                                    \
                const long long a_ = (long long) (a), b_ = (long long) (b);                                     \
                if (!(a_ operator b_))                                                                          \
                        ck_abort_msg("%s " #operator " %s failed: %lld, %lld", #a, #b, a_, b_);                 \
        } while (0)

/* Says that a part of the tests is left out, and why: bootstrap shows these lines. */
void test_skip(const char *format, ...) _printf_(1, 2);

/* True as root; else says that this part is left out. */
bool test_as_root(const char *part);

/* True if the environment asks for the long form of tests. */
bool test_is_long(void);

/* True if built with sanitizers: limits on memory then make no sense. */
bool test_has_sanitizers(void);

/* The value of an environment variable that the build exports; ends the program if it is not set. */
const char *test_environment(const char *name);

/* A whole small file, zero-terminated; NULL if it can't be read. Free it. */
char *test_read_file(const char *path);

/* Removes a directory with all that is in it. */
void test_remove_tree(const char *path);

/* How many entries a directory has, "." and ".." aside; -1 if it can't be read. */
int test_count_entries(const char *path);

/* Open descriptors of this process. */
int test_count_descriptors(void);

/* Of memory, bytes: 4096, 16384 or 65536 on one machine or another. */
unsigned test_page_size(void);

/* A line of /proc/meminfo such as "Shmem", bytes. */
uint64_t test_meminfo(const char *field);
