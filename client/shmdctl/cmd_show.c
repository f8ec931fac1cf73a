/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <errno.h>
#include <inttypes.h>
#include <libsmartcols.h>
#include <string.h>
#include <sys/sysmacros.h>

static const char *access_name(const struct shmd_holder *holder) {
        return holder->write ? "rw" : "ro";
}

/* --- who holds it, and who really has it --- */

struct users {
        struct shmd_holder *holders;
        size_t n_holders;
        size_t capacity;
        bool hidden; /* the caller may not know the holders */
        struct mappers mappers;
        struct shmd_lock_user *lockers; /* who has its lock, or waits for it */
        size_t n_lockers, lockers_capacity;
        uint32_t lock_state; /* enum shmd_lock_state */
};

static void users_done(struct users *users) {
        free(users->holders);
        free(users->lockers);
        mappers_done(&users->mappers);
}

static int visit_holder(const struct shmd_holder *holder, void *userdata) {
        struct users *users = userdata;

        if (users->n_holders == users->capacity) {
                users->capacity = MAX(2 * users->capacity, (size_t) 16);
                users->holders = reallocarray(users->holders, users->capacity, sizeof(*holder));
                if (!users->holders)
                        fail_memory();
        }
        users->holders[users->n_holders++] = *holder;
        return 0;
}

static int visit_locker(const struct shmd_lock_user *user, void *userdata) {
        struct users *users = userdata;

        if (users->n_lockers == users->lockers_capacity) {
                users->lockers_capacity = MAX(2 * users->lockers_capacity, (size_t) 16);
                users->lockers = reallocarray(users->lockers, users->lockers_capacity, sizeof(*user));
                if (!users->lockers)
                        fail_memory();
        }
        users->lockers[users->n_lockers++] = *user;
        return 0;
}

static const char *lock_state(uint32_t state) {
        static const char *const words[] = {
                [SHMD_LOCK_UNUSED] = "unused",
                [SHMD_LOCK_CONSISTENT] = "consistent",
                [SHMD_LOCK_OWNER_DIED] = "owner-died",
                [SHMD_LOCK_GIVEN_UP] = "given-up",
        };

        return state < ELEMENTSOF(words) ? words[state] : "unknown";
}

static int users_find(struct ctl *ctl, const struct shmd_stat *stat, struct users *users) {
        int r = shmd_holders(ctl->connection, stat->id, visit_holder, users);

        users->hidden = r == -EPERM;
        if (r != 0 && r != -EPERM)
                return fail_shmd(ctl, r, "show the holders of", stat->name);
        mappers_find(ctl, stat, &users->mappers);
        /* Who may not see it is told of none; nor does an older daemon know of any. */
        (void) shmd_lock_users(ctl->connection, stat->id, visit_locker, users, &users->lock_state);
        return STATUS_DONE;
}

static bool is_holder(const struct users *users, uint32_t pid) {
        for (size_t i = 0; i < users->n_holders; i++) {
                if (users->holders[i].pid == pid)
                        return true;
        }
        return false;
}

/* What a holder does with it: an access, "-" for nothing, "?" where that is not known. */
static const char *holder_use(const struct users *users, const struct shmd_holder *holder) {
        const struct shmd_mapper *mapper = holder->pid > 0 ? mappers_get(&users->mappers, holder->pid) : NULL;

        if (mapper)
                return mapper_access(mapper);
        return holder->pid == 0 || users->mappers.hidden > 0 || users->mappers.error != 0 ? "?" : "-";
}

/* --- as JSON --- */

static struct json_object *holder_to_json(const struct shmd_holder *holder) {
        struct json_object *object = json_new_object();

        json_add_number(object, "pid", holder->pid);
        json_add_number(object, "uid", holder->uid);
        json_add_number(object, "gid", holder->gid);
        json_add_string(object, "command", holder->command);
        json_add_string(object, "unit", holder->unit);
        json_add_string(object, "access", access_name(holder));
        json_add_number(object, "count", holder->count);
        json_add_bool(object, "detached", holder->detached);
        json_add_number(object, "since_usec", holder->since_usec);
        return object;
}

static struct json_object *mapper_to_json(const struct shmd_mapper *mapper, bool known) {
        struct json_object *object = json_new_object();

        json_add_number(object, "pid", mapper->pid);
        json_add_number(object, "uid", mapper->uid);
        json_add_string(object, "command", mapper->command);
        json_add_string(object, "access", mapper_access(mapper));
        json_add_bool(object, "known", known);
        return object;
}

