/* SPDX-License-Identifier: MIT */
/*
 * What the shells' completions ask: shmdctl complete -- WORD..., the last one being what is to be completed. It comes from
 * the very tables that the command line is read with, so that no shell has to be told of a new option.
 *
 * A candidate a line, a tab, what it means. Or a line for what the shell knows better: ":files", ":commands" (with the
 * words after "--"), ":users". Nothing ever goes to standard error, and no daemon is started.
 */
#include "leaks.h"
#include "shmdctl.h"

#include <signal.h>
#include <string.h>

struct completion {
        struct ctl *ctl;
        const struct command *command;
        const char *word; /* to be completed */
        size_t word_size;
        const char *prefix; /* what stands before it in each candidate */
        int n_arguments;    /* before it */
};

static void offer(const struct completion *completion, const char *candidate, const char *meaning) {
        if (strncmp(candidate, completion->word, completion->word_size) == 0)
                printf("%s%s\t%s\n", completion->prefix, candidate, meaning);
}

/* --- options and their arguments --- */

static void offer_option(const struct option_info *option, void *userdata) {
        char text[64];

        snprintf(text, sizeof(text), "--%s", option->name);
        offer(userdata, text, option->help);
}

static void offer_columns(struct completion *completion) {
        const struct column_set *set = completion->command ? completion->command->columns : NULL;
        const char *comma = strrchr(completion->word, ',');
        _cleanup_(freep) char *before = NULL;
        size_t begin = comma ? (size_t) (comma + 1 - completion->word) : completion->word[0] == '+';

        if (!set)
                return;
        if (asprintf(&before, "%s%.*s", completion->prefix, (int) begin, completion->word) < 0)
                fail_memory();
        completion->prefix = before;
        completion->word += begin;
        completion->word_size -= begin;
        for (size_t i = 0; i < set->count; i++)
                offer(completion, set->columns[i].name, set->columns[i].help);
}

static void offer_words(const struct completion *completion, const char *words) {
        char copy[200], *rest = copy, *word;

        snprintf(copy, sizeof(copy), "%s", words);
        while ((word = strsep(&rest, " ")))
                offer(completion, word, "");
}

static void offer_values(struct completion *completion, const struct option_info *option) {
        if (strcmp(option->name, "columns") == 0)
                offer_columns(completion);
        else if (option->values && option->values[0] == ':')
                puts(option->values);
        else if (option->values)
                offer_words(completion, option->values);
}

/* "--option=va": the part before the value is in each candidate. False if it is none that takes one. */
static bool complete_long(struct completion *completion, uint64_t set) {
        const char *equals = strchr(completion->word, '=');
        _cleanup_(freep) char *before = equals ? strndup(completion->word, (size_t) (equals + 1 - completion->word)) : NULL;
        struct option_info option;

        if (!before || !option_find(set, completion->word, &option) || !option.argument)
                return false;
        completion->prefix = before;
        completion->word = equals + 1;
        completion->word_size = strlen(completion->word);
        offer_values(completion, &option);
        return true;
}

/* --- names --- */

static int offer_segment(const struct shmd_stat *stat, void *userdata) {
        const struct completion *completion = userdata;
        char meaning[TEXT_SIZE_MAX + 100], size[TEXT_SIZE_MAX];

        /* One that begins with a dash would be an option; it has to be typed with a slash. */
        if (!text_is_plain(stat->name) || (stat->name[0] == '-' && !completion->prefix[0]))
                return 0;
        snprintf(meaning, sizeof(meaning), "%s of %s", format_size(stat->size_bytes, false, size), user_name(stat->uid));
        offer(userdata, stat->name, meaning);
        return 0;
}

static void offer_names(struct completion *completion) {
        if (completion->word[0] == '/') {
                completion->prefix = "/";
                completion->word++;
                completion->word_size--;
        }
        setenv("SHMD_AUTOSTART", "0", 1);
        if (connection_open(completion->ctl) == 0)
                (void) shmd_list(completion->ctl->connection, completion->word, 0, offer_segment, completion);
}

