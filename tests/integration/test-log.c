/* SPDX-License-Identifier: MIT */
/*
 * What the operator finds later: each kind of message, through the real daemon, on standard error and in the journal;
 * and that no client can flood either.
 *
 * The journal is a socket of the test's own, which is put in the place of journald's in the daemon's mount namespace.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

static const struct identity alice = { .uid = 65533, .gid = 65533 }, bob = { .uid = 65532, .gid = 65532 };

static const char *const to_stderr[] = { "--log-target", "stderr", NULL };

static void start(const char *const *arguments) {
        daemon_start(&the_daemon, &(struct daemon_options) { .arguments = arguments });
}

static void expect_log(const char *text) {
        _cleanup_free_ char *log = test_read_file(the_daemon.log);

        ck_assert_msg(log && strstr(log, text), "not in the log: \"%s\"; there is: %s", text, log ? log : "nothing");
}

/* Ends the daemon, so that everything is told, and leaves its log. */
static void end_daemon(void) {
        daemon_settle(&the_daemon, 0);
        daemon_unlink_all(&the_daemon);
        daemon_await_segments(&the_daemon, 0);
        daemon_kill(&the_daemon, SIGTERM);
        ck_assert_int_eq(daemon_wait(&the_daemon), 0);
}

static void run_as(const struct identity *identity, child_function function, void *userdata) {
        struct child child;

        child_start_as(&child, identity, function, userdata);
        child_join(&child);
}

/* Somebody with limits, if there is such a user. */
static void run(child_function function) {
        struct child child;

        if (geteuid() == 0)
                run_as(&alice, function, NULL);
        else {
                child_start(&child, function, NULL);
                child_join(&child);
        }
}

/* --- one message of each kind --- */

static void open_denied(int channel, void *userdata) {
        const unsigned *times = userdata;
        struct shmd *own = client_connect();

        (void) channel;
        for (unsigned i = 0; i < (times ? *times : 1); i++)
                ck_assert_int_eq(client_try_open(own, "log/secret", 0), -EACCES);
        shmd_disconnect(own);
}

static void make_secret(void) {
        struct shmd *own = client_connect();

        shmd_close(client_create(own, "log/secret", 1, SHMD_LIFETIME_PERSIST));
        shmd_disconnect(own);
}

START_TEST(test_denied) {
        if (!test_as_root("test_denied"))
                return;
        start(to_stderr);
        make_secret();
        run_as(&alice, open_denied, NULL);
        expect_log("shmd: refused open to process ");
        expect_log(" of user 65533, \"log/secret\": permission denied (owner 0, mode 0600)\n");
        daemon_stop(&the_daemon);
}
END_TEST

static void unlink_denied(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(shmd_unlink(own, "log/secret"), -EPERM);
        ck_assert_int_eq(client_try_open(own, "log/nothing", 0), -ENOENT);
        shmd_disconnect(own);
}

START_TEST(test_not_owner) {
        if (!test_as_root("test_not_owner"))
                return;
        start(to_stderr);
        make_secret();
        run_as(&alice, unlink_denied, NULL);
        expect_log("shmd: refused unlink to process ");
        /* What was merely not there is nobody's business. */
        ck_assert(!daemon_log_has(&the_daemon, "log/nothing"));
        daemon_stop(&the_daemon);
}
END_TEST

/* A name within a request for many is told as well. */
static void open_many_denied(int channel, void *userdata) {
        const char *const names[] = { "log/nothing", "log/secret" };
        struct shmd_segment *segments[2];
        struct shmd *own = client_connect();
        int results[2];

        (void) channel;
        (void) userdata;
        (void) shmd_open_many(own, names, 2, 0, segments, results);
        ck_assert_int_eq(results[1], -EACCES);
        shmd_disconnect(own);
}

START_TEST(test_many) {
        if (!test_as_root("test_many"))
                return;
        start(to_stderr);
        make_secret();
        run_as(&alice, open_many_denied, NULL);
        expect_log("shmd: refused open_many to process ");
        expect_log(", \"log/secret\": permission denied (owner 0, mode 0600)\n");
        daemon_stop(&the_daemon);
}
END_TEST

