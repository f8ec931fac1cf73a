/* SPDX-License-Identifier: MIT */
/* consumer NAME: maps a segment read-only and prints the text in it, again for each line that it is given. */
#include <err.h>
#include <shmd.h>
#include <stdio.h>

int main(int argc, char **argv) {
        struct shmd_segment *segment;
        struct shmd *shmd;
        void *memory;
        char line[80];

        if (argc != 2)
                errx(2, "usage: consumer NAME");
        if (shmd_connect(NULL, &shmd) < 0)
                errx(1, "cannot connect: %s", shmd_error_message(NULL));
        if (shmd_open(shmd, argv[1], SHMD_READ_ONLY, &segment) < 0 || shmd_map(segment, &memory, NULL) < 0)
                errx(1, "cannot open \"%s\": %s", argv[1], shmd_error_message(shmd));

        do {
                printf("consumer: read \"%s\"\n", (const char *) memory);
                fflush(stdout);
        } while (fgets(line, sizeof(line), stdin));

        shmd_close(segment);
        shmd_disconnect(shmd);
        return 0;
}
