/* SPDX-License-Identifier: MIT */
/* The fixture of most integration tests, one for each program: a daemon, and a connection to it. */
#pragma once

#include "client.h"
#include "harness.h"
#include "test.h"

static struct shmd *connection;

static void setup(void) {
        daemon_setup();
        connection = client_connect();
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        ck_assert_ptr_null(connection);
        daemon_teardown();
}