static char config[160];

static void start_limited(const char *text) {
        const char *const arguments[] = { "--log-target", "stderr", "--config", config, NULL };
        FILE *file;

        snprintf(config, sizeof(config), "%s/%d.conf", test_directory(), (int) getpid());
        file = fopen(config, "we");
        ck_assert_ptr_nonnull(file);
        ck_assert_int_ge(fputs(text, file), 0);
        ck_assert_int_eq(fclose(file), 0);
        start(arguments);
}

static void create_two(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(client_try_create(own, "log/first", 1, 0, NULL), 0);
        ck_assert_int_eq(client_try_create(own, "log/second", 1, 0, NULL), -EDQUOT);
        shmd_disconnect(own);
}

START_TEST(test_limit) {
        start_limited("[limits]\nsegments = 1\n");
        run(create_two);
        expect_log("shmd: refused create to process ");
        expect_log(", \"log/second\": over the limit: 1 segments at most, 1 used, 1 more asked for\n");
        daemon_stop(&the_daemon);
}
END_TEST

static void connect_too_often(int channel, void *userdata) {
        struct shmd *first, *second = NULL;

        (void) channel;
        (void) userdata;
        first = client_connect();
        ck_assert_int_eq(shmd_connect(the_daemon.socket, &second), -EDQUOT);
        shmd_disconnect(first);
}

START_TEST(test_turned_away) {
        if (!test_as_root("test_turned_away"))
                return;
        start_limited("[limits]\nconnections = 1\n");
        run_as(&alice, connect_too_often, NULL);
        expect_log("shmd: turned away process ");
        expect_log(" of user 65533: over the limit: 1 connections at most, 1 used, 1 more asked for\n");
        daemon_stop(&the_daemon);
}
END_TEST

/* Its name looks like a line of the log. */
static void break_a_rule(void) {
        struct raw raw = RAW_INIT;
        struct raw_reply reply;

        ck_assert_int_eq(prctl(PR_SET_NAME, "x\nshmd: \033[2J\u202e"), 0);
        raw_connect(&raw, the_daemon.socket);
        ck_assert_int_eq(raw_send(&raw, "short", 5, NULL, 0), 0);
        raw_receive(&raw, &reply);
        ck_assert_uint_eq(reply.size, 0);
        raw_close(&raw);
}

START_TEST(test_cut_off) {
        start(to_stderr);
        break_a_rule();
        expect_log("shmd: disconnecting process ");
        expect_log(": it sent something that is no message\n");
        ck_assert(!daemon_log_has(&the_daemon, "\nshmd: ?[2J"));
        ck_assert(!daemon_log_has(&the_daemon, "\033"));
        ck_assert(!daemon_log_has(&the_daemon, "\u202e"));
        daemon_stop(&the_daemon);
}
END_TEST

START_TEST(test_expired) {
        struct shmd *own, *second;

        start(to_stderr);
        own = client_connect();
        second = client_connect();
        shmd_close(client_create(own, "log/holders", 1, SHMD_LIFETIME_HOLDERS));
        TEST_UNTIL(!client_exists(own, "log/holders"), "the end of what nobody holds");
        expect_log("removed \"log/holders\" (");
        expect_log("its last holder has gone\n");
        client_create(second, "log/creator", 1, SHMD_LIFETIME_CREATOR);
        shmd_disconnect(second);
        TEST_UNTIL(!client_exists(own, "log/creator"), "the end of what went with its creator");
        expect_log("its creator has gone\n");
        /* What its owner removed himself needs no line. */
        shmd_close(client_create(own, "log/persists", 1, SHMD_LIFETIME_PERSIST));
        ASSERT_OK(own, shmd_unlink(own, "log/persists"));
        ck_assert(!daemon_log_has(&the_daemon, "log/persists"));
        shmd_disconnect(own);
        daemon_stop(&the_daemon);
}
END_TEST

