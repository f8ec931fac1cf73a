/* SPDX-License-Identifier: MIT */
/*
 * The last failure in words.
 *
 * What fails only records how; looking up users and writing sentences happens when somebody asks. Keeps no state
 * but one failure for each thread: that of a connection that never came to be.
 */
#include "internal.h"

#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

static __thread struct failure thread_failure;

/* --- recording --- */

int failure_errno(struct failure *failure, int error) {
        failure->kind = FAILURE_ERRNO;
        failure->error = -error;
        return error;
}

int failure_words(struct failure *failure, int error, const char *words) {
        failure->kind = FAILURE_WORDS;
        failure->error = -error;
        failure->words = words;
        return error;
}

int failure_name(struct failure *failure, enum name_verdict verdict) {
        failure->kind = FAILURE_NAME;
        failure->error = verdict == NAME_TOO_LONG ? ENAMETOOLONG : EINVAL;
        failure->verdict = verdict;
        return -failure->error;
}

int failure_refused(struct failure *failure, unsigned status, const struct shmd_wire_refusal *refusal) {
        failure->kind = FAILURE_REFUSED;
        failure->error = status_to_errno(status);
        failure->status = status;
        failure->refusal = *refusal;
        return -failure->error;
}

static int failure_about(struct failure *failure, enum failure_kind kind, int error, const char *subject) {
        failure->kind = kind;
        failure->error = -error;
        *stpncpy(failure->subject, subject, sizeof(failure->subject) - 1) = '\0';
        return error;
}

int failure_connect(struct failure *failure, int error, const char *path) {
        return failure_about(failure, FAILURE_CONNECT, error, path);
}

int failure_gone(struct failure *failure, const char *path) {
        return failure_about(failure, FAILURE_GONE, -ECONNREFUSED, path);
}

int failure_start(struct failure *failure, int error, const char *program_or_path) {
        return failure_about(failure, FAILURE_START, error, program_or_path);
}

int failure_memory(struct failure *failure, uint64_t wanted, uint64_t available, const char *where) {
        failure->refusal = (struct shmd_wire_refusal) { .requested = wanted, .maximum = available };
        return failure_about(failure, FAILURE_MEMORY, -ENOMEM, where);
}

void failure_keep_for_thread(const struct failure *failure) {
        thread_failure = *failure;
}

/* --- telling --- */

/* A number of bytes as people read it. */
static const char *bytes_to_words(uint64_t bytes, char (*buffer)[32]) {
        static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
        double value = (double) bytes / 1024;
        size_t unit = 0;

        if (bytes < 1024) {
                (void) snprintf(*buffer, sizeof(*buffer), "%" PRIu64 " byte%s", bytes, bytes == 1 ? "" : "s");
                return *buffer;
        }
        for (; value >= 1024 && unit + 1 < ELEMENTSOF(units); unit++)
                value /= 1024;
        (void) snprintf(*buffer, sizeof(*buffer), value == (double) (uint64_t) value ? "%.0f %s" : "%.1f %s", value,
                        units[unit]);
        return *buffer;
}

static const char *number_to_words(uint64_t number, char (*buffer)[32]) {
        (void) snprintf(*buffer, sizeof(*buffer), "%" PRIu64, number);
        return *buffer;
}

static const char *user_to_words(uid_t uid, char (*buffer)[64]) {
        char data[4096];
        struct passwd entry, *found = NULL;

        if (getpwuid_r(uid, &entry, data, sizeof(data), &found) == 0 && found)
                *stpncpy(*buffer, found->pw_name, sizeof(*buffer) - 1) = '\0';
        else
                (void) snprintf(*buffer, sizeof(*buffer), "%" PRIu32, (uint32_t) uid);
        return *buffer;
}

typedef const char *to_words_function(uint64_t, char (*)[32]);

/* "; most of it: alice 12 GiB, bob 3 GiB", appended */
static void tell_biggest(const struct shmd_wire_refusal *refusal, to_words_function *to_words, char *buffer, size_t size) {
        char name[64], used[32];

        for (size_t i = 0; i < ELEMENTSOF(refusal->biggest) && refusal->biggest[i].used > 0; i++) {
                size_t length = strlen(buffer);

                (void) snprintf(buffer + length, size - length, "%s%s %s", i == 0 ? "; most of it: " : ", ",
                                user_to_words(refusal->biggest[i].uid, &name), to_words(refusal->biggest[i].used, &used));
        }
}

