/* SPDX-License-Identifier: MIT */
/*
 * SysV segments, as /proc/sysvipc/shm lists those of an IPC namespace: all of them, whoever may attach them.
 */
#include "scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../proc.h"
#include "util.h"

#define USEC UINT64_C(1000000)

/* --- the verdict --- */

static uint64_t to_usec(int64_t seconds) {
        return seconds > 0 ? (uint64_t) seconds * USEC : 0;
}

/* "creator 12 is gone" */
static int tell_process(char *text, size_t size, const char *who, uint32_t pid, enum scan_process state) {
        switch (state) {
        case SCAN_PROCESS_GONE:
                return snprintf(text, size, "; %s %" PRIu32 " is gone", who, pid);
        case SCAN_PROCESS_REUSED:
                return snprintf(text, size, "; %s %" PRIu32 " is gone, another process has its number", who, pid);
        case SCAN_PROCESS_ALIVE:
                return snprintf(text, size, "; %s %" PRIu32 " is alive", who, pid);
        case SCAN_PROCESS_UNTIMED:
                return snprintf(text, size, "; %s %" PRIu32 " can't be judged: the clock was set", who, pid);
        default:
                if (pid == 0)
                        return snprintf(text, size, "; its %s is in another pid namespace", who);
                return snprintf(text, size, "; %s %" PRIu32 " can't be looked at", who, pid);
        }
}

static void judge_processes(struct scan_find *find, enum scan_process creator, enum scan_process last) {
        const enum scan_process states[] = { creator, last };

        find->verdict = SCAN_LEAKED;
        for (size_t i = 0; i < ELEMENTSOF(states); i++) {
                if (states[i] == SCAN_PROCESS_ALIVE) {
                        find->verdict = SCAN_IN_USE;
                        return;
                }
                if (states[i] == SCAN_PROCESS_UNKNOWN || states[i] == SCAN_PROCESS_UNTIMED)
                        find->verdict = SCAN_UNKNOWN;
                if (states[i] == SCAN_PROCESS_REUSED)
                        find->certainty = SCAN_LIKELY; /* clocks can be set */
        }
}

static void judge(struct scan_find *find, const struct proc_sysv *row) {
        bool attached_once = row->atime > 0 || row->dtime > 0;
        enum scan_process creator, last = SCAN_PROCESS_GONE;
        size_t length;

        if (row->attachments > 0) {
                find->verdict = SCAN_IN_USE;
                (void) snprintf(find->reason, sizeof(find->reason), "%" PRIu64 " attached", row->attachments);
                return;
        }
        /* The creator was there when it was made, and so at its ctime; the last one at its last attach or detach. */
        creator = scan_process_since(row->cpid, to_usec(row->ctime));
        if (attached_once)
                last = scan_process_since(row->lpid, to_usec(MAX(row->atime, row->dtime)));
        judge_processes(find, creator, last);

        length = (size_t) snprintf(find->reason, sizeof(find->reason), "not attached");
        length += (size_t) tell_process(find->reason + length, sizeof(find->reason) - length, "creator", row->cpid, creator);
        if (!attached_once)
                (void) snprintf(find->reason + length, sizeof(find->reason) - length, "; never attached");
        else if (row->lpid != row->cpid || last != creator)
                (void) tell_process(find->reason + length, sizeof(find->reason) - length, "last user", row->lpid, last);
}

void scan_judge_sysv(struct scan_find *find, const struct proc_sysv *row) {
        find->id = (uint64_t) row->shmid;
        find->size_bytes = row->size;
        find->resident_bytes = row->rss;
        find->uid = row->uid;
        find->gid = row->gid;
        find->mode = row->mode & 0777;
        find->creator_pid = row->cpid;
        find->last_pid = row->lpid;
        find->attachments = (uint32_t) row->attachments;
        find->created_usec = to_usec(row->ctime);
        find->used_usec = to_usec(MAX(MAX(row->atime, row->dtime), row->ctime));
        find->stamp = (uint64_t) row->atime * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t) row->dtime * UINT64_C(0xff51afd7ed558ccd) +
                      (uint64_t) row->ctime * 31 + row->cpid * UINT64_C(4194304) + row->lpid + row->size * 7;
        judge(find, row);
}

/* --- the list --- */

static int note_row(struct scan *scan, const struct scan_space *space, const char *line) {
        struct proc_sysv row;
        struct scan_find *find;
        char key[32];

        if (!proc_sysv_parse(line, &row)) /* the heading */
                return 0;
        (void) snprintf(key, sizeof(key), "0x%08" PRIx32, (uint32_t) row.key);
        find = scan_add(scan, SCAN_SYSV, space, key);
        if (!find)
                return -ENOMEM;
        scan_judge_sysv(find, &row);
        return 0;
}

static int read_list(struct scan *scan, const struct scan_space *space, FILE *file) {
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        int r = 0;

        while (r == 0 && getline(&line, &size, file) > 0)
                r = note_row(scan, space, line);
        return r == 0 && ferror(file) ? -EIO : r;
}

int scan_sysv_space(struct scan *scan, const struct scan_space *space) {
        FILE *file = fopen("/proc/sysvipc/shm", "re");
        int r;

        if (!file)
                return errno == ENOENT ? 0 : negative_errno(); /* a kernel without them */
        r = read_list(scan, space, file);
        (void) fclose(file);
        return r;
}

int scan_sysv(struct scan *scan) {
        const struct scan_space *space = scan_add_space(scan, -EBADF, 0, "");

        return space ? scan_sysv_space(scan, space) : -ENOMEM;
}