static void create_one(int channel, void *userdata) {
        struct shmd *own = client_connect();

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(client_try_create(own, "log/alices", 1, 0, NULL), 0);
        shmd_disconnect(own);
}

START_TEST(test_reclaimed) {
        struct shmd *own;

        if (!test_as_root("test_reclaimed"))
                return;
        start(to_stderr);
        run_as(&alice, create_one, NULL);
        own = client_connect();
        ASSERT_OK(own, shmd_unlink(own, "log/alices"));
        shmd_disconnect(own);
        TEST_UNTIL(daemon_log_has(&the_daemon, " of user 0 removed \"log/alices\" ("), "the line, which comes after the answer");
        expect_log(") of user 65533\n");
        daemon_stop(&the_daemon);
}
END_TEST

START_TEST(test_level) {
        const char *const arguments[] = { "--log-target", "stderr", "--log-level", "warning", NULL };

        start(arguments);
        break_a_rule();
        ck_assert(!daemon_log_has(&the_daemon, "disconnecting"));
        daemon_stop(&the_daemon);
}
END_TEST

/* --- how many --- */

static unsigned count_lines(const char *log, const char *beginning, const char *end) {
        unsigned count = 0;

        for (const char *line = log; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
                const char *found = strstr(line, end);

                count += strncmp(line, beginning, strlen(beginning)) == 0 && found && found < strchr(line, '\n');
        }
        return count;
}

/* What the summaries about a user say, in all. */
static unsigned sum_left_out(const char *log, const char *whom) {
        unsigned sum = 0, some;
        char text[64];

        for (const char *line = log; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
                if (sscanf(line, "shmd: %u more messages about user %63[0-9] were left out", &some, text) == 2 && strcmp(text, whom) == 0)
                        sum += some;
        return sum;
}

START_TEST(test_flood) {
        _cleanup_free_ char *log = NULL;
        unsigned times = 10000, lines, left_out;
        const int64_t before = test_now_msec();
        unsigned half_minutes;

        if (!test_as_root("test_flood"))
                return;
        start(to_stderr);
        make_secret();
        run_as(&alice, open_denied, &times);
        times = 1;
        run_as(&bob, open_denied, &times);
        expect_log("of user 65532, \"log/secret\"");
        end_daemon();
        half_minutes = (unsigned) ((test_now_msec() - before) / 30000);

        log = test_read_file(the_daemon.log);
        lines = count_lines(log, "shmd: refused open", " of user 65533,");
        left_out = sum_left_out(log, "65533");
        ck_assert_uint_ge(lines, 5);
        ck_assert_uint_le(lines, 5 + half_minutes);
        ck_assert_uint_eq(lines + left_out, 10000);
        ck_assert_uint_eq(count_lines(log, "shmd: refused open", " of user 65532,"), 1);
        ck_assert_uint_le(count_lines(log, "shmd: ", ""), 12 + 2 * half_minutes); /* some more are no matter of clients */
        daemon_finish(&the_daemon);
}
END_TEST

/* --- the journal --- */

static int journal = -EBADF;
static char journal_path[100];

/* In the daemon's place: a mount namespace in which journald's socket is the test's. */
static void enter_journal(void *userdata) {
        int fd;

        (void) userdata;
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0 || mkdir("/run/systemd", 0755) < 0 ||
            mkdir("/run/systemd/journal", 0755) < 0)
                _exit(125);
        fd = open("/run/systemd/journal/socket", O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0 || mount(journal_path, "/run/systemd/journal/socket", NULL, MS_BIND, NULL) < 0)
                _exit(125);
        close(fd);
}

static bool can_mount(void) {
        pid_t pid = fork();
        int status = -1;

        if (pid == 0)
                _exit(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                                      mount("tmpfs", "/run", "tmpfs", 0, NULL) == 0
                              ? 0
                              : 1);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        return status == 0;
}

