/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

struct daemon;

/*
 * After HANDOVER: waits until the daemon that asked says that it has everything. False: it has not, and never will. Then
 * nothing has happened, and the loop is to be run again.
 */
bool op_handover_is_taken(struct daemon *daemon);
