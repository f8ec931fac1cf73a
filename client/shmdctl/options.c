/* SPDX-License-Identifier: MIT */
/*
 * The one table of options: what they are called, what they say in --help, and
 * what they do. Each command takes a set of them besides the global ones.
 */
#include "shmdctl.h"

#include "scan.h"
#include "words.h"

#include <getopt.h>
#include <string.h>

#define HUGE_PAGE_BYTES (UINT64_C(1) << 21)
#define GIGANTIC_PAGE_BYTES (UINT64_C(1) << 30)

/* --- what they do: each gives 0, or -1 after telling what is wrong --- */

static int set_socket(struct ctl *ctl, const char *argument) {
        if (argument[0] == '\0') {
                fail_usage(ctl, "--socket needs a path");
                return -1;
        }
        ctl->options.daemon = DAEMON_AT_SOCKET;
        ctl->options.socket_path = argument;
        return 0;
}

static int set_user(struct ctl *ctl, const char *argument) {
        (void) argument;
        ctl->options.daemon = DAEMON_OF_USER;
        return 0;
}

static int set_system(struct ctl *ctl, const char *argument) {
        (void) argument;
        ctl->options.daemon = DAEMON_OF_SYSTEM;
        return 0;
}

static int set_columns(struct ctl *ctl, const char *argument) {
        ctl->options.columns = argument;
        return 0;
}

static int complain(struct ctl *ctl, const char *what, const char *argument, const char *problem) {
        fail_usage(ctl, "%s \"%s\": %s", what, argument, problem);
        return -1;
}

static int set_mode(struct ctl *ctl, const char *argument) {
        const char *problem = parse_mode(argument, &ctl->options.create.mode);

        /* Zero stands for the default in shmd.h. */
        if (!problem && (ctl->options.create.mode & 0666) == 0)
                problem = "would let nobody in, not even its owner; if that is meant, use chmod afterwards";
        return problem ? complain(ctl, "--mode", argument, problem) : 0;
}

static int set_lifetime(struct ctl *ctl, const char *argument) {
        struct shmd_create_options *create = &ctl->options.create;
        const char *problem = words_parse_lifetime(argument, true, &create->lifetime, &create->linger_usec);

        ctl->options.lifetime_given = true;
        return problem ? complain(ctl, "--lifetime", argument, problem) : 0;
}

static int set_run_lifetime(struct ctl *ctl, const char *argument) {
        struct shmd_create_options *create = &ctl->options.create;
        const char *problem = words_parse_lifetime(argument, false, &create->lifetime, &create->linger_usec);

        if (problem && strcmp(argument, "creator") == 0)
                problem = "the connection of a program's own calls comes and goes; see holders";
        ctl->options.lifetime_given = true;
        return problem ? complain(ctl, "--lifetime", argument, problem) : 0;
}

static int set_label(struct ctl *ctl, const char *argument) {
        struct options *options = &ctl->options;
        const char *problem = parse_label(argument, options->labels, sizeof(options->labels));

        options->create.labels = options->labels;
        return problem ? complain(ctl, "--label", argument, problem) : 0;
}

static int set_maximum(struct ctl *ctl, const char *argument) {
        uint64_t *maximum = &ctl->options.create.maximum_bytes;
        const char *problem = parse_size(argument, maximum);

        /* Zero stands for none in shmd.h. */
        if (!problem && *maximum == 0)
                problem = "a segment has at least one byte";
        return problem ? complain(ctl, "--maximum", argument, problem) : 0;
}

static int set_huge(struct ctl *ctl, const char *argument) {
        uint64_t bytes = HUGE_PAGE_BYTES;
        const char *problem = argument ? parse_size(argument, &bytes) : NULL;

        if (!problem && bytes != HUGE_PAGE_BYTES && bytes != GIGANTIC_PAGE_BYTES)
                problem = "huge pages are of 2M or 1G";
        ctl->options.create.page_bytes = bytes;
        return problem ? complain(ctl, "--huge", argument, problem) : 0;
}

static int set_sysv(struct ctl *ctl, enum shmd_sysv kind, uint32_t number) {
        struct shmd_create_options *create = &ctl->options.create;

        if (create->sysv && create->sysv != kind) {
                fail_usage(ctl, "--sysv-key makes a segment, --sysv-id names one that is there: not both");
                return -1;
        }
        create->sysv = kind;
        create->sysv_number = number;
        return 0;
}

static int set_sysv_key(struct ctl *ctl, const char *argument) {
        const char *problem;
        uint32_t key;

        problem = parse_key(argument, &key);
        return problem ? complain(ctl, "--sysv-key", argument, problem) : set_sysv(ctl, SHMD_SYSV_MAKE, key);
}

