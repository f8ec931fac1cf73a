/* SPDX-License-Identifier: MIT */
/*
 * The operation table in memory: one row for each line of operations.def.
 * Read-only data; no row may change between releases, only be added.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

enum shmd_operation {
#define OPERATION(number, NAME, name, request, reply, tail, fds_in, fds_out, right, flags) SHMD_OP_##NAME = number,
#include "operations.def"
#undef OPERATION
};

enum operation_right {
        RIGHT_NONE,
        RIGHT_SEE,
        RIGHT_OWNER,
};

enum operation_flags {
        OPERATION_0 = 0,
        OPERATION_ONEWAY = 1u << 0,
        OPERATION_FIRST = 1u << 1,
        OPERATION_LATE = 1u << 2,
        OPERATION_EVENT = 1u << 3,
        OPERATION_ONCE = 1u << 4,
};

struct operation {
        uint16_t number;
        const char *name;
        size_t request_size; /* of the fixed structure, bytes, without the header */
        size_t reply_size;
        bool tail;
        unsigned fds_in;
        unsigned fds_out;
        enum operation_right right;
        unsigned flags;
};

/* The row of that number, or NULL. */
const struct operation *operation_find(uint16_t number);

/* How many rows there are, and the row at an index; for tests and the fuzzer. */
size_t operation_count(void);
const struct operation *operation_at(size_t index);
