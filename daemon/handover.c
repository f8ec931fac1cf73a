/* SPDX-License-Identifier: MIT */
#include "handover.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include "log.h"
#include "notify_socket.h"
#include "util.h"

/* --- in --- */

static int kept_add(struct kept_list *list, uint64_t number, int fd) {
        struct kept_fd *item = reallocarray(list->item, list->count + 1, sizeof(*item));

        if (!item)
                return -ENOMEM;
        list->item = item;
        list->item[list->count++] = (struct kept_fd) { .fd = fd, .number = number };
        return 0;
}

int handover_add(struct handover *handover, const char *name, int fd) {
        _cleanup_close_ int taken = fd;
        uint64_t number;
        int r;

        if (strcmp(name, "generation") == 0 && handover->generation_fd < 0) {
                handover->generation_fd = TAKE_FD(taken);
                return 0;
        }
        if (sscanf(name, "state-%" SCNu64, &number) == 1)
                r = kept_add(&handover->states, number, taken);
        else if (sscanf(name, "carrier-%" SCNu64, &number) == 1)
                r = kept_add(&handover->carriers, number, taken);
        else {
                log_warning("leaving a descriptor alone that is called %s: it is not known what for", name);
                return 0;
        }
        if (r == 0)
                (void) TAKE_FD(taken);
        return r;
}

static bool is_ours(int fd) {
        return sd_is_socket_unix(fd, SOCK_SEQPACKET, 1, NULL, 0) > 0;
}

/* What comes from a socket unit, or without any name. */
static bool name_is_of_socket(const char *name) {
        size_t size = strlen(name);

        return strcmp(name, "unknown") == 0 || (size > 7 && strcmp(name + size - 7, ".socket") == 0);
}

static int take_one(struct handover *handover, const char *name, int fd) {
        if (handover->listen_fd < 0 && is_ours(fd)) {
                handover->listen_fd = fd;
                return 0;
        }
        if (!name_is_of_socket(name))
                return handover_add(handover, name, fd);
        log_error("the service manager passed a descriptor that is no listening SOCK_SEQPACKET Unix socket");
        return -EINVAL;
}

int handover_take(struct handover *handover) {
        char **names = NULL;
        int n = sd_listen_fds_with_names(1, &names), r = 0;

        if (n < 0) {
                log_error("cannot take the descriptors of the service manager: %s", strerror(-n));
                return n;
        }
        for (int i = 0; r == 0 && i < n; i++)
                r = take_one(handover, names[i], SD_LISTEN_FDS_START + i);
        for (int i = 0; names && names[i]; i++)
                free(names[i]);
        free(names);
        return r;
}

static void kept_done(struct kept_list *list) {
        for (unsigned i = 0; i < list->count; i++)
                close_fd(list->item[i].fd);
        free(list->item);
        *list = (struct kept_list) { 0 };
}

void handover_done(struct handover *handover) {
        kept_done(&handover->states);
        kept_done(&handover->carriers);
        close_fd(handover->listen_fd);
        close_fd(handover->lock_fd);
        close_fd(handover->generation_fd);
        close_fd(handover->replaced_fd);
        *handover = (struct handover) HANDOVER_INIT;
}

/* --- out --- */

bool handover_is_possible(void) {
        const char *path = getenv("NOTIFY_SOCKET");

        return path && path[0] != '\0';
}

/*
 * $INVOCATION_ID: it is systemd; $FDSTORE: of a version that can keep it (systemd.exec(5)). Whether it does is a matter of the unit, which
 * tells.
 */
bool handover_outlives_end(void) {
        return !getenv("INVOCATION_ID") || (getenv("FDSTORE") && getenv("SHMD_STORE_PRESERVED"));
}

static int no_manager(int r) {
        return r > 0 ? 0 : r == 0 ? -ENOTCONN : r;
}

struct keep_message {
        char text[128];
};

/* FDPOLL=0: the manager is not to look after it; it would drop a pair whose other end has gone. */
static struct keep_message keep_message(const char *name) {
        struct keep_message message;

        (void) snprintf(message.text, sizeof(message.text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
        return message;
}

int handover_keep(const char *name, int fd) {
        return no_manager(sd_pid_notify_with_fds(0, 0, keep_message(name).text, &fd, 1));
}

int handover_try_to_keep(const char *name, int fd) {
        struct notify_socket notify_socket;
        int r;

        notify_socket_open(&notify_socket);
        r = notify_socket_send(&notify_socket, keep_message(name).text, fd);
        notify_socket_close(&notify_socket);
        return r;
}

int handover_unkeep(const char *name) {
        return no_manager(sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name));
}

int handover_wait(uint64_t timeout_usec) {
        return no_manager(sd_notify_barrier(0, timeout_usec));
}
