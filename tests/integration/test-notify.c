/* SPDX-License-Identifier: MIT */
/* What the daemon tells a service manager, which the test plays: readiness, totals, the watchdog's food, the end. */
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "client.h"
#include "harness.h"
#include "raw.h"
#include "test.h"

/* Waits for a notification with that line; whatever comes before is ignored. */
static void await_line(const char *wanted) {
        for (;;) {
                char text[512];
                ssize_t n;

                test_wait_readable(the_daemon.notify, wanted);
                n = recv(the_daemon.notify, text, sizeof(text) - 1, 0);
                ck_assert_int_gt(n, 0);
                text[n] = '\0';
                for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
                        if (strcmp(line, wanted) == 0)
                                return;
        }
}

static unsigned drain(void) {
        char text[512];
        unsigned count = 0;

        while (recv(the_daemon.notify, text, sizeof(text), MSG_DONTWAIT) > 0)
                count++;
        return count;
}

/* --- totals --- */

START_TEST(test_totals) {
        struct shmd *connection;

        daemon_start(&the_daemon, NULL);
        await_line("STATUS=0 segments, 0 B, 1 client");
        connection = client_connect();
        shmd_close(client_create(connection, "a", 3 << 20, SHMD_LIFETIME_PERSIST));
        await_line("STATUS=1 segment, 3.0 MiB, 2 clients");
        shmd_close(client_create(connection, "b", 1, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(connection, shmd_unlink(connection, "a"));
        await_line("STATUS=1 segment, 1 B, 2 clients");
        shmd_disconnect(connection);
        await_line("STATUS=1 segment, 1 B, 1 client");
        daemon_stop(&the_daemon);
}
END_TEST

/* Not a message a request: what changes within a second is told together. */
START_TEST(test_totals_are_rare) {
        int64_t started;
        struct shmd *connection;
        unsigned count;

        daemon_start(&the_daemon, NULL);
        connection = client_connect();
        started = test_now_msec();
        for (int i = 0; i < 200; i++) {
                shmd_close(client_create(connection, "again", 4096, SHMD_LIFETIME_PERSIST));
                ASSERT_OK(connection, shmd_unlink(connection, "again"));
        }
        count = drain();
        ck_assert_int_le(count, (test_now_msec() - started) / 1000 + 3);
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- a manager that does not read --- */

static void feed_quickly(void *userdata) {
        (void) userdata;
        setenv("WATCHDOG_USEC", "2000", 1);
        unsetenv("WATCHDOG_PID");
}

static void fill(void) {
        char path[128];
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        snprintf(path, sizeof(path), "%s/notify", the_daemon.directory);
        memcpy(address.sun_path, path, strlen(path));
        while (sendto(fd, "X=1", 3, 0, (struct sockaddr *) &address, sizeof(address)) > 0)
                ;
        ck_assert_int_eq(errno, EAGAIN);
        close(fd);
}

/* Its queue is full: clients are served all the same, and it hears of them when it reads again. */
START_TEST(test_manager_does_not_read) {
        struct shmd *connection;
        uint64_t started;

        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = feed_quickly });
        connection = client_connect();
        fill();
        started = client_status(connection).uptime_usec;
        shmd_close(client_create(connection, "a", 4096, SHMD_LIFETIME_PERSIST));
        /* Some meals later */
        TEST_UNTIL(client_status(connection).uptime_usec > started + 20000, "the daemon's time to pass");
        drain();
        await_line("WATCHDOG=1");
        await_line("STATUS=1 segment, 4.0 KiB, 2 clients");
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* Nor does it keep the daemon from its end, or from telling that it has read its configuration once there is room. */
START_TEST(test_full_queue_at_the_end) {
        daemon_start(&the_daemon, NULL);
        fill();
        daemon_kill(&the_daemon, SIGHUP);
        TEST_UNTIL(daemon_log_has(&the_daemon, "configuration read again"), "the reload");
        drain();
        await_line("READY=1");
        fill();
        daemon_stop(&the_daemon);
}
END_TEST

/* --- watchdog --- */

START_TEST(test_watchdog) {
        struct shmd *connection;

        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = feed_quickly });
        connection = client_connect();
        ck_assert_uint_eq(client_status(connection).watchdog_usec, 2000);
        for (int i = 0; i < 10; i++)
                await_line("WATCHDOG=1");

        /* It is the loop that feeds: a daemon that stands still does not. */
        daemon_pause(&the_daemon);
        drain();
        ck_assert_uint_eq(drain(), 0);
        daemon_resume(&the_daemon);
        await_line("WATCHDOG=1");
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

static void feed_another(void *userdata) {
        (void) userdata;
        setenv("WATCHDOG_USEC", "2000", 1);
        setenv("WATCHDOG_PID", "1", 1);
}

START_TEST(test_no_watchdog) {
        struct shmd *connection;

        daemon_start(&the_daemon, &(struct daemon_options) { .prepare = feed_another });
        connection = client_connect();
        ck_assert_uint_eq(client_status(connection).watchdog_usec, 0);
        shmd_disconnect(connection);
        daemon_stop(&the_daemon);
}
END_TEST

/* --- reload and end --- */

static void write_file(const char *path, const char *text) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t) strlen(text));
        close(fd);
}

START_TEST(test_reload_and_end) {
        char path[128];
        const char *arguments[] = { "--config", path, NULL };
        int status;

        snprintf(path, sizeof(path), "%s/notify.conf", test_directory());
        write_file(path, "[limits]\n");
        daemon_start(&the_daemon, &(struct daemon_options) { .arguments = arguments });
        await_line("STATUS=0 segments, 0 B, 1 client");

        write_file(path, "nonsense\n");
        daemon_kill(&the_daemon, SIGHUP);
        await_line("RELOADING=1");
        await_line("STATUS=0 segments, 0 B, 1 client; the configuration has errors and is not applied");
        write_file(path, "[limits]\n");
        daemon_kill(&the_daemon, SIGHUP);
        await_line("READY=1");

        daemon_kill(&the_daemon, SIGTERM);
        await_line("STOPPING=1");
        status = daemon_wait(&the_daemon);
        ck_assert(WIFEXITED(status));
        ck_assert_int_eq(WEXITSTATUS(status), 0);
        daemon_finish(&the_daemon);
        unlink(path);
}
END_TEST

static Suite *notify_suite(void) {
        Suite *suite = suite_create("notify");
        TCase *tests = test_case(suite, "totals", NULL, NULL);

        tcase_add_test(tests, test_totals);
        tcase_add_test(tests, test_totals_are_rare);
        tcase_add_test(tests, test_manager_does_not_read);
        tcase_add_test(tests, test_full_queue_at_the_end);

        tests = test_case(suite, "watchdog", NULL, NULL);
        tcase_add_test(tests, test_watchdog);
        tcase_add_test(tests, test_no_watchdog);

        tests = test_case(suite, "life", NULL, NULL);
        tcase_add_test(tests, test_reload_and_end);
        return suite;
}

int main(void) {
        return test_run(notify_suite());
}
