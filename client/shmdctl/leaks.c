/* SPDX-License-Identifier: MIT */
#include "leaks.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <libsmartcols.h>
#include <signal.h>
#include <string.h>

/* --- which ones --- */

struct leak_filter leak_filter_of(const struct ctl *ctl) {
        const struct options *options = &ctl->options;

        return (struct leak_filter) {
                .kinds = options->kinds ? options->kinds : (1u << SCAN_KINDS) - 1,
                .min_age_usec = options->min_age_usec,
                .has_uid = options->has_uid,
                .uid = options->uid,
        };
}

uint64_t leak_age_usec(const struct scan_find *find) {
        uint64_t now = now_realtime_usec();

        /* The clock may have been set back; of what can't be looked at it is not known. */
        return find->used_usec > 0 && now > find->used_usec ? now - find->used_usec : 0;
}

bool leak_matches(const struct scan_find *find, const struct leak_filter *filter) {
        uint64_t min_age = filter->min_age_usec;

        if (min_age == UINT64_MAX)
                min_age = find->kind == SCAN_SHMD ? LEAK_SHMD_AGE_USEC : 0;
        return find->verdict != SCAN_IN_USE && (filter->kinds & 1u << find->kind) &&
               (!filter->has_uid || find->uid == filter->uid) &&
               (find->used_usec == 0 || leak_age_usec(find) >= min_age);
}

/* --- a daemon that does not answer --- */

/*
 * One that is stopped would keep us, and the timer that started us, waiting for ever. What it looks after can't be known without it, and
 * without knowing that nothing may be called leaked: so that is the end.
 */
#define ANSWER_SECONDS 10

static void on_alarm(int number) {
        static const char text[] = "shmdctl: the daemon does not answer: what it looks after is not known\n";

        (void) number;
        (void) !write(STDERR_FILENO, text, strlen(text));
        _exit(STATUS_NO_DAEMON);
}

void daemon_expect_answer(void) {
        signal(SIGALRM, on_alarm);
        (void) alarm(ANSWER_SECONDS);
}

void daemon_answered(void) {
        (void) alarm(0);
}

/* --- segments of shmd --- */

struct shmd_search {
        struct scan *scan;
        bool same_pids; /* the daemon counts processes as we do */
};

/* Its pid, as it knows it, is here a process that began when it did. */
static bool counts_as_we_do(const struct shmd_status *status) {
        uint64_t began_usec = status->started_usec > 5 * USEC_PER_SECOND ? status->started_usec - 5 * USEC_PER_SECOND : 0;

        /* One that began later than the daemon has its number from another namespace. */
        return scan_process_since(status->pid, status->started_usec) == SCAN_PROCESS_ALIVE &&
               scan_process_since(status->pid, began_usec) == SCAN_PROCESS_REUSED;
}

static void judge_segment(const struct shmd_search *search, const struct shmd_stat *stat, struct scan_find *find) {
        enum scan_process creator = SCAN_PROCESS_UNKNOWN;

        if (search->same_pids && stat->creator_started > 0)
                creator = scan_process_started(stat->creator_pid, stat->creator_started);
        find->certainty = SCAN_LIKELY;
        switch (creator) {
        case SCAN_PROCESS_ALIVE:
                find->verdict = SCAN_IN_USE;
                return;
        case SCAN_PROCESS_UNKNOWN:
                find->verdict = SCAN_UNKNOWN;
                snprintf(find->reason, sizeof(find->reason),
                         "nobody holds or maps it; its creator %" PRIu32 " can't be looked at", stat->creator_pid);
                return;
        default:
                find->verdict = SCAN_LEAKED;
                snprintf(find->reason, sizeof(find->reason), "nobody holds or maps it; creator %" PRIu32 " is gone",
                         stat->creator_pid);
        }
}

/* Of other lifetimes shmd itself makes an end. */
static bool is_abandoned(const struct shmd_stat *stat) {
        return stat->lifetime == SHMD_LIFETIME_PERSIST && stat->holders == 0 && stat->idle_usec > 0 &&
               (stat->state == SHMD_STATE_PUBLISHED || stat->state == SHMD_STATE_FROZEN);
}

static int visit_segment(const struct shmd_stat *stat, void *userdata) {
        struct shmd_search *search = userdata;
        struct scan_find *find;

        if (!is_abandoned(stat))
                return 0;
        find = scan_add(search->scan, SCAN_SHMD, NULL, stat->name);
        if (!find)
                fail_memory();
        find->id = stat->id;
        find->size_bytes = stat->size_bytes;
        find->resident_bytes = stat->resident_bytes;
        find->created_usec = stat->created_usec;
        find->used_usec = MAX(stat->idle_usec, stat->opened_usec);
        find->uid = stat->uid;
        find->gid = stat->gid;
        find->mode = stat->mode;
        find->creator_pid = stat->creator_pid;
        find->stamp = stat->backing;
        snprintf(find->creator_command, sizeof(find->creator_command), "%s", stat->creator_command);
        snprintf(find->unit, sizeof(find->unit), "%.*s", (int) sizeof(find->unit) - 1, stat->creator_unit);
        judge_segment(search, stat, find);
        return 0;
}

