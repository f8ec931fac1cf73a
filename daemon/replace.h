/* SPDX-License-Identifier: MIT */
/*
 * Taking a running daemon's place: asks it, over its own socket, for all that it has. Owns nothing.
 */
#pragma once

#include "handover.h"

/*
 * Has the daemon at that path hand over everything, its socket and its lock too. It does nothing more when this returns, but waits for
 * replace_confirm(); if the connection ends without it, it goes on. 0; -ENOENT, -ECONNREFUSED: there is none; another -errno, told on the
 * log.
 */
int replace_daemon(const char *socket_path, struct handover *handover);

/* Tells it that all is taken over, so that it ends. 0, or -ETIMEDOUT: it has gone on, and has everything. */
int replace_confirm(struct handover *handover);
