/* SPDX-License-Identifier: MIT */
#include "client.h"

#include <string.h>

#include "harness.h"
#include "test.h"

struct shmd *client_connect(void) {
        struct shmd *connection = NULL;

        ASSERT_OK(NULL, shmd_connect(the_daemon.socket, &connection));
        ck_assert_ptr_nonnull(connection);
        return connection;
}

struct shmd_segment *client_create(struct shmd *connection, const char *name, uint64_t size_bytes,
                                   enum shmd_lifetime lifetime) {
        const struct shmd_create_options options = { .lifetime = lifetime };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, size_bytes, SHMD_READ_WRITE | SHMD_EXCLUSIVE, &options,
                                          &segment));
        ck_assert_ptr_nonnull(segment);
        return segment;
}

struct shmd_segment *client_open(struct shmd *connection, const char *name, unsigned flags) {
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_open(connection, name, flags, &segment));
        ck_assert_ptr_nonnull(segment);
        return segment;
}

void *client_map(struct shmd_segment *segment) {
        void *address = NULL;
        size_t size = 0;

        ASSERT_OK(NULL, shmd_map(segment, &address, &size));
        ck_assert_ptr_nonnull(address);
        ck_assert_uint_eq(size, shmd_size(segment));
        return address;
}

int client_try_open(struct shmd *connection, const char *name, unsigned flags) {
        struct shmd_segment *segment = NULL;
        int r = shmd_open(connection, name, flags, &segment);

        if (r != 0)
                ck_assert_ptr_null(segment); /* untouched */
        shmd_close(segment);
        return r;
}

int client_try_create(struct shmd *connection, const char *name, uint64_t size_bytes, unsigned flags,
                      const struct shmd_create_options *options) {
        struct shmd_segment *segment = NULL;
        int r = shmd_create(connection, name, size_bytes, flags, options, &segment);

        if (r != 0)
                ck_assert_ptr_null(segment);
        shmd_close(segment);
        return r;
}

struct shmd_stat client_stat(struct shmd *connection, const char *name) {
        struct shmd_stat stat;

        ASSERT_OK(connection, shmd_stat(connection, name, &stat));
        return stat;
}

struct shmd_stat client_stat_id(struct shmd *connection, uint64_t id) {
        struct shmd_stat stat;

        ASSERT_OK(connection, shmd_stat_id(connection, id, &stat));
        return stat;
}

static bool exists(int result) {
        if (result == -ENOENT)
                return false;
        ck_assert_int_eq(result, 0);
        return true;
}

bool client_exists(struct shmd *connection, const char *name) {
        struct shmd_stat stat;

        return exists(shmd_stat(connection, name, &stat));
}

bool client_id_exists(struct shmd *connection, uint64_t id) {
        struct shmd_stat stat;

        return exists(shmd_stat_id(connection, id, &stat));
}

struct shmd_status client_status(struct shmd *connection) {
        struct shmd_status status;

        ASSERT_OK(connection, shmd_status(connection, &status));
        return status;
}

static int count_one(const struct shmd_stat *stat, void *userdata) {
        (void) stat;
        ++*(unsigned *) userdata;
        return 0;
}

unsigned client_count(struct shmd *connection, const char *prefix, unsigned flags) {
        unsigned count = 0;

        ASSERT_OK(connection, shmd_list(connection, prefix, flags, count_one, &count));
        return count;
}
