/* SPDX-License-Identifier: MIT */
/*
 * posix-calls SCENARIO [NAME [BYTES]]: a program that knows nothing of shmd. It prints what comes of its calls, so that two runs can be
 * compared, natively and served; and fails where POSIX or Linux leave no doubt. A scenario that needs root does nothing without.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define PAGE sysconf(_SC_PAGESIZE)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MUST(condition)                                                                                    \
        do {                                                                                               \
                if (!(condition)) {                                                                        \
                        int error_ = errno;                                                                \
                        printf("line %d: not so: %s (%s)\n", __LINE__, #condition, strerror(error_));      \
                        exit(1);                                                                           \
                }                                                                                          \
        } while (0)

static char object[64]; /* of this process and its children alone */

static int error_of(long result) {
        return result < 0 ? errno : 0;
}

static int make(const char *name, off_t size) {
        int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);

        MUST(fd >= 0);
        MUST(ftruncate(fd, size) == 0);
        return fd;
}

static int lowest_descriptor(void) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        close(fd);
        return fd;
}

static void join(pid_t pid) {
        int status;

        MUST(pid > 0);
        while (waitpid(pid, &status, __WALL) < 0)
                MUST(errno == EINTR);
        MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* --- each flag, on each object, in each mode --- */

static void print_descriptor(int fd, int lowest) {
        struct stat st;
        unsigned char byte;
        ssize_t n;
        void *address;

        MUST(fstat(fd, &st) == 0);
        printf(" fd+%d cloexec %d flags %o mode %o owner %d:%d size %ld at %ld", fd - lowest, fcntl(fd, F_GETFD),
               fcntl(fd, F_GETFL) & ~(O_NOFOLLOW | O_SYNC), st.st_mode, (int) st.st_uid, (int) st.st_gid, (long) st.st_size,
               (long) lseek(fd, 0, SEEK_CUR));
        n = pread(fd, &byte, 1, 0);
        printf(" read %zd:%d", n, n == 1 ? byte : error_of(n));
        printf(" write %d", error_of(pwrite(fd, "w", 1, 3)));
        printf(" truncate %d", error_of(ftruncate(fd, 5000)));
        printf(" allocate %d", posix_fallocate(fd, 0, 9000));
        for (int protection = PROT_READ; protection <= (PROT_READ | PROT_WRITE); protection += PROT_WRITE) {
                address = mmap(NULL, PAGE, protection, MAP_SHARED, fd, 0);
                printf(" map %d", address == MAP_FAILED ? errno : 0);
                if (address != MAP_FAILED)
                        munmap(address, PAGE);
        }
        address = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGE);
        printf(" private %d", address == MAP_FAILED ? errno : 0);
        if (address != MAP_FAILED)
                munmap(address, PAGE);
        printf(" chmod %d", error_of(fchmod(fd, 0644)));
        MUST(fstat(fd, &st) == 0);
        printf(" now %o %ld\n", st.st_mode, (long) st.st_size);
}

enum before {
        ABSENT,
        EMPTY,
        FILLED,
        UNREADABLE,
};

static void prepare(enum before before) {
        int fd;

        shm_unlink(object);
        if (before == ABSENT)
                return;
        fd = make(object, 0);
        if (before != EMPTY)
                MUST(pwrite(fd, "contents", 8, 4092) == 8);
        if (before == UNREADABLE)
                MUST(fchmod(fd, 0) == 0);
        close(fd);
}

static void one_call(enum before before, int oflag, mode_t mode) {
        int lowest, fd;

        prepare(before);
        lowest = lowest_descriptor();
        errno = 1234;
        fd = shm_open(object, oflag, mode);
        printf("%d %o %o: %s", before, oflag, mode, fd < 0 ? strerror(errno) : "done");
        if (fd >= 0) {
                MUST(errno == 1234);
                print_descriptor(fd, lowest);
                close(fd);
        } else
                printf("\n");
        printf("unlink: %d\n", error_of(shm_unlink(object)));
}

static void scenario_flags(void) {
        static const int flags[] = { 0, O_CREAT, O_CREAT | O_EXCL, O_EXCL, O_TRUNC, O_CREAT | O_TRUNC, O_CREAT | O_EXCL | O_TRUNC,
                                     O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_APPEND, O_CREAT | O_SYNC };
        static const mode_t modes[] = { 0, 0200, 0400, 0600, 0640, 0666, 0777 };
        static const mode_t masks[] = { 0, 022, 077, 0777 };

        for (enum before before = ABSENT; before <= UNREADABLE; before++)
                for (size_t i = 0; i < COUNT(flags); i++)
                        for (int access = O_RDONLY; access <= O_RDWR; access += O_RDWR)
                                for (size_t m = 0; m < COUNT(modes); m++) {
                                        umask(masks[(i + m) % COUNT(masks)]);
                                        one_call(before, access | flags[i], modes[m]);
                                }
}

/* Where the umask can't be asked for by changing it */
static void *sleep_on(void *argument) {
        char byte;

        (void) !read(*(int *) argument, &byte, 1);
        return NULL;
}

static void scenario_flags_threaded(void) {
        pthread_t thread;
        int pipe_fds[2];

        MUST(pipe(pipe_fds) == 0);
        MUST(pthread_create(&thread, NULL, sleep_on, &pipe_fds[0]) == 0);
        scenario_flags();
        close(pipe_fds[1]);
        pthread_join(thread, NULL);
}

/* --- names --- */

static void print_quoted(const char *name) {
        for (; *name; name++)
                printf(*name > ' ' && *name < 127 ? "%c" : "\\%02x", (unsigned char) *name);
}

