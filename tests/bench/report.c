/* SPDX-License-Identifier: MIT */
/* What was measured, as a table for people and as JSON for programs. Times in microseconds. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench.h"

/* What a row is compared with. */
enum against {
        AGAINST_RAW,
        AGAINST_BARE,
        AGAINST_SAME,
        AGAINST_CALM,
        AGAINST_MUTEX, /* the row's raw */
        AGAINST_EVENTFD,
        AGAINST_TIME, /* microseconds that 99 of 100 take at most */
};

static const char *const against_keys[] = { "raw", "bare", "same", "calm", "raw", "raw", "p99_usec" };
static const char *const against_words[] = {
        "shm_open, fstat, mmap",
        "the bare broker",
        "a broker that makes the same calls",
        "the same with 10 segments",
        "a plain robust mutex",
        "writing an eventfd",
};

/* design.md and the project's issues: information, never a reason to fail. */
static const struct aim {
        const char *id;
        enum against against;
        bool same_only; /* not said of two cores */
        double limit;
} aims[] = {
        { "shmd-open", AGAINST_BARE, false, 1.25 },
        { "shmd-create", AGAINST_BARE, false, 1.25 },
        { "shmd-open", AGAINST_SAME, false, 1.15 },
        { "shmd-open-many-64", AGAINST_RAW, true, 0.8 },
        { "shmd-open-crowd", AGAINST_CALM, false, 1.2 },
        { "shmd-any-crowd", AGAINST_CALM, false, 1.2 },
        { "shmd-create-crowd", AGAINST_CALM, false, 1.2 },
        { "sync-lock", AGAINST_MUTEX, false, 1.2 },
        { "sync-ring", AGAINST_EVENTFD, false, 1.2 },
        { "while-free", AGAINST_TIME, false, 1000 },
        { "while-list", AGAINST_TIME, false, 1000 },
        { "while-kill", AGAINST_TIME, false, 1000 },
        { "while-scan", AGAINST_TIME, false, 1000 },
        { "while-create", AGAINST_TIME, false, 1000 },
        { "while-open", AGAINST_TIME, false, 1000 },
        { "while-watch", AGAINST_TIME, false, 1000 },
        { "while-publish", AGAINST_TIME, false, 1000 },
};

struct summary {
        double min, p50, p99, p999, max, mean, server;
};

