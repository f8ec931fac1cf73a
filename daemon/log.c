/* SPDX-License-Identifier: MIT */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include "log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>

static enum log_target log_to = LOG_TARGET_STDERR;
static int log_max_level = LOG_INFO;

static const char *const level_words[] = { "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug" };

int log_level_from_string(const char *word, int *ret_level) {
        for (size_t i = 0; i < ELEMENTSOF(level_words); i++)
                if (strcmp(word, level_words[i]) == 0) {
                        *ret_level = (int) i;
                        return 0;
                }
        return -EINVAL;
}

int log_target_from_string(const char *word, enum log_target *ret_target) {
        static const char *const words[] = { "auto", "journal", "stderr" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(word, words[i]) == 0) {
                        *ret_target = (enum log_target) i;
                        return 0;
                }
        return -EINVAL;
}

/* systemd tells device and inode of the stream it connected: systemd.exec(5), $JOURNAL_STREAM. */
static bool stderr_is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        uintmax_t device, inode;
        struct stat st;

        if (!stream || sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) != 2)
                return false;
        return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

/* Closed, or /dev/null as an automatically started daemon has it. */
static bool stderr_is_nowhere(void) {
        struct stat st, null;

        if (fstat(STDERR_FILENO, &st) < 0)
                return true;
        return stat("/dev/null", &null) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == null.st_rdev;
}

void log_setup(enum log_target target, int max_level) {
        if (target == LOG_TARGET_AUTO)
                target = stderr_is_journal() || stderr_is_nowhere() ? LOG_TARGET_JOURNAL : LOG_TARGET_STDERR;
        log_to = target;
        log_max_level = max_level;
}

struct journal_entry {
        char text[7][640];
        struct iovec part[7];
        int count;
};

static void _printf_(2, 3) entry_add(struct journal_entry *entry, const char *format, ...) {
        char *text = entry->text[entry->count];
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(text, sizeof(entry->text[0]), format, ap);
        va_end(ap);
        if (n < 0)
                return;
        entry->part[entry->count].iov_base = text;
        entry->part[entry->count].iov_len = MIN((size_t) n, sizeof(entry->text[0]) - 1);
        entry->count++;
}

static void log_to_journal(int level, const struct log_fields *fields, const char *message) {
        struct journal_entry entry = { .count = 0 };

        entry_add(&entry, "MESSAGE=%s", message);
        entry_add(&entry, "PRIORITY=%d", level);
        if (fields->message_id)
                entry_add(&entry, "MESSAGE_ID=%s", fields->message_id);
        if (fields->segment)
                entry_add(&entry, "SHMD_SEGMENT=%s", fields->segment);
        if (fields->id)
                entry_add(&entry, "SHMD_ID=%" PRIu64, fields->id);
        if (fields->uid >= 0)
                entry_add(&entry, "SHMD_UID=%" PRIi64, fields->uid);
        if (fields->pid > 0)
                entry_add(&entry, "SHMD_PID=%" PRIi64, fields->pid);
        (void) sd_journal_sendv(entry.part, entry.count);
}

bool log_is_enabled(int level) {
        return level <= log_max_level;
}

/* What clients choose is in the text: no line of it may look like one of ours, or move a terminal's cursor. */
static void clean(char *text) {
        for (; *text; text++)
                if ((unsigned char) *text < ' ' || *text == 0x7f)
                        *text = '?';
}

void log_fields(int level, const struct log_fields *fields, const char *format, ...) {
        int saved = errno;
        char message[512];
        va_list ap;

        if (!log_is_enabled(level))
                return;
        va_start(ap, format);
        (void) vsnprintf(message, sizeof(message), format, ap);
        va_end(ap);
        clean(message);

        if (log_to == LOG_TARGET_JOURNAL)
                log_to_journal(level, fields, message);
        else
                (void) dprintf(STDERR_FILENO, "shmd: %s\n", message);
        errno = saved;
}
