/* SPDX-License-Identifier: MIT */
/*
 * The benchmark's program: options, and the supervisor that leaves nothing behind.
 *
 * Exit status: 0, whatever the timings are; 1 if a row failed, or nothing could be measured; 2 usage. Stopped by a
 * signal, it dies of that signal, after the same clean-up.
 */
#include "bench.h"

#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

/* For what is made before the first round, for the last ones and the report, beside the time that rounds may take */
#define GRACE_SECONDS 20

static const char usage_text[] =
        "Usage: bench [OPTION]...\n"
        "Measures shmd beside shm_open, SysV and the least that a broker can do.\n\n"
        "  --daemon PATH     the daemon to measure (default: $SHMD_TEST_DAEMON)\n"
        "  --json FILE       write the figures there, too (default: $BENCH_JSON)\n"
        "  --rounds N        default 200\n"
        "  --quick           few rounds: whether it works, not how fast\n"
        "  --only PATTERN    only rows whose names match, as the shell matches files\n"
        "  --at PLACEMENT    only there: s (client and server on the same core) or x (on two)\n"
        "  --cpus A,B        the client's CPU and the other one\n"
        "  --seconds N       begin no round after that time, none with load after half of it (default 50)\n"
        "  --list            the rows\n"
        "  --help\n";

static void list_rows(void) {
        for (size_t i = 0; i < bench_row_count; i++)
                printf("%-20s %s\n", bench_rows[i].id, bench_rows[i].what);
}

static bool parse_unsigned(const char *text, unsigned *ret_value) {
        char *end;
        unsigned long value = strtoul(text, &end, 10);

        if (end == text || *end != '\0' || value == 0 || value > 1000000)
                return false;
        *ret_value = (unsigned) value;
        return true;
}

static bool parse_cpus(const char *text, int cpus[2]) {
        int end = 0;

        return sscanf(text, "%d,%d%n", &cpus[0], &cpus[1], &end) == 2 && text[end] == '\0' && cpus[0] >= 0 &&
                cpus[1] >= 0 && cpus[0] < CPU_SETSIZE && cpus[1] < CPU_SETSIZE && cpus[0] != cpus[1];
}

static void options_be_quick(struct bench_options *options) {
        options->rounds = 10;
        options->block = 20;
        options->warm_up = 2;
        options->load_rounds = 1;
        options->load_msec = 50;
        options->load_bytes = UINT64_C(256) << 20;
}

/* One option; false if its argument is none */
static bool option_take(struct bench_options *options, int option, const char *argument) {
        unsigned seconds;

        switch (option) {
        case 'd':
                options->daemon_path = argument;
                return true;
        case 'j':
                options->json_path = argument;
                return true;
        case 'r':
                return parse_unsigned(argument, &options->rounds);
        case 'q':
                options_be_quick(options);
                return true;
        case 'o':
                options->only = argument;
                return true;
        case 'a':
                options->at = argument;
                return strcmp(argument, "s") == 0 || strcmp(argument, "x") == 0;
        case 'c':
                return parse_cpus(argument, options->cpus);
        case 's':
                if (!parse_unsigned(argument, &seconds))
                        return false;
                options->seconds_max = seconds;
                return true;
        default:
                return false;
        }
}

