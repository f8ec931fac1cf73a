/* SPDX-License-Identifier: MIT */
#include "rules.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "util.h"
#include "words.h"

#define SECTION "reclaim "
#define USEC UINT64_C(1000000)
#define AGE_DEFAULT_USEC (86400 * USEC)

void rules_done(struct rules *rules) {
        for (size_t i = 0; i < rules->count; i++) {
                free(rules->items[i].name);
                free(rules->items[i].pattern);
        }
        free(rules->items);
        *rules = (struct rules) { 0 };
}

bool rules_is_section(const char *section) {
        return strncmp(section, SECTION, strlen(SECTION)) == 0 && section[strlen(SECTION)] != '\0';
}

/* --- values --- */

bool rules_parse_time(const char *text, uint64_t *ret_usec) {
        static const struct {
                const char *name;
                uint64_t seconds;
        } units[] = { { "min", 60 }, { "m", 60 }, { "s", 1 }, { "h", 3600 }, { "d", 86400 } };
        size_t length = strlen(text);
        uint64_t factor = 1, usec = 0;

        for (size_t i = 0; i < ELEMENTSOF(units); i++) {
                size_t unit = strlen(units[i].name);

                if (length > unit && strcmp(text + length - unit, units[i].name) == 0) {
                        factor = units[i].seconds;
                        length -= unit;
                        break;
                }
        }
        if (!words_parse_seconds(text, length, &usec) || __builtin_mul_overflow(usec, factor, &usec))
                return false;
        *ret_usec = usec;
        return true;
}

static bool set_kind(struct rule *rule, const char *value) {
        static const struct {
                const char *name;
                unsigned kinds;
        } kinds[] = { { "shmd", RULE_SHMD }, { "posix", RULE_POSIX }, { "sysv", RULE_SYSV }, { "all", RULE_ALL } };

        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                if (strcmp(value, kinds[i].name) == 0) {
                        rule->kinds = kinds[i].kinds;
                        return true;
                }
        }
        return false;
}

static bool set_user(struct rule *rule, const char *value) {
        const struct passwd *entry = getpwnam(value);
        char *end;
        unsigned long number;

        rule->has_uid = true;
        if (entry) {
                rule->uid = entry->pw_uid;
                return true;
        }
        errno = 0;
        number = isdigit((unsigned char) value[0]) ? strtoul(value, &end, 10) : 0;
        rule->uid = (uid_t) number;
        return isdigit((unsigned char) value[0]) && errno == 0 && *end == '\0' && number < UINT32_MAX;
}

static bool set_action(struct rule *rule, const char *value) {
        rule->reclaim = strcmp(value, "reclaim") == 0;
        return rule->reclaim || strcmp(value, "report") == 0;
}

static bool set_pattern(struct rule *rule, const char *value) {
        char *copy = strdup(value);

        if (!copy)
                return false;
        free(rule->pattern);
        rule->pattern = copy;
        return true;
}

static bool set_age(struct rule *rule, const char *value) {
        return rules_parse_time(value, &rule->age_usec);
}

/* --- rules --- */

static struct rule *rule_get(struct rules *rules, const char *name, int line) {
        struct rule *items;
        char *copy;

        for (size_t i = 0; i < rules->count; i++)
                if (strcmp(rules->items[i].name, name) == 0)
                        return &rules->items[i];
        items = reallocarray(rules->items, rules->count + 1, sizeof(*items));
        if (!items)
                return NULL;
        rules->items = items;
        copy = strdup(name);
        if (!copy)
                return NULL;
        items[rules->count] = (struct rule) { .name = copy, .age_usec = AGE_DEFAULT_USEC, .line = line };
        return &items[rules->count++];
}

bool rules_set(struct rules *rules, const char *section, int line, const char *key, const char *value,
               char problem[RULE_PROBLEM_MAX]) {
        static const struct {
                const char *name;
                bool (*set)(struct rule *rule, const char *value);
                const char *takes;
        } keys[] = {
                { "kind", set_kind, "shmd, posix, sysv or all" },
                { "pattern", set_pattern, "a pattern" },
                { "user", set_user, "a user" },
                { "age", set_age, "a time such as 90s, 10min, 2h or 7d" },
                { "action", set_action, "report or reclaim" },
        };
        struct rule *rule = rule_get(rules, section + strlen(SECTION), line);

        if (!rule) {
                (void) snprintf(problem, RULE_PROBLEM_MAX, "out of memory");
                return false;
        }
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                if (strcmp(key, keys[i].name) != 0)
                        continue;
                if (keys[i].set(rule, value))
                        return true;
                (void) snprintf(problem, RULE_PROBLEM_MAX, "%s takes %s, not \"%.80s\"", key, keys[i].takes, value);
                return false;
        }
        (void) snprintf(problem, RULE_PROBLEM_MAX, "no such setting in a [reclaim] section: \"%.80s\"", key);
        return false;
}

const struct rule *rules_check(const struct rules *rules, char problem[RULE_PROBLEM_MAX]) {
        for (size_t i = 0; i < rules->count; i++) {
                if (rules->items[i].kinds != 0)
                        continue;
                (void) snprintf(problem, RULE_PROBLEM_MAX, "the section [reclaim %.80s] says no kind", rules->items[i].name);
                return &rules->items[i];
        }
        return NULL;
}

const struct rule *rules_find(const struct rules *rules, enum rule_kind kind, const char *name, uid_t uid, uint64_t age_usec) {
        for (size_t i = 0; i < rules->count; i++) {
                const struct rule *rule = &rules->items[i];

                if ((rule->kinds & kind) && (!rule->has_uid || rule->uid == uid) && age_usec >= rule->age_usec &&
                    (!rule->pattern || fnmatch(rule->pattern, name, 0) == 0))
                        return rule;
        }
        return NULL;
}
