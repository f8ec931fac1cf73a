/* SPDX-License-Identifier: MIT */
#include "load.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "crowd.h"
#include "shmd.h"

/* Memory that is not free for the load stays free: it is a benchmark, not a test of the machine's end. */
#define MEMORY_SHARE 2u
#define LEAST_BYTES (UINT64_C(64) << 20)

/* How often the slow watcher reads */
#define WATCHER_PAUSE_NSEC 50000000u

/* So many connections with so many watches each, which all match */
#define WATCHERS 50u
#define WATCHES 10u

/* After so long a load that does not end is killed. */
#define STOP_MSEC 5000
#define QUIET_MSEC 3000

/* In the process of the load */
struct load_context {
        const struct bench *bench;
        struct shmd *connection;     /* to the crowded daemon */
        struct shmd *other;          /* another, of the load's own */
        struct shmd *watchers[WATCHERS];
        struct shmd_segment *segment;
        int fd;
        uint64_t next_nsec;          /* of the slow watcher */
        unsigned deaths, created;
        char note[128];
        char trouble[256];
};

struct load {
        bool connects;
        int (*prepare)(struct load_context *context); /* before the block */
        int (*step)(struct load_context *context);    /* again and again during it; 1: that was all */
};

struct load_report {
        int result;
        char text[256];
};

/* Between begin() and end() */
struct load_process {
        pid_t pid;
        int channel_fd;
};

static int load_fail(struct load_context *context, struct shmd *connection, const char *what, int error) {
        snprintf(context->trouble, sizeof(context->trouble), "load: %s: %s%s%s", what, strerror(-error),
                 connection ? ": " : "", connection ? shmd_error_message(connection) : "");
        return error;
}

static uint64_t now_nsec(void) {
        struct timespec time;

        clock_gettime(CLOCK_MONOTONIC, &time);
        return (uint64_t) time.tv_sec * 1000000000u + (uint64_t) time.tv_nsec;
}

/* --- nothing, CPU time --- */

static int nothing_step(struct load_context *context) {
        (void) context;
        return 1;
}

static int spin_step(struct load_context *context) {
        uint64_t until = now_nsec() + 1000000;

        (void) context;
        while (now_nsec() < until)
                ;
        return 0;
}

const struct load load_nothing = { .step = nothing_step };
const struct load load_spin = { .step = spin_step };

/* --- freeing memory --- */

static uint64_t available_bytes(void) {
        FILE *file = fopen("/proc/meminfo", "re");
        unsigned long long kilobytes = 0;
        char line[128];

        while (file && fgets(line, sizeof(line), file))
                if (sscanf(line, "MemAvailable: %llu", &kilobytes) == 1)
                        break;
        if (file)
                fclose(file);
        return (uint64_t) kilobytes * 1024;
}

static uint64_t bytes_to_free(const struct load_context *context) {
        uint64_t bytes = context->bench->options.load_bytes;

        while (bytes > LEAST_BYTES && bytes > available_bytes() / MEMORY_SHARE)
                bytes /= 2;
        return bytes;
}

static void note_bytes(struct load_context *context, uint64_t bytes) {
        snprintf(context->note, sizeof(context->note), "%llu MiB%s", (unsigned long long) (bytes >> 20),
                 bytes < context->bench->options.load_bytes ? ", as there is no more memory" : "");
}

static int free_own_prepare(struct load_context *context) {
        uint64_t bytes = bytes_to_free(context);

        context->fd = memfd_create("bench-load", MFD_CLOEXEC);
        if (context->fd < 0 || fallocate(context->fd, 0, 0, (off_t) bytes) < 0) {
                (void) load_fail(context, NULL, "memfd_create or fallocate", negative_errno());
                return 1;
        }
        note_bytes(context, bytes);
        return 0;
}

static int free_own_step(struct load_context *context) {
        context->fd = close_fd(context->fd);
        return 1;
}

/* Memory may be limited in more ways than this can know: then with less. */
static int free_prepare(struct load_context *context) {
        const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        uint64_t bytes = bytes_to_free(context);
        int r;

        do
                r = shmd_create(context->connection, "load/large", bytes, SHMD_EXCLUSIVE | SHMD_PREALLOCATE, &options,
                                &context->segment);
        while ((r == -ENOMEM || r == -EDQUOT) && (bytes /= 2) >= LEAST_BYTES);
        if (r < 0) {
                (void) load_fail(context, context->connection, "shmd_create", r);
                return r == -ENOMEM || r == -EDQUOT ? 1 : r;
        }
        note_bytes(context, bytes);
        return 0;
}