/* The next one that has a kind. What is as small as ours comes as it is, one field a line. */
static void next_entry(char *buffer, size_t size) {
        ssize_t n;

        do {
                test_wait_readable(journal, "an entry for the journal");
                n = recv(journal, buffer, size - 1, 0);
                ck_assert_int_gt(n, 0);
                buffer[n] = '\0';
        } while (!strstr(buffer, "\nMESSAGE_ID="));
}

static void expect_field(const char *entry, const char *field) {
        size_t length = strlen(field);

        for (const char *line = entry; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
                if (strncmp(line, field, length) == 0 && (line[length] == '\n' || line[length] == '\0'))
                        return;
        ck_abort_msg("the entry has no field \"%s\": %s", field, entry);
}

static bool start_with_journal(const char *test) {
        static const char *const to_journal[] = { "--log-target", "journal", NULL };
        char entry[4096];

        if (!test_as_root(test))
                return false;
        if (!can_mount()) {
                test_skip("%s: no mount namespace can be made here", test);
                return false;
        }
        snprintf(journal_path, sizeof(journal_path), "%s/%d.journal", test_directory(), (int) getpid());
        journal = daemon_notify_socket(journal_path);
        daemon_start(&the_daemon, &(struct daemon_options) { .arguments = to_journal, .prepare = enter_journal });
        /* The descriptor for it is there from the first entry on. */
        break_a_rule();
        next_entry(entry, sizeof(entry));
        expect_field(entry, "MESSAGE_ID=289e0a200c6c4216b637f111c1fd42dd");
        daemon_settle(&the_daemon, 0);
        the_daemon.baseline = daemon_count_descriptors(&the_daemon);
        return true;
}

START_TEST(test_journal) {
        char entry[4096], field[64];
        struct shmd *own;
        struct child child;
        uint64_t id;

        if (!start_with_journal("test_journal"))
                return;
        make_secret();
        own = client_connect();
        id = client_stat(own, "log/secret").id;
        child_start_as(&child, &alice, open_denied, NULL);
        snprintf(field, sizeof(field), "SHMD_PID=%d", (int) child.pid);
        child_join(&child);
        next_entry(entry, sizeof(entry));
        expect_field(entry, "MESSAGE_ID=1a9bda998b144aeda37c6ebc72623fe1");
        expect_field(entry, "PRIORITY=5");
        expect_field(entry, "SHMD_SEGMENT=log/secret");
        expect_field(entry, "SHMD_UID=65533");
        expect_field(entry, field);
        snprintf(field, sizeof(field), "SHMD_ID=%" PRIu64, id);
        expect_field(entry, field);
        ck_assert_ptr_nonnull(strstr(entry, "MESSAGE=refused open to process "));

        /* Nothing else was said; the next that is said is the next thing. */
        shmd_close(client_create(own, "log/holders", 1, SHMD_LIFETIME_HOLDERS));
        next_entry(entry, sizeof(entry));
        expect_field(entry, "MESSAGE_ID=47203eace6b04af4a1913ba46565ac19");
        expect_field(entry, "SHMD_SEGMENT=log/holders");
        expect_field(entry, "SHMD_UID=0");
        shmd_disconnect(own);
        daemon_stop(&the_daemon);
        journal = close_fd(journal);
}
END_TEST

START_TEST(test_journal_flood) {
        unsigned times = 10000, entries = 0;
        char entry[4096];

        if (!start_with_journal("test_journal_flood"))
                return;
        make_secret();
        run_as(&alice, open_denied, &times);
        end_daemon();
        do {
                next_entry(entry, sizeof(entry));
                expect_field(entry, "MESSAGE_ID=1a9bda998b144aeda37c6ebc72623fe1");
                expect_field(entry, "SHMD_UID=65533");
                entries++;
        } while (!strstr(entry, "more messages about user 65533 were left out"));
        ck_assert_uint_ge(entries, 6);
        ck_assert_uint_le(entries, 20);
        journal = close_fd(journal);
        daemon_finish(&the_daemon);
}
END_TEST

/* --- nobody reads --- */

/* The daemon goes on serving, and says how much nobody has read as soon as somebody does. */
START_TEST(test_journal_is_not_read) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        char entry[4096] = "";
        int filler;

        if (!start_with_journal("test_journal_is_not_read"))
                return;
        strcpy(address.sun_path, journal_path);
        filler = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        while (sendto(filler, "MESSAGE=x\n", 10, 0, (struct sockaddr *) &address, sizeof(address)) == 10)
                ;
        ck_assert_int_eq(errno, EAGAIN);
        make_secret();
        run_as(&alice, open_denied, NULL);
        run_as(&alice, open_denied, NULL);
        while (recv(journal, entry, sizeof(entry), MSG_DONTWAIT) > 0)
                ck_assert(!strstr(entry, "refused open"));
        run_as(&bob, open_denied, NULL);
        ck_assert_int_gt(recv(journal, entry, sizeof(entry) - 1, 0), 0);
        ck_assert_ptr_nonnull(strstr(entry, "MESSAGE=2 messages were lost"));
        next_entry(entry, sizeof(entry));
        expect_field(entry, "SHMD_UID=65532");
        close(filler);
        daemon_stop(&the_daemon);
        journal = close_fd(journal);
}
END_TEST

