/* SPDX-License-Identifier: MIT */
/* shmd_shm_open: whatever the C library's own shm_open does, done to both, side by side. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "client.h"
#include "harness.h"
#include "process.h"
#include "test.h"

struct interface {
        const char *name;
        int (*open)(const char *name, int oflag, mode_t mode);
        int (*unlink)(const char *name);
};

static const struct interface native = { "shm_open", shm_open, shm_unlink };
static const struct interface ours = { "shmd_shm_open", shmd_shm_open, shmd_shm_unlink };

static char object[64]; /* a name of our own: /dev/shm is everybody's */

static void setup(void) {
        daemon_setup();
        setenv("SHMD_SOCKET", the_daemon.socket, 1);
        snprintf(object, sizeof(object), "/shmd-test-%d", (int) getpid());
}

/* The process's own connection ends with the process: what the harness waits for must be done in a child. */
static void teardown(void) {
        shm_unlink(object);
        daemon_teardown();
}

/* Runs a test in a process of its own. */
static void in_child(child_function function, void *userdata) {
        struct child child;

        child_start(&child, function, userdata);
        child_join(&child);
}

/* --- the table: on an object that is not there, is empty, has contents; one call; what comes of it --- */

enum before {
        ABSENT,
        EMPTY,
        FILLED,
};

static const struct {
        enum before before;
        int oflag;
        mode_t mode;
} calls[] = {
        { ABSENT, O_RDONLY, 0600 },
        { ABSENT, O_RDWR, 0600 },
        { ABSENT, O_RDWR | O_TRUNC, 0600 },
        { ABSENT, O_RDWR | O_EXCL, 0600 },
        { ABSENT, O_RDWR | O_CREAT, 0600 },
        { ABSENT, O_RDWR | O_CREAT, 0 },
        { ABSENT, O_RDWR | O_CREAT, 0666 },
        { ABSENT, O_RDWR | O_CREAT, 0640 },
        { ABSENT, O_RDWR | O_CREAT, 0200 },
        { ABSENT, O_RDWR | O_CREAT, 0777 },
        { ABSENT, O_RDWR | O_CREAT | O_EXCL, 0600 },
        { ABSENT, O_RDWR | O_CREAT | O_TRUNC, 0600 },
        { ABSENT, O_RDWR | O_CREAT | O_EXCL | O_TRUNC, 0644 },
        { ABSENT, O_RDONLY | O_CREAT, 0600 },
        { ABSENT, O_RDONLY | O_CREAT, 0 },
        { ABSENT, O_RDONLY | O_CREAT | O_EXCL, 0400 },
        { EMPTY, O_RDONLY, 0 },
        { EMPTY, O_RDWR, 0 },
        { EMPTY, O_RDWR | O_CREAT, 0666 },
        { EMPTY, O_RDWR | O_CREAT | O_EXCL, 0600 },
        { FILLED, O_RDONLY, 0600 },
        { FILLED, O_RDWR, 0600 },
        { FILLED, O_RDWR | O_TRUNC, 0600 },
        { FILLED, O_RDWR | O_CREAT, 0666 },
        { FILLED, O_RDWR | O_CREAT | O_TRUNC, 0666 },
        { FILLED, O_RDWR | O_CREAT | O_EXCL, 0600 },
        { FILLED, O_RDWR | O_CREAT | O_EXCL | O_TRUNC, 0600 },
        { FILLED, O_RDONLY | O_CREAT, 0666 },
        { FILLED, O_RDONLY | O_CREAT | O_EXCL, 0666 },
};

/* All that a program can see of a call and of what it may do afterwards. */
struct result {
        int error;
        int descriptor;
        int lowest; /* the descriptor that was to be had */
        int access;
        int cloexec;
        mode_t mode;
        uid_t uid;
        gid_t gid;
        off_t size;
        off_t offset;
        int first_byte;
        int truncate_error;
        off_t truncated;
        int map_write_error;
        int unlink_error;
};

static int error_of(int result) {
        return result < 0 ? errno : 0;
}

static void prepare(const struct interface *interface, enum before before) {
        int fd;

        interface->unlink(object);
        if (before == ABSENT)
                return;
        fd = interface->open(object, O_RDWR | O_CREAT | O_EXCL, 0644);
        ck_assert_int_ge(fd, 0);
        if (before == FILLED) {
                ck_assert_int_eq(ftruncate(fd, 10000), 0);
                ck_assert_int_eq(pwrite(fd, "x", 1, 0), 1);
        }
        close(fd);
}

