/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>
#include <time.h>

int segment_stat(struct ctl *ctl, const char *name_or_id, struct shmd_stat *ret_stat) {
        int r = shmd_stat(ctl->connection, name_or_id, ret_stat);
        uint64_t id;

        if (r == -ENOENT && parse_id(name_or_id, &id))
                r = shmd_stat_id(ctl->connection, id, ret_stat);
        return r;
}

int segment_open(struct ctl *ctl, const char *name_or_id, unsigned flags, struct shmd_segment **ret_segment) {
        int r = shmd_open(ctl->connection, name_or_id, flags, ret_segment);
        uint64_t id;

        if (r == -ENOENT && parse_id(name_or_id, &id))
                r = shmd_open_id(ctl->connection, id, flags, ret_segment);
        return r;
}

char *segment_lifetime(const struct shmd_stat *stat, char buffer[TEXT_LIFETIME_MAX]) {
        uint64_t seconds = stat->linger_usec / USEC_PER_SECOND, usec = stat->linger_usec % USEC_PER_SECOND;
        int length;

        switch (stat->lifetime) {
        case SHMD_LIFETIME_PERSIST:
                return strcpy(buffer, "persist");
        case SHMD_LIFETIME_HOLDERS:
                return strcpy(buffer, "holders");
        case SHMD_LIFETIME_CREATOR:
                return strcpy(buffer, "creator");
        case SHMD_LIFETIME_LINGER:
                length = snprintf(buffer, TEXT_LIFETIME_MAX, "linger=%" PRIu64 ".%06" PRIu64, seconds, usec);
                while (buffer[length - 1] == '0')
                        buffer[--length] = 0;
                if (buffer[length - 1] == '.')
                        buffer[--length] = 0;
                return buffer;
        default:
                return strcpy(buffer, "unknown");
        }
}

const char *segment_state(const struct shmd_stat *stat) {
        static const char *const words[] = {
                [SHMD_STATE_UNPUBLISHED] = "unpublished",
                [SHMD_STATE_PUBLISHED] = "published",
                [SHMD_STATE_FROZEN] = "frozen",
                [SHMD_STATE_UNLINKED] = "unlinked",
        };

        return stat->state < ELEMENTSOF(words) ? words[stat->state] : "unknown";
}

const char *segment_backing(const struct shmd_stat *stat) {
        static const char *const words[] = {
                [SHMD_BACKING_MEMFD] = "memfd",
                [SHMD_BACKING_HUGETLB] = "hugetlb",
                [SHMD_BACKING_SYSV] = "sysv",
                [SHMD_BACKING_FILE] = "file",
        };

        return stat->backing < ELEMENTSOF(words) ? words[stat->backing] : "unknown";
}

uint64_t segment_page_bytes(const struct shmd_stat *stat) {
        return stat->page_bytes ? stat->page_bytes : (uint64_t) sysconf(_SC_PAGESIZE);
}

char *segment_labels(const struct shmd_stat *stat, char separator, char buffer[TEXT_LABELS_MAX]) {
        size_t length;

        snprintf(buffer, TEXT_LABELS_MAX, "%s", stat->labels);
        length = strlen(buffer);
        if (length > 0 && buffer[length - 1] == '\n')
                buffer[--length] = 0;
        for (char *c = buffer; *c; c++) {
                if (*c == '\n')
                        *c = separator;
        }
        return buffer;
}

/* When the creator began, as time of day; 0: not known. */
static uint64_t segment_creator_started_usec(const struct shmd_stat *stat) {
        uint64_t per_second = (uint64_t) sysconf(_SC_CLK_TCK);
        struct timespec up;
        uint64_t usec;

        if (stat->creator_started == 0 || clock_gettime(CLOCK_BOOTTIME, &up) < 0)
                return 0;
        usec = now_realtime_usec() - (uint64_t) up.tv_sec * USEC_PER_SECOND - (uint64_t) up.tv_nsec / 1000 +
               stat->creator_started * USEC_PER_SECOND / per_second;
        return usec - usec % (USEC_PER_SECOND / per_second); /* no digits that mean nothing */
}