static void one_name(const char *name) {
        int fd, again;

        shm_unlink(name);
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        print_quoted(name);
        printf(": %d", fd < 0 ? errno : 0);
        again = shm_open(name, O_RDWR, 0600);
        printf(" %d", again < 0 ? errno : 0);
        printf(" %d", error_of(shm_unlink(name)));
        printf(" %d\n", error_of(shm_unlink(name)));
        close(fd);
        close(again);
}

static void scenario_names(void) {
        static const char *const names[] = { "", "/", "//", "/.", "/..", ".", "/a/b", "/a/", "/slash/..", "/posix-calls with blanks",
                                             "posix-calls-bare", "//posix-calls-two", "/posix-calls\xff\xfe", "/posix-calls\xc3\xa9",
                                             "/posix-calls\xc3", "/posix-calls%41", "/posix-calls%", "/posix-calls%~",
                                             "/posix-calls\n\t\x7f",
                                             "/posix-calls\xc2\x85", "/posix-calls..", "/.posix-calls", "/...", "/posix-calls%%41%2541" };
        char name[400];

        for (size_t i = 0; i < COUNT(names); i++)
                one_name(names[i]);
        for (size_t length = 250; length < 300; length++)
                for (int c = 'n'; c < 256; c += 0xfc - 'n') {
                        memset(name, c, length);
                        name[length] = '\0';
                        name[0] = length & 1 ? '/' : 'p';
                        one_name(name);
                }
}

/* Whatever they are to the daemon, they are different ones. */
static void scenario_names_differ(void) {
        static const char *const ends[] = { "", "%41", "A", "%2541", "%25", "%", "\xff", "%FF", "%ff", "\xc3\xa9", "%C3%A9", "%~",
                                            "%7E", "\n", "%0A",
                                            "\xc3", "\xc3\xc3", "%%41", "%%2541" };
        char name[300];
        char c;

        for (size_t i = 0; i < COUNT(ends); i++) {
                snprintf(name, sizeof(name), "%s-%s", object, ends[i]);
                int fd = make(name, 1);

                c = (char) i;
                MUST(pwrite(fd, &c, 1, 0) == 1);
                close(fd);
        }
        for (size_t i = 0; i < COUNT(ends); i++) {
                snprintf(name, sizeof(name), "%s-%s", object, ends[i]);
                int fd = shm_open(name, O_RDONLY, 0);

                MUST(fd >= 0 && pread(fd, &c, 1, 0) == 1 && c == (char) i);
                close(fd);
                MUST(shm_unlink(name) == 0);
        }
        /* The longest, of bytes that no other name has, that differ in the last */
        for (int pass = 0; pass < 3; pass++)
                for (int last = 0xf0; last <= 0xff; last++) {
                        memset(name, 0xf8, 255);
                        name[254] = (char) last;
                        name[255] = '\0';
                        c = (char) last;
                        int fd = pass == 0 ? make(name, 1) : shm_open(name, O_RDWR, 0);

                        MUST(fd >= 0);
                        if (pass == 0)
                                MUST(pwrite(fd, &c, 1, 0) == 1);
                        c = 0;
                        MUST(pread(fd, &c, 1, 0) == 1 && c == (char) last);
                        close(fd);
                        if (pass == 2)
                                MUST(shm_unlink(name) == 0);
                }
}

/* --- what is done with it --- */

static void scenario_data(void) {
        int fd = make(object, 3 * PAGE), other, copy;
        char buffer[16] = "", *bytes, *private, *same;
        struct stat st;

        MUST(lseek(fd, PAGE, SEEK_SET) == PAGE);
        MUST(write(fd, "hello", 5) == 5 && lseek(fd, 0, SEEK_CUR) == PAGE + 5);
        copy = dup(fd);
        MUST(lseek(copy, 0, SEEK_CUR) == PAGE + 5); /* a duplicate has the same offset, another open has its own */
        other = shm_open(object, O_RDONLY, 0);
        MUST(lseek(other, 0, SEEK_CUR) == 0);
        MUST(lseek(other, PAGE, SEEK_SET) == PAGE && read(other, buffer, 5) == 5 && strcmp(buffer, "hello") == 0);
        MUST(write(other, "x", 1) < 0 && errno == EBADF);
        MUST(ftruncate(other, 0) < 0 && errno == EINVAL);
        MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0) == MAP_FAILED && errno == EACCES);
        MUST(fsync(fd) == 0 && fdatasync(fd) == 0);

        bytes = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE);
        private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, other, PAGE);
        MUST(bytes != MAP_FAILED && private != MAP_FAILED && strcmp(bytes, "hello") == 0);
        private[0] = 'j';
        MUST(bytes[0] == 'h');
        bytes[1] = 'u';
        MUST(pread(other, buffer, 5, PAGE) == 5 && strcmp(buffer, "hullo") == 0);
        MUST(msync(bytes, 2 * PAGE, MS_SYNC) == 0);

        for (int i = 0; i < 50; i++) {
                MUST(ftruncate(fd, PAGE + (i % 7) * PAGE) == 0);
                MUST(ftruncate64(fd, 3 * PAGE) == 0);
                MUST(posix_fallocate(fd, 0, 3 * PAGE + i) == 0);
                MUST(fstat(fd, &st) == 0 && st.st_size == 3 * PAGE + i);
        }
        MUST(ftruncate(fd, PAGE) == 0 && ftruncate(fd, 3 * PAGE) == 0);
        MUST(bytes[0] == 0); /* what was cut off comes back as zeros */
        strcpy(bytes, "kept");

        close(fd);
        close(copy);
        MUST(shm_unlink(object) == 0);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == ENOENT);
        MUST(strcmp(bytes, "kept") == 0 && pread(other, buffer, 5, PAGE) == 5 && strcmp(buffer, "kept") == 0);
        fd = make(object, PAGE); /* the name is free at once, for another object */
        same = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        MUST(same[0] == 0);
        close(fd);
        fd = shm_open(object, O_RDWR | O_TRUNC, 0);
        MUST(fstat(fd, &st) == 0 && st.st_size == 0);
        MUST(shm_unlink(object) == 0);
        MUST(posix_fallocate(fd, 0, 1 << 20) == 0);
        MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == 0);
        MUST(ftruncate(fd, -1) < 0 && errno == EINVAL);
}

