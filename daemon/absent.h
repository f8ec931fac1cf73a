/* SPDX-License-Identifier: MIT */
/*
 * Clients that were connected to an earlier daemon, have made segments, and have not come back yet.
 *
 * Each stands in for its client as the creator of these segments, until that connects and says the token of its former
 * connection, or until its process has ended: the kernel tells (pidfd_open(2)). So what goes with its creator does so, however
 * long the creator has nothing to say. A process that only closed its connection meanwhile counts as its creator until it ends.
 *
 * Also remembers what was done last for each of them: a client that had no answer asks again.
 */
#pragma once

#include <event2/event.h>

#include "registry.h"
#include "tree.h"

struct daemon;

struct absent {
        RB_ENTRY(absent) by_token;
        TAILQ_ENTRY(absent) entry; /* of the dead, while they are reaped; or of the unwatched */
        struct daemon *daemon;
        struct client client;
        struct credentials credentials;
        uint64_t token;
        uint64_t started; /* of its process: clock ticks since boot */
        uint32_t serial;  /* of the last request of which something was recorded */
        uint64_t age;     /* how many daemons ago that was */
        int pidfd;
        struct event *event;
        bool unwatched; /* its end matters, but there was no descriptor or memory to wait for it */
        struct charge charge; /* of a keeper: for the descriptor */
        bool keeps; /* a process that keeps what others make: shmd_wire_create */
};

RB_HEAD(absent_tree, absent);
TAILQ_HEAD(absent_list, absent);

struct absents {
        struct daemon *daemon;
        struct absent_tree tree;
        struct absent_list dead;
        struct absent_list unwatched; /* tried again by and by */
};

void absents_init(struct absents *absents, struct daemon *daemon);
void absents_done(struct absents *absents);

/* The one of that user with that token, made if need be; NULL for lack of memory. */
struct absent *absent_get(struct absents *absents, uint64_t token, uid_t uid);

/*
 * What was done last for somebody is known for so many daemons more: the library does not repeat a request as often, and
 * nobody knows of those who never come back.
 */
#define ABSENT_AGE_MAX 16u

/* A process as a keeper's token names it. */
#define KEEPER_PID_BITS 22
static inline pid_t keeper_pid(uint64_t token) {
        return (pid_t) (token & ((1u << KEEPER_PID_BITS) - 1));
}
static inline uint64_t keeper_started(uint64_t token) {
        return token >> KEEPER_PID_BITS;
}

/*
 * Who stands for the creator until that process ends; NULL if it can't be: it is not there, not the client's user's own, or there is no
 * room. A client in another namespace of processes has other numbers: then the keeper is looked for among it and its parents, and the
 * token is made that of our namespace.
 */
struct client *absent_keeper(struct absents *absents, uint64_t *token, const struct credentials *credentials);

/* All have been found: looks after the processes of those whose end matters. */
void absents_watch(struct absents *absents);

/* The one after another, or the first after NULL. */
struct absent *absent_next(struct absents *absents, struct absent *after);

/*
 * Something is to end with its creator: if that is absent, its process is looked after from now on. 0; SHMD_CREATOR_GONE; -errno if
 * it can't be.
 */
int absents_expect(struct absents *absents, const struct segment *segment);

/* A client has come back: what it made is its own again. Gives the serial of what was done last for it, or zero. */
uint32_t absent_return(struct absents *absents, uint64_t token, struct client *client);

/* Nobody's end is waited for. */
bool absents_are_quiet(struct absents *absents);

/* Ends what dead ones leave, at most budget of it. True if there is more. */
bool absents_reap(struct absents *absents, unsigned budget);
