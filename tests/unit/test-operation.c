/* SPDX-License-Identifier: MIT */
/* The operation table and the status codes: what may never change once released, and what the dispatcher relies on. */
#include <check.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "operation.h"
#include "protocol.h"
#include "status.h"
#include "util.h"

/*
 * What went out with version 1 of the protocol. Rows are added to it, and none is
 * changed: an older client may talk to a newer daemon.
 */
static const struct {
        uint16_t number;
        const char *name;
        size_t request_size;
        size_t reply_size;
        bool tail;
        unsigned fds_in;
        unsigned fds_out;
        enum operation_right right;
        unsigned flags;
} released[] = {
        { 1, "hello", 24, 32, false, 0, 1, RIGHT_NONE, OPERATION_FIRST },
        { 2, "create", 56, 32, true, 0, 1, RIGHT_NONE, 0 },
        { 3, "open", 32, 32, true, 0, 1, RIGHT_NONE, OPERATION_LATE },
        { 4, "release", 16, 8, false, 0, 0, RIGHT_NONE, OPERATION_ONEWAY },
        { 5, "resume", 16, 32, false, 1, 0, RIGHT_NONE, 0 },
        { 6, "unlink", 16, 8, true, 0, 0, RIGHT_OWNER, OPERATION_ONCE },
        { 7, "stat", 16, 152, true, 0, 0, RIGHT_SEE, 0 },
        { 8, "list", 16, 16, true, 0, 0, RIGHT_NONE, 0 },
        { 9, "holders", 24, 16, true, 0, 0, RIGHT_SEE, 0 },
        { 10, "chmod", 24, 8, true, 0, 0, RIGHT_OWNER, 0 },
        { 11, "chown", 24, 8, true, 0, 0, RIGHT_OWNER, 0 },
        { 12, "rename", 24, 8, true, 0, 0, RIGHT_OWNER, OPERATION_ONCE },
        { 13, "status", 8, 256, false, 0, 0, RIGHT_NONE, 0 },
        { 14, "publish", 8, 8, true, 0, 0, RIGHT_NONE, OPERATION_ONCE },
        { 15, "set_lifetime", 32, 8, true, 0, 0, RIGHT_OWNER, 0 },
        { 16, "resize", 24, 16, true, 0, 0, RIGHT_SEE, 0 },
        { 17, "freeze", 16, 8, true, 0, 0, RIGHT_OWNER, 0 },
        { 18, "create_file", 56, 32, true, 2, 1, RIGHT_NONE, 0 },
        { 19, "watch", 8, 8, true, 0, 0, RIGHT_NONE, 0 },
        { 20, "unwatch", 8, 8, false, 0, 0, RIGHT_NONE, 0 },
        { 21, "cancel", 8, 8, false, 0, 0, RIGHT_NONE, 0 },
        { 22, "open_many", 8, 8, true, 0, 253, RIGHT_NONE, 0 },
        { 23, "create_many", 8, 8, true, 0, 253, RIGHT_NONE, 0 },
        { 24, "release_many", 8, 8, true, 0, 0, RIGHT_NONE, OPERATION_ONEWAY },
        { 25, "event", 8, 48, true, 0, 0, RIGHT_NONE, OPERATION_EVENT },
        { 26, "handover", 8, 8, false, 0, 253, RIGHT_NONE, 0 },
        { 27, "stop", 8, 8, false, 0, 0, RIGHT_NONE, 0 },
        { 28, "accounts", 8, 8, false, 0, 0, RIGHT_NONE, 0 },
        { 29, "unlink_idle", 24, 8, true, 0, 0, RIGHT_OWNER, OPERATION_ONCE },
        { 30, "control", 16, 16, false, 0, 1, RIGHT_NONE, 0 },
        { 31, "bell_set", 16, 8, false, 1, 0, RIGHT_NONE, 0 },
        { 32, "bell_get", 16, 8, false, 0, 1, RIGHT_NONE, 0 },
        { 33, "create_sysv", 88, 32, true, 0, 1, RIGHT_NONE, 0 },
};

