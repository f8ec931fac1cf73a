/* SPDX-License-Identifier: MIT */
/*
 * Taking a running daemon's place: asks it, over its own socket, for all that it has. Owns nothing.
 */
#pragma once

#include "handover.h"

/*
 * Takes over from the daemon at that path, which has ended its work when this returns; its socket and its lock come along.
 * 0; -ENOENT, -ECONNREFUSED: there is none; another -errno, told on the log.
 */
int replace_daemon(const char *socket_path, struct handover *handover);
