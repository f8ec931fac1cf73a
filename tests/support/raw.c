/* SPDX-License-Identifier: MIT */
#include "raw.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "status.h"
#include "test.h"

void raw_reply_done(struct raw_reply *reply) {
        wire_fds_done(&reply->fds);
}

const void *raw_reply_body(const struct raw_reply *reply) {
        return reply->bytes + sizeof(struct shmd_wire_header);
}

void raw_open(struct raw *raw, const char *socket_path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        *raw = (struct raw) RAW_INIT;
        ck_assert_uint_lt(strlen(socket_path), sizeof(address.sun_path));
        memcpy(address.sun_path, socket_path, strlen(socket_path));
        raw->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(raw->fd, 0);
        if (connect(raw->fd, (struct sockaddr *) &address, sizeof(address)) < 0)
                ck_abort_msg("connect %s: %s", socket_path, strerror(errno));
}

void raw_connect(struct raw *raw, const char *socket_path) {
        const struct shmd_wire_hello hello = { .version_min = SHMD_PROTOCOL_VERSION,
                                               .version_max = SHMD_PROTOCOL_VERSION };
        struct raw_reply reply;

        raw_open(raw, socket_path);
        ck_assert_int_eq(raw_call(raw, SHMD_OP_HELLO, &hello, NULL, 0, &reply), SHMD_OK);
        raw_reply_done(&reply);
}

void raw_close(struct raw *raw) {
        raw->fd = close_fd(raw->fd);
}

int raw_send(struct raw *raw, const void *bytes, size_t size, const int *fds, unsigned fds_count) {
        const size_t header_size = sizeof(struct shmd_wire_header);
        struct iovec part = { (void *) bytes, size };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

        if (fds_count > 0 && size >= header_size)
                return wire_send(raw->fd, bytes, (const char *) bytes + header_size, size - header_size, NULL, 0, fds,
                                 fds_count, 0);
        return sendmsg(raw->fd, &message, MSG_NOSIGNAL) < 0 ? negative_errno() : 0;
}

int raw_request(struct raw *raw, enum shmd_operation operation, const void *body, const void *tail, size_t tail_size,
                const int *fds, unsigned fds_count) {
        const struct operation *row = operation_find((uint16_t) operation);
        const struct shmd_wire_header header = { .operation = row->number, .serial = ++raw->serial };

        return wire_send(raw->fd, &header, body, row->request_size, tail, tail_size, fds, fds_count, 0);
}

void raw_receive(struct raw *raw, struct raw_reply *reply) {
        ssize_t n;

        reply->fds.count = 0;
        test_wait_readable(raw->fd, "a message of the daemon");
        n = wire_receive(raw->fd, reply->bytes, sizeof(reply->bytes), &reply->fds, 0);
        if (n == -ECONNRESET)
                n = 0;
        TEST_REQUIRE(n, >=, 0);
        reply->size = (size_t) n;
}

static void check_reply(const struct raw *raw, const struct operation *row, const struct raw_reply *reply) {
        const size_t body_size = reply->size - sizeof(struct shmd_wire_header);

        if (reply->size == 0)
                ck_abort_msg("%s: the daemon closed the connection instead of answering", row->name);
        TEST_REQUIRE(reply->size, >=, sizeof(struct shmd_wire_header));
        TEST_REQUIRE(reply->header.operation, ==, row->number);
        TEST_REQUIRE(reply->header.serial, ==, raw->serial);
        if (reply->header.status == SHMD_OK) {
                TEST_REQUIRE(body_size, >=, row->reply_size);
                TEST_REQUIRE(reply->fds.count, <=, row->fds_out);
        } else {
                TEST_REQUIRE(body_size, ==, sizeof(struct shmd_wire_refusal));
                TEST_REQUIRE(reply->fds.count, ==, 0);
        }
}

static unsigned call_with_fds(struct raw *raw, enum shmd_operation operation, const void *body,
                              const void *tail, size_t tail_size, const int *fds, unsigned fds_count,
                              struct raw_reply *reply) {
        TEST_REQUIRE(raw_request(raw, operation, body, tail, tail_size, fds, fds_count), ==, 0);
        raw_receive(raw, reply);
        check_reply(raw, operation_find((uint16_t) operation), reply);
        return reply->header.status;
}

unsigned raw_call(struct raw *raw, enum shmd_operation operation, const void *body, const void *tail,
                  size_t tail_size, struct raw_reply *reply) {
        return call_with_fds(raw, operation, body, tail, tail_size, NULL, 0, reply);
}

