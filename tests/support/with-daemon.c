/* SPDX-License-Identifier: MIT */
/*
 * with-daemon PROGRAM [ARGUMENT...]: runs a program with a daemon of its own, whose socket it finds in
 * $SHMD_SOCKET and whose directory (where it may have its files) in $SHMD_TEST_DIRECTORY. For scripts: they get
 * the harness's checks of what is left over at the end, and its log if something fails.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "harness.h"
#include "test.h"

static char **command;
static int *result; /* shared with the process of the test */

static int run(const char *scratch) {
        int status = 0;
        pid_t pid;

        fflush(NULL);
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                setenv("SHMD_SOCKET", the_daemon.socket, 1);
                setenv("SHMD_TEST_DIRECTORY", scratch, 1);
                execvp(command[0], command);
                perror(command[0]);
                _exit(126);
        }
        /* No deadline here: make check has one for the whole script. */
        while (waitpid(pid, &status, 0) < 0)
                ck_assert_int_eq(errno, EINTR);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

START_TEST(test_program) {
        char scratch[160];

        daemon_start(&the_daemon, NULL);
        snprintf(scratch, sizeof(scratch), "%s/scratch", the_daemon.directory);
        ck_assert_int_eq(mkdir(scratch, 0755), 0);
        *result = run(scratch);
        if (*result != 0 && *result != 77)
                ck_abort_msg("%s: exit status %d", command[0], *result);
        daemon_stop(&the_daemon);
}
END_TEST

int main(int argc, char **argv) {
        Suite *suite = suite_create("script");
        TCase *tests = test_case(suite, "script", NULL, NULL);
        int status;

        if (argc < 2) {
                fprintf(stderr, "usage: with-daemon PROGRAM [ARGUMENT...]\n");
                return 2;
        }
        command = argv + 1;
        result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (result == MAP_FAILED)
                return 1;
        tcase_set_timeout(tests, 600);
        tcase_add_test(tests, test_program);
        status = test_run(suite);
        return status == EXIT_SUCCESS && *result == 77 ? 77 : status;
}
