/* SPDX-License-Identifier: MIT */
/*
 * Frozen segments, which nobody can write, and segments that only their creator writes: every road that the kernel
 * offers is tried, as root, too.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "fixture.h"
#include "process.h"
#include "test.h"

#define SIZE ((size_t) 3 * 4096)
#define WRITERS 10u
#define TEXT "for ever"

/* --- roads to another byte --- */

static void *map_shared(int fd, int protection) {
        return mmap(NULL, SIZE, protection, MAP_SHARED, fd, 0);
}

/* By a mapping that can only be read. */
static void try_mapping(int fd) {
        char *bytes = map_shared(fd, PROT_READ);
        int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

        if (bytes == MAP_FAILED) { /* kernels before 6.7, of a descriptor that is open for writing */
                ck_assert_int_eq(errno, EPERM);
                close(memory);
                return;
        }
        ck_assert_int_eq(mprotect(bytes, SIZE, PROT_READ | PROT_WRITE), -1);
        ck_assert_int_eq(errno, EACCES);
        ck_assert_int_ge(memory, 0);
        ck_assert_int_eq(pwrite(memory, "x", 1, (off_t) (uintptr_t) bytes), -1); /* as debuggers do */
        close(memory);
        ck_assert_int_eq(madvise(bytes, SIZE, MADV_REMOVE), -1); /* punches a hole */
        munmap(bytes, SIZE);
}

/* By a descriptor, whatever its access is. */
static void try_descriptor(int fd) {
        struct iovec vector = { .iov_base = (void *) "x", .iov_len = 1 };
        char *bytes;

        ck_assert_ptr_eq(map_shared(fd, PROT_READ | PROT_WRITE), MAP_FAILED);
        ck_assert(errno == EPERM || errno == EACCES);
        ck_assert_ptr_eq(map_shared(fd, PROT_WRITE), MAP_FAILED);
        ck_assert_int_eq(pwrite(fd, "x", 1, 0), -1);
        ck_assert_int_eq(pwritev(fd, &vector, 1, 1), -1);
        ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        ck_assert_int_eq(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096), -1);
        ck_assert_int_eq(fallocate(fd, 0, 0, (off_t) SIZE + 1), -1);
        ck_assert_int_eq(ftruncate(fd, 1), -1);
        ck_assert_int_eq(ftruncate(fd, (off_t) SIZE * 2), -1);
        try_mapping(fd);

        /* What is his own he may write. */
        bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        ck_assert_ptr_ne(bytes, MAP_FAILED);
        strcpy(bytes, "private");
        munmap(bytes, SIZE);
}

static int reopen(int fd, int flags) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        return open(path, flags | O_CLOEXEC | O_NONBLOCK);
}

/* By a descriptor, and by those that can be made of it. */
static void try_everything(int fd) {
        static const int flags[] = { O_RDWR, O_WRONLY, O_RDWR | O_TRUNC, O_RDONLY | O_TRUNC };

        try_descriptor(fd);
        for (size_t i = 0; i < ELEMENTSOF(flags); i++) {
                int again = reopen(fd, flags[i]);

                if (again < 0)
                        continue;
                if ((flags[i] & O_ACCMODE) == O_RDWR)
                        try_descriptor(again);
                else if ((flags[i] & O_ACCMODE) == O_WRONLY) {
                        ck_assert_int_eq(write(again, "x", 1), -1);
                        ck_assert_int_eq(errno, EPERM);
                }
                close(again);
        }
}

/* A segment with a text, which nobody has mapped, and a descriptor that could write to it. */
static struct shmd_segment *create_with_text(const char *name) {
        struct shmd_segment *segment = client_create(connection, name, SIZE, SHMD_LIFETIME_PERSIST);

        ck_assert_int_eq(pwrite(shmd_fd(segment), TEXT, sizeof(TEXT), 0), sizeof(TEXT));
        return segment;
}

