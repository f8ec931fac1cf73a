/* SPDX-License-Identifier: MIT */
/*
 * Random, truncated, extended, spliced and replayed messages, over several connections at once, against the real
 * daemon, which must go on serving others all the while and have nothing left at the end.
 *
 * What is sent comes of the seed, which is printed (SHMD_TEST_SEED sets another), and of what the daemon answers,
 * whose pace is its own. make check sends some hundred thousand messages; with SHMD_TEST_LONG=1 it goes on for a
 * minute. First, all files in
 * tests/fuzz/corpus are replayed: records of a 16-bit size, a byte for how many descriptors go along, a byte for
 * the connection, then that many bytes (make-corpus.py writes the first ones).
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "harness.h"
#include "raw.h"
#include "status.h"
#include "test.h"

#define CONNECTIONS 4
#define MESSAGES 200000
#define LONG_MSEC 60000
#define CHECK_EVERY 1000
#define KEPT 64

static struct raw connections[CONNECTIONS];
static unsigned long granted; /* how many requests were: where none is, nothing is tested */
static int fd_pool[5]; /* of several kinds, to go along */

/* --- numbers --- */

static uint64_t random_state;

static uint64_t random_next(void) {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return random_state;
}

static size_t random_below(size_t n) {
        return (size_t) (random_next() % n);
}

static uint64_t random_number(void) {
        static const uint64_t special[] = { 0, 1, 2, 255, 256, 4095, 4096, 65535, INT32_MAX, UINT32_MAX,
                                            UINT64_C(1) << 32, UINT64_C(1) << 62, INT64_MAX, UINT64_C(1) << 63,
                                            UINT64_MAX };

        return random_below(2) ? special[random_below(ELEMENTSOF(special))] : random_next();
}

/* --- messages --- */

struct message {
        size_t size;
        unsigned fds;
        unsigned char bytes[SHMD_MESSAGE_MAX];
};

static struct message kept[KEPT]; /* to be replayed and spliced */
static uint64_t some_id;          /* of a segment that was there a moment ago */

static const char *random_name(void) {
        static const char *const good[] = { "a", "b", "a/b", "/c", "\xc3\xb6", "new", "other", "a/b/c/d/e" };
        static const char *const bad[] = { "", "/", "a//b", "..", "\xff" };

        return random_below(8) ? good[random_below(ELEMENTSOF(good))] : bad[random_below(ELEMENTSOF(bad))];
}

/* A request that may well be granted. */
static void make_request(struct message *message) {
        const struct operation *operation = operation_at(random_below(operation_count()));
        const struct shmd_wire_header header = { .operation = operation->number, .serial = (uint32_t) random_next() };
        unsigned char *body = message->bytes + sizeof(header);
        const char *name = random_name();
        const uint16_t name_size = (uint16_t) strlen(name);

        memset(message->bytes, 0, sizeof(header) + operation->request_size);
        memcpy(message->bytes, &header, sizeof(header));
        message->size = sizeof(header) + operation->request_size;
        message->fds = operation->fds_in;
        if (operation->number == SHMD_OP_CREATE) {
                const struct shmd_wire_create create = {
                        .size = random_below(3) ? 4096 : random_number(), .mode = 0666 & (uint32_t) random_next(),
                        .flags = SHMD_WIRE_WRITE | (random_below(2) ? SHMD_WIRE_CREATE : 0),
                        .lifetime = (uint32_t) random_below(4), .name_size = name_size };

                memcpy(body, &create, sizeof(create));
        } else if (operation->number == SHMD_OP_CREATE_SYSV) {
                struct shmd_wire_create_sysv sysv = { .create = { .size = 4096, .name_size = name_size },
                                                      .kind = 1 + (uint32_t) random_below(4) };
                struct stat st = { 0 };

                (void) stat("/proc/self/ns/ipc", &st);
                sysv.ipc_namespace = st.st_ino;
                if (sysv.kind != SHMD_WIRE_SYSV_MAKE) {
                        sysv.create.size = 0;
                        sysv.shmid = (uint32_t) random_below(8);
                }
                memcpy(body, &sysv, sizeof(sysv));
        } else if (operation->right != RIGHT_NONE) {
                const struct shmd_wire_target by_name = { .name_size = name_size }, by_id = { .id = some_id };

                if (random_below(3) == 0) {
                        memcpy(body, &by_id, sizeof(by_id));
                        return;
                }
                memcpy(body, &by_name, sizeof(by_name));
        } else {
                const struct shmd_wire_hello hello = { .version_min = 1, .version_max = 1 };
                const struct shmd_wire_release release = { .id = some_id, .access = SHMD_ACCESS_WRITE };

                if (operation->number == SHMD_OP_HELLO)
                        memcpy(body, &hello, sizeof(hello));
                else if (operation->number == SHMD_OP_RELEASE)
                        memcpy(body, &release, sizeof(release));
                return;
        }
        memcpy(message->bytes + message->size, name, name_size);
        message->size += name_size;
        if (operation->number == SHMD_OP_RENAME) {
                const struct shmd_wire_rename rename_ = { .target.name_size = name_size, .new_name_size = 3 };

                memcpy(body, &rename_, sizeof(rename_));
                memcpy(message->bytes + message->size, "new", 3);
                message->size += 3;
        }
}

