/* SPDX-License-Identifier: MIT */
/*
 * The [reclaim NAME] sections of shmd.conf: what is to be reported, or freed, by itself. Shared by the daemon, which
 * checks the file, and by shmdctl, which acts.
 *
 * Owns the rules in the order of the file. Touches nothing but memory and the list of users.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum rule_kind {
        RULE_SHMD = 1 << 0,
        RULE_POSIX = 1 << 1,
        RULE_SYSV = 1 << 2,
        RULE_ALL = RULE_SHMD | RULE_POSIX | RULE_SYSV,
};

struct rule {
        char *name;
        char *pattern; /* fnmatch(3); NULL: any */
        uint64_t age_usec;
        uid_t uid;
        unsigned kinds; /* enum rule_kind; 0: not said yet */
        int line;       /* where it begins */
        bool has_uid;
        bool reclaim; /* else only report */
};

struct rules {
        struct rule *items;
        size_t count;
};

#define RULE_PROBLEM_MAX 200

void rules_done(struct rules *rules);

/* Whether a section is a rule's. */
bool rules_is_section(const char *section);
/* A setting of such a section. False, with the problem in words, if it can't be. */
bool rules_set(struct rules *rules, const char *section, int line, const char *key, const char *value,
               char problem[RULE_PROBLEM_MAX]);
/* At the end of the file: NULL, or the rule that lacks something, with the problem in words. */
const struct rule *rules_check(const struct rules *rules, char problem[RULE_PROBLEM_MAX]);

/* The first rule that is about such an object, or NULL. */
const struct rule *rules_find(const struct rules *rules, enum rule_kind kind, const char *name, uid_t uid, uint64_t age_usec);

/* 90, 90s, 10min, 2h, 7d; also 1.5h. */
bool rules_parse_time(const char *text, uint64_t *ret_usec);
