/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum {
        EXIT_USAGE = 2,
};

enum {
        OPTION_SOCKET = 256,
        OPTION_CONFIG,
        OPTION_USER,
        OPTION_SYSTEM,
        OPTION_IDLE_EXIT,
        OPTION_REPLACE,
        OPTION_LOG_LEVEL,
        OPTION_LOG_TARGET,
        OPTION_VERSION,
};

static const struct option long_options[] = {
        { "socket", required_argument, NULL, OPTION_SOCKET },
        { "config", required_argument, NULL, OPTION_CONFIG },
        { "user", no_argument, NULL, OPTION_USER },
        { "system", no_argument, NULL, OPTION_SYSTEM },
        { "idle-exit", required_argument, NULL, OPTION_IDLE_EXIT },
        { "replace", no_argument, NULL, OPTION_REPLACE },
        { "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
        { "log-target", required_argument, NULL, OPTION_LOG_TARGET },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, OPTION_VERSION },
        { 0 },
};

static void print_help(void) {
        (void) printf("Usage: shmd [OPTION...]\n"
                      "\n"
                      "The shared-memory daemon: owns named segments and hands out their descriptors.\n"
                      "Runs in the foreground.\n"
                      "\n"
                      "  --socket PATH         listen there\n"
                      "  --config FILE         read this file (default: /etc/shmd/shmd.conf, or with --user\n"
                      "                        shmd/shmd.conf in $XDG_CONFIG_HOME or ~/.config)\n"
                      "  --system              the system's daemon: listen on /run/shmd/shmd.sock\n"
                      "                        (the default for root)\n"
                      "  --user                the caller's own: $XDG_RUNTIME_DIR/shmd/shmd.sock\n"
                      "                        (the default for everybody else)\n"
                      "  --idle-exit SECONDS   end when there was no client for so long, nor a segment that would be lost\n"
                      "  --replace             take the place, and the segments, of the daemon that runs there\n"
                      "  --log-level LEVEL     emerg, alert, crit, err, warning, notice, info or debug\n"
                      "                        (default: info)\n"
                      "  --log-target TARGET   auto, journal or stderr (default: auto)\n"
                      "  -h, --help            print this\n"
                      "  --version             print the version\n"
                      "\n"
                      "A socket from the service manager is used instead of making one.\n"
                      "See shmd(8).\n");
}

static int usage_error(const char *what, const char *value) {
        (void) dprintf(STDERR_FILENO, "shmd: %s%s%s\nTry 'shmd --help'.\n", what, value ? ": " : "", value ? value : "");
        return EXIT_USAGE;
}

static int parse_seconds(const char *text, int *ret_seconds) {
        char *end;
        long value;

        errno = 0;
        value = strtol(text, &end, 10);
        if (errno != 0 || end == text || *end != '\0' || value < 0 || value > INT_MAX)
                return -EINVAL;
        *ret_seconds = (int) value;
        return 0;
}

/* Nothing may be left out of a path that other programs have to find. */
static int default_path(struct options *options) {
        const char *runtime = getenv("XDG_RUNTIME_DIR");
        int n;

        if (!options->user)
                options->socket_path = strdup("/run/shmd/shmd.sock");
        else {
                if (!runtime || runtime[0] != '/')
                        return usage_error("XDG_RUNTIME_DIR is not set; say where to listen with --socket", NULL);
                n = asprintf(&options->socket_path, "%s/shmd/shmd.sock", runtime);
                if (n < 0)
                        options->socket_path = NULL;
        }
        return options->socket_path ? 0 : usage_error("out of memory", NULL);
}

/* Where the configuration is if nobody says so. It need not be there. */
static int default_config(struct options *options) {
        const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
        int n = 0;

        if (!options->user)
                n = asprintf(&options->config_path, "/etc/shmd/shmd.conf");
        else if (config && config[0] == '/')
                n = asprintf(&options->config_path, "%s/shmd/shmd.conf", config);
        else if (home && home[0] == '/')
                n = asprintf(&options->config_path, "%s/.config/shmd/shmd.conf", home);
        return n < 0 ? usage_error("out of memory", NULL) : 0;
}

static int parse_one(int c, struct options *options, const char **socket_path) {
        switch (c) {
        case OPTION_CONFIG:
                free(options->config_path);
                options->config_path = strdup(optarg);
                options->config_named = true;
                return options->config_path ? 0 : usage_error("out of memory", NULL);
        case OPTION_SOCKET:
                *socket_path = optarg;
                return optarg[0] ? 0 : usage_error("--socket needs a path", NULL);
        case OPTION_USER:
        case OPTION_SYSTEM:
                options->user = c == OPTION_USER;
                return 0;
        case OPTION_IDLE_EXIT:
                return parse_seconds(optarg, &options->idle_exit_sec) < 0
                               ? usage_error("--idle-exit needs a number of seconds, not", optarg)
                               : 0;
        case OPTION_REPLACE:
                options->replace = true;
                return 0;
        case OPTION_LOG_LEVEL:
                return log_level_from_string(optarg, &options->log_level) < 0 ? usage_error("no such log level", optarg) : 0;
        case OPTION_LOG_TARGET:
                return log_target_from_string(optarg, &options->log_target) < 0 ? usage_error("no such log target", optarg) : 0;
        default: /* getopt_long has said what is wrong */
                return usage_error("invalid command line", NULL);
        }
}

int options_parse(int argc, char **argv, struct options *ret_options, int *ret_status) {
        struct options options = {
                .user = geteuid() != 0,
                .idle_exit_sec = -1,
                .log_level = LOG_INFO,
                .log_target = LOG_TARGET_AUTO,
        };
        const char *socket_path = NULL;
        int c;

        while ((c = getopt_long(argc, argv, "h", long_options, NULL)) >= 0) {
                if (c == 'h' || c == OPTION_VERSION) {
                        if (c == 'h')
                                print_help();
                        else
                                (void) printf("shmd %s\n", PACKAGE_VERSION);
                        *ret_status = fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
                        return 1;
                }
                *ret_status = parse_one(c, &options, &socket_path);
                if (*ret_status != 0)
                        return 1;
        }
        if (optind < argc) {
                *ret_status = usage_error("unexpected argument", argv[optind]);
                return 1;
        }
        if (socket_path)
                options.socket_path = strdup(socket_path);
        *ret_status = socket_path ? (options.socket_path ? 0 : usage_error("out of memory", NULL)) : default_path(&options);
        if (*ret_status == 0 && !options.config_named)
                *ret_status = default_config(&options);
        if (*ret_status != 0)
                return 1;
        *ret_options = options;
        return 0;
}

void options_done(struct options *options) {
        free(options->socket_path);
        free(options->config_path);
        *options = (struct options) { 0 };
}
