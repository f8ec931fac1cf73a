/* SPDX-License-Identifier: MIT */
/*
 * shmdctl: the table of commands, from which help is made, and the way to one of
 * them: options, the number of its arguments, and whether its output arrived.
 */
#include "leaks.h"
#include "shmdctl.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#define LIFETIMES_HELP                                                                                       \
        "Lifetimes: persist, until rm; holders, until its last holder has gone; linger=SECONDS, so long after\n" \
        "that; creator, until the connection that made it ends.\n"
#define SIZES_HELP "SIZE is in bytes, or with K, M, G, T in powers of 1024: 64K, 200M, 2G.\n"
#define PROGRAM_HELP                                                                                       \
        "A program after -- runs with the segment held, as with hold. Without one, the lifetimes holders and\n" \
        "creator would end with this command, and are refused.\n"

static const struct command commands[] = {
        { "list", "[PREFIX]", "segments whose names begin with PREFIX, or all",
          "--json tells everything of each, whatever the columns.\n", OPTION_COLUMNS | OPTION_ALL | OPTION_BYTES, 0, 1,
          PROGRAM_NONE, cmd_list, &list_columns },
        { "show", "NAME|ID", "everything about one, who holds it and who has it mapped",
          "Holders are shown to the segment's owner and to administrators. MAPPED is what /proc shows: rw, ro, open\n"
          "for a descriptor alone, - for neither, ? where you may not look.\n",
          0, 1, 1, PROGRAM_NONE, cmd_show, NULL },
        { "create", "NAME [SIZE] [-- PROGRAM...]", "make a segment of zeros, or of a file",
          SIZES_HELP "Fails if NAME exists. With --file or --sysv-id no SIZE is given.\n" LIFETIMES_HELP PROGRAM_HELP,
          OPTIONS_CREATE | OPTION_FILE | OPTION_READ_ONLY | OPTION_SYSV_KEY | OPTION_SYSV_ID, 1, 2, PROGRAM_MAY, cmd_create, NULL },
        { "put", "NAME [FILE] [-- PROGRAM...]", "make a segment of a file's or standard input's bytes",
          "Nobody sees it before all is in it; if anything fails, nothing is left of it. Fails if NAME exists, but\n"
          "with --replace, where who opens NAME gets the old segment or the new one. What has no size of its own,\n"
          "such as a pipe, is first read into memory as a whole.\n" LIFETIMES_HELP PROGRAM_HELP,
          OPTIONS_CREATE | OPTION_REPLACE, 1, 2, PROGRAM_MAY, cmd_put, NULL },
        { "cat", "NAME|ID", "write a segment's bytes to standard output", NULL, 0, 1, 1, PROGRAM_NONE, cmd_cat, NULL },
        { "dump", "NAME|ID", "show a segment's bytes in hexadecimal and as text",
          "BYTES as SIZE of create, or as 0x1000. Lines equal to the one before are shown as one *.\n",
          OPTION_OFFSET | OPTION_LENGTH, 1, 1, PROGRAM_NONE, cmd_dump, NULL },
        { "resize", "NAME|ID SIZE", "change the size of a segment made with --maximum",
          SIZES_HELP "Takes write permission. What is cut off is zeros if it ever comes back.\n", 0, 2, 2, PROGRAM_NONE,
          cmd_resize, NULL },
        { "lifetime", "NAME|ID LIFETIME", "change when a name goes by itself", LIFETIMES_HELP, 0, 2, 2, PROGRAM_NONE,
          cmd_lifetime, NULL },
        { "freeze", "NAME|ID...", "make segments immutable, for everybody and for ever",
          "Fails as long as anybody has one mapped writable, and says who.\n", 0, 1, -1, PROGRAM_NONE, cmd_freeze, NULL },
        { "chmod", "MODE NAME|ID...", "change permission bits",
          "MODE as for chmod(1): octal as in 0640, or changes as in u=rw,g+r,o-rw. Write a-w, not -w.\n"
          "Who holds a segment already is not concerned.\n",
          0, 2, -1, PROGRAM_NONE, cmd_chmod, NULL },
        { "chown", "[OWNER][:GROUP] NAME|ID...", "change owner or group",
          "Names or numbers; \"OWNER:\" stands for the owner's own group too.\n", 0, 2, -1, PROGRAM_NONE, cmd_chown, NULL },
        { "rename", "NAME|ID NEW-NAME", "give a segment another name", "Fails if NEW-NAME exists.\n", 0, 2, 2,
          PROGRAM_NONE, cmd_rename, NULL },
        { "rm", "NAME|ID...", "take names away; the memory goes with the last holder", NULL, 0, 1, -1, PROGRAM_NONE,
          cmd_rm, NULL },
        { "hold", "NAME|ID -- PROGRAM...", "run a program with a segment held",
          "The program finds the number of the segment's descriptor in $SHMD_FD, its size in $SHMD_SIZE, and how\n"
          "much of it can be mapped in $SHMD_MAXIMUM. The exit status is the program's: 128 and the signal's number\n"
          "if a signal killed it, 127 if there is no such program, 126 if it can't be run; that of shmdctl if the\n"
          "segment can't be held.\n",
          OPTION_RW, 1, 1, PROGRAM_MUST, cmd_hold, NULL },
        { "lock", "NAME|ID -- PROGRAM...", "run a program with a segment's lock held",
          "As flock(1) does for files; libshmd-sync(7) tells of the lock. The program finds what hold gives it, and its\n"
          "exit status is that of hold. If shmdctl is killed, so is the program. A lock whose holder has died is taken\n"
          "with a warning. With --timeout 0 it does not wait.\n",
          OPTION_SHARED | OPTION_CREATE | OPTION_TIMEOUT, 1, 1, PROGRAM_MUST, cmd_lock, NULL },
        { "run", "-- PROGRAM...", "run a program with its own shm_open and shmget served",
          "Its children, too: see shmd-preload(7). Without a daemon it runs with a warning, and natively. The exit\n"
          "status is the program's; 127 if there is no such program, 126 if it can't be run.\n"
          "Lifetimes of what it makes: persist, until it unlinks it; holders, until nobody has it open or mapped any\n"
          "more; linger=SECONDS, so long after that.\n",
          OPTION_RUN_LIFETIME | OPTION_PREFIX | OPTION_REQUIRED, 0, 0, PROGRAM_MUST, cmd_run, NULL },
        { "wait", "NAME", "wait until a name is published",
          "Takes read permission. Prints nothing, or with --json what show would.\n", OPTION_TIMEOUT, 1, 1, PROGRAM_NONE,
          cmd_wait, NULL },
        { "watch", "[PREFIX]", "tell what happens to segments whose names begin with PREFIX, or all",
          "A line for each event, at once; --json: an object a line. Events: created, published, frozen, resized,\n"
          "renamed, unlinked, freed; present and snapshot-end of a snapshot, which --count does not count; and lost\n"
          "where some are missing: then a snapshot follows. Ends well if interrupted or when the time is over, which\n"
          "before --count events is a failure.\n",
          OPTION_SNAPSHOT | OPTION_COUNT | OPTION_TIMEOUT | OPTION_BYTES, 0, 1, PROGRAM_NONE, cmd_watch, NULL },
        { "leaks", "", "what has leaked, of shmd and of the machine, and why one may say so",
          "shmd: persistent segments that nobody has held for long and whose creator is gone; posix: files in /dev/shm\n"
          "that no process has open or mapped; sysv: segments that are not attached, whose creator and last user are\n"
          "dead. SURE says how sure that is; what can't be judged is unknown, and WHY says why.\n",
          OPTIONS_LEAKS | OPTION_COLUMNS | OPTION_BYTES, 0, 0, PROGRAM_NONE, cmd_leaks, &leak_columns },
        { "reclaim", "[ID|NAME...]", "free what has leaked, never what is in use",
          "Frees what leaks lists, or of that only what is named, but what is unknown; each is checked again right\n"
          "before. Shows first what it will free and asks; where nobody can be asked it takes --yes. Without --uid\n"
          "users other than root reclaim what is their own.\n",
          OPTIONS_LEAKS | OPTION_DRY_RUN | OPTION_YES | OPTION_RULES | OPTION_COLUMNS | OPTION_BYTES, 0, -1, PROGRAM_NONE,
          cmd_reclaim, &leak_columns },
        { "top", "[TEXT]", "live: segments by size, memory, holders, rate of opens; of names with TEXT",
          "Keys: s r h o n i sort, R reverses, / filters by name, ? helps, q quits. OPENS/S counts what the daemon is\n"
          "asked; who has a segment and opens it again need not ask.\n",
          OPTION_ONCE | OPTION_SORT | OPTION_INTERVAL | OPTION_COLUMNS | OPTION_BYTES, 0, 1, PROGRAM_NONE, cmd_top,
          &top_columns },
        { "metrics", "", "totals in the OpenMetrics text format",
          "Works without a daemon, too: then shmd_up is 0.\n", OPTION_LEAKS | OPTION_OUTPUT, 0, 0, PROGRAM_NONE, cmd_metrics,
          NULL },
        { "status", "", "the daemon, its totals, users with their use and limits",
          "All users are shown to administrators, to others their own.\n", OPTION_BYTES, 0, 0, PROGRAM_NONE, cmd_status, NULL },
        { "stop", "", "end the daemon; where a service manager keeps its segments, they stay",
          "For administrators. Refused where a service manager would drop what it keeps (systemd before 257): restart the\n"
          "service then. --purge: all names go, nothing is kept, and memory goes with those who have it.\n",
          OPTION_PURGE, 0, 0, PROGRAM_NONE, cmd_stop, NULL },
};

