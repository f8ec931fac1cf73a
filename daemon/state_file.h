/* SPDX-License-Identifier: MIT */
/*
 * One state log in a memfd: mapped once, so that what points into it stays true, and allocated as it grows.
 *
 * Its pages are there before they are written to: one that could not be had would be a SIGBUS.
 */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "state.h"

struct state_file {
        struct state_log log;
        int fd; /* or -EBADF: there is no such file */
        size_t mapped; /* address space */
};

#define STATE_FILE_INIT { .fd = -EBADF }

/* What is allocated at a time. Bytes. */
#define STATE_FILE_STEP (UINT64_C(1) << 20)

/* bytes: for so much there is room, at least. 0 or -errno. */
int state_file_new(uint64_t epoch, size_t bytes, struct state_file *ret_file);
void state_file_done(struct state_file *file);

/* So much may be appended. 0, or -ENOMEM, -ENOSPC. */
int state_file_make_room(struct state_file *file, size_t bytes);
