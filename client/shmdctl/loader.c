/* SPDX-License-Identifier: MIT */
/*
 * Which dynamic linker a program has. Owns nothing, and decides nothing: what can't be read or understood has none.
 */
#include "shmdctl.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

/* As execvp(3) looks for it. */
static int open_program(const char *program) {
        const char *path = getenv("PATH") ?: "/bin:/usr/bin", *end;

        if (strchr(program, '/'))
                return open(program, O_RDONLY | O_CLOEXEC);
        for (;; path = end + 1) {
                _cleanup_(freep) char *file = NULL;

                end = strchrnul(path, ':');
                if (asprintf(&file, "%.*s%s%s", (int) (end - path), path, end > path ? "/" : "", program) < 0)
                        fail_memory();
                if (access(file, X_OK) == 0)
                        return open(file, O_RDONLY | O_CLOEXEC);
                if (*end == '\0')
                        return -1;
        }
}

/* PT_INTERP of a program of our own kind */
static bool read_interpreter(int fd, char *buffer, size_t size) {
        ElfW(Ehdr) header;
        ElfW(Phdr) part;

        if (pread(fd, &header, sizeof(header), 0) != sizeof(header) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
            header.e_ident[EI_CLASS] != (__ELF_NATIVE_CLASS == 64 ? ELFCLASS64 : ELFCLASS32))
                return false;
        for (unsigned i = 0; i < header.e_phnum; i++) {
                if (pread(fd, &part, sizeof(part), (off_t) (header.e_phoff + i * sizeof(part))) != sizeof(part))
                        return false;
                if (part.p_type == PT_INTERP)
                        return part.p_filesz > 0 && part.p_filesz <= size &&
                               pread(fd, buffer, part.p_filesz, (off_t) part.p_offset) == (ssize_t) part.p_filesz &&
                               buffer[part.p_filesz - 1] == '\0';
        }
        return false;
}

bool program_is_for_musl(const char *program) {
        static const char musl[] = "ld-musl-";
        char interpreter[256], *name;
        int fd = open_program(program);
        bool known;

        if (fd < 0)
                return false;
        known = read_interpreter(fd, interpreter, sizeof(interpreter));
        close(fd);
        name = known ? strrchr(interpreter, '/') : NULL;
        return name && strncmp(name + 1, musl, strlen(musl)) == 0;
}
