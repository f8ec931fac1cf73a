/* SPDX-License-Identifier: MIT */
#include "daemon.h"

int main(int argc, char **argv) {
        struct options options;
        int status, r;

        if (options_parse(argc, argv, &options, &status) != 0)
                return status;
        log_setup(options.log_target, options.log_level);
        r = daemon_run(&options);
        options_done(&options);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