void raw_status(struct raw *raw, struct shmd_wire_status_reply *ret_status) {
        const struct shmd_wire_status request = { 0 };
        struct raw_reply reply;

        TEST_REQUIRE(raw_call(raw, SHMD_OP_STATUS, &request, NULL, 0, &reply), ==, SHMD_OK);
        *ret_status = *RAW_BODY(&reply, status_reply);
}

static unsigned take_opened(unsigned status, struct raw_reply *reply,
                            struct shmd_wire_opened *ret_opened, int *ret_fd) {
        if (status == SHMD_OK) {
                ck_assert_uint_eq(reply->fds.count, 1);
                if (ret_opened)
                        *ret_opened = *RAW_BODY(reply, opened);
                if (ret_fd)
                        *ret_fd = TAKE_FD(reply->fds.fd[0]);
        }
        raw_reply_done(reply);
        return status;
}

unsigned raw_create(struct raw *raw, const char *name, uint64_t size, enum wire_lifetime lifetime,
                    struct shmd_wire_opened *ret_opened, int *ret_fd) {
        const struct shmd_wire_create request = { .size = size, .mode = 0600, .flags = SHMD_WIRE_WRITE,
                                                  .lifetime = lifetime, .name_size = (uint16_t) strlen(name) };
        struct raw_reply reply;
        unsigned status = raw_call(raw, SHMD_OP_CREATE, &request, name, strlen(name), &reply);

        return take_opened(status, &reply, ret_opened, ret_fd);
}

unsigned raw_open_name(struct raw *raw, const char *name, uint32_t flags, struct shmd_wire_opened *ret_opened,
                       int *ret_fd) {
        const struct shmd_wire_open request = { .target.name_size = (uint16_t) strlen(name), .flags = flags };
        struct raw_reply reply;
        unsigned status = raw_call(raw, SHMD_OP_OPEN, &request, name, strlen(name), &reply);

        return take_opened(status, &reply, ret_opened, ret_fd);
}

unsigned raw_resume(struct raw *raw, uint64_t id, enum shmd_access access, int fd) {
        const struct shmd_wire_resume request = { .id = id, .access = access };
        struct raw_reply reply;
        unsigned status = call_with_fds(raw, SHMD_OP_RESUME, &request, NULL, 0, &fd, 1, &reply);

        raw_reply_done(&reply);
        return status;
}

unsigned raw_unlink(struct raw *raw, const char *name) {
        const struct shmd_wire_unlink request = { .target.name_size = (uint16_t) strlen(name) };
        struct raw_reply reply;

        return raw_call(raw, SHMD_OP_UNLINK, &request, name, strlen(name), &reply);
}

unsigned raw_unlink_id(struct raw *raw, uint64_t id) {
        const struct shmd_wire_unlink request = { .target.id = id };
        struct raw_reply reply;

        return raw_call(raw, SHMD_OP_UNLINK, &request, NULL, 0, &reply);
}

unsigned raw_stat_id(struct raw *raw, uint64_t id, struct shmd_wire_segment *ret_segment) {
        const struct shmd_wire_stat request = { .target.id = id };
        struct raw_reply reply;
        unsigned status = raw_call(raw, SHMD_OP_STAT, &request, NULL, 0, &reply);

        if (status == SHMD_OK && ret_segment)
                *ret_segment = *RAW_BODY(&reply, segment);
        return status;
}

void raw_release(struct raw *raw, uint64_t id, enum shmd_access access) {
        const struct shmd_wire_release request = { .id = id, .access = access };

        ck_assert_int_eq(raw_request(raw, SHMD_OP_RELEASE, &request, NULL, 0, NULL, 0), 0);
}

void raw_list_ids(struct raw *raw, uint64_t *ids, size_t *count) {
        const struct shmd_wire_list request = { 0 };
        struct raw_reply reply;
        const unsigned char *at, *end;
        size_t n;

        ck_assert_int_eq(raw_call(raw, SHMD_OP_LIST, &request, NULL, 0, &reply), SHMD_OK);
        n = RAW_BODY(&reply, list_reply)->count;
        at = (const unsigned char *) raw_reply_body(&reply) + sizeof(struct shmd_wire_list_reply);
        end = reply.bytes + reply.size;
        ck_assert_uint_le(n, *count);
        for (size_t i = 0; i < n; i++) {
                struct shmd_wire_segment segment;

                ck_assert_uint_ge(end - at, sizeof(segment));
                memcpy(&segment, at, sizeof(segment));
                ids[i] = segment.id;
                at += sizeof(segment) + ALIGN8((size_t) segment.name_size + segment.labels_size +
                                               segment.command_size + segment.unit_size + segment.executable_size);
        }
        ck_assert_ptr_eq(at, end);
        *count = n;
}
