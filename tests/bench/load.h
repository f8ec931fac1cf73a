/* SPDX-License-Identifier: MIT */
/*
 * What others do while an open is measured: each load is a process of its own, which begins before a block, says when it is
 * going, and has ended, with all that it caused, before the next one.
 */
#pragma once

#include "bench.h"

extern const struct load load_nothing; /* for comparison */
extern const struct load load_spin;    /* nothing but CPU time */
extern const struct load load_free_own; /* memory, without any daemon */
extern const struct load load_kill_own; /* open files, without any daemon */
extern const struct load load_free;
extern const struct load load_list;
extern const struct load load_kill;
extern const struct load load_scan;
extern const struct load load_create_many;
extern const struct load load_open_many;
extern const struct load load_watch;
extern const struct load load_publish;

/* begin() and end() of the rows that have a load */
int load_begin(struct series *series);
void load_end(struct series *series);
