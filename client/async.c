/* SPDX-License-Identifier: MIT */
/*
 * Calls that were submitted, until their functions are called.
 *
 * Owns them: each is in the connection's list from its submission until the program is told, or, while the connection
 * is lost, in that of calls to be repeated. All memory that a result takes is there before the request is sent, but for
 * pages of lists, so that what the daemon has done can be told. The program's functions are called by shmd_dispatch()
 * alone.
 *
 * What had no answer when the connection was lost is sent again, a few times, if there is a daemon.
 */
#include "internal.h"

#include <string.h>
#include <sys/socket.h>

#define REPETITIONS_MAX 16u

/* --- its life --- */

static unsigned tell(struct shmd *connection, struct async *async) {
        struct shmd_result result = { .error = async->result };

        if (async->result < 0)
                connection->failure = async->failure;
        else {
                result.segment = TAKE_PTR(async->segment);
                result.stat = async->stat;
                result.status = async->status;
        }
        async->callback.function(connection, &result, async->callback.userdata);
        return 1;
}

static unsigned deliver(struct shmd *connection, struct notice *notice) {
        struct async *async = (struct async *) ((char *) notice - offsetof(struct async, notice));
        unsigned count;

        TAILQ_REMOVE(&connection->asyncs, async, entry);
        count = async->finish ? async->finish(connection, async) : tell(connection, async);
        async_free(async);
        return count;
}

static void end(struct async *async) {
        TAILQ_REMOVE(&async->connection->asyncs, async, entry);
        async_free(async);
}

static void async_done(struct async *async, int result) {
        async->done = true;
        async->result = result;
        if (result < 0 && async->failure.kind == FAILURE_NONE)
                async->failure = async->connection->failure;
        if (async->unwanted)
                end(async);
        else if (async->finish || async->callback.function)
                notice_queue(async->connection, &async->notice);
}

static void put_aside(struct async *async) {
        struct shmd *connection = async->connection;

        async->repeated++;
        async->request.serial = async->call.serial;
        TAILQ_REMOVE(&connection->asyncs, async, entry);
        TAILQ_INSERT_TAIL(&connection->asyncs_to_repeat, async, entry);
}

static void async_complete(struct call *call, int result, const struct reply *reply) {
        struct async *async = (struct async *) call; /* its first member */

        if (result == -ECONNRESET && !async->request.of_connection && async->repeated < REPETITIONS_MAX && !async->unwanted)
                return put_aside(async);
        if (result == 0 && reply->status != SHMD_OK)
                result = reply_refused(&async->failure, reply);
        else if (result == 0)
                result = async->read(async, reply);
        async_done(async, result);
}

struct async *async_new(struct shmd *connection, int (*read)(struct async *, const struct reply *),
                        const struct callback *callback) {
        struct async *async = calloc(1, sizeof(*async));

        if (!async) {
                failure_errno(&connection->failure, -ENOMEM);
                return NULL;
        }
        async->connection = connection;
        async->call.complete = async_complete;
        async->notice.deliver = deliver;
        async->read = read;
        if (callback) {
                async->callback = *callback;
                async->unwanted = !callback->function;
        }
        return async;
}

struct async *async_free(struct async *async) {
        if (!async)
                return NULL;
        notice_cancel(&async->notice);
        hold_free(async->hold);
        shmd_close(async->segment);
        shmd_close(async->kept);
        free(async->stat);
        free(async->status);
        free(async->page);
        free(async->tail);
        free(async);
        return NULL;
}

/* --- submission --- */

/* Before it is sent: afterwards nothing may fail. 0 or -ENOMEM. */
static int remember_request(struct async *async, const struct request *request) {
        async->request = *request;
        memcpy(async->body, request->body, operation_find(request->operation)->request_size);
        async->request.body = async->body;
        if (request->tail_size == 0)
                return 0;
        async->tail = malloc(request->tail_size);
        if (!async->tail)
                return failure_errno(&async->connection->failure, -ENOMEM);
        memcpy(async->tail, request->tail, request->tail_size);
        async->request.tail = async->tail;
        return 0;
}

int async_submit(struct async *async, const struct request *request, enum patience patience) {
        struct shmd *connection = async->connection;
        int r;

        r = remember_request(async, request);
        if (r == 0)
                r = connection_submit(connection, &async->call, request, patience);
        if (r < 0) {
                async_free(async);
                return r;
        }
        TAILQ_INSERT_TAIL(&connection->asyncs, async, entry);
        async->number = async->call.serial;
        return 0;
}

static int read_nothing(struct async *async, const struct reply *reply) {
        return reply_read_nothing(async->connection, reply);
}

int async_call(struct shmd *connection, const struct request *request, const struct callback *callback,
               enum patience patience) {
        struct async *async;

        async = async_new(connection, read_nothing, callback);
        return async ? async_submit(async, request, patience) : -ENOMEM;
}

/* --- waiting for one --- */

int async_wait(struct async *async, uint64_t deadline_usec) {
        struct shmd *connection = async->connection;

        while (!async->done) {
                if (connection_prepare(connection) < 0) /* then it is done: with that failure */
                        continue;
                if (async->done)
                        return 0;
                if (call_wait(connection, false, deadline_usec) < 0)
                        return -ETIMEDOUT;
                (void) call_receive(connection, MSG_DONTWAIT);
        }
        return 0;
}

void async_forget(struct async *async) {
        if (async->done)
                end(async);
        else
                async->unwanted = true;
}

/* --- after a loss --- */

/* The time that a wait has left. */
static void update_timeout(struct async *async) {
        struct shmd_wire_open *open = (struct shmd_wire_open *) async->body;
        uint64_t now = now_usec();

        if (async->deadline_usec != 0 && async->deadline_usec != UINT64_MAX)
                open->timeout_usec = async->deadline_usec > now ? async->deadline_usec - now : 0;
}

/* Takes one back into the list. */
static struct async *take_aside(struct shmd *connection) {
        struct async *async = TAILQ_FIRST(&connection->asyncs_to_repeat);

        if (!async)
                return NULL;
        TAILQ_REMOVE(&connection->asyncs_to_repeat, async, entry);
        TAILQ_INSERT_TAIL(&connection->asyncs, async, entry);
        return async;
}

void asyncs_repeat(struct shmd *connection) {
        struct async *async;
        int r;

        while ((async = take_aside(connection))) {
                update_timeout(async);
                r = connection_is_ready(connection) ? call_submit(connection, &async->call, &async->request,
                                                                  WAIT_FOR_ROOM) : -EPIPE;
                if (r < 0)
                        async_done(async, r == -EPIPE ? -ECONNRESET : r);
        }
}

void asyncs_give_up(struct shmd *connection) {
        struct async *async;

        while ((async = take_aside(connection)))
                async_done(async, -ECONNRESET);
}

void asyncs_drop(struct shmd *connection) {
        struct async *async;

        asyncs_give_up(connection);
        while ((async = TAILQ_FIRST(&connection->asyncs)))
                end(async);
}