/* "over the limit of 256 segments a user (256 used, 1 more asked for); most of it: alice 256, bob 3" */
static void tell_quota(const struct shmd_wire_refusal *refusal, bool in_bytes, const char *things, char *buffer,
                       size_t size) {
        to_words_function *to_words = in_bytes ? bytes_to_words : number_to_words;
        char maximum[32], used[32], requested[32];

        (void) snprintf(buffer, size, "over the limit of %s%s a user (%s used, %s more asked for)",
                        to_words(refusal->maximum, &maximum), things, to_words(refusal->used, &used),
                        to_words(refusal->requested, &requested));
        tell_biggest(refusal, to_words, buffer, size);
}

/* "2 MiB huge pages: 4 wanted, 1 free" */
static void tell_huge_pages(const struct shmd_wire_refusal *refusal, char *buffer, size_t size) {
        char page[32];

        (void) snprintf(buffer, size, "%s huge pages: %" PRIu64 " wanted, %" PRIu64 " free",
                        bytes_to_words(UINT64_C(1) << (refusal->mode & 63), &page), refusal->requested, refusal->maximum);
}

/* "not enough memory to allocate all of it: 4 GiB wanted, 1.2 GiB available in control group /jobs" */
static void tell_memory(const struct failure *failure, char *buffer, size_t size) {
        char wanted[32], available[32];

        (void) snprintf(buffer, size, "not enough memory to allocate all of it: %s wanted, %s available %s",
                        bytes_to_words(failure->refusal.requested, &wanted),
                        bytes_to_words(failure->refusal.maximum, &available), failure->subject);
}

/* "too large: 2 TiB asked for, at most 1 TiB" */
static void tell_maximum(const struct shmd_wire_refusal *refusal, const char *words, const char *at_most, char *buffer,
                         size_t size) {
        char maximum[32], requested[32];

        (void) snprintf(buffer, size, "%s: %s asked for, %s %s", words, bytes_to_words(refusal->requested, &requested),
                        at_most, bytes_to_words(refusal->maximum, &maximum));
}

/* "over the kernel's limit for SysV segments: kernel.shmmni is 4096 segments, 4096 used, 1 more asked for" */
static void tell_kernel(const struct shmd_wire_refusal *refusal, const char *setting, const char *things, char *buffer, size_t size) {
        (void) snprintf(buffer, size,
                        "over the kernel's limit for SysV segments: %s is %" PRIu64 " %s, %" PRIu64 " used, %" PRIu64 " more asked for",
                        setting, refusal->maximum, things, refusal->used, refusal->requested);
}

static void tell_limit(const struct failure *failure, char *buffer, size_t size) {
        const struct shmd_wire_refusal *refusal = &failure->refusal;

        switch (refusal->limit) {
        case SHMD_LIMIT_BYTES:
                return tell_quota(refusal, true, "", buffer, size);
        case SHMD_LIMIT_SEGMENTS:
                return tell_quota(refusal, false, " segments", buffer, size);
        case SHMD_LIMIT_HOLDS:
                return tell_quota(refusal, false, " holds", buffer, size);
        case SHMD_LIMIT_CONNECTIONS:
                return tell_quota(refusal, false, " connections", buffer, size);
        case SHMD_LIMIT_WATCHES:
                return tell_quota(refusal, false, " watches and waits", buffer, size);
        case SHMD_LIMIT_SIZE:
                return tell_maximum(refusal, "too large", "at most", buffer, size);
        case SHMD_LIMIT_NAME:
                return tell_maximum(refusal, "name too long", "at most", buffer, size);
        case SHMD_LIMIT_EXISTING:
                return tell_maximum(refusal, "the segment of this name is smaller", "it has", buffer, size);
        case SHMD_LIMIT_MAXIMUM:
                return tell_maximum(refusal, "larger than the segment's maximum", "at most", buffer, size);
        case SHMD_LIMIT_HUGE_PAGES:
                return tell_huge_pages(refusal, buffer, size);
        case SHMD_LIMIT_SHMMAX:
                return tell_maximum(refusal, "too large for the kernel (kernel.shmmax)", "at most", buffer, size);
        case SHMD_LIMIT_SHMALL:
                return tell_kernel(refusal, "kernel.shmall", "pages", buffer, size);
        case SHMD_LIMIT_SHMMNI:
                return tell_kernel(refusal, "kernel.shmmni", "segments", buffer, size);
        case SHMD_LIMIT_MEMORY:
                return tell_maximum(refusal, "not enough memory", "there are", buffer, size);
        default: /* SHMD_LIMIT_DESCRIPTORS, or one of a newer daemon: its status says enough */
                (void) snprintf(buffer, size, "%s", status_to_words(failure->status));
        }
}

