/* SPDX-License-Identifier: MIT */
/* The per-user daemon that the library starts by itself, below $XDG_RUNTIME_DIR. */
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

static char runtime[96];
static char socket_path[160];

static void setup(void) {
        snprintf(runtime, sizeof(runtime), "%s/%d", test_directory(), (int) getpid());
        snprintf(socket_path, sizeof(socket_path), "%s/shmd/shmd.sock", runtime);
        ck_assert_int_eq(mkdir(runtime, 0700), 0);
        setenv("XDG_RUNTIME_DIR", runtime, 1);
        setenv("SHMD_DAEMON", test_environment("SHMD_TEST_DAEMON"), 1);
        unsetenv("SHMD_AUTOSTART");
        /* Daemons are orphans on purpose: become the one who inherits them. */
        ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
}

/* Ends a daemon and waits until it has gone; it is not our child by birth. */
static void end_daemon(pid_t pid) {
        int pidfd = process_pidfd(pid), status = -1;

        ck_assert_int_eq(kill(pid, SIGTERM), 0);
        test_wait_readable(pidfd, "the daemon's end");
        ck_assert_int_eq(waitpid(pid, &status, __WALL), pid);
        ck_assert_int_eq(status, 0);
        close(pidfd);
}

/* What ends by itself. */
static void reap_orphans(void) {
        while (waitpid(-1, NULL, __WALL) > 0)
                ;
}

/* No process is left, and no file but the lock and the socket, which the daemon was given and so leaves alone. */
static void teardown(void) {
        char path[200];

        ck_assert_int_eq(waitpid(-1, NULL, WNOHANG | __WALL), -1);
        ck_assert_int_eq(errno, ECHILD);
        snprintf(path, sizeof(path), "%s.lock", socket_path);
        unlink(path);
        unlink(socket_path);
        snprintf(path, sizeof(path), "%s/shmd", runtime);
        ck_assert_int_le(test_count_entries(path), 0);
        test_remove_tree(runtime);
}

START_TEST(test_started) {
        struct shmd *first = NULL, *second = NULL;
        const int before = test_count_descriptors();
        struct shmd_status status;
        struct stat st;

        ASSERT_OK(NULL, shmd_connect_user(&first));
        ck_assert_str_eq(shmd_socket_path(first), socket_path);
        status = client_status(first);
        ck_assert_uint_eq(status.uid, geteuid());
        ck_assert_uint_ne(status.pid, getpid());
        ck_assert_int_eq(stat(socket_path, &st), 0);
        ck_assert_int_eq(st.st_mode & 0177, 0);
        /* It has cost this process its connection, and nothing else. */
        ck_assert_int_le(test_count_descriptors(), before + 2);

        ASSERT_OK(NULL, shmd_connect_user(&second));
        ck_assert_uint_eq(client_status(second).instance, status.instance);
        shmd_close(client_create(second, "a", 1, SHMD_LIFETIME_HOLDERS));
        shmd_disconnect(first);
        shmd_disconnect(second);
        end_daemon((pid_t) status.pid);
}
END_TEST

/* Where nothing else is said, it is the last place to be looked at: unless this machine has a system daemon. */
START_TEST(test_started_by_default) {
        struct shmd *connection = NULL;
        pid_t pid;

        if (access("/run/shmd/shmd.sock", F_OK) == 0) {
                test_skip("test_started_by_default: this machine has a system daemon");
                return;
        }
        ASSERT_OK(NULL, shmd_connect(NULL, &connection));
        ck_assert_str_eq(shmd_socket_path(connection), socket_path);
        pid = (pid_t) client_status(connection).pid;
        shmd_disconnect(connection);
        end_daemon(pid);
}
END_TEST

START_TEST(test_turned_off) {
        struct shmd *connection = NULL;
        int r;

        setenv("SHMD_AUTOSTART", "0", 1);
        r = shmd_connect_user(&connection);
        ck_assert(r == -ENOENT || r == -ECONNREFUSED);
        ck_assert_uint_gt(strlen(shmd_error_message(NULL)), 0);
}
END_TEST

/* Nobody starts a daemon at a place that somebody named. */
START_TEST(test_named_socket) {
        struct shmd *connection = NULL;

        ck_assert_int_eq(shmd_connect(socket_path, &connection), -ENOENT);
        setenv("SHMD_SOCKET", socket_path, 1);
        ck_assert_int_eq(shmd_connect(NULL, &connection), -ENOENT);
        ck_assert_int_eq(access(socket_path, F_OK), -1);
}
END_TEST

