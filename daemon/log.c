/* SPDX-License-Identifier: MIT */
#include "log.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdarg.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>

static enum log_target log_to = LOG_TARGET_STDERR;
static int log_max_level = LOG_INFO;
static int journal_fd = -EBADF;
static unsigned lost; /* lines that nobody took, and of which nobody has been told */

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

/* --- what clients choose --- */

/* What clients choose is in the text: no line of it may look like one of ours, or move a terminal's cursor. */
static void clean(char *text) {
        for (; *text; text++)
                if ((unsigned char) *text < ' ' || *text == 0x7f)
                        *text = '?';
}

/* Nor may it look like something else to people. */
static void clean_message(char *text) {
        clean(text);
        while (*text) {
                uint32_t point = 0;
                size_t length = utf8_decode(text, strnlen(text, 4), &point);

                if (length > 0 && (utf8_is_control(point) || utf8_is_hidden(point)))
                        memset(text, '?', length);
                text += MAX(length, 1u);
        }
}

/* --- to the journal --- */

struct journal_entry {
        char text[8][640];
        struct iovec part[8];
        int count;
};

static void _printf_(2, 3) entry_add(struct journal_entry *entry, const char *format, ...) {
        char *text = entry->text[entry->count];
        size_t length;
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(entry->text[0]) - 1, format, ap);
        va_end(ap);
        clean(text);
        length = strlen(text);
        text[length++] = '\n';
        entry->part[entry->count++] = (struct iovec) { .iov_base = text, .iov_len = length };
}

/* A datagram, one field a line: systemd.io/JOURNAL_NATIVE_PROTOCOL. sd_journal_sendv(3) waits for a journal that does not read. */
static int entry_send(struct journal_entry *entry) {
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket" };
        const struct msghdr message = {
                .msg_name = &address,
                .msg_namelen = sizeof(address),
                .msg_iov = entry->part,
                .msg_iovlen = (size_t) entry->count,
        };

        if (journal_fd < 0)
                journal_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        return sendmsg(journal_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? negative_errno() : 0;
}

static int log_to_journal(int level, const struct log_fields *fields, const char *message) {
        struct journal_entry entry = { .count = 0 };

        entry_add(&entry, "MESSAGE=%s", message);
        entry_add(&entry, "PRIORITY=%d", level);
        entry_add(&entry, "SYSLOG_IDENTIFIER=shmd");
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
        return entry_send(&entry);
}

/* --- to standard error --- */

/* Whoever reads it may be stopped. It is not ours alone to be made non-blocking; where there is room at all, there is for a line. */
static int log_to_stderr(const char *message) {
        struct pollfd item = { .fd = STDERR_FILENO, .events = POLLOUT };

        if (poll(&item, 1, 0) == 0)
                return -EAGAIN;
        return dprintf(STDERR_FILENO, "shmd: %s\n", message) < 0 ? negative_errno() : 0;
}

/* --- either --- */

static int deliver(int level, const struct log_fields *fields, const char *message) {
        return log_to == LOG_TARGET_JOURNAL ? log_to_journal(level, fields, message) : log_to_stderr(message);
}

/* Only where nobody reads is that worth telling later. */
static void deliver_or_count(int level, const struct log_fields *fields, const char *message) {
        char words[96];
        int r = 0;

        if (lost > 0) {
                (void) snprintf(words, sizeof(words), "%u message%s lost, as nobody read the log", lost, lost == 1 ? " was" : "s were");
                r = deliver(LOG_WARNING, &LOG_FIELDS_NONE, words);
                if (r == 0)
                        lost = 0;
        }
        if (r == 0)
                r = deliver(level, fields, message);
        if (r == -EAGAIN)
                lost++;
}

bool log_is_enabled(int level) {
        return level <= log_max_level;
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
        clean_message(message);

        deliver_or_count(level, fields, message);
        errno = saved;
}
