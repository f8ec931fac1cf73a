/* SPDX-License-Identifier: MIT */
/*
 * One request under way: sent, kept, answered.
 *
 * The daemon answers in order, so that a reply belongs to the first call in the queue, or to one of those
 * that may be answered late, which are found by their serial, or the peer is no shmd. What has serial zero is an
 * event. Every reply is checked here against its operation's row; what the structures
 * say is for those who read them. A call is kept exactly until it is completed.
 *
 * The daemon stops reading from a client that does not read its answers. So nothing waits here for room to send without
 * also taking what comes; and who sends while an answer is being handled does not wait at all.
 *
 * What a daemon that has gone had answered lies in the socket still, and counts: only what had no answer is lost. That is one
 * request at most that it may have done.
 *
 * The daemon is not trusted: whatever it sends ends in a checked reply or in -EPROTO.
 */
#include "internal.h"

#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

static int call_compare(struct call *a, struct call *b) {
        return (a->serial > b->serial) - (a->serial < b->serial);
}

TREE_GENERATE(call_tree, call, by_serial, call_compare)

static bool error_means_lost(ssize_t error) {
        return error == -EPIPE || error == -ECONNRESET || error == -ENOTCONN || error == -ECONNREFUSED;
}

/* --- keeping calls --- */

static uint32_t next_serial(struct shmd *connection) {
        if (++connection->serial == 0) /* zero is for events */
                connection->serial = 1;
        return connection->serial;
}

static void call_insert(struct shmd *connection, struct call *call) {
        if (call->late)
                (void) RB_INSERT(call_tree, &connection->late_calls, call);
        else
                TAILQ_INSERT_TAIL(&connection->calls, call, entry);
}

static void call_remove(struct shmd *connection, struct call *call) {
        if (call->late)
                (void) RB_REMOVE(call_tree, &connection->late_calls, call);
        else
                TAILQ_REMOVE(&connection->calls, call, entry);
}

/* The call that an answer of that serial may belong to. */
static struct call *call_find(struct shmd *connection, uint32_t serial) {
        struct call *first = TAILQ_FIRST(&connection->calls);

        if (first && first->serial == serial)
                return first;
        return RB_FIND(call_tree, &connection->late_calls, &(struct call) { .serial = serial });
}

bool call_is_pending(const struct shmd *connection) {
        return !TAILQ_EMPTY(&connection->calls) || !RB_EMPTY(&connection->late_calls);
}

struct call *call_take_first(struct shmd *connection) {
        struct call *call = TAILQ_FIRST(&connection->calls) ?: RB_MIN(call_tree, &connection->late_calls);

        if (call)
                call_remove(connection, call);
        return call;
}

/* --- sending --- */

int call_wait(struct shmd *connection, bool also_to_send, uint64_t deadline_usec) {
        struct pollfd poll_fd = { .fd = connection->socket_fd, .events = (short) (POLLIN | (also_to_send ? POLLOUT : 0)) };
        int r;

        do {
                int timeout_msec = -1;

                if (deadline_usec != UINT64_MAX) {
                        uint64_t now = now_usec(), left = deadline_usec > now ? deadline_usec - now : 0;

                        timeout_msec = (int) MIN(left / 1000 + (left % 1000 != 0), (uint64_t) INT_MAX);
                }
                r = poll(&poll_fd, 1, timeout_msec);
                /* Out of memory, say: whatever comes of it, the next call will tell. */
                if (r > 0 || (r < 0 && errno != EINTR))
                        return 0;
        } while (now_usec() < deadline_usec);
        return -ETIMEDOUT;
}

static int send_once(struct shmd *connection, const struct operation *operation, uint32_t serial,
                     const struct request *request) {
        const struct shmd_wire_header header = {
                .operation = operation->number,
                .status = request->serial ? SHMD_WIRE_REPEATED : 0,
                .serial = serial,
        };

        return wire_send(connection->socket_fd, &header, request->body, operation->request_size, request->tail,
                         request->tail_size, request->fds, operation->fds_in, MSG_DONTWAIT);
}

