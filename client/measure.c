/* SPDX-License-Identifier: MIT */
#include "measure.h"

#include <fcntl.h>

#include "internal.h"

void measure_done(struct measure *measure) {
        free(measure->rows);
        *measure = (struct measure) { 0 };
}

static int compare_rows(const void *a, const void *b) {
        const struct proc_sysv *one = a, *other = b;

        return (one->shmid > other->shmid) - (one->shmid < other->shmid);
}

struct reading {
        struct measure *measure;
        size_t capacity;
};

static void note_line(void *userdata, char *line) {
        struct reading *reading = userdata;
        struct measure *measure = reading->measure;
        struct proc_sysv row;

        if (!proc_sysv_parse(line, &row))
                return;
        if (measure->count == reading->capacity) {
                size_t capacity = 2 * reading->capacity + 64;
                struct proc_sysv *rows = reallocarray(measure->rows, capacity, sizeof(*rows));

                if (!rows)
                        return; /* then it is not known of the rest */
                measure->rows = rows;
                reading->capacity = capacity;
        }
        measure->rows[measure->count++] = row;
}

static void read_all(struct measure *measure) {
        measure->done = true;
        (void) proc_read_lines(AT_FDCWD, "/proc/sysvipc/shm", note_line, &(struct reading) { .measure = measure });
        if (measure->count > 0)
                qsort(measure->rows, measure->count, sizeof(*measure->rows), compare_rows);
}

static bool is_same(const struct proc_sysv *row, const struct shmd_stat *stat) {
        return (uint32_t) row->key == stat->sysv_key && row->size == stat->size_bytes && row->uid == stat->uid;
}

void measure_segment(struct measure *measure, struct shmd_stat *stat) {
        const struct proc_sysv wanted = { .shmid = (int) stat->sysv_id }, *row;
        uint64_t namespace = stat->inode;

        if (stat->resident_bytes != UINT64_MAX)
                return;
        stat->inode = 0;
        if (namespace == 0 || namespace != process_ipc_namespace())
                return;
        if (!measure->done)
                read_all(measure);
        row = measure->count > 0 ? bsearch(&wanted, measure->rows, measure->count, sizeof(*row), compare_rows) : NULL;
        if (row && is_same(row, stat))
                stat->resident_bytes = row->rss;
}
