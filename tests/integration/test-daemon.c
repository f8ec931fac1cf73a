/* SPDX-License-Identifier: MIT */
/* The daemon as a program: its options, its socket, its beginning and its end. */
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "harness.h"
#include "process.h"
#include "raw.h"
#include "status.h"
#include "test.h"

/* --- command line --- */

static struct outcome outcome = OUTCOME_INIT;

static void run(const char *const *arguments) {
        const char *all[16] = { test_environment("SHMD_TEST_DAEMON") };

        for (size_t i = 0; arguments[i]; i++)
                all[i + 1] = arguments[i];
        process_run(all, NULL, NULL, &outcome);
}

static void expect_exit(int code) {
        if (!WIFEXITED(outcome.status) || WEXITSTATUS(outcome.status) != code)
                ck_abort_msg("exit status %x instead of %d: %s", (unsigned) outcome.status, code, outcome.errors);
}

#define ARGUMENTS(...) ((const char *const[]) { __VA_ARGS__, NULL })

START_TEST(test_help) {
        static const char *const options[] = { "--socket", "--user", "--system", "--idle-exit", "--log-level",
                                               "--log-target", "--help", "--version" };

        run(ARGUMENTS("--help"));
        expect_exit(0);
        ck_assert_str_eq(outcome.errors, "");
        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                ck_assert_msg(strstr(outcome.output, options[i]) != NULL, "--help does not tell of %s", options[i]);
        outcome_done(&outcome);
}
END_TEST

START_TEST(test_version) {
        run(ARGUMENTS("--version"));
        expect_exit(0);
        ck_assert_str_eq(outcome.output, "shmd " PACKAGE_VERSION "\n");
        ck_assert_str_eq(outcome.errors, "");
        outcome_done(&outcome);
}
END_TEST

/* Each is refused before anything is done, with status 2, and the message has the word that is wrong. */
static const struct {
        const char *arguments[4];
        const char *word;
} bad[] = {
        { { "--nonsense" }, "--nonsense" },
        { { "-x" }, "x" },
        { { "unexpected" }, "unexpected" },
        { { "--socket" }, "--socket" },
        { { "--socket", "" }, "--socket" },
        { { "--idle-exit", "soon" }, "soon" },
        { { "--idle-exit", "-1" }, "-1" },
        { { "--idle-exit", "" }, "--idle-exit" },
        { { "--idle-exit", "1s" }, "1s" },
        { { "--idle-exit", "99999999999999999999" }, "99999999999999999999" },
        { { "--log-level", "loud" }, "loud" },
        { { "--log-target", "paper" }, "paper" },
        { { "--version=1" }, "version" },
};

START_TEST(test_bad_usage) {
        run(bad[_i].arguments);
        expect_exit(2);
        ck_assert_str_eq(outcome.output, "");
        ck_assert_msg(strncmp(outcome.errors, "shmd: ", 6) == 0 || strstr(outcome.errors, "shmd: ") != NULL, "%s",
                      outcome.errors);
        ck_assert_msg(strstr(outcome.errors, bad[_i].word) != NULL, "\"%s\" is not in: %s", bad[_i].word,
                      outcome.errors);
        outcome_done(&outcome);
}
END_TEST

/* A path that does not fit, or that nobody may make: said, with the path. */
START_TEST(test_impossible_places) {
        char path[256];

        memset(path, 'p', sizeof(path));
        path[0] = '/';
        path[200] = '\0';
        run(ARGUMENTS("--socket", path));
        expect_exit(1);
        ck_assert_ptr_nonnull(strstr(outcome.errors, path));
        ck_assert_ptr_nonnull(strstr(outcome.errors, "107"));

        run(ARGUMENTS("--socket", "/proc/self/nothing/shmd.sock"));
        expect_exit(1);
        ck_assert_ptr_nonnull(strstr(outcome.errors, "/proc/self/nothing/shmd.sock"));
        outcome_done(&outcome);
}
END_TEST

static void without_runtime_directory(void *userdata) {
        (void) userdata;
        unsetenv("XDG_RUNTIME_DIR");
}