static void check_text(const char *name) {
        struct shmd *other = client_connect();

        ck_assert_str_eq(client_map(client_open(other, name, SHMD_READ_ONLY)), TEXT);
        shmd_disconnect(other);
}

/* --- ten writers --- */

/*
 * Has it mapped writable: the odd ones with nothing but the mapping, their connection being gone. Its steps: u unmap.
 */
static void writer(int channel, void *userdata) {
        const unsigned number = *(const unsigned *) userdata;
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "shared", SHMD_READ_WRITE);
        char *bytes;

        if (number % 2) {
                bytes = map_shared(shmd_fd(segment), PROT_READ | PROT_WRITE);
                ck_assert_ptr_ne(bytes, MAP_FAILED);
                own = shmd_disconnect(own);
        } else
                bytes = client_map(segment);
        bytes[100 + number] = 'w';
        step_send(channel, 'm');
        step_expect(channel, 'u');
        if (number % 2)
                munmap(bytes, SIZE);
        else
                shmd_close(segment);
        step_send(channel, 'u');
        step_expect(channel, 'e');
        shmd_disconnect(own);
}

static void reader(int channel, void *userdata) {
        struct shmd *own = client_connect();
        const char *bytes = client_map(client_open(own, "shared", SHMD_READ_ONLY));

        (void) userdata;
        ck_assert_str_eq(bytes, TEXT);
        step_send(channel, 'm');
        step_expect(channel, 'e');
        ck_assert_str_eq(bytes, TEXT);
        shmd_disconnect(own);
}

struct found {
        pid_t pids[WRITERS + 2]; /* that have it mapped */
        bool writable[WRITERS + 2];
        unsigned count;
};

static int note_mapper(const struct shmd_mapper *mapper, void *userdata) {
        struct found *found = userdata;

        if (!mapper->mapped)
                return 0;
        ck_assert_uint_lt(found->count, ELEMENTSOF(found->pids));
        ck_assert_uint_eq(mapper->uid, geteuid());
        ck_assert_uint_ne(mapper->command[0], '\0');
        found->pids[found->count] = (pid_t) mapper->pid;
        found->writable[found->count++] = mapper->writable;
        return 0;
}

/* The writers from one of them on are found, and none that has unmapped it. The reader is found as such. */
static void check_mappers(const struct child *children, unsigned from, pid_t reader_pid) {
        const struct shmd_stat stat = client_stat(connection, "shared");
        struct found found = { .count = 0 };

        ASSERT_OK(NULL, shmd_mappers(stat.device, stat.inode, note_mapper, &found, NULL));
        ck_assert_uint_eq(found.count, WRITERS - from + 1);
        for (unsigned i = from; i < WRITERS; i++) {
                unsigned n = 0;

                while (n < found.count && found.pids[n] != children[i].pid)
                        n++;
                ck_assert_msg(n < found.count, "writer %u of process %d is not found", i, (int) children[i].pid);
                ck_assert(found.writable[n]);
        }
        for (unsigned n = 0; n < found.count; n++)
                ck_assert(found.writable[n] == (found.pids[n] != reader_pid));
}

START_TEST(test_ten_writers) {
        struct shmd_segment *segment = create_with_text("shared");
        struct child children[WRITERS], reading;
        unsigned numbers[WRITERS];

        for (unsigned i = 0; i < WRITERS; i++) {
                numbers[i] = i;
                child_start(&children[i], writer, &numbers[i]);
        }
        child_start(&reading, reader, NULL);
        step_expect(reading.channel, 'm');
        for (unsigned i = 0; i < WRITERS; i++)
                step_expect(children[i].channel, 'm');

        for (unsigned i = 0; i < WRITERS; i++) {
                ck_assert_int_eq(shmd_freeze(connection, "shared"), -EBUSY);
                ck_assert_uint_eq(client_stat(connection, "shared").state, SHMD_STATE_PUBLISHED);
                check_mappers(children, i, reading.pid);
                if (i == 7) { /* who is killed has let go, too */
                        child_kill(&children[i]);
                        continue;
                }
                step_send(children[i].channel, 'u');
                step_expect(children[i].channel, 'u');
        }
        ASSERT_OK(connection, shmd_freeze(connection, "shared"));
        ck_assert_uint_eq(client_stat(connection, "shared").state, SHMD_STATE_FROZEN);
        try_everything(shmd_fd(segment));

        for (unsigned i = 0; i < WRITERS; i++) {
                if (i == 7)
                        continue;
                step_send(children[i].channel, 'e');
                child_join(&children[i]);
        }
        step_send(reading.channel, 'e');
        child_join(&reading);
        check_text("shared");
        for (unsigned i = 0; i < WRITERS; i++) {
                char byte = 0;

                ck_assert_int_eq(pread(shmd_fd(segment), &byte, 1, 100 + (off_t) i), 1);
                ck_assert_int_eq(byte, 'w');
        }
}
END_TEST

