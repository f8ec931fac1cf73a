/* SPDX-License-Identifier: MIT */
#include "state.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <zlib.h>

#include "util.h"

/* "SgRc" in memory of a little-endian machine; looked for after damage. */
#define RECORD_MAGIC 0x63526753u
#define ALIGNMENT 8u

enum record_type {
        RECORD_SEGMENT = 1,
        RECORD_GONE = 2,
        RECORD_DONE = 3, /* its id is the age */
};

enum record_flags {
        FLAG_POSIX = 1u << 0,
        FLAG_RESIZABLE = 1u << 1,
        FLAG_SINGLE_WRITER = 1u << 2,
        FLAG_HAD_NAME = 1u << 3,
        FLAG_FROZEN = 1u << 4,
        FLAG_TRUNCATED = 1u << 5,
        FLAG_SYSV_MADE = 1u << 6,
        FLAG_SYSV_REGISTERED = 1u << 7,
        FLAG_SYSV_EXPORTED = 1u << 8,
        FLAG_KEPT = 1u << 9, /* the creator's token is that of a keeper */
        FLAG_CONTROL = 1u << 10, /* and the next: parts of the control memory were made */
};

struct record {
        uint32_t magic;
        uint32_t size;     /* of all, a multiple of ALIGNMENT */
        uint32_t checksum; /* of what follows but for the times */
        uint16_t type;
        uint16_t fixed_size; /* of the fixed part */
        uint64_t id;
        uint64_t token;
        uint32_t serial;
        uint32_t uid; /* of the token's user */
        /* Not under the checksum: each changes by itself, at any time. */
        struct segment_times times;
};

/* The fixed part of RECORD_SEGMENT; then the strings, in the order of their sizes. */
struct fixed {
        uint64_t size;
        uint64_t maximum;
        uint64_t linger_usec;
        uint64_t created_usec;
        uint64_t create_token;
        uint64_t creator_token;
        uint64_t creator_started;
        uint32_t uid, gid, mode;
        uint32_t creator_pid, creator_uid;
        uint16_t name_size, labels_size, unit_size, executable_size;
        uint8_t lifetime, state, backing, page_shift;
        uint32_t flags;
        char command[16];
        int64_t sysv_changed_sec;
        uint32_t sysv_key, sysv_id, sysv_creator_uid, sysv_creator_gid, sysv_creator_pid;
        uint32_t padding;
};

#define STRINGS_MAX (SHMD_NAME_MAX + SHMD_LABELS_MAX + sizeof(((struct creator *) 0)->unit) + sizeof(((struct creator *) 0)->executable))

static size_t align(size_t size) {
        return (size + ALIGNMENT - 1) & ~(size_t) (ALIGNMENT - 1);
}

size_t state_record_max(void) {
        return align(sizeof(struct record) + sizeof(struct fixed) + STRINGS_MAX);
}

static uint32_t record_checksum(const struct record *record) {
        const unsigned char *bytes = (const unsigned char *) record;
        size_t body = sizeof(*record);
        uLong sum;

        sum = crc32(record->size, bytes + offsetof(struct record, type), offsetof(struct record, times) - offsetof(struct record, type));
        return (uint32_t) crc32(sum, bytes + body, (uInt) (record->size - body));
}

/* --- writing --- */

void state_begin(struct state_log *log, void *base, size_t capacity, uint64_t epoch) {
        struct state_header *header = base;

        *log = (struct state_log) { .base = base, .capacity = capacity, .position = sizeof(*header) };
        *header = (struct state_header) {
                .version = STATE_VERSION,
                .header_size = sizeof(*header),
                .epoch = epoch,
                .end = sizeof(*header),
        };
        memcpy(header->magic, STATE_MAGIC, sizeof(header->magic));
}

static struct record *record_begin(struct state_log *log, enum record_type type, uint64_t id) {
        struct record *record = (struct record *) (log->base + log->position);