START_TEST(test_no_runtime_directory) {
        process_run(ARGUMENTS(test_environment("SHMD_TEST_DAEMON"), "--user"), without_runtime_directory, NULL,
                    &outcome);
        ck_assert(WIFEXITED(outcome.status));
        ck_assert_int_ne(WEXITSTATUS(outcome.status), 0);
        ck_assert_ptr_nonnull(strstr(outcome.errors, "XDG_RUNTIME_DIR"));
        outcome_done(&outcome);
}
END_TEST

/* --- the socket --- */

START_TEST(test_second_daemon) {
        daemon_start(&the_daemon, NULL);
        for (int i = 0; i < 3; i++) {
                run(ARGUMENTS("--socket", the_daemon.socket));
                expect_exit(1);
                ck_assert_ptr_nonnull(strstr(outcome.errors, the_daemon.socket));
                ck_assert_ptr_nonnull(strstr(outcome.errors, "another daemon"));
                daemon_status(&the_daemon); /* as if nothing had happened */
                daemon_reconnect(&the_daemon);
        }
        outcome_done(&outcome);
        daemon_stop(&the_daemon);
}
END_TEST

/* What is at the path and is no socket is not ours to delete. */
START_TEST(test_no_socket_at_path) {
        char file[128], directory[128], link[128];
        _cleanup_free_ char *text = NULL;
        struct stat st;
        FILE *stream;

        snprintf(file, sizeof(file), "%s/file", test_directory());
        snprintf(directory, sizeof(directory), "%s/directory", test_directory());
        snprintf(link, sizeof(link), "%s/link", test_directory());
        stream = fopen(file, "w");
        ck_assert_ptr_nonnull(stream);
        fputs("precious", stream);
        fclose(stream);
        ck_assert_int_eq(mkdir(directory, 0755), 0);
        ck_assert_int_eq(symlink(file, link), 0);

        const char *const paths[] = { file, directory, link };

        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                run(ARGUMENTS("--socket", paths[i]));
                expect_exit(1);
                ck_assert_ptr_nonnull(strstr(outcome.errors, paths[i]));
                ck_assert_ptr_nonnull(strstr(outcome.errors, "socket"));
        }
        text = test_read_file(file);
        ck_assert_ptr_nonnull(text);
        ck_assert_str_eq(text, "precious");
        ck_assert_int_eq(stat(directory, &st), 0);
        ck_assert_int_eq(lstat(link, &st), 0);
        ck_assert(S_ISLNK(st.st_mode));
        outcome_done(&outcome);
}
END_TEST

/* Another service's socket is in use, whatever its kind. */
START_TEST(test_other_service_at_path) {
        static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET };
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        for (size_t i = 0; i < ELEMENTSOF(types); i++) {
                int fd = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0);

                snprintf(address.sun_path, sizeof(address.sun_path), "%s/service.%zu", test_directory(), i);
                ck_assert_int_eq(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
                ck_assert_int_eq(listen(fd, 1), 0);
                run(ARGUMENTS("--socket", address.sun_path));
                expect_exit(1);
                ck_assert_int_eq(access(address.sun_path, F_OK), 0);
                close(fd);
        }
        outcome_done(&outcome);
}
END_TEST

START_TEST(test_stale_socket) {
        daemon_start(&the_daemon, NULL);
        daemon_kill(&the_daemon, SIGKILL);
        daemon_wait(&the_daemon);
        ck_assert_int_eq(access(the_daemon.socket, F_OK), 0); /* stale */
        daemon_start_again(&the_daemon, NULL);
        daemon_stop(&the_daemon);
}
END_TEST

START_TEST(test_socket_mode) {
        static const char *const user[] = { "--user", NULL };
        const struct daemon_options as_user = { .arguments = user };
        struct stat st;

        daemon_start(&the_daemon, &as_user);
        ck_assert_int_eq(stat(the_daemon.socket, &st), 0);
        ck_assert_int_eq(st.st_mode & 07777, 0600); /* nobody else's business */
        daemon_stop(&the_daemon);

        if (!test_as_root("test_socket_mode, --system"))
                return;
        umask(077); /* is not what decides */
        daemon_start(&the_daemon, NULL);
        ck_assert_int_eq(stat(the_daemon.socket, &st), 0);
        ck_assert_int_eq(st.st_mode & 07777, 0666);
        daemon_stop(&the_daemon);
}
END_TEST

