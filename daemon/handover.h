/* SPDX-License-Identifier: MIT */
/*
 * What passes between the daemon and the service manager: sockets in, readiness out.
 * The only place, with the log, that knows libsystemd.
 */
#pragma once

/*
 * The listening socket that the service manager passed, taken out of the environment. *ret_fd is -1 if it passed none.
 * 0, or -EINVAL if what it passed is no listening SOCK_SEQPACKET Unix socket.
 */
int handover_take_socket(int *ret_fd);

void handover_ready(const char *socket_path);
void handover_reloading(void);
void handover_stopping(void);