/* --- who calls --- */

static void become(uid_t uid, gid_t gid) {
        MUST(seteuid(0) == 0);
        MUST(setgroups(0, NULL) == 0 && setegid(gid) == 0 && seteuid(uid) == 0);
}

static void scenario_identity(void) {
        static const gid_t extra[] = { 4321 };
        struct stat st;
        int fd;

        close(make(object, 1));
        MUST(shm_unlink(object) == 0);
        if (geteuid() != 0) {
                printf("not root\n");
                return;
        }
        umask(0);
        become(1234, 1235);
        fd = make(object, 4096);
        MUST(fstat(fd, &st) == 0 && st.st_uid == 1234 && st.st_gid == 1235);
        MUST(fchmod(fd, 0640) == 0);
        become(1236, 1237);
        MUST(shm_open(object, O_RDONLY, 0) < 0 && errno == EACCES);
        MUST(shm_open(object, O_RDWR | O_CREAT, 0666) < 0 && errno == EACCES);
        MUST(shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0666) < 0 && errno == EEXIST);
        MUST(shm_unlink(object) < 0 && errno == EACCES);
        become(1236, 1235); /* by its group */
        MUST(shm_open(object, O_RDONLY, 0) >= 0);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == EACCES);
        MUST(fchmod(fd, 0666) < 0 && errno == EPERM);
        become(0, 0);
        MUST(fchown(fd, 1234, extra[0]) == 0 && fstat(fd, &st) == 0 && st.st_gid == extra[0]);
        become(1236, 1237);
        MUST(shm_open(object, O_RDONLY, 0) < 0 && errno == EACCES);
        MUST(seteuid(0) == 0 && setgroups(1, extra) == 0 && seteuid(1236) == 0);
        MUST(shm_open(object, O_RDONLY, 0) >= 0); /* by a supplementary group */
        MUST(seteuid(0) == 0 && setgroups(0, NULL) == 0 && seteuid(1236) == 0);
        MUST(shm_open(object, O_RDONLY, 0) < 0 && errno == EACCES);
        become(1234, 1235);
        MUST(fchmod(fd, 0) == 0);
        MUST(shm_open(object, O_RDONLY, 0) < 0 && errno == EACCES);
        MUST(shm_unlink(object) == 0);

        fd = shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0); /* for its creator as he asked, whatever the mode */
        MUST(fd >= 0 && ftruncate(fd, 4096) == 0 && pwrite(fd, "x", 1, 0) == 1);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == EACCES);
        become(0, 0);
        MUST(shm_open(object, O_RDWR, 0) >= 0);
        MUST(shm_unlink(object) == 0);
        MUST(setresuid(1234, 1234, 1234) == 0); /* for good */
        fd = make(object, 1);
        MUST(fstat(fd, &st) == 0 && st.st_uid == 1234);
        MUST(shm_unlink(object) == 0);
}

/* Each way to open what each mode leaves to owner, group, others and root */
static void scenario_rights(void) {
        static const mode_t modes[] = { 0, 0200, 0400, 0600, 0640, 0660, 0620, 0644, 0666, 0604, 0602, 0060, 0006, 0777 };
        static const int flags[] = { 0, O_CREAT, O_CREAT | O_EXCL, O_TRUNC, O_CREAT | O_TRUNC };
        static const uid_t users[][2] = { { 1234, 1235 }, { 1236, 1235 }, { 1236, 1237 }, { 1234, 1237 }, { 0, 0 } };
        int fd, lowest;

        close(make(object, 1));
        MUST(shm_unlink(object) == 0);
        umask(0);
        for (size_t n = 0; geteuid() == 0 && n < COUNT(modes) * COUNT(flags) * COUNT(users) * 2; n++) {
                const mode_t mode = modes[n % COUNT(modes)];
                const uid_t *user = users[n / COUNT(modes) % COUNT(users)];
                const size_t way = n / COUNT(modes) / COUNT(users);
                int oflag = flags[way % COUNT(flags)] | (way < COUNT(flags) ? O_RDONLY : O_RDWR);

                become(1234, 1235);
                fd = shm_open(object, O_RDWR | O_CREAT | O_EXCL, mode);
                MUST(fd >= 0 && pwrite(fd, "contents", 8, 0) == 8);
                close(fd);
                become(user[0], user[1]);
                lowest = lowest_descriptor();
                fd = shm_open(object, oflag, 0666);
                printf("mode %o user %d:%d flags %o: %s", mode, (int) user[0], (int) user[1], oflag, fd < 0 ? strerror(errno) : "done");
                if (fd >= 0)
                        print_descriptor(fd, lowest);
                close(fd);
                printf(" unlink %d\n", error_of(shm_unlink(object)));
                become(0, 0);
                shm_unlink(object);
        }
}

static void write_map(pid_t pid, const char *which) {
        char path[64];
        int fd;

        snprintf(path, sizeof(path), "/proc/%d/%s", (int) pid, which);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        MUST(fd >= 0 && write(fd, "0 100000 65536", 14) == 14);
        close(fd);
}