/* What a leak can be named by: of the user's own, which is quickly known. */
static void offer_leaks(struct completion *completion) {
        _cleanup_(scan_donep) struct scan scan;

        scan_init(&scan);
        signal(SIGIO, SIG_IGN);
        if (scan_posix(&scan) == 0 && scan_sysv(&scan) == 0)
                for (size_t i = 0; i < scan.count; i++)
                        if (scan.finds[i].verdict == SCAN_LEAKED && text_is_plain(scan.finds[i].name) && scan.finds[i].name[0] != '-')
                                offer(completion, scan.finds[i].name, scan_kind_name(scan.finds[i].kind));
        offer_names(completion);
}

/* Whether the argument of that number is a segment that is there. */
static bool takes_name(const struct command *command, int number) {
        if (command->run == cmd_chmod || command->run == cmd_chown)
                return number > 0;
        return command->arguments_max < 0 || number == 0;
}

static void complete_argument(struct completion *completion) {
        const struct command *command = completion->command;

        if (command->arguments_max >= 0 && completion->n_arguments >= command->arguments_max)
                return;
        if (command->run == cmd_reclaim)
                offer_leaks(completion);
        else if (command->run == cmd_put && completion->n_arguments == 1)
                puts(":files");
        else if (takes_name(command, completion->n_arguments))
                offer_names(completion);
        else if (command->run == cmd_lifetime)
                offer_words(completion, "persist holders creator linger=");
}

/* --- the line --- */

/* Reads the words before the last one. The option whose argument the last one is, or an empty name. */
static struct option_info read_words(struct completion *completion, int n_words, char **words) {
        struct option_info option, none = { 0 };
        uint64_t set = OPTIONS_GLOBAL;

        for (int i = 0; i < n_words - 1; i++) {
                if (words[i][0] == '-' && words[i][1]) {
                        if (!option_find(set, words[i], &option) || !option.argument || option.argument[0] == '[' ||
                            strchr(words[i], '='))
                                option_apply(completion->ctl, set, words[i], NULL);
                        else if (i == n_words - 2)
                                return option;
                        else {
                                option_apply(completion->ctl, set, words[i], words[i + 1]);
                                i++;
                        }
                } else if (!completion->command) {
                        completion->command = command_find(words[i]);
                        if (!completion->command)
                                completion->n_arguments++; /* nothing is known of such a command */
                        else
                                set |= completion->command->options;
                } else
                        completion->n_arguments++;
        }
        return none;
}

static void offer_command(const struct command *command, void *userdata) {
        offer(userdata, command->name, command->help);
}

static void complete(struct completion *completion, int n_words, char **words) {
        struct option_info option = read_words(completion, n_words, words);
        uint64_t set = OPTIONS_GLOBAL | (completion->command ? completion->command->options : 0);

        completion->word = words[n_words - 1];
        completion->word_size = strlen(completion->word);
        completion->prefix = "";
        if (option.name)
                offer_values(completion, &option);
        else if (completion->word[0] == '-') {
                if (!complete_long(completion, set))
                        options_visit(set, offer_option, completion);
        } else if (completion->command)
                complete_argument(completion);
        else if (completion->n_arguments == 0)
                commands_visit(offer_command, completion);
}

int cmd_complete(struct ctl *ctl, int n_arguments, char **arguments) {
        struct completion completion = { .ctl = ctl };
        int n_words = 0;

        (void) n_arguments;
        (void) arguments;
        while (ctl->program[n_words]) {
                /* A program's own words, but for those of a command that takes none */
                if (strcmp(ctl->program[n_words], "--") == 0 && ctl->program[n_words + 1]) {
                        puts(":commands");
                        return STATUS_DONE;
                }
                n_words++;
        }
        complete(&completion, n_words, ctl->program);
        return STATUS_DONE;
}
