/* SPDX-License-Identifier: MIT */
#include "control.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "session.h"
#include "status.h"
#include "util.h"

/* --- memory --- */

uint64_t control_size(enum shmd_wire_control_part part) {
        uint64_t pages = part == SHMD_WIRE_CONTROL_LOCK ? SHMD_CONTROL_LOCK_PAGES : SHMD_CONTROL_MEETING_PAGES;

        return pages * (uint64_t) sysconf(_SC_PAGESIZE);
}

int control_make(struct memfd *memfd, struct segment *segment, enum shmd_wire_control_part part,
                 struct shmd_wire_refusal *refusal) {
        static const char *const names[] = { "shmd-control:lock", "shmd-control:meeting" };
        uint64_t size = control_size(part);
        int r;

        if (segment->custody.control_fd[part] >= 0)
                return 0;
        r = registry_charge_control(segment, part, size, refusal);
        if (r != 0)
                return r;
        do
                r = memfd_create_sealed(memfd, names[part], size, &segment->custody.control_fd[part]);
        while ((r == -EMFILE || r == -ENFILE) && memfd_shrink(memfd));
        if (r < 0)
                registry_refund_control(segment, part);
        else
                segment->control_made |= (uint8_t) (1u << part);
        return r;
}

void control_unmake(struct segment *segment, enum shmd_wire_control_part part) {
        segment->custody.control_fd[part] = close_fd(segment->custody.control_fd[part]);
        segment->control_made &= (uint8_t) ~(1u << part);
        registry_refund_control(segment, part);
}

int control_restore(struct segment *segment, enum shmd_wire_control_part part, int fd) {
        segment->custody.control_fd[part] = fd;
        segment->control_made |= (uint8_t) (1u << part);
        return registry_force_control(segment, part, control_size(part));
}

bool control_check(struct segment *segment) {
        for (unsigned i = 0; i < SHMD_WIRE_CONTROL_PARTS; i++)
                if (segment->custody.control_fd[i] < 0)
                        segment->control_lost |= segment->control_made & (uint8_t) (1u << i);
        if (segment->control_lost == 0)
                return true;
        registry_queue_idle(segment); /* whether anybody has it still */
        return false;
}

/* --- bells --- */

const struct bell *bell_find(const struct segment *segment, uint32_t number) {
        return segment->custody.bells ? segment->custody.bells->bells[number] : NULL;
}

static void bell_free(struct bell *bell) {
        bell->segment->custody.bells->bells[bell->number] = NULL;
        LIST_REMOVE(bell, by_session);
        charge_done(&bell->charge);
        close_fd(bell->fd);
        free(bell);
}

/* Holders write to it: it must be what they take it for. Of this kind a path can't be, as that would begin with a slash. */
static bool is_eventfd(const struct memfd *memfd, int fd) {
        static const char kind[] = "anon_inode:[eventfd]";
        char number[16], target[sizeof(kind)];

        (void) snprintf(number, sizeof(number), "%d", fd);
        return readlinkat(memfd->proc_fd, number, target, sizeof(target)) == sizeof(kind) - 1 &&
               memcmp(target, kind, sizeof(kind) - 1) == 0;
}

static int bell_new(struct segment *segment, struct session *session, uint32_t number, struct shmd_wire_refusal *refusal) {
        struct bell *bell = calloc(1, sizeof(*bell));
        int r;

        if (!bell)
                return -ENOMEM;
        r = quota_charge(segment->registry->quota, session->credentials.uid, QUOTA_DESCRIPTORS, 1, &bell->charge, refusal);
        if (r != 0) {
                free(bell);
                return r;
        }
        bell->segment = segment;
        bell->session = session;
        bell->number = number;
        bell->fd = -EBADF;
        segment->custody.bells->bells[number] = bell;
        LIST_INSERT_HEAD(&session->bells, bell, by_session);
        return 0;
}

int bell_set(const struct memfd *memfd, struct segment *segment, struct session *session, uint32_t number, int *fd,
             struct shmd_wire_refusal *refusal) {
        struct bell *bell;
        int r;

        if (!is_eventfd(memfd, *fd))
                return SHMD_INVALID;
        if (!segment->custody.bells)
                segment->custody.bells = calloc(1, sizeof(*segment->custody.bells));
        if (!segment->custody.bells)
                return -ENOMEM;
        bell = segment->custody.bells->bells[number];
        if (bell && bell->session != session) {
                close_fd(TAKE_FD(*fd)); /* of an eventfd that takes no time, unlike what clients send in general */
                return SHMD_BUSY;
        }
        if (!bell) {
                r = bell_new(segment, session, number, refusal);
                if (r != 0)
                        return r;
                bell = segment->custody.bells->bells[number];
        }
        close_fd(bell->fd);
        bell->fd = TAKE_FD(*fd);
        return 0;
}

void bells_drop(struct segment *segment, const struct session *session) {
        for (uint32_t i = 0; i < SHMD_BELLS; i++) {
                const struct bell *bell = bell_find(segment, i);

                if (bell && bell->session == session)
                        bell_free(segment->custody.bells->bells[i]);
        }
}

bool bells_reap(struct bell_list *bells, unsigned budget) {
        struct bell *bell;

        for (; budget > 0 && (bell = LIST_FIRST(bells)); budget--)
                bell_free(bell);
        return LIST_EMPTY(bells);
}

/* --- both --- */

void control_close(struct segment *segment) {
        struct custody *custody = &segment->custody;

        for (unsigned i = 0; i < ELEMENTSOF(custody->control_fd); i++)
                custody->control_fd[i] = close_fd(custody->control_fd[i]);
        for (uint32_t i = 0; i < SHMD_BELLS; i++)
                if (bell_find(segment, i))
                        bell_free(custody->bells->bells[i]);
        free(TAKE_PTR(custody->bells));
}