static void splice_message(struct message *message) {
        const struct message *other = &kept[random_below(KEPT)];
        const size_t at = random_below(message->size + 1);
        const size_t size = MIN(other->size, sizeof(message->bytes) - at);

        memcpy(message->bytes + at, other->bytes, size);
        message->size = at + size;
}

static void change(struct message *message) {
        const uint64_t number = random_number();
        size_t at, size;

        switch (random_below(8)) {
        case 0: /* flip a bit */
                at = random_below(message->size + 1);
                message->bytes[MIN(at, sizeof(message->bytes) - 1)] ^= (unsigned char) (1u << random_below(8));
                break;
        case 1: /* cut */
                message->size = random_below(message->size + 1);
                break;
        case 2: /* make longer */
                size = MIN(message->size + 1 + random_below(64), sizeof(message->bytes));
                for (; message->size < size; message->size++)
                        message->bytes[message->size] = (unsigned char) random_next();
                break;
        case 3: /* a field */
                size = (size_t) 1 << random_below(4);
                at = random_below(message->size / size + 1) * size;
                if (at + size <= sizeof(message->bytes))
                        memcpy(message->bytes + at, &number, size);
                break;
        case 4:
                splice_message(message);
                break;
        case 5: /* descriptors */
                message->fds = random_below(4) ? (unsigned) random_below(4) : (unsigned) random_below(254);
                break;
        case 6: /* another operation */
                message->bytes[0] = (unsigned char) random_below(operation_count() + 3);
                break;
        default: /* nothing but noise */
                message->size = random_below(random_below(16) ? 100 : sizeof(message->bytes));
                for (at = 0; at < message->size; at++)
                        message->bytes[at] = (unsigned char) random_next();
        }
}

/* What an administrator may ask for, and what then ends the daemon well: that is no finding. */
static void spare_daemon(struct message *message) {
        uint16_t number;

        memcpy(&number, message->bytes, sizeof(number));
        if (number == SHMD_OP_STOP || number == SHMD_OP_HANDOVER)
                message->bytes[0] = 0;
}

static void make_kept(struct message *message) {
        make_request(message);
        spare_daemon(message);
}

static struct message *next_message(void) {
        static struct message message;
        struct message *slot = &kept[random_below(KEPT)];

        if (random_below(8) == 0)
                return slot; /* replayed as it was */
        make_kept(&message);
        if (random_below(3) == 0)
                *slot = message;
        if (random_below(2))
                for (size_t n = 1 + random_below(3); n > 0; n--)
                        change(&message);
        spare_daemon(&message);
        return &message;
}

/* --- sending --- */

/* Takes all answers that are there, with what comes along. False at the end of the connection. */
static bool drain(struct raw *raw) {
        struct raw_reply reply;
        ssize_t n;

        for (;;) {
                reply.fds.count = 0;
                n = wire_receive(raw->fd, reply.bytes, sizeof(reply.bytes), &reply.fds, MSG_DONTWAIT);
                if (n >= (ssize_t) sizeof(struct shmd_wire_header) && reply.header.status == SHMD_OK)
                        granted++;
                if (n >= (ssize_t) (sizeof(struct shmd_wire_header) + sizeof(struct shmd_wire_opened)) &&
                    reply.header.operation == SHMD_OP_CREATE && reply.header.status == SHMD_OK)
                        some_id = RAW_BODY(&reply, opened)->id;
                raw_reply_done(&reply);
                if (n == -EAGAIN)
                        return true;
                if (n <= 0)
                        return false;
        }
}

static void come_again(struct raw *raw) {
        raw_close(raw);
        if (random_below(10) == 0)
                raw_open(raw, the_daemon.socket); /* and no HELLO, perhaps never */
        else
                raw_connect(raw, the_daemon.socket);
}

