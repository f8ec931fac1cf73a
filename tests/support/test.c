/* SPDX-License-Identifier: MIT */
#include "test.h"

#include <dirent.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define DEADLINE_MSEC 30000
#define CASE_TIMEOUT_SECONDS 120

static char directory[64];

const char *test_directory(void) {
        return directory;
}

/* Sockets must fit into a socket address: a long $TMPDIR is of no use. */
static void make_directory(void) {
        const char *parent = getenv("TMPDIR");

        if (!parent || parent[0] != '/' || strlen(parent) > 30)
                parent = "/tmp";
        snprintf(directory, sizeof(directory), "%s/shmd-test.XXXXXX", parent);
        if (!mkdtemp(directory) || chmod(directory, 0755) < 0) {
                perror(directory);
                exit(EXIT_FAILURE);
        }
}

static int show_log(const char *path, const struct stat *info, int type, struct FTW *position) {
        size_t length = strlen(path);
        char *text;

        (void) info;
        (void) position;
        if (type != FTW_F || length < 4 || strcmp(path + length - 4, "/log") != 0)
                return 0;
        text = test_read_file(path);
        printf("--- %s\n%s---\n", path, text ? text : "");
        free(text);
        return 0;
}

int test_run(Suite *suite) {
        SRunner *runner = srunner_create(suite);
        int failed;

        setvbuf(stdout, NULL, _IOLBF, 0);
        make_directory();
        unsetenv("SHMD_SOCKET");
        unsetenv("NOTIFY_SOCKET");
        unsetenv("LISTEN_FDS");
        srunner_run_all(runner, getenv("CK_VERBOSITY") ? CK_ENV : CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);

        if (failed != 0)
                nftw(directory, show_log, 16, FTW_PHYS);
        test_remove_tree(directory);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

TCase *test_case(Suite *suite, const char *name, void (*setup)(void), void (*teardown)(void)) {
        TCase *tests = tcase_create(name);

        tcase_set_timeout(tests, CASE_TIMEOUT_SECONDS);
        if (setup)
                tcase_add_checked_fixture(tests, setup, teardown);
        suite_add_tcase(suite, tests);
        return tests;
}

int test_deadline_msec(void) {
        const char *multiplier = getenv("CK_TIMEOUT_MULTIPLIER");

        return DEADLINE_MSEC * (multiplier && atoi(multiplier) > 0 ? atoi(multiplier) : 1);
}

void test_watch_over(void) {
        (void) alarm((unsigned) (2 * test_deadline_msec() / 1000));
}

int64_t test_now_msec(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void test_wait_readable(int fd, const char *what) {
        const int64_t until = test_now_msec() + test_deadline_msec();
        struct pollfd item = { .fd = fd, .events = POLLIN };
        int n;

        do
                n = poll(&item, 1, (int) MAX(until - test_now_msec(), 0));
        while (n < 0 && errno == EINTR);
        if (n != 1)
                ck_abort_msg("waited in vain for: %s", what);
}

void test_yield(unsigned attempt) {
        if (attempt < 100)
                sched_yield();
        else
                poll(NULL, 0, 1);
}

void test_skip(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        printf("skipped: ");
        vprintf(format, arguments);
        printf("\n");
        va_end(arguments);
        fflush(stdout);
}

bool test_as_root(const char *part) {
        if (geteuid() == 0)
                return true;
        test_skip("%s: needs root, to be several users", part);
        return false;
}

bool test_is_long(void) {
        const char *value = getenv("SHMD_TEST_LONG");

        return value && strcmp(value, "1") == 0;
}

bool test_has_sanitizers(void) {
        const char *value = getenv("SHMD_TEST_SANITIZERS");

        return value && value[0] != '\0' && strcmp(value, "no") != 0;
}

const char *test_environment(const char *name) {
        const char *value = getenv(name);

        if (value)
                return value;
        fprintf(stderr, "%s is not set: run the tests by make check\n", name);
        exit(EXIT_FAILURE);
}

char *test_read_file(const char *path) {
        FILE *file = fopen(path, "re");
        size_t size = 0;
        char *text = NULL, buffer[4096];
        FILE *memory;
        size_t n;

        if (!file)
                return NULL;
        memory = open_memstream(&text, &size);
        if (!memory)
                abort();
        while ((n = fread(buffer, 1, sizeof(buffer), file)) > 0)
                fwrite(buffer, 1, n, memory);
        fclose(memory);
        fclose(file);
        return text;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *position) {
        (void) info;
        (void) type;
        (void) position;
        return remove(path);
}

void test_remove_tree(const char *path) {
        nftw(path, remove_entry, 16, FTW_PHYS | FTW_DEPTH);
}

int test_count_entries(const char *path) {
        DIR *stream = opendir(path);
        struct dirent *entry;
        int count = 0;

        if (!stream)
                return -1;
        while ((entry = readdir(stream)))
                count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
        closedir(stream);
        return count;
}

int test_count_descriptors(void) {
        return test_count_entries("/proc/self/fd") - 1; /* its own */
}

unsigned test_page_size(void) {
        return (unsigned) sysconf(_SC_PAGESIZE);
}

uint64_t test_meminfo(const char *field) {
        _cleanup_free_ char *text = test_read_file("/proc/meminfo");
        size_t length = strlen(field);
        const char *line = text;

        ck_assert_ptr_nonnull(text);
        while (line && !(strncmp(line, field, length) == 0 && line[length] == ':')) {
                line = strchr(line, '\n');
                line = line ? line + 1 : NULL;
        }
        ck_assert_ptr_nonnull(line);
        return strtoull(line + length + 1, NULL, 10) * 1024;
}