        *record = (struct record) {
                .magic = RECORD_MAGIC,
                .type = (uint16_t) type,
                .id = id,
                .token = log->cause.token,
                .serial = log->cause.serial,
                .uid = log->cause.uid,
        };
        return record;
}

/* The end of what was written; it may be short of the alignment, by bytes that are zero then. */
static void record_end(struct state_log *log, struct record *record, unsigned char *end) {
        size_t size = align((size_t) (end - (unsigned char *) record));

        memset(end, 0, (size_t) ((unsigned char *) record + size - end));
        record->size = (uint32_t) size;
        record->checksum = record_checksum(record);
        log->position += size;
}

static unsigned char *append_string(unsigned char *to, const char *string, size_t size) {
        if (size > 0)
                memcpy(to, string, size);
        return to + size;
}

static uint32_t segment_flags(const struct segment *segment) {
        return (segment->posix ? FLAG_POSIX : 0u) | (segment->resizable ? FLAG_RESIZABLE : 0u) |
               (segment->single_writer ? FLAG_SINGLE_WRITER : 0u) | (segment->had_name ? FLAG_HAD_NAME : 0u) |
               (segment->frozen ? FLAG_FROZEN : 0u) | (segment->truncated ? FLAG_TRUNCATED : 0u) |
               (segment->sysv.made ? FLAG_SYSV_MADE : 0u) | (segment->sysv.registered ? FLAG_SYSV_REGISTERED : 0u) |
               (segment->sysv.exported ? FLAG_SYSV_EXPORTED : 0u) | (segment->kept ? FLAG_KEPT : 0u) |
               segment->control_made * FLAG_CONTROL;
}

static struct fixed fixed_of(const struct segment *segment) {
        const struct creator *creator = &segment->creator;
        struct fixed fixed = {
                .size = segment->size,
                .maximum = segment->maximum,
                .linger_usec = segment->linger_usec,
                .created_usec = segment->created_usec,
                .create_token = segment->token,
                .creator_token = creator->token,
                .creator_started = creator->started,
                .uid = segment->owner.uid,
                .gid = segment->owner.gid,
                .mode = segment->owner.mode,
                .creator_pid = (uint32_t) creator->pid,
                .creator_uid = creator->uid,
                .name_size = segment->name_size,
                .labels_size = segment->labels_size,
                .unit_size = (uint16_t) strnlen(creator->unit, sizeof(creator->unit)),
                .executable_size = (uint16_t) strnlen(creator->executable, sizeof(creator->executable)),
                .lifetime = segment->lifetime,
                .state = segment->state,
                .backing = segment->backing,
                .page_shift = segment->page_shift,
                .flags = segment_flags(segment),
                .sysv_changed_sec = segment->sysv.changed_sec,
                .sysv_key = segment->sysv.key,
                .sysv_id = (uint32_t) segment->sysv.shmid,
                .sysv_creator_uid = segment->sysv.creator_uid,
                .sysv_creator_gid = segment->sysv.creator_gid,
                .sysv_creator_pid = (uint32_t) segment->sysv.creator_pid,
        };

        memcpy(fixed.command, creator->command, sizeof(fixed.command));
        return fixed;
}

struct segment_times *state_append(struct state_log *log, const struct segment *segment) {
        struct record *record = record_begin(log, RECORD_SEGMENT, segment->id);
        struct fixed fixed = fixed_of(segment);
        unsigned char *to = (unsigned char *) (record + 1);

        record->fixed_size = sizeof(fixed);
        record->times = segment_times(segment);
        memcpy(to, &fixed, sizeof(fixed));
        to += sizeof(fixed);
        to = append_string(to, segment->name, fixed.name_size);
        to = append_string(to, segment->labels, fixed.labels_size);
        to = append_string(to, segment->creator.unit, fixed.unit_size);
        to = append_string(to, segment->creator.executable, fixed.executable_size);
        record_end(log, record, to);
        return &record->times;
}