/* Who has become root of a user namespace has the ids that he had; but he is somebody else. */
static void become_contained(int ready, int mapped) {
        char byte;
        int fd;

        close(shm_open(object, O_RDWR, 0));
        MUST(unshare(CLONE_NEWUSER) == 0);
        MUST(write(ready, "", 1) == 1 && read(mapped, &byte, 1) == 1);
        MUST(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == EACCES);
        MUST(shm_unlink(object) < 0 && errno == EACCES);
        fd = shm_open("/posix-calls-contained", O_RDWR | O_CREAT | O_EXCL, 0600);
        MUST(fd >= 0);
        exit(0);
}

static bool can_contain(void) {
        int status;
        pid_t pid = fork();

        if (pid == 0)
                _exit(geteuid() != 0 || setgroups(0, NULL) < 0 || unshare(CLONE_NEWUSER) < 0);
        return waitpid(pid, &status, 0) == pid && status == 0;
}

static void scenario_user_namespace(void) {
        int ready[2], mapped[2], fd;
        struct stat st;
        char byte;
        pid_t pid;

        close(make(object, 1));
        if (!can_contain()) {
                printf("not root, or no user namespaces\n");
                MUST(shm_unlink(object) == 0);
                return;
        }
        MUST(setgroups(0, NULL) == 0);
        MUST(pipe(ready) == 0 && pipe(mapped) == 0);
        pid = fork();
        if (pid == 0)
                become_contained(ready[1], mapped[0]);
        MUST(read(ready[0], &byte, 1) == 1);
        write_map(pid, "uid_map");
        write_map(pid, "gid_map");
        MUST(write(mapped[1], "", 1) == 1);
        join(pid);
        fd = shm_open("/posix-calls-contained", O_RDONLY, 0);
        MUST(fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == 100000 && st.st_gid == 100000);
        MUST(shm_unlink("/posix-calls-contained") == 0 && shm_unlink(object) == 0);
}

/* --- descriptors --- */

static void fill_descriptors(int left) {
        int fd, last[8];
        unsigned count = 0;

        while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
                last[count++ % COUNT(last)] = fd;
        MUST(errno == EMFILE);
        while (left-- > 0)
                close(last[--count % COUNT(last)]);
}

static void scenario_limit(void) {
        struct rlimit limit = { 100, 100 };
        int fd, lowest;

        close(make(object, 4096));
        MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        fill_descriptors(1);
        lowest = lowest_descriptor();
        fd = shm_open(object, O_RDWR, 0);
        MUST(fd == lowest);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == EMFILE);
        MUST(shm_open(object, O_RDWR | O_TRUNC, 0) < 0 && errno == EMFILE);
        MUST(lseek(fd, 0, SEEK_END) == 4096); /* nor was it emptied */
        MUST(shm_unlink(object) == 0);
        MUST(shm_open(object, O_RDWR | O_CREAT, 0600) < 0 && errno == EMFILE);
        close(fd);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == ENOENT); /* nothing was made */
}

/* Whatever the limit, and wherever there is room: it is the lowest. */
static void open_within(rlim_t most, bool warm, int low, int high) {
        struct rlimit limit = { most, most };
        int fd, lowest;

        if (warm)
                close(shm_open(object, O_RDWR, 0));
        MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        if (low > 0) {
                fill_descriptors(0);
                close(low);
                close(high);
        }
        lowest = lowest_descriptor();
        for (int i = 0; i < (low > 0 ? 1 : 5); i++) {
                fd = shm_open(object, i % 2 ? O_RDWR | O_CREAT : O_RDONLY, 0600);
                printf("limit %d, warm %d, free %d and %d: fd+%d error %d\n", (int) most, warm, low, high, fd - lowest, error_of(fd));
        }
}

static void scenario_lowest(void) {
        static const rlim_t limits[] = { 16, 20, 63, 64, 65, 100, 1008, 1012, 2000 };

        close(make(object, 4096));
        for (unsigned i = 0; i < COUNT(limits) * 4; i++) {
                pid_t pid;

                fflush(stdout);
                pid = fork();
                if (pid == 0) {
                        open_within(limits[i / 4], i & 1, i & 2 ? 5 : 0, i & 2 ? 9 : 0);
                        exit(0);
                }
                join(pid);
        }
        MUST(shm_unlink(object) == 0);
}

/* What fails without having asked anybody says nothing of where the objects are. */
static void scenario_undecided(void) {
        struct rlimit limit, few = { 50, 50 };

        (void) shm_open(object, O_RDWR | O_DIRECTORY, 0);
        (void) shm_open(object, O_RDWR | O_WRONLY, 0);
        MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        few.rlim_max = limit.rlim_max;
        MUST(setrlimit(RLIMIT_NOFILE, &few) == 0);
        fill_descriptors(0);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == EMFILE);
        MUST(close_range(3, ~0u, 0) == 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0);
        close(make(object, 1));
        MUST(shm_unlink(object) == 0);
}

