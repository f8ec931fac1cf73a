/* SPDX-License-Identifier: MIT */
/*
 * Publication: what was made without its name gets it, alone or with others in one step. Owns nothing.
 */
#include "internal.h"

#include <string.h>

/* A single writer's mapping has to be there first: afterwards nobody can make one. */
static int prepare(struct shmd *connection, struct shmd_segment *const *segments, size_t count, size_t *ret_failed) {
        for (size_t i = 0; i < count; i++) {
                struct hold *hold = segments[i]->hold;
                int r = 0;

                if (hold->connection != connection)
                        r = failure_words(&connection->failure, -EINVAL, "a segment of another connection");
                else if (hold->single_writer && hold->unpublished)
                        r = hold_map(hold);
                if (r < 0) {
                        *ret_failed = i;
                        return r;
                }
        }
        return 0;
}

/* What a PUBLISH needs: the request, its structure and its tail. */
struct publication {
        struct request request;
        struct shmd_wire_publish body;
        uint64_t ids[SHMD_DESCRIPTORS_MAX];
};

static int publication_init(struct publication *publication, struct shmd *connection, struct shmd_segment *const *segments,
                            size_t count, unsigned flags, size_t *ret_failed) {
        if (flags & ~SHMD_REPLACE)
                return failure_words(&connection->failure, -EINVAL, "invalid flags");
        if (count > ELEMENTSOF(publication->ids))
                return failure_words(&connection->failure, -EINVAL, "more than 253 segments in one step");
        publication->body = (struct shmd_wire_publish) {
                .flags = flags & SHMD_REPLACE ? SHMD_WIRE_PUBLISH_REPLACE : 0,
                .count = (uint32_t) count,
        };
        for (size_t i = 0; i < count; i++)
                publication->ids[i] = segments[i]->hold->id;
        publication->request = (struct request) {
                .operation = SHMD_OP_PUBLISH,
                .body = &publication->body,
                .tail = publication->ids,
                .tail_size = count * sizeof(publication->ids[0]),
        };
        return prepare(connection, segments, count, ret_failed);
}

/* Which one the daemon refused. */
static size_t refused_item(const struct failure *failure, size_t count) {
        return failure->kind == FAILURE_REFUSED && failure->refusal.item < count ? failure->refusal.item : 0;
}

static const char *const not_unpublished = "it is published already, or was made by another process or connection";

static int publish(struct shmd *connection, struct shmd_segment *const *segments, size_t count, unsigned flags,
                   size_t *ret_failed) {
        struct publication publication;
        struct reply reply;
        int r;

        r = publication_init(&publication, connection, segments, count, flags, ret_failed);
        if (r < 0)
                return r;
        r = connection_call(connection, &publication.request, &reply);
        if (r < 0) {
                *ret_failed = refused_item(&connection->failure, count);
                return r == -ENOENT ? failure_words(&connection->failure, r, not_unpublished) : r;
        }
        r = reply_read_nothing(connection, &reply);
        for (size_t i = 0; r == 0 && i < count; i++)
                hold_set_published(segments[i]->hold);
        return r;
}

_public_ int shmd_publish(struct shmd_segment *segment, unsigned flags) {
        size_t failed;

        return publish(segment->hold->connection, &segment, 1, flags, &failed);
}

_public_ int shmd_publish_many(struct shmd_segment *const *segments, size_t count, unsigned flags, size_t *ret_failed) {
        size_t failed = 0;
        int r;

        if (count == 0)
                return 0;
        r = publish(segments[0]->hold->connection, segments, count, flags, &failed);
        if (r < 0 && ret_failed)
                *ret_failed = failed;
        return r;
}

/* --- submitted --- */

static int async_read_published(struct async *async, const struct reply *reply) {
        int r;

        r = reply_read_nothing(async->connection, reply);
        if (r == 0)
                hold_set_published(async->kept->hold);
        return r;
}

_public_ int shmd_publish_async(struct shmd_segment *segment, unsigned flags, shmd_result_function function,
                                void *userdata) {
        struct shmd *connection = segment->hold->connection;
        struct publication publication;
        struct async *async;
        size_t failed;
        int r;

        r = publication_init(&publication, connection, &segment, 1, flags, &failed);
        if (r < 0)
                return r;
        async = async_new(connection, async_read_published, &(struct callback) { function, userdata });
        if (!async)
                return -ENOMEM;
        r = hold_add_segment(segment->hold, &async->kept);
        if (r < 0) {
                async_free(async);
                return r;
        }
        return async_submit(async, &publication.request, DO_NOT_WAIT);
}