static int lowest_descriptor(void) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        close(fd);
        return fd;
}

static int try_map_write(int fd) {
        void *address = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (address == MAP_FAILED)
                return errno;
        munmap(address, 4096);
        return 0;
}

static void look_at(int fd, struct result *result) {
        struct stat inode;
        unsigned char byte;

        ck_assert_int_eq(fstat(fd, &inode), 0);
        result->access = fcntl(fd, F_GETFL) & O_ACCMODE;
        result->cloexec = fcntl(fd, F_GETFD) & FD_CLOEXEC;
        result->mode = inode.st_mode;
        result->uid = inode.st_uid;
        result->gid = inode.st_gid;
        result->size = inode.st_size;
        result->offset = lseek(fd, 0, SEEK_CUR);
        result->first_byte = pread(fd, &byte, 1, 0) == 1 ? byte : -1;
        result->truncate_error = error_of(ftruncate(fd, 5000));
        ck_assert_int_eq(fstat(fd, &inode), 0);
        result->truncated = inode.st_size;
        result->map_write_error = try_map_write(fd);
}

static struct result call(const struct interface *interface, enum before before, int oflag, mode_t mode) {
        struct result result = { .size = -1 };
        int lowest, fd;

        prepare(interface, before);
        lowest = lowest_descriptor();
        fd = interface->open(object, oflag, mode);
        result.error = error_of(fd);
        if (fd >= 0) {
                result.descriptor = fd - lowest; /* 0: the lowest, as POSIX says */
                look_at(fd, &result);
                close(fd);
        }
        result.unlink_error = error_of(interface->unlink(object));
        return result;
}

#define SAME(field)                                                                                            \
        ck_assert_msg(a.field == b.field, "call %d, " #field ": shm_open has %ld, shmd_shm_open has %ld", which, \
                      (long) a.field, (long) b.field)

static void compare(int which, struct result a, struct result b) {
        SAME(error);
        SAME(descriptor);
        SAME(access);
        SAME(cloexec);
        SAME(mode);
        SAME(uid);
        SAME(gid);
        SAME(size);
        SAME(offset);
        SAME(first_byte);
        SAME(truncate_error);
        SAME(truncated);
        SAME(map_write_error);
        SAME(unlink_error);
}

static void compare_call(int channel, void *userdata) {
        const int which = *(int *) userdata;
        struct result a, b;

        (void) channel;
        umask(022);
        a = call(&native, calls[which].before, calls[which].oflag, calls[which].mode);
        b = call(&ours, calls[which].before, calls[which].oflag, calls[which].mode);
        compare(which, a, b);
        umask(077);
        a = call(&native, calls[which].before, calls[which].oflag, calls[which].mode);
        b = call(&ours, calls[which].before, calls[which].oflag, calls[which].mode);
        compare(which, a, b);
}

START_TEST(test_calls) {
        in_child(compare_call, &_i);
}
END_TEST

/* --- names --- */

static void compare_names(int channel, void *userdata) {
        static const char *const bad[] = { "", "/", "/.", "/..", "/no-such-object-here", "no-such-object-here" };
        char name[300];

        (void) channel;
        (void) userdata;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                errno = 0;
                if (i != 2 && i != 3) { /* "." and "..": directories there, no names here; errors on both sides */
                        ck_assert_int_eq(shm_open(bad[i], O_RDWR, 0), -1);
                        int error = errno;
                        ck_assert_int_eq(shmd_shm_open(bad[i], O_RDWR, 0), -1);
                        ck_assert_int_eq(errno, error);
                        ck_assert_int_eq(shm_unlink(bad[i]), -1);
                        error = errno;
                        ck_assert_int_eq(shmd_shm_unlink(bad[i]), -1);
                        ck_assert_int_eq(errno, error);
                } else {
                        ck_assert_int_eq(shmd_shm_open(bad[i], O_RDWR | O_CREAT, 0600), -1);
                        ck_assert_int_eq(shmd_shm_unlink(bad[i]), -1);
                }
        }
        memset(name, 'n', sizeof(name));
        name[0] = '/';
        name[257] = '\0';
        ck_assert_int_eq(shm_open(name, O_RDWR | O_CREAT, 0600), -1);
        ck_assert_int_eq(errno, ENAMETOOLONG);
        ck_assert_int_eq(shmd_shm_open(name, O_RDWR | O_CREAT, 0600), -1);
        ck_assert_int_eq(errno, ENAMETOOLONG);
        name[255] = '\0'; /* 254 bytes and the slash: the longest that the C library of this machine takes, too */
        close(shmd_shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
        ck_assert_int_eq(shmd_shm_unlink(name), 0);
}