/* A daemon that could not be reached when it said READY would be a lie: the harness connects at once, each time. */
START_TEST(test_ready_means_ready) {
        for (int i = 0; i < 20; i++) {
                daemon_start(&the_daemon, NULL);
                daemon_stop(&the_daemon);
        }
}
END_TEST

/* --- signals --- */

static const int endings[] = { SIGTERM, SIGINT };

static void expect_clean_end(void) {
        int status = daemon_wait(&the_daemon);

        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status 0x%x", (unsigned) status);
        ck_assert_int_eq(access(the_daemon.socket, F_OK), -1);
        daemon_finish(&the_daemon);
}

START_TEST(test_ended_while_idle) {
        daemon_start(&the_daemon, NULL);
        daemon_kill(&the_daemon, endings[_i]);
        expect_clean_end();
}
END_TEST

/* With clients, holds, names, mappings that nobody accounts for, and answers that nobody reads. */
START_TEST(test_ended_while_busy) {
        struct raw client, silent;
        int fd = -EBADF;

        daemon_start(&the_daemon, NULL);
        raw_connect(&client, the_daemon.socket);
        raw_open(&silent, the_daemon.socket);
        ck_assert_int_eq(raw_create(&client, "held", 4096, WIRE_LIFETIME_HOLDERS, NULL, &fd), SHMD_OK);
        ck_assert_int_eq(raw_create(&client, "named", 2 << 20, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        ck_assert_int_eq(raw_create(&the_daemon.control, "gone", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        ck_assert_int_eq(raw_unlink(&client, "gone"), SHMD_OK);
        for (int i = 0; i < 100; i++)
                raw_request(&client, SHMD_OP_STATUS, &(struct shmd_wire_status) { 0 }, NULL, 0, NULL, 0);
        daemon_kill(&the_daemon, endings[_i]);
        ck_assert_int_eq(pwrite(fd, "still mine", 10, 0), 10);
        /* What is lost is said. */
        TEST_UNTIL(daemon_log_has(&the_daemon, "names are lost"), "the daemon's last words");
        expect_clean_end();
        close(fd);
        raw_close(&client);
        raw_close(&silent);
}
END_TEST

/* --- sockets of the service manager --- */

struct passed {
        int fds[3];
        int count;
        const char *count_word;
};

static void pass_sockets(void *userdata) {
        const struct passed *passed = userdata;
        char pid[16];

        for (int i = 0; i < passed->count; i++)
                fcntl(passed->fds[i], F_DUPFD, 20 + i);
        for (int i = 0; i < passed->count; i++)
                dup2(20 + i, 3 + i);
        snprintf(pid, sizeof(pid), "%d", (int) getpid());
        setenv("LISTEN_PID", pid, 1);
        setenv("LISTEN_FDS", passed->count_word, 1);
}

static int make_listener(const char *path, int type) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

        ck_assert_int_ge(fd, 0);
        ck_assert_uint_lt(strlen(path), sizeof(address.sun_path));
        strcpy(address.sun_path, path);
        ck_assert_int_eq(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
        ck_assert_int_eq(listen(fd, 16), 0);
        return fd;
}

static void start_activated(struct passed *passed) {
        const char *const arguments[] = { "--socket", the_daemon.socket, NULL };
        const struct daemon_options options = { .arguments = arguments, .without_socket = true,
                                                .prepare = pass_sockets, .userdata = passed };

        daemon_start_again(&the_daemon, &options);
        raw_connect(&the_daemon.control, the_daemon.socket);
        the_daemon.baseline = daemon_count_descriptors(&the_daemon);
}

/* Whoever connects before the daemon is there waits in the queue, and is served; the socket outlives the daemon. */
START_TEST(test_socket_activation) {
        struct passed passed = { .count = 1, .count_word = "1" };
        struct raw early;
        struct shmd_wire_status_reply status;
        const struct shmd_wire_hello hello = { .version_min = 1, .version_max = 1 };
        struct raw_reply reply;

        /* In a place as the harness makes it. */
        daemon_start(&the_daemon, NULL);
        daemon_kill(&the_daemon, SIGTERM);
        daemon_wait(&the_daemon);
        passed.fds[0] = make_listener(the_daemon.socket, SOCK_SEQPACKET);
        raw_open(&early, the_daemon.socket);
        ck_assert_int_eq(raw_request(&early, SHMD_OP_HELLO, &hello, NULL, 0, NULL, 0), 0);

        for (int round = 0; round < 2; round++) {
                start_activated(&passed);
                if (round == 0) {
                        raw_receive(&early, &reply);
                        ck_assert_uint_eq(reply.header.status, SHMD_OK);
                        raw_reply_done(&reply);
                        raw_status(&early, &status);
                        ck_assert_uint_eq(status.pid, the_daemon.pid);
                        raw_close(&early);
                }
                daemon_settle(&the_daemon, 0);
                daemon_kill(&the_daemon, SIGTERM);
                ck_assert_int_eq(daemon_wait(&the_daemon), 0);
                ck_assert_int_eq(access(the_daemon.socket, F_OK), 0); /* not its own */
        }
        close(passed.fds[0]);
        unlink(the_daemon.socket);
        daemon_finish(&the_daemon);
}
END_TEST

static void lock_path(char *path, size_t size) {
        ck_assert_int_lt(snprintf(path, size, "%s.lock", the_daemon.socket), (int) size);
}

static bool has_lock_open(pid_t pid) {
        char lock[200], path[64], target[200];

        lock_path(lock, sizeof(lock));
        for (int fd = 0; fd < 64; fd++) {
                ssize_t n;

                snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int) pid, fd);
                n = readlink(path, target, sizeof(target));
                if (n > 0 && (size_t) n == strlen(lock) && memcmp(target, lock, (size_t) n) == 0)
                        return true;
        }
        return false;
}

/* Has the lock until the process that it is told of has come for it. */
static void hold_lock(int channel, void *userdata) {
        char path[200];
        pid_t pid;
        int fd;

        (void) userdata;
        lock_path(path, sizeof(path));
        fd = open(path, O_RDWR | O_CLOEXEC);
        ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
        step_send(channel, 'h');
        step_receive_data(channel, &pid, sizeof(pid));
        TEST_UNTIL(has_lock_open(pid), "the daemon to come for the lock");
        close(fd);
}

struct awaited {
        struct passed passed;
        struct child holder;
};

static void pass_sockets_and_tell(void *userdata) {
        const struct awaited *awaited = userdata;
        pid_t pid = getpid();

        step_send_data(awaited->holder.channel, &pid, sizeof(pid));
        pass_sockets((void *) &awaited->passed);
}

/* A client that looks whether it has to start a daemon has the lock when the daemon comes that another one has started. */
START_TEST(test_lock_for_a_moment) {
        struct awaited awaited = { .passed = { .count = 1, .count_word = "1" } };
        const char *const arguments[] = { "--socket", the_daemon.socket, NULL };
        const struct daemon_options options = { .arguments = arguments, .without_socket = true,
                                                .prepare = pass_sockets_and_tell, .userdata = &awaited };

        daemon_start(&the_daemon, NULL);
        daemon_kill(&the_daemon, SIGTERM);
        daemon_wait(&the_daemon);
        awaited.passed.fds[0] = make_listener(the_daemon.socket, SOCK_SEQPACKET);
        child_start(&awaited.holder, hold_lock, NULL);
        step_expect(awaited.holder.channel, 'h');

        daemon_start_again(&the_daemon, &options);
        child_join(&awaited.holder);
        raw_connect(&the_daemon.control, the_daemon.socket);
        daemon_kill(&the_daemon, SIGTERM);
        ck_assert_int_eq(daemon_wait(&the_daemon), 0);
        close(awaited.passed.fds[0]);
        unlink(the_daemon.socket);
        daemon_finish(&the_daemon);
}
END_TEST

/* Anything but one listening SEQPACKET socket is refused in words. */
static void check_refused(struct passed *passed) {
        char path[128];

        snprintf(path, sizeof(path), "%s/unused.sock", test_directory());
        process_run(ARGUMENTS(test_environment("SHMD_TEST_DAEMON"), "--socket", path), pass_sockets, passed, &outcome);
        ck_assert(WIFEXITED(outcome.status));
        ck_assert_int_eq(WEXITSTATUS(outcome.status), 1);
        ck_assert_ptr_nonnull(strstr(outcome.errors, "service manager"));
        outcome_done(&outcome);
}

START_TEST(test_wrong_activation) {
        char path[128];
        struct passed passed = { .count = 1, .count_word = "1" };

        snprintf(path, sizeof(path), "%s/stream.sock", test_directory());
        passed.fds[0] = make_listener(path, SOCK_STREAM);
        check_refused(&passed);
        close(passed.fds[0]);

        passed.fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        check_refused(&passed);
        close(passed.fds[0]);

        passed.fds[0] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0); /* does not listen */
        check_refused(&passed);
        close(passed.fds[0]);
}
END_TEST

/* --- idle exit --- */

static struct daemon_options idle_exit(const char *seconds) {
        static const char *arguments[3] = { "--idle-exit" };

        arguments[1] = seconds;
        return (struct daemon_options) { .arguments = arguments, .without_socket = false };
}

/* Two daemons: the one that nobody uses is the clock for the other, which is in use and so must not go. */
START_TEST(test_idle_exit) {
        const struct daemon_options options = idle_exit("1");
        struct test_daemon idle;
        struct raw client;

        daemon_start(&the_daemon, &options);
        daemon_start(&idle, &options);
        raw_connect(&client, the_daemon.socket);
        raw_close(&the_daemon.control);
        raw_close(&idle.control);
        ck_assert_int_eq(daemon_wait(&idle), 0);
        raw_connect(&the_daemon.control, the_daemon.socket);
        daemon_settle(&the_daemon, 1); /* it has a client: it is there */

        /* A name is use, too. */
        ck_assert_int_eq(raw_create(&client, "named", 4096, WIRE_LIFETIME_PERSIST, NULL, NULL), SHMD_OK);
        raw_close(&client);
        raw_close(&the_daemon.control);
        daemon_start_again(&idle, &options);
        raw_close(&idle.control);
        ck_assert_int_eq(daemon_wait(&idle), 0);
        raw_connect(&the_daemon.control, the_daemon.socket);
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 1);

        /* And when the last of it goes, so does the daemon. */
        ck_assert_int_eq(raw_unlink(&the_daemon.control, "named"), SHMD_OK);
        raw_close(&the_daemon.control);
        ck_assert_int_eq(daemon_wait(&the_daemon), 0);
        ck_assert_int_eq(access(the_daemon.socket, F_OK), -1);
        daemon_finish(&the_daemon);
        daemon_finish(&idle);
}
END_TEST

