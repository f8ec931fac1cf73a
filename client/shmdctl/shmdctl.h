/* SPDX-License-Identifier: MIT */
/*
 * shmdctl: what its parts share. The tool knows shmd through shmd.h alone.
 *
 * main.c      the table of commands, help, connecting
 * options.c   the table of options, reading a command line
 * parse.c     what users write: sizes, modes, owners, lifetimes, labels
 * text.c      what users read: sizes, times, messages on standard error
 * output.c    standard output: tables, JSON documents
 * columns.c   tables whose columns one can choose
 * rulefile.c  the rules for what goes by itself, in the daemon's configuration file
 * segment.c   one segment: words for its fields, its JSON object, finding it by name or id
 * leaks.c     what is leaked, of whatever kind: for leaks and reclaim
 * mappers.c   the processes that have one open or mapped, as /proc shows them
 * loader.c    which dynamic linker a program has
 * progress.c  the progress bar; being interrupted in the middle of something
 * cmd_*.c     the commands
 *
 * A command returns the exit status, and has then told the reason if it is not 0.
 * Memory that runs out ends the program; so commands allocate before they make things.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include <shmd.h>

#define ELEMENTSOF(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define _cleanup_(function) __attribute__((__cleanup__(function)))
#define _printf_(a, b) __attribute__((__format__(__printf__, a, b)))
#define _noreturn_ __attribute__((__noreturn__))

static inline void freep(void *pointer) {
        free(*(void **) pointer);
}

#define USEC_PER_SECOND UINT64_C(1000000)

/* Exit statuses that others rely on. */
enum {
        STATUS_DONE = 0,
        STATUS_FAILED = 1, /* refused, or not there */
        STATUS_USAGE = 2,
        STATUS_NO_DAEMON = 3,
};

enum daemon_choice {
        DAEMON_DEFAULT = 0,
        DAEMON_AT_SOCKET,
        DAEMON_OF_USER,
        DAEMON_OF_SYSTEM,
};

struct command;

/* What the command line said. */
struct options {
        enum daemon_choice daemon;
        const char *socket_path;
        bool help;
        bool version;
        bool json;
        bool no_headings;
        bool all;
        bool bytes;
        bool read_write;
        bool read_only;
        bool replace;
        bool snapshot;
        bool purge;
        bool shared;
        bool create_missing;
        const char *columns;
        const char *file_path;
        uint64_t offset_bytes;
        uint64_t length_bytes;
        bool has_length;
        uint64_t timeout_usec; /* UINT64_MAX: none */
        uint64_t count;        /* 0: none */
        bool preallocate;
        bool lifetime_given;
        bool required;
        const char *prefix;
        struct shmd_create_options create;
        char labels[1025]; /* "key=value" lines */
        unsigned kinds;        /* 1 << enum scan_kind; 0: all */
        uint64_t min_age_usec; /* UINT64_MAX: the default of the kind */
        bool has_uid;
        uid_t uid;
        bool all_namespaces;
        bool dry_run;
        bool yes;
        bool rules;
        const char *rules_path; /* NULL: the daemon's configuration file */
        bool leaks;
        const char *output_path;
        bool once;
        const char *sort;
        uint64_t interval_usec; /* 0: the default */
};

struct ctl {
        const struct command *command;
        struct options options;
        struct shmd *connection;
        char **program; /* what stood after "--", for commands that run one; ends with NULL */
};

/* Options, for the sets of them that commands take. In the order of the table in options.c. */
enum option_bit {
        OPTION_SOCKET = UINT64_C(1) << 0,
        OPTION_USER = UINT64_C(1) << 1,
        OPTION_SYSTEM = UINT64_C(1) << 2,
        OPTION_JSON = UINT64_C(1) << 3,
        OPTION_NO_HEADINGS = UINT64_C(1) << 4,
        OPTION_HELP = UINT64_C(1) << 5,
        OPTION_VERSION = UINT64_C(1) << 6,
        OPTIONS_GLOBAL = (UINT64_C(1) << 7) - 1,

