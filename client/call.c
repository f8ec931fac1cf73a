/* SPDX-License-Identifier: MIT */
/*
 * One request under way: sent, in the queue, answered.
 *
 * The daemon answers in order, so that the reply that comes belongs to the call at the head of the queue, or the
 * peer is no shmd. Every reply is checked here against its operation's row; what the structures
 * say is for those who read them. A call is in the queue exactly until it is completed.
 *
 * The daemon is not trusted: whatever it sends ends in a checked reply or in -EPROTO.
 */
#include "internal.h"

#include <string.h>

static bool error_means_lost(int error) {
        return error == -EPIPE || error == -ECONNRESET || error == -ENOTCONN || error == -ECONNREFUSED;
}

static uint32_t next_serial(struct shmd *connection) {
        if (++connection->serial == 0) /* zero is for events */
                connection->serial = 1;
        return connection->serial;
}

static int send_request(struct shmd *connection, const struct operation *operation, uint32_t serial,
                        const struct request *request) {
        const struct shmd_wire_header header = { .operation = operation->number, .serial = serial };
        int r;

        r = wire_send(connection->socket_fd, &header, request->body, operation->request_size, request->tail,
                      request->tail_size, request->fds, operation->fds_in, 0);
        if (r >= 0)
                return 0;
        if (!error_means_lost(r))
                return failure_errno(&connection->failure, r);
        connection_lose(connection, -ECONNRESET);
        return -EPIPE;
}

int call_send(struct shmd *connection, const struct request *request) {
        return send_request(connection, operation_find(request->operation), next_serial(connection), request);
}

/* Not inlined: the compiler would take a call on its waiting maker's stack for one that dangles. */
__attribute__((__noinline__))
int call_submit(struct shmd *connection, struct call *call, const struct request *request) {
        int r;

        call->operation = operation_find(request->operation);
        call->serial = next_serial(connection);
        r = send_request(connection, call->operation, call->serial, request);
        if (r < 0)
                return r;

        TAILQ_INSERT_TAIL(&connection->calls, call, entry);
        return 0;
}

static bool refusal_is_valid(const struct reply *reply) {
        struct shmd_wire_refusal refusal;

        memcpy(&refusal, reply->body, sizeof(refusal));
        return refusal.padding == 0 && reply->tail_size == 0 && reply->fds->count == 0;
}

/* Whether these bytes are an answer to that call. */
static bool message_parse(struct shmd *connection, const struct call *call, size_t size, struct reply *ret_reply) {
        const uint8_t *bytes = (const uint8_t *) connection->buffer;
        struct shmd_wire_header header;
        size_t body_size;

        if (size < sizeof(header))
                return false;
        memcpy(&header, bytes, sizeof(header));
        if (header.serial != call->serial || header.operation != call->operation->number)
                return false;

        body_size = header.status == SHMD_OK ? call->operation->reply_size : sizeof(struct shmd_wire_refusal);
        if (size < sizeof(header) + body_size)
                return false;

        *ret_reply = (struct reply) {
                .status = header.status,
                .body = bytes + sizeof(header),
                .tail = bytes + sizeof(header) + body_size,
                .tail_size = size - sizeof(header) - body_size,
                .fds = &connection->fds,
        };
        if (header.status != SHMD_OK)
                return refusal_is_valid(ret_reply);
        return connection->fds.count <= call->operation->fds_out;
}

/*
 * Receives into the buffer. Descriptors are lost (-EBADMSG) when this process may have no more of them. The
 * message is still needed then, to know what the daemon counts as ours: wire_receive() doesn't say how long it
 * was, but its start is known to have been zero before, and a reply with descriptors is no longer than its structure.
 */
static ssize_t receive_bytes(struct shmd *connection, const struct call *call, bool *ret_fds_lost) {
        size_t least = sizeof(struct shmd_wire_header) + call->operation->reply_size;
        ssize_t n;

        wire_fds_done(&connection->fds);
        memset(connection->buffer, 0, least);
        n = wire_receive(connection->socket_fd, connection->buffer, sizeof(connection->buffer), &connection->fds, 0);
        *ret_fds_lost = n == -EBADMSG && call->operation->fds_out > 0;
        return *ret_fds_lost ? (ssize_t) least : n;
}

static void call_complete(struct shmd *connection, struct call *call, const struct reply *reply) {
        TAILQ_REMOVE(&connection->calls, call, entry);
        call->complete(call, 0, reply);
}

int call_receive(struct shmd *connection) {
        struct call *call = TAILQ_FIRST(&connection->calls);
        struct reply reply;
        bool fds_lost;
        ssize_t n;

        n = receive_bytes(connection, call, &fds_lost);
        if (n == 0 || error_means_lost((int) n)) {
                connection_lose(connection, -ECONNRESET);
                return -ECONNRESET;
        }
        if (n < 0 || !message_parse(connection, call, (size_t) n, &reply))
                return connection_break(connection);

        reply.fds_lost = fds_lost;
        call_complete(connection, call, &reply);
        return 0;
}

/* A call whose maker waits for it. */
struct waiting_call {
        struct call call;
        bool done;
        int result;
        struct reply reply;
};

static void waiting_call_complete(struct call *call, int result, const struct reply *reply) {
        struct waiting_call *waiting = (struct waiting_call *) call; /* its first member */

        waiting->done = true;
        waiting->result = result;
        if (reply)
                waiting->reply = *reply;
}

int call_perform(struct shmd *connection, const struct request *request, struct reply *ret_reply) {
        struct waiting_call waiting = { .call.complete = waiting_call_complete };
        int r;

        r = call_submit(connection, &waiting.call, request);
        if (r < 0)
                return r;
        while (!waiting.done)
                (void) call_receive(connection); /* an error completes the call, too */
        if (waiting.result < 0)
                return waiting.result;

        *ret_reply = waiting.reply;
        return 0;
}

int reply_read(struct shmd *connection, const struct reply *reply, void *ret_body, size_t size) {
        if (reply->tail_size > 0)
                return connection_break(connection);
        memcpy(ret_body, reply->body, size);
        return 0;
}

int reply_refused(struct shmd *connection, const struct reply *reply) {
        struct shmd_wire_refusal refusal;

        memcpy(&refusal, reply->body, sizeof(refusal));
        return failure_refused(&connection->failure, reply->status, &refusal);
}