/* What only a mapping keeps is in use: the daemon stays to see it go. */
START_TEST(test_idle_exit_with_mapping) {
        const struct daemon_options options = idle_exit("1");
        struct test_daemon idle;
        struct raw client;
        int fd = -EBADF;

        daemon_start(&the_daemon, &options);
        raw_connect(&client, the_daemon.socket);
        ck_assert_int_eq(raw_create(&client, "kept", 4096, WIRE_LIFETIME_HOLDERS, NULL, &fd), SHMD_OK);
        ck_assert_int_eq(raw_unlink(&client, "kept"), SHMD_OK);
        raw_close(&client);
        raw_close(&the_daemon.control);
        daemon_start(&idle, &options);
        raw_close(&idle.control);
        ck_assert_int_eq(daemon_wait(&idle), 0);
        raw_connect(&the_daemon.control, the_daemon.socket);
        ck_assert_uint_eq(daemon_status(&the_daemon).unlinked, 1);
        raw_close(&the_daemon.control);
        close(fd);
        ck_assert_int_eq(daemon_wait(&the_daemon), 0);
        daemon_finish(&the_daemon);
        daemon_finish(&idle);
}
END_TEST

/* --- surroundings --- */

static void close_standard_streams(void *userdata) {
        (void) userdata;
        close(STDIN_FILENO);
        close(STDOUT_FILENO);
        close(STDERR_FILENO);
}

