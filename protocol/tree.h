/* SPDX-License-Identifier: MIT */
/*
 * libbsd's red-black trees. Its RB_GENERATE_STATIC wants a macro __unused, which
 * collides with fields of the C library's own structures; this is the same without it.
 */
#pragma once

#include <bsd/sys/tree.h>

#define TREE_GENERATE(name, type, field, compare) \
        RB_GENERATE_INTERNAL(name, type, field, compare, __attribute__((__unused__)) static)
