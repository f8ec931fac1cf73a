/* SPDX-License-Identifier: MIT */
/*
 * What the operator wants to find later: to the journal with fields, or to
 * standard error. Never a line for each request.
 *
 * Process-wide state, set once at start. Keeps errno. Event loop thread only, which waits for nobody who reads it: what is not
 * taken at once is lost, and how much that was is told when it is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <syslog.h>

#include "util.h"

enum log_target {
        LOG_TARGET_AUTO, /* the journal if standard error is connected to it or closed, else standard error */
        LOG_TARGET_JOURNAL,
        LOG_TARGET_STDERR,
};

void log_setup(enum log_target target, int max_level);

/* 0, or -EINVAL if the word is none of emerg … debug, or auto, journal, stderr. */
int log_level_from_string(const char *word, int *ret_level);
int log_target_from_string(const char *word, enum log_target *ret_target);

/* Whether what has that level is told at all. */
bool log_is_enabled(int level);

/* Fields of the journal; zero or NULL leaves one out. */
struct log_fields {
        const char *message_id;
        const char *segment;
        uint64_t id;
        int64_t uid; /* -1: none */
        int64_t pid;
};
#define LOG_FIELDS_NONE ((struct log_fields) { .uid = -1 })

void log_fields(int level, const struct log_fields *fields, const char *format, ...) _printf_(3, 4);

#define log_message(level, ...) log_fields(level, &LOG_FIELDS_NONE, __VA_ARGS__)
#define log_error(...) log_message(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_DEBUG, __VA_ARGS__)
