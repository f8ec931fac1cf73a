/* SPDX-License-Identifier: MIT */
/*
 * metrics: the daemon's totals, and what has leaked, as OpenMetrics text.
 * https://prometheus.io/docs/specs/om/open_metrics_spec/
 *
 * Segments are not told one by one: a label for each would be a time series for each.
 */
#include "leaks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* Of all segments, by state. */
struct totals {
        uint64_t segments[SHMD_STATE_UNLINKED + 1];
        uint64_t resident_bytes;
        uint64_t unheld;
};

struct metrics {
        FILE *file;
        bool up;
        struct shmd_status status;
        struct totals totals;
        struct scan scan;
        bool leaks;
};

/* --- writing --- */

static void print_family(FILE *file, const char *name, const char *type, const char *unit, const char *help) {
        fprintf(file, "# TYPE %s %s\n", name, type);
        if (*unit)
                fprintf(file, "# UNIT %s %s\n", name, unit);
        fprintf(file, "# HELP %s %s\n", name, help);
}

static void print_gauge(FILE *file, const char *name, const char *unit, const char *help, uint64_t value) {
        print_family(file, name, "gauge", unit, help);
        fprintf(file, "%s %" PRIu64 "\n", name, value);
}

static void print_info(FILE *file, const char *version) {
        /* A gauge: the reader of node_exporter's textfile collector knows no info, and refuses the whole file. */
        print_family(file, "shmd_build_info", "gauge", "", "The version of the daemon.");
        fputs("shmd_build_info{version=\"", file);
        for (const char *c = version; *c; c++) {
                if (*c == '\\' || *c == '"')
                        fputc('\\', file);
                if (*c != '\n')
                        fputc(*c, file);
        }
        fputs("\"} 1\n", file);
}

static void print_totals(FILE *file, const struct totals *totals) {
        static const char *const states[] = { "unpublished", "published", "frozen", "unlinked" };

        print_family(file, "shmd_segments", "gauge", "", "Segments by state, as far as the asker may see them.");
        for (size_t i = 0; i < ELEMENTSOF(states); i++)
                fprintf(file, "shmd_segments{state=\"%s\"} %" PRIu64 "\n", states[i], totals->segments[i]);
        print_gauge(file, "shmd_segments_unheld", "", "Segments with a name that nobody holds.", totals->unheld);
        print_gauge(file, "shmd_resident_bytes", "bytes", "Memory that pages of segments take.", totals->resident_bytes);
}

static void print_store(FILE *file, const struct shmd_status *status) {
        print_family(file, "shmd_store", "gauge", "",
                     "1: of the states of the store, which keeps segments for the next daemon, it is this.");
        for (enum store_state state = STORE_OFF; state <= STORE_FAILING; state++)
                fprintf(file, "shmd_store{state=\"%s\"} %d\n", store_state_name(state), store_state(status) == state);
}

static void print_daemon(const struct metrics *metrics) {
        const struct shmd_status *status = &metrics->status;
        FILE *file = metrics->file;

        print_info(file, status->version);
        print_family(file, "shmd_start_time_seconds", "gauge", "seconds", "When the daemon was started, since 1970.");
        fprintf(file, "shmd_start_time_seconds %" PRIu64 ".%06" PRIu64 "\n", status->started_usec / USEC_PER_SECOND,
                status->started_usec % USEC_PER_SECOND);
        print_totals(file, &metrics->totals);
        print_gauge(file, "shmd_size_bytes", "bytes", "Sizes of all segments together.", status->bytes);
        print_gauge(file, "shmd_holds", "", "Holds of all clients.", status->holds);
        print_gauge(file, "shmd_connections", "", "Connections of clients.", status->connections);
        print_gauge(file, "shmd_descriptors", "", "File descriptors that the daemon has open.", status->descriptors);
        print_gauge(file, "shmd_descriptors_limit", "", "File descriptors that it may have open.", status->descriptors_max);
        print_gauge(file, "shmd_memory_available_bytes", "bytes", "Memory that the machine has left.",
                    status->memory_available_bytes);
        print_store(file, status);
}

struct leak_sum {
        uint64_t count, bytes;
};