        OPTION_COLUMNS = UINT64_C(1) << 7,
        OPTION_ALL = UINT64_C(1) << 8,
        OPTION_BYTES = UINT64_C(1) << 9,
        OPTION_MODE = UINT64_C(1) << 10,
        OPTION_LIFETIME = UINT64_C(1) << 11,
        OPTION_LABEL = UINT64_C(1) << 12,
        OPTION_MAXIMUM = UINT64_C(1) << 13,
        OPTION_HUGE = UINT64_C(1) << 14,
        OPTION_PREALLOC = UINT64_C(1) << 15,
        OPTIONS_CREATE = OPTION_MODE | OPTION_LIFETIME | OPTION_LABEL | OPTION_MAXIMUM | OPTION_HUGE | OPTION_PREALLOC,
        OPTION_FILE = UINT64_C(1) << 16,
        OPTION_READ_ONLY = UINT64_C(1) << 17,
        OPTION_REPLACE = UINT64_C(1) << 18,
        OPTION_OFFSET = UINT64_C(1) << 19,
        OPTION_LENGTH = UINT64_C(1) << 20,
        OPTION_RW = UINT64_C(1) << 21,
        OPTION_TIMEOUT = UINT64_C(1) << 22,
        OPTION_SNAPSHOT = UINT64_C(1) << 23,
        OPTION_COUNT = UINT64_C(1) << 24,
        OPTION_PURGE = UINT64_C(1) << 25,
        OPTION_KIND = UINT64_C(1) << 26,
        OPTION_MIN_AGE = UINT64_C(1) << 27,
        OPTION_UID = UINT64_C(1) << 28,
        OPTION_ALL_NAMESPACES = UINT64_C(1) << 29,
        OPTIONS_LEAKS = OPTION_KIND | OPTION_MIN_AGE | OPTION_UID | OPTION_ALL_NAMESPACES,
        OPTION_DRY_RUN = UINT64_C(1) << 30,
        OPTION_YES = UINT64_C(1) << 31,
        OPTION_RULES = UINT64_C(1) << 32,
        OPTION_LEAKS = UINT64_C(1) << 33,
        OPTION_OUTPUT = UINT64_C(1) << 34,
        OPTION_ONCE = UINT64_C(1) << 35,
        OPTION_SORT = UINT64_C(1) << 36,
        OPTION_INTERVAL = UINT64_C(1) << 37,
        OPTION_SHARED = UINT64_C(1) << 38,
        OPTION_CREATE = UINT64_C(1) << 39,
        OPTION_SYSV_KEY = UINT64_C(1) << 40,
        OPTION_SYSV_ID = UINT64_C(1) << 41,
        OPTION_RUN_LIFETIME = UINT64_C(1) << 42,
        OPTION_PREFIX = UINT64_C(1) << 43,
        OPTION_REQUIRED = UINT64_C(1) << 44,
};

/* Whether a command takes "-- PROGRAM...". */
enum program_use {
        PROGRAM_NONE = 0,
        PROGRAM_MAY,
        PROGRAM_MUST,
};

struct command {
        const char *name;
        const char *arguments;
        const char *help;    /* a line */
        const char *details; /* paragraphs, or NULL */
        uint64_t options;    /* besides the global ones */
        int arguments_min;
        int arguments_max; /* -1: any number */
        enum program_use program;
        int (*run)(struct ctl *ctl, int n_arguments, char **arguments);
        const struct column_set *columns; /* for -o, or NULL */
};

/* --- main.c --- */

/* For commands to call once they have nothing to say against their arguments. Gives the exit status. */
int connect_to_daemon(struct ctl *ctl);

int connection_open(struct ctl *ctl);
const struct command *command_find(const char *name);
/* Those that --help tells of, in its order. */
void commands_visit(void (*function)(const struct command *command, void *userdata), void *userdata);

