/* SPDX-License-Identifier: MIT */
/*
 * run: becomes a program whose own shm_open(3) is served by the daemon, through the preloaded library.
 *
 * It is the very process that the shell or the service manager started: there is nothing between them and the program.
 */
#include "shmdctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void export(const char *name, const char *value) {
        if (setenv(name, value, 1) < 0)
                fail_memory();
}

static const char *library_path(void) {
        const char *path = getenv("SHMD_PRELOAD_LIBRARY");

        return path && path[0] != '\0' ? path : SHMD_PRELOAD_PATH;
}

/* After what is preloaded already: sanitizers insist on being first. ld.so(8) splits at blanks and colons. */
static int preload(const char *path) {
        const char *others = getenv("LD_PRELOAD");
        _cleanup_(freep) char *list = NULL;

        if (strpbrk(path, " :"))
                return fail("cannot preload \"%s\": neither blanks nor colons may be in the path", path);
        if (access(path, R_OK) < 0)
                return fail("cannot preload \"%s\": %s", path, strerror(errno));
        if (asprintf(&list, "%s%s%s", others && others[0] ? others : "", others && others[0] ? " " : "", path) < 0)
                fail_memory();
        export("LD_PRELOAD", list);
        return STATUS_DONE;
}

/*
 * AddressSanitizer refuses to start where another library comes before its own, lest its malloc is not the program's. Ours has none. What
 * the user says comes later, and counts.
 */
static void export_sanitizer_options(void) {
        const char *others = getenv("ASAN_OPTIONS");
        _cleanup_(freep) char *list = NULL;

        if (asprintf(&list, "verify_asan_link_order=0%s%s", others && others[0] ? ":" : "", others && others[0] ? others : "") < 0)
                fail_memory();
        export("ASAN_OPTIONS", list);
}

static void export_lifetime(const struct shmd_create_options *create) {
        static const char *const words[] = {
                [SHMD_LIFETIME_PERSIST] = "persist",
                [SHMD_LIFETIME_HOLDERS] = "holders",
        };
        char linger[64];

        if (create->lifetime != SHMD_LIFETIME_LINGER)
                return export("SHMD_PRELOAD_LIFETIME", words[create->lifetime]);
        snprintf(linger, sizeof(linger), "linger=%" PRIu64 ".%06" PRIu64, create->linger_usec / USEC_PER_SECOND,
                 create->linger_usec % USEC_PER_SECOND);
        export("SHMD_PRELOAD_LIFETIME", linger);
}

/* The program looks for the daemon as we did: one that is idle may end meanwhile, and be started again. */
static void export_daemon(const struct options *options) {
        if (options->daemon == DAEMON_AT_SOCKET)
                export("SHMD_SOCKET", options->socket_path);
        else if (options->daemon != DAEMON_DEFAULT)
                export("SHMD_PRELOAD_DAEMON", options->daemon == DAEMON_OF_USER ? "user" : "system");
        if (options->daemon == DAEMON_AT_SOCKET)
                (void) unsetenv("SHMD_PRELOAD_DAEMON");
}

/* This process, which the program will be, by number and start time: what the program makes is kept as long as it lives. */
static void export_keeper(void) {
        unsigned long long started = 0;
        FILE *file = fopen("/proc/self/stat", "re");
        char text[1024] = "", number[32], *p;

        if (file && !fgets(text, sizeof(text), file))
                text[0] = '\0';
        if (file)
                fclose(file);
        p = strrchr(text, ')'); /* the command may have anything in it */
        if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &started) != 1)
                return;
        snprintf(number, sizeof(number), "%llu", started << 22 | (unsigned long long) getpid());
        export("SHMD_PRELOAD_KEEPER", number);
}

static int prepare(const struct options *options) {
        export_keeper();
        export_daemon(options);
        if (options->lifetime_given)
                export_lifetime(&options->create);
        if (options->prefix)
                export("SHMD_PRELOAD_PREFIX", options->prefix);
        if (options->required)
                export("SHMD_PRELOAD_REQUIRED", "1");
        export_sanitizer_options();
        return preload(library_path());
}

static int execute(char **program) {
        int error;

        (void) execvp(program[0], program);
        error = errno;
        fail("cannot run \"%s\": %s", program[0], strerror(error));
        return error == ENOENT || error == ENOTDIR ? 127 : 126;
}

/* By the option, or by what the library itself would read. */
static bool is_required(const struct options *options) {
        const char *word = getenv("SHMD_PRELOAD_REQUIRED");

        return options->required || (word && strcmp(word, "1") == 0);
}

int cmd_run(struct ctl *ctl, int n_arguments, char **arguments) {
        struct options *options = &ctl->options;
        int status;

        (void) n_arguments;
        (void) arguments;
        if (is_required(options)) {
                status = connect_to_daemon(ctl);
                if (status != STATUS_DONE)
                        return status;
        } else if (connection_open(ctl) < 0) {
                fail("%s; \"%s\" has the system's own shared memory", shmd_error_message(NULL), ctl->program[0]);
                return execute(ctl->program);
        }
        ctl->connection = shmd_disconnect(ctl->connection);
        if (program_is_for_musl(ctl->program[0])) {
                fail("\"%s\" has another C library, musl, and the system's own shared memory", ctl->program[0]);
                return is_required(options) ? STATUS_FAILED : execute(ctl->program);
        }
        status = prepare(options);
        return status == STATUS_DONE ? execute(ctl->program) : status;
}