static int free_step(struct load_context *context) {
        context->segment = shmd_close(context->segment);
        return 1;
}

const struct load load_free_own = { .prepare = free_own_prepare, .step = free_own_step };
const struct load load_free = { .connects = true, .prepare = free_prepare, .step = free_step };

/* --- listing --- */

static int count_segment(const struct shmd_stat *stat, void *userdata) {
        (void) stat;
        ++*(unsigned *) userdata;
        return 0;
}

static int list_step(struct load_context *context) {
        unsigned count = 0;
        int r;

        r = shmd_list(context->connection, NULL, 0, count_segment, &count);
        if (r < 0)
                return load_fail(context, context->connection, "shmd_list", r);
        snprintf(context->note, sizeof(context->note), "%u names", count);
        return 0;
}

const struct load load_list = { .connects = true, .prepare = list_step, .step = list_step };

/* --- clients that die --- */

static int take_holds(const struct bench *bench) {
        struct shmd *connection;
        int r;

        r = shmd_connect(bench->servers[SERVER_CROWDED].socket_path, &connection);
        return r < 0 ? r : crowd_open(connection, 0, bench->crowds[SERVER_CROWDED].segments);
}

/* As many open files, without any daemon */
static int take_files(const struct bench *bench) {
        _cleanup_close_ int fd = memfd_create("bench-load", MFD_CLOEXEC);
        char path[32];

        if (fd < 0)
                return negative_errno();
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        for (unsigned i = 0; i < bench->crowds[SERVER_CROWDED].segments; i++)
                if (open(path, O_RDWR | O_CLOEXEC) < 0)
                        return negative_errno();
        return 0;
}

/* Takes what it can, says so, and waits for its end. */
static void be_victim(const struct bench *bench, int channel_fd, int (*take)(const struct bench *bench)) {
        int r;

        raise_descriptor_limit();
        r = take(bench);
        (void) send(channel_fd, &r, sizeof(r), MSG_NOSIGNAL);
        for (;;)
                pause();
}

static int kill_one(struct load_context *context, int (*take)(const struct bench *bench)) {
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        pid_t parent = getpid(), pid;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return negative_errno();
        ours = pair[0];
        theirs = pair[1];
        pid = fork();
        if (pid < 0)
                return negative_errno();
        if (pid == 0)
                be_victim(context->bench, child_enter_with(parent, theirs), take);
        theirs = close_fd(theirs);
        if (recv(ours, &r, sizeof(r), 0) != sizeof(r))
                r = -ECHILD;
        (void) kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        snprintf(context->note, sizeof(context->note), "%u deaths in the last block", ++context->deaths);
        return r < 0 ? load_fail(context, NULL, "the process that is to die", r) : 0;
}

static int kill_own_step(struct load_context *context) {
        return kill_one(context, take_files);
}

static int kill_step(struct load_context *context) {
        return kill_one(context, take_holds);
}

const struct load load_kill_own = { .step = kill_own_step };
const struct load load_kill = { .step = kill_step };

/* --- looking for mappers --- */

static int ignore_mapper(const struct shmd_mapper *mapper, void *userdata) {
        (void) mapper;
        (void) userdata;
        return 0;
}

static int scan_step(struct load_context *context) {
        char name[CROWD_NAME_SIZE];
        struct shmd_stat stat;
        int r;

        crowd_name(name, 0);
        r = shmd_stat(context->connection, name, &stat);
        if (r < 0)
                return load_fail(context, context->connection, "shmd_stat", r);
        r = shmd_mappers(stat.device, stat.inode, ignore_mapper, NULL, NULL);
        return r < 0 ? load_fail(context, NULL, "shmd_mappers", r) : 0;
}

const struct load load_scan = { .connects = true, .step = scan_step };

/* --- many at once --- */

#define MANY 253u

static int create_some(struct load_context *context, unsigned count) {
        static const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        struct shmd_create_item items[MANY];
        struct shmd_segment *segments[MANY];
        char names[MANY][CROWD_NAME_SIZE];
        int results[MANY], r;

        for (unsigned i = 0; i < count; i++) {
                snprintf(names[i], sizeof(names[i]), "load/%u", context->created++);
                items[i] = (struct shmd_create_item) { names[i], SEGMENT_SIZE, &options };
        }
        r = shmd_create_many(context->connection, items, count, 0, segments, results);
        if (r < 0)
                return load_fail(context, context->connection, "shmd_create_many", r);
        shmd_close_many(segments, count);
        return 0;
}