/* --- options.c --- */

struct option_info {
        const char *name;     /* the long one */
        const char *argument; /* NULL: takes none; in brackets: may be left out */
        const char *help;
        const char *values; /* some that it takes, between blanks; or what the shell knows, such as ":files"; or NULL */
};

/* An option of a set by a word of a command line, as -o, --columns or --columns=id. */
bool option_find(uint64_t set, const char *word, struct option_info *ret_option);
/* Takes it to heart if it says which daemon is meant; for completion, where all else does not matter. */
void option_apply(struct ctl *ctl, uint64_t set, const char *word, const char *argument);
void options_visit(uint64_t set, void (*function)(const struct option_info *option, void *userdata), void *userdata);

/* Reads options of that set. Stops at the first other word if in_order; else moves other words to the end. Gives the
 * number of words that were options, or -1 after telling what is wrong. */
int options_parse(struct ctl *ctl, int n_words, char **words, uint64_t set, bool in_order);
void options_print_help(FILE *file, uint64_t set);

/* --- parse.c: true, or false if it is none; or a reason for people, NULL if it is fine --- */

/* Gives what is wrong, or NULL. */
const char *parse_key(const char *text, uint32_t *ret_key);
bool parse_id(const char *text, uint64_t *ret_id);
const char *parse_size(const char *text, uint64_t *ret_bytes);
const char *parse_mode(const char *text, uint32_t *ret_mode);
/* As chmod(1) has it: octal, or symbolic changes to a mode. */
const char *parse_mode_change(const char *text, uint32_t mode, uint32_t *ret_mode);
/* What names can begin with, and be long enough. */
const char *parse_prefix(const char *text);
/* Such as 5 or 0.25. */
const char *parse_seconds(const char *text, uint64_t *ret_usec);
/* The same, or with a unit: 90s, 10min, 2h, 7d. */
const char *parse_duration(const char *text, uint64_t *ret_usec);
/* Appends to "key=value" lines. */
const char *parse_label(const char *text, char *labels, size_t size);
/* OWNER, OWNER:GROUP, :GROUP, or OWNER: for the owner's own group; names or numbers. */
const char *parse_owner(const char *text, uid_t *ret_uid, gid_t *ret_gid);

/* --- text.c --- */

/* Prints with all that a terminal might act on, that nobody would see, or that is not UTF-8, escaped. */
void print_escaped(FILE *file, const char *text);
/* Whether print_escaped() would print it as it is, but for what is not UTF-8. */
bool text_is_plain(const char *text);
/* A copy in which this has been done but for single bytes, which libsmartcols and top see to. The caller frees it. */
char *text_for_screen(const char *text);
/* A copy with what is not UTF-8 replaced, for JSON. The caller frees it. */
char *text_to_utf8(const char *text);

/* "shmdctl: MESSAGE" on standard error, escaped. Gives STATUS_FAILED. */
int fail(const char *format, ...) _printf_(1, 2);
/* The same and where to find help. Gives STATUS_USAGE. */
int fail_usage(const struct ctl *ctl, const char *format, ...) _printf_(2, 3);
/* "shmdctl: cannot ACTION "NAME": REASON" for what the library refused. Gives the exit status. */
int fail_shmd(struct ctl *ctl, int error, const char *action, const char *name);
_noreturn_ void fail_memory(void);

#define TEXT_SIZE_MAX 32
/* "200M", "1.5G", "17B"; or exactly, as a number. All give the buffer. */
char *format_size(uint64_t bytes, bool exact, char buffer[TEXT_SIZE_MAX]);
/* Of what is not known (UINT64_MAX) "-". */
char *format_resident(uint64_t bytes, bool exact, char buffer[TEXT_SIZE_MAX]);
char *format_duration(uint64_t usec, char buffer[TEXT_SIZE_MAX]);
char *format_age(uint64_t since_usec, char buffer[TEXT_SIZE_MAX]);
/* Local time with its offset. */
char *format_time(uint64_t usec, char buffer[TEXT_SIZE_MAX]);
/* The same to the millisecond, without the offset, always of the same width. */
char *format_moment(uint64_t usec, char buffer[TEXT_SIZE_MAX]);
uint64_t now_realtime_usec(void);
uint64_t now_monotonic_usec(void);
/* The name, or the number if it has none. Valid until the next call for another one. */
const char *user_name(uid_t uid);
const char *group_name(gid_t gid);

