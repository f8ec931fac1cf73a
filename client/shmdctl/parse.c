/* SPDX-License-Identifier: MIT */
#include "rules.h"
#include "shmdctl.h"
#include "words.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

/* Digits of that base, no sign, no blanks, at least one; gives what follows them, or NULL. */
static const char *parse_digits(const char *text, int base, uint64_t *ret_value) {
        uint64_t value;
        char *end;

        if (*text == '+' || *text == '-' || *text == ' ' || (*text >= '\t' && *text <= '\r'))
                return NULL;
        errno = 0;
        value = strtoull(text, &end, base);
        if (end == text || errno != 0)
                return NULL;
        *ret_value = value;
        return end;
}

bool parse_id(const char *text, uint64_t *ret_id) {
        const char *end = is_digit(*text) ? parse_digits(text, 10, ret_id) : NULL;

        return end && *end == 0;
}

const char *parse_key(const char *text, uint32_t *ret_key) {
        bool hexadecimal = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
        const char *end;
        uint64_t value;

        end = is_digit(*text) ? parse_digits(text, hexadecimal ? 16 : 10, &value) : NULL;
        if (!end || *end != 0 || value > UINT32_MAX)
                return "not a key (a number of 32 bits, such as 0x44)";
        *ret_key = (uint32_t) value;
        return NULL;
}

/* --- sizes --- */

static bool parse_unit(const char *text, unsigned *ret_shift) {
        static const char units[] = "KMGTPE";
        const char *unit;

        *ret_shift = 0;
        if (strcmp(text, "") == 0 || strcmp(text, "B") == 0)
                return true;
        unit = strchr(units, text[0] >= 'a' ? text[0] - 'a' + 'A' : text[0]);
        if (!unit || (text[1] && strcmp(text + 1, "iB") != 0))
                return false;
        *ret_shift = 10 * (unsigned) (unit - units + 1);
        return true;
}

const char *parse_size(const char *text, uint64_t *ret_bytes) {
        bool hexadecimal = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
        uint64_t number;
        unsigned shift;
        const char *end;

        if (!is_digit(text[0]))
                return "not a number of bytes (such as 4096, 64K, 200M, 2G)";
        end = parse_digits(text, hexadecimal ? 16 : 10, &number);
        if (!end)
                return "too large";
        if (*end == '.' || *end == ',')
                return "no fractions, please: use a smaller unit";
        if (!parse_unit(end, &shift))
                return "unknown unit (K, M, G and T are powers of 1024)";
        if (number > UINT64_MAX >> shift)
                return "too large";
        *ret_bytes = number << shift;
        return NULL;
}

/* --- modes --- */

const char *parse_mode(const char *text, uint32_t *ret_mode) {
        uint64_t mode;
        const char *end = is_digit(*text) ? parse_digits(text, 8, &mode) : NULL;

        if (!end || *end)
                return "not an octal mode such as 0640";
        if (mode > 0777)
                return "a segment has the nine permission bits alone (0777 at most)";
        *ret_mode = (uint32_t) mode;
        return NULL;
}

/* "ugo" to the bits it stands for. What has nobody before it is for all, but for what the umask forbids. */
static const char *parse_who(const char *text, uint32_t *ret_bits) {
        static const struct {
                char letter;
                uint32_t bits;
        } who[] = { { 'u', 0700 }, { 'g', 0070 }, { 'o', 0007 }, { 'a', 0777 } };
        uint32_t bits = 0;

        for (;; text++) {
                size_t i = 0;

                while (i < ELEMENTSOF(who) && who[i].letter != *text)
                        i++;
                if (i == ELEMENTSOF(who))
                        break;
                bits |= who[i].bits;
        }
        if (bits == 0) {
                mode_t mask = umask(0);

                umask(mask);
                bits = 0777 & ~mask;
        }
        *ret_bits = bits;
        return text;
}

static const char *parse_permissions(const char *text, uint32_t *ret_bits) {
        uint32_t bits = 0;

        for (; *text && strchr("rwx", *text); text++)
                bits |= *text == 'r' ? 0444u : *text == 'w' ? 0222u : 0111u;
        *ret_bits = bits;
        return text;
}

/* One of the changes between commas, such as "g+rw". Gives what follows it, or NULL. */
static const char *parse_clause(const char *text, uint32_t *mode) {
        uint32_t who, bits;
        char verb;

        text = parse_who(text, &who);
        verb = *text;
        if (verb != '+' && verb != '-' && verb != '=')
                return NULL;
        text = parse_permissions(text + 1, &bits);
        bits &= who;

        if (verb == '+')
                *mode |= bits;
        else if (verb == '-')
                *mode &= ~bits;
        else
                *mode = (*mode & ~who) | bits;
        return text;
}

