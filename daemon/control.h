/* SPDX-License-Identifier: MIT */
/*
 * What the holders of a segment synchronise by: the control memory beside it, and the eventfds by which they wake each other.
 *
 * Owns both. The memory is of the segment: made when it is first asked for, charged to its owner, closed with it.
 * It is in two files, as what a client can write is a matter of whole files: the lock part is writable only for who
 * holds the segment read-write, the meeting part for each holder. A bell is a holder's: an eventfd that it brought, under a number
 * that it chose, until its connection ends or it gives the segment back.
 *
 * The daemon maps none of that memory, and reads and writes none of these descriptors: whatever
 * clients do with them, it can't be misled or kept waiting.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <bsd/sys/queue.h>

#include "memfd.h"
#include "registry.h"

struct session;

struct bell {
        LIST_ENTRY(bell) by_session;
        struct segment *segment;
        struct session *session;
        struct charge charge;
        uint32_t number;
        int fd;
};

LIST_HEAD(bell_list, bell);

struct bell_table {
        struct bell *bells[SHMD_BELLS];
};

/* How large a part is. Bytes. */
uint64_t control_size(enum shmd_wire_control_part part);

/* Makes a part if it is not there. 0, SHMD_OVER_LIMIT with *refusal, or -errno. */
int control_make(struct memfd *memfd, struct segment *segment, enum shmd_wire_control_part part,
                 struct shmd_wire_refusal *refusal);

/* One that an earlier daemon made; takes the descriptor. 0 or -ENOMEM. */
int control_restore(struct segment *segment, enum shmd_wire_control_part part, int fd);
/*
 * After what there was has been restored: whether that is all that was made. What is missing is not made anew before the kernel
 * says that nobody has the segment: else those who have the former lock, and those who got the new one, would not exclude each other.
 */
bool control_check(struct segment *segment);
/* Undoes control_make(), before anybody was given it. */
void control_unmake(struct segment *segment, enum shmd_wire_control_part part);

/* Closes all of it, bells included. */
void control_close(struct segment *segment);

/*
 * Sets a session's bell, in place of one that it had under that number; takes the descriptor. 0, SHMD_BUSY: another session has that
 * number; SHMD_INVALID: it is no eventfd; SHMD_OVER_LIMIT with *refusal; -ENOMEM.
 */
int bell_set(const struct memfd *memfd, struct segment *segment, struct session *session, uint32_t number, int *fd,
             struct shmd_wire_refusal *refusal);
/* NULL: nobody has it. */
const struct bell *bell_find(const struct segment *segment, uint32_t number);

/* A session gives its bells of a segment up; or some of all that it has: true when none is left. */
void bells_drop(struct segment *segment, const struct session *session);
bool bells_reap(struct bell_list *bells, unsigned budget);
