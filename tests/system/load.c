/* SPDX-License-Identifier: MIT */
/*
 * load NAME: a client that is to live through whatever happens to the daemon, and to notice a pause at most.
 *
 * It makes segments below NAME, fills and checks them, publishes, closes and opens them again and removes them, at random. It says
 * "ready" once it has done a round of that, and goes on until its standard input ends. Then it checks everything: each byte of each
 * segment, by the mapping that it has had all the time and by the name; that the daemon counts each of its holds; that ids, sizes, modes
 * and labels are what they were; that what was removed is gone. The segments stay. The last line is "ok", the number of segments, of
 * operations, and the longest pause in milliseconds.
 *
 * load --many NUMBER NAME: makes so many segments, and ends.
 */
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <shmd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 48u
#define PAGE 4096u
#define MODE 0640u

struct slot {
        char name[128];
        char labels[64];
        struct shmd_segment *segment; /* NULL: not held */
        unsigned char *memory;
        uint64_t id; /* 0: there is none */
        uint64_t size;
        unsigned pattern;
};

static struct shmd *connection;
static struct slot slots[SLOTS];
static unsigned serial;
static uint64_t operations, longest_usec;

static uint64_t now_usec(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* Each call has to succeed, or to fail as expected. */
static void expect(int result, int expected, const char *what, const struct slot *slot) {
        if (result != expected)
                errx(1, "%s %s: %s instead of %s: %s", what, slot->name, strerror(-result), strerror(-expected),
                     shmd_error_message(connection));
}

#define CALL(expected, slot, what, call)                             \
        do {                                                         \
                const uint64_t started_ = now_usec();                \
                expect(call, expected, what, slot);                  \
                if (now_usec() - started_ > longest_usec)            \
                        longest_usec = now_usec() - started_;        \
                operations++;                                        \
        } while (0)

/* --- bytes --- */

static unsigned char byte_at(const struct slot *slot, size_t i) {
        return (unsigned char) (slot->pattern * 31 + i * 7 + i / PAGE);
}

static void fill(struct slot *slot) {
        slot->pattern = ++serial;
        for (size_t i = 0; i < slot->size; i++)
                slot->memory[i] = byte_at(slot, i);
}

static void check_bytes(const struct slot *slot, const unsigned char *memory) {
        for (size_t i = 0; i < slot->size; i++)
                if (memory[i] != byte_at(slot, i))
                        errx(1, "%s: byte %zu is %u instead of %u", slot->name, i, memory[i], byte_at(slot, i));
}

/* --- one segment --- */

static void map(struct slot *slot) {
        void *address;
        size_t size;

        CALL(0, slot, "map", shmd_map(slot->segment, &address, &size));
        if (size != slot->size)
                errx(1, "%s: %zu bytes instead of %" PRIu64, slot->name, size, slot->size);
        slot->memory = address;
}

static void let_go(struct slot *slot) {
        slot->segment = shmd_close(slot->segment);
        slot->memory = NULL;
}

/* Half of them unpublished at first: a creator who comes back has them still. */
static void make(struct slot *slot) {
        const struct shmd_create_options options = { .mode = MODE, .labels = slot->labels };
        bool publish = rand() % 2 == 0;

        slot->size = (1 + (uint64_t) rand() % 16) * PAGE;
        (void) snprintf(slot->labels, sizeof(slot->labels), "serial=%u\n", ++serial);
        CALL(0, slot, "create",
             shmd_create(connection, slot->name, slot->size, SHMD_EXCLUSIVE | (publish ? SHMD_UNPUBLISHED : 0), &options, &slot->segment));
        slot->id = shmd_id(slot->segment);
        map(slot);
        fill(slot);
        if (publish) {
                CALL(-ENOENT, slot, "stat of what is not published", shmd_stat(connection, slot->name, &(struct shmd_stat) { 0 }));
                CALL(0, slot, "publish", shmd_publish(slot->segment, 0));
        }
}

static void check_stat(const struct slot *slot) {
        struct shmd_stat stat;

        CALL(0, slot, "stat", shmd_stat(connection, slot->name, &stat));
        if (stat.id != slot->id || stat.size_bytes != slot->size || stat.mode != MODE || stat.uid != geteuid() ||
            strcmp(stat.labels, slot->labels) != 0)
                errx(1, "%s: id %" PRIu64 ", size %" PRIu64 ", mode %o, uid %u, labels \"%s\" instead of %" PRIu64 ", %" PRIu64 ", \"%s\"",
                     slot->name, stat.id, stat.size_bytes, (unsigned) stat.mode, (unsigned) stat.uid, stat.labels, slot->id, slot->size,
                     slot->labels);
}

static void open_again(struct slot *slot) {
        CALL(0, slot, "open", shmd_open(connection, slot->name, SHMD_READ_WRITE, &slot->segment));
        if (shmd_id(slot->segment) != slot->id)
                errx(1, "%s: another segment has the name", slot->name);
        map(slot);
        check_bytes(slot, slot->memory);
}

static void remove_name(struct slot *slot) {
        CALL(0, slot, "unlink", shmd_unlink(connection, slot->name));
        if (slot->segment) {
                check_bytes(slot, slot->memory);
                let_go(slot);
        }
        slot->id = 0;
}

static void check_removed(struct slot *slot) {
        struct shmd_segment *segment;

        CALL(-ENOENT, slot, "open of what was removed", shmd_open(connection, slot->name, SHMD_READ_ONLY, &segment));
}

static void step(struct slot *slot) {
        if (slot->id == 0) {
                if (rand() % 2 == 0)
                        check_removed(slot);
                make(slot);
                return;
        }
        switch (rand() % 6) {
        case 0:
                if (slot->segment)
                        let_go(slot);
                else
                        open_again(slot);
                return;
        case 1:
                check_stat(slot);
                return;
        case 2:
                if (rand() % 4 == 0)
                        remove_name(slot);
                return;
        case 3:
                if (slot->segment)
                        fill(slot);
                return;
        default:
                if (slot->segment)
                        check_bytes(slot, slot->memory);
                else
                        open_again(slot);
        }
}

/* --- the end: everything --- */

static int find_own(const struct shmd_holder *holder, void *userdata) {
        unsigned *count = userdata;

        if (holder->pid == (uint32_t) getpid())
                *count += holder->count;
        return 0;
}

static void check_hold(const struct slot *slot) {
        unsigned count = 0;

        CALL(0, slot, "holders", shmd_holders(connection, slot->id, find_own, &count));
        if (count != (slot->segment ? 1 : 0))
                errx(1, "%s: held %u times by the daemon's account, %s by ours", slot->name, count, slot->segment ? "once" : "not");
}

static unsigned check_all(void) {
        unsigned count = 0;

        for (struct slot *slot = slots; slot < slots + SLOTS; slot++) {
                if (slot->id == 0) {
                        check_removed(slot);
                        continue;
                }
                count++;
                check_stat(slot);
                check_hold(slot);
                if (slot->segment) {
                        check_bytes(slot, slot->memory);
                        /* Still the same memory for both */
                        fill(slot);
                        let_go(slot);
                }
                open_again(slot);
                let_go(slot);
        }
        return count;
}

static bool is_over(void) {
        struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };

        return poll(&input, 1, 0) > 0;
}

