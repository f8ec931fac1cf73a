/* SPDX-License-Identifier: MIT */
#include "operation.h"

#include "util.h"

static const struct operation operations[] = {
#define OPERATION(number_, NAME, name_, request, reply, tail_, fds_in_, fds_out_, right_, flags_) \
        [number_] = {                                                                             \
                .number = number_,                                                                \
                .name = #name_,                                                                   \
                .request_size = sizeof(struct shmd_wire_##request),                               \
                .reply_size = sizeof(struct shmd_wire_##reply),                                   \
                .tail = tail_,                                                                    \
                .fds_in = fds_in_,                                                                \
                .fds_out = fds_out_,                                                              \
                .right = RIGHT_##right_,                                                          \
                .flags = OPERATION_##flags_,                                                      \
        },
#include "operations.def"
#undef OPERATION
};

/* The same layout for 32- and 64-bit programs: no structure may need padding that is not written out. */
#define OPERATION(number, NAME, name, request, reply, tail, fds_in, fds_out, right, flags)              \
        _Static_assert(sizeof(struct shmd_wire_##request) % 8 == 0, #name ": request is not padded"); \
        _Static_assert(sizeof(struct shmd_wire_##reply) % 8 == 0, #name ": reply is not padded");
#include "operations.def"
#undef OPERATION

const struct operation *operation_find(uint16_t number) {
        if (number >= ELEMENTSOF(operations) || operations[number].number == 0)
                return NULL;
        return &operations[number];
}

size_t operation_count(void) {
        return ELEMENTSOF(operations) - 1;
}

const struct operation *operation_at(size_t index) {
        return operation_find((uint16_t) (index + 1));
}
