/* SPDX-License-Identifier: MIT */
/*
 * What leaks and reclaim share: which objects are leaked, of those the command line asks for.
 */
#pragma once

#include "rules.h"
#include "scan.h"
#include "shmdctl.h"

/* What is listed: younger ones are left out, and of other users. A mask of kinds. */
struct leak_filter {
        unsigned kinds;        /* 1 << enum scan_kind */
        uint64_t min_age_usec; /* UINT64_MAX: the default */
        bool has_uid;
        uid_t uid;
};

/* A segment of shmd that was in use a moment ago is not leaked: it was made to outlive its users. */
#define LEAK_SHMD_AGE_USEC (3600 * USEC_PER_SECOND)

/* What the options say. */
struct leak_filter leak_filter_of(const struct ctl *ctl);
/* Since the last use of it that is known. */
uint64_t leak_age_usec(const struct scan_find *find);
bool leak_matches(const struct scan_find *find, const struct leak_filter *filter);

/* Everything of those kinds, of whatever age, in use or not. Gives the exit status, after telling what went wrong. A
 * daemon that is not there is told of, and is a failure only if no other kind was wanted. */
int leaks_scan(struct ctl *ctl, unsigned kinds, struct scan *scan);

/* Between the two the daemon answers in time, or the program ends, after saying so. */
void daemon_expect_answer(void);
void daemon_answered(void);

/* Those that the daemon of the connection, if there is one, looks after are in use. */
void leaks_spare_sysv(struct ctl *ctl, struct scan *scan);

struct json_object *leak_to_json(const struct scan_find *find);
extern const struct column_set leak_columns;

static inline void scan_donep(struct scan *scan) {
        scan_done(scan);
}

/* --- rulefile.c --- */

/* The rules of the file that --rules names, or the daemon's. Gives the exit status, after telling what is wrong. */
int rules_read(const struct ctl *ctl, struct rules *ret_rules);