START_TEST(test_names) {
        in_child(compare_names, NULL);
}
END_TEST

/* --- what is done with a descriptor --- */

static void use(const struct interface *interface) {
        int fd = interface->open(object, O_RDWR | O_CREAT | O_EXCL, 0600), other;
        char *bytes, *same, buffer[8] = "";

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, 8192), 0);
        bytes = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ck_assert_ptr_ne(bytes, MAP_FAILED);
        ck_assert_int_eq(bytes[0] | bytes[8191], 0);
        strcpy(bytes + 4096, "second page");

        /* Each open has an offset of its own. */
        other = interface->open(object, O_RDONLY, 0);
        ck_assert_int_eq(lseek(fd, 100, SEEK_SET), 100);
        ck_assert_int_eq(lseek(other, 0, SEEK_CUR), 0);
        ck_assert_int_eq(pread(other, buffer, 6, 4096), 6);
        ck_assert_str_eq(buffer, "second");

        /* Shrunk and grown again, it reads as zeros. */
        ck_assert_int_eq(ftruncate(fd, 4096), 0);
        ck_assert_int_eq(lseek(other, 0, SEEK_END), 4096);
        ck_assert_int_eq(ftruncate(fd, 8192), 0);
        ck_assert_int_eq(bytes[4096], 0);
        ck_assert_int_eq(ftruncate(other, 0), -1);
        ck_assert_int_eq(errno, EINVAL);

        /* The descriptors may be closed; the name may go. */
        strcpy(bytes, "text");
        close(fd);
        close(other);
        other = interface->open(object, O_RDWR, 0);
        same = mmap(NULL, 8192, PROT_READ, MAP_SHARED, other, 0);
        ck_assert_ptr_ne(same, MAP_FAILED);
        close(other);
        ck_assert_int_eq(interface->unlink(object), 0);
        ck_assert_int_eq(interface->open(object, O_RDWR, 0), -1);
        ck_assert_int_eq(errno, ENOENT);
        strcpy(bytes + 100, "still shared");
        ck_assert_str_eq(same + 100, "still shared");
        munmap(bytes, 8192);
        ck_assert_str_eq(same, "text");
        munmap(same, 8192);
}

static void use_both(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        use(&native);
        use(&ours);
}

START_TEST(test_use) {
        in_child(use_both, NULL);
}
END_TEST