/* There is no room to send. Waits for it, and takes one message that has come meanwhile. */
static int make_room(struct shmd *connection) {
        int r;

        (void) call_wait(connection, true, UINT64_MAX);
        r = call_receive(connection, MSG_DONTWAIT);
        return r == -EAGAIN ? 0 : r;
}

static int send_request(struct shmd *connection, const struct operation *operation, uint32_t serial,
                        const struct request *request, enum patience patience) {
        int r;

        r = send_once(connection, operation, serial, request);
        while (r == -EAGAIN && patience == WAIT_FOR_ROOM) {
                if (make_room(connection) < 0)
                        return -EPIPE;
                r = send_once(connection, operation, serial, request);
        }
        if (r == -EAGAIN) {
                loop_set_wants_room(connection, true);
                return failure_words(&connection->failure, r, "too many requests under way: dispatch first");
        }
        return error_means_lost(r) ? -EPIPE : r < 0 ? failure_errno(&connection->failure, r) : 0;
}

/* There is no daemon to send to any more. */
static void take_last_answers(struct shmd *connection) {
        while (connection_is_ready(connection) && call_receive(connection, MSG_DONTWAIT) == 0)
                ;
        if (connection_is_ready(connection))
                connection_lose(connection, -ECONNRESET);
}

/* While an answer is being handled, too: the others are left to whoever receives. */
int call_send(struct shmd *connection, const struct request *request) {
        int r;

        r = send_request(connection, operation_find(request->operation), next_serial(connection), request, DO_NOT_WAIT);
        if (r == -EPIPE && !call_is_pending(connection))
                connection_lose(connection, -ECONNRESET);
        return r;
}

int call_submit(struct shmd *connection, struct call *call, const struct request *request, enum patience patience) {
        int r;

        holds_tell_ended(connection);
        if (!connection_is_ready(connection))
                return -EPIPE;
        call->operation = operation_find(request->operation);
        call->serial = request->serial ?: next_serial(connection);
        call->late = request->late;
        r = send_request(connection, call->operation, call->serial, request, patience);
        if (r == 0)
                call_insert(connection, call);
        if (r == -EPIPE)
                take_last_answers(connection);
        return r;
}

/* --- receiving --- */

/* One datagram, in the connection's buffer. */
struct message {
        struct shmd_wire_header header;
        const uint8_t *bytes; /* after the header */
        size_t size;
        bool fds_lost;
};

/*
 * 0; -EAGAIN with MSG_DONTWAIT; -ECONNRESET: the daemon has gone; -EPROTO: that is no message. The connection stays
 * as it is. Descriptors are lost when this process may have no more of them.
 */
static int receive_message(struct shmd *connection, int flags, struct message *ret_message) {
        struct message message = { .bytes = (const uint8_t *) connection->buffer + sizeof(message.header) };
        ssize_t n;

        wire_fds_done(&connection->fds);
        n = wire_receive_lossy(connection->socket_fd, connection->buffer, sizeof(connection->buffer), &connection->fds,
                               flags,
                               &message.fds_lost);
        /* It had not read all that was sent: that is told once, before what it has sent. */
        if (n == -ECONNRESET)
                n = wire_receive_lossy(connection->socket_fd, connection->buffer, sizeof(connection->buffer), &connection->fds,
                                       flags, &message.fds_lost);
        if (n == -EAGAIN)
                return -EAGAIN;
        if (n == 0 || error_means_lost(n))
                return -ECONNRESET;
        if (n < (ssize_t) sizeof(message.header))
                return -EPROTO;

        memcpy(&message.header, connection->buffer, sizeof(message.header));
        message.size = (size_t) n - sizeof(message.header);
        *ret_message = message;
        return 0;
}

static bool refusal_is_valid(const struct reply *reply) {
        struct shmd_wire_refusal refusal;

        memcpy(&refusal, reply->body, sizeof(refusal));
        return refusal.padding == 0 && reply->tail_size == 0 && reply->fds->count == 0 && !reply->fds_lost;
}

