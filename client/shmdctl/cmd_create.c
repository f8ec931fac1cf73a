/* SPDX-License-Identifier: MIT */
/*
 * create: a segment of zeros, of a regular file, or of a SysV segment that is there. With a program it stays held until the program ends.
 */
#include "shmdctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* --- what put has too --- */

int create_check_lifetime(const struct ctl *ctl) {
        uint32_t lifetime = ctl->options.create.lifetime;
        const char *word = lifetime == SHMD_LIFETIME_HOLDERS   ? "holders"
                           : lifetime == SHMD_LIFETIME_CREATOR ? "creator"
                                                               : NULL;

        if (!word || ctl->program)
                return STATUS_DONE;
        return fail_usage(ctl,
                          "--lifetime %s: the segment would be gone as soon as this command ends; give it a program to "
                          "run with it (\"-- PROGRAM\"), or use linger=SECONDS",
                          word);
}

unsigned create_flags(const struct ctl *ctl) {
        unsigned flags = SHMD_EXCLUSIVE;

        if (!ctl->options.read_only)
                flags |= SHMD_READ_WRITE;
        if (ctl->options.preallocate)
                flags |= SHMD_PREALLOCATE;
        /* Where a program reads and writes shall not depend on what another one did. A file has one offset anyway. */
        if (ctl->program && !ctl->options.file_path)
                flags |= SHMD_PRIVATE;
        return flags;
}

static int check_sysv(struct ctl *ctl) {
        const struct options *options = &ctl->options;

        if (options->create.sysv && (options->create.maximum_bytes || options->create.page_bytes || options->preallocate))
                return fail_usage(ctl, "--maximum, --huge and --prealloc do not go with a SysV segment");
        return STATUS_DONE;
}

/* --- of zeros --- */

static int check_size(struct ctl *ctl, int n_arguments, char **arguments, uint64_t *ret_size_bytes) {
        const char *problem;

        if (ctl->options.read_only)
                return fail_usage(ctl, "--read-only is for --file: nobody could ever fill this segment");
        if (n_arguments < 2)
                return fail_usage(ctl, "create needs NAME SIZE, or NAME --file PATH");
        problem = parse_size(arguments[1], ret_size_bytes);
        if (!problem && *ret_size_bytes == 0)
                problem = "a segment has at least one byte";
        return problem ? fail_usage(ctl, "size \"%s\": %s", arguments[1], problem) : STATUS_DONE;
}

static int create_zeros(struct ctl *ctl, int n_arguments, char **arguments, struct shmd_segment **ret_segment) {
        char action[64] = "create";
        uint64_t size_bytes;
        int status = check_size(ctl, n_arguments, arguments, &size_bytes);
        int r;

        if (status == STATUS_DONE)
                status = check_sysv(ctl);
        if (status == STATUS_DONE)
                status = connect_to_daemon(ctl);
        if (status != STATUS_DONE)
                return status;
        r = shmd_create(ctl->connection, arguments[0], size_bytes, create_flags(ctl), &ctl->options.create, ret_segment);
        if (ctl->options.create.sysv)
                snprintf(action, sizeof(action), "create SysV segment 0x%08" PRIx32 " as", ctl->options.create.sysv_number);
        return r != 0 ? fail_shmd(ctl, r, action, arguments[0]) : STATUS_DONE;
}

/* --- of a file --- */

static int check_file(struct ctl *ctl, int n_arguments) {
        const struct options *options = &ctl->options;

        if (n_arguments > 1)
                return fail_usage(ctl, "a segment made of a file has the file's size: leave SIZE out");
        if (options->create.maximum_bytes || options->create.page_bytes || options->preallocate || options->create.sysv)
                return fail_usage(ctl, "--maximum, --huge, --prealloc and --sysv-key do not go with --file");
        return STATUS_DONE;
}

static int open_file(struct ctl *ctl, int *ret_fd) {
        const char *path = ctl->options.file_path;
        int access = ctl->options.read_only ? O_RDONLY : O_RDWR;
        /* A pipe or a device shall not keep us waiting before it is refused. */
        int fd = open(path, access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat stat;

        if (fd < 0)
                return fail("cannot open \"%s\": %s", path, strerror(errno));
        if (fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode) || stat.st_size == 0) {
                (void) close(fd);
                return fail("cannot make a segment of \"%s\": it is %s", path,
                            S_ISREG(stat.st_mode) ? "empty, and a segment has at least one byte" : "not a regular file");
        }
        *ret_fd = fd;
        return STATUS_DONE;
}

static int create_of_file(struct ctl *ctl, int n_arguments, char **arguments, struct shmd_segment **ret_segment) {
        int status = check_file(ctl, n_arguments), fd = -EBADF, r;

        if (status == STATUS_DONE)
                status = connect_to_daemon(ctl);
        if (status == STATUS_DONE)
                status = open_file(ctl, &fd);
        if (status != STATUS_DONE)
                return status;
        r = shmd_create_file(ctl->connection, arguments[0], fd, create_flags(ctl), &ctl->options.create, ret_segment);
        (void) close(fd);
        return r != 0 ? fail_shmd(ctl, r, "create", arguments[0]) : STATUS_DONE;
}

/* --- of the kernel's segment --- */

static int create_of_sysv(struct ctl *ctl, int n_arguments, char **arguments, struct shmd_segment **ret_segment) {
        const struct options *options = &ctl->options;
        char action[64];
        int status = STATUS_DONE, r;

        if (n_arguments > 1)
                status = fail_usage(ctl, "a SysV segment that is there has its own size: leave SIZE out");
        else if (options->create.mode || options->file_path || options->read_only)
                status = fail_usage(ctl, "--mode, --file and --read-only do not go with --sysv-id");
        if (status == STATUS_DONE)
                status = check_sysv(ctl);
        if (status == STATUS_DONE)
                status = connect_to_daemon(ctl);
        if (status != STATUS_DONE)
                return status;
        r = shmd_create(ctl->connection, arguments[0], 0, create_flags(ctl), &options->create, ret_segment);
        snprintf(action, sizeof(action), "adopt SysV segment %" PRIu32 " as", options->create.sysv_number);
        return r != 0 ? fail_shmd(ctl, r, action, arguments[0]) : STATUS_DONE;
}

static int create_any(struct ctl *ctl, int n_arguments, char **arguments, struct shmd_segment **ret_segment) {
        if (ctl->options.create.sysv == SHMD_SYSV_ADOPT)
                return create_of_sysv(ctl, n_arguments, arguments, ret_segment);
        if (ctl->options.file_path)
                return create_of_file(ctl, n_arguments, arguments, ret_segment);
        return create_zeros(ctl, n_arguments, arguments, ret_segment);
}

int cmd_create(struct ctl *ctl, int n_arguments, char **arguments) {
        _cleanup_(segment_closep) struct shmd_segment *segment = NULL;
        int status = create_check_lifetime(ctl);
        uint64_t id;

        if (status == STATUS_DONE)
                status = create_any(ctl, n_arguments, arguments, &segment);
        if (status != STATUS_DONE)
                return status;
        if (ctl->program)
                return hold_run(ctl->program, segment, false);
        id = shmd_id(segment);
        segment = shmd_close(segment); /* so that it does not show as a holder */
        return show_quietly(ctl, id);
}