static int error_pipe[2];

static void have_error_pipe(void *userdata) {
        (void) userdata;
        if (dup2(error_pipe[1], STDERR_FILENO) < 0)
                _exit(125);
}

/* The same where that is a pipe. */
START_TEST(test_stderr_is_not_read) {
        char text[65536];
        ssize_t n;

        if (!test_as_root("test_stderr_is_not_read"))
                return;
        ck_assert_int_eq(pipe2(error_pipe, O_CLOEXEC), 0);
        daemon_start(&the_daemon, &(struct daemon_options) { .arguments = to_stderr, .prepare = have_error_pipe });
        memset(text, 'x', sizeof(text));
        ck_assert_int_eq(fcntl(error_pipe[1], F_SETFL, O_NONBLOCK), 0);
        while (write(error_pipe[1], text, 4096) > 0)
                ;
        while (write(error_pipe[1], text, 1) > 0)
                ;
        ck_assert_int_eq(fcntl(error_pipe[1], F_SETFL, 0), 0);
        make_secret();
        run_as(&alice, open_denied, NULL);
        ck_assert_int_eq(fcntl(error_pipe[0], F_SETFL, O_NONBLOCK), 0);
        while ((n = read(error_pipe[0], text, sizeof(text))) > 0)
                ck_assert_ptr_null(memmem(text, (size_t) n, "refused", 7));
        run_as(&bob, open_denied, NULL);
        n = read(error_pipe[0], text, sizeof(text) - 1);
        ck_assert_int_gt(n, 0);
        text[n] = '\0';
        ck_assert_ptr_eq(strstr(text, "shmd: 1 message was lost"), text);
        ck_assert_ptr_nonnull(strstr(text, "refused open to process"));
        daemon_stop(&the_daemon);
        close(error_pipe[0]);
        close(error_pipe[1]);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("log");
        TCase *tests;

        tests = test_case(suite, "kinds", NULL, NULL);
        tcase_add_test(tests, test_denied);
        tcase_add_test(tests, test_not_owner);
        tcase_add_test(tests, test_many);
        tcase_add_test(tests, test_limit);
        tcase_add_test(tests, test_turned_away);
        tcase_add_test(tests, test_cut_off);
        tcase_add_test(tests, test_expired);
        tcase_add_test(tests, test_reclaimed);
        tcase_add_test(tests, test_level);

        tests = test_case(suite, "how many", NULL, NULL);
        tcase_add_test(tests, test_flood);

        tests = test_case(suite, "journal", NULL, NULL);
        tcase_add_test(tests, test_journal);
        tcase_add_test(tests, test_journal_flood);
        tcase_add_test(tests, test_journal_is_not_read);
        tcase_add_test(tests, test_stderr_is_not_read);
        return test_run(suite);
}
