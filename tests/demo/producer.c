/* SPDX-License-Identifier: MIT */
/* producer NAME MEBIBYTES TEXT: makes a segment, fills it, and holds it until its standard input ends. */
#include <err.h>
#include <shmd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
        struct shmd_create_options options = { .mode = 0640 };
        struct shmd_segment *segment;
        struct shmd *shmd;
        void *memory;
        size_t size;

        if (argc != 4)
                errx(2, "usage: producer NAME MEBIBYTES TEXT");
        if (shmd_connect(NULL, &shmd) < 0)
                errx(1, "cannot connect: %s", shmd_error_message(NULL));
        if (shmd_create(shmd, argv[1], strtoull(argv[2], NULL, 10) << 20, SHMD_EXCLUSIVE, &options, &segment) < 0 ||
            shmd_map(segment, &memory, &size) < 0)
                errx(1, "cannot create \"%s\": %s", argv[1], shmd_error_message(shmd));

        memset(memory, '.', size); /* so that all of it is really there */
        snprintf(memory, size, "%s", argv[3]);
        printf("producer: wrote \"%s\"\n", argv[3]);
        fflush(stdout);

        while (getchar() != EOF)
                ;
        shmd_close(segment);
        shmd_disconnect(shmd);
        return 0;
}