/* Also the very first call gives the lowest descriptor, although it has to connect. */
static void open_first(int channel, void *userdata) {
        int holes[3], fd;

        (void) channel;
        (void) userdata;
        for (size_t i = 0; i < ELEMENTSOF(holes); i++)
                holes[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        close(holes[0]);
        fd = shmd_shm_open(object, O_RDWR | O_CREAT, 0600);
        ck_assert_int_eq(fd, holes[0]);
        close(holes[2]);
        ck_assert_int_eq(shmd_shm_open(object, O_RDWR, 0600), holes[2]);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

START_TEST(test_lowest_descriptor_at_first) {
        in_child(open_first, NULL);
}
END_TEST

/* O_TRUNC reaches whoever has it open. */
static void truncate_held(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600), other;
        struct stat inode;

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(ftruncate(fd, 10000), 0);
        other = shmd_shm_open(object, O_RDWR | O_TRUNC, 0);
        ck_assert_int_ge(other, 0);
        ck_assert_int_eq(fstat(fd, &inode), 0);
        ck_assert_int_eq(inode.st_size, 0);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

START_TEST(test_truncate) {
        in_child(truncate_held, NULL);
}
END_TEST

/*
 * Opened as a segment: it has the size that it was given by the time it is mapped. When that grows what is mapped does not, and nothing
 * says so: whoever believed it would get SIGBUS.
 */
static void map_as_segment(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600);
        struct shmd *own = client_connect(), *other = client_connect();
        struct shmd_segment *segment = client_open(own, object, SHMD_READ_WRITE), *again;

        (void) channel;
        (void) userdata;
        ck_assert_uint_eq(shmd_size(segment), 0);
        ck_assert_int_eq(ftruncate(fd, 4096), 0);
        *(char *) client_map(segment) = 'm';
        ck_assert_uint_eq(shmd_size(segment), 4096);

        ck_assert_int_eq(ftruncate(fd, 8192), 0);
        ck_assert_uint_eq(client_stat(own, object).size_bytes, 8192);
        ASSERT_OK(other, shmd_chmod(other, object, 0600)); /* so that the daemon is asked */
        again = client_open(own, object, SHMD_READ_WRITE);
        ck_assert_ptr_eq(client_map(again), client_map(segment));
        ck_assert_uint_eq(shmd_size(again), 4096);
        ck_assert_uint_eq(shmd_size(segment), 4096);
        shmd_close(segment);
        shmd_close(again);
        again = client_open(own, object, SHMD_READ_WRITE);
        ck_assert_uint_eq(shmd_size(again), 8192);
        ((char *) client_map(again))[8191] = 'm';
        shmd_disconnect(own);
        shmd_disconnect(other);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

START_TEST(test_mapped_as_segment) {
        in_child(map_as_segment, NULL);
}
END_TEST

/* --- what is open already: without the daemon, and as new --- */

static ino_t inode_of(int fd) {
        struct stat inode;

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &inode), 0);
        return inode.st_ino;
}

static void *do_nothing(void *userdata) {
        return userdata;
}

/* From then on the process counts as one of several threads. */
static void have_had_thread(void *userdata) {
        pthread_t thread;

        if (!*(int *) userdata)
                return;
        ck_assert_int_eq(pthread_create(&thread, NULL, do_nothing, NULL), 0);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

static void open_again(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600), again[2], lowest;

        have_had_thread(userdata);
        ck_assert_int_eq(write(fd, "offset", 6), 6);
        step_send(channel, 's');
        step_expect(channel, 's');
        lowest = dup(fd);
        close(lowest);
        again[0] = shmd_shm_open(object, O_RDWR, 0);
        again[1] = shmd_shm_open(object, O_RDWR | O_CREAT | O_APPEND, 0644);
        ck_assert_int_eq(again[0], lowest);
        for (size_t i = 0; i < ELEMENTSOF(again); i++) {
                ck_assert_uint_eq(inode_of(again[i]), inode_of(fd));
                ck_assert_int_eq(lseek(again[i], 0, SEEK_CUR), 0);
                ck_assert_int_eq(fcntl(again[i], F_GETFD), FD_CLOEXEC);
                ck_assert_int_eq(fcntl(again[i], F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_APPEND), O_RDWR | (i == 1 ? O_APPEND : 0));
        }
        step_send(channel, 'd');
        ck_assert_int_eq(shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600), -1);
        ck_assert_int_eq(errno, EEXIST);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

/* Between its 's' and its 'd' it has to do without. */
static void join_without_daemon(struct child *child) {
        step_expect(child->channel, 's');
        daemon_pause(&the_daemon);
        step_send(child->channel, 's');
        step_expect(child->channel, 'd');
        daemon_resume(&the_daemon);
        child_join(child);
}

START_TEST(test_again_without_daemon) {
        struct child child;

        child_start(&child, open_again, &_i);
        join_without_daemon(&child);
}
END_TEST

/* Something else was opened and closed meanwhile, by way of the daemon: what has stayed open is remembered. */
static void open_again_later(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600), passing;

        (void) userdata;
        step_send(channel, 'c');
        step_expect(channel, 'c');
        passing = shmd_shm_open(object, O_RDWR, 0);
        ck_assert_uint_eq(inode_of(passing), inode_of(fd));
        close(passing);
        step_send(channel, 's');
        step_expect(channel, 's');
        ck_assert_uint_eq(inode_of(shmd_shm_open(object, O_RDWR, 0)), inode_of(fd));
        step_send(channel, 'd');
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