static void *be_left(void *userdata) {
        step_expect(*(int *) userdata, 'e');
        return NULL;
}

/* Its first thread ends, another one goes on. */
static void headless(int channel, void *userdata) {
        static int left;
        pthread_t thread;

        (void) userdata;
        left = channel;
        (void) client_map(client_open(client_connect(), "shared", SHMD_READ_WRITE));
        ck_assert_int_eq(pthread_create(&thread, NULL, be_left, &left), 0);
        step_send(channel, 'm');
        syscall(SYS_exit, 0);
}

static bool first_thread_has_ended(pid_t pid) {
        _cleanup_free_ char *text = NULL;
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
        text = test_read_file(path);
        return text && strstr(text, ") Z ");
}

/* What it has mapped, the process has. */
START_TEST(test_first_thread_has_ended) {
        struct shmd_segment *segment = create_with_text("shared");
        const struct shmd_stat stat = client_stat(connection, "shared");
        struct found found = { .count = 0 };
        struct child child;

        child_start(&child, headless, NULL);
        step_expect(child.channel, 'm');
        TEST_UNTIL(first_thread_has_ended(child.pid), "the first thread to end");
        ASSERT_OK(NULL, shmd_mappers(stat.device, stat.inode, note_mapper, &found, NULL));
        ck_assert_uint_eq(found.count, 1);
        ck_assert_int_eq(found.pids[0], child.pid);
        ck_assert(found.writable[0]);
        child_kill(&child);
        shmd_close(segment);
}
END_TEST

/* What can become writable by mprotect counts as writable; what is a process's own does not. */
START_TEST(test_who_counts) {
        struct shmd_segment *segment = create_with_text("counts");
        char *bytes = map_shared(shmd_fd(segment), PROT_READ);

        ck_assert_ptr_ne(bytes, MAP_FAILED);
        ck_assert_int_eq(shmd_freeze(connection, "counts"), -EBUSY);
        ck_assert_int_eq(mprotect(bytes, SIZE, PROT_READ | PROT_WRITE), 0);
        bytes[200] = 'x';
        munmap(bytes, SIZE);
        bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, shmd_fd(segment), 0);
        ck_assert_ptr_ne(bytes, MAP_FAILED);
        ASSERT_OK(connection, shmd_freeze(connection, "counts"));
        strcpy(bytes, "private");
        check_text("counts");
        munmap(bytes, SIZE);
}
END_TEST

/* Maps it and lets go, again and again, until that is refused. */
static void map_until_frozen(int channel, void *userdata) {
        struct shmd *own = client_connect();
        int fd = shmd_fd(client_open(own, "restless", SHMD_READ_WRITE));

        (void) userdata;
        step_send(channel, 'r');
        for (unsigned i = 0;; i++) {
                volatile char *bytes = map_shared(fd, PROT_READ | PROT_WRITE);

                if (bytes == MAP_FAILED)
                        break;
                bytes[4096 + i % 4096] = (char) i;
                munmap((void *) bytes, SIZE);
        }
        ck_assert_int_eq(errno, EPERM);
        step_send(channel, 'f');
        try_everything(fd);
        shmd_disconnect(own);
}

