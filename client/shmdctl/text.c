/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"
#include "utf8.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#define EXECUTABLE "shmdctl"

/* --- characters --- */

static size_t decode(const char *text, uint32_t *ret_point) {
        return utf8_decode(text, strnlen(text, 4), ret_point);
}

static bool is_unsafe(uint32_t point) {
        return utf8_is_control(point) || utf8_is_hidden(point);
}

bool text_is_plain(const char *text) {
        while (*text) {
                uint32_t point;
                size_t length = decode(text, &point);

                if (length > 0 && is_unsafe(point))
                        return false;
                text += length > 0 ? length : 1;
        }
        return true;
}

/* bytes: also those that are control characters, or no UTF-8. */
static char *escape(const char *text, bool bytes) {
        char *copy = malloc(4 * strlen(text) + 1);
        char *end = copy;

        if (!copy)
                fail_memory();
        while (*text) {
                uint32_t point = 0;
                size_t length = decode(text, &point);

                if (length > 1 && is_unsafe(point))
                        end += sprintf(end, point > 0xffff ? "\\U%08" PRIx32 : "\\u%04" PRIx32, point);
                else if (bytes && (length == 0 || is_unsafe(point)))
                        end += sprintf(end, "\\x%02x", (unsigned char) *text);
                else
                        end = mempcpy(end, text, MAX(length, 1u));
                text += MAX(length, 1u);
        }
        *end = 0;
        return copy;
}

void print_escaped(FILE *file, const char *text) {
        _cleanup_(freep) char *copy = escape(text, true);

        fputs(copy, file);
}

char *text_for_screen(const char *text) {
        return escape(text, false);
}

char *text_to_utf8(const char *text) {
        static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
        char *copy = malloc(3 * strlen(text) + 1);
        char *end = copy;

        if (!copy)
                fail_memory();
        while (*text) {
                uint32_t point;
                size_t length = decode(text, &point);

                end = length > 0 ? mempcpy(end, text, length) : mempcpy(end, replacement, 3);
                text += length > 0 ? length : 1;
        }
        *end = 0;
        return copy;
}

/* --- messages --- */

/* At once, so that lines of several processes do not mix. */
static void message_print(const char *message, const char *more) {
        char *text = NULL;
        size_t size;
        FILE *file = open_memstream(&text, &size);

        if (!file)
                fail_memory();
        fputs(EXECUTABLE ": ", file);
        print_escaped(file, message);
        fprintf(file, "\n%s", more);
        if (fclose(file) != 0)
                fail_memory();

        progress_end();
        fflush(stdout);
        fputs(text, stderr);
        free(text);
}

static void message_vprint(const char *more, const char *format, va_list arguments) {
        char *message;

        if (vasprintf(&message, format, arguments) < 0)
                fail_memory();
        message_print(message, more);
        free(message);
}

int fail(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        message_vprint("", format, arguments);
        va_end(arguments);
        return STATUS_FAILED;
}

int fail_usage(const struct ctl *ctl, const char *format, ...) {
        va_list arguments;
        char more[100];

        snprintf(more, sizeof(more), "Try '" EXECUTABLE "%s%s --help'.\n", ctl->command ? " " : "",
                 ctl->command ? ctl->command->name : "");
        va_start(arguments, format);
        message_vprint(more, format, arguments);
        va_end(arguments);
        return STATUS_USAGE;
}

/* The daemon was there and is gone. */
static bool is_lost(int error) {
        return error == -ECONNREFUSED || error == -ECONNRESET || error == -ENOTCONN || error == -EPIPE;
}

int fail_shmd(struct ctl *ctl, int error, const char *action, const char *name) {
        const char *reason = shmd_error_message(ctl->connection);

        if (name)
                fail("cannot %s \"%s\": %s", action, name, reason);
        else
                fail("cannot %s: %s", action, reason);
        return is_lost(error) ? STATUS_NO_DAEMON : STATUS_FAILED;
}

void fail_memory(void) {
        fputs(EXECUTABLE ": out of memory\n", stderr);
        exit(STATUS_FAILED);
}

/* --- numbers and times --- */