/* Something of its own under each number that was closed: nobody may touch that. */
static void scenario_close_all(void) {
        int pair[2], fd = make(object, 4096), first;
        char byte;

        for (int round = 0; round < 3; round++) {
                MUST(close_range(3, ~0u, 0) == 0);
                MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
                for (first = pair[1] + 1; first < 1100; first++)
                        (void) dup2(pair[0], first);
                close(40);
                fd = shm_open(object, O_RDWR, 0);
                MUST(fd == 40);
                MUST(recv(pair[1], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN); /* nothing was written there */
                MUST(fcntl(pair[0], F_GETFD) >= 0 && fcntl(1008, F_GETFD) >= 0);    /* and nothing closed */
                for (int other = pair[1] + 1; other < 1100; other++)
                        MUST(other == 40 || fcntl(other, F_GETFD) == 0);
                close(41);
                MUST(shm_open(object, O_RDWR, 0) == 41);
        }
        MUST(close_range(3, ~0u, 0) == 0);
        MUST(shm_unlink(object) == 0);
}

/* --- processes --- */

static void use(void) {
        int fd = shm_open(object, O_RDWR, 0);

        MUST(fd >= 0);
        close(fd);
        fd = shm_open("/posix-calls-not-there", O_RDWR, 0);
        MUST(fd < 0 && errno == ENOENT);
}

static int count_descriptors(void) {
        int count = 0;

        for (int fd = 0; fd < 2000; fd++)
                count += fcntl(fd, F_GETFD) >= 0;
        return count;
}

static int use_and_exit(void *argument) {
        (void) argument;
        use();
        _exit(0);
}

static void fork_and_use(void) {
        pid_t pid = fork();

        if (pid == 0) {
                use();
                _exit(0);
        }
        use();
        join(pid);
}

static void vfork_and_use(void) {
        pid_t pid = vfork();

        if (pid == 0) {
                use();
                _exit(0);
        }
        use();
        join(pid);
}

/* A child with its parent's memory, but not its descriptors */
static void close_all_in_vfork(void) {
        pid_t pid = vfork();

        if (pid == 0) {
                close_range(3, ~0u, 0);
                use();
                _exit(0);
        }
        join(pid);
        use();
}

static void clone_and_use(int flags) {
        static char stack[1 << 17] __attribute__((__aligned__(64)));

        join(clone(use_and_exit, stack + sizeof(stack), flags | SIGCHLD, NULL));
        use();
}

static void spawn_and_use(void) {
        char *arguments[] = { (char *) "posix-calls", (char *) "use", object, NULL };
        pid_t pid;

        MUST(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, arguments, environ) == 0);
        join(pid);
}

/* As daemon(3), and all descriptors closed one by one. */
static void become_daemon_and_use(void) {
        pid_t pid = fork();

        if (pid == 0) {
                MUST(setsid() > 0 && chdir("/") == 0);
                for (int fd = 3; fd < 2000; fd++)
                        close(fd);
                fork_and_use();
                _exit(0);
        }
        join(pid);
}

/* The first call is a grandchild's, a child's, then the parent's. */
static void scenario_processes(void) {
        static const int clone_flags[] = { 0, CLONE_FILES, CLONE_VM | CLONE_VFORK, CLONE_VM | CLONE_VFORK | CLONE_FILES };
        pid_t pid = fork();

        if (pid == 0) {
                close(make(object, 4096));
                fork_and_use();
                MUST(shm_unlink(object) == 0);
                _exit(0);
        }
        join(pid);
        close(make(object, 4096));
        for (int round = 0; round < 20; round++) {
                fork_and_use();
                vfork_and_use();
                for (size_t i = 0; i < COUNT(clone_flags); i++)
                        clone_and_use(clone_flags[i]);
        }
        int count = count_descriptors();

        for (int round = 0; round < 5; round++)
                close_all_in_vfork();
        MUST(count_descriptors() == count);
        spawn_and_use();
        become_daemon_and_use();
        MUST(shm_unlink(object) == 0);
}

static void *make_one(void *argument) {
        char name[80];

        *(atomic_int *) argument = (int) gettid();
        snprintf(name, sizeof(name), "%s-%d", object, (int) gettid());
        close(shm_open(name, O_RDWR | O_CREAT, 0600));
        shm_unlink(name);
        return NULL;
}

static bool is_receiving(pid_t thread) {
        char path[64], text[16] = "";
        FILE *file;

        snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int) thread);
        file = fopen(path, "re");
        MUST(file && fgets(text, sizeof(text), file));
        fclose(file);
        return atoi(text) == SYS_recvmsg;
}

/* Calls are under way, and stay so, as the server that $STOP_PID tells of has been stopped: a child has nothing of them. */
static void scenario_fork_inside(void) {
        pid_t server = getenv("STOP_PID") ? atoi(getenv("STOP_PID")) : 0, pid;
        pthread_t threads[8];
        atomic_int ids[COUNT(threads)];
        int count = count_descriptors();

        close(make(object, 1));
        if (server > 0)
                kill(server, SIGSTOP);
        for (size_t i = 0; i < COUNT(threads); i++) {
                atomic_store(&ids[i], 0);
                MUST(pthread_create(&threads[i], NULL, make_one, &ids[i]) == 0);
                while (server > 0 && (atomic_load(&ids[i]) == 0 || !is_receiving(atomic_load(&ids[i]))))
                        sched_yield();
        }
        pid = fork();
        if (pid == 0)
                _exit(server > 0 && count_descriptors() != count);
        if (server > 0)
                kill(server, SIGCONT);
        join(pid);
        for (size_t i = 0; i < COUNT(threads); i++)
                pthread_join(threads[i], NULL);
        MUST(shm_unlink(object) == 0);
}

static void scenario_fds(void) { /* a child has none that it did not have natively, but close-on-exec */
        bool inherited[2000];

        for (int fd = 3; fd < 2000; fd++)
                inherited[fd] = fcntl(fd, F_GETFD) >= 0;
        close(make(object, 4096));
        use();
        for (int fd = 3; fd < 2000; fd++)
                MUST(inherited[fd] || fcntl(fd, F_GETFD) < 0 || (fcntl(fd, F_GETFD) & FD_CLOEXEC));
        MUST(shm_unlink(object) == 0);
}

/* --- who is first --- */

#define RACERS 50
#define RACES 40

static void race(int racer, atomic_int *gate, atomic_int *winners) {
        char name[80];

        for (int round = 0; round < RACES; round++) {
                snprintf(name, sizeof(name), "%s-%d", object, round);
                atomic_fetch_add(&gate[round], 1);
                while (atomic_load(&gate[round]) < RACERS)
                        sched_yield();
                int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);

                if (fd >= 0) {
                        atomic_fetch_add(&winners[round], 1);
                        close(fd);
                } else
                        MUST(errno == EEXIST);
                fd = shm_open(name, O_RDWR | O_CREAT, 0600);
                MUST(fd >= 0);
                close(fd);
        }
        (void) racer;
}

