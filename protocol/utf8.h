/* SPDX-License-Identifier: MIT */
/* Characters, as names have them: what is one, and which of them a terminal would act on or nobody would see. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One code point of UTF-8 (RFC 3629: no overlong form, no surrogate, nothing past U+10FFFF): its length in bytes, or 0 if it is none. */
size_t utf8_decode(const char *text, size_t size, uint32_t *ret_point);

/* C0, DEL and C1: terminals act on all of them. */
bool utf8_is_control(uint32_t point);

/*
 * What turns the direction of writing, breaks lines, or shows nothing at all, so that two names look like one: Unicode's bidirectional
 * controls, its line separators and its property Default_Ignorable_Code_Point, and marks of annotations.
 */
bool utf8_is_hidden(uint32_t point);