/* --- help --- */

static void print_commands(FILE *file) {
        fputs("Usage: shmdctl [OPTION...] COMMAND [ARGUMENT...]\n"
              "Named shared-memory segments of shmd(8).\n\nCommands:\n",
              file);
        for (size_t i = 0; i < ELEMENTSOF(commands); i++) {
                char text[80];

                snprintf(text, sizeof(text), "%s %s", commands[i].name, commands[i].arguments);
                fprintf(file, "  %-37s  %s\n", text, commands[i].help);
        }
        fputs("\nOptions, before the command or after it:\n", file);
        options_print_help(file, OPTIONS_GLOBAL);
        fputs("\nNAME is looked for first; if nothing has it and it is a number, it is taken for an ID.\n"
              "Without --socket, --user and --system the daemon is looked for in $SHMD_SOCKET,\n"
              "/run/shmd/shmd.sock and $XDG_RUNTIME_DIR/shmd/shmd.sock.\n"
              "Exit status: 0 done; 1 refused, or not there; 2 usage; 3 no daemon.\n"
              "More of a command: shmdctl COMMAND --help, and shmdctl(1).\n",
              file);
}

static void print_command(FILE *file, const struct command *command) {
        fprintf(file, "Usage: shmdctl %s [OPTION...]%s%s\n%c%s.\n", command->name, *command->arguments ? " " : "",
                command->arguments, command->help[0] - 'a' + 'A', command->help + 1);
        if (command->options) {
                fputs("\nOptions:\n", file);
                options_print_help(file, command->options);
        }
        if (command->columns)
                columns_print_help(file, command->columns);
        if (command->details)
                fprintf(file, "\n%s", command->details);
        fputs("\nEverywhere:\n", file);
        options_print_help(file, OPTIONS_GLOBAL);
}