START_TEST(test_released_rows) {
        const struct operation *operation = operation_find(released[_i].number);

        ck_assert_ptr_nonnull(operation);
        ck_assert_uint_eq(operation->number, released[_i].number);
        ck_assert_str_eq(operation->name, released[_i].name);
        ck_assert_uint_eq(operation->request_size, released[_i].request_size);
        ck_assert_uint_eq(operation->reply_size, released[_i].reply_size);
        ck_assert_int_eq(operation->tail, released[_i].tail);
        ck_assert_uint_eq(operation->fds_in, released[_i].fds_in);
        ck_assert_uint_eq(operation->fds_out, released[_i].fds_out);
        ck_assert_int_eq(operation->right, released[_i].right);
        ck_assert_uint_eq(operation->flags, released[_i].flags);
}
END_TEST

START_TEST(test_find) {
        ck_assert_uint_ge(operation_count(), ELEMENTSOF(released));
        for (size_t i = 0; i < operation_count(); i++)
                ck_assert_ptr_eq(operation_at(i), operation_find((uint16_t) (i + 1)));
        ck_assert_ptr_null(operation_find(0));
        ck_assert_ptr_null(operation_find((uint16_t) (operation_count() + 1)));
        ck_assert_ptr_null(operation_find(UINT16_MAX));
}
END_TEST

START_TEST(test_rows_are_sound) {
        for (size_t i = 0; i < operation_count(); i++) {
                const struct operation *operation = operation_at(i);
                const size_t header = sizeof(struct shmd_wire_header);

                ck_assert_ptr_nonnull(operation); /* no hole in the numbers */
                ck_assert_uint_eq(operation->request_size % 8, 0);
                ck_assert_uint_eq(operation->reply_size % 8, 0);
                ck_assert_uint_le(header + operation->request_size, SHMD_MESSAGE_MAX);
                ck_assert_uint_le(header + operation->reply_size, SHMD_MESSAGE_MAX);
                ck_assert_uint_le(operation->fds_in, SHMD_DESCRIPTORS_MAX);
                ck_assert_uint_le(operation->fds_out, SHMD_DESCRIPTORS_MAX);
                /* The dispatcher finds the segment by a target, and a target may have a name. */
                if (operation->right != RIGHT_NONE) {
                        ck_assert_uint_ge(operation->request_size, sizeof(struct shmd_wire_target));
                        ck_assert(operation->tail);
                }
                /* What is never answered can't give anything. */
                if (operation->flags & OPERATION_ONEWAY)
                        ck_assert_uint_eq(operation->fds_out, 0);
                /* What no client may ask for has nothing of a request. */
                if (operation->flags & OPERATION_EVENT) {
                        ck_assert_uint_eq(operation->request_size, sizeof(struct shmd_wire_empty));
                        ck_assert_uint_eq(operation->fds_in, 0);
                        ck_assert_uint_eq(operation->fds_out, 0);
                        ck_assert_int_eq(operation->right, RIGHT_NONE);
                }
                /* Answered at once, later, or never: one of them. */
                ck_assert_int_eq(operation->flags & (operation->flags - 1), 0);
                /* Nothing but the version exchange comes before it. */
                ck_assert_int_eq((operation->flags & OPERATION_FIRST) != 0, operation->number == SHMD_OP_HELLO);
                for (size_t j = 0; j < i; j++)
                        ck_assert_str_ne(operation->name, operation_at(j)->name);
        }
}
END_TEST

