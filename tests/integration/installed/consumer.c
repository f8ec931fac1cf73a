/* SPDX-License-Identifier: MIT */
/* consumer NAME: maps a segment of the producer's read-only, prints the sum of its numbers and its size. */
#include <inttypes.h>
#include <shmd.h>
#include <stdio.h>

int main(int argc, char **argv) {
        struct shmd_segment *segment;
        struct shmd *connection;
        uint64_t sum = 0;
        void *memory;
        size_t size;

        if (argc != 2)
                return 2;
        if (shmd_connect(NULL, &connection) < 0) {
                fprintf(stderr, "consumer: %s\n", shmd_error_message(NULL));
                return 3;
        }
        if (shmd_open(connection, argv[1], SHMD_READ_ONLY, &segment) < 0 || shmd_map(segment, &memory, &size) < 0) {
                fprintf(stderr, "consumer: %s: %s\n", argv[1], shmd_error_message(connection));
                return 1;
        }
        for (size_t i = 0; i < size / sizeof(uint32_t); i++)
                sum += ((const uint32_t *) memory)[i];
        printf("%" PRIu64 " of %" PRIu64 "\n", sum, shmd_size(segment));
        shmd_close(segment);
        shmd_disconnect(connection);
        return 0;
}