static void print_leaks(const struct metrics *metrics) {
        static const char *const verdicts[] = { [SCAN_LEAKED] = "leaked", [SCAN_UNKNOWN] = "unknown" };
        const struct leak_filter filter = { .kinds = (1u << SCAN_KINDS) - 1, .min_age_usec = UINT64_MAX };
        struct leak_sum sums[SCAN_KINDS][SCAN_UNKNOWN + 1] = { 0 };
        FILE *file = metrics->file;

        for (size_t i = 0; i < metrics->scan.count; i++) {
                const struct scan_find *find = &metrics->scan.finds[i];

                if (!leak_matches(find, &filter))
                        continue;
                sums[find->kind][find->verdict].count++;
                sums[find->kind][find->verdict].bytes += resident_known(find->resident_bytes);
        }
        print_family(file, "shmd_leaks", "gauge", "", "Objects that have leaked, or that can not be judged.");
        for (unsigned kind = metrics->up ? 0 : SCAN_POSIX; kind < SCAN_KINDS; kind++)
                for (unsigned verdict = SCAN_LEAKED; verdict <= SCAN_UNKNOWN; verdict++)
                        fprintf(file, "shmd_leaks{kind=\"%s\",verdict=\"%s\"} %" PRIu64 "\n", scan_kind_name(kind),
                                verdicts[verdict], sums[kind][verdict].count);
        print_family(file, "shmd_leaks_bytes", "gauge", "bytes", "Memory that they take.");
        for (unsigned kind = metrics->up ? 0 : SCAN_POSIX; kind < SCAN_KINDS; kind++)
                for (unsigned verdict = SCAN_LEAKED; verdict <= SCAN_UNKNOWN; verdict++)
                        fprintf(file, "shmd_leaks_bytes{kind=\"%s\",verdict=\"%s\"} %" PRIu64 "\n", scan_kind_name(kind),
                                verdicts[verdict], sums[kind][verdict].bytes);
}

static void print_all(const struct metrics *metrics) {
        print_gauge(metrics->file, "shmd_up", "", "Whether the daemon answers.", metrics->up);
        if (metrics->up)
                print_daemon(metrics);
        if (metrics->leaks)
                print_leaks(metrics);
        fputs("# EOF\n", metrics->file);
}

/* --- asking --- */

static int count_segment(const struct shmd_stat *stat, void *userdata) {
        struct totals *totals = userdata;

        if (stat->state < ELEMENTSOF(totals->segments))
                totals->segments[stat->state]++;
        totals->resident_bytes += resident_known(stat->resident_bytes);
        totals->unheld += stat->holders == 0 && (stat->state == SHMD_STATE_PUBLISHED || stat->state == SHMD_STATE_FROZEN);
        return 0;
}

static int ask(struct ctl *ctl, struct metrics *metrics) {
        int r = shmd_status(ctl->connection, &metrics->status);

        if (r == 0)
                r = shmd_list(ctl->connection, NULL, 0, count_segment, &metrics->totals);
        if (r == 0)
                r = shmd_list(ctl->connection, NULL, SHMD_LIST_UNLINKED, count_segment, &metrics->totals);
        return r == 0 ? STATUS_DONE : fail_shmd(ctl, r, "get the figures", NULL);
}

/* Without a daemon there is still something to tell: that there is none. */
static int gather(struct ctl *ctl, struct metrics *metrics) {
        unsigned kinds = 1u << SCAN_POSIX | 1u << SCAN_SYSV;
        int status;

        setenv("SHMD_AUTOSTART", "0", 1);
        daemon_expect_answer();
        metrics->up = connection_open(ctl) == 0;
        status = metrics->up ? ask(ctl, metrics) : STATUS_DONE;
        daemon_answered();
        if (status != STATUS_DONE || !metrics->leaks)
                return status;
        return leaks_scan(ctl, metrics->up ? kinds | 1u << SCAN_SHMD : kinds, &metrics->scan);
}

/* --- where to --- */

/* Whoever reads the file finds the old one or the new one, whole. */
static int write_file(struct metrics *metrics, const char *path) {
        _cleanup_(freep) char *temporary = NULL;
        int fd, failure = 0;

        if (asprintf(&temporary, "%s.%d.tmp", path, (int) getpid()) < 0)
                fail_memory();
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        metrics->file = fd < 0 ? NULL : fdopen(fd, "w");
        if (!metrics->file)
                return fail("cannot write \"%s\": %s", temporary, strerror(errno));
        print_all(metrics);
        if (ferror(metrics->file) || fflush(metrics->file) != 0 || fchmod(fd, 0644) < 0)
                failure = errno;
        if (fclose(metrics->file) != 0 && failure == 0)
                failure = errno;
        if (failure == 0 && rename(temporary, path) < 0)
                failure = errno;
        if (failure == 0)
                return STATUS_DONE;
        unlink(temporary);
        return fail("cannot write \"%s\": %s", path, strerror(failure));
}

int cmd_metrics(struct ctl *ctl, int n_arguments, char **arguments) {
        struct metrics metrics = { .file = stdout, .leaks = ctl->options.leaks };
        int status;

        (void) n_arguments;
        (void) arguments;
        status = gather(ctl, &metrics);
        if (status == STATUS_DONE && ctl->options.output_path)
                status = write_file(&metrics, ctl->options.output_path);
        else if (status == STATUS_DONE)
                print_all(&metrics);
        scan_done(&metrics.scan);
        return status;
}