START_TEST(test_restless_writer) {
        struct shmd_segment *segment = create_with_text("restless");
        struct child child;
        char before[SIZE], after[SIZE];
        int r;

        child_start(&child, map_until_frozen, NULL);
        step_expect(child.channel, 'r');
        TEST_UNTIL((r = shmd_freeze(connection, "restless")) != -EBUSY, "a moment without a writer");
        ck_assert_int_eq(r, 0);
        ck_assert_int_eq(pread(shmd_fd(segment), before, SIZE, 0), SIZE);
        step_expect(child.channel, 'f');
        child_join(&child);
        ck_assert_int_eq(pread(shmd_fd(segment), after, SIZE, 0), SIZE);
        ck_assert_mem_eq(before, after, SIZE);
        ck_assert_str_eq(after, TEXT);
}
END_TEST

/* --- frozen --- */

#define FROZEN_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

START_TEST(test_nobody_writes) {
        struct shmd *other = client_connect();
        struct shmd_segment *writing = create_with_text("frozen"), *private = NULL;
        struct shmd_segment *reading = client_open(other, "frozen", SHMD_READ_ONLY);

        ASSERT_OK(other, shmd_open(other, "frozen", SHMD_READ_WRITE | SHMD_PRIVATE, &private));
        ASSERT_OK(connection, shmd_freeze_id(connection, shmd_id(writing)));
        ck_assert_int_eq(fcntl(shmd_fd(writing), F_GET_SEALS) & FROZEN_SEALS, FROZEN_SEALS);
        try_everything(shmd_fd(writing));
        try_everything(shmd_fd(reading));
        try_everything(shmd_fd(private));

        /* Nor who comes later, whatever the mode says. */
        ASSERT_OK(connection, shmd_chmod(connection, "frozen", 0666));
        ck_assert_int_eq(client_try_open(other, "frozen", SHMD_READ_WRITE | SHMD_PRIVATE), -EPERM);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(other), "frozen"));
        shmd_close(private);
        shmd_close(reading);
        ck_assert_int_eq(client_try_open(other, "frozen", SHMD_READ_WRITE), -EPERM);
        shmd_close(writing);
        ck_assert_int_eq(client_try_open(connection, "frozen", SHMD_READ_WRITE), -EPERM);
        reading = client_open(other, "frozen", SHMD_READ_ONLY);
        try_everything(shmd_fd(reading));
        ck_assert_str_eq(client_map(reading), TEXT);

        /* And for ever, as long as anybody has it. */
        ASSERT_OK(connection, shmd_freeze(connection, "frozen"));
        ASSERT_OK(connection, shmd_rename(connection, "frozen", "cold"));
        ck_assert_uint_eq(client_stat(connection, "cold").state, SHMD_STATE_FROZEN);
        ASSERT_OK(connection, shmd_unlink(connection, "cold"));
        try_everything(shmd_fd(reading));
        ck_assert_str_eq(client_map(reading), TEXT);
        shmd_disconnect(other);
}
END_TEST

/* A connection that has opened it for writing has it so; but does not get another one, nor from what it remembers. */
START_TEST(test_from_memory) {
        struct shmd_segment *segment = create_with_text("remembered");

        ASSERT_OK(connection, shmd_freeze(connection, "remembered"));
        ck_assert_int_eq(client_try_open(connection, "remembered", SHMD_READ_WRITE), -EPERM);
        shmd_close(segment);
}
END_TEST

