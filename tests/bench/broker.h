/* SPDX-License-Identifier: MIT */
/* What the bare broker and its client say to each other: 64 bytes there, 64 back. */
#pragma once

#include <stdint.h>

enum broker_operation {
        BROKER_GREET,   /* answered with the constant descriptor; with BROKER_LIKE_SHMD alone */
        BROKER_OPEN,    /* answered with the one constant descriptor */
        BROKER_CREATE,  /* answered with the descriptor of a new segment */
        BROKER_UNLINK,  /* answered; the new segment is gone, unless its release is still to come */
        BROKER_RELEASE, /* not answered; now it is gone; with BROKER_LIKE_SHMD alone */
};

/* Makes the system calls that shmd makes for the same operation, where the least would be fewer. */
#define BROKER_LIKE_SHMD 0x1u

struct broker_message {
        uint32_t operation;
        uint32_t flags;
        uint32_t size; /* BROKER_CREATE: bytes */
        uint8_t rest[52];
};
_Static_assert(sizeof(struct broker_message) == 64, "the size that the limit was defined with");