static int create_many_step(struct load_context *context) {
        return create_some(context, MANY);
}

static int open_many_step(struct load_context *context) {
        unsigned count = MIN(MANY, context->bench->crowds[SERVER_CROWDED].segments);
        struct shmd_segment *segments[MANY];
        char names[MANY][CROWD_NAME_SIZE];
        const char *pointers[MANY];
        int results[MANY], r;

        for (unsigned i = 0; i < count; i++) {
                crowd_name(names[i], i);
                pointers[i] = names[i];
        }
        r = shmd_open_many(context->connection, pointers, count, SHMD_READ_WRITE, segments, results);
        if (r < 0)
                return load_fail(context, context->connection, "shmd_open_many", r);
        shmd_close_many(segments, count);
        return 0;
}

const struct load load_create_many = { .connects = true, .step = create_many_step };
const struct load load_open_many = { .connects = true, .step = open_many_step };

/* --- a watcher that is slow --- */

static void ignore_event(struct shmd *connection, const struct shmd_event *event, void *userdata) {
        (void) connection;
        (void) event;
        (void) userdata;
}

static int watch_prepare(struct load_context *context) {
        uint64_t watch;
        int r;

        r = shmd_connect(context->bench->servers[SERVER_CROWDED].socket_path, &context->other);
        if (r < 0)
                return load_fail(context, NULL, "shmd_connect", r);
        r = shmd_watch(context->other, NULL, 0, ignore_event, NULL, &watch);
        return r < 0 ? load_fail(context, context->other, "shmd_watch", r) : 0;
}

static int watch_step(struct load_context *context) {
        int r;

        if (now_nsec() >= context->next_nsec) {
                r = shmd_dispatch(context->other);
                if (r < 0)
                        return load_fail(context, context->other, "shmd_dispatch", r);
                context->next_nsec = now_nsec() + WATCHER_PAUSE_NSEC;
        }
        return create_some(context, 16);
}

const struct load load_watch = { .connects = true, .prepare = watch_prepare, .step = watch_step };

/* --- much to tell to many --- */

#define PUBLISHED 250u

static int publish_prepare(struct load_context *context) {
        for (unsigned i = 0; i < WATCHERS; i++) {
                int r = shmd_connect(context->bench->servers[SERVER_CROWDED].socket_path, &context->watchers[i]);

                for (unsigned j = 0; r == 0 && j < WATCHES; j++)
                        r = shmd_watch(context->watchers[i], "load/", 0, ignore_event, NULL, NULL);
                if (r < 0)
                        return load_fail(context, context->watchers[i], "shmd_connect or shmd_watch", r);
        }
        return 0;
}

static int read_events(struct load_context *context) {
        for (unsigned i = 0; i < WATCHERS; i++) {
                int r = shmd_dispatch(context->watchers[i]);

                if (r < 0)
                        return load_fail(context, context->watchers[i], "shmd_dispatch", r);
        }
        return 0;
}

static int publish_step(struct load_context *context) {
        static const struct shmd_create_options options = { .lifetime = SHMD_LIFETIME_HOLDERS };
        struct shmd_create_item items[PUBLISHED];
        struct shmd_segment *segments[PUBLISHED];
        char names[PUBLISHED][CROWD_NAME_SIZE];
        int results[PUBLISHED], r;

        for (unsigned i = 0; i < PUBLISHED; i++) {
                snprintf(names[i], sizeof(names[i]), "load/%u", context->created++);
                items[i] = (struct shmd_create_item) { names[i], SEGMENT_SIZE, &options };
        }
        r = shmd_create_many(context->connection, items, PUBLISHED, SHMD_UNPUBLISHED, segments, results);
        if (r == 0)
                r = shmd_publish_many(segments, PUBLISHED, 0, NULL);
        if (r < 0)
                return load_fail(context, context->connection, "shmd_create_many or shmd_publish_many", r);
        shmd_close_many(segments, PUBLISHED);
        snprintf(context->note, sizeof(context->note), "%u names published in the last block", context->created);
        return read_events(context);
}

