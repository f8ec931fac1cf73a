/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Names that the linker's --wrap makes. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *pointer, size_t size);
void __real_free(void *pointer);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *pointer, size_t size);
void __wrap_free(void *pointer);

static unsigned countdown; /* zero: not armed */
static bool for_good_now, failed;

/*
 * What is allocated: a hash table with linear probing. What comes from elsewhere, such as strdup()
 * in the C library, is not in it, and its free() is none of our business.
 */
#define SLOTS 65536u
static void *slots[SLOTS];
static unsigned live;

void faults_arm(unsigned nth, bool for_good) {
        countdown = nth;
        for_good_now = for_good;
        failed = false;
}

bool faults_disarm(void) {
        bool any = failed;

        countdown = 0;
        failed = false;
        return any;
}

unsigned faults_live(void) {
        return live;
}

static bool fails_now(void) {
        if (countdown == 0)
                return false;
        if (countdown > 1) {
                countdown--;
                return false;
        }
        countdown = for_good_now ? 1 : 0;
        failed = true;
        return true;
}

static unsigned home_of(const void *pointer) {
        return (unsigned) (((uintptr_t) pointer >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 48) % SLOTS;
}

static void *remember(void *pointer) {
        unsigned i;

        if (!pointer)
                return NULL;
        if (++live > SLOTS / 2)
                abort();
        for (i = home_of(pointer); slots[i]; i = (i + 1) % SLOTS)
                ;
        slots[i] = pointer;
        return pointer;
}

static void forget(const void *pointer) {
        unsigned i, hole;

        if (!pointer)
                return;
        for (i = home_of(pointer); slots[i] != pointer; i = (i + 1) % SLOTS)
                if (!slots[i])
                        return;
        live--;
        /* Those behind it must still be found without passing a hole. */
        for (hole = i, slots[hole] = NULL, i = (i + 1) % SLOTS; slots[i]; i = (i + 1) % SLOTS)
                if ((i - home_of(slots[i])) % SLOTS >= (i - hole) % SLOTS) {
                        slots[hole] = slots[i];
                        slots[i] = NULL;
                        hole = i;
                }
}

void *__wrap_malloc(size_t size) {
        return fails_now() ? NULL : remember(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size) {
        return fails_now() ? NULL : remember(__real_calloc(n, size));
}

void *__wrap_realloc(void *pointer, size_t size) {
        forget(pointer);
        return __real_realloc(pointer, size);
}

void __wrap_free(void *pointer) {
        forget(pointer);
        __real_free(pointer);
}