START_TEST(test_again_later) {
        struct shmd *connection = client_connect();
        struct child child;

        child_start(&child, open_again_later, NULL);
        step_expect(child.channel, 'c');
        ASSERT_OK(connection, shmd_chmod(connection, object, 0640));
        step_send(child.channel, 'c');
        join_without_daemon(&child);
        shmd_disconnect(connection);
}
END_TEST

/* The number of what was opened is something else by now. */
static void reuse_number(int channel, void *userdata) {
        char path[256];
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600), other, again, fifo, events;
        ino_t inode = inode_of(fd);

        (void) channel;
        have_had_thread(userdata);
        other = memfd_create("other", MFD_CLOEXEC);
        ck_assert_int_eq(dup2(other, fd), fd);
        again = shmd_shm_open(object, O_RDWR, 0);
        ck_assert_uint_eq(inode_of(again), inode);

        /* Opened for reading, even for a moment, a FIFO would let its writer in, and a device do what it does. */
        snprintf(path, sizeof(path), "%s.fifo", the_daemon.socket);
        ck_assert_int_eq(mkfifo(path, 0600), 0);
        fifo = open(path, O_RDONLY | O_NONBLOCK);
        ck_assert_int_eq(dup2(fifo, again), again);
        events = inotify_init1(IN_NONBLOCK);
        ck_assert_int_ge(inotify_add_watch(events, path, IN_OPEN), 0);
        ck_assert_uint_eq(inode_of(shmd_shm_open(object, O_RDWR, 0)), inode);
        ck_assert_int_eq(read(events, (char[512]) { 0 }, 512), -1);
        unlink(path);
        close(again);
        close(fd);
        ck_assert_uint_eq(inode_of(shmd_shm_open(object, O_RDWR, 0)), inode);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

START_TEST(test_again_number_reused) {
        in_child(reuse_number, &_i);
}
END_TEST

/* --- the name changes while the daemon is asked --- */

static char changing[80];
static atomic_int opener;

static void *open_changing(void *userdata) {
        atomic_store(&opener, (int) gettid());
        *(int *) userdata = shmd_shm_open(changing, O_RDWR, 0);
        return NULL;
}

static bool awaits_answer(void) {
        _cleanup_free_ char *text = NULL;
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", atomic_load(&opener));
        text = test_read_file(path);
        return text && atoi(text) == SYS_recvmsg;
}

static void open_while_it_changes(int channel, void *userdata) {
        ino_t first, second;
        pthread_t thread;
        char other[80];
        int fd;

        (void) userdata;
        snprintf(changing, sizeof(changing), "%s", object);
        snprintf(other, sizeof(other), "%s-b", object);
        fd = shmd_shm_open(changing, O_RDWR | O_CREAT | O_EXCL, 0600);
        first = inode_of(fd);
        close(fd);
        fd = shmd_shm_open(other, O_RDWR | O_CREAT | O_EXCL, 0600);
        second = inode_of(fd);
        close(fd);
        step_send(channel, 'm');
        step_expect(channel, 'p');
        ck_assert_int_eq(pthread_create(&thread, NULL, open_changing, &fd), 0);
        TEST_UNTIL(atomic_load(&opener) != 0 && awaits_answer(), "the daemon to be asked");
        strcpy(changing, other);
        step_send(channel, 'c');
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_uint_eq(inode_of(fd), first);
        ck_assert_uint_eq(inode_of(shmd_shm_open(other, O_RDWR, 0)), second);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
        ck_assert_int_eq(shmd_shm_unlink(other), 0);
}

/* It stands where others write, perhaps on purpose: what was opened by it is not to be had by what it became. */
START_TEST(test_again_name_changed) {
        struct child child;

        if (access("/proc/self/syscall", R_OK) < 0)
                return;
        child_start(&child, open_while_it_changes, NULL);
        step_expect(child.channel, 'm');
        daemon_pause(&the_daemon);
        step_send(child.channel, 'p');
        step_expect(child.channel, 'c');
        daemon_resume(&the_daemon);
        child_join(&child);
}
END_TEST

static void open_what_is_new(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600), again;
        ino_t inode = inode_of(fd);

        (void) userdata;
        step_send(channel, 'm');
        step_expect(channel, 'n');
        again = shmd_shm_open(object, O_RDWR, 0);
        ck_assert_uint_ne(inode_of(again), inode);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
        ck_assert_int_eq(shmd_shm_open(object, O_RDWR, 0), -1);
        ck_assert_int_eq(errno, ENOENT);
}