const struct load load_publish = { .connects = true, .prepare = publish_prepare, .step = publish_step };

/* --- the process --- */

static bool is_to_stop(int channel_fd) {
        struct pollfd polled = { .fd = channel_fd, .events = POLLIN };

        return poll(&polled, 1, 0) != 0;
}

static void say(int channel_fd, int result, const char *text) {
        struct load_report report = { .result = result };

        snprintf(report.text, sizeof(report.text), "%s", text);
        (void) send(channel_fd, &report, sizeof(report), MSG_NOSIGNAL);
}

static int load_prepare(const struct load *load, struct load_context *context, int cpu) {
        int r = pin_process(0, cpu);

        if (r == 0 && load->connects)
                r = shmd_connect(context->bench->servers[SERVER_CROWDED].socket_path, &context->connection);
        if (r < 0)
                return load_fail(context, NULL, "placing it or connecting", r);
        return load->prepare ? load->prepare(context) : 0;
}

/* Says that it is going, goes on until it is told to stop, says how it went. */
static void load_main(const struct series *series, int channel_fd) {
        struct load_context context = { .bench = series->bench, .fd = -EBADF };
        const struct load *load = series->row->load;
        char byte;
        int r;

        r = load_prepare(load, &context, series_load_cpu(series));
        say(channel_fd, r, r == 0 ? context.note : context.trouble);
        while (r == 0 && !is_to_stop(channel_fd))
                r = load->step(&context);
        (void) recv(channel_fd, &byte, 1, 0);
        say(channel_fd, MIN(r, 0), r < 0 ? context.trouble : context.note);
        _exit(0);
}

/* --- in the process that measures --- */

static int receive_report(struct series *series, int channel_fd, int msec) {
        struct pollfd polled = { .fd = channel_fd, .events = POLLIN };
        struct load_report report = { 0 };

        if (poll(&polled, 1, msec) <= 0 || recv(channel_fd, &report, sizeof(report), 0) != sizeof(report))
                return series_refuse(series, -ECHILD, "load: it ended or hangs");
        if (report.result != 0)
                return series_refuse(series, report.result, "%s", report.text);
        snprintf(series->note, sizeof(series->note), "%s", report.text);
        return 0;
}

int load_begin(struct series *series) {
        struct load_process *process = calloc(1, sizeof(*process));
        pid_t parent = getpid();
        int pair[2];

        if (!process)
                return -ENOMEM;
        series->load_state = process;
        *process = (struct load_process) { .channel_fd = -EBADF };
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return negative_errno();
        process->channel_fd = pair[0];
        fflush(NULL);
        process->pid = fork();
        if (process->pid == 0)
                load_main(series, child_enter_with(parent, pair[1]));
        close_fd(pair[1]);
        if (process->pid < 0)
                return negative_errno();
        return receive_report(series, process->channel_fd, -1);
}

static void sleep_msec(long msec) {
        const struct timespec time = { .tv_nsec = msec * 1000000 };

        (void) nanosleep(&time, NULL);
}

/* Until the server has done what the load has left to it */
static void wait_for_quiet(const struct server *server) {
        uint64_t until = now_nsec() + QUIET_MSEC * UINT64_C(1000000), before, after = server_cpu_nsec(server);

        do {
                before = after;
                sleep_msec(5);
                after = server_cpu_nsec(server);
        } while (after - before > 100000 && now_nsec() < until);
}

static void process_stop(struct series *series, const struct load_process *process) {
        _cleanup_close_ int pid_fd = pidfd_open(process->pid, 0);
        struct pollfd polled = { .fd = pid_fd, .events = POLLIN };

        /* What went wrong has been told already, or is told now. */
        if (send(process->channel_fd, "", 1, MSG_NOSIGNAL) < 0 || receive_report(series, process->channel_fd, STOP_MSEC) < 0)
                series->outcome = series->outcome == OUTCOME_MEASURED ? OUTCOME_FAILED : series->outcome;
        if (poll(&polled, 1, STOP_MSEC) <= 0)
                (void) kill(process->pid, SIGKILL);
        while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR)
                ;
}

void load_end(struct series *series) {
        struct load_process *process = TAKE_PTR(series->load_state);

        if (!process)
                return;
        if (process->pid > 0)
                process_stop(series, process);
        close_fd(process->channel_fd);
        free(process);
        wait_for_quiet(series_server(series));
}
