/* SPDX-License-Identifier: MIT */
/*
 * How people write seconds and lifetimes: on command lines, in the environment, in shmd.conf. One rule for whoever reads them, so that what
 * one program hands to another is taken there.
 *
 * Owns nothing, allocates nothing, and needs nothing but the C library: the interposer has it inside other programs.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Microseconds of up to 18446744073709 seconds: digits, at least one, and further ones behind a point, of which six count. */
bool words_parse_seconds(const char *text, size_t length, uint64_t *ret_usec);

/*
 * persist, holders, linger=SECONDS, and with_creator creator, too: enum wire_lifetime, and the time for linger, else 0. Gives what is wrong
 * with it, which names what would be taken, or NULL.
 */
const char *words_parse_lifetime(const char *text, bool with_creator, uint32_t *ret_lifetime, uint64_t *ret_linger_usec);

/* What words_parse_seconds() did not take. */
extern const char words_not_seconds[];