/* Of sorted samples, the nearest rank */
static double percentile(const struct series *series, unsigned permille) {
        size_t rank = (series->samples_count * permille + 999) / 1000;

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
                .p50 = percentile(series, 500),
                .p99 = percentile(series, 990),
                .p999 = percentile(series, 999),
                .max = percentile(series, 1000),
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

static double ratio_calm(const struct measurement *measurement, const struct series *series) {
        return ratio(measurement, series, series->row->calm, series->placement);
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
        print_ratio(ratio_calm(measurement, series));
        printf("%s%s\n", series->note[0] != '\0' ? "  " : "", series->note);
}

static void print_measured_load(const struct measurement *measurement, const struct series *series) {
        struct summary summary = series_summarize(series);

        printf(" %8.2f %8.2f %8.2f %8.2f", summary.p50, summary.p99, summary.p999, summary.max);
        print_ratio(ratio_bare(measurement, series));
        print_ratio(ratio_calm(measurement, series));
        printf("%s%s\n", series->note[0] != '\0' ? "  " : "", series->note);
}

static void print_series(const struct measurement *measurement, const struct series *series) {
        printf("%-20s %-2s", series->row->id, placement_name(series->placement));
        if (series_is_measured(series) && series->row->load)
                print_measured_load(measurement, series);
        else if (series_is_measured(series))
                print_measured(measurement, series);
        else
                printf("  %s: %s\n", series->outcome == OUTCOME_FAILED ? "failed" : "skipped", series->reason);
}

/* All placements of a row one below the other; gives how many there are. */
static size_t print_rows(const struct measurement *measurement, bool load) {
        size_t count = 0;

        for (size_t row = 0; row < bench_row_count; row++)
                for (size_t i = 0; i < measurement->series_count; i++)
                        if (measurement->series[i].row == &bench_rows[row] && (bench_rows[row].load != NULL) == load) {
                                print_series(measurement, &measurement->series[i]);
                                count++;
                        }
        return count;
}

static void print_what(bool load) {
        for (size_t row = 0; row < bench_row_count; row++)
                if ((bench_rows[row].load != NULL) == load)
                        printf("  %-20s %s\n", bench_rows[row].id, bench_rows[row].what);
        putchar('\n');
}

/* 0 if it was not measured */
static double aim_value(const struct measurement *measurement, const struct aim *aim, enum placement placement) {
        const struct series *series = find_series(measurement, aim->id, placement);

        if (!series)
                return 0;
        switch (aim->against) {
        case AGAINST_RAW:
        case AGAINST_MUTEX:
        case AGAINST_EVENTFD:
                return ratio_raw(measurement, series);
        case AGAINST_BARE:
                return ratio_bare(measurement, series);
        case AGAINST_SAME:
                return ratio_same(measurement, series);
        case AGAINST_CALM:
                return ratio_calm(measurement, series);
        default:
                return percentile(series, 990);
        }
}

/* 0 if it was not measured */
static double p99_of(const struct measurement *measurement, const char *id, enum placement placement) {
        const struct series *series = find_series(measurement, id, placement);

        return series ? percentile(series, 990) : 0;
}

/* Says, too, what of it is the machine's and not the daemon's. */
static void print_time_verdict(const struct measurement *measurement, const struct aim *aim, double value,
                               enum placement placement) {
        const struct bench_row *row = find_series(measurement, aim->id, placement)->row;
        double calm = p99_of(measurement, row->calm, placement), bare = p99_of(measurement, row->bare, placement);

        printf("%.0f, %s", value, value <= aim->limit ? "met" : "not met");
        if (value > aim->limit && bare > aim->limit)
                printf(", nor by the bare broker");
        if (calm > 0)
                printf("; %s %.0f", row->calm, calm);
        if (bare > 0)
                printf("; %s %.0f", row->bare, bare);
        putchar('\n');
}

static void print_aim(const struct measurement *measurement, const struct aim *aim, enum placement placement) {
        double value = aim_value(measurement, aim, placement);

        printf("aim: %s %s ", aim->id, placement_name(placement));
        if (aim->against == AGAINST_TIME)
                printf("p99 below %.0f us: ", aim->limit);
        else
                printf("%s %.2f times %s%s: ", aim->same_only ? "at most" : "within", aim->limit,
                       against_words[aim->against], aim->same_only ? " a segment on the same core" : "");
        if (value <= 0)
                printf("not measured\n");
        else if (aim->against == AGAINST_TIME)
                print_time_verdict(measurement, aim, value, placement);
        else
                printf("%.2f, %s\n", value, value <= aim->limit ? "met" : "not met");
}

static void print_aims(const struct measurement *measurement) {
        for (size_t i = 0; i < ELEMENTSOF(aims); i++) {
                print_aim(measurement, &aims[i], PLACEMENT_SAME);
                if (!aims[i].same_only)
                        print_aim(measurement, &aims[i], PLACEMENT_CROSS);
        }
}

static void report_plain(const struct measurement *measurement) {
        printf("%-20s %-2s %8s %8s %8s %7s %7s %7s %7s\n", "", "", "p50", "p99", "server", "times", "times", "times",
               "times");
        printf("%-20s %-2s %8s %8s %8s %7s %7s %7s %7s\n", "row", "at", "us", "us", "CPU us", "raw", "bare", "same",
               "few");
        if (print_rows(measurement, false) == 0)
                return;
        printf("\nat: client and server on the same core (s) or on two (x). server: CPU time of the server for each.\n"
               "times: against raw shm_open (or what the row says), the bare broker, a broker that makes the same system calls as shmd,\n"
               "the same with few segments; the median of the rounds, and so not quite the ratio of two p50.\n");
        print_what(false);
}

static void report_load(const struct measurement *measurement) {
        printf("%-20s %-2s %8s %8s %8s %8s %7s %7s\n", "", "", "p50", "p99", "p99.9", "max", "times", "times");
        printf("%-20s %-2s %8s %8s %8s %8s %7s %7s\n", "row", "at", "us", "us", "us", "us", "bare", "idle");
        if (print_rows(measurement, true) == 0)
                return;
        printf("\nWhat an open takes while something else goes on; a long one counts for all that would have waited.\n"
               "at: client and server share a core, the load and the server's other threads have the second one (s); the\n"
               "server has one, client and load share the other (x): what the bare broker takes there is the scheduler's doing.\n");
        print_what(true);
}

void report_table(const struct measurement *measurement) {
        report_plain(measurement);
        putchar('\n');
        report_load(measurement);
        print_aims(measurement);
        printf("%u rounds in %.1f s, %u with load in %.1f s; reading the clock takes %u ns of each\n", measurement->rounds,
               measurement->seconds, measurement->load_rounds, measurement->load_seconds, measurement->clock_nsec);
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
        fprintf(file, ", \"p50_usec\": %.3f, \"p99_usec\": %.3f, \"p999_usec\": %.3f, \"max_usec\": %.3f", summary.p50,
                summary.p99, summary.p999, summary.max);
        if (series->row->server != SERVER_NONE)
                fprintf(file, ", \"server_cpu_usec\": %.3f", summary.server);
        json_ratio(file, "times_raw", ratio_raw(measurement, series));
        json_ratio(file, "times_bare", ratio_bare(measurement, series));
        json_ratio(file, "times_same", ratio_same(measurement, series));
        json_ratio(file, "times_calm", ratio_calm(measurement, series));
        if (series->note[0] != '\0')
                json_field(file, "note", series->note);
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
        double value = aim_value(measurement, aim, placement);

        fputs("{\"id\": ", file);
        json_string(file, aim->id);
        json_field(file, "placement", placement_name(placement));
        json_field(file, "against", against_keys[aim->against]);
        fprintf(file, ", \"limit\": %.2f", aim->limit);
        json_ratio(file, aim->against == AGAINST_TIME ? "value" : "ratio", value);
        fprintf(file, ", \"met\": %s}", value <= 0 ? "null" : value <= aim->limit ? "true" : "false");
}

static void json_head(FILE *file, const struct measurement *measurement, const struct bench_options *options) {
        struct utsname name = { 0 };

        (void) uname(&name);
        fprintf(file, "{\"rounds\": %u, \"block\": %u, \"seconds\": %.3f, \"load_rounds\": %u, \"load_msec\": %u, "
                "\"clock_nsec\": %u, \"cpus\": [%d, %d]",
                measurement->rounds, options->block, measurement->seconds, measurement->load_rounds, options->load_msec,
                measurement->clock_nsec,
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
                if (aims[i].same_only)
                        continue;
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