void state_append_gone(struct state_log *log, uint64_t id) {
        struct record *record = record_begin(log, RECORD_GONE, id);

        record_end(log, record, (unsigned char *) (record + 1));
}

void state_append_done(struct state_log *log, const struct state_cause *cause, uint64_t age) {
        struct state_cause before = log->cause;
        struct record *record;

        log->cause = *cause;
        record = record_begin(log, RECORD_DONE, age);
        log->cause = before;
        record_end(log, record, (unsigned char *) (record + 1));
}

void state_begin_making(struct state_log *log, const struct state_making *making) {
        struct state_making *kept = &state_header(log)->making;

        kept->size = making->size;
        kept->key = making->key;
        kept->pid = making->pid;
        /* Says that the others count; and is there before what comes after. */
        atomic_signal_fence(memory_order_release);
        *(volatile int64_t *) &kept->since_sec = making->since_sec;
        atomic_signal_fence(memory_order_seq_cst);
}

void state_commit(struct state_log *log) {
        struct state_header *header = state_header(log);

        if (header->end != log->position) {
                /* Whoever sees the new end sees what is before it: the kernel's kill comes between two instructions, in program order. */
                atomic_signal_fence(memory_order_release);
                *(volatile uint64_t *) &header->end = log->position;
        }
        atomic_signal_fence(memory_order_release);
        *(volatile int64_t *) &header->making.since_sec = 0;
}

/* --- reading --- */

int state_check(const void *base, size_t size) {
        const struct state_header *header = base;

        if (size < sizeof(*header) || memcmp(header->magic, STATE_MAGIC, sizeof(header->magic)) != 0)
                return -EBADMSG;
        if (header->version != STATE_VERSION)
                return -EPROTONOSUPPORT;
        if (header->header_size < offsetof(struct state_header, started_usec) || header->header_size % ALIGNMENT != 0 ||
            header->header_size > size)
                return -EBADMSG;
        return 0;
}

/* Whether there is a sound record; all that is said by its sizes is then inside of it. */
static bool record_is_sound(const struct record *record, size_t left) {
        return left >= sizeof(*record) && record->magic == RECORD_MAGIC && record->size % ALIGNMENT == 0 &&
               record->size >= sizeof(*record) && record->size <= left && record->fixed_size <= record->size - sizeof(*record) &&
               record->checksum == record_checksum(record);
}

static bool fixed_is_valid(const struct fixed *fixed, size_t strings_size) {
        return (size_t) fixed->name_size + fixed->labels_size + fixed->unit_size + fixed->executable_size <= strings_size &&
               fixed->name_size > 0 && fixed->name_size <= SHMD_NAME_MAX && fixed->labels_size <= SHMD_LABELS_MAX &&
               fixed->unit_size < sizeof(((struct creator *) 0)->unit) &&
               fixed->executable_size < sizeof(((struct creator *) 0)->executable) && fixed->size <= fixed->maximum &&
               fixed->lifetime <= WIRE_LIFETIME_CREATOR && fixed->state <= WIRE_STATE_UNLINKED && fixed->backing <= WIRE_BACKING_FILE;
}