static void make_anew(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
        ck_assert_int_ge(shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
}

/* The name stands for something else, which another process has made. */
START_TEST(test_again_name_reused) {
        struct child child;
        struct shmd *connection;

        child_start(&child, open_what_is_new, NULL);
        step_expect(child.channel, 'm');
        in_child(make_anew, NULL);
        step_send(child.channel, 'n');
        child_join(&child);
        connection = client_connect();
        daemon_await_segments(&the_daemon, 0);
        shmd_disconnect(connection);
}
END_TEST

/* What the rights are now counts, and who we are. */
static void lose_rights(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600);

        (void) channel;
        (void) userdata;
        inode_of(shmd_shm_open(object, O_RDWR, 0));
        if (geteuid() == 0) {
                ck_assert_int_eq(seteuid(61001), 0);
                ck_assert_int_eq(error_of(shmd_shm_open(object, O_RDWR, 0)), EACCES);
                ck_assert_int_eq(seteuid(0), 0);
        } else {
                ck_assert_int_eq(fchmod(fd, 0400), 0);
                ck_assert_int_eq(error_of(shmd_shm_open(object, O_RDWR, 0)), EACCES);
        }
        inode_of(shmd_shm_open(object, O_RDONLY, 0));
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

START_TEST(test_again_rights) {
        in_child(lose_rights, NULL);
}
END_TEST

/* More than are remembered, and in forked children, who remember none. */
static void open_many_again(int channel, void *userdata) {
        ino_t inodes[40];
        char name[96];

        (void) userdata;
        (void) channel;
        for (int round = 0; round < 3; round++) {
                for (size_t i = 0; i < ELEMENTSOF(inodes); i++) {
                        ino_t inode;

                        snprintf(name, sizeof(name), "%s.%zu", object, i);
                        inode = inode_of(shmd_shm_open(name, O_RDWR | O_CREAT, 0600));
                        ck_assert(round == 0 || inode == inodes[i]);
                        inodes[i] = inode;
                }
                if (round == 1 && fork() > 0) {
                        ck_assert_int_gt(wait(&(int) { 0 }), 0);
                        break;
                }
        }
        for (size_t i = 0; i < ELEMENTSOF(inodes); i++) {
                snprintf(name, sizeof(name), "%s.%zu", object, i);
                (void) shmd_shm_unlink(name);
        }
}

START_TEST(test_again_many) {
        in_child(open_many_again, NULL);
        daemon_settle(&the_daemon, 0);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* --- how it is seen from outside --- */

static void map_and_unlink(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600);
        char *bytes;

        (void) userdata;
        ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
        bytes = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ck_assert_ptr_ne(bytes, MAP_FAILED);
        memset(bytes, 1, 1 << 20);
        close(fd);
        step_send(channel, 'm');
        step_expect(channel, 'u');
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
        step_send(channel, 'u');
        step_expect(channel, 'f');
        munmap(bytes, 1 << 20);
        step_send(channel, 'f');
        step_expect(channel, 'e');
}

/* The memory of what was unlinked is freed when it is unmapped, while the process lives on. */
START_TEST(test_freed_when_unmapped) {
        struct shmd *connection = client_connect();
        struct shmd_stat stat;
        struct child child;

        child_start(&child, map_and_unlink, NULL);
        step_expect(child.channel, 'm');
        stat = client_stat(connection, object);
        ck_assert_uint_eq(stat.posix, 1);
        ck_assert_uint_eq(stat.size_bytes, 1 << 20);
        ck_assert_uint_eq(stat.resident_bytes, 1 << 20);
        ck_assert_uint_eq(stat.holders, 1);
        step_send(child.channel, 'u');
        step_expect(child.channel, 'u');
        ck_assert_uint_eq(client_stat_id(connection, stat.id).holders, 1);
        ck_assert_uint_eq(client_stat_id(connection, stat.id).state, SHMD_STATE_UNLINKED);
        step_send(child.channel, 'f');
        step_expect(child.channel, 'f');
        TEST_UNTIL(!client_id_exists(connection, stat.id), "the kernel's word that it is unmapped");
        ck_assert_uint_eq(daemon_status(&the_daemon).segments, 0);
        step_send(child.channel, 'e');
        child_join(&child);
        shmd_disconnect(connection);
}
END_TEST

/* Without an unlink it stays, as POSIX says, whoever dies. */
static void make_and_die(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600);

        (void) userdata;
        ck_assert_int_eq(ftruncate(fd, 5), 0);
        ck_assert_int_eq(pwrite(fd, "stays", 5, 0), 5);
        step_send(channel, 'm');
        step_expect(channel, 'n');
}

