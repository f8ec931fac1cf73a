/* SPDX-License-Identifier: MIT */
/*
 * Gives memory back that a carrier still refers to: the pages of a freed segment are punched out, the descriptor stays where it is.
 * Owns nothing. Nobody but the carrier may have the segment, and its record must be gone already: it may not be found without
 * its contents.
 */
#pragma once

struct daemon;
struct segment;

/* At once, or by the worker, which tells the carrier if it fails. 0; or -errno: the memory stays as long as the carrier does. */
int emptying_start(struct daemon *daemon, const struct segment *segment);