/* Where the daemon wants no more for now, we read; where it has hung up, we come again. */
static void send_message(struct raw *raw, const struct message *message) {
        struct wire_fds fds = { .count = message->fds };

        for (unsigned i = 0; i < fds.count; i++)
                fds.fd[i] = fd_pool[i % ELEMENTSOF(fd_pool)];
        /* Proving that a segment is frozen takes the kernel up to a second, and its asker is not read from meanwhile. */
        for (int attempt = 0; attempt < 1000000; attempt++) {
                const bool alive = drain(raw);
                int r = -EPIPE;

                if (alive && message->size >= sizeof(struct shmd_wire_header))
                        r = wire_send(raw->fd, (const struct shmd_wire_header *) message->bytes,
                                      message->bytes + sizeof(struct shmd_wire_header),
                                      message->size - sizeof(struct shmd_wire_header), NULL, 0, fds.fd, fds.count,
                                      MSG_DONTWAIT);
                else if (alive)
                        r = send(raw->fd, message->bytes, message->size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0
                                    ? negative_errno()
                                    : 0;
                if (r == 0)
                        return;
                if (r == -EAGAIN || r == -ETOOMANYREFS) {
                        daemon_status(&the_daemon); /* in the meantime it has done something */
                        continue;
                }
                come_again(raw);
        }
        ck_abort_msg("the daemon takes no more messages");
}

static void check_daemon_is_well(void) {
        struct shmd_wire_opened opened;
        struct shmd_wire_status_reply status;

        ck_assert_int_eq(raw_create(&the_daemon.control, "well", 4096, WIRE_LIFETIME_HOLDERS, &opened, NULL), SHMD_OK);
        raw_release(&the_daemon.control, opened.id, SHMD_ACCESS_WRITE);
        status = daemon_status(&the_daemon);
        /* What they left in their queues is still being answered. */
        if (status.connections > CONNECTIONS + 2)
                TEST_UNTIL(daemon_status(&the_daemon).connections <= CONNECTIONS + 2, "those who have gone to be noticed");
        ck_assert_uint_le(status.segments, 1000);
}

/* --- fixture: quiet, else its log of rules broken would fill the disk --- */

static void setup(void) {
        static const char *const arguments[] = { "--log-level", "warning", NULL };
        const struct daemon_options options = { .arguments = arguments };

        daemon_start(&the_daemon, &options);
        fd_pool[0] = memfd_create("replay", MFD_CLOEXEC);
        fd_pool[1] = open("/dev/null", O_RDWR | O_CLOEXEC);
        fd_pool[2] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fd_pool[3] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        fd_pool[4] = memfd_create("replay", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        for (size_t i = 0; i < CONNECTIONS; i++)
                raw_connect(&connections[i], the_daemon.socket);
}

static void teardown(void) {
        for (size_t i = 0; i < CONNECTIONS; i++)
                raw_close(&connections[i]);
        for (size_t i = 0; i < ELEMENTSOF(fd_pool); i++)
                close(fd_pool[i]);
        daemon_stop(&the_daemon);
}

START_TEST(test_random) {
        const int64_t until = test_is_long() ? test_now_msec() + LONG_MSEC : 0;
        const char *seed = getenv("SHMD_TEST_SEED");
        unsigned long sent = 0;

        random_state = seed ? strtoull(seed, NULL, 0) : UINT64_C(0x73686d64);
        ck_assert_uint_ne(random_state, 0);
        printf("seed: SHMD_TEST_SEED=0x%" PRIx64 "\n", random_state);
        for (size_t i = 0; i < KEPT; i++)
                make_kept(&kept[i]);
        while (sent < MESSAGES || test_now_msec() < until) {
                struct raw *raw = &connections[random_below(CONNECTIONS)];

                if (random_below(200) == 0)
                        come_again(raw); /* with whatever it held */
                send_message(raw, next_message());
                if (random_below(8) == 0)
                        daemon_status(&the_daemon); /* lets it catch up: what it hangs up on is never read */
                if (++sent % CHECK_EVERY == 0)
                        check_daemon_is_well();
        }
        printf("%lu messages, %lu granted\n", sent, granted);
        ck_assert_uint_gt(granted, sent / 20);
}
END_TEST

/* --- the corpus --- */

static void replay_file(const char *path) {
        FILE *file = fopen(path, "re");
        static struct message message;
        struct {
                uint16_t size;
                uint8_t fds;
                uint8_t connection;
        } record;

        ck_assert_ptr_nonnull(file);
        while (fread(&record, sizeof(record), 1, file) == 1) {
                message.size = fread(message.bytes, 1, MIN(record.size, sizeof(message.bytes)), file);
                message.fds = MIN(record.fds, SHMD_DESCRIPTORS_MAX);
                send_message(&connections[record.connection % CONNECTIONS], &message);
        }
        fclose(file);
        check_daemon_is_well();
}

START_TEST(test_corpus) {
        char path[512];
        struct dirent *entry;
        unsigned count = 0;
        DIR *directory;

        snprintf(path, sizeof(path), "%s/tests/fuzz/corpus", test_environment("SHMD_TEST_SRCDIR"));
        directory = opendir(path);
        if (!directory) {
                test_skip("test_corpus: there is none yet");
                return;
        }
        random_state = 1;
        while ((entry = readdir(directory))) {
                if (entry->d_name[0] == '.')
                        continue;
                snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", test_environment("SHMD_TEST_SRCDIR"),
                         entry->d_name);
                replay_file(path);
                count++;
        }
        closedir(directory);
        printf("%u files of the corpus\n", count);
}
END_TEST

static Suite *replay_suite(void) {
        Suite *suite = suite_create("replay");
        TCase *tests = test_case(suite, "replay", setup, teardown);

        tcase_add_test(tests, test_corpus);
        tcase_add_test(tests, test_random);
        tcase_set_timeout(tests, 300);
        return suite;
}

int main(void) {
        return test_run(replay_suite());
}
