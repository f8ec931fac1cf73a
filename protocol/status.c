/* SPDX-License-Identifier: MIT */
#include "status.h"

#include <errno.h>

int status_to_errno(unsigned status) {
        switch (status) {
        case SHMD_OK:
                return 0;
#define SHMD_STATUS_CASE(number, NAME, error, words) \
        case SHMD_##NAME:                            \
                return error;
                SHMD_STATUS_TABLE(SHMD_STATUS_CASE)
#undef SHMD_STATUS_CASE
        default:
                return EPROTO;
        }
}

const char *status_to_words(unsigned status) {
        switch (status) {
        case SHMD_OK:
                return "done";
#define SHMD_STATUS_CASE(number, NAME, error, words) \
        case SHMD_##NAME:                            \
                return words;
                SHMD_STATUS_TABLE(SHMD_STATUS_CASE)
#undef SHMD_STATUS_CASE
        default:
                return "unknown status (a newer daemon?)";
        }
}

enum wire_status status_from_errno(int error) {
        switch (-error) {
        case 0:
                return SHMD_OK;
        case ENOMEM:
        case ENOSPC:
                return SHMD_NO_MEMORY;
        case EMFILE:
        case ENFILE:
                return SHMD_NO_DESCRIPTORS;
        case EFBIG:
        case EOVERFLOW:
                return SHMD_TOO_LARGE;
        default:
                return SHMD_FAILED;
        }
}