static void find_it(int channel, void *userdata) {
        char buffer[6] = "";
        int fd = shmd_shm_open(object, O_RDONLY, 0);

        (void) channel;
        (void) userdata;
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(read(fd, buffer, sizeof(buffer)), 5);
        ck_assert_str_eq(buffer, "stays");
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
}

START_TEST(test_persists) {
        struct child child;

        child_start(&child, make_and_die, NULL);
        step_expect(child.channel, 'm');
        child_kill(&child);
        daemon_settle(&the_daemon, 0);
        in_child(find_it, NULL);
}
END_TEST

/* --- races --- */

#define ROUNDS 100
#define RACERS 8

static void race(int channel, void *userdata) {
        char step, name[96];

        (void) userdata;
        for (int round = 0; round < ROUNDS; round++) {
                int fd, error;

                snprintf(name, sizeof(name), "%s.%d", object, round);
                step_receive_data(channel, &step, 1);
                fd = shmd_shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
                error = errno;
                ck_assert(fd >= 0 || error == EEXIST);
                step_send(channel, fd >= 0 ? 'w' : 'l');
        }
}

/* O_CREAT | O_EXCL has one winner each time. */
START_TEST(test_exclusive_race) {
        struct child racers[RACERS];
        char step;

        for (int i = 0; i < RACERS; i++)
                child_start(&racers[i], race, NULL);
        for (int round = 0; round < ROUNDS; round++) {
                int winners = 0;

                for (int i = 0; i < RACERS; i++)
                        step_send(racers[i].channel, 'g');
                for (int i = 0; i < RACERS; i++) {
                        step_receive_data(racers[i].channel, &step, 1);
                        winners += step == 'w';
                }
                ck_assert_int_eq(winners, 1);
        }
        for (int i = 0; i < RACERS; i++)
                child_join(&racers[i]);
}
END_TEST

/* --- threads: any number may call, on the one connection --- */

static void *open_in_thread(void *userdata) {
        char name[96];

        for (int i = 0; i < 100; i++) {
                int fd;

                snprintf(name, sizeof(name), "%s.%d.%d", object, *(int *) userdata, i);
                fd = shmd_shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
                ck_assert_int_ge(fd, 0);
                ck_assert_int_eq(ftruncate(fd, i + 1), 0);
                ck_assert_int_eq(lseek(fd, 0, SEEK_END), i + 1);
                ck_assert_int_eq(shmd_shm_unlink(name), 0);
                close(fd);
        }
        return NULL;
}

static void open_in_threads(int channel, void *userdata) {
        pthread_t threads[8];
        int numbers[ELEMENTSOF(threads)];

        (void) channel;
        (void) userdata;
        for (size_t i = 0; i < ELEMENTSOF(threads); i++) {
                numbers[i] = (int) i;
                ck_assert_int_eq(pthread_create(&threads[i], NULL, open_in_thread, &numbers[i]), 0);
        }
        for (size_t i = 0; i < ELEMENTSOF(threads); i++)
                ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}

START_TEST(test_threads) {
        in_child(open_in_threads, NULL);
        daemon_settle(&the_daemon, 0);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* --- fork --- */

static void open_as_child(int channel, void *userdata) {
        int fd = shmd_shm_open(object, O_RDWR, 0);

        (void) userdata;
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(pwrite(fd, "child", 5, 0), 5);
        step_send(channel, 'w');
        step_expect(channel, 'e');
}

static void open_and_fork(int channel, void *userdata) {
        struct child child;
        char buffer[6] = "";
        int fd = shmd_shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600);

        (void) channel;
        (void) userdata;
        child_start_inheriting(&child, open_as_child, NULL);
        step_expect(child.channel, 'w');
        ck_assert_int_eq(pread(fd, buffer, 5, 0), 5);
        ck_assert_str_eq(buffer, "child");
        step_send(child.channel, 'e');
        child_join(&child);
        ck_assert_int_eq(shmd_shm_unlink(object), 0);
        ck_assert_int_eq(shmd_shm_unlink(object), -1);
        ck_assert_int_eq(errno, ENOENT);
}