static int list_segments(struct ctl *ctl, struct scan *scan) {
        struct shmd_search search = { .scan = scan };
        struct shmd_status status;
        int r = shmd_status(ctl->connection, &status);

        if (r == 0) {
                search.same_pids = counts_as_we_do(&status);
                r = shmd_list(ctl->connection, NULL, 0, visit_segment, &search);
        }
        return r == 0 ? STATUS_DONE : fail_shmd(ctl, r, "list segments", NULL);
}

static int scan_segments(struct ctl *ctl, bool alone, struct scan *scan) {
        int status;

        /* Nobody wants a daemon started to hear that it has nothing. */
        if (!alone && ctl->options.daemon != DAEMON_OF_USER)
                setenv("SHMD_AUTOSTART", "0", 1);
        status = connect_to_daemon(ctl);
        if (status == STATUS_DONE)
                return list_segments(ctl, scan);
        if (status == STATUS_NO_DAEMON && !alone && ctl->options.daemon == DAEMON_DEFAULT) {
                fail("segments of shmd are left out");
                return STATUS_DONE;
        }
        return status;
}

/* --- all kinds --- */

static int fail_scan(int error, const char *what) {
        if (error == -ENOMEM)
                fail_memory();
        return fail("cannot look at %s: %s", what, strerror(-error));
}

static int scan_elsewhere(unsigned kinds, struct scan *scan) {
        unsigned hidden = 0;
        int r = scan_other_spaces(scan, kinds & 1u << SCAN_POSIX, kinds & 1u << SCAN_SYSV, &hidden);

        if (r < 0)
                return fail_scan(r, "other namespaces");
        if (hidden > 0)
                fail("the namespaces of %u process%s can't be looked into: what is there is not judged", hidden,
                     hidden == 1 ? "" : "es");
        return STATUS_DONE;
}

/* A daemon that is there says which are its own, even if only those of the kernel are asked for. */
static void spare_sysv(struct ctl *ctl, struct scan *scan) {
        daemon_expect_answer();
        if (!ctl->connection) {
                setenv("SHMD_AUTOSTART", "0", 1);
                (void) connection_open(ctl);
        }
        leaks_spare_sysv(ctl, scan);
        daemon_answered();
}

int leaks_scan(struct ctl *ctl, unsigned kinds, struct scan *scan) {
        int status = STATUS_DONE, r;

        scan_init(scan);
        signal(SIGIO, SIG_IGN); /* comes when somebody opens a file while we ask about it */
        if (kinds & 1u << SCAN_SHMD) {
                daemon_expect_answer();
                status = scan_segments(ctl, kinds == 1u << SCAN_SHMD, scan);
                daemon_answered();
        }
        if (status == STATUS_DONE && (kinds & 1u << SCAN_POSIX) && (r = scan_posix(scan)) < 0)
                status = fail_scan(r, SCAN_DIRECTORY);
        if (status == STATUS_DONE && (kinds & 1u << SCAN_SYSV) && (r = scan_sysv(scan)) < 0)
                status = fail_scan(r, "SysV segments");
        if (status == STATUS_DONE && (kinds & 1u << SCAN_SYSV))
                spare_sysv(ctl, scan);
        if (status == STATUS_DONE && ctl->options.all_namespaces)
                status = scan_elsewhere(kinds, scan);
        if (status == STATUS_DONE && (r = scan_processes(scan)) < 0)
                status = fail_scan(r, "/proc");
        return status;
}

/* --- what is told of one --- */

static const char *certainty_word(const struct scan_find *find) {
        if (find->verdict == SCAN_UNKNOWN)
                return "unknown";
        return find->certainty == SCAN_CERTAIN ? "certain" : "likely";
}

static struct json_object *space_to_json(const struct scan_space *space) {
        struct json_object *object = json_new_object();

        json_add_number(object, "pid", (uint64_t) space->pid);
        json_add_string(object, "unit", space->label);
        return object;
}

static void add_kind_to_json(const struct scan_find *find, struct json_object *object) {
        if (find->kind == SCAN_POSIX) {
                json_add_number(object, "device", find->device);
                json_add_number(object, "inode", find->id);
                json_add_number(object, "links", find->links);
                return;
        }
        json_add_number(object, "creator_pid", find->creator_pid);
        if (find->kind == SCAN_SYSV) {
                json_add_number(object, "shmid", find->id);
                json_add_string(object, "key", find->name);
                json_add_number(object, "last_pid", find->last_pid);
                json_add_number(object, "attachments", find->attachments);
        } else {
                json_add_string(object, "creator_command", find->creator_command);
                json_add_string(object, "creator_unit", find->unit);
        }
}

struct json_object *leak_to_json(const struct scan_find *find) {
        struct json_object *object = json_new_object();
        char mode[TEXT_SIZE_MAX];