static const char *lock_use(const struct shmd_lock_user *user) {
        if (user->waiting == SHMD_LOCK_HELD)
                return "holds";
        return user->waiting == SHMD_LOCK_CONDITION ? "condition" : "waits";
}

static struct json_object *locker_to_json(const struct shmd_lock_user *user) {
        struct json_object *object = json_new_object();

        json_add_number(object, "pid", user->pid);
        json_add_number(object, "tid", user->tid);
        json_add_string(object, "command", user->command);
        json_add_bool(object, "shared", user->shared);
        if (user->waiting != SHMD_LOCK_HELD)
                json_add_bool(object, "condition", user->waiting == SHMD_LOCK_CONDITION);
        json_add_bool(object, "confirmed", user->confirmed);
        return object;
}

static struct json_object *lock_to_json(const struct users *users) {
        struct json_object *object = json_new_object(), *holders = json_new_array(), *waiters = json_new_array();

        for (size_t i = 0; i < users->n_lockers; i++)
                json_append(users->lockers[i].waiting != SHMD_LOCK_HELD ? waiters : holders, locker_to_json(&users->lockers[i]));
        json_add_string(object, "state", lock_state(users->lock_state));
        json_add(object, "holders", holders);
        json_add(object, "waiters", waiters);
        return object;
}

static int show_json(const struct shmd_stat *stat, const struct users *users) {
        struct json_object *object = segment_to_json(stat), *holders = json_new_array(), *mappers = json_new_array();

        for (size_t i = 0; i < users->n_holders; i++)
                json_append(holders, holder_to_json(&users->holders[i]));
        for (size_t i = 0; i < users->mappers.count; i++) {
                const struct shmd_mapper *mapper = &users->mappers.items[i];

                json_append(mappers, mapper_to_json(mapper, is_holder(users, mapper->pid)));
        }
        json_add_number(object, "holder_count", stat->holders);
        json_add_bool(object, "holders_hidden", users->hidden);
        json_add(object, "holders", holders); /* an array here, where list has their number */
        json_add_number(object, "mappers_hidden", users->mappers.hidden);
        json_add(object, "mappers", mappers);
        json_add(object, "lock", lock_to_json(users));
        return json_print(object);
}

/* --- as text --- */

static void print_field(const char *key, const char *value) {
        printf("%-11s ", key);
        print_escaped(stdout, value);
        putchar('\n');
}

static void print_size_field(const char *key, uint64_t bytes) {
        char text[TEXT_SIZE_MAX];

        printf("%-11s %s", key, format_resident(bytes, false, text));
        if (bytes >= 1024 && bytes != UINT64_MAX)
                printf(" (%" PRIu64 " bytes)", bytes);
        putchar('\n');
}

static void print_time_field(const char *key, uint64_t usec) {
        char at[TEXT_SIZE_MAX], ago[TEXT_SIZE_MAX];

        if (usec > 0)
                printf("%-11s %s (%s ago)\n", key, format_time(usec, at), format_age(usec, ago));
}

static void print_id_field(const char *key, const char *name, uint32_t id) {
        char text[128];

        snprintf(text, sizeof(text), "%s (%" PRIu32 ")", name, id);
        print_field(key, text);
}

static void print_mode_field(uint32_t mode) {
        char letters[10];

        for (unsigned i = 0; i < 9; i++)
                letters[i] = mode & (0400u >> i) ? "rwx"[i % 3] : '-';
        letters[9] = 0;
        printf("%-11s %04" PRIo32 " (%s)\n", "mode:", mode, letters);
}

static void print_creator_fields(const struct shmd_stat *stat) {
        char text[TEXT_CREATOR_MAX];

        if (stat->creator_pid == 0 && !stat->creator_command[0])
                return;
        print_field("creator:", segment_creator(stat, text));
        if (stat->creator_executable[0])
                print_field("executable:", stat->creator_executable);
}

