/* SPDX-License-Identifier: MIT */
/*
 * Requests for many. OPEN_MANY is answered in one go where the descriptions are there already; else it is, like CREATE_MANY,
 * worked on a few items at each turn of the loop, as opening or making two hundred segments takes longer than
 * other clients should wait. Each item
 * succeeds or fails by itself.
 */
#pragma once

struct batch;

/* Ends one that is under way; what it made is its client's already. NULL does nothing. */
void batch_free(struct batch *batch);