static int set_sysv_id(struct ctl *ctl, const char *argument) {
        uint64_t shmid;

        if (!parse_id(argument, &shmid) || shmid > INT32_MAX)
                return complain(ctl, "--sysv-id", argument, "not the number of a SysV segment (ipcs -m shows them)");
        return set_sysv(ctl, SHMD_SYSV_ADOPT, (uint32_t) shmid);
}

static int set_file(struct ctl *ctl, const char *argument) {
        ctl->options.file_path = argument;
        return 0;
}

static int set_prefix(struct ctl *ctl, const char *argument) {
        const char *problem = parse_prefix(argument);

        ctl->options.prefix = argument;
        return problem ? complain(ctl, "--prefix", argument, problem) : 0;
}

static int set_timeout(struct ctl *ctl, const char *argument) {
        const char *problem = parse_seconds(argument, &ctl->options.timeout_usec);

        return problem ? complain(ctl, "--timeout", argument, problem) : 0;
}

static int set_count(struct ctl *ctl, const char *argument) {
        if (!parse_id(argument, &ctl->options.count) || ctl->options.count == 0)
                return complain(ctl, "--count", argument, "not a number from 1 on");
        return 0;
}

static int set_offset(struct ctl *ctl, const char *argument) {
        const char *problem = parse_size(argument, &ctl->options.offset_bytes);

        return problem ? complain(ctl, "--offset", argument, problem) : 0;
}

static int set_length(struct ctl *ctl, const char *argument) {
        const char *problem = parse_size(argument, &ctl->options.length_bytes);

        ctl->options.has_length = true;
        return problem ? complain(ctl, "--length", argument, problem) : 0;
}

static int set_kind(struct ctl *ctl, const char *argument) {
        ctl->options.kinds = 0;
        if (strcmp(argument, "all") == 0)
                return 0;
        for (unsigned kind = 0; kind < SCAN_KINDS; kind++) {
                if (strcmp(argument, scan_kind_name(kind)) == 0)
                        ctl->options.kinds = 1u << kind;
        }
        return ctl->options.kinds ? 0 : complain(ctl, "--kind", argument, "not one of shmd, posix, sysv, all");
}

static int set_min_age(struct ctl *ctl, const char *argument) {
        const char *problem = parse_duration(argument, &ctl->options.min_age_usec);

        return problem ? complain(ctl, "--min-age", argument, problem) : 0;
}

static int set_uid(struct ctl *ctl, const char *argument) {
        const char *problem = strchr(argument, ':') || !*argument ? "not a user" : NULL;
        gid_t gid;

        if (!problem)
                problem = parse_owner(argument, &ctl->options.uid, &gid);
        ctl->options.has_uid = true;
        return problem ? complain(ctl, "--uid", argument, problem) : 0;
}

static int set_rules(struct ctl *ctl, const char *argument) {
        ctl->options.rules = true;
        ctl->options.rules_path = argument;
        return 0;
}

static int set_output(struct ctl *ctl, const char *argument) {
        ctl->options.output_path = argument;
        return 0;
}

static int set_sort(struct ctl *ctl, const char *argument) {
        ctl->options.sort = argument;
        return 0;
}

static int set_interval(struct ctl *ctl, const char *argument) {
        const char *problem = parse_seconds(argument, &ctl->options.interval_usec);

        if (!problem && ctl->options.interval_usec < USEC_PER_SECOND / 10)
                problem = "too short: 0.1 at least";
        return problem ? complain(ctl, "--interval", argument, problem) : 0;
}

/* --- the table --- */

struct option_row {
        const char *name;
        char letter;          /* 0: none */
        const char *argument; /* NULL: takes none; in brackets: may be left out */
        const char *help;
        const char *values; /* as in struct option_info */
        int (*set)(struct ctl *ctl, const char *argument);
        size_t flag; /* without a function: the bool in struct options that it sets */
};

#define FLAG(member) .flag = offsetof(struct options, member)

