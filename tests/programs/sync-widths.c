/* SPDX-License-Identifier: MIT */
/*
 * A program that uses locks, conditions, snapshots and bells of one segment together with others of its kind, which may have been
 * compiled for another width: sync-widths COMMAND [NUMBER]. Ends with 1, and says what, when something is not as it must be.
 */
#include <errno.h>
#include <inttypes.h>
#include <shmd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORDS 64

struct data {
        uint32_t first, second; /* equal, but within a section */
        uint32_t turn, number;
        uint32_t words[WORDS]; /* all the same */
};

static struct shmd *connection;
static struct shmd_segment *segment;
static volatile struct data *data;

#define REQUIRE(condition)                                                                                               \
        do {                                                                                                             \
                if (!(condition)) {                                                                                      \
                        fprintf(stderr, "%zu bits, line %d: not so: %s (%s)\n", 8 * sizeof(long), __LINE__, #condition,  \
                                shmd_error_message(connection));                                                         \
                        exit(1);                                                                                         \
                }                                                                                                        \
        } while (0)

static void say(const char *word) {
        printf("%s\n", word);
        fflush(stdout);
}

static void lock(unsigned flags) {
        REQUIRE(shmd_lock(segment, flags, SHMD_FOREVER) == 0);
}

static void unlock(void) {
        REQUIRE(shmd_unlock(segment) == 0);
}

static void count(uint32_t times) {
        for (uint32_t i = 0; i < times; i++) {
                lock(SHMD_LOCK_EXCLUSIVE);
                data->first++;
                data->second++;
                unlock();
                lock(SHMD_LOCK_SHARED);
                REQUIRE(data->first == data->second);
                unlock();
        }
}

/* Holds it until it is killed; 2: shared. */
static void hold(uint32_t how) {
        lock(how == 2 ? SHMD_LOCK_SHARED : SHMD_LOCK_EXCLUSIVE);
        say("held");
        pause();
}

static void take(uint32_t unused) {
        int r = shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, SHMD_FOREVER);

        (void) unused;
        REQUIRE(r == 0 || r == -EOWNERDEAD);
        say(r == 0 ? "clean" : "dead");
        if (r == -EOWNERDEAD)
                REQUIRE(shmd_mark_consistent(segment) == 0);
        unlock();
}

/* In vain, for a time that no 32 bits hold, or for a short one. */
static void try(uint32_t unused) {
        (void) unused;
        REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 0) == -EBUSY);
        REQUIRE(shmd_lock(segment, SHMD_LOCK_SHARED, 0) == -EBUSY);
        REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, 1000) == -ETIMEDOUT);
        REQUIRE(shmd_lock(segment, SHMD_LOCK_SHARED, 1000) == -ETIMEDOUT);
}

static void take_slowly(uint32_t unused) {
        (void) unused;
        REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, UINT64_MAX - 1) == 0);
        unlock();
        REQUIRE(shmd_lock(segment, SHMD_LOCK_EXCLUSIVE, UINT64_C(1) << 53) == 0);
        unlock();
}

/* In turns with one of the other parity. */
static void turns(uint32_t parity) {
        for (uint32_t turn = parity; turn < 2000; turn += 2) {
                lock(SHMD_LOCK_EXCLUSIVE);
                while (data->turn != turn)
                        REQUIRE(shmd_condition_wait(segment, SHMD_FOREVER) == 0);
                data->turn++;
                REQUIRE(shmd_condition_signal(segment) == 0);
                unlock();
        }
}

static void hear(uint32_t times) {
        uint32_t number, rings;

        REQUIRE(shmd_bell_open(segment, &number) == 0);
        REQUIRE(shmd_bell_fd(segment) >= 0);
        data->number = number;
        say("ready");
        for (; times > 0; times -= rings)
                REQUIRE(shmd_bell_wait(segment, SHMD_FOREVER, &rings) == 0 && rings <= times);
}

static void ring(uint32_t times) {
        while (times-- > 0)
                REQUIRE(shmd_bell_ring(segment, data->number) == 0);
}

static void write_on(uint32_t unused) {
        (void) unused;
        for (uint32_t n = 1;; n++) {
                REQUIRE(shmd_write_begin(segment, SHMD_FOREVER) == 0);
                for (unsigned i = 0; i < WORDS; i++)
                        data->words[i] = n;
                REQUIRE(shmd_write_end(segment) == 0);
                if (n == 1)
                        say("writing");
        }
}

static void read_on(uint32_t times) {
        uint32_t copy[WORDS];

        while (times-- > 0) {
                REQUIRE(shmd_read_copy(segment, offsetof(struct data, words), copy, sizeof(copy), SHMD_FOREVER) == 0);
                for (unsigned i = 1; i < WORDS; i++)
                        REQUIRE(copy[i] == copy[0]);
        }
}

static const struct {
        const char *name;
        void (*function)(uint32_t);
} commands[] = {
        { "count", count }, { "hold", hold },   { "take", take }, { "try", try },       { "take-slowly", take_slowly },
        { "turns", turns }, { "hear", hear },   { "ring", ring }, { "write", write_on }, { "read", read_on },
};

int main(int argc, char **argv) {
        uint32_t number = argc > 2 ? (uint32_t) strtoul(argv[2], NULL, 10) : 0;
        void *memory;

        REQUIRE(argc > 1);
        REQUIRE(shmd_connect(NULL, &connection) == 0);
        REQUIRE(shmd_create(connection, "widths", sizeof(struct data), 0, NULL, &segment) == 0);
        REQUIRE(shmd_map(segment, &memory, NULL) == 0);
        data = memory;
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
                if (strcmp(argv[1], commands[i].name) == 0) {
                        commands[i].function(number);
                        shmd_disconnect(connection);
                        return 0;
                }
        return 2;
}