/* --- output.c --- */

struct libscols_table;
struct json_object;

struct libscols_table *table_new(const struct ctl *ctl);
void table_add_column(struct libscols_table *table, const char *heading, int flags); /* SCOLS_FL_* */
void table_hide_column(struct libscols_table *table, size_t number);
void table_keep_column(struct libscols_table *table, size_t number);
/* Adds a row of that many cells, which are copied. */
void table_add_row(struct libscols_table *table, size_t n_cells, const char *const *cells);
/* Prints and frees; prints nothing at all if there is no row. */
int table_print(struct libscols_table *table);

struct json_object *json_new_object(void);
struct json_object *json_new_array(void);
void json_append(struct json_object *array, struct json_object *value);
void json_add(struct json_object *object, const char *key, struct json_object *value);
void json_add_string(struct json_object *object, const char *key, const char *value);
void json_add_number(struct json_object *object, const char *key, uint64_t value);
/* UINT64_MAX is not known: null. */
void json_add_resident(struct json_object *object, uint64_t bytes);
void json_add_bool(struct json_object *object, const char *key, bool value);
/* Prints the document and frees it. */
int json_print(struct json_object *document);
/* The same on a single line. */
int json_print_line(struct json_object *document);

/* Remembers why writing failed, if it just did. */
void stdout_check(void);
/* Closes standard output; gives the status, or STATUS_FAILED if what was written did not arrive. */
int stdout_close(int status);

/* --- cmd_status.c --- */

/* Whether segments are kept for the next daemon. */
enum store_state {
        STORE_OFF,
        STORE_OK,
        STORE_FAILING,
};
enum store_state store_state(const struct shmd_status *status);
const char *store_state_name(enum store_state state);

/* --- columns.c --- */

/* No cell is longer than all labels, or a name. */
#define CELL_MAX 1032
#define COLUMNS_MAX 100u

struct column {
        const char *name;
        const char *heading;
        const char *help;
        int flags; /* SCOLS_FL_* */
        void (*function)(const struct ctl *ctl, const void *item, char *cell);
};

struct column_set {
        const struct column *columns;
        size_t count;
        size_t n_default; /* the first so many */
        const char *const *dispensable; /* of these, what a narrow terminal leaves out, first to last; NULL ends it */
};

struct listing {
        const struct ctl *ctl;
        const struct column_set *set;
        size_t n_columns;
        const struct column *columns[COLUMNS_MAX];
        size_t widths[COLUMNS_MAX]; /* of the longest cell; in bytes, which is near enough */
        struct libscols_table *table;
};

void columns_print_help(FILE *file, const struct column_set *set);
/* Those that --columns names, or the default. Gives the exit status, after telling what is wrong. */
int listing_choose(struct listing *listing, const struct ctl *ctl, const struct column_set *set);
void listing_begin(struct listing *listing);
void listing_add(struct listing *listing, const void *item);
/* Prints and frees. */
int listing_print(struct listing *listing);

/* --- segment.c --- */

/* Where what is asked for by name is not there and the name is a number, it is taken for an id. */
int segment_stat(struct ctl *ctl, const char *name_or_id, struct shmd_stat *ret_stat);
int segment_open(struct ctl *ctl, const char *name_or_id, unsigned flags, struct shmd_segment **ret_segment);