char *segment_creator(const struct shmd_stat *stat, char buffer[TEXT_CREATOR_MAX]) {
        uint64_t started_usec = segment_creator_started_usec(stat);
        char at[TEXT_SIZE_MAX];

        snprintf(buffer, TEXT_CREATOR_MAX, "%s, pid %" PRIu32 ", user %s%s%s%s%s",
                 stat->creator_command[0] ? stat->creator_command : "?", stat->creator_pid,
                 user_name(stat->creator_uid), stat->creator_unit[0] ? ", " : "", stat->creator_unit,
                 started_usec > 0 ? ", started " : "", started_usec > 0 ? format_time(started_usec, at) : "");
        return buffer;
}

static struct json_object *labels_to_json(const struct shmd_stat *stat) {
        struct json_object *labels = json_new_object();
        char text[TEXT_LABELS_MAX], *rest = segment_labels(stat, '\n', text), *line;

        while ((line = strsep(&rest, "\n"))) {
                char *equals = strchr(line, '=');
                char *key;

                if (!equals)
                        continue;
                *equals = 0;
                key = text_to_utf8(line);
                json_add_string(labels, key, equals + 1);
                free(key);
        }
        return labels;
}

static struct json_object *creator_to_json(const struct shmd_stat *stat) {
        struct json_object *creator = json_new_object();

        json_add_number(creator, "pid", stat->creator_pid);
        json_add_number(creator, "uid", stat->creator_uid);
        json_add_string(creator, "command", stat->creator_command);
        json_add_string(creator, "unit", stat->creator_unit);
        json_add_string(creator, "executable", stat->creator_executable);
        json_add_number(creator, "started_ticks", stat->creator_started);
        json_add_number(creator, "started_usec", segment_creator_started_usec(stat));
        return creator;
}

static void sysv_to_json(struct json_object *object, const struct shmd_stat *stat) {
        char key[TEXT_SIZE_MAX];

        snprintf(key, sizeof(key), "0x%08" PRIx32, stat->sysv_key);
        json_add_string(object, "key", key);
        json_add_number(object, "shmid", stat->sysv_id);
        json_add_number(object, "attached", stat->sysv_attached);
        json_add_bool(object, "registered", stat->registered);
}

struct json_object *segment_to_json(const struct shmd_stat *stat) {
        struct json_object *object = json_new_object();
        char mode[TEXT_SIZE_MAX], lifetime[TEXT_LIFETIME_MAX];

        snprintf(mode, sizeof(mode), "%04" PRIo32, stat->mode);
        json_add_number(object, "id", stat->id);
        json_add_string(object, "name", stat->name);
        json_add_number(object, "size", stat->size_bytes);
        json_add_number(object, "maximum", stat->maximum_bytes);
        json_add_resident(object, stat->resident_bytes);
        json_add_number(object, "page_size", segment_page_bytes(stat));
        json_add_number(object, "uid", stat->uid);
        json_add_number(object, "gid", stat->gid);
        json_add_string(object, "owner", user_name(stat->uid));
        json_add_string(object, "group", group_name(stat->gid));
        json_add_string(object, "mode", mode);
        json_add_number(object, "holders", stat->holders);
        json_add_bool(object, "unknown_holder", stat->unknown_holder);
        json_add_string(object, "lifetime", segment_lifetime(stat, lifetime));
        json_add_number(object, "linger_usec", stat->linger_usec);
        json_add_string(object, "state", segment_state(stat));
        json_add_string(object, "backing", segment_backing(stat));
        if (stat->backing == SHMD_BACKING_SYSV)
                sysv_to_json(object, stat);
        json_add_bool(object, "resizable", stat->resizable);
        json_add_bool(object, "single_writer", stat->single_writer);
        json_add_bool(object, "truncated", stat->truncated);
        json_add_bool(object, "posix", stat->posix);
        json_add_number(object, "device", stat->device);
        json_add_number(object, "inode", stat->inode);
        json_add_number(object, "created_usec", stat->created_usec);
        json_add_number(object, "opened_usec", stat->opened_usec);
        json_add_number(object, "idle_usec", stat->idle_usec);
        json_add(object, "creator", creator_to_json(stat));
        json_add(object, "labels", labels_to_json(stat));
        return object;
}