static void print_backing_field(const struct shmd_stat *stat) {
        char pages[TEXT_SIZE_MAX];

        printf("%-11s %s", "backing:", segment_backing(stat));
        if (stat->page_bytes)
                printf(", pages of %s", format_size(stat->page_bytes, false, pages));
        fputs(stat->resizable ? ", resizable" : "", stdout);
        fputs(stat->single_writer ? ", written by its creator alone" : "", stdout);
        fputs(stat->posix ? ", open to ftruncate (shm_open)" : "", stdout);
        if (stat->backing == SHMD_BACKING_SYSV)
                printf(", key 0x%08" PRIx32 ", shmid %" PRIu32 ", attached %" PRIu64 " times%s", stat->sysv_key, stat->sysv_id,
                       stat->sysv_attached, stat->registered ? ", registered" : "");
        putchar('\n');
        if (stat->truncated)
                puts("            somebody has made the memory shorter: access beyond its end raises SIGBUS");
        if (stat->inode)
                printf("%-11s device %u:%u, inode %" PRIu64 "\n", "memory:", major(stat->device), minor(stat->device),
                       stat->inode);
}

static void print_fields(const struct shmd_stat *stat) {
        char text[TEXT_LABELS_MAX];

        print_field("name:", stat->name);
        printf("%-11s %" PRIu64 "\n", "id:", stat->id);
        print_size_field("size:", stat->size_bytes);
        if (stat->resizable)
                print_size_field("maximum:", stat->maximum_bytes);
        print_size_field("resident:", stat->resident_bytes);
        print_id_field("owner:", user_name(stat->uid), stat->uid);
        print_id_field("group:", group_name(stat->gid), stat->gid);
        print_mode_field(stat->mode);
        print_field("lifetime:", segment_lifetime(stat, text));
        print_field("state:", segment_state(stat));
        print_backing_field(stat);
        print_time_field("created:", stat->created_usec);
        print_time_field("opened:", stat->opened_usec);
        print_time_field("idle:", stat->idle_usec);
        print_creator_fields(stat);
        if (stat->labels[0])
                print_field("labels:", segment_labels(stat, ' ', text));
        printf("%-11s %" PRIu32 "%s\n", "holders:", stat->holders,
               stat->unknown_holder ? ", one of them not known: open or mapped outside any connection" : "");
}

struct heading {
        const char *text;
        int flags;
};

static struct libscols_table *new_table(const struct ctl *ctl, size_t n_columns, const struct heading *columns) {
        struct libscols_table *table = table_new(ctl);

        for (size_t i = 0; i < n_columns; i++)
                table_add_column(table, columns[i].text, columns[i].flags);
        return table;
}

static void add_holder(struct libscols_table *table, const struct users *users, const struct shmd_holder *holder) {
        char pid[TEXT_SIZE_MAX] = "-", count[TEXT_SIZE_MAX], since[TEXT_SIZE_MAX], access[TEXT_SIZE_MAX];
        const char *cells[] = { pid,    user_name(holder->uid),    holder->command, holder->unit,
                                access, holder_use(users, holder), count,           since };

        if (holder->pid > 0) /* else it is not of the daemon's pid namespace */
                snprintf(pid, sizeof(pid), "%" PRIu32, holder->pid);
        snprintf(count, sizeof(count), "%" PRIu32, holder->count);
        snprintf(access, sizeof(access), "%s%s", access_name(holder), holder->detached ? ", detached" : "");
        format_age(holder->since_usec, since);
        table_add_row(table, ELEMENTSOF(cells), cells);
}

static int print_holders(const struct ctl *ctl, const struct users *users) {
        static const struct heading columns[] = {
                { "PID", SCOLS_FL_RIGHT }, { "USER", 0 },   { "COMMAND", 0 },              { "UNIT", SCOLS_FL_TRUNC },
                { "ACCESS", 0 },           { "MAPPED", 0 }, { "COUNT", SCOLS_FL_RIGHT }, { "SINCE", SCOLS_FL_RIGHT },
        };
        struct libscols_table *table = new_table(ctl, ELEMENTSOF(columns), columns);

        for (size_t i = 0; i < users->n_holders; i++)
                add_holder(table, users, &users->holders[i]);
        if (users->n_holders > 0)
                putchar('\n');
        return table_print(table);
}

static void add_stranger(struct libscols_table *table, const struct shmd_mapper *mapper) {
        char pid[TEXT_SIZE_MAX];
        const char *cells[] = { pid, user_name(mapper->uid), mapper->command, mapper_access(mapper) };

        snprintf(pid, sizeof(pid), "%" PRIu32, mapper->pid);
        table_add_row(table, ELEMENTSOF(cells), cells);
}