/*
 * Started without standard streams, the numbers 0 to 2 are free for anything, and what is printed there would
 * land in it: in a client's segment, say.
 */
START_TEST(test_without_standard_streams) {
        static const char *const arguments[] = { "--log-target", "stderr", "--log-level", "debug", NULL };
        const struct daemon_options options = { .arguments = arguments, .prepare = close_standard_streams };
        int fds[8];
        char byte, name[16];

        daemon_start(&the_daemon, &options);
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                snprintf(name, sizeof(name), "s/%zu", i);
                ck_assert_int_eq(raw_create(&the_daemon.control, name, 4096, WIRE_LIFETIME_HOLDERS, NULL, &fds[i]),
                                 SHMD_OK);
        }
        for (int i = 0; i < 10; i++) { /* each is worth a line in the log */
                struct raw rude;
                struct raw_reply reply;

                raw_open(&rude, the_daemon.socket);
                raw_send(&rude, "rude", 4, NULL, 0);
                raw_receive(&rude, &reply);
                raw_close(&rude);
        }
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                for (int offset = 0; offset < 4096; offset++)
                        if (pread(fds[i], &byte, 1, offset) != 1 || byte != 0)
                                ck_abort_msg("something was written into segment %zu", i);
                close(fds[i]);
        }
        daemon_reconnect(&the_daemon);
        daemon_stop(&the_daemon);
}
END_TEST