static void scenario_race(void) {
        atomic_int *shared = mmap(NULL, 2 * RACES * sizeof(atomic_int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        pid_t pids[RACERS];
        char name[80];

        for (int racer = 0; racer < RACERS; racer++) {
                pids[racer] = fork();
                if (pids[racer] == 0) {
                        race(racer, shared, shared + RACES);
                        exit(0);
                }
        }
        for (int racer = 0; racer < RACERS; racer++)
                join(pids[racer]);
        for (int round = 0; round < RACES; round++) {
                MUST(atomic_load(&shared[RACES + round]) == 1);
                snprintf(name, sizeof(name), "%s-%d", object, round);
                MUST(shm_unlink(name) == 0);
        }
}

static void *call_often(void *argument) {
        (void) argument;
        for (int i = 0; i < 300; i++)
                use();
        return NULL;
}

static void scenario_threads(void) {
        pthread_t threads[16];

        close(make(object, 4096));
        for (size_t i = 0; i < COUNT(threads); i++)
                MUST(pthread_create(&threads[i], NULL, call_often, NULL) == 0);
        for (int i = 0; i < 30; i++) { /* while they call */
                pid_t pid = fork();

                if (pid == 0) {
                        use();
                        _exit(0);
                }
                join(pid);
        }
        for (size_t i = 0; i < COUNT(threads); i++)
                pthread_join(threads[i], NULL);
        MUST(shm_unlink(object) == 0);
}

/* --- signals and cancellation --- */

static atomic_int handled, begun, done;
static sigjmp_buf out;
static bool leave;

static void on_signal(int number) {
        int saved = errno;

        (void) number;
        use();
        atomic_fetch_add(&handled, 1);
        errno = saved;
        if (leave)
                siglongjmp(out, 1);
}

static void *send_signals(void *argument) {
        pthread_t target = *(pthread_t *) argument;

        while (!atomic_load(&begun))
                sched_yield();
        for (int i = 0; i < 200; i++) {
                int before = atomic_load(&handled);

                pthread_kill(target, SIGUSR1);
                while (atomic_load(&handled) == before)
                        sched_yield();
        }
        atomic_store(&done, 1);
        return NULL;
}

static void call_under_signals(void) {
        static pthread_t self, thread;

        atomic_store(&done, 0);
        self = pthread_self();
        atomic_store(&begun, 0);
        if (sigsetjmp(out, 1) == 0) {
                MUST(pthread_create(&thread, NULL, send_signals, &self) == 0);
                atomic_store(&begun, 1); /* what is left by longjmp shall be our calls, not the C library's */
        }
        while (!atomic_load(&done)) {
                char name[80];

                snprintf(name, sizeof(name), "%s-%d", object, atomic_load(&handled));
                use();
                int fd = shm_open(name, O_RDWR | O_CREAT, 0600);

                MUST(fd >= 0);
                close(fd);
                MUST(shm_unlink(name) == 0 || errno == ENOENT);
        }
        pthread_join(thread, NULL);
}

static void scenario_signals(void) {
        struct sigaction action = { .sa_handler = on_signal };

        close(make(object, 4096));
        MUST(sigaction(SIGUSR1, &action, NULL) == 0);
        call_under_signals();
        MUST(umask(022) == 022);
        leave = true;
        call_under_signals();
        MUST(umask(022) == 022);
        leave = false;
        use();
        for (int i = 0; i <= 2000; i++) { /* of those that were left in the middle */
                char name[80];

                snprintf(name, sizeof(name), "%s-%d", object, i);
                shm_unlink(name);
        }
        MUST(shm_unlink(object) == 0);
}

static void *call_cancelled(void *argument) {
        atomic_int *reached = argument;
        int fd;

        pthread_cancel(pthread_self());
        fd = shm_open(object, O_RDWR, 0);
        atomic_fetch_add(reached, 1);
        shm_unlink("/posix-calls-not-there");
        atomic_fetch_add(reached, 1);
        (void) fd;
        pthread_testcancel();
        atomic_fetch_add(reached, 100);
        return NULL;
}

static void scenario_cancel(void) {
        atomic_int reached = 0;
        pthread_t thread;
        void *result;

        close(make(object, 4096));
        MUST(pthread_create(&thread, NULL, call_cancelled, &reached) == 0);
        pthread_join(thread, &result);
        MUST(result == PTHREAD_CANCELED && atomic_load(&reached) == 2);
        use();
        MUST(shm_unlink(object) == 0);
}

/* --- for the test to look at --- */

/* --- SysV --- */

static void print_sysv(int shmid) {
        struct shmid_ds ds;

        if (shmctl(shmid, IPC_STAT, &ds) < 0) { /* of a mode that does not let its owner look, unless he is root */
                printf(" not to be seen: %d", errno);
                return;
        }
        printf(" size %zu mode %o owner %d:%d attached %d", ds.shm_segsz, ds.shm_perm.mode, (int) ds.shm_perm.uid, (int) ds.shm_perm.gid,
               (int) ds.shm_nattch);
}

static void one_shmget(key_t key, size_t size, int flags) {
        int shmid;

        errno = 1234;
        shmid = shmget(key, size, flags);
        printf("size %zu flags %o: %d", size, flags, shmid < 0 ? errno : 0);
        if (shmid >= 0) {
                MUST(errno == 1234);
                print_sysv(shmid);
        }
        printf("\n");
        if (key == IPC_PRIVATE && shmid >= 0)
                MUST(shmctl(shmid, IPC_RMID, NULL) == 0);
}

/* A key that is nobody else's, as far as one can tell. */
static key_t sysv_key(void) {
        return (key_t) (0x5e000000 | (getpid() & 0x3fffff));
}

static void scenario_sysv(void) {
        static const int flags[] = { 0, 0600, IPC_CREAT | 0600, IPC_CREAT | IPC_EXCL | 0600, IPC_EXCL | 0600, IPC_CREAT, IPC_CREAT | 0777 };
        static const size_t sizes[] = { 0, 1, 4096, 5000, SIZE_MAX };
        key_t key = sysv_key();
        int shmid, status;
        char *bytes, *same;
        pid_t pid;

        for (size_t f = 0; f < COUNT(flags); f++)
                for (size_t s = 0; s < COUNT(sizes); s++) {
                        one_shmget(key, sizes[s], flags[f]); /* not there */
                        shmid = shmget(key, 0, 0);
                        if (shmid >= 0)
                                MUST(shmctl(shmid, IPC_RMID, NULL) == 0);
                        shmid = shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0640);
                        MUST(shmid >= 0);
                        one_shmget(key, sizes[s], flags[f]);
                        MUST(shmctl(shmid, IPC_RMID, NULL) == 0);
                        one_shmget(IPC_PRIVATE, sizes[s], flags[f]);
                }
        printf("bad: %d %d %d\n", error_of(shmctl(-1, IPC_RMID, NULL)),
               error_of(shmctl(0x7fffffff, IPC_STAT, NULL)), error_of(shmctl(-1, 12345, NULL)));

        shmid = shmget(key, 8192, IPC_CREAT | IPC_EXCL | 0600);
        MUST(shmid >= 0);
        bytes = shmat(shmid, NULL, 0);
        MUST(bytes != (void *) -1);
        strcpy(bytes, "hello");
        pid = fork();
        if (pid == 0) {
                same = shmat(shmget(key, 0, 0), NULL, SHM_RDONLY);
                MUST(strcmp(same, "hello") == 0);
                kill(getpid(), SIGKILL);
        }
        MUST(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
        print_sysv(shmid);
        errno = 1234;
        MUST(shmctl(shmid, IPC_RMID, NULL) == 0); /* with an attachment */
        MUST(errno == 1234);
        MUST(shmget(key, 0, 0) < 0 && errno == ENOENT);
        same = shmat(shmid, NULL, 0); /* Linux has it still */
        MUST(same != (void *) -1 && strcmp(same, "hello") == 0);
        print_sysv(shmid);
        MUST(shmdt(same) == 0 && shmdt(bytes) == 0);
        MUST(shmat(shmid, NULL, 0) == (void *) -1);
        printf(" %d\n", errno);
}

/* Whoever removes it meanwhile: it is found or made. */
static void sysv_race(key_t key, int racer) {
        for (int i = 0; i < 2000; i++) {
                int shmid = shmget(key, 4096, IPC_CREAT | 0600);

                MUST(shmid >= 0);
                if (i % 4 == racer)
                        shmctl(shmid, IPC_RMID, NULL);
        }
        exit(0);
}

static void scenario_sysv_race(void) {
        key_t key = sysv_key();
        pid_t pids[4];
        int shmid;

        for (int racer = 0; racer < (int) COUNT(pids); racer++) {
                pids[racer] = fork();
                if (pids[racer] == 0)
                        sysv_race(key, racer);
        }
        for (size_t i = 0; i < COUNT(pids); i++)
                join(pids[i]);
        shmid = shmget(key, 0, 0);
        if (shmid >= 0)
                MUST(shmctl(shmid, IPC_RMID, NULL) == 0);
}

/* Where one may have two objects. */
static void scenario_full(void) {
        key_t key = sysv_key();
        char name[80];
        int shmid, fds[2];

        for (int i = 0; i < 2; i++) {
                snprintf(name, sizeof(name), "%s-%d", object, i);
                fds[i] = make(name, 1);
        }
        MUST(shm_open(object, O_RDWR | O_CREAT, 0600) < 0 && errno == ENOSPC);
        MUST(shm_open(object, O_RDWR, 0) < 0 && errno == ENOENT);
        MUST(shmget(IPC_PRIVATE, 4096, 0600) < 0 && errno == ENOSPC);
        MUST(shmget(key, 4096, IPC_CREAT | 0600) < 0 && errno == ENOSPC);
        MUST(shmget(key, 0, 0) < 0 && errno == ENOENT); /* it was not left behind */
        shmid = (int) syscall(SYS_shmget, key, 4096, IPC_CREAT | IPC_EXCL | 0600);
        errno = 1234;
        MUST(shmid >= 0 && shmget(key, 4096, IPC_CREAT | 0600) == shmid && errno == 1234); /* what is there is there */
        MUST(shmctl(shmid, IPC_RMID, NULL) == 0);
        for (int i = 0; i < 2; i++) {
                snprintf(name, sizeof(name), "%s-%d", object, i);
                MUST(shm_unlink(name) == 0);
                close(fds[i]);
        }
}

static void scenario_sysv_leave(void) { /* makes one and leaves it behind; says its number */
        int shmid = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);

        MUST(shmid >= 0 && shmdt(shmat(shmid, NULL, 0)) == 0);
        printf("%d\n", shmid);
}

static off_t stay_bytes = 1 << 20;

static void scenario_stay(void) { /* says "made", then waits for the end of its input */
        int fd = make(object, stay_bytes);
        char *bytes = mmap(NULL, (size_t) stay_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), byte;

        MUST(bytes != MAP_FAILED);
        memset(bytes, 1, (size_t) stay_bytes);
        close(fd);
        printf("made\n");
        fflush(stdout);
        while (read(STDIN_FILENO, &byte, 1) > 0)
                ;
}

static int obey(char what) {
        char buffer[5] = "";
        int fd = -1, error = 0;

        switch (what) {
        case 'c': /* create */
        case 'x':
                fd = shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600);
                error = error_of(fd);
                break;
        case 'w':
                fd = shm_open(object, O_RDWR | O_TRUNC, 0);
                error = error_of(pwrite(fd, "word", 4, 0));
                break;
        case 'r':
                fd = shm_open(object, O_RDONLY, 0);
                error = error_of(fd);
                if (fd >= 0)
                        MUST(pread(fd, buffer, 4, 0) == 4 && strcmp(buffer, "word") == 0);
                break;
        case 'h': /* hold */
                return error_of(shm_open(object, O_RDONLY, 0)); /* as 'r' does */
        case 'u':
                error = error_of(shm_unlink(object));
        }
        if (fd >= 0)
                close(fd);
        return error;
}