const char *parse_mode_change(const char *text, uint32_t mode, uint32_t *ret_mode) {
        if (is_digit(*text))
                return parse_mode(text, ret_mode);

        for (;;) {
                text = parse_clause(text, &mode);
                if (!text || (*text && *text != ','))
                        return "not a mode such as 0640 or u=rw,g+r,o-rw";
                if (*text == 0)
                        break;
                text++;
        }
        *ret_mode = mode;
        return NULL;
}

/* --- times --- */

const char *parse_seconds(const char *text, uint64_t *ret_usec) {
        return words_parse_seconds(text, strlen(text), ret_usec) ? NULL : words_not_seconds;
}

const char *parse_duration(const char *text, uint64_t *ret_usec) {
        return rules_parse_time(text, ret_usec) ? NULL : "not a time such as 90s, 10min, 2h or 7d";
}

/* --- prefixes --- */

/* The rules are the daemon's: libshmd(3). */
const char *parse_prefix(const char *text) {
        const char *component = text + (text[0] == '/');

        if (strlen(text) > 127)
                return "longer than 127 bytes, which leaves too little for names";
        for (const char *s = text; *s; s++)
                if ((unsigned char) *s < 0x20 || *s == 0x7f)
                        return "it has a control character";
        while (*component) {
                size_t length = strcspn(component, "/");

                if (length == 0)
                        return "it has an empty component";
                if (component[length] == '/' && (strncmp(component, "..", length) == 0 && length <= 2))
                        return "it has a component \".\" or \"..\"";
                component += length + (component[length] == '/');
        }
        if (mbstowcs(NULL, text, 0) == (size_t) -1)
                return "it is not valid UTF-8";
        return NULL;
}

/* --- labels --- */

const char *parse_label(const char *text, char *labels, size_t size) {
        size_t used = strlen(labels), length = strlen(text);
        const char *equals = strchr(text, '=');

        if (!equals || equals == text)
                return "not KEY=VALUE";
        if (strchr(text, '\n'))
                return "a line break can't be part of a label";
        if (used + length + 2 > size)
                return "all labels together are more than 1024 bytes";
        snprintf(labels + used, size - used, "%s\n", text);
        return NULL;
}

/* --- owners --- */

static bool parse_number_of_id(const char *text, uint32_t *ret_id) {
        uint64_t number;

        /* The greatest one means "leave it". */
        if (!parse_id(text, &number) || number >= UINT32_MAX)
                return false;
        *ret_id = (uint32_t) number;
        return true;
}

static const char *parse_user(const char *text, uid_t *ret_uid, gid_t *ret_gid) {
        struct passwd *entry = getpwnam(text);

        if (entry) {
                *ret_uid = entry->pw_uid;
                *ret_gid = entry->pw_gid;
                return NULL;
        }
        if (!parse_number_of_id(text, ret_uid))
                return "no such user";
        entry = getpwuid(*ret_uid);
        *ret_gid = entry ? entry->pw_gid : (gid_t) -1;
        return NULL;
}

static const char *parse_group(const char *text, gid_t *ret_gid) {
        struct group *entry = getgrnam(text);

        if (entry)
                *ret_gid = entry->gr_gid;
        else if (!parse_number_of_id(text, ret_gid))
                return "no such group";
        return NULL;
}

const char *parse_owner(const char *text, uid_t *ret_uid, gid_t *ret_gid) {
        const char *colon = strchr(text, ':');
        size_t user_length = colon ? (size_t) (colon - text) : strlen(text);
        char user[256];
        uid_t uid = (uid_t) -1;
        gid_t login_gid = (gid_t) -1, gid = (gid_t) -1;
        const char *problem = NULL;

        if (user_length >= sizeof(user))
                return "no such user";
        memcpy(user, text, user_length);
        user[user_length] = 0;

        if (user_length > 0)
                problem = parse_user(user, &uid, &login_gid);
        if (!problem && colon && colon[1])
                problem = parse_group(colon + 1, &gid);
        else if (!problem && colon) {
                gid = login_gid;
                if (gid == (gid_t) -1)
                        problem = user_length > 0 ? "that user has no group of its own" : "no group";
        }
        if (!problem && uid == (uid_t) -1 && gid == (gid_t) -1)
                problem = "neither an owner nor a group";
        if (problem)
                return problem;

        *ret_uid = uid;
        *ret_gid = gid;
        return NULL;
}
