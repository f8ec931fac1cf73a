/* SPDX-License-Identifier: MIT */
#include "handover.h"

#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "log.h"

int handover_take_socket(int *ret_fd) {
        int n = sd_listen_fds(1);

        if (n < 0) {
                log_error("cannot take the sockets of the service manager: %s", strerror(-n));
                return n;
        }
        *ret_fd = -1;
        for (int i = 0; i < n; i++) {
                int fd = SD_LISTEN_FDS_START + i;

                if (*ret_fd < 0 && sd_is_socket_unix(fd, SOCK_SEQPACKET, 1, NULL, 0) > 0)
                        *ret_fd = fd;
                else {
                        log_error("the service manager passed a descriptor that is no listening SOCK_SEQPACKET Unix socket");
                        return -EINVAL;
                }
        }
        return 0;
}

void handover_ready(const char *socket_path) {
        (void) sd_notifyf(0, "READY=1\nSTATUS=Listening on %s", socket_path);
}

/* sd_notify(3): the manager wants to know since when. */
void handover_reloading(void) {
        struct timespec now;

        (void) clock_gettime(CLOCK_MONOTONIC, &now);
        (void) sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld",
                          (long long) now.tv_sec * 1000000 + (long long) now.tv_nsec / 1000);
}

void handover_stopping(void) {
        (void) sd_notify(0, "STOPPING=1");
}