START_TEST(test_fork) {
        in_child(open_and_fork, NULL);
        daemon_settle(&the_daemon, 0);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* --- no daemon --- */

static void open_without_daemon(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        setenv("SHMD_SOCKET", "/nonexistent/shmd.sock", 1);
        ck_assert_int_eq(shmd_shm_open(object, O_RDWR | O_CREAT, 0600), -1);
        ck_assert_int_eq(errno, ENOENT);
        ck_assert_int_eq(shmd_shm_unlink(object), -1);
}

START_TEST(test_no_daemon) {
        in_child(open_without_daemon, NULL);
}
END_TEST

/* --- users --- */

static const struct identity first = { .uid = 61001, .gid = 61001 };
static const struct identity second = { .uid = 61002, .gid = 61002 };
static const mode_t modes[] = { 0600, 0640, 0644, 0666, 0604, 0606, 0602 };

static void make_as_first(int channel, void *userdata) {
        const mode_t mode = *(mode_t *) userdata;

        (void) channel;
        umask(0);
        for (int i = 0; i < 2; i++) {
                const struct interface *interface = i == 0 ? &native : &ours;
                int fd = interface->open(object, O_RDWR | O_CREAT | O_EXCL, mode);

                ck_assert_int_ge(fd, 0);
                ck_assert_int_eq(ftruncate(fd, 100), 0);
        }
}

static void open_as_second(int channel, void *userdata) {
        /* Not O_CREAT of what is there: there fs.protected_regular forbids in /dev/shm what the mode allows. */
        static const int oflags[] = { O_RDONLY, O_RDONLY | O_TRUNC, O_RDWR, O_RDWR | O_TRUNC, O_RDWR | O_CREAT | O_EXCL };

        (void) channel;
        (void) userdata;
        for (size_t i = 0; i < ELEMENTSOF(oflags); i++) {
                int error = error_of(shm_open(object, oflags[i], 0600));

                ck_assert_msg(error_of(shmd_shm_open(object, oflags[i], 0600)) == error, "flags %x, expected %s",
                              (unsigned) oflags[i], strerror(error));
        }
        ck_assert_int_eq(shm_unlink(object), -1);
        ck_assert_int_eq(errno, EACCES);
        ck_assert_int_eq(shmd_shm_unlink(object), -1);
        ck_assert_int_eq(errno, EACCES);
}

START_TEST(test_users) {
        struct child child;
        mode_t mode = modes[_i];

        if (!test_as_root("test_users"))
                return;
        child_start_as(&child, &first, make_as_first, &mode);
        child_join(&child);
        child_start_as(&child, &second, open_as_second, NULL);
        child_join(&child);
}
END_TEST

static Suite *posix_suite(void) {
        Suite *suite = suite_create("posix");
        TCase *tests = test_case(suite, "shm_open", setup, teardown);

        tcase_add_loop_test(tests, test_calls, 0, ELEMENTSOF(calls));
        tcase_add_test(tests, test_names);
        tcase_add_test(tests, test_use);
        tcase_add_test(tests, test_lowest_descriptor_at_first);
        tcase_add_test(tests, test_truncate);
        tcase_add_test(tests, test_mapped_as_segment);
        tcase_add_loop_test(tests, test_again_without_daemon, 0, 2);
        tcase_add_test(tests, test_again_later);
        tcase_add_loop_test(tests, test_again_number_reused, 0, 2);
        tcase_add_test(tests, test_again_name_changed);
        tcase_add_test(tests, test_again_name_reused);
        tcase_add_test(tests, test_again_rights);
        tcase_add_test(tests, test_again_many);
        tcase_add_test(tests, test_freed_when_unmapped);
        tcase_add_test(tests, test_persists);
        tcase_add_test(tests, test_exclusive_race);
        tcase_add_test(tests, test_threads);
        tcase_add_test(tests, test_fork);
        tcase_add_test(tests, test_no_daemon);
        tcase_add_loop_test(tests, test_users, 0, ELEMENTSOF(modes));
        return suite;
}

int main(void) {
        return test_run(posix_suite());
}