static const struct option long_options[] = {
        { "daemon", required_argument, NULL, 'd' },
        { "json", required_argument, NULL, 'j' },
        { "rounds", required_argument, NULL, 'r' },
        { "quick", no_argument, NULL, 'q' },
        { "only", required_argument, NULL, 'o' },
        { "at", required_argument, NULL, 'a' },
        { "cpus", required_argument, NULL, 'c' },
        { "seconds", required_argument, NULL, 's' },
        { "list", no_argument, NULL, 'l' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
};

/* Negative: go on; else the exit status */
static int options_parse(struct bench_options *options, int argc, char **argv) {
        int option;

        while ((option = getopt_long(argc, argv, "h", long_options, NULL)) >= 0) {
                if (option == 'h' || option == 'l') {
                        if (option == 'l')
                                list_rows();
                        else
                                fputs(usage_text, stdout);
                        return 0;
                }
                if (option == '?' || !option_take(options, option, optarg)) {
                        if (option != '?')
                                fprintf(stderr, "bench: bad argument: %s\n", optarg);
                        fputs(usage_text, stderr);
                        return 2;
                }
        }
        if (optind < argc) {
                fputs(usage_text, stderr);
                return 2;
        }
        return -1;
}

/* An environment variable that is set to something */
static const char *environment(const char *name) {
        const char *value = getenv(name);

        return value && value[0] != '\0' ? value : NULL;
}

static int choose_cpus(int cpus[2]) {
        cpu_set_t allowed;
        int found = 0;

        if (cpus[0] >= 0)
                return 0;
        if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
                return negative_errno();
        for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
                if (CPU_ISSET(cpu, &allowed))
                        cpus[found++] = cpu;
        return found > 0 ? 0 : -ENODEV;
}

/* --- the names that a run uses --- */

/* Two keys that nobody has */
static int choose_keys(key_t keys[OBJECTS]) {
        key_t key = (key_t) (0x53480000 ^ (unsigned) getpid());

        for (size_t i = 0; i < OBJECTS; key++) {
                if (shmget(key, 0, 0) >= 0 || errno == EACCES)
                        continue;
                if (errno != ENOENT)
                        return 0; /* no SysV here: its rows will say so */
                keys[i++] = key;
        }
        return 0;
}

static int bench_prepare(struct bench *bench) {
        int r;

        r = choose_cpus(bench->options.cpus);
        if (r < 0)
                return r;
        snprintf(bench->directory, sizeof(bench->directory), "/tmp/shmd-bench.XXXXXX");
        if (!mkdtemp(bench->directory))
                return negative_errno();
        for (size_t i = 0; i < OBJECTS; i++)
                snprintf(bench->shm_names[i], sizeof(bench->shm_names[i]), "/%s.%zu",
                         strrchr(bench->directory, '/') + 1, i);
        return choose_keys(bench->sysv_keys);
}

static int remove_entry(const char *path, const struct stat *stat, int type, struct FTW *walk) {
        (void) stat;
        (void) type;
        (void) walk;
        return remove(path);
}

/* Only if this run made it: another program may have taken the key meanwhile. */
static void remove_sysv(key_t key, pid_t creator) {
        struct shmid_ds status;
        int id = key != 0 ? shmget(key, 0, 0) : -1;

        if (id >= 0 && shmctl(id, IPC_STAT, &status) == 0 && status.shm_cpid == creator)
                (void) shmctl(id, IPC_RMID, NULL);
}

static void bench_clean_up(struct bench *bench, pid_t measurer) {
        for (size_t i = 0; i < SERVER_KINDS; i++)
                server_stop(&bench->servers[i]);
        for (size_t i = 0; i < OBJECTS; i++) {
                (void) shm_unlink(bench->shm_names[i]);
                remove_sysv(bench->sysv_keys[i], measurer);
        }
        (void) nftw(bench->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- the child that measures --- */

static bool has_failed_row(const struct measurement *measurement) {
        for (size_t i = 0; i < measurement->series_count; i++)
                if (measurement->series[i].outcome == OUTCOME_FAILED)
                        return true;
        return false;
}

static int report(const struct bench *bench, const struct measurement *measurement) {
        const char *path = bench->options.json_path, *sanitizers = environment("SHMD_TEST_SANITIZERS");
        int r;

        report_table(measurement);
        if (sanitizers && strcmp(sanitizers, "no") != 0)
                printf("built with sanitizers: these figures say nothing about speed\n");
        r = path ? report_json(measurement, &bench->options, path) : 0;
        if (r < 0)
                fprintf(stderr, "bench: cannot write %s: %s\n", path, strerror(-r));
        return r;
}

/* The exit status */
static int measure_and_report(struct bench *bench) {
        struct measurement measurement;
        bool failed;
        int r;

        (void) setenv("SHMD_SOCKET", bench->servers[SERVER_DAEMON].socket_path, 1);
        (void) setenv("SHMD_AUTOSTART", "0", 1);
        r = measurement_run(bench, &measurement);
        if (r < 0) {
                fprintf(stderr, "bench: cannot measure: %s\n", strerror(-r));
                return 1;
        }
        failed = has_failed_row(&measurement);
        r = report(bench, &measurement);
        measurement_done(&measurement);
        return failed || r < 0 ? 1 : 0;
}

/* --- the supervisor --- */

/* From now on signals wait in signal_fd. */
static int catch_signals(struct bench *bench) {
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return negative_errno();
        bench->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return bench->signal_fd < 0 ? negative_errno() : 0;
}

/* The signal that asked to stop, 0 if none has */
static int caught_signal(const struct bench *bench) {
        struct signalfd_siginfo info;

        return read(bench->signal_fd, &info, sizeof(info)) == sizeof(info) ? (int) info.ssi_signo : 0;
}

static void die_of(int signal_number) {
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, signal_number);
        (void) signal(signal_number, SIG_DFL);
        (void) raise(signal_number);
        (void) sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/*
 * Waits for the end of the child that measures, and ends it when a signal comes or a server hangs. Its exit status, or
 * the negative signal.
 */
static int wait_for(const struct bench *bench, pid_t pid) {
        _cleanup_close_ int pid_fd = pidfd_open(pid, 0);
        struct pollfd polled[] = {
                { .fd = pid_fd, .events = POLLIN },
                { .fd = bench->signal_fd, .events = POLLIN },
        };
        int status, n, signal_number = 0;

        n = poll(polled, ELEMENTSOF(polled), (int) (bench->options.seconds_max * 1.5 + GRACE_SECONDS) * 1000);
        if (n == 0)
                fprintf(stderr, "bench: something hangs: no end after %d seconds more than allowed\n", GRACE_SECONDS);
        if (polled[1].revents)
                signal_number = caught_signal(bench);
        if (!polled[0].revents)
                (void) kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (signal_number > 0)
                return -signal_number;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* Exit status, or negative: the signal to die of */
static int supervise(struct bench *bench) {
        pid_t supervisor = getpid(), pid;
        int r;

        server_start_broker(bench);
        server_start_daemon(bench, SERVER_DAEMON);
        server_start_daemon(bench, SERVER_FEW);
        server_start_daemon(bench, SERVER_CROWDED);
        server_start_daemon(bench, SERVER_KEPT);
        fflush(NULL);
        pid = fork();
        if (pid == 0) {
                child_enter(supervisor);
                exit(measure_and_report(bench));
        }
        if (pid < 0)
                fprintf(stderr, "bench: fork: %s\n", strerror(errno));
        r = pid < 0 ? 1 : wait_for(bench, pid);
        bench_clean_up(bench, pid);
        return r;
}

int main(int argc, char **argv) {
        struct bench bench = {
                .options = {
                        .rounds = 200,
                        .block = 50,
                        .warm_up = 5,
                        .load_rounds = 3,
                        .load_msec = 200,
                        .load_bytes = UINT64_C(4) << 30,
                        .seconds_max = 50,
                        .json_path = environment("BENCH_JSON"),
                        .daemon_path = environment("SHMD_TEST_DAEMON"),
                        .cpus = { -1, -1 },
                },
        };
        int r;

        r = options_parse(&bench.options, argc, argv);
        if (r >= 0)
                return r;
        r = catch_signals(&bench);
        if (r == 0)
                r = bench_prepare(&bench);
        if (r < 0) {
                fprintf(stderr, "bench: %s\n", strerror(-r));
                return 1;
        }
        r = supervise(&bench);
        if (r < 0)
                die_of(-r);
        return r < 0 ? 1 : r;
}