/* "permission denied (owner alice, mode 0600)" */
static void tell_owner(const struct failure *failure, char *buffer, size_t size) {
        const struct shmd_wire_refusal *refusal = &failure->refusal;
        char owner[64];

        (void) snprintf(buffer, size, "%s (owner %s, mode %04" PRIo32 ")", status_to_words(failure->status),
                        user_to_words(refusal->uid, &owner), refusal->mode & 07777);
}

static void tell_refusal(const struct failure *failure, char *buffer, size_t size) {
        const struct shmd_wire_refusal *refusal = &failure->refusal;
        bool about_rights = failure->status == SHMD_DENIED || failure->status == SHMD_NOT_OWNER;

        if (refusal->limit != SHMD_LIMIT_NONE)
                tell_limit(failure, buffer, size);
        else if (about_rights && !wire_is_zero(refusal, sizeof(*refusal)))
                tell_owner(failure, buffer, size);
        else
                (void) snprintf(buffer, size, "%s", status_to_words(failure->status));
}

static void tell_connect(const struct failure *failure, char *buffer, size_t size) {
        const char *path = failure->subject;

        switch (failure->error) {
        case ECONNREFUSED:
                (void) snprintf(buffer, size, "no daemon listens on %s: connection refused", path);
                return;
        case ENOENT:
                (void) snprintf(buffer, size, "no daemon listens on %s: no such socket", path);
                return;
        case EACCES:
                (void) snprintf(buffer, size, "permission denied to connect to %s", path);
                return;
        case EPROTO:
                (void) snprintf(buffer, size, "what listens on %s is no shmd", path);
                return;
        default:
                (void) snprintf(buffer, size, "cannot connect to %s: %s", path, strerror(failure->error));
        }
}

static void failure_tell(const struct failure *failure, char *buffer, size_t size) {
        switch (failure->kind) {
        case FAILURE_NONE:
                (void) snprintf(buffer, size, "nothing has failed");
                return;
        case FAILURE_ERRNO:
                (void) snprintf(buffer, size, "%s", strerror(failure->error));
                return;
        case FAILURE_WORDS:
                (void) snprintf(buffer, size, "%s", failure->words);
                return;
        case FAILURE_NAME:
                (void) snprintf(buffer, size, "invalid name: %s", name_verdict_to_words(failure->verdict));
                return;
        case FAILURE_REFUSED:
                tell_refusal(failure, buffer, size);
                return;
        case FAILURE_CONNECT:
                tell_connect(failure, buffer, size);
                return;
        case FAILURE_GONE:
                (void) snprintf(buffer, size, "no daemon: what listened on %s went away at once", failure->subject);
                return;
        case FAILURE_START:
                (void) snprintf(buffer, size, "cannot start the per-user daemon: %s: %s", failure->subject,
                                strerror(failure->error));
                return;
        case FAILURE_MEMORY:
                tell_memory(failure, buffer, size);
                return;
        }
}

_public_ const char *shmd_error_message(struct shmd *connection) {
        static __thread char thread_message[512];

        if (connection) {
                failure_tell(&connection->failure, connection->message, sizeof(connection->message));
                return connection->message;
        }
        failure_tell(&thread_failure, thread_message, sizeof(thread_message));
        return thread_message;
}
