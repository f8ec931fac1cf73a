/* SPDX-License-Identifier: MIT */
/* What was measured, as a table for people and as JSON for programs. Times in microseconds. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench.h"

/* design.md and the project's issues: information, never a reason to fail. */
static const struct aim {
        const char *id;
        bool same; /* against the broker that makes the same system calls, else the bare one */
        double limit;
} aims[] = {
        { "shmd-open", false, 1.25 },
        { "shmd-create", false, 1.25 },
        { "shmd-open", true, 1.15 },
};

struct summary {
        double min, p50, p99, mean, server;
};

/* Of sorted samples, the nearest rank */
static double percentile(const struct series *series, unsigned percent) {
        size_t rank = (series->samples_count * percent + 99) / 100;

        return series->samples[rank > 0 ? rank - 1 : 0] / 1e3;
}

static bool series_is_measured(const struct series *series) {
        return series->outcome == OUTCOME_MEASURED && series->samples_count > 0;
}

static struct summary series_summarize(const struct series *series) {
        double count = (double) series->samples_count, sum = 0;

        for (size_t i = 0; i < series->samples_count; i++)
                sum += series->samples[i];
        return (struct summary) {
                .min = series->samples[0] / 1e3,
                .p50 = percentile(series, 50),
                .p99 = percentile(series, 99),
                .mean = sum / count / 1e3,
                .server = (double) series->server_cpu_nsec / count / series->row->segments / 1e3,
        };
}

static const struct series *find_series(const struct measurement *measurement, const char *id,
                                        enum placement placement) {
        for (size_t i = 0; id && i < measurement->series_count; i++) {
                const struct series *series = &measurement->series[i];

                if (strcmp(series->row->id, id) == 0 && series->placement == placement)
                        return series_is_measured(series) ? series : NULL;
        }
        return NULL;
}

static int compare_ratios(const void *a, const void *b) {
        double x = *(const double *) a, y = *(const double *) b;

        return (x > y) - (x < y);
}

/*
 * How many times another row: the median of what the rounds say, in each of which both were measured within
 * milliseconds. A machine that is slower for some seconds changes it less than it does the medians. 0 if there
 * is nothing to compare.
 */
static double ratio(const struct measurement *measurement, const struct series *series, const char *id,
                    enum placement placement) {
        const struct series *other = find_series(measurement, id, placement);
        _cleanup_free_ double *ratios = calloc(MAX(measurement->rounds, 1u), sizeof(*ratios));
        unsigned count = 0;

        if (!other || !ratios)
                return 0;
        for (unsigned round = 0; round < measurement->rounds; round++)
                if (other->medians[round] > 0)
                        ratios[count++] = (double) series->medians[round] / other->medians[round];
        qsort(ratios, count, sizeof(*ratios), compare_ratios);
        return count > 0 ? ratios[count / 2] : 0;
}

static double ratio_raw(const struct measurement *measurement, const struct series *series) {
        return ratio(measurement, series, series->row->raw, PLACEMENT_NONE);
}

static double ratio_bare(const struct measurement *measurement, const struct series *series) {
        return ratio(measurement, series, series->row->bare, series->placement);
}

static double ratio_same(const struct measurement *measurement, const struct series *series) {
        return ratio(measurement, series, series->row->same, series->placement);
}

/* --- the table --- */

static void print_ratio(double value) {
        if (value > 0)
                printf(" %7.2f", value);
        else
                printf(" %7s", "-");
}

static void print_measured(const struct measurement *measurement, const struct series *series) {
        struct summary summary = series_summarize(series);

        printf(" %8.2f %8.2f", summary.p50, summary.p99);
        if (series->row->server != SERVER_NONE)
                printf(" %8.2f", summary.server);
        else
                printf(" %8s", "-");
        print_ratio(ratio_raw(measurement, series));
        print_ratio(ratio_bare(measurement, series));
        print_ratio(ratio_same(measurement, series));
        putchar('\n');
}

static void print_series(const struct measurement *measurement, const struct series *series) {
        printf("%-20s %-2s", series->row->id, placement_name(series->placement));
        if (series_is_measured(series))
                print_measured(measurement, series);
        else
                printf("  %s: %s\n", series->outcome == OUTCOME_FAILED ? "failed" : "skipped", series->reason);
}

/* All placements of a row one below the other */
static void print_rows(const struct measurement *measurement) {
        for (size_t row = 0; row < bench_row_count; row++)
                for (size_t i = 0; i < measurement->series_count; i++)
                        if (measurement->series[i].row == &bench_rows[row])
                                print_series(measurement, &measurement->series[i]);
}

static void print_what(void) {
        for (size_t row = 0; row < bench_row_count; row++)
                printf("  %-20s %s\n", bench_rows[row].id, bench_rows[row].what);
}

static double aim_ratio(const struct measurement *measurement, const struct aim *aim, enum placement placement) {
        const struct series *series = find_series(measurement, aim->id, placement);

        if (!series)
                return 0;
        return aim->same ? ratio_same(measurement, series) : ratio_bare(measurement, series);
}

static void print_aim(const struct measurement *measurement, const struct aim *aim, enum placement placement) {
        double value = aim_ratio(measurement, aim, placement);

        printf("aim: %s %s within %.2f times %s: ", aim->id, placement_name(placement), aim->limit,
               aim->same ? "a broker that makes the same calls" : "the bare broker");
        if (value > 0)
                printf("%.2f, %s\n", value, value <= aim->limit ? "met" : "not met");
        else
                printf("not measured\n");
}

