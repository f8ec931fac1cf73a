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

/* How often a client asks that stands for everybody else while a load goes on. */
#define LOAD_INTERVAL_NSEC 100000u
/* No more samples than that are kept of such a row; an open takes more than 4 us. */
#define LOAD_SAMPLES_A_MSEC 250u

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

int pin_process(pid_t pid, int cpu) {
        cpu_set_t cpus;

        CPU_ZERO(&cpus);
        CPU_SET(cpu, &cpus);
        return sched_setaffinity(pid, sizeof(cpus), &cpus) < 0 ? negative_errno() : 0;
}

/* Gives the server the CPU that the series wants. The client's never changes. */
static int series_place(const struct series *series) {
        int cpu = series_server_cpu(series);

        if (series->placement == PLACEMENT_NONE)
                return 0;
        return server_pin(series_server(series), cpu, series->row->load ? series_load_cpu(series) : cpu);
}

static void series_fail(struct series *series, int error) {
        series->outcome = OUTCOME_FAILED;
        if (series->reason[0] == '\0')
                series_refuse(series, 0, "%s", strerror(-error));
}

static int series_setup(struct series *series) {
        const struct server *server = series_server(series);

        if ((series->placement == PLACEMENT_CROSS || series->row->load) && series->bench->options.cpus[1] < 0)
                return series_refuse(series, 1, "there is only one CPU to run on");
        if (series->row->server != SERVER_NONE && server->pid == 0)
                return series_refuse(series, server->missing ? 1 : -ECHILD, "%s", server->trouble);
        if (!series->row->setup)
                return 0;
        series->set_up = true;
        return series->row->setup(series);
}

/* How many runs one block has, if no load goes on. */
static unsigned series_runs(const struct series *series) {
        const struct bench_options *options = &series->bench->options;

        return series->row->runs > 0 ? MIN(series->row->runs, options->block) : options->block;
}

static int series_begin(struct series *series) {
        const struct bench_options *options = &series->bench->options;
        int r;

        if (series->row->load)
                series->samples_max = (size_t) options->load_rounds * options->load_msec * LOAD_SAMPLES_A_MSEC;
        else
                series->samples_max = (size_t) options->rounds * series_runs(series);
        series->samples = calloc(series->samples_max, sizeof(*series->samples));
        series->medians = calloc(MAX(options->rounds, options->load_rounds), sizeof(*series->medians));
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

        for (unsigned i = 0; r == 0 && i < MIN(series->bench->options.warm_up, series_runs(series)); i++)
                r = series->row->run(series);
        return r;
}

static void add_sample(struct series *series, uint64_t nsec) {
        if (series->samples_count < series->samples_max)
                series->samples[series->samples_count++] = (uint32_t) MIN(nsec, UINT32_MAX);
}

static int run_timed(struct series *series) {
        uint64_t last, now;
        int r;

        last = now_nsec();
        for (unsigned i = 0; i < series_runs(series); i++) {
                r = series->row->run(series);
                if (r < 0)
                        return r;
                now = now_nsec();
                add_sample(series, (now - last) / series->row->segments);
                last = now;
        }
        return 0;
}

/*
 * One run that took long hides how many would have waited: a stall of half a second is one sample of thousands, though
 * for half a second nobody got anything. So a long one stands for all that would have begun during it, one each
 * LOAD_INTERVAL_NSEC, and have waited for what was left of it.
 */
static void add_samples(struct series *series, uint64_t nsec) {
        add_sample(series, nsec);
        for (; nsec > 2 * LOAD_INTERVAL_NSEC; nsec -= LOAD_INTERVAL_NSEC)
                add_sample(series, nsec - LOAD_INTERVAL_NSEC);
}

/* While the load goes on */
static int run_for_a_while(struct series *series) {
        uint64_t last = now_nsec(), until = last + series->bench->options.load_msec * UINT64_C(1000000), now;
        int r;

        do {
                r = series->row->run(series);
                if (r < 0)
                        return r;
                now = now_nsec();
                add_samples(series, now - last);
                last = now;
        } while (now < until);
        return 0;
}

static int run_block(struct series *series) {
        const struct bench_row *row = series->row;
        int r;

        if (!row->begin)
                return run_timed(series);
        r = row->begin(series);
        if (r == 0)
                r = run_for_a_while(series);
        row->end(series);
        return r;
}

static void series_run_block(struct series *series, unsigned round) {
        const struct server *server = series_server(series);
        size_t count = series->samples_count;
        uint64_t cpu_begin;
        int r;

        if (series->outcome != OUTCOME_MEASURED)
                return;
        r = series_place(series);
        if (r == 0)
                r = run_untimed(series);
        if (r == 0) {
                cpu_begin = server_cpu_nsec(server);
                r = run_block(series);
                series->server_cpu_nsec += server_cpu_nsec(server) - cpu_begin;
        }
        if (r > 0)
                series->outcome = OUTCOME_SKIPPED;
        else if (r < 0)
                series_fail(series, r);
        else
                series->medians[round] = median_of_last(series, series->samples_count - count);
}

static bool is_wanted(const struct bench *bench, const struct bench_row *row) {
        return !bench->options.only || fnmatch(bench->options.only, row->id, 0) == 0;
}

static void add_rows(struct bench *bench, struct measurement *measurement, enum placement placement) {
        if (placement != PLACEMENT_NONE && bench->options.at && strcmp(bench->options.at, placement_name(placement)) != 0)
                return;
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
static void run_round(struct measurement *measurement, bool load, unsigned round) {
        size_t count = measurement->series_count;

        for (size_t i = 0; i < count; i++) {
                struct series *series = &measurement->series[round % 2 == 0 ? i : count - 1 - i];

                if ((series->row->load != NULL) == load && (series->row->rounds == 0 || round < series->row->rounds))
                        series_run_block(series, round);
        }
}

static void run_rounds(struct measurement *measurement, bool load, unsigned rounds_max, double seconds_max,
                       unsigned *ret_rounds, double *ret_seconds) {
        uint64_t begin = now_nsec();
        double seconds = 0;
        unsigned rounds = 0;

        while (rounds < rounds_max && seconds < seconds_max) {
                run_round(measurement, load, rounds++);
                seconds = (double) (now_nsec() - begin) / 1e9;
        }
        *ret_rounds = rounds;
        *ret_seconds = seconds;
}

static void run_all_rounds(const struct bench_options *options, struct measurement *measurement) {
        run_rounds(measurement, false, options->rounds, options->seconds_max, &measurement->rounds, &measurement->seconds);
        run_rounds(measurement, true, options->load_rounds, options->seconds_max / 2, &measurement->load_rounds,
                   &measurement->load_seconds);
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

        r = pin_process(0, bench->options.cpus[0]);
        if (r < 0)
                return r;
        r = measurement_begin(bench, &measurement);
        if (r < 0) {
                measurement_done(&measurement);
                return r;
        }
        run_all_rounds(&bench->options, &measurement);
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