START_TEST(test_unpublished) {
        struct shmd_segment *segment = NULL;
        struct shmd *other = client_connect();

        ASSERT_OK(connection, shmd_create(connection, "later", SIZE, SHMD_UNPUBLISHED, NULL, &segment));
        ck_assert_int_eq(pwrite(shmd_fd(segment), TEXT, sizeof(TEXT), 0), sizeof(TEXT));
        ASSERT_OK(connection, shmd_freeze_id(connection, shmd_id(segment)));
        ck_assert_uint_eq(client_stat_id(connection, shmd_id(segment)).state, SHMD_STATE_UNPUBLISHED);
        ASSERT_OK(connection, shmd_publish(segment, 0));
        ck_assert_uint_eq(client_stat(other, "later").state, SHMD_STATE_FROZEN);
        ck_assert_int_eq(client_try_open(other, "later", SHMD_READ_WRITE), -EPERM);
        try_everything(shmd_fd(segment));
        check_text("later");
        shmd_disconnect(other);
}
END_TEST

static void freeze_as_stranger(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "strange", SHMD_READ_WRITE);

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(shmd_freeze(own, "strange"), -EPERM);
        ck_assert_int_eq(shmd_freeze_id(own, shmd_id(segment)), -EPERM);
        shmd_disconnect(own);
}

START_TEST(test_who_may) {
        struct child child;

        ck_assert_int_eq(shmd_freeze(connection, "nothing"), -ENOENT);
        if (!test_as_root("test_who_may, in part"))
                return;
        create_with_text("strange");
        ASSERT_OK(connection, shmd_chmod(connection, "strange", 0666));
        child_start_as(&child, &(struct identity) { .uid = 65533, .gid = 65533 }, freeze_as_stranger, NULL);
        child_join(&child);
        ck_assert_uint_eq(client_stat(connection, "strange").state, SHMD_STATE_PUBLISHED);
}
END_TEST

struct heard {
        unsigned frozen, end;
};

static void hear(struct shmd *from, const struct shmd_event *event, void *userdata) {
        struct heard *heard = userdata;

        (void) from;
        heard->frozen += event->kind == SHMD_EVENT_FROZEN;
        heard->end += event->kind == SHMD_EVENT_UNLINKED;
}

START_TEST(test_told_once) {
        struct shmd *other = client_connect();
        struct heard heard = { 0 };
        uint64_t watch;

        ASSERT_OK(other, shmd_watch(other, "told", SHMD_WATCH_EXACT, hear, &heard, &watch));
        create_with_text("told");
        ASSERT_OK(connection, shmd_freeze(connection, "told"));
        ASSERT_OK(connection, shmd_freeze(connection, "told"));
        ASSERT_OK(connection, shmd_unlink(connection, "told"));
        while (heard.end == 0) {
                test_wait_readable(shmd_poll_fd(other), "events");
                ck_assert_int_ge(shmd_dispatch(other), 0);
        }
        ck_assert_uint_eq(heard.frozen, 1);
        shmd_disconnect(other);
}
END_TEST

/* Has a process of its own, as shm_open's connection lasts as long as that. */
static void use_posix(int channel, void *userdata) {
        int fd;

        (void) userdata;
        setenv("SHMD_SOCKET", the_daemon.socket, 1);
        fd = shmd_shm_open("/posix", O_RDWR | O_CREAT, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, (off_t) SIZE), 0);
        ck_assert_int_eq(pwrite(fd, TEXT, sizeof(TEXT), 0), sizeof(TEXT));
        step_send(channel, 'w');
        step_expect(channel, 'f');
        try_everything(fd);
        ck_assert_int_eq(shmd_shm_open("/posix", O_RDWR, 0), -1);
        ck_assert_int_eq(shmd_shm_open("/posix", O_RDONLY | O_TRUNC, 0), -1);
        close(fd);
}

/* POSIX lets everybody size it; no longer. */
START_TEST(test_posix) {
        struct child child;

        child_start(&child, use_posix, NULL);
        step_expect(child.channel, 'w');
        ASSERT_OK(connection, shmd_freeze(connection, "posix"));
        step_send(child.channel, 'f');
        child_join(&child);
        check_text("posix");
        ck_assert_uint_eq(client_stat(connection, "posix").size_bytes, SIZE);
}
END_TEST

