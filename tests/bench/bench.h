/* SPDX-License-Identifier: MIT */
/*
 * The benchmark: what its parts share.
 *
 * A supervisor (bench.c) decides every name that a run uses, starts the servers, lets a child
 * measure, and afterwards removes what those names stand for, however the child ended. So the
 * code that measures needs no clean-up of its own when it is interrupted.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "util.h"

/* Every segment of the benchmark is one page. Bytes. */
#define SEGMENT_SIZE 4096u

/* What a row talks to. */
enum server_kind {
        SERVER_NONE,
        SERVER_BROKER, /* the bare broker of broker.c: the limit */
        SERVER_DAEMON, /* shmd */
        SERVER_FEW, /* another shmd, with ten segments and one client that holds them: crowd.h */
        SERVER_CROWDED, /* and one with ten thousand and a thousand */
        SERVER_KEPT, /* and one whose segments a service manager keeps */
        SERVER_KINDS,
};

struct server {
        pid_t pid; /* 0: not running */
        clockid_t clock; /* its CPU time */
        int cpu; /* where it runs now, -1: not pinned yet */
        int helper_cpu; /* where its other threads run */
        bool missing; /* there is nothing to start: its rows are skipped, not failed */
        char socket_path[96];
        char trouble[512]; /* why it is not running */
};

struct bench_options {
        unsigned rounds;
        unsigned block; /* runs of one row in one round */
        unsigned warm_up; /* runs before them that are not timed */
        unsigned load_rounds; /* of the rows that have a load */
        unsigned load_msec; /* how long one of their blocks lasts */
        uint64_t load_bytes; /* how much memory is freed in one go */
        double seconds_max; /* no new round begins after that; rounds with load have half of it again */
        const char *only; /* fnmatch(3) pattern of rows, NULL: all */
        const char *at; /* name of the placement that is wanted, NULL: all */
        const char *json_path; /* NULL: none */
        const char *daemon_path;
        int cpus[2]; /* client's, the other; -1: choose */
};

/* One segment that is always there, one that is made and removed again and again. */
enum { EXISTING, CREATED, OBJECTS };

/* What is there in a daemon before it is measured. */
struct crowd {
        bool tried;
        int error; /* 0 or negative errno value */
        int channel_fd; /* of the process that is the clients: as long as it is open they are there */
        unsigned segments, clients;
        char trouble[256];
};

struct bench {
        struct bench_options options;
        int signal_fd; /* of the supervisor: becomes readable when it is to stop */
        char directory[64]; /* temporary, with all files and sockets of this run */
        char shm_names[OBJECTS][48];
        key_t sysv_keys[OBJECTS];
        struct server servers[SERVER_KINDS];
        struct crowd crowds[SERVER_KINDS];
};

/*
 * Where client and server run. A load, and what threads a server has beside its event loop, are never on the CPU of
 * that loop: with PLACEMENT_SAME client and server share one and have it for themselves; with PLACEMENT_CROSS the
 * client shares its own with the load. So in both of them the server loses no time to others, and the first one leaves none
 * to the client while the server works for others, the second one while the load computes.
 */
enum placement {
        PLACEMENT_NONE, /* there is no server */
        PLACEMENT_SAME, /* on the same core */
        PLACEMENT_CROSS, /* on two */
};

struct series;
struct load;

/* One row of the benchmark: the table is in rows.c. Functions return 0, a negative errno value (failed), or
 * setup() also a positive one (skipped); they give the reason by series_refuse(). */
struct bench_row {
        const char *id;
        const char *what;
        enum server_kind server;
        unsigned segments; /* handled by one run: times are given for each */
        unsigned runs; /* in a block; 0: what the options say. Those of many segments take their time */
        unsigned rounds; /* no more than that, for what takes long; 0: as many as there are. Then there is nothing to compare with */
        /* The rows to compare with, by id, of the same placement; NULL: none */
        const char *raw; /* the kernel's own shm_open */
        const char *bare; /* the least that a broker can do */
        const char *same; /* a bare broker that makes the same system calls as shmd */
        const char *calm; /* the same with few segments and clients, or without the load */
        /*
         * What goes on during a block of this row, and then only. Such rows have rounds of their own, with blocks
         * that last options.load_msec.
         */
        const struct load *load;
        int (*begin)(struct series *series);
        void (*end)(struct series *series);
        int (*setup)(struct series *series);
        int (*run)(struct series *series);
        void (*teardown)(struct series *series);
};

extern const struct bench_row bench_rows[];
extern const size_t bench_row_count;

enum outcome {
        OUTCOME_MEASURED,
        OUTCOME_SKIPPED,
        OUTCOME_FAILED,
};

/* A row in one placement, and what was measured of it. */
struct series {
        const struct bench_row *row;
        struct bench *bench;
        enum placement placement;
        void *state; /* the row's own */
        void *load_state; /* between begin() and end() */
        bool set_up; /* setup() was called, whatever came of it: teardown() is due */
        enum outcome outcome;
        char reason[256];
        char note[256]; /* what is to be known about the figures */
        uint32_t *samples; /* nanoseconds for each segment; sorted in the end */
        size_t samples_count, samples_max;
        uint32_t *medians; /* nanoseconds, of each round */
        uint64_t server_cpu_nsec; /* of all samples together */
};

struct measurement {
        struct series *series;
        size_t series_count;
        unsigned rounds, load_rounds; /* done */
        double seconds, load_seconds;
        uint32_t clock_nsec; /* what reading the clock adds to each sample */
};

/* Says why a series can't go on; returns value, for the caller to return. */
int series_refuse(struct series *series, int value, const char *format, ...) _printf_(3, 4);

const char *placement_name(enum placement placement);
/* Where the event loop of a series's server runs, and where what goes on beside it */
int series_server_cpu(const struct series *series);
int series_load_cpu(const struct series *series);
struct server *series_server(const struct series *series);

/* --- measure.c --- */

/* Of a process: the caller's if pid is 0 */
int pin_process(pid_t pid, int cpu);

/* Runs all series, interleaved. Fails only for lack of memory; a series that fails says so itself. */
int measurement_run(struct bench *bench, struct measurement *ret_measurement);
void measurement_done(struct measurement *measurement);

/* --- report.c --- */

void report_table(const struct measurement *measurement);
int report_json(const struct measurement *measurement, const struct bench_options *options, const char *path);

/* --- server.c --- */

/* These do not fail: a server that can't be started says why in its trouble. */
void server_start_broker(struct bench *bench);
void server_start_daemon(struct bench *bench, enum server_kind kind);
void server_stop(struct server *server);

/* Lets a server run on that CPU alone, and what threads it has beside its main one on the other. */
int server_pin(struct server *server, int cpu, int helper_cpu);
uint64_t server_cpu_nsec(const struct server *server);

/* In a child of the supervisor: takes its normal signals back, and dies when the supervisor does. */
void child_enter(pid_t supervisor);
/* In a child of the process that measures: the same, and of all descriptors but the standard ones it keeps that one. */
int child_enter_with(pid_t parent, int fd);

/* --- broker.c --- */

/* Serves until it is killed. */
int broker_serve(int listen_fd) __attribute__((__warn_unused_result__));
