/* SPDX-License-Identifier: MIT */
/* The functions behind the rows of the table in rows.c; see struct bench_row. */
#pragma once

#include "bench.h"

/* rows_kernel.c: what the kernel offers without any daemon */
int raw_open_setup(struct series *series);
int raw_open_run(struct series *series);
void raw_open_teardown(struct series *series);
int raw_open_many_run(struct series *series);
int raw_create_run(struct series *series);
int sysv_open_setup(struct series *series);
int sysv_open_run(struct series *series);
void sysv_open_teardown(struct series *series);
int sysv_create_setup(struct series *series);
int sysv_create_run(struct series *series);

/* rows_broker.c: through the bare broker */
int broker_setup(struct series *series);
int broker_setup_crowd(struct series *series);
void broker_teardown(struct series *series);
int bare_open_run(struct series *series);
int bare_create_run(struct series *series);
int bare_connect_run(struct series *series);
int same_open_run(struct series *series);
int same_create_run(struct series *series);
int same_connect_run(struct series *series);

/* rows_shmd.c: through libshmd */
int shmd_row_setup(struct series *series);
int shmd_row_setup_existing(struct series *series);
int shmd_row_setup_held(struct series *series);
int shmd_open_run(struct series *series);
int shmd_create_run(struct series *series);
int shmd_connect_run(struct series *series);
void shmd_row_teardown(struct series *series);
int shmd_posix_open_setup(struct series *series);
int shmd_posix_open_run(struct series *series);
void shmd_posix_open_teardown(struct series *series);
int shmd_posix_create_run(struct series *series);

/* rows_preload.c: the interposer */
int preload_open_setup(struct series *series);
int preload_open_run(struct series *series);
void preload_open_teardown(struct series *series);
void preload_held_teardown(struct series *series);
int preload_create_setup(struct series *series);
int preload_create_run(struct series *series);
int preload_held_setup(struct series *series);
int preload_held_run(struct series *series);
int reopen_held_run(struct series *series);

/* Beside ten segments and one client, or ten thousand and a thousand: crowd.h */
int shmd_row_setup_crowd(struct series *series);
int shmd_open_any_run(struct series *series);

/* rows_many.c: many at once; how many is in the row's "segments" */
int many_open_setup(struct series *series);
int many_open_run(struct series *series);
int many_create_setup(struct series *series);
int many_create_run(struct series *series);
int many_create_own_run(struct series *series);
void many_teardown(struct series *series);

/* rows_sync.c: locks, rings, snapshots, and what they are compared with */
int plain_mutex_setup(struct series *series);
int plain_mutex_run(struct series *series);
void plain_mutex_teardown(struct series *series);
int eventfd_setup(struct series *series);
int eventfd_run(struct series *series);
void eventfd_teardown(struct series *series);
int sync_setup(struct series *series);
int sync_lock_run(struct series *series);
int sync_share_run(struct series *series);
int sync_ring_run(struct series *series);
int sync_read_run(struct series *series);
void sync_teardown(struct series *series);

/* rows_leaks.c: shmdctl leaks; by the kernel's word, and by /proc */
int leaks_setup(struct series *series);
int leaks_ask_run(struct series *series);
int leaks_look_run(struct series *series);
void leaks_teardown(struct series *series);

/* Shared by all: maps the page of a descriptor, touches it if asked to, and unmaps it. */
int map_page(int fd, bool touch);