char *format_size(uint64_t bytes, bool exact, char buffer[TEXT_SIZE_MAX]) {
        static const char units[] = "BKMGTPE";
        uint64_t whole = bytes, tenths;
        size_t unit = 0, shift;

        while (whole >= 1024) {
                whole >>= 10;
                unit++;
        }
        if (exact || unit == 0) {
                snprintf(buffer, TEXT_SIZE_MAX, "%" PRIu64 "%s", bytes, exact ? "" : "B");
                return buffer;
        }

        /* Rounded to a tenth; what rounds up to 1024 is one of the next unit. */
        shift = 10 * (unit - 1); /* one unit below, so that ten times it can't overflow */
        tenths = ((bytes >> shift) * 10 + 512) / 1024;
        if (tenths >= 10240 && units[unit + 1]) {
                tenths = 10;
                unit++;
        }
        if (tenths % 10 == 0)
                snprintf(buffer, TEXT_SIZE_MAX, "%" PRIu64 "%c", tenths / 10, units[unit]);
        else
                snprintf(buffer, TEXT_SIZE_MAX, "%" PRIu64 ".%" PRIu64 "%c", tenths / 10, tenths % 10, units[unit]);
        return buffer;
}

char *format_resident(uint64_t bytes, bool exact, char buffer[TEXT_SIZE_MAX]) {
        return bytes == UINT64_MAX ? strcpy(buffer, "-") : format_size(bytes, exact, buffer);
}

char *format_duration(uint64_t usec, char buffer[TEXT_SIZE_MAX]) {
        static const struct {
                uint64_t seconds;
                const char *name;
        } units[] = { { 86400, "d" }, { 3600, "h" }, { 60, "min" } };
        uint64_t seconds = usec / USEC_PER_SECOND;

        /* From two of a unit on: "90s" says more than "1min". */
        for (size_t i = 0; i < ELEMENTSOF(units); i++) {
                if (seconds >= 2 * units[i].seconds) {
                        snprintf(buffer, TEXT_SIZE_MAX, "%" PRIu64 "%s", seconds / units[i].seconds, units[i].name);
                        return buffer;
                }
        }
        snprintf(buffer, TEXT_SIZE_MAX, "%" PRIu64 "s", seconds);
        return buffer;
}

static uint64_t now_usec(clockid_t clock) {
        struct timespec now;

        clock_gettime(clock, &now);
        return (uint64_t) now.tv_sec * USEC_PER_SECOND + (uint64_t) now.tv_nsec / 1000;
}

uint64_t now_realtime_usec(void) {
        return now_usec(CLOCK_REALTIME);
}

uint64_t now_monotonic_usec(void) {
        return now_usec(CLOCK_MONOTONIC);
}

char *format_age(uint64_t since_usec, char buffer[TEXT_SIZE_MAX]) {
        uint64_t now = now_realtime_usec();

        /* The clock may have been set back. */
        return format_duration(now > since_usec ? now - since_usec : 0, buffer);
}

char *format_time(uint64_t usec, char buffer[TEXT_SIZE_MAX]) {
        time_t seconds = (time_t) (usec / USEC_PER_SECOND);
        struct tm parts;

        if (!localtime_r(&seconds, &parts) || strftime(buffer, TEXT_SIZE_MAX, "%F %T %z", &parts) == 0)
                snprintf(buffer, TEXT_SIZE_MAX, "@%" PRIu64, usec / USEC_PER_SECOND);
        return buffer;
}

char *format_moment(uint64_t usec, char buffer[TEXT_SIZE_MAX]) {
        time_t seconds = (time_t) (usec / USEC_PER_SECOND);
        unsigned milliseconds = (unsigned) (usec % USEC_PER_SECOND / 1000);
        struct tm parts;
        size_t length;

        if (!localtime_r(&seconds, &parts))
                memset(&parts, 0, sizeof(parts));
        length = strftime(buffer, TEXT_SIZE_MAX, "%F %T", &parts);
        snprintf(buffer + length, TEXT_SIZE_MAX - length, ".%03u", milliseconds);
        return buffer;
}

/* --- users and groups. Lists ask for the same few again and again: the last answer is kept. --- */

struct known_name {
        bool known;
        uint32_t id;
        char name[64];
};

static const char *known_name_set(struct known_name *known, uint32_t id, const char *name) {
        known->known = true;
        known->id = id;
        if (name && strlen(name) < sizeof(known->name))
                snprintf(known->name, sizeof(known->name), "%s", name);
        else
                snprintf(known->name, sizeof(known->name), "%" PRIu32, id);
        return known->name;
}

const char *user_name(uid_t uid) {
        static struct known_name last;
        struct passwd *entry;

        if (last.known && last.id == uid)
                return last.name;
        entry = getpwuid(uid);
        return known_name_set(&last, uid, entry ? entry->pw_name : NULL);
}

const char *group_name(gid_t gid) {
        static struct known_name last;
        struct group *entry;

        if (last.known && last.id == gid)
                return last.name;
        entry = getgrgid(gid);
        return known_name_set(&last, gid, entry ? entry->gr_name : NULL);
}
