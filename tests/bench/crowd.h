/* SPDX-License-Identifier: MIT */
/*
 * Segments and clients that a daemon has before it is measured: ten of the ones and one of the others, or ten thousand and
 * a thousand. They are made once in a run, by a process that is all these clients, and are there until the run ends.
 */
#pragma once

#include "bench.h"

struct shmd;

#define CROWD_NAME_SIZE 16

/* Makes them if it has not been tried yet. 0, or the negative errno value of the failure, told in the crowd's trouble. */
int crowd_ensure(struct bench *bench, enum server_kind kind);

/* The name of a segment, from 0 on. Room for CROWD_NAME_SIZE bytes. */
void crowd_name(char *name, unsigned index);

/* Opens so many from the first on. They are the connection's, and end with it. */
int crowd_open(struct shmd *connection, unsigned first, unsigned count);

/* As many descriptors as this process may have */
void raise_descriptor_limit(void);
