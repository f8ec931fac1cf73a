/* SPDX-License-Identifier: MIT */
/*
 * Handlers of who wants to know: WATCH, UNWATCH, CANCEL. (A wait begins with an OPEN: opening.c.)
 */
#include "daemon.h"
#include "dispatch.h"
#include "util.h"

int op_watch(struct op_context *context, const struct shmd_wire_watch *body) {
        struct shmd_wire_watch_reply reply = { 0 };
        struct watcher *watcher;
        int r;

        if (body->padding != 0 || body->prefix_size != context->tail_size)
                return SHMD_MALFORMED;
        if (body->flags & ~SHMD_WIRE_WATCH_EXACT)
                return SHMD_INVALID;
        if (body->prefix_size > SHMD_NAME_MAX)
                return SHMD_NAME_TOO_LONG;
        r = watcher_new(context->session, context->tail, body->prefix_size, body->flags & SHMD_WIRE_WATCH_EXACT, &watcher,
                        &context->refusal);
        if (r != 0)
                return r;
        reply.watch = watcher->watch.key;
        r = op_reply(context, &reply, NULL, 0);
        if (r < 0)
                watcher_free(watcher);
        return r;
}

int op_unwatch(struct op_context *context, const struct shmd_wire_unwatch *body) {
        static const struct shmd_wire_empty reply;
        struct watcher *watcher;

        LIST_FOREACH(watcher, &context->session->watchers, entry)
                if (watcher->watch.key == body->watch)
                        break;
        if (!watcher)
                return SHMD_NOT_FOUND;
        watcher_free(watcher);
        return op_reply(context, &reply, NULL, 0);
}

int op_cancel(struct op_context *context, const struct shmd_wire_cancel *body) {
        static const struct shmd_wire_empty reply;
        struct wait *wait = wait_find(context->session, body->serial);
        int r;

        if (body->padding != 0)
                return SHMD_MALFORMED;
        if (!wait)
                return SHMD_NOT_FOUND;
        wait_free(wait);
        r = dispatch_late_refusal(context->session, SHMD_OP_OPEN, body->serial, SHMD_CANCELLED);
        if (r < 0) {
                op_answer_later(context); /* nobody is there to hear it */
                return r;
        }
        return op_reply(context, &reply, NULL, 0);
}

/* EVENT stands in the table for the manual and the client; nobody may ask for it. */
int op_event(struct op_context *context, const struct shmd_wire_empty *body) {
        (void) context;
        (void) body;
        return SHMD_UNSUPPORTED;
}
