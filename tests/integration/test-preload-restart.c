/* SPDX-License-Identifier: MIT */
/*
 * A program that knows nothing of us, in whose middle the daemon is restarted by a service manager which keeps the segments: it only takes
 * longer.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "manager.h"
#include "process.h"
#include "test.h"

static struct manager manager;
static struct shmd *connection;

/* posix-calls, preloaded */
static pid_t start(const char *scenario, const char *object, int input_fd, int output_fd) {
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                char program[512], preload[1024];
                const char *before = getenv("LD_PRELOAD");

                snprintf(program, sizeof(program), "%s/tests/programs/posix-calls", test_environment("SHMD_TEST_BUILDDIR"));
                snprintf(preload, sizeof(preload), "%s %s", before ? before : "", test_environment("SHMD_PRELOAD_LIBRARY"));
                setenv("LD_PRELOAD", preload, 1);
                setenv("SHMD_SOCKET", manager.socket, 1);
                setenv("SHMD_PRELOAD_REQUIRED", "1", 1);
                dup2(input_fd, STDIN_FILENO);
                dup2(output_fd, STDOUT_FILENO);
                execl(program, program, scenario, object, NULL);
                _exit(126);
        }
        return pid;
}

/* It does one thing for each line, and says how that went. */
struct dialogue {
        pid_t pid;
        int to, from;
};

static void dialogue_start(struct dialogue *dialogue, const char *scenario) {
        int in[2], out[2];

        ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
        ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
        dialogue->pid = start(scenario, "/obeys", in[0], out[1]);
        close(in[0]);
        close(out[1]);
        dialogue->to = in[1];
        dialogue->from = out[0];
}

static void tell(struct dialogue *dialogue, char what) {
        ck_assert_int_eq(write(dialogue->to, &what, 1), 1);
}

static void hear(struct dialogue *dialogue, const char *expected) {
        char answer[16] = "";

        ck_assert_int_gt(read(dialogue->from, answer, sizeof(answer) - 1), 0);
        ck_assert_str_eq(answer, expected);
}

static void ask(struct dialogue *dialogue, char what, const char *expected) {
        tell(dialogue, what);
        hear(dialogue, expected);
}

static void dialogue_end(struct dialogue *dialogue) {
        int status;

        close(dialogue->to);
        close(dialogue->from);
        ck_assert_int_eq(waitpid(dialogue->pid, &status, 0), dialogue->pid);
        ck_assert_int_eq(status, 0);
}

static void setup(void) {
        if (strcmp(test_environment("SHMD_TEST_SANITIZERS"), "no") != 0) {
                char path[256] = "";
                FILE *pipe = popen("${SHMD_TEST_CC:-cc} -print-file-name=libasan.so", "r");

                ck_assert_ptr_nonnull(pipe);
                ck_assert_ptr_nonnull(fgets(path, sizeof(path), pipe));
                pclose(pipe);
                path[strcspn(path, "\n")] = '\0';
                setenv("LD_PRELOAD", path, 1);
        }
        manager_start(&manager, NULL);
}

static void teardown(void) {
        manager_stop(&manager);
}

START_TEST(test_restart) {
        struct dialogue dialogue;

        dialogue_start(&dialogue, "obey");
        ask(&dialogue, 'c', "0");
        ask(&dialogue, 'w', "0");
        for (int round = 0; round < 5; round++) {
                manager_crash(&manager);
                ask(&dialogue, 'r', "0"); /* what was written is there */
                ask(&dialogue, 'x', "17");   /* EEXIST: the name is taken */
        }
        manager_end(&manager, SIGTERM);
        tell(&dialogue, 'u'); /* it is asked while there is nobody, and answered when there is somebody */
        manager_launch(&manager);
        hear(&dialogue, "0");
        ask(&dialogue, 'r', "2"); /* ENOENT */
        ask(&dialogue, 'c', "0");
        ask(&dialogue, 'u', "0");
        dialogue_end(&dialogue);
}
END_TEST

/* While many calls are under way: none fails, and none is done twice. */
START_TEST(test_under_way) {
        struct dialogue dialogue;

        dialogue_start(&dialogue, "churn");
        for (int round = 0; round < 20; round++) {
                manager_crash(&manager);
                ask(&dialogue, '.', "0");
        }
        dialogue_end(&dialogue);
}
END_TEST

/* Who has stopped the daemon has stopped its clients' calls, and nothing else. */
START_TEST(test_stopped) {
        struct dialogue dialogue;
        struct pollfd answer;

        dialogue_start(&dialogue, "obey");
        ask(&dialogue, 'c', "0");
        manager_kill(&manager, SIGSTOP);
        tell(&dialogue, 'x');
        answer = (struct pollfd) { .fd = dialogue.from, .events = POLLIN };
        ck_assert_int_eq(poll(&answer, 1, 100), 0);
        manager_kill(&manager, SIGCONT);
        hear(&dialogue, "17");
        ask(&dialogue, 'u', "0");
        dialogue_end(&dialogue);
}
END_TEST

/* What nobody has open is kept as long as the program lives, also by the daemon after the next. */
START_TEST(test_kept) {
        struct dialogue dialogue;

        setenv("SHMD_PRELOAD_LIFETIME", "holders", 1);
        dialogue_start(&dialogue, "obey");
        ask(&dialogue, 'c', "0");
        for (int round = 0; round < 3; round++) {
                manager_crash(&manager);
                if (round != 1) /* the second one has never heard of it */
                        ask(&dialogue, 'x', "17");
        }
        dialogue_end(&dialogue);
        ASSERT_OK(NULL, shmd_connect(manager.socket, &connection));
        TEST_UNTIL(!client_exists(connection, "obeys"), "the end of what nobody keeps");
        connection = shmd_disconnect(connection);
}
END_TEST

/* It ends while there is no daemon. */
START_TEST(test_kept_in_vain) {
        struct dialogue dialogue;

        setenv("SHMD_PRELOAD_LIFETIME", "holders", 1);
        dialogue_start(&dialogue, "obey");
        ask(&dialogue, 'c', "0");
        manager_end(&manager, SIGKILL);
        dialogue_end(&dialogue);
        manager_launch(&manager);
        ASSERT_OK(NULL, shmd_connect(manager.socket, &connection));
        TEST_UNTIL(!client_exists(connection, "obeys"), "the end of what nobody keeps");
        connection = shmd_disconnect(connection);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("preload-restart");
        TCase *tests = test_case(suite, "restart", setup, teardown);

        tcase_add_test(tests, test_restart);
        tcase_add_test(tests, test_under_way);
        tcase_add_test(tests, test_stopped);
        tcase_add_test(tests, test_kept);
        tcase_add_test(tests, test_kept_in_vain);
        return test_run(suite);
}