/* Who may write may also seal; nobody can freeze it then, and the owner is told so. */
START_TEST(test_sealed_by_holder) {
        struct shmd_segment *segment = create_with_text("sealed");

        ck_assert_int_eq(fcntl(shmd_fd(segment), F_ADD_SEALS, F_SEAL_SEAL), 0);
        ck_assert_int_eq(shmd_freeze(connection, "sealed"), -EPERM);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "seal"));
        ck_assert_uint_eq(client_stat(connection, "sealed").state, SHMD_STATE_PUBLISHED);
        ck_assert_int_eq(pwrite(shmd_fd(segment), "goes on", 8, 0), 8);
        ck_assert_int_eq(client_try_open(connection, "sealed", SHMD_READ_WRITE), 0);
}
END_TEST

/* --- one writer --- */

/* Of the same user, root included. Its steps: l look at the text. */
static void watch_writer(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = NULL;
        const char *bytes;

        (void) userdata;
        ck_assert_int_eq(client_try_open(own, "one", SHMD_READ_WRITE), -EACCES);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(own), "only its creator"));
        ck_assert_int_eq(client_try_open(own, "one", SHMD_READ_WRITE | SHMD_PRIVATE), -EACCES);
        segment = client_open(own, "one", SHMD_READ_ONLY);
        bytes = client_map(segment);
        ck_assert_str_eq(bytes, "before");
        try_everything(shmd_fd(segment));
        step_send(channel, 'r');
        step_expect(channel, 'l');
        ck_assert_str_eq(bytes, "after");
        try_everything(shmd_fd(segment));
        shmd_disconnect(own);
}

START_TEST(test_single_writer) {
        struct shmd_segment *segment = NULL;
        struct child child;
        char *bytes;

        ASSERT_OK(connection, shmd_create(connection, "one", SIZE, SHMD_SINGLE_WRITER | SHMD_EXCLUSIVE, NULL, &segment));
        bytes = client_map(segment);
        strcpy(bytes, "before");
        ck_assert_uint_eq(client_stat(connection, "one").single_writer, 1);
        ck_assert_uint_eq(client_stat(connection, "one").state, SHMD_STATE_PUBLISHED);

        child_start(&child, watch_writer, NULL);
        step_expect(child.channel, 'r');
        strcpy(bytes, "after");
        step_send(child.channel, 'l');
        child_join(&child);

        /* Not even he himself gets more than the one mapping. */
        ck_assert_ptr_eq(client_map(segment), bytes);
        ck_assert_ptr_eq(map_shared(shmd_fd(segment), PROT_READ | PROT_WRITE), MAP_FAILED);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(pwrite(shmd_fd(segment), "x", 1, 0), -1);
        ck_assert_int_eq(client_try_open(connection, "one", SHMD_READ_WRITE), -EACCES);
        strcpy(bytes, "still");

        ck_assert_int_eq(shmd_freeze(connection, "one"), -EBUSY);
        shmd_close(segment);
        ASSERT_OK(connection, shmd_freeze(connection, "one"));
        segment = client_open(connection, "one", SHMD_READ_ONLY);
        ck_assert_str_eq(client_map(segment), "still");
        try_everything(shmd_fd(segment));
}
END_TEST

/* Filled before it is published: until then its descriptor writes, afterwards the mapping alone. */
START_TEST(test_single_writer_unpublished) {
        struct shmd_segment *segment = NULL;
        char *bytes;

        ASSERT_OK(connection, shmd_create(connection, "one", SIZE, SHMD_SINGLE_WRITER | SHMD_UNPUBLISHED, NULL, &segment));
        ck_assert_int_eq(pwrite(shmd_fd(segment), "before", 7, 0), 7);
        ASSERT_OK(connection, shmd_publish(segment, 0));
        ck_assert_int_eq(pwrite(shmd_fd(segment), "x", 1, 0), -1);
        ck_assert_int_eq(errno, EPERM);
        bytes = client_map(segment);
        ck_assert_str_eq(bytes, "before");
        strcpy(bytes, "after");
        ck_assert_int_eq(client_try_open(connection, "one", SHMD_READ_WRITE), -EACCES);
        ck_assert_str_eq(client_map(client_open(connection, "one", SHMD_READ_ONLY)), "after");
}
END_TEST