static void print_aims(const struct measurement *measurement) {
        for (size_t i = 0; i < ELEMENTSOF(aims); i++) {
                print_aim(measurement, &aims[i], PLACEMENT_SAME);
                print_aim(measurement, &aims[i], PLACEMENT_CROSS);
        }
}

void report_table(const struct measurement *measurement) {
        printf("%-20s %-2s %8s %8s %8s %7s %7s %7s\n", "", "", "p50", "p99", "server", "times", "times", "times");
        printf("%-20s %-2s %8s %8s %8s %7s %7s %7s\n", "row", "at", "us", "us", "CPU us", "raw", "bare", "same");
        print_rows(measurement);
        printf("\nat: client and server on the same core (s) or on two (x). server: CPU time of the server for each.\n"
               "times: against raw shm_open, the bare broker, a broker that makes the same system calls as shmd;\n"
               "the median of the rounds, and so not quite the ratio of two p50.\n");
        print_what();
        putchar('\n');
        print_aims(measurement);
        printf("%u rounds in %.1f s; reading the clock takes %u ns of each\n", measurement->rounds,
               measurement->seconds, measurement->clock_nsec);
}

/* --- JSON --- */

static void json_string(FILE *file, const char *text) {
        fputc('"', file);
        for (const unsigned char *c = (const unsigned char *) text; *c != '\0'; c++)
                if (*c < 0x20 || *c == 0x7f || *c == '"' || *c == '\\')
                        fprintf(file, "\\u%04x", *c);
                else
                        fputc(*c, file);
        fputc('"', file);
}

static void json_field(FILE *file, const char *key, const char *value) {
        fprintf(file, ", \"%s\": ", key);
        json_string(file, value);
}

static void json_ratio(FILE *file, const char *key, double value) {
        if (value > 0)
                fprintf(file, ", \"%s\": %.3f", key, value);
        else
                fprintf(file, ", \"%s\": null", key);
}

static void json_measured(FILE *file, const struct measurement *measurement, const struct series *series) {
        struct summary summary = series_summarize(series);

        fprintf(file, ", \"samples\": %zu, \"min_usec\": %.3f, \"mean_usec\": %.3f", series->samples_count, summary.min,
                summary.mean);
        fprintf(file, ", \"p50_usec\": %.3f, \"p99_usec\": %.3f", summary.p50, summary.p99);
        if (series->row->server != SERVER_NONE)
                fprintf(file, ", \"server_cpu_usec\": %.3f", summary.server);
        json_ratio(file, "times_raw", ratio_raw(measurement, series));
        json_ratio(file, "times_bare", ratio_bare(measurement, series));
        json_ratio(file, "times_same", ratio_same(measurement, series));
}

static void json_series(FILE *file, const struct measurement *measurement, const struct series *series) {
        fputs("{\"id\": ", file);
        json_string(file, series->row->id);
        json_field(file, "what", series->row->what);
        json_field(file, "placement", placement_name(series->placement));
        fprintf(file, ", \"segments\": %u", series->row->segments);
        if (series_is_measured(series))
                json_measured(file, measurement, series);
        else
                json_field(file, series->outcome == OUTCOME_FAILED ? "failed" : "skipped", series->reason);
        fputc('}', file);
}

static void json_aim(FILE *file, const struct measurement *measurement, const struct aim *aim,
                     enum placement placement) {
        double value = aim_ratio(measurement, aim, placement);

        fputs("{\"id\": ", file);
        json_string(file, aim->id);
        json_field(file, "placement", placement_name(placement));
        json_field(file, "against", aim->same ? "same" : "bare");
        fprintf(file, ", \"limit\": %.2f", aim->limit);
        json_ratio(file, "ratio", value);
        fprintf(file, ", \"met\": %s}", value <= 0 ? "null" : value <= aim->limit ? "true" : "false");
}

static void json_head(FILE *file, const struct measurement *measurement, const struct bench_options *options) {
        struct utsname name = { 0 };

        (void) uname(&name);
        fprintf(file, "{\"rounds\": %u, \"block\": %u, \"seconds\": %.3f, \"clock_nsec\": %u, \"cpus\": [%d, %d]",
                measurement->rounds, options->block, measurement->seconds, measurement->clock_nsec,
                options->cpus[0], options->cpus[1]);
        json_field(file, "kernel", name.release);
        json_field(file, "machine", name.machine);
}

static void json_document(FILE *file, const struct measurement *measurement, const struct bench_options *options) {
        json_head(file, measurement, options);
        fputs(",\n\"rows\": [", file);
        for (size_t i = 0; i < measurement->series_count; i++) {
                fputs(i > 0 ? ",\n  " : "\n  ", file);
                json_series(file, measurement, &measurement->series[i]);
        }
        fputs("\n],\n\"aims\": [", file);
        for (size_t i = 0; i < ELEMENTSOF(aims); i++) {
                fputs(i > 0 ? ",\n  " : "\n  ", file);
                json_aim(file, measurement, &aims[i], PLACEMENT_SAME);
                fputs(",\n  ", file);
                json_aim(file, measurement, &aims[i], PLACEMENT_CROSS);
        }
        fputs("\n]}\n", file);
}

int report_json(const struct measurement *measurement, const struct bench_options *options, const char *path) {
        FILE *file = fopen(path, "we");
        int r = 0;

        if (!file)
                return negative_errno();
        json_document(file, measurement, options);
        if (ferror(file))
                r = -EIO;
        if (fclose(file) != 0 && r == 0)
                r = negative_errno();
        return r;
}