static int print_help(const struct ctl *ctl) {
        if (ctl->command)
                print_command(stdout, ctl->command);
        else
                print_commands(stdout);
        stdout_check();
        return STATUS_DONE;
}

static int print_version(void) {
        printf("shmdctl %s\n", shmd_version());
        return STATUS_DONE;
}

/* --- the daemon --- */

int connection_open(struct ctl *ctl) {
        switch (ctl->options.daemon) {
        case DAEMON_AT_SOCKET:
                return shmd_connect(ctl->options.socket_path, &ctl->connection);
        case DAEMON_OF_USER:
                return shmd_connect_user(&ctl->connection);
        case DAEMON_OF_SYSTEM:
                return shmd_connect_system(&ctl->connection);
        default:
                return shmd_connect(NULL, &ctl->connection);
        }
}

/* What is refused for a reason of ours or by a daemon that is there. All else means that there is none. */
static bool is_refusal(int error) {
        static const int refusals[] = { EACCES, EDQUOT, EINVAL, EMFILE, ENAMETOOLONG, ENFILE, ENOMEM, EOPNOTSUPP, EPERM };

        for (size_t i = 0; i < ELEMENTSOF(refusals); i++) {
                if (error == -refusals[i])
                        return true;
        }
        return false;
}

int connect_to_daemon(struct ctl *ctl) {
        int r = connection_open(ctl);

        if (r >= 0)
                return STATUS_DONE;
        fail("%s", shmd_error_message(NULL));
        return is_refusal(r) ? STATUS_FAILED : STATUS_NO_DAEMON;
}

