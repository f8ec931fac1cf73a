/* SPDX-License-Identifier: MIT */
/*
 * The command line, and the places that follow from it. Read once, before anything else; constant afterwards.
 */
#pragma once

#include <stdbool.h>

#include "log.h"

struct options {
        char *socket_path;
        char *config_path;  /* NULL: none, as a per-user daemon without a home has */
        bool config_named;  /* the user named it: then it must be there */
        bool user;          /* a per-user daemon: only its own user and root connect */
        bool replace;
        int idle_exit_sec;  /* -1: never */
        int log_level;
        enum log_target log_target;
};

/*
 * 0: go on. Otherwise the program ends, with *ret_status: after --help or --version, or because the
 * command line is wrong, which has been said on standard error.
 */
int options_parse(int argc, char **argv, struct options *ret_options, int *ret_status);
void options_done(struct options *options);
