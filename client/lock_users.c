/* SPDX-License-Identifier: MIT */
/*
 * Who holds a segment's lock and who waits for it, read from the control memory of the segment, for people to see.
 *
 * Reads copies, by pread(2), of files that it can only read. What stands there is what the holders wrote: it is shown only if there is such
 * a thread, and said of it whether its process has that memory at all.
 */
#include "sync.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* -1: the segment has none yet. */
static int call_look(struct shmd *connection, uint64_t id, enum shmd_wire_control_part part, uint64_t size, int *ret_fd) {
        const struct shmd_wire_control control = { .id = id, .part = part, .flags = SHMD_WIRE_CONTROL_LOOK };
        const struct request request = { .operation = SHMD_OP_CONTROL, .body = &control };
        struct shmd_wire_control_reply answer;
        struct reply reply;
        int r;

        r = connection_call(connection, &request, &reply);
        if (r < 0)
                return r;
        r = reply_read(connection, &reply, &answer, sizeof(answer));
        if (r < 0)
                return r;
        if (reply.fds_lost)
                return failure_errno(&connection->failure, -EMFILE);
        if (answer.size != 0 && (answer.layout != SHMD_CONTROL_LAYOUT || answer.size != size))
                return failure_words(&connection->failure, -EOPNOTSUPP, "the daemon's locks are of another kind");
        if (reply.fds->count != (answer.size != 0))
                return connection_break(connection);
        *ret_fd = answer.size != 0 ? TAKE_FD(reply.fds->fd[0]) : -EBADF;
        return 0;
}

struct look {
        int fd; /* of the file that is being read */
        uint64_t device, inode;
        shmd_lock_function function;
        void *userdata;
};

static uint32_t read_word(int fd, uint64_t offset) {
        uint32_t word = 0;

        return pread(fd, &word, sizeof(word), (off_t) offset) == sizeof(word) ? word : 0;
}

/* "Tgid:" of a thread. 0: there is none to be seen. */
static uint32_t process_of(uint32_t tid) {
        static const char word[] = "\nTgid:\t";
        char path[32], status[1024];
        const char *line;

        (void) snprintf(path, sizeof(path), "/proc/%" PRIu32 "/status", tid);
        if (file_read_start(AT_FDCWD, path, status, sizeof(status)) < 0)
                return 0;
        line = strstr(status, word);
        return line ? (uint32_t) strtoul(line + sizeof(word) - 1, NULL, 10) : 0;
}

static void describe(const struct look *look, struct shmd_lock_user *user) {
        char path[32];
        ssize_t n;

        (void) snprintf(path, sizeof(path), "/proc/%" PRIu32 "/comm", user->pid);
        n = file_read_start(AT_FDCWD, path, user->command, sizeof(user->command));
        user->command[n > 0 ? strcspn(user->command, "\n") : 0] = '\0';
        user->confirmed = process_maps(user->pid, look->device, look->inode);
}

/* One who waits and is not there has died; one who holds it may be of another namespace. */
static int tell(const struct look *look, uint32_t tid, bool shared, enum shmd_lock_waiting waiting) {
        struct shmd_lock_user user = { .tid = tid, .shared = shared, .waiting = waiting };

        if (tid == 0)
                return 0;
        user.pid = process_of(tid);
        if (user.pid == 0 && waiting != SHMD_LOCK_HELD)
                return 0;
        if (user.pid != 0)
                describe(look, &user);
        return look->function(&user, look->userdata);
}

static int tell_meeting(const struct look *look, size_t page_size) {
        struct meeting_page page;
        unsigned used;
        int r = 0;

        if (pread(look->fd, &page, sizeof(page), 0) != sizeof(page))
                return 0;
        used = MIN(page.slots_used, SLOTS);
        for (unsigned i = 0; i < used && r == 0; i++)
                r = tell(look, read_word(look->fd, (i + 3) * (uint64_t) page_size - WORD_FROM_END) & WORD_TID, true, SHMD_LOCK_HELD);
        for (unsigned i = 0; i < WAITERS_MAX && r == 0; i++)
                r = tell(look, page.waiters[i].tid & WORD_TID, page.waiters[i].kind & WAITER_SHARED,
                         page.waiters[i].kind & WAITER_CONDITION ? SHMD_LOCK_CONDITION : SHMD_LOCK_AWAITED);
        return r;
}

static uint32_t public_state(uint32_t word, uint32_t state) {
        if (state == LOCK_GIVEN_UP)
                return SHMD_LOCK_GIVEN_UP;
        return state == LOCK_DIRTY || (word & WORD_OWNER_DIED) ? SHMD_LOCK_OWNER_DIED : SHMD_LOCK_CONSISTENT;
}

static bool look_at(struct look *look, int fd) {
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return false;
        look->fd = fd;
        look->device = st.st_dev;
        look->inode = st.st_ino;
        return true;
}

_public_ int shmd_lock_users(struct shmd *connection, uint64_t id, shmd_lock_function function, void *userdata, uint32_t *ret_state) {
        size_t page_size = (size_t) sysconf(_SC_PAGESIZE);
        _cleanup_close_ int lock_fd = -EBADF, meeting_fd = -EBADF;
        struct look look = { .function = function, .userdata = userdata };
        uint32_t state = SHMD_LOCK_UNUSED, word;
        int r;

        r = call_look(connection, id, SHMD_WIRE_CONTROL_LOCK, SHMD_CONTROL_LOCK_PAGES * page_size, &lock_fd);
        if (r == 0)
                r = call_look(connection, id, SHMD_WIRE_CONTROL_MEETING, SHMD_CONTROL_MEETING_PAGES * page_size, &meeting_fd);
        if (r < 0)
                return r;
        if (look_at(&look, lock_fd)) {
                word = read_word(lock_fd, page_size - WORD_FROM_END);
                state = public_state(word, read_word(lock_fd, page_size - STATE_FROM_END));
                r = tell(&look, word & WORD_TID, false, SHMD_LOCK_HELD);
        }
        if (r == 0 && look_at(&look, meeting_fd))
                r = tell_meeting(&look, page_size);
        if (r == 0 && ret_state)
                *ret_state = state;
        return r;
}