static void block_signals(void *userdata) {
        sigset_t set;

        (void) userdata;
        sigfillset(&set);
        sigprocmask(SIG_SETMASK, &set, NULL);
        signal(SIGTERM, SIG_IGN);
        signal(SIGCHLD, SIG_IGN);
}

/* Started with all signals blocked and SIGTERM ignored, as careless programs start others: it still ends when told. */
START_TEST(test_inherited_signal_mask) {
        const struct daemon_options options = { .prepare = block_signals };

        daemon_start(&the_daemon, &options);
        daemon_stop(&the_daemon);
}
END_TEST

static void log_to_full_disk(void *userdata) {
        int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

        (void) userdata;
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
}

START_TEST(test_log_cannot_be_written) {
        static const char *const arguments[] = { "--log-target", "stderr", "--log-level", "debug", NULL };
        const struct daemon_options options = { .arguments = arguments, .prepare = log_to_full_disk };

        daemon_start(&the_daemon, &options);
        daemon_status(&the_daemon);
        daemon_stop(&the_daemon);
}
END_TEST

static Suite *daemon_suite(void) {
        Suite *suite = suite_create("daemon");
        TCase *tests = test_case(suite, "command line", NULL, NULL);

        tcase_add_test(tests, test_help);
        tcase_add_test(tests, test_version);
        tcase_add_loop_test(tests, test_bad_usage, 0, ELEMENTSOF(bad));
        tcase_add_test(tests, test_impossible_places);
        tcase_add_test(tests, test_no_runtime_directory);

        tests = test_case(suite, "socket", NULL, NULL);
        tcase_add_test(tests, test_second_daemon);
        tcase_add_test(tests, test_no_socket_at_path);
        tcase_add_test(tests, test_other_service_at_path);
        tcase_add_test(tests, test_stale_socket);
        tcase_add_test(tests, test_socket_mode);
        tcase_add_test(tests, test_ready_means_ready);

        tests = test_case(suite, "life", NULL, NULL);
        tcase_add_loop_test(tests, test_ended_while_idle, 0, ELEMENTSOF(endings));
        tcase_add_loop_test(tests, test_ended_while_busy, 0, ELEMENTSOF(endings));
        tcase_add_test(tests, test_socket_activation);
        tcase_add_test(tests, test_lock_for_a_moment);
        tcase_add_test(tests, test_wrong_activation);
        tcase_add_test(tests, test_idle_exit);
        tcase_add_test(tests, test_idle_exit_with_mapping);
        tcase_add_test(tests, test_without_standard_streams);
        tcase_add_test(tests, test_inherited_signal_mask);
        tcase_add_test(tests, test_log_cannot_be_written);
        return suite;
}

int main(void) {
        return test_run(daemon_suite());
}