/* Those that have it without a connection of their own; all that are seen, where the holders are not. */
static int print_strangers(const struct ctl *ctl, const struct users *users) {
        static const struct heading columns[] = {
                { "PID", SCOLS_FL_RIGHT }, { "USER", 0 }, { "COMMAND", 0 }, { "MAPPED", 0 }
        };
        struct libscols_table *table = new_table(ctl, ELEMENTSOF(columns), columns);

        for (size_t i = 0; i < users->mappers.count; i++) {
                if (!is_holder(users, users->mappers.items[i].pid))
                        add_stranger(table, &users->mappers.items[i]);
        }
        if (!scols_table_is_empty(table))
                puts("\nOpen or mapped, as /proc shows it, without a connection that holds it:");
        return table_print(table);
}

static void add_locker(struct libscols_table *table, const struct shmd_lock_user *user) {
        char pid[TEXT_SIZE_MAX] = "-", tid[TEXT_SIZE_MAX];
        const char *cells[] = { pid, tid, user->command, user->shared ? "shared" : "exclusive", lock_use(user),
                                user->confirmed ? "yes" : "no" };

        if (user->pid > 0) /* else it is not of our pid namespace */
                snprintf(pid, sizeof(pid), "%" PRIu32, user->pid);
        snprintf(tid, sizeof(tid), "%" PRIu32, user->tid);
        table_add_row(table, ELEMENTSOF(cells), cells);
}

static int print_lockers(const struct ctl *ctl, const struct users *users) {
        static const struct heading columns[] = {
                { "PID", SCOLS_FL_RIGHT }, { "TID", SCOLS_FL_RIGHT }, { "COMMAND", 0 }, { "LOCK", 0 }, { "STATE", 0 },
                { "MAPPED", 0 },
        };
        struct libscols_table *table = new_table(ctl, ELEMENTSOF(columns), columns);

        for (size_t i = 0; i < users->n_lockers; i++)
                add_locker(table, &users->lockers[i]);
        if (users->n_lockers > 0)
                puts("\nIts lock, by what the holders have written there:");
        return table_print(table);
}

static void print_lock_field(const struct users *users) {
        static const char *const words[] = {
                [SHMD_LOCK_CONSISTENT] = "in order",
                [SHMD_LOCK_OWNER_DIED] = "its holder has died, the data may be half written",
                [SHMD_LOCK_GIVEN_UP] = "given up, as its holder had died and nobody made the data good",
        };

        if (users->lock_state != SHMD_LOCK_UNUSED && users->lock_state < ELEMENTSOF(words))
                print_field("lock:", words[users->lock_state]);
}

static void print_gaps(const struct shmd_stat *stat, const struct users *users) {
        char hidden[TEXT_HIDDEN_MAX];

        if (users->hidden && stat->holders > 0)
                puts("(who they are is shown to the owner and to administrators)");
        if (stat->unknown_holder && users->mappers.hidden > 0)
                printf("(%s)\n", mappers_describe_hidden(&users->mappers, hidden));
        if (users->mappers.error != 0)
                printf("(cannot look for who has it mapped: %s)\n", strerror(-users->mappers.error));
}

static int show_text(const struct ctl *ctl, const struct shmd_stat *stat, const struct users *users) {
        int status;

        print_fields(stat);
        print_lock_field(users);
        print_gaps(stat, users);
        status = print_holders(ctl, users);
        if (status == STATUS_DONE)
                status = print_strangers(ctl, users);
        return status == STATUS_DONE ? print_lockers(ctl, users) : status;
}

/* --- both --- */

static int show(struct ctl *ctl, const struct shmd_stat *stat) {
        _cleanup_(users_done) struct users users = { 0 };
        int status = users_find(ctl, stat, &users);

        if (status != STATUS_DONE)
                return status;
        return ctl->options.json ? show_json(stat, &users) : show_text(ctl, stat, &users);
}

int cmd_show(struct ctl *ctl, int n_arguments, char **arguments) {
        int status = connect_to_daemon(ctl);
        struct shmd_stat stat;
        int r;

        (void) n_arguments;
        if (status != STATUS_DONE)
                return status;
        r = segment_stat(ctl, arguments[0], &stat);
        return r != 0 ? fail_shmd(ctl, r, "show", arguments[0]) : show(ctl, &stat);
}

int show_quietly(struct ctl *ctl, uint64_t id) {
        struct shmd_stat stat;
        int r;

        if (!ctl->options.json)
                return STATUS_DONE;
        r = shmd_stat_id(ctl->connection, id, &stat);
        return r != 0 ? fail_shmd(ctl, r, "show what was created", NULL) : show(ctl, &stat);
}
