/* SPDX-License-Identifier: MIT */
/*
 * What concerns the process as a whole: noticing a fork, and the umask.
 *
 * Owns the page that a fork wipes and the list of connections. The list is changed
 * under its lock only, which fork(2) waits for, so that a child finds it whole. A child
 * that was made without fork handlers (clone(2), _Fork(3)) does not close its parent's
 * sockets at once, but at first use.
 */
#include "internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct process_page *process_page;

static atomic_uint last_epoch;
static pthread_mutex_t connections_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, shmd) connections = LIST_HEAD_INITIALIZER(connections);

static void before_fork(void) {
        (void) pthread_mutex_lock(&connections_lock);
}

static void after_fork_in_parent(void) {
        (void) pthread_mutex_unlock(&connections_lock);
}

static void after_fork_in_child(void) {
        struct shmd *connection;

        LIST_FOREACH(connection, &connections, process_entry)
                close_fd(TAKE_FD(connection->socket_fd));
        (void) pthread_mutex_unlock(&connections_lock);
        /* The kernel has done so already, unless it is too old. */
        memset((void *) process_page, 0, sizeof(*process_page));
}

static void process_init_once(void) {
        void *page = mmap(NULL, sizeof(*process_page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (page == MAP_FAILED)
                return;
        (void) madvise(page, sizeof(*process_page), MADV_WIPEONFORK);
        process_page = page;
        if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0) {
                (void) munmap(page, sizeof(*process_page));
                process_page = NULL;
        }
}

int process_init(void) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        (void) pthread_once(&once, process_init_once);
        return process_page ? 0 : -ENOMEM;
}

unsigned process_epoch_new(void) {
        unsigned none = 0, epoch = atomic_fetch_add(&last_epoch, 1) + 1;

        /* Another thread may have been faster: there is one epoch for all. */
        return atomic_compare_exchange_strong(&process_page->epoch, &none, epoch) ? epoch : none;
}

void process_register(struct shmd *connection) {
        (void) pthread_mutex_lock(&connections_lock);
        LIST_INSERT_HEAD(&connections, connection, process_entry);
        (void) pthread_mutex_unlock(&connections_lock);
}

void process_unregister(struct shmd *connection) {
        (void) pthread_mutex_lock(&connections_lock);
        LIST_REMOVE(connection, process_entry);
        (void) pthread_mutex_unlock(&connections_lock);
}

/* Field 22 of stat; the command, in parentheses, may have anything in it. */
uint64_t process_keeper(void) {
        char text[1024], *p;
        unsigned long long started = 0;

        /* Not by its number: /proc may be of another namespace. */
        if (file_read_start(AT_FDCWD, "/proc/self/stat", text, sizeof(text)) < 0)
                return 0;
        p = strrchr(text, ')');
        for (int field = 2; p && field < 22; field++)
                p = strchr(p + 1, ' ');
        if (p)
                started = strtoull(p, NULL, 10);
        return (uint64_t) started << 22 | (uint64_t) getpid();
}

/*
 * umask(2) tells the umask only by changing it, which other threads would see. The kernel writes it in the
 * second line of status; in the first, the thread's name, newlines are escaped. Where that can't be read
 * (no /proc, or a kernel before 4.7), the safe thing is to give nothing to group and others.
 */
static mode_t umask_from_proc(void) {
        static const char word[] = "\nUmask:\t";
        char status[256];
        const char *line;

        if (file_read_start(AT_FDCWD, "/proc/thread-self/status", status, sizeof(status)) < 0)
                return 077;
        line = strstr(status, word);
        return line ? (mode_t) strtoul(line + sizeof(word) - 1, NULL, 8) & 0777 : 077;
}

/*
 * Without other threads, to ask by changing it is harmless, and a hundred times faster: if no signal handler comes in
 * between, which would see the other one, and might never return.
 */
mode_t process_umask(void) {
        sigset_t all, before;
        mode_t mask;

        if (!SINGLE_THREADED)
                return umask_from_proc();
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before);
        mask = umask(077);
        (void) umask(mask);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        return mask;
}

uint64_t process_ipc_namespace(void) {
        struct stat st;

        return stat("/proc/self/ns/ipc", &st) == 0 ? st.st_ino : 0;
}