/* --- readers of another user --- */

static void read_as_stranger(int channel, void *userdata) {
        struct shmd *own = client_connect();
        struct shmd_segment *segment = client_open(own, "public", SHMD_READ_ONLY), *private = NULL;
        int fds[2];

        (void) channel;
        (void) userdata;
        ASSERT_OK(own, shmd_open(own, "public", SHMD_READ_ONLY | SHMD_PRIVATE, &private));
        fds[0] = shmd_fd(segment);
        fds[1] = shmd_fd(private);
        for (unsigned i = 0; i < 2; i++) {
                try_everything(fds[i]);
                ck_assert_int_eq(reopen(fds[i], O_RDWR), -1);
                ck_assert_int_eq(errno, EACCES);
                ck_assert_int_eq(reopen(fds[i], O_WRONLY), -1);
                ck_assert_int_eq(reopen(fds[i], O_RDONLY | O_TRUNC), -1);
                ck_assert_int_eq(fchmod(fds[i], 0666), -1);
                ck_assert_int_eq(errno, EPERM);
                ck_assert_int_eq(fchown(fds[i], geteuid(), (gid_t) -1), -1);
                ck_assert_int_eq(fcntl(fds[i], F_ADD_SEALS, F_SEAL_WRITE), -1);
                ck_assert_int_eq(fcntl(fds[i], F_ADD_SEALS, F_SEAL_SEAL), -1);
                ck_assert_int_eq(fcntl(fds[i], F_SETLEASE, F_RDLCK), -1);
                ck_assert_int_eq(fcntl(fds[i], F_SETLEASE, F_WRLCK), -1);
        }
        ck_assert_int_eq(client_try_open(own, "public", SHMD_READ_WRITE), -EACCES);
        ck_assert_str_eq(client_map(segment), TEXT);
        shmd_disconnect(own);
}

/* Although nothing is frozen, and others write. */
START_TEST(test_readers_of_others) {
        struct shmd_segment *segment;
        struct child child;

        if (!test_as_root("test_readers_of_others"))
                return;
        segment = create_with_text("public");
        ASSERT_OK(connection, shmd_chmod(connection, "public", 0644));
        child_start_as(&child, &(struct identity) { .uid = 65533, .gid = 65533 }, read_as_stranger, NULL);
        child_join(&child);
        ck_assert_str_eq(client_map(segment), TEXT);
        ck_assert_uint_eq(client_stat(connection, "public").mode, 0644);
        ck_assert_uint_eq(client_stat(connection, "public").uid, geteuid());
        strcpy(client_map(segment), "mine alone");
}
END_TEST

int main(void) {
        Suite *suite = suite_create("freeze");
        TCase *tests;

        tests = test_case(suite, "writers", setup, teardown);
        tcase_add_test(tests, test_ten_writers);
        tcase_add_test(tests, test_first_thread_has_ended);
        tcase_add_test(tests, test_who_counts);
        tcase_add_test(tests, test_restless_writer);

        tests = test_case(suite, "frozen", setup, teardown);
        tcase_add_test(tests, test_nobody_writes);
        tcase_add_test(tests, test_from_memory);
        tcase_add_test(tests, test_unpublished);
        tcase_add_test(tests, test_who_may);
        tcase_add_test(tests, test_told_once);
        tcase_add_test(tests, test_posix);
        tcase_add_test(tests, test_sealed_by_holder);

        tests = test_case(suite, "one writer", setup, teardown);
        tcase_add_test(tests, test_single_writer);
        tcase_add_test(tests, test_single_writer_unpublished);

        tests = test_case(suite, "other users", setup, teardown);
        tcase_add_test(tests, test_readers_of_others);
        return test_run(suite);
}
