/* SPDX-License-Identifier: MIT */
/*
 * Names of segments: one rule, checked by this one function on both sides.
 *
 * 1 to 255 bytes of UTF-8, components separated by '/'; no component empty, "."
 * or ".."; no control character. One leading slash is dropped, as shm_open has it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum name_verdict {
        NAME_OK = 0,
        NAME_EMPTY,
        NAME_TOO_LONG,
        NAME_EMPTY_COMPONENT,
        NAME_DOT_COMPONENT,
        NAME_CONTROL_CHARACTER,
        NAME_NOT_UTF8,
};

/* Why a name was refused, for people; never NULL. */
const char *name_verdict_to_words(enum name_verdict verdict);

/*
 * Checks a name of that many bytes and gives where it begins, its leading slash
 * dropped, and how long it is. The outputs point into the argument and are
 * written only if the verdict is NAME_OK.
 */
enum name_verdict name_check(const char *name, size_t size, const char **ret_name, size_t *ret_size);

/* The same for what names begin with: may also be empty, or end in a slash or within a component. */
enum name_verdict name_check_prefix(const char *prefix, size_t size, const char **ret_prefix, size_t *ret_size);

/* How many bytes the first character of a text has, if names may have it anywhere in them (a slash included); otherwise 0. */
size_t name_character_size(const char *s);

/* Labels: lines "key=value", each ended by a newline, UTF-8 without other control characters, the key not empty. */
bool labels_check(const char *labels, size_t size);