        snprintf(mode, sizeof(mode), "%04" PRIo32, find->mode);
        json_add_string(object, "kind", scan_kind_name(find->kind));
        json_add_number(object, "id", find->id);
        json_add_string(object, "name", find->name);
        json_add_number(object, "size", find->size_bytes);
        json_add_resident(object, find->resident_bytes);
        json_add_number(object, "uid", find->uid);
        json_add_number(object, "gid", find->gid);
        json_add_string(object, "owner", user_name(find->uid));
        json_add_string(object, "mode", mode);
        json_add_number(object, "created_usec", find->created_usec);
        json_add_number(object, "used_usec", find->used_usec);
        json_add_number(object, "age_usec", leak_age_usec(find));
        json_add_string(object, "verdict", find->verdict == SCAN_LEAKED ? "leaked" : "unknown");
        json_add_string(object, "certainty", certainty_word(find));
        json_add_string(object, "reason", find->reason);
        add_kind_to_json(find, object);
        if (find->space && find->space->pid != 0)
                json_add(object, "namespace", space_to_json(find->space));
        return object;
}

#define COLUMN(name)                                                                              \
        static void cell_##name(const struct ctl *ctl, const struct scan_find *find, char *cell);  \
        static void column_##name(const struct ctl *ctl, const void *item, char *cell) {            \
                cell_##name(ctl, item, cell);                                                       \
        }                                                                                           \
        static void cell_##name(const struct ctl *ctl, const struct scan_find *find, char *cell)

COLUMN(kind) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", scan_kind_name(find->kind));
}

COLUMN(id) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu64, find->id);
}

COLUMN(name) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", find->name);
}

COLUMN(size) {
        format_size(find->size_bytes, ctl->options.bytes, cell);
}

COLUMN(resident) {
        format_resident(find->resident_bytes, ctl->options.bytes, cell);
}

COLUMN(owner) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", user_name(find->uid));
}

COLUMN(uid) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%" PRIu32, find->uid);
}

COLUMN(mode) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%04" PRIo32, find->mode);
}

COLUMN(age) {
        (void) ctl;
        if (find->used_usec > 0)
                format_duration(leak_age_usec(find), cell);
}

COLUMN(sure) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", certainty_word(find));
}

COLUMN(why) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", find->reason);
}

COLUMN(where) {
        (void) ctl;
        if (find->space && find->space->pid != 0)
                snprintf(cell, CELL_MAX, "%s", find->space->label);
}

COLUMN(created) {
        (void) ctl;
        if (find->created_usec > 0)
                format_time(find->created_usec, cell);
}

COLUMN(used) {
        (void) ctl;
        if (find->used_usec > 0)
                format_time(find->used_usec, cell);
}

COLUMN(creator) {
        (void) ctl;
        if (find->creator_pid > 0)
                snprintf(cell, CELL_MAX, "%" PRIu32, find->creator_pid);
}

COLUMN(last) {
        (void) ctl;
        if (find->last_pid > 0)
                snprintf(cell, CELL_MAX, "%" PRIu32, find->last_pid);
}

COLUMN(command) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", find->creator_command);
}

COLUMN(unit) {
        (void) ctl;
        snprintf(cell, CELL_MAX, "%s", find->unit);
}

static const struct column columns[] = {
        { "kind", "KIND", "shmd, posix or sysv", 0, column_kind },
        { "id", "ID", "of shmd, the inode, or shmid", SCOLS_FL_RIGHT, column_id },
        { "name", "NAME", "name; of sysv, the key", SCOLS_FL_WRAP, column_name },
        { "size", "SIZE", "size", SCOLS_FL_RIGHT, column_size },
        { "resident", "RESIDENT", "how much of it exists in memory", SCOLS_FL_RIGHT, column_resident },
        { "owner", "OWNER", "its user", 0, column_owner },
        { "age", "AGE", "time since its last known use", SCOLS_FL_RIGHT, column_age },
        { "sure", "SURE", "certain, likely; or unknown: can't be judged", 0, column_sure },
        { "why", "WHY", "the evidence", SCOLS_FL_WRAP, column_why },
        /* From here on by request only. */
        { "uid", "UID", "its user's number", SCOLS_FL_RIGHT, column_uid },
        { "mode", "MODE", "permission bits", 0, column_mode },
        { "created", "CREATED", "when it was made; of sysv, or last changed", 0, column_created },
        { "used", "USED", "its last known use", 0, column_used },
        { "creator", "CREATOR", "its creator's process; of shmd and sysv", SCOLS_FL_RIGHT, column_creator },
        { "last", "LAST", "the process that used it last; of sysv", SCOLS_FL_RIGHT, column_last },
        { "command", "COMMAND", "its creator's command; of shmd", 0, column_command },
        { "unit", "UNIT", "its creator's systemd unit; of shmd", 0, column_unit },
        { "where", "WHERE", "unit or container of another namespace", 0, column_where },
};

static const char *const dispensable[] = { "resident", "owner", "id", "age", NULL };

const struct column_set leak_columns = { columns, ELEMENTSOF(columns), 9, dispensable };
