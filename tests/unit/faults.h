/* SPDX-License-Identifier: MIT */
/*
 * Memory that runs out on demand, and a count of what is allocated. Linked with --wrap for malloc, calloc, realloc and
 * free (tests.am), it stands between the allocator and all objects of the program, those of libcheck included:
 * arm it around single calls.
 */
#pragma once

#include <stdbool.h>

/* The n-th allocation from now on fails, the first being 1; if it is for good, all later ones fail as well. */
void faults_arm(unsigned nth, bool for_good);

/* Memory is plenty again. Gives whether any allocation failed meanwhile. */
bool faults_disarm(void);

/* How much malloc() and calloc() gave that has not been freed. */
unsigned faults_live(void);