static void scenario_obey(void) { /* for each letter it reads it writes what came of it */
        char letter;

        while (read(STDIN_FILENO, &letter, 1) == 1) {
                printf("%d", obey(letter));
                fflush(stdout);
        }
}

static atomic_int churning = 1;

/* Each thing has but one right outcome. */
static void *churn(void *argument) {
        char name[80];
        struct stat st;

        snprintf(name, sizeof(name), "%s-%d", object, (int) gettid());
        while (atomic_load(&churning)) {
                int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600), other;

                MUST(fd >= 0 && ftruncate(fd, 5) == 0);
                MUST(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600) < 0 && errno == EEXIST);
                other = shm_open(name, O_RDONLY, 0);
                MUST(other >= 0 && fstat(other, &st) == 0 && st.st_size == 5);
                close(other);
                other = shm_open(name, O_RDWR | O_TRUNC, 0);
                MUST(other >= 0 && fstat(fd, &st) == 0 && st.st_size == 0);
                close(other);
                close(fd);
                MUST(shm_unlink(name) == 0);
                MUST(shm_unlink(name) < 0 && errno == ENOENT);
                (*(atomic_int *) argument)++;
        }
        return NULL;
}

static void scenario_churn(void) { /* for each letter it reads: once each thread has gone round, says so */
        static pthread_t threads[6];
        static atomic_int rounds[COUNT(threads)];
        char letter;

        for (size_t i = 0; i < COUNT(threads); i++)
                MUST(pthread_create(&threads[i], NULL, churn, &rounds[i]) == 0);
        while (read(STDIN_FILENO, &letter, 1) == 1) {
                for (size_t i = 0; i < COUNT(threads); i++)
                        for (int before = atomic_load(&rounds[i]); atomic_load(&rounds[i]) == before;)
                                sched_yield();
                printf("0");
                fflush(stdout);
        }
        atomic_store(&churning, 0);
        for (size_t i = 0; i < COUNT(threads); i++)
                pthread_join(threads[i], NULL);
}