static struct state_segment segment_from(struct record *record, const struct fixed *fixed, const char *strings) {
        const char *labels = strings + fixed->name_size, *unit = labels + fixed->labels_size, *executable = unit + fixed->unit_size;
        struct state_segment segment = {
                .id = record->id,
                .times = record->times,
                .kept_times = &record->times,
                .owner = { fixed->uid, fixed->gid, fixed->mode },
                .created_usec = fixed->created_usec,
                .state = fixed->state,
                .frozen = fixed->flags & FLAG_FROZEN,
                .had_name = fixed->flags & FLAG_HAD_NAME,
                .truncated = fixed->flags & FLAG_TRUNCATED,
                .control_made = fixed->flags / FLAG_CONTROL % (1u << SHMD_WIRE_CONTROL_PARTS),
                .creator = {
                        .pid = (pid_t) fixed->creator_pid,
                        .uid = fixed->creator_uid,
                        .started = fixed->creator_started,
                        .token = fixed->creator_token,
                },
                .sysv = {
                        .changed_sec = fixed->sysv_changed_sec,
                        .key = fixed->sysv_key,
                        .shmid = (int) fixed->sysv_id,
                        .creator_uid = fixed->sysv_creator_uid,
                        .creator_gid = fixed->sysv_creator_gid,
                        .creator_pid = (pid_t) fixed->sysv_creator_pid,
                        .made = fixed->flags & FLAG_SYSV_MADE,
                        .registered = fixed->flags & FLAG_SYSV_REGISTERED,
                        .exported = fixed->flags & FLAG_SYSV_EXPORTED,
                },
                .plan = {
                        .name = strings,
                        .name_size = fixed->name_size,
                        .labels = labels,
                        .labels_size = fixed->labels_size,
                        .size = fixed->size,
                        .maximum = fixed->maximum,
                        .linger_usec = fixed->linger_usec,
                        .mode = fixed->mode,
                        .token = fixed->create_token,
                        .lifetime = fixed->lifetime,
                        .backing = fixed->backing,
                        .page_shift = fixed->page_shift,
                        .posix = fixed->flags & FLAG_POSIX,
                        .kept = fixed->flags & FLAG_KEPT,
                        .resizable = fixed->flags & FLAG_RESIZABLE,
                        .single_writer = fixed->flags & FLAG_SINGLE_WRITER,
                        .unpublished = fixed->state == WIRE_STATE_UNPUBLISHED,
                },
        };

        memcpy(segment.creator.command, fixed->command, sizeof(segment.creator.command) - 1);
        memcpy(segment.creator.unit, unit, fixed->unit_size);
        memcpy(segment.creator.executable, executable, fixed->executable_size);
        return segment;
}

/* False if its contents make no sense. */
static bool read_segment(struct record *record, const struct state_reader *reader, const struct state_cause *cause) {
        char *bytes = (char *) (record + 1);
        struct state_segment segment;
        struct fixed fixed = { 0 };

        /* An older one is shorter, a newer one longer. */
        memcpy(&fixed, bytes, MIN(sizeof(fixed), (size_t) record->fixed_size));
        if (!fixed_is_valid(&fixed, record->size - sizeof(*record) - record->fixed_size))
                return false;
        segment = segment_from(record, &fixed, bytes + record->fixed_size);
        reader->segment(&segment, cause, reader->userdata);
        return true;
}

static bool read_record(struct record *record, const struct state_reader *reader) {
        struct state_cause cause = { .token = record->token, .uid = record->uid, .serial = record->serial };

        switch (record->type) {
        case RECORD_SEGMENT:
                return read_segment(record, reader, &cause);
        case RECORD_GONE:
                reader->gone(record->id, &cause, reader->userdata);
                return true;
        case RECORD_DONE:
                reader->done(record->id, &cause, reader->userdata);
                return true;
        default: /* of a newer daemon */
                return true;
        }
}

void state_read(void *base, size_t size, const struct state_reader *reader) {
        const struct state_header *header = base;
        unsigned char *bytes = base;
        size_t end = header->end, offset = header->header_size, damage = 0;

        /* Where it is damaged, each record that is sound counts. */
        if (header->end < header->header_size || header->end > size)
                end = size;
        while (offset < end) {
                struct record *record = (struct record *) (bytes + offset);

                if (!record_is_sound(record, end - offset) || (damage == 0 && !read_record(record, reader))) {
                        damage += ALIGNMENT;
                        offset += ALIGNMENT;
                        continue;
                }
                if (damage > 0) {
                        /* A sound one after the damage: told first, then read in its turn. */
                        reader->damaged(offset - damage, damage, reader->userdata);
                        damage = 0;
                        continue;
                }
                offset += record->size;
        }
        if (damage > 0)
                reader->damaged(end - damage, damage, reader->userdata);
}