static int live(const char *name) {
        for (unsigned i = 0; i < SLOTS; i++)
                (void) snprintf(slots[i].name, sizeof(slots[i].name), "%s/%u", name, i);
        for (unsigned round = 0; round == 0 || !is_over(); round++) {
                for (unsigned i = 0; i < SLOTS; i++)
                        step(&slots[(unsigned) rand() % SLOTS]);
                if (round == 0) {
                        puts("ready");
                        fflush(stdout);
                }
        }
        printf("ok %u segments, %" PRIu64 " operations, longest pause %" PRIu64 " ms\n", check_all(), operations, longest_usec / 1000);
        return 0;
}

static int make_many(unsigned number, const char *name) {
        struct slot slot = { .size = PAGE };

        for (unsigned i = 0; i < number; i++) {
                (void) snprintf(slot.name, sizeof(slot.name), "%s/%u", name, i);
                CALL(0, &slot, "create", shmd_create(connection, slot.name, slot.size, SHMD_EXCLUSIVE, NULL, &slot.segment));
                (void) shmd_close(slot.segment);
        }
        return 0;
}

int main(int argc, char **argv) {
        bool many = argc == 4 && strcmp(argv[1], "--many") == 0;
        int status;

        if (argc != 2 && !many)
                errx(2, "usage: load NAME | load --many NUMBER NAME");
        (void) umask(0);
        srand((unsigned) getpid());
        if (shmd_connect_system(&connection) < 0)
                errx(3, "%s", shmd_error_message(NULL));
        status = many ? make_many((unsigned) atoi(argv[2]), argv[3]) : live(argv[1]);
        shmd_disconnect(connection);
        return status;
}
