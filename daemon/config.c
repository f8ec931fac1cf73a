/* SPDX-License-Identifier: MIT */
#include "config.h"

#include <ctype.h>
#include <grp.h>
#include <ini.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "rules.h"
#include "util.h"

/* What the daemon needs for itself: sockets, events, files of /proc for a moment. */
#define OWN_DESCRIPTORS 64u

struct reader {
        struct config config;
        struct rules rules; /* shmdctl acts on them: here they are only checked */
        FILE *file;
        int line;          /* that was read last */
        int problem_line;
        char problem[256]; /* the first one */
};

struct limit_key {
        const char *name;
        enum quota_resource resource;
};

static const struct limit_key limit_keys[] = {
        { "bytes", QUOTA_BYTES },
        { "segments", QUOTA_SEGMENTS },
        { "holds", QUOTA_HOLDS },
        { "connections", QUOTA_CONNECTIONS },
        { "watches", QUOTA_WATCHES },
};

static uint64_t machine_memory(void) {
        return (uint64_t) sysconf(_SC_PHYS_PAGES) * (uint64_t) sysconf(_SC_PAGESIZE);
}

void config_init(struct config *config, uint64_t descriptors) {
        *config = (struct config) { .administrators = (gid_t) -1 };
        for (int i = 0; i < QUOTA_COUNT; i++)
                config->maximum[i] = config->pool[i] = QUOTA_UNLIMITED;
        /* Half of the memory, as a tmpfs has by default: tmpfs(5). */
        config->maximum[QUOTA_BYTES] = machine_memory() / 2;
        config->maximum[QUOTA_SEGMENTS] = 65536;
        config->maximum[QUOTA_HOLDS] = 262144;
        config->maximum[QUOTA_CONNECTIONS] = 4096;
        config->maximum[QUOTA_WATCHES] = 512;
        config->pool[QUOTA_BYTES] = machine_memory();
        /* What the kernel lets a daemon without CAP_SYS_RESOURCE have: unix(7), ETOOMANYREFS. */
        config->pool[QUOTA_IN_FLIGHT] = descriptors;
        config->pool[QUOTA_DESCRIPTORS] = descriptors > 2 * OWN_DESCRIPTORS ? descriptors - OWN_DESCRIPTORS : descriptors / 2;
}

static int fail(struct reader *reader, const char *format, const char *a, const char *b) {
        if (reader->problem_line == 0) {
                (void) snprintf(reader->problem, sizeof(reader->problem), format, a, b);
                reader->problem_line = reader->line;
        }
        return 0;
}

/* A number, with K, M, G or T behind it, or % of the machine's memory, or "unlimited". */
static bool parse_amount(const char *text, bool bytes, uint64_t *ret) {
        static const char units[] = "KMGT";
        uint64_t value;
        char *end;

        if (strcmp(text, "unlimited") == 0) {
                *ret = QUOTA_UNLIMITED;
                return true;
        }
        if (!isdigit((unsigned char) text[0]))
                return false;
        errno = 0;
        value = strtoull(text, &end, 10);
        if (errno != 0)
                return false;
        if (bytes && strcmp(end, "%") == 0) {
                if (value > 1000)
                        return false;
                value = machine_memory() / 100 * value;
        } else if (bytes && *end != '\0') {
                const char *unit = strchr(units, toupper((unsigned char) *end));

                if (!unit || end[1] != '\0')
                        return false;
                for (const char *u = units; u <= unit; u++)
                        if (__builtin_mul_overflow(value, UINT64_C(1024), &value))
                                return false;
        } else if (*end != '\0')
                return false;
        *ret = value;
        return true;
}

static int read_limit(struct reader *reader, uint64_t *limits, const char *name, const char *value) {
        for (size_t i = 0; i < ELEMENTSOF(limit_keys); i++) {
                enum quota_resource resource = limit_keys[i].resource;

                if (strcmp(name, limit_keys[i].name) != 0)
                        continue;
                if (parse_amount(value, resource == QUOTA_BYTES, &limits[resource]))
                        return 1;
                return fail(reader, "%s: \"%s\" is no amount; it takes a number, for bytes also with K, M, G, T or %%, or \"unlimited\"",
                            name, value);
        }
        return fail(reader, "no such limit: \"%s\"%s", name, "");
}

static int read_group(struct reader *reader, const char *value) {
        struct group *group;

        if (value[0] == '\0') {
                reader->config.administrators = (gid_t) -1;
                return 1;
        }
        group = getgrnam(value);
        if (!group)
                return fail(reader, "there is no group \"%s\"%s", value, "");
        reader->config.administrators = group->gr_gid;
        return 1;
}

static int read_rule(struct reader *reader, const char *section, const char *name, const char *value) {
        char problem[RULE_PROBLEM_MAX];

        if (rules_set(&reader->rules, section, reader->line, name, value, problem))
                return 1;
        return fail(reader, "%s%s", problem, "");
}

static void check_rules(struct reader *reader) {
        char problem[RULE_PROBLEM_MAX];
        const struct rule *rule = rules_check(&reader->rules, problem);

        if (!rule || reader->problem_line != 0)
                return;
        reader->line = rule->line;
        (void) fail(reader, "%s%s", problem, "");
}

/* inih's handler: 1 is success. */
static int on_setting(void *userdata, const char *section, const char *name, const char *value) {
        struct reader *reader = userdata;

        if (strcmp(section, "limits") == 0)
                return read_limit(reader, reader->config.maximum, name, value);
        if (strcmp(section, "total") == 0)
                return read_limit(reader, reader->config.pool, name, value);
        if (strcmp(section, "access") == 0) {
                if (strcmp(name, "administrators") == 0)
                        return read_group(reader, value);
                return fail(reader, "no such setting in [access]: \"%s\"%s", name, "");
        }
        if (rules_is_section(section))
                return read_rule(reader, section, name, value);
        if (section[0] == '\0')
                return fail(reader, "\"%s\" stands before the first [section]%s", name, "");
        return fail(reader, "no such section: [%s]%s", section, "");
}

/* inih's source of lines, which counts them. One that does not fit would be read as two. */
static char *read_line(char *buffer, int size, void *userdata) {
        struct reader *reader = userdata;
        size_t length;

        if (!fgets(buffer, size, reader->file))
                return NULL;
        reader->line++;
        length = strlen(buffer);
        if (length + 1 == (size_t) size && buffer[length - 1] != '\n') {
                (void) fail(reader, "the line is too long%s%s", "", "");
                return NULL;
        }
        return buffer;
}

static int parse(struct reader *reader, const char *path) {
        int line = ini_parse_stream(read_line, reader, on_setting, reader);

        if (ferror(reader->file)) {
                log_error("cannot read %s: %s", path, strerror(errno));
                return -EIO;
        }
        if (line != 0 && (reader->problem_line == 0 || line < reader->problem_line)) {
                reader->problem_line = line;
                (void) snprintf(reader->problem, sizeof(reader->problem), "neither a [section] nor a \"name = value\"");
        }
        check_rules(reader);
        if (reader->problem_line == 0)
                return 0;
        log_error("%s:%d: %s", path, reader->problem_line, reader->problem);
        return -EINVAL;
}

int config_read(struct config *config, const char *path) {
        struct reader reader = { .config = *config };
        int r;

        reader.file = fopen(path, "re");
        if (!reader.file) {
                r = negative_errno();
                if (r != -ENOENT)
                        log_error("cannot read %s: %s", path, strerror(-r));
                return r;
        }
        r = parse(&reader, path);
        (void) fclose(reader.file);
        rules_done(&reader.rules);
        if (r == 0)
                *config = reader.config;
        return r;
}
