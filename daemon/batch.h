/* SPDX-License-Identifier: MIT */
/*
 * Requests for many: OPEN_MANY, answered in one go, and CREATE_MANY, which is worked on a few items
 * at each turn of the loop, as making two hundred segments takes longer than other clients should wait. Each item
 * succeeds or fails by itself.
 */
#pragma once

struct batch;

/* Ends one that is under way; what it made is its client's already. NULL does nothing. */
void batch_free(struct batch *batch);
