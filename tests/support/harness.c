/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "process.h"
#include "test.h"

struct test_daemon the_daemon;

void daemon_setup(void) {
        daemon_start(&the_daemon, NULL);
}

void daemon_teardown(void) {
        daemon_stop(&the_daemon);
}

/* --- start --- */

int daemon_notify_socket(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        ck_assert_int_ge(fd, 0);
        ck_assert_uint_lt(strlen(path), sizeof(address.sun_path));
        memcpy(address.sun_path, path, strlen(path));
        ck_assert_int_eq(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
        ck_assert_int_eq(chmod(path, 0666), 0);
        return fd;
}

static bool is_ready(int notify) {
        char message[4096];
        ssize_t n = recv(notify, message, sizeof(message) - 1, MSG_DONTWAIT);
        bool ready = false;

        if (n <= 0)
                return false;
        message[n] = '\0';
        for (char *save, *line = strtok_r(message, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
                ready = ready || strcmp(line, "READY=1") == 0;
        return ready;
}

void daemon_await_ready(int notify, int pidfd, const char *log) {
        const int64_t until = test_now_msec() + test_deadline_msec();

        for (;;) {
                struct pollfd items[] = { { .fd = notify, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
                int n = poll(items, 2, (int) MAX(until - test_now_msec(), 0));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n == 0)
                        ck_abort_msg("the daemon has not become ready");
                if (items[0].revents & POLLIN) {
                        if (is_ready(notify))
                                return;
                } else {
                        _cleanup_free_ char *text = test_read_file(log);

                        ck_abort_msg("the daemon ended before it was ready: %s", text ? text : "");
                }
        }
}

static void run_daemon(const struct test_daemon *daemon, const struct daemon_options *options) {
        const char *program = test_environment("SHMD_TEST_DAEMON");
        const char *arguments[32] = { program };
        char notify[128];
        int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        unsigned n = 1;

        if (!options->without_socket) {
                arguments[n++] = "--socket";
                arguments[n++] = daemon->socket;
                arguments[n++] = geteuid() == 0 ? "--system" : "--user";
        }
        for (unsigned i = 0; options->arguments && options->arguments[i]; i++)
                arguments[n++] = options->arguments[i];

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        snprintf(notify, sizeof(notify), "%s/notify", daemon->directory);
        setenv("NOTIFY_SOCKET", notify, 1);
        if (options->prepare)
                options->prepare(options->userdata);
        execv(program, (char **) arguments);
        perror(program);
        _exit(126);
}

static void launch(struct test_daemon *daemon, const struct daemon_options *options) {
        static const struct daemon_options none;

        options = options ? options : &none;
        fflush(NULL);
        daemon->pid = fork();
        ck_assert_int_ge(daemon->pid, 0);
        if (daemon->pid == 0)
                run_daemon(daemon, options);
        daemon->pidfd = process_pidfd(daemon->pid);
        daemon_await_ready(daemon->notify, daemon->pidfd, daemon->log);
        if (options->without_socket)
                return;
        raw_connect(&daemon->control, daemon->socket);
        daemon->baseline = daemon_count_descriptors(daemon);
}

void daemon_start(struct test_daemon *daemon, const struct daemon_options *options) {
        static unsigned count;
        char notify[128];

        *daemon = (struct test_daemon) { .pidfd = -EBADF, .notify = -EBADF, .control = RAW_INIT };
        snprintf(daemon->directory, sizeof(daemon->directory), "%s/%d.%u", test_directory(), (int) getpid(), ++count);
        snprintf(daemon->place, sizeof(daemon->place), "%s/run", daemon->directory);
        snprintf(daemon->socket, sizeof(daemon->socket), "%s/shmd.sock", daemon->place);
        snprintf(daemon->log, sizeof(daemon->log), "%s/log", daemon->directory);
        ck_assert_int_eq(mkdir(daemon->directory, 0755), 0);
        ck_assert_int_eq(mkdir(daemon->place, 0755), 0);
        snprintf(notify, sizeof(notify), "%s/notify", daemon->directory);
        daemon->notify = daemon_notify_socket(notify);
        launch(daemon, options);
}

void daemon_start_again(struct test_daemon *daemon, const struct daemon_options *options) {
        ck_assert_int_eq(daemon->pid, 0);
        launch(daemon, options);
}

void daemon_reconnect(struct test_daemon *daemon) {
        raw_close(&daemon->control);
        raw_connect(&daemon->control, daemon->socket);
}

/* --- questions --- */

struct shmd_wire_status_reply daemon_status(struct test_daemon *daemon) {
        struct shmd_wire_status_reply status;

        raw_status(&daemon->control, &status);
        return status;
}

void daemon_settle(struct test_daemon *daemon, unsigned connections) {
        TEST_UNTIL(daemon_status(daemon).connections == connections + 1, "the daemon to notice that clients have gone");
}

void daemon_await_segments(struct test_daemon *daemon, unsigned segments) {
        TEST_UNTIL(daemon_status(daemon).segments == segments, "segments to be freed");
}

int daemon_count_descriptors(const struct test_daemon *daemon) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/fd", (int) daemon->pid);
        return test_count_entries(path);
}

void daemon_await_descriptors(struct test_daemon *daemon, int more) {
        if (daemon->baseline < 0)
                return;
        TEST_UNTIL(daemon_count_descriptors(daemon) == daemon->baseline + more, "the daemon to close its descriptors");
}

uint64_t daemon_own_memory(const struct test_daemon *daemon) {
        _cleanup_free_ char *text = NULL;
        const char *line;
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/status", (int) daemon->pid);
        text = test_read_file(path);
        ck_assert_ptr_nonnull(text);
        line = strstr(text, "RssAnon:");
        ck_assert_ptr_nonnull(line);
        return strtoull(line + strlen("RssAnon:"), NULL, 10) * 1024;
}

bool daemon_log_has(const struct test_daemon *daemon, const char *wanted) {
        _cleanup_free_ char *text = test_read_file(daemon->log);

        return text && strstr(text, wanted);
}

/* --- end --- */

int daemon_wait(struct test_daemon *daemon) {
        int status = process_wait(daemon->pid, daemon->pidfd, "the daemon's end");

        daemon->pidfd = close_fd(daemon->pidfd);
        daemon->pid = 0;
        raw_close(&daemon->control);
        return status;
}

void daemon_kill(struct test_daemon *daemon, int number) {
        ck_assert_int_eq(kill(daemon->pid, number), 0);
}

void daemon_pause(struct test_daemon *daemon) {
        daemon_kill(daemon, SIGSTOP);
        ck_assert_int_eq(waitpid(daemon->pid, NULL, WUNTRACED), daemon->pid);
}

void daemon_resume(struct test_daemon *daemon) {
        daemon_kill(daemon, SIGCONT);
}

void daemon_replace(struct test_daemon *daemon) {
        static const char *const arguments[] = { "--replace", NULL };
        struct test_daemon old = *daemon;

        daemon->pid = 0;
        daemon->control = (struct raw) RAW_INIT;
        daemon_start_again(daemon, &(struct daemon_options) { .arguments = arguments });
        daemon->baseline = -1; /* it began with what the old one had */
        ck_assert_int_eq(daemon_wait(&old), 0);
}

void daemon_unlink_all(struct test_daemon *daemon) {
        uint64_t ids[512];
        size_t count;

        do {
                count = ELEMENTSOF(ids);
                raw_list_ids(&daemon->control, ids, &count);
                for (size_t i = 0; i < count; i++)
                        raw_unlink_id(&daemon->control, ids[i]);
        } while (count > 0);
}

static void check_log(const struct test_daemon *daemon) {
        static const char *const complaints[] = { "AddressSanitizer", "LeakSanitizer", "runtime error:",
                                                  "ThreadSanitizer", "MemorySanitizer" };

        for (size_t i = 0; i < ELEMENTSOF(complaints); i++)
                ck_assert_msg(!daemon_log_has(daemon, complaints[i]), "a sanitizer has reported: see the log");
}

/* Check reports a failed test before its descendants are looked for; so they are looked for here. */
static void check_processes(void) {
        pid_t left = waitpid(-1, NULL, WNOHANG);

        ck_assert_msg(left < 0 && errno == ECHILD, "a child process is left over (%d)", (int) left);
}

/* The socket's lock stays, by design: it also tells the next daemon which ids were used. */
static void check_files(const struct test_daemon *daemon) {
        char lock[160];

        snprintf(lock, sizeof(lock), "%s.lock", daemon->socket);
        (void) unlink(lock);
        ck_assert_msg(test_count_entries(daemon->place) == 0, "the daemon has left files in %s", daemon->place);
}

void daemon_finish(struct test_daemon *daemon) {
        check_log(daemon);
        check_files(daemon);
        check_processes();
        daemon->notify = close_fd(daemon->notify);
        test_remove_tree(daemon->directory);
}

/* Nobody is charged with anything but our own connection; an account is there as long as any charge is, of whatever kind. */
static bool charges_are_given_back(struct test_daemon *daemon) {
        static const uint64_t own[] = { 0, 0, 0, 1, 0 }; /* as struct shmd_wire_account has them */
        const struct shmd_wire_accounts request = { 0 };
        const struct shmd_wire_account *accounts;
        struct raw_reply reply;

        ck_assert_uint_eq(raw_call(&daemon->control, SHMD_OP_ACCOUNTS, &request, NULL, 0, &reply), 0);
        accounts = (const struct shmd_wire_account *) (RAW_BODY(&reply, accounts_reply) + 1);
        return RAW_BODY(&reply, accounts_reply)->count == 1 && accounts[0].uid == geteuid() &&
               memcmp(accounts[0].used, own, sizeof(own)) == 0;
}

void daemon_stop(struct test_daemon *daemon) {
        int status;

        daemon_settle(daemon, 0);
        daemon_unlink_all(daemon);
        daemon_await_segments(daemon, 0);
        ck_assert_uint_eq(daemon_status(daemon).holds, 0);
        ck_assert_uint_eq(daemon_status(daemon).bytes, 0);
        daemon_await_descriptors(daemon, 0);
        TEST_UNTIL(charges_are_given_back(daemon), "all that was charged to be given back");

        daemon_kill(daemon, SIGTERM);
        status = daemon_wait(daemon);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                ck_abort_msg("the daemon did not end well: wait status 0x%x", (unsigned) status);
        daemon_finish(daemon);
}