/* --- the command --- */

/* Not for people: what the shells' completions ask. */
static const struct command complete_command = { "complete", "-- WORD...", "what a word might become", NULL, 0, 0, 0,
                                                 PROGRAM_MUST, cmd_complete, NULL };

const struct command *command_find(const char *name) {
        if (strcmp(name, complete_command.name) == 0)
                return &complete_command;
        for (size_t i = 0; i < ELEMENTSOF(commands); i++) {
                if (strcmp(commands[i].name, name) == 0)
                        return &commands[i];
        }
        return NULL;
}

void commands_visit(void (*function)(const struct command *command, void *userdata), void *userdata) {
        for (size_t i = 0; i < ELEMENTSOF(commands); i++)
                function(&commands[i], userdata);
}

/* Cuts off what stands after the first "--": it is another program's. Gives the number of words before it. */
static int split_program(struct ctl *ctl, int n_words, char **words) {
        for (int i = 1; i < n_words; i++) {
                if (strcmp(words[i], "--") == 0) {
                        ctl->program = words + i + 1;
                        words[i] = NULL;
                        return i;
                }
        }
        return n_words;
}

static int check_arguments(const struct ctl *ctl, int n_arguments, char **arguments) {
        const struct command *command = ctl->command;

        if (command->arguments_max >= 0 && n_arguments > command->arguments_max) {
                if (command->program == PROGRAM_MUST && !ctl->program)
                        return fail_usage(ctl, "\"--\" is missing before \"%s\"", arguments[command->arguments_max]);
                return fail_usage(ctl, "too many arguments: \"%s\"", arguments[command->arguments_max]);
        }
        if (n_arguments < command->arguments_min || (command->program == PROGRAM_MUST && !ctl->program))
                return fail_usage(ctl, "%s needs %s", command->name, command->arguments);
        if (ctl->program && !ctl->program[0])
                return fail_usage(ctl, "the program is missing after \"--\"");
        return STATUS_DONE;
}

static int run_command(struct ctl *ctl, int n_words, char **words) {
        int status, parsed;

        if (ctl->command->program != PROGRAM_NONE)
                n_words = split_program(ctl, n_words, words);
        parsed = options_parse(ctl, n_words, words, OPTIONS_GLOBAL | ctl->command->options, false);
        if (parsed < 0)
                return STATUS_USAGE;
        if (ctl->options.help)
                return print_help(ctl);
        if (ctl->options.version)
                return print_version();

        n_words -= parsed;
        words += parsed;
        status = check_arguments(ctl, n_words, words);
        return status == STATUS_DONE ? ctl->command->run(ctl, n_words, words) : status;
}

static int run(struct ctl *ctl, int n_words, char **words) {
        int parsed = options_parse(ctl, n_words, words, OPTIONS_GLOBAL, true);

        if (parsed < 0)
                return STATUS_USAGE;
        if (ctl->options.help)
                return print_help(ctl);
        if (ctl->options.version)
                return print_version();

        n_words -= parsed;
        words += parsed;
        if (n_words == 0) {
                print_commands(stderr);
                return STATUS_USAGE;
        }
        ctl->command = command_find(words[0]);
        if (!ctl->command)
                return fail_usage(ctl, "unknown command \"%s\"", words[0]);
        return run_command(ctl, n_words, words);
}

/* --- the process --- */

/* Where one of the standard descriptors is closed, no socket shall take its place. Writing to it fails, as it should. */
static void fill_standard_descriptors(void) {
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
                if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
                        _exit(STATUS_FAILED);
        }
}

/* Names are UTF-8. Where no locale is set, as in containers and services, tables shall have them readable all the same. */
static void choose_locale(void) {
        const char *locale = setlocale(LC_CTYPE, "");

        if (!locale || strcmp(locale, "C") == 0 || strcmp(locale, "POSIX") == 0)
                setlocale(LC_CTYPE, "C.UTF-8");
}

int main(int argc, char **argv) {
        struct ctl ctl = { .options.timeout_usec = UINT64_MAX, .options.min_age_usec = UINT64_MAX };
        int status;

        fill_standard_descriptors();
        choose_locale();
        status = run(&ctl, argc, argv);
        shmd_disconnect(ctl.connection);
        return stdout_close(status);
}