/* In the order of enum option_bit. */
static const struct option_row rows[] = {
        { "socket", 0, "PATH", "the daemon that listens there", .values = ":files", .set = set_socket },
        { "user", 0, NULL, "your own daemon, started if need be", .set = set_user },
        { "system", 0, NULL, "the system's daemon", .set = set_system },
        { "json", 0, NULL, "one JSON document instead of a table or text", FLAG(json) },
        { "no-headings", 0, NULL, "tables without their first line", FLAG(no_headings) },
        { "help", 'h', NULL, "this; after a command, about that command", FLAG(help) },
        { "version", 'V', NULL, "print the version", FLAG(version) },

        { "columns", 'o', "COLUMNS", "what to show, separated by commas; +COLUMNS: besides the default", .set = set_columns },
        { "all", 'a', NULL, "also segments without a name: unlinked and still held, or not yet published", FLAG(all) },
        { "bytes", 'b', NULL, "sizes exactly, in bytes", FLAG(bytes) },
        { "mode", 'm', "MODE", "permission bits in octal, less the umask (default: 0600)",
          .values = "0600 0640 0660 0644 0666", .set = set_mode },
        { "lifetime", 0, "LIFETIME", "persist (default), linger=SECONDS, holders or creator",
          .values = "persist holders creator linger=", .set = set_lifetime },
        { "label", 'l', "KEY=VALUE", "a label; may be given several times", .set = set_label },
        { "maximum", 0, "SIZE", "resizable up to so much, all of which is charged", .set = set_maximum },
        { "huge", 0, "[=2M|1G]", "of huge pages (default: 2M); sizes are rounded up to them",
          .values = "2M 1G", .set = set_huge },
        { "prealloc", 0, NULL, "all its pages are there from the beginning, or it fails", FLAG(preallocate) },
        { "file", 0, "PATH", "of that regular file, as large as it is", .values = ":files", .set = set_file },
        { "read-only", 0, NULL, "nobody can write it; needs no write permission for the file", FLAG(read_only) },
        { "replace", 0, NULL, "take the name from a segment that has it, in the same step", FLAG(replace) },
        { "offset", 0, "BYTES", "begin there", .set = set_offset },
        { "length", 'n', "BYTES", "no more than so many bytes", .set = set_length },
        { "rw", 0, NULL, "hold it read-write, not read-only", FLAG(read_write) },
        { "timeout", 0, "SECONDS", "no longer than that", .set = set_timeout },
        { "snapshot", 0, NULL, "begin with what is there already, then a mark", FLAG(snapshot) },
        { "count", 'c', "N", "end after so many events", .set = set_count },
        { "purge", 0, NULL, "keep nothing for the next daemon", FLAG(purge) },
        { "kind", 0, "KIND", "shmd, posix (files in /dev/shm), sysv, or all (default)",
          .values = "shmd posix sysv all", .set = set_kind },
        { "min-age", 0, "TIME", "not used for so long: 90s, 10min, 2h, 7d (default: 1h for shmd, else 0)",
          .values = "10min 1h 1d 7d", .set = set_min_age },
        { "uid", 0, "USER", "of that user, by name or number", .values = ":users", .set = set_uid },
        { "all-namespaces", 0, NULL, "also in the IPC and mount namespaces of other processes", FLAG(all_namespaces) },
        { "dry-run", 0, NULL, "only tell what would be freed", FLAG(dry_run) },
        { "yes", 'y', NULL, "do not ask", FLAG(yes) },
        { "rules", 0, "[=FILE]", "what the [reclaim] sections of shmd.conf(5) say, without asking",
          .values = ":files", .set = set_rules },
        { "leaks", 0, NULL, "also what has leaked, of all kinds", FLAG(leaks) },
        { "output", 0, "FILE", "write to that file, which is there as a whole or not at all",
          .values = ":files", .set = set_output },
        { "once", 0, NULL, "one picture, not a live one", FLAG(once) },
        { "sort", 0, "COLUMN", "by size, resident, holders, opens, name or id (default: resident)",
          .values = "size resident holders opens name id", .set = set_sort },
        { "interval", 0, "SECONDS", "between two pictures (default: 1)", .set = set_interval },
        { "shared", 0, NULL, "together with others that share it", FLAG(shared) },
        { "create", 0, NULL, "if there is no such segment, make one, which goes with its last holder", FLAG(create_missing) },
        { "sysv-key", 0, "KEY", "a SysV segment of the kernel, with that key (0: none)", .set = set_sysv_key },
        { "sysv-id", 0, "SHMID", "a name for the SysV segment of that id, which is there", .set = set_sysv_id },
        { "lifetime", 0, "LIFETIME", "persist (default), linger=SECONDS or holders",
          .values = "persist holders linger=", .set = set_run_lifetime },
        { "prefix", 0, "PREFIX", "what all names begin with in the daemon, such as job-7/", .set = set_prefix },
        { "required", 0, NULL, "without a daemon fail, instead of running the program natively", FLAG(required) },
};

enum { LONG_OPTION = 0x100 };

/* --- reading them --- */

struct parser {
        char letters[2 * ELEMENTSOF(rows) + 3];
        struct option options[ELEMENTSOF(rows) + 1];
};