/* Where the fields lie is the protocol, for 32- and 64-bit programs alike. */
START_TEST(test_layout) {
        ck_assert_uint_eq(sizeof(struct shmd_wire_header), 8);
        ck_assert_uint_eq(offsetof(struct shmd_wire_header, serial), 4);
        ck_assert_uint_eq(offsetof(struct shmd_wire_target, name_size), 8);
        ck_assert_uint_eq(sizeof(struct shmd_wire_refusal), 96);
        ck_assert_uint_eq(offsetof(struct shmd_wire_refusal, requested), 16);
        ck_assert_uint_eq(offsetof(struct shmd_wire_refusal, item), 40);
        ck_assert_uint_eq(offsetof(struct shmd_wire_refusal, biggest), 48);
        ck_assert_uint_eq(offsetof(struct shmd_wire_unlink_idle, idle_usec), 16);
        ck_assert_uint_eq(sizeof(struct shmd_wire_user), 16);
        ck_assert_uint_eq(offsetof(struct shmd_wire_user, uid), 8);
        ck_assert_uint_eq(offsetof(struct shmd_wire_hello_reply, generation_slots), 24);
        ck_assert_uint_eq(offsetof(struct shmd_wire_create, maximum), 8);
        ck_assert_uint_eq(offsetof(struct shmd_wire_create, linger_usec), 16);
        ck_assert_uint_eq(offsetof(struct shmd_wire_create, flags), 28);
        ck_assert_uint_eq(offsetof(struct shmd_wire_create, labels_size), 38);
        ck_assert_uint_eq(offsetof(struct shmd_wire_create, page_shift), 40);
        ck_assert_uint_eq(offsetof(struct shmd_wire_open, flags), 16);
        ck_assert_uint_eq(offsetof(struct shmd_wire_open, timeout_usec), 24);
        ck_assert_uint_eq(offsetof(struct shmd_wire_opened, maximum), 16);
        ck_assert_uint_eq(offsetof(struct shmd_wire_opened, generation), 24);
        ck_assert_uint_eq(offsetof(struct shmd_wire_release, access), 8);
        ck_assert_uint_eq(offsetof(struct shmd_wire_list, prefix_size), 12);
        ck_assert_uint_eq(sizeof(struct shmd_wire_holder), 120);
        ck_assert_uint_eq(offsetof(struct shmd_wire_holder, command), 40);
        ck_assert_uint_eq(offsetof(struct shmd_wire_segment, creator_started), 80);
        ck_assert_uint_eq(offsetof(struct shmd_wire_segment, uid), 88);
        ck_assert_uint_eq(offsetof(struct shmd_wire_segment, lifetime), 104);
        ck_assert_uint_eq(offsetof(struct shmd_wire_segment, name_size), 120);
        ck_assert_uint_eq(offsetof(struct shmd_wire_segment, executable_size), 128);
        ck_assert_uint_eq(offsetof(struct shmd_wire_segment, sysv_key), 136);
        ck_assert_uint_eq(offsetof(struct shmd_wire_segment, sysv_attached), 144);
        ck_assert_uint_eq(offsetof(struct shmd_wire_create_sysv, ipc_namespace), 56);
        ck_assert_uint_eq(offsetof(struct shmd_wire_create_sysv, shmid), 80);
        ck_assert_uint_eq(offsetof(struct shmd_wire_publish, count), 4);
        ck_assert_uint_eq(offsetof(struct shmd_wire_set_lifetime, linger_usec), 16);
        ck_assert_uint_eq(offsetof(struct shmd_wire_set_lifetime, lifetime), 24);
        ck_assert_uint_eq(offsetof(struct shmd_wire_resize, size), 16);
        ck_assert_uint_eq(offsetof(struct shmd_wire_watch, prefix_size), 4);
        ck_assert_uint_eq(offsetof(struct shmd_wire_event, kind), 32);
        ck_assert_uint_eq(offsetof(struct shmd_wire_event, name_size), 40);
        ck_assert_uint_eq(offsetof(struct shmd_wire_event, old_name_size), 42);
        ck_assert_uint_eq(offsetof(struct shmd_wire_many, flags), 4);
        ck_assert_uint_eq(sizeof(struct shmd_wire_item), 40);
        ck_assert_uint_eq(offsetof(struct shmd_wire_item, opened), 8);
        ck_assert_uint_eq(offsetof(struct shmd_wire_status_reply, version), 96);
        ck_assert_uint_eq(offsetof(struct shmd_wire_status_reply, used), 152);
        ck_assert_uint_eq(offsetof(struct shmd_wire_status_reply, watchdog_usec), 232);
        ck_assert_uint_eq(offsetof(struct shmd_wire_status_reply, store_failure), 248);
}
END_TEST

