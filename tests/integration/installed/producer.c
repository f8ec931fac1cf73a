/* SPDX-License-Identifier: MIT */
/* producer NAME COUNT: makes a segment of COUNT numbers, fills it, and says so; keeps it until its input ends. */
#include <inttypes.h>
#include <shmd.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
        const struct shmd_create_options options = { .mode = 0640, .labels = "made-by=producer\n" };
        struct shmd_segment *segment;
        struct shmd *connection;
        void *memory;
        size_t size;

        if (argc != 3)
                return 2;
        if (shmd_connect(NULL, &connection) < 0) {
                fprintf(stderr, "producer: %s\n", shmd_error_message(NULL));
                return 3;
        }
        size = strtoul(argv[2], NULL, 10) * sizeof(uint32_t);
        if (shmd_create(connection, argv[1], size, SHMD_EXCLUSIVE, &options, &segment) < 0 ||
            shmd_map(segment, &memory, NULL) < 0) {
                fprintf(stderr, "producer: %s: %s\n", argv[1], shmd_error_message(connection));
                return 1;
        }
        for (uint32_t i = 0; i < size / sizeof(uint32_t); i++)
                ((uint32_t *) memory)[i] = i * i;
        printf("%" PRIu64 "\n", shmd_id(segment));
        fflush(stdout);
        while (getchar() != EOF)
                ;
        shmd_close(segment);
        shmd_disconnect(connection);
        return 0;
}