static int argument_kind(const struct option_row *row) {
        if (!row->argument)
                return no_argument;
        return row->argument[0] == '[' ? optional_argument : required_argument;
}

static void parser_init(struct parser *parser, uint64_t set, bool in_order) {
        char *letter = parser->letters;
        struct option *option = parser->options;

        if (in_order)
                *letter++ = '+';
        *letter++ = ':';
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                if (!(set & UINT64_C(1) << i))
                        continue;
                *option++ = (struct option) {
                        .name = rows[i].name,
                        .has_arg = argument_kind(&rows[i]),
                        .val = LONG_OPTION + (int) i,
                };
                if (rows[i].letter)
                        *letter++ = rows[i].letter;
                if (rows[i].letter && rows[i].argument)
                        *letter++ = ':';
        }
        *letter = 0;
        *option = (struct option) { 0 };
}

static const struct option_row *row_find(int value) {
        if (value >= LONG_OPTION)
                return &rows[value - LONG_OPTION];
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                if (rows[i].letter == value)
                        return &rows[i];
        }
        return NULL;
}

static int row_apply(struct ctl *ctl, const struct option_row *row, const char *argument) {
        if (row->set)
                return row->set(ctl, argument);
        *(bool *) ((char *) &ctl->options + row->flag) = true;
        return 0;
}

/* getopt_long(3) says little about what it did not like: a letter, a long option, or nothing. */
static void complain_of(struct ctl *ctl, int verdict, char **words) {
        const struct option_row *row = optopt ? row_find(optopt) : NULL;

        if (verdict == ':')
                fail_usage(ctl, "%s needs an argument", words[optind - 1]);
        else if (row && optopt >= LONG_OPTION)
                fail_usage(ctl, "--%s takes no argument", row->name);
        else if (optopt)
                fail_usage(ctl, "unknown option -%c", optopt);
        else
                fail_usage(ctl, "unknown option %s", words[optind - 1]);
}

int options_parse(struct ctl *ctl, int n_words, char **words, uint64_t set, bool in_order) {
        struct parser parser;
        int value;

        parser_init(&parser, set, in_order);
        optind = 0; /* begin anew, as the GNU C library has it */
        opterr = 0;
        while ((value = getopt_long(n_words, words, parser.letters, parser.options, NULL)) != -1) {
                if (value == '?' || value == ':') {
                        complain_of(ctl, value, words);
                        return -1;
                }
                if (row_apply(ctl, row_find(value), optarg) < 0)
                        return -1;
        }
        return optind;
}

/* --- telling of them --- */

static struct option_info info_of(const struct option_row *row) {
        return (struct option_info) { row->name, row->argument, row->help, row->values };
}

static const struct option_row *row_of_word(uint64_t set, const char *word) {
        size_t length = strcspn(word + 2, "=");

        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                if (!(set & UINT64_C(1) << i))
                        continue;
                if (word[1] != '-' ? rows[i].letter && rows[i].letter == word[1] && !word[2]
                                   : strlen(rows[i].name) == length && strncmp(rows[i].name, word + 2, length) == 0)
                        return &rows[i];
        }
        return NULL;
}

bool option_find(uint64_t set, const char *word, struct option_info *ret_option) {
        const struct option_row *row = word[0] == '-' && word[1] ? row_of_word(set, word) : NULL;

        if (row)
                *ret_option = info_of(row);
        return row;
}

void option_apply(struct ctl *ctl, uint64_t set, const char *word, const char *argument) {
        const struct option_row *row = row_of_word(set, word);
        const char *equals = strchr(word, '=');

        if (row && (row->set == set_socket || row->set == set_user || row->set == set_system))
                (void) row_apply(ctl, row, equals ? equals + 1 : argument);
}

void options_visit(uint64_t set, void (*function)(const struct option_info *option, void *userdata), void *userdata) {
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                struct option_info option = info_of(&rows[i]);

                if (set & UINT64_C(1) << i)
                        function(&option, userdata);
        }
}

void options_print_help(FILE *file, uint64_t set) {
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                char letter[8] = "    ", text[64];

                if (!(set & UINT64_C(1) << i))
                        continue;
                if (rows[i].letter)
                        snprintf(letter, sizeof(letter), "-%c, ", rows[i].letter);
                snprintf(text, sizeof(text), "%s--%s%s%s", letter, rows[i].name,
                         argument_kind(&rows[i]) == required_argument ? " " : "", rows[i].argument ? rows[i].argument : "");
                fprintf(file, "  %-25s  %s\n", text, rows[i].help);
        }
}
