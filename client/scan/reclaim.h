/* SPDX-License-Identifier: MIT */
/*
 * Freeing what a scan has found, each object checked anew right before.
 *
 * Never frees what anybody has open, mapped or attached at that moment:
 *  - posix: removed while we have the kernel's lease, so that nobody can have it. Whoever opens it in these microseconds
 *    waits: that is looked for before the removal, and then the file stays; whoever comes even later has the file
 *    intact, though without its name, as if he had opened it just before. The name might be to another file between the
 *    last look and its removal; so the file is first moved to a name of our own, looked at, and removed there - or moved back, if it
 *    was another one or somebody waits, and so was without its name for a moment. Who is killed in that moment leaves it
 *    so; that name has the former one in it, and the next one gives it back: reclaim_restore().
 *  - sysv: whoever attaches it between the last look and IPC_RMID keeps it, as the kernel has it, until he detaches;
 *    only its key is gone then. That is noticed, and told.
 */
#pragma once

#include "scan.h"

enum reclaim_result {
        RECLAIM_FREED = 0,
        RECLAIM_IN_USE,  /* somebody has it by now */
        RECLAIM_CHANGED, /* it has been used since the scan, or another one has its name or number */
        RECLAIM_GONE,
        RECLAIM_DENIED,  /* no right to it, or to ask the kernel about it */
        RECLAIM_LATE,    /* sysv: attached in the last moment: it is without its key, and goes with its last user */
        RECLAIM_UNJUDGED, /* by now it can't be judged any more */
        RECLAIM_ASIDE,    /* as RECLAIM_CHANGED; and its name was taken when it was to be moved back */
};

/* In the words for "it was not freed: ..." */
const char *reclaim_result_words(enum reclaim_result result);

/* posix or sysv. An enum reclaim_result, or a negative errno value; *ret_bytes that came back are written in any case. */
int reclaim(const struct scan_find *find, uint64_t *ret_bytes);

/* Whether a path is of a file that was being reclaimed when that was interrupted, and can have its former name again. */
bool reclaim_is_interrupted(const char *path);

/* Gives it its former name, and changes the find's. RECLAIM_FREED for: it has it; or another result, or a negative errno value. */
int reclaim_restore(struct scan_find *find);
