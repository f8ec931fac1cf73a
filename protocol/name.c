/* SPDX-License-Identifier: MIT */
#include "name.h"

#include <stdint.h>
#include <string.h>

#include "protocol.h"
#include "utf8.h"

size_t name_character_size(const char *s) {
        uint32_t point;
        size_t length = utf8_decode(s, strnlen(s, 4), &point);

        return length == 0 || utf8_is_control(point) ? 0 : length;
}

static enum name_verdict characters_check(const char *name, size_t size) {
        for (size_t i = 0; i < size;) {
                uint32_t point;
                size_t length = utf8_decode(name + i, size - i, &point);

                if (length == 0)
                        return NAME_NOT_UTF8;
                if (utf8_is_control(point))
                        return NAME_CONTROL_CHARACTER;
                i += length;
        }
        return NAME_OK;
}

static enum name_verdict component_check(const char *component, size_t size) {
        if (size == 0)
                return NAME_EMPTY_COMPONENT;
        if (component[0] == '.' && (size == 1 || (size == 2 && component[1] == '.')))
                return NAME_DOT_COMPONENT;
        return NAME_OK;
}

static void drop_leading_slash(const char **name, size_t *size) {
        if (*size > 0 && (*name)[0] == '/') {
                (*name)++;
                (*size)--;
        }
}

enum name_verdict name_check(const char *name, size_t size, const char **ret_name, size_t *ret_size) {
        enum name_verdict verdict;
        size_t start = 0;

        drop_leading_slash(&name, &size);
        if (size == 0)
                return NAME_EMPTY;
        if (size > SHMD_NAME_MAX)
                return NAME_TOO_LONG;

        verdict = characters_check(name, size);
        if (verdict != NAME_OK)
                return verdict;

        for (size_t i = 0; i <= size; i++) {
                if (i < size && name[i] != '/')
                        continue;
                verdict = component_check(name + start, i - start);
                if (verdict != NAME_OK)
                        return verdict;
                start = i + 1;
        }

        *ret_name = name;
        *ret_size = size;
        return NAME_OK;
}

enum name_verdict name_check_prefix(const char *prefix, size_t size, const char **ret_prefix, size_t *ret_size) {
        drop_leading_slash(&prefix, &size);
        if (size > SHMD_NAME_MAX)
                return NAME_TOO_LONG;
        *ret_prefix = prefix;
        *ret_size = size;
        return NAME_OK;
}

bool labels_check(const char *labels, size_t size) {
        while (size > 0) {
                const char *end = memchr(labels, '\n', size);
                size_t line = end ? (size_t) (end - labels) : 0;
                const char *equals = line > 0 ? memchr(labels, '=', line) : NULL;

                if (!equals || equals == labels || characters_check(labels, line) != NAME_OK)
                        return false;
                labels += line + 1;
                size -= line + 1;
        }
        return true;
}

const char *name_verdict_to_words(enum name_verdict verdict) {
        switch (verdict) {
        case NAME_OK:
                return "valid";
        case NAME_EMPTY:
                return "it is empty";
        case NAME_TOO_LONG:
                return "it is longer than 255 bytes";
        case NAME_EMPTY_COMPONENT:
                return "it has an empty component (two slashes, or one at the end)";
        case NAME_DOT_COMPONENT:
                return "it has a component \".\" or \"..\"";
        case NAME_CONTROL_CHARACTER:
                return "it has a control character";
        case NAME_NOT_UTF8:
                return "it is not valid UTF-8";
        }
        return "unknown reason";
}