#define TEXT_LIFETIME_MAX 40
char *segment_lifetime(const struct shmd_stat *stat, char buffer[TEXT_LIFETIME_MAX]);
const char *segment_state(const struct shmd_stat *stat);
const char *segment_backing(const struct shmd_stat *stat);
/* What its resident memory adds to a sum: nothing where it is not known. */
static inline uint64_t resident_known(uint64_t bytes) {
        return bytes == UINT64_MAX ? 0 : bytes;
}

/* Of ordinary pages too. */
uint64_t segment_page_bytes(const struct shmd_stat *stat);
/* "sh, pid 12, user root, cron.service, started ...". */
#define TEXT_CREATOR_MAX 512
char *segment_creator(const struct shmd_stat *stat, char buffer[TEXT_CREATOR_MAX]);
/* Labels as "key=value" joined by that character. */
#define TEXT_LABELS_MAX 1032
char *segment_labels(const struct shmd_stat *stat, char separator, char buffer[TEXT_LABELS_MAX]);
/* The object that list has for each, with the number of holders. */
struct json_object *segment_to_json(const struct shmd_stat *stat);

static inline void segment_closep(struct shmd_segment **segment) {
        *segment = shmd_close(*segment);
}

/* --- mappers.c --- */

struct mappers {
        struct shmd_mapper *items;
        size_t count;
        unsigned hidden; /* so many processes could not be looked into */
        int error;       /* 0, or why nothing could be found out: negative errno value */
};

/* All but the daemon, which has each segment open. */
void mappers_find(struct ctl *ctl, const struct shmd_stat *stat, struct mappers *ret_mappers);
void mappers_done(struct mappers *mappers);
const struct shmd_mapper *mappers_get(const struct mappers *mappers, uint32_t pid);
#define TEXT_HIDDEN_MAX 64
const char *mappers_describe_hidden(const struct mappers *mappers, char buffer[TEXT_HIDDEN_MAX]);
/* "rw" and "ro" for what is mapped, "open" for a descriptor alone. */
const char *mapper_access(const struct shmd_mapper *mapper);

/* --- loader.c --- */

/* musl's dynamic linker can't load what was made for the GNU C library, and then does not start the program. */
bool program_is_for_musl(const char *program);

/* --- progress.c --- */

/* One bar for the program. Shown if it is wanted, standard error is a terminal and there is much to do, or it is not
 * known how much (total 0). A message on standard error ends it. */
void progress_begin(uint64_t total, bool wanted);
void progress_update(uint64_t done);
void progress_end(void);

/* From here on SIGINT, SIGTERM and SIGHUP only set a flag and interrupt system calls. */
void interrupt_catch(void);
bool interrupt_pending(void);
/* If there was one, dies of it, as if it had never been caught. */
void interrupt_deliver(void);
/* poll(2) that no such signal comes too early for; after interrupt_catch(). */
int interrupt_poll(struct pollfd *fds, unsigned n_fds, uint64_t timeout_usec);

/* --- the commands --- */

int cmd_list(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_show(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_create(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_put(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_cat(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_dump(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_chmod(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_chown(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_resize(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_freeze(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_lifetime(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_wait(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_watch(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_rename(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_rm(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_complete(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_leaks(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_metrics(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_top(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_reclaim(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_hold(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_run(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_stop(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_lock(struct ctl *ctl, int n_arguments, char **arguments);
int cmd_status(struct ctl *ctl, int n_arguments, char **arguments);

/* What create, put and wait say: nothing, or with --json the document of show. */
int show_quietly(struct ctl *ctl, uint64_t id);

/* For create and put: whether the lifetime makes sense without a program, and flags for shmd_create(). */
int create_check_lifetime(const struct ctl *ctl);
unsigned create_flags(const struct ctl *ctl);

/* Runs a program with the segment, and gives its exit status. bound: it is killed if shmdctl dies. */
int hold_run(char **program, struct shmd_segment *segment, bool bound);

/* For --help. */
extern const struct column_set list_columns;
extern const struct column_set top_columns;