/* On the wire are these numbers; the library gives these errors. */
START_TEST(test_statuses) {
        static const int errors[] = {
                0,      EPROTO, EOPNOTSUPP, EINVAL, EINVAL, ENAMETOOLONG, ENOENT, EEXIST, EACCES,
                EPERM,  EBADF,  EBUSY,      EDQUOT, EFBIG,  ENOMEM,       ENFILE, EIO,    EPERM,
                ETIMEDOUT, ECANCELED, EPERM, EPERM, ENOTSUP, ENOMEM, ESRCH, EACCES,
                EPERM,  EOPNOTSUPP, EBUSY,  EXDEV,  EEXIST, EOPNOTSUPP, EIDRM,
        };

        for (unsigned i = 0; i < ELEMENTSOF(errors); i++) {
                ck_assert_int_eq(status_to_errno(i), errors[i]);
                for (unsigned j = 0; j < i; j++)
                        ck_assert_str_ne(status_to_words(i), status_to_words(j));
        }
}
END_TEST

/* Numbers that stand on the wire, and in what programs compare. */
START_TEST(test_numbers) {
        ck_assert_int_eq(WIRE_LIFETIME_PERSIST, 0);
        ck_assert_int_eq(WIRE_LIFETIME_CREATOR, 3);
        ck_assert_int_eq(WIRE_STATE_UNPUBLISHED, 0);
        ck_assert_int_eq(WIRE_STATE_UNLINKED, 3);
        ck_assert_int_eq(WIRE_BACKING_FILE, 3);
        ck_assert_int_eq(WIRE_EVENT_CREATED, 1);
        ck_assert_int_eq(WIRE_EVENT_LOST, 8);
        ck_assert_int_eq(SHMD_LIMIT_BYTES, 1);
        ck_assert_int_eq(SHMD_LIMIT_DESCRIPTORS, 6);
        ck_assert_int_eq(SHMD_LIMIT_MAXIMUM, 12);
        ck_assert_int_eq(SHMD_LIMIT_COUNT, 16);
        ck_assert_int_eq(SHMD_WIRE_WRITE, 1);
        ck_assert_int_eq(SHMD_WIRE_UNPUBLISHED, 64);
        ck_assert_int_eq(SHMD_WIRE_WAIT, 256);
}
END_TEST

/* A newer daemon may know more of them: never success, never NULL. */
START_TEST(test_unknown_statuses) {
        static const unsigned unknown[] = { 1000, 65535, UINT32_MAX };

        for (size_t i = 0; i < ELEMENTSOF(unknown); i++) {
                ck_assert_int_eq(status_to_errno(unknown[i]), EPROTO);
                ck_assert_uint_gt(strlen(status_to_words(unknown[i])), 0);
        }
}
END_TEST

/* A failure of the daemon's own must never become SHMD_OK. */
START_TEST(test_status_from_errno) {
        for (int error = 1; error < 200; error++)
                ck_assert_int_ne(status_from_errno(-error), SHMD_OK);
        ck_assert_int_eq(status_from_errno(-ENOMEM), SHMD_NO_MEMORY);
        ck_assert_int_eq(status_from_errno(-ENOSPC), SHMD_NO_MEMORY);
        ck_assert_int_eq(status_from_errno(-EMFILE), SHMD_NO_DESCRIPTORS);
        ck_assert_int_eq(status_from_errno(-ENFILE), SHMD_NO_DESCRIPTORS);
        ck_assert_int_eq(status_from_errno(-EFBIG), SHMD_TOO_LARGE);
        ck_assert_int_eq(status_from_errno(-EOVERFLOW), SHMD_TOO_LARGE);
        ck_assert_int_eq(status_from_errno(-EIO), SHMD_FAILED);
}
END_TEST

static Suite *operation_suite(void) {
        Suite *suite = suite_create("operation");
        TCase *tests = tcase_create("operation");

        tcase_add_loop_test(tests, test_released_rows, 0, ELEMENTSOF(released));
        tcase_add_test(tests, test_find);
        tcase_add_test(tests, test_rows_are_sound);
        tcase_add_test(tests, test_layout);
        tcase_add_test(tests, test_numbers);
        tcase_add_test(tests, test_statuses);
        tcase_add_test(tests, test_unknown_statuses);
        tcase_add_test(tests, test_status_from_errno);
        suite_add_tcase(suite, tests);
        return suite;
}

int main(void) {
        SRunner *runner = srunner_create(operation_suite());
        int failed;

        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
