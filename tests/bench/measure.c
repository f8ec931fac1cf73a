/* SPDX-License-Identifier: MIT */
/*
 * Measuring: every series gets a short block in every round, so that whatever slows the machine
 * down for a while slows all of them down alike.
 *
 * A sample is the time from one reading of the clock to the next, with one run between: what a run
 * leaves to be done after it (a one-way release) is in the next sample, not lost.
 */
#include <fnmatch.h>
#include <sched.h>
#include <string.h>

#include "bench.h"

static uint64_t now_nsec(void) {
        struct timespec time;

        clock_gettime(CLOCK_MONOTONIC, &time);
        return (uint64_t) time.tv_sec * 1000000000u + (uint64_t) time.tv_nsec;
}

static uint32_t measure_clock(void) {
        const unsigned count = 1000;
        uint64_t begin = now_nsec();

        for (unsigned i = 1; i < count; i++)
                (void) now_nsec();
        return (uint32_t) ((now_nsec() - begin) / count);
}

static int pin_self(int cpu) {
        cpu_set_t cpus;

        CPU_ZERO(&cpus);
        CPU_SET(cpu, &cpus);
        return sched_setaffinity(0, sizeof(cpus), &cpus) < 0 ? negative_errno() : 0;
}

/* Gives the server the CPU that the series wants. The client's never changes. */
static int series_place(const struct series *series) {
        const int *cpus = series->bench->options.cpus;

        if (series->placement == PLACEMENT_NONE)
                return 0;
        return server_pin(series_server(series), cpus[series->placement == PLACEMENT_CROSS]);
}

static void series_fail(struct series *series, int error) {
        series->outcome = OUTCOME_FAILED;
        if (series->reason[0] == '\0')
                series_refuse(series, 0, "%s", strerror(-error));
}

static int series_setup(struct series *series) {
        const struct server *server = series_server(series);

        if (series->placement == PLACEMENT_CROSS && series->bench->options.cpus[1] < 0)
                return series_refuse(series, 1, "there is only one CPU to run on");
        if (series->row->server != SERVER_NONE && server->pid == 0)
                return series_refuse(series, server->missing ? 1 : -ECHILD, "%s", server->trouble);
        if (!series->row->setup)
                return 0;
        series->set_up = true;
        return series->row->setup(series);
}

static int series_begin(struct series *series) {
        const struct bench_options *options = &series->bench->options;
        int r;

        series->samples = calloc((size_t) options->rounds * options->block, sizeof(*series->samples));
        series->medians = calloc(options->rounds, sizeof(*series->medians));
        if (!series->samples || !series->medians)
                return -ENOMEM;
        r = series_setup(series);
        if (r > 0)
                series->outcome = OUTCOME_SKIPPED;
        else if (r < 0)
                series_fail(series, r);
        return 0;
}

static int compare_samples(const void *a, const void *b) {
        uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;

        return (x > y) - (x < y);
}

/* Sorting a block of the samples does no harm: they are all sorted in the end. */
static uint32_t median_of_last(const struct series *series, size_t count) {
        uint32_t *samples = series->samples + series->samples_count - count;

        qsort(samples, count, sizeof(*samples), compare_samples);
        return samples[count / 2];
}

static int run_untimed(struct series *series) {
        int r = 0;

        for (unsigned i = 0; r == 0 && i < series->bench->options.warm_up; i++)
                r = series->row->run(series);
        return r;
}

static int run_timed(struct series *series) {
        uint64_t last, now;
        int r;

        last = now_nsec();
        for (unsigned i = 0; i < series->bench->options.block; i++) {
                r = series->row->run(series);
                if (r < 0)
                        return r;
                now = now_nsec();
                series->samples[series->samples_count++] =
                        (uint32_t) MIN((now - last) / series->row->segments, UINT32_MAX);
                last = now;
        }
        return 0;
}

static void series_run_block(struct series *series, unsigned round) {
        const struct server *server = series_server(series);
        uint64_t cpu_begin;
        int r;

        if (series->outcome != OUTCOME_MEASURED)
                return;
        r = series_place(series);
        if (r == 0)
                r = run_untimed(series);
        if (r == 0) {
                cpu_begin = server_cpu_nsec(server);
                r = run_timed(series);
                series->server_cpu_nsec += server_cpu_nsec(server) - cpu_begin;
        }
        if (r == 0)
                series->medians[round] = median_of_last(series, series->bench->options.block);
        else
                series_fail(series, r);
}

static bool is_wanted(const struct bench *bench, const struct bench_row *row) {
        return !bench->options.only || fnmatch(bench->options.only, row->id, 0) == 0;
}

static void add_rows(struct bench *bench, struct measurement *measurement, enum placement placement) {
        for (size_t i = 0; i < bench_row_count; i++) {
                const struct bench_row *row = &bench_rows[i];

                if ((row->server == SERVER_NONE) != (placement == PLACEMENT_NONE) || !is_wanted(bench, row))
                        continue;
                measurement->series[measurement->series_count++] = (struct series) {
                        .row = row,
                        .bench = bench,
                        .placement = placement,
                };
        }
}

/* In one direction and the other in turn: no series always comes right after the same one. */
static void run_round(struct measurement *measurement, unsigned round) {
        size_t count = measurement->series_count;

        for (size_t i = 0; i < count; i++)
                series_run_block(&measurement->series[round % 2 == 0 ? i : count - 1 - i], round);
}

static void run_rounds(const struct bench_options *options, struct measurement *measurement) {
        uint64_t begin = now_nsec();

        while (measurement->rounds < options->rounds && measurement->seconds < options->seconds_max) {
                run_round(measurement, measurement->rounds++);
                measurement->seconds = (double) (now_nsec() - begin) / 1e9;
        }
}

static void sort_samples(struct measurement *measurement) {
        for (size_t i = 0; i < measurement->series_count; i++) {
                struct series *series = &measurement->series[i];

                qsort(series->samples, series->samples_count, sizeof(*series->samples), compare_samples);
        }
}

static int measurement_begin(struct bench *bench, struct measurement *measurement) {
        int r = 0;

        measurement->series = calloc(bench_row_count * 2, sizeof(*measurement->series));
        if (!measurement->series)
                return -ENOMEM;
        add_rows(bench, measurement, PLACEMENT_NONE);
        add_rows(bench, measurement, PLACEMENT_SAME);
        add_rows(bench, measurement, PLACEMENT_CROSS);
        for (size_t i = 0; r == 0 && i < measurement->series_count; i++)
                r = series_begin(&measurement->series[i]);
        return r;
}

int measurement_run(struct bench *bench, struct measurement *ret_measurement) {
        struct measurement measurement = { .clock_nsec = measure_clock() };
        int r;

        r = pin_self(bench->options.cpus[0]);
        if (r < 0)
                return r;
        r = measurement_begin(bench, &measurement);
        if (r < 0) {
                measurement_done(&measurement);
                return r;
        }
        run_rounds(&bench->options, &measurement);
        sort_samples(&measurement);
        *ret_measurement = measurement;
        return 0;
}

void measurement_done(struct measurement *measurement) {
        for (size_t i = 0; i < measurement->series_count; i++) {
                struct series *series = &measurement->series[i];

                if (series->set_up && series->row->teardown)
                        series->row->teardown(series);
                free(series->samples);
                free(series->medians);
        }
        free(measurement->series);
        measurement->series = NULL;
        measurement->series_count = 0;
}
