/* SPDX-License-Identifier: MIT */
#include "leaks.h"

#include <errno.h>
#include <ini.h>
#include <string.h>

struct reader {
        struct rules rules;
        FILE *file;
        int line;
        int problem_line; /* the first one */
        char problem[RULE_PROBLEM_MAX];
};

/* inih's source of lines, which counts them. One that does not fit would be read as two: as in daemon/config.c. */
static char *read_line(char *buffer, int size, void *userdata) {
        struct reader *reader = userdata;
        size_t length;

        if (!fgets(buffer, size, reader->file))
                return NULL;
        reader->line++;
        length = strlen(buffer);
        if (length + 1 < (size_t) size || buffer[length - 1] == '\n')
                return buffer;
        if (reader->problem_line == 0) {
                reader->problem_line = reader->line;
                snprintf(reader->problem, sizeof(reader->problem), "the line is too long");
        }
        return NULL;
}

/* inih's handler: 1 is success. Other sections are the daemon's. */
static int on_setting(void *userdata, const char *section, const char *name, const char *value) {
        struct reader *reader = userdata;

        if (reader->problem_line > 0 || !rules_is_section(section) ||
            rules_set(&reader->rules, section, reader->line, name, value, reader->problem))
                return 1;
        reader->problem_line = reader->line;
        return 0;
}

static void check(struct reader *reader, int bad_line) {
        const struct rule *rule;

        if (bad_line > 0 && (reader->problem_line == 0 || bad_line < reader->problem_line)) {
                reader->problem_line = bad_line;
                snprintf(reader->problem, sizeof(reader->problem), "neither a [section] nor a \"name = value\"");
        }
        if (reader->problem_line > 0)
                return;
        rule = rules_check(&reader->rules, reader->problem);
        if (rule)
                reader->problem_line = rule->line;
}

/* The file that the daemon reads: shmd.conf(5). */
static char *default_path(const struct ctl *ctl) {
        const char *home = getenv("HOME"), *directory = getenv("XDG_CONFIG_HOME");
        char *path = NULL;
        int r;

        if (geteuid() == 0 && ctl->options.daemon != DAEMON_OF_USER)
                r = asprintf(&path, "/etc/shmd/shmd.conf");
        else if (directory && *directory == '/')
                r = asprintf(&path, "%s/shmd/shmd.conf", directory);
        else
                r = asprintf(&path, "%s/.config/shmd/shmd.conf", home ? home : "");
        if (r < 0)
                fail_memory();
        return path;
}

int rules_read(const struct ctl *ctl, struct rules *ret_rules) {
        _cleanup_(freep) char *path = ctl->options.rules_path ? strdup(ctl->options.rules_path) : default_path(ctl);
        struct reader reader = { 0 };
        int bad_line;

        *ret_rules = (struct rules) { 0 };
        if (!path)
                fail_memory();
        reader.file = fopen(path, "re");
        if (!reader.file && errno == ENOENT && !ctl->options.rules_path)
                return STATUS_DONE; /* as for the daemon: no rules */
        if (!reader.file)
                return fail("cannot read %s: %s", path, strerror(errno));
        bad_line = ini_parse_stream(read_line, &reader, on_setting, &reader);
        fclose(reader.file);
        check(&reader, bad_line);
        if (reader.problem_line > 0) {
                rules_done(&reader.rules);
                return fail("%s:%d: %s", path, reader.problem_line, reader.problem);
        }
        *ret_rules = reader.rules;
        return STATUS_DONE;
}
