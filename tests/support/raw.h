/* SPDX-License-Identifier: MIT */
/*
 * A client without the library: whatever bytes and descriptors it is told to send, over
 * a socket of its own. Used by the harness itself, and to be hostile. Statuses are enum shmd_status (status.h,
 * which does not go together with shmd.h).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "operation.h"
#include "protocol.h"
#include "wire.h"

struct raw {
        int fd;
        uint32_t serial; /* of the last request */
};
#define RAW_INIT { .fd = -EBADF, .serial = 0 }

struct raw_reply {
        size_t size; /* of the whole message; 0: the daemon has closed the connection */
        struct wire_fds fds;
        union {
                struct shmd_wire_header header;
                uint64_t align;
                unsigned char bytes[SHMD_MESSAGE_MAX];
        };
};

/* Closes the descriptors that came with a reply. */
void raw_reply_done(struct raw_reply *reply);
/* What follows the header. */
const void *raw_reply_body(const struct raw_reply *reply);
#define RAW_BODY(reply, structure) ((const struct shmd_wire_##structure *) raw_reply_body(reply))

/* Connects, without a HELLO; or with one, which must succeed. */
void raw_open(struct raw *raw, const char *socket_path);
void raw_connect(struct raw *raw, const char *socket_path);
void raw_close(struct raw *raw);

/* Sends one datagram as it is. 0 or -errno. */
int raw_send(struct raw *raw, const void *bytes, size_t size, const int *fds, unsigned fds_count);

/* Sends a well-formed request: the operation's structure as its table row says, and a tail. 0 or -errno. */
int raw_request(struct raw *raw, enum shmd_operation operation, const void *body, const void *tail, size_t tail_size,
                const int *fds, unsigned fds_count);

/* Waits for one message, or for the end of the connection. */
void raw_receive(struct raw *raw, struct raw_reply *reply);

/*
 * A request and its reply, which must come and belong to it. Gives the status; a reply that
 * succeeds has its operation's structure, one that fails a refusal: both are checked.
 */
unsigned raw_call(struct raw *raw, enum shmd_operation operation, const void *body, const void *tail,
                  size_t tail_size, struct raw_reply *reply);

/* The daemon must answer that it is well. */
void raw_status(struct raw *raw, struct shmd_wire_status_reply *ret_status);

/* Operations as the library would do them. Descriptors (ret_fd may be NULL) belong to the caller. */
unsigned raw_create(struct raw *raw, const char *name, uint64_t size, enum wire_lifetime lifetime,
                    struct shmd_wire_opened *ret_opened, int *ret_fd);
unsigned raw_open_name(struct raw *raw, const char *name, uint32_t flags, struct shmd_wire_opened *ret_opened,
                       int *ret_fd);
unsigned raw_resume(struct raw *raw, uint64_t id, enum shmd_access access, int fd);
unsigned raw_unlink(struct raw *raw, const char *name);
unsigned raw_unlink_id(struct raw *raw, uint64_t id);
unsigned raw_stat_id(struct raw *raw, uint64_t id, struct shmd_wire_segment *ret_segment);
void raw_release(struct raw *raw, uint64_t id, enum shmd_access access);
/* The first page of a list; its entries as STAT gives them, how many in *ret_count. */
void raw_list_ids(struct raw *raw, uint64_t *ids, size_t *count);