static void scenario_use(void) {
        use();
}

static void scenario_unlink(void) {
        MUST(shm_unlink(object) == 0);
}

/* Beside the names of shm_open(3): files by their paths, semaphores. */
static void scenario_others(void) {
        char path[80];
        sem_t *semaphore;
        int fd;

        snprintf(path, sizeof(path), "/dev/shm%s-file", object);
        fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
        MUST(fd >= 0 && write(fd, "x", 1) == 1 && access(path, R_OK) == 0 && unlink(path) == 0);
        semaphore = sem_open(object, O_CREAT | O_EXCL, 0600, 1);
        MUST(semaphore != SEM_FAILED && sem_trywait(semaphore) == 0 && sem_post(semaphore) == 0);
        MUST(sem_close(semaphore) == 0 && sem_unlink(object) == 0);
        close(make(object, 1));
        MUST(shm_unlink(object) == 0);
}

static const struct {
        const char *name;
        void (*run)(void);
} scenarios[] = {
        { "flags", scenario_flags },
        { "flags-threaded", scenario_flags_threaded },
        { "names", scenario_names },
        { "names-differ", scenario_names_differ },
        { "data", scenario_data },
        { "identity", scenario_identity },
        { "rights", scenario_rights },
        { "user-namespace", scenario_user_namespace },
        { "limit", scenario_limit },
        { "lowest", scenario_lowest },
        { "undecided", scenario_undecided },
        { "close-all", scenario_close_all },
        { "processes", scenario_processes },
        { "fds", scenario_fds },
        { "fork-inside", scenario_fork_inside },
        { "race", scenario_race },
        { "threads", scenario_threads },
        { "signals", scenario_signals },
        { "cancel", scenario_cancel },
        { "sysv", scenario_sysv },
        { "sysv-race", scenario_sysv_race },
        { "full", scenario_full },
        { "sysv-leave", scenario_sysv_leave },
        { "stay", scenario_stay },
        { "obey", scenario_obey },
        { "churn", scenario_churn },
        { "use", scenario_use },
        { "unlink", scenario_unlink },
        { "others", scenario_others },
};

int main(int argc, char **argv) {
        if (argc < 2)
                return 2;
        umask(022);
        if (argc > 2)
                snprintf(object, sizeof(object), "%s", argv[2]);
        else
                snprintf(object, sizeof(object), "/posix-calls-%d", (int) getpid());
        if (argc > 3)
                stay_bytes = (off_t) strtoll(argv[3], NULL, 10);
        for (size_t i = 0; i < COUNT(scenarios); i++)
                if (strcmp(scenarios[i].name, argv[1]) == 0) {
                        scenarios[i].run();
                        return 0;
                }
        return 2;
}