START_TEST(test_no_program) {
        struct shmd *connection = NULL;

        setenv("SHMD_DAEMON", "/nonexistent/shmd", 1);
        ck_assert_int_lt(shmd_connect_user(&connection), 0);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(NULL), "/nonexistent/shmd"));
        ck_assert_int_eq(access(socket_path, F_OK), -1);
        reap_orphans();
}
END_TEST

/* A program that is no daemon: it ends at once, and the library must not wait for it for ever. */
START_TEST(test_wrong_program) {
        struct shmd *connection = NULL;

        setenv("SHMD_DAEMON", "/bin/false", 1);
        ck_assert_int_lt(shmd_connect_user(&connection), 0);
        reap_orphans();
}
END_TEST

/* One that died leaves its socket: the next one takes its place. */
START_TEST(test_started_anew) {
        struct shmd *connection = NULL;
        pid_t pid;

        for (int i = 0; i < 3; i++) {
                ASSERT_OK(NULL, shmd_connect_user(&connection));
                pid = (pid_t) client_status(connection).pid;
                if (i < 2) {
                        int pidfd = process_pidfd(pid);

                        ck_assert_int_eq(kill(pid, SIGKILL), 0);
                        test_wait_readable(pidfd, "the daemon's death");
                        ck_assert_int_eq(waitpid(pid, NULL, __WALL), pid);
                        close(pidfd);
                }
                shmd_disconnect(connection);
        }
        end_daemon(pid);
}
END_TEST

/* --- what the program that starts it must not notice --- */

static volatile sig_atomic_t child_signals;

static void on_child(int number) {
        (void) number;
        child_signals++;
}

START_TEST(test_unnoticed) {
        struct sigaction action = { .sa_handler = on_child };
        struct shmd *connection = NULL;
        char directory[256], now[256];
        sigset_t before, after;
        pid_t pid;

        ck_assert_int_eq(sigaction(SIGCHLD, &action, NULL), 0);
        ck_assert_ptr_nonnull(getcwd(directory, sizeof(directory)));
        umask(027);
        sigprocmask(SIG_SETMASK, NULL, &before);
        ASSERT_OK(NULL, shmd_connect_user(&connection));
        ck_assert_int_eq(child_signals, 0);
        ck_assert_int_eq(umask(022), 027);
        sigprocmask(SIG_SETMASK, NULL, &after);
        for (int number = 1; number < NSIG; number++)
                ck_assert_int_eq(sigismember(&before, number), sigismember(&after, number));
        ck_assert_ptr_nonnull(getcwd(now, sizeof(now)));
        ck_assert_str_eq(directory, now);
        pid = (pid_t) client_status(connection).pid;
        shmd_disconnect(connection);
        signal(SIGCHLD, SIG_DFL);
        end_daemon(pid);
}
END_TEST

static void connect_and_tell(int channel, void *userdata) {
        struct shmd *connection = NULL;
        struct shmd_status status;

        (void) userdata;
        ASSERT_OK(NULL, shmd_connect_user(&connection));
        status = client_status(connection);
        step_send_data(channel, &status, sizeof(status));
        step_expect(channel, 'e');
        shmd_disconnect(connection);
}

/*
 * The daemon has nothing of the program that started it: whoever reads from that program sees its end. Fails as
 * $(program) hangs in a shell if the daemon keeps its standard output.
 */
START_TEST(test_descriptors_not_kept) {
        struct child child;
        struct shmd_status status;
        int ends[2], saved = dup(STDOUT_FILENO);
        char byte;

        ck_assert_int_eq(pipe2(ends, 0), 0); /* not close-on-exec: like a careless program's */
        fflush(NULL);
        dup2(ends[1], STDOUT_FILENO);
        child_start(&child, connect_and_tell, NULL);
        dup2(saved, STDOUT_FILENO);
        close(saved);
        close(ends[1]);
        step_receive_data(child.channel, &status, sizeof(status));
        step_send(child.channel, 'e');
        child_join(&child);
        test_wait_readable(ends[0], "the end of a pipe");
        ck_assert_int_eq(read(ends[0], &byte, 1), 0);
        close(ends[0]);
        end_daemon((pid_t) status.pid);
}
END_TEST