/* Whether a message is an answer to that call. */
static bool message_parse(struct shmd *connection, const struct message *message, const struct call *call,
                          struct reply *ret_reply) {
        const struct operation *operation = call->operation;
        size_t body_size = message->header.status == SHMD_OK ? operation->reply_size : sizeof(struct shmd_wire_refusal);

        if (message->header.operation != operation->number || message->header.serial != call->serial ||
            message->size < body_size)
                return false;

        *ret_reply = (struct reply) {
                .status = message->header.status,
                .body = message->bytes,
                .tail = message->bytes + body_size,
                .tail_size = message->size - body_size,
                .fds = &connection->fds,
                .fds_lost = message->fds_lost,
        };
        if (message->header.status != SHMD_OK)
                return refusal_is_valid(ret_reply);
        return connection->fds.count <= operation->fds_out && (!message->fds_lost || operation->fds_out > 0);
}

static bool message_is_event(const struct message *message) {
        return message->header.serial == 0 && message->header.operation == SHMD_OP_EVENT;
}

static bool event_handle(struct shmd *connection, const struct message *message) {
        return message->header.status == SHMD_OK && connection->fds.count == 0 && !message->fds_lost &&
               watch_receive(connection, message->bytes, message->size);
}

static bool message_handle(struct shmd *connection, const struct message *message) {
        struct call *call;
        struct reply reply;

        if (message_is_event(message))
                return event_handle(connection, message);
        call = call_find(connection, message->header.serial);
        if (!call || !message_parse(connection, message, call, &reply))
                return false;
        call_remove(connection, call);
        call->complete(call, 0, &reply);
        return true;
}

int call_receive(struct shmd *connection, int flags) {
        struct message message;
        int r;

        r = receive_message(connection, flags, &message);
        if (r == -EAGAIN)
                return r;
        if (r == -ECONNRESET) {
                connection_lose(connection, r);
                return r;
        }
        return r == 0 && message_handle(connection, &message) ? 0 : connection_break(connection);
}

/* --- a call whose maker waits for it --- */

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

int call_perform(struct shmd *connection, const struct request *request, uint32_t *ret_serial, struct reply *ret_reply) {
        struct waiting_call waiting = { .call.complete = waiting_call_complete };
        int r;

        r = call_submit(connection, &waiting.call, request, WAIT_FOR_ROOM);
        if (r < 0)
                return r;
        if (ret_serial)
                *ret_serial = waiting.call.serial;
        while (!waiting.done)
                (void) call_receive(connection, 0); /* an error completes the call, too */
        if (waiting.result < 0)
                return waiting.result;

        *ret_reply = waiting.reply;
        return 0;
}

/*
 * A daemon that can't take one more client says why and goes, without having read what we send: the answer has serial
 * zero then. It lies in the socket even if sending has failed.
 */
int call_greet(struct shmd *connection, const struct shmd_wire_hello *hello, struct reply *ret_reply) {
        struct call call = { .operation = operation_find(SHMD_OP_HELLO), .serial = next_serial(connection) };
        struct message message;
        int r;

        r = send_once(connection, call.operation, call.serial, &(struct request) { .body = hello });
        if (r < 0 && !error_means_lost(r))
                return failure_errno(&connection->failure, r);
        r = receive_message(connection, 0, &message);
        if (r == -ECONNRESET) {
                connection_lose(connection, r);
                return r;
        }
        if (r == 0 && message.header.serial == 0 && message.header.status != SHMD_OK)
                message.header.serial = call.serial;
        return r == 0 && message_parse(connection, &message, &call, ret_reply) ? 0 : connection_break(connection);
}

/* --- replies --- */

int reply_read(struct shmd *connection, const struct reply *reply, void *ret_body, size_t size) {
        if (reply->tail_size > 0)
                return connection_break(connection);
        memcpy(ret_body, reply->body, size);
        return 0;
}

int reply_read_nothing(struct shmd *connection, const struct reply *reply) {
        struct shmd_wire_empty empty;
        int r;

        r = reply_read(connection, reply, &empty, sizeof(empty));
        if (r < 0)
                return r;
        return wire_is_zero(&empty, sizeof(empty)) ? 0 : connection_break(connection);
}

int reply_refused(struct failure *failure, const struct reply *reply) {
        struct shmd_wire_refusal refusal;

        memcpy(&refusal, reply->body, sizeof(refusal));
        return failure_refused(failure, reply->status, &refusal);
}
