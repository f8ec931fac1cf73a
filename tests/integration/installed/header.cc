// SPDX-License-Identifier: MIT
// The header from C++: everything in it has C linkage and no word that C++ takes for itself.
#include <shmd.h>

static int count(const struct shmd_stat *stat, void *userdata) {
        *static_cast<uint64_t *>(userdata) += stat->size_bytes;
        return 0;
}

int main() {
        struct shmd *connection = nullptr;
        uint64_t bytes = 0;

        if (shmd_connect(nullptr, &connection) < 0)
                return 3;
        int r = shmd_list(connection, nullptr, 0, count, &bytes);
        connection = shmd_disconnect(connection);
        return r == 0 && connection == nullptr && bytes > 0 ? 0 : 1;
}