/* --- all at once --- */

#define RACERS 20

static void race(int channel, void *userdata) {
        step_expect(channel, 'g');
        connect_and_tell(channel, userdata);
}

/* Twenty start together: there is one daemon, whom all of them reach. */
START_TEST(test_race) {
        struct child racers[RACERS];
        struct shmd_status first, status;

        for (int round = 0; round < 5; round++) {
                for (int i = 0; i < RACERS; i++)
                        child_start(&racers[i], race, NULL);
                for (int i = 0; i < RACERS; i++)
                        step_send(racers[i].channel, 'g');
                for (int i = 0; i < RACERS; i++) {
                        step_receive_data(racers[i].channel, &status, sizeof(status));
                        if (i == 0)
                                first = status;
                        ck_assert_uint_eq(status.instance, first.instance);
                        ck_assert_uint_eq(status.pid, first.pid);
                }
                for (int i = 0; i < RACERS; i++) {
                        step_send(racers[i].channel, 'e');
                        child_join(&racers[i]);
                }
                end_daemon((pid_t) first.pid);
                /* Nobody else is there, as the kernel tells whoever inherits orphans. */
                ck_assert_int_eq(waitpid(-1, NULL, WNOHANG | __WALL), -1);
        }
}
END_TEST

static void connect_often(int channel, void *userdata) {
        step_expect(channel, 'g');
        (void) userdata;
        for (int i = 0; i < 20; i++) {
                struct shmd *connection = NULL;

                ASSERT_OK(NULL, shmd_connect_user(&connection));
                client_status(connection);
                shmd_disconnect(connection);
        }
        step_send(channel, 'd');
}

/* Others come while it ends: each gets a daemon, the old one or a new one, and never an error. */
START_TEST(test_race_with_end) {
        struct child clients[4];
        struct shmd *connection = NULL;
        pid_t pid;

        ASSERT_OK(NULL, shmd_connect_user(&connection));
        pid = (pid_t) client_status(connection).pid;
        shmd_disconnect(connection);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                child_start(&clients[i], connect_often, NULL);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                step_send(clients[i].channel, 'g');
        end_daemon(pid);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                step_expect(clients[i].channel, 'd');
                child_join(&clients[i]);
        }
        ASSERT_OK(NULL, shmd_connect_user(&connection));
        pid = (pid_t) client_status(connection).pid;
        shmd_disconnect(connection);
        end_daemon(pid);
}
END_TEST

/* --- a directory that is not only ours --- */

START_TEST(test_unsafe_directory) {
        struct shmd *connection = NULL;
        char path[160];

        snprintf(path, sizeof(path), "%s/shmd", runtime);
        ck_assert_int_eq(mkdir(path, 0700), 0);
        ck_assert_int_eq(chmod(path, 0777), 0); /* anybody could put a socket there */
        ck_assert_int_lt(shmd_connect_user(&connection), 0);
        ck_assert_int_eq(access(socket_path, F_OK), -1);
}
END_TEST

START_TEST(test_no_runtime_directory) {
        struct shmd *connection = NULL;

        unsetenv("XDG_RUNTIME_DIR");
        ck_assert_int_lt(shmd_connect_user(&connection), 0);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(NULL), "XDG_RUNTIME_DIR"));
}
END_TEST

static Suite *autostart_suite(void) {
        Suite *suite = suite_create("autostart");
        TCase *tests = test_case(suite, "autostart", setup, teardown);

        tcase_add_test(tests, test_started);
        tcase_add_test(tests, test_started_by_default);
        tcase_add_test(tests, test_turned_off);
        tcase_add_test(tests, test_named_socket);
        tcase_add_test(tests, test_no_program);
        tcase_add_test(tests, test_wrong_program);
        tcase_add_test(tests, test_started_anew);
        tcase_add_test(tests, test_unnoticed);
        tcase_add_test(tests, test_descriptors_not_kept);
        tcase_add_test(tests, test_race);
        tcase_add_test(tests, test_race_with_end);
        tcase_add_test(tests, test_unsafe_directory);
        tcase_add_test(tests, test_no_runtime_directory);
        return suite;
}

int main(void) {
        return test_run(autostart_suite());
}
