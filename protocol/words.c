/* SPDX-License-Identifier: MIT */
#include "words.h"

#include <string.h>

#include "protocol.h"

#define USEC UINT64_C(1000000)

const char words_not_seconds[] = "not a number of seconds up to 18446744073709, such as 5 or 0.25";

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

bool words_parse_seconds(const char *text, size_t length, uint64_t *ret_usec) {
        uint64_t value = 0, fraction = 0, weight = USEC;
        size_t i = 0;

        for (; i < length && is_digit(text[i]); i++)
                if (__builtin_mul_overflow(value, UINT64_C(10), &value) ||
                    __builtin_add_overflow(value, (uint64_t) (text[i] - '0'), &value))
                        return false;
        if (i == 0)
                return false;
        if (i < length && text[i] == '.')
                for (i++; i < length && is_digit(text[i]); i++) {
                        weight /= 10;
                        fraction += weight * (uint64_t) (text[i] - '0');
                }
        if (i != length || __builtin_mul_overflow(value, USEC, &value) || __builtin_add_overflow(value, fraction, &value))
                return false;
        *ret_usec = value;
        return true;
}

const char *words_parse_lifetime(const char *text, bool with_creator, uint32_t *ret_lifetime, uint64_t *ret_linger_usec) {
        static const char linger[] = "linger=";
        uint64_t linger_usec = 0;
        uint32_t lifetime;

        if (strcmp(text, "persist") == 0)
                lifetime = WIRE_LIFETIME_PERSIST;
        else if (strcmp(text, "holders") == 0)
                lifetime = WIRE_LIFETIME_HOLDERS;
        else if (with_creator && strcmp(text, "creator") == 0)
                lifetime = WIRE_LIFETIME_CREATOR;
        else if (strncmp(text, linger, strlen(linger)) == 0) {
                lifetime = WIRE_LIFETIME_LINGER;
                text += strlen(linger);
                if (!words_parse_seconds(text, strlen(text), &linger_usec))
                        return words_not_seconds;
        } else
                return with_creator ? "not one of persist, linger=SECONDS, holders, creator"
                                    : "not one of persist, linger=SECONDS, holders";
        *ret_lifetime = lifetime;
        *ret_linger_usec = linger_usec;
        return NULL;
}
