/* SPDX-License-Identifier: MIT */
/*
 * The status codes of the protocol. Never raw errno values on the wire: those
 * differ between architectures, and say too little.
 */
#pragma once

/* STATUS(number, NAME, errno the library returns, words for people) */
#define SHMD_STATUS_TABLE(STATUS)                                                   \
        STATUS(1, MALFORMED, EPROTO, "malformed request")                          \
        STATUS(2, UNSUPPORTED, EOPNOTSUPP, "not supported by this daemon")         \
        STATUS(3, INVALID, EINVAL, "invalid argument")                             \
        STATUS(4, BAD_NAME, EINVAL, "invalid name")                                \
        STATUS(5, NAME_TOO_LONG, ENAMETOOLONG, "name too long")                    \
        STATUS(6, NOT_FOUND, ENOENT, "no such segment")                            \
        STATUS(7, EXISTS, EEXIST, "a segment of this name exists")                 \
        STATUS(8, DENIED, EACCES, "permission denied")                             \
        STATUS(9, NOT_OWNER, EPERM, "only its owner or an administrator may do this") \
        STATUS(10, NOT_HELD, EBADF, "not held by this client")                     \
        STATUS(11, BUSY, EBUSY, "in use")                                          \
        STATUS(12, OVER_LIMIT, EDQUOT, "over the limit")                           \
        STATUS(13, TOO_LARGE, EFBIG, "too large")                                  \
        STATUS(14, NO_MEMORY, ENOMEM, "out of memory")                             \
        STATUS(15, NO_DESCRIPTORS, ENFILE, "the daemon has no file descriptors left") \
        STATUS(16, FAILED, EIO, "the daemon failed, its log says more")            \
        STATUS(17, NOT_ADMINISTRATOR, EPERM, "only an administrator may give it away, or to a group that is not the caller's") \
        STATUS(18, TIMED_OUT, ETIMEDOUT, "not published in time")                  \
        STATUS(19, CANCELLED, ECANCELED, "cancelled")                              \
        STATUS(20, FROZEN, EPERM, "it is frozen, nobody can write it")             \
        STATUS(21, SEALED, EPERM, "one of its holders has sealed it against that") \
        STATUS(22, FIXED_SIZE, ENOTSUP, "it was not made resizable")               \
        STATUS(23, NO_HUGE_PAGES, ENOMEM, "not enough huge pages are free")        \
        STATUS(24, CREATOR_GONE, ESRCH, "its creator has gone already")            \
        STATUS(25, ONE_WRITER, EACCES, "only its creator can write it")            \
        STATUS(26, NOT_FOR_CALLER, EPERM, "only an administrator may do this")     \
        STATUS(27, OF_FILE, EOPNOTSUPP, "it is made of a file")                    \
        STATUS(28, NOT_KEPT, EBUSY, "its service manager would not keep the segments: restart the service there, or purge") \
        STATUS(29, OTHER_NAMESPACE, EXDEV, "SysV segments of another IPC namespace than the daemon's") \
        STATUS(30, KEY_TAKEN, EEXIST, "a SysV segment with this key exists")       \
        STATUS(31, NO_SYSV, EOPNOTSUPP, "this daemon has no right to the descriptors of SysV segments (shmd-sysv is not there)") \
        STATUS(32, REMOVED, EIDRM, "it was removed from the kernel")               \
        STATUS(33, RMID_FORCED, EOPNOTSUPP, "kernel.shm_rmid_forced is set: the kernel removes what nobody has attached") \
        STATUS(34, HUGE_SYSV, EOPNOTSUPP, "it is a SysV segment of huge pages, of which there is no descriptor") \
        STATUS(35, ADOPTED, EEXIST, "that SysV segment has another name already")  \
        STATUS(36, OF_SYSV, EOPNOTSUPP, "it is a SysV segment, which the kernel lets nobody freeze") \
        STATUS(37, CONTROL_LOST, ENOTRECOVERABLE, "its lock was lost when the daemon was restarted, and may be in use still")

enum wire_status {
        SHMD_OK = 0,
#define SHMD_STATUS_ENUM(number, NAME, error, words) SHMD_##NAME = number,
        SHMD_STATUS_TABLE(SHMD_STATUS_ENUM)
#undef SHMD_STATUS_ENUM
};

/* The errno value (positive) that the library gives for a status; EPROTO for an unknown one. */
int status_to_errno(unsigned status);

/* Words for people, never NULL. */
const char *status_to_words(unsigned status);

/* The status for a failure of the daemon's own, given as a negative errno value. */
enum wire_status status_from_errno(int error);
