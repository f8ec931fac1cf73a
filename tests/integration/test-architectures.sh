#!/bin/sh
# All that is installed is compiled, and no more than that, for other machines: arm64, and whichever others' headers are here. Static
# assertions tell what is of another size there, as a mutex is.
# shellcheck disable=SC2034 # script.sh reads it
script_daemon=no
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

[ "$SHMD_TEST_SANITIZERS" = no ] || skip_rest "sanitizers do not make a difference to it"

sources_of 'lib[a-z_]*' 'shmd[a-z_]*' >sources
[ "$(wc -l <sources)" -gt 100 ] || fail "the sources are not where they were in Makefile.am"

# One compiler for all machines. (A gcc for another one can't be installed beside the one for programs of 32 bits.)
libraries=$(pkg-config --cflags-only-I libevent_core libsystemd inih zlib libbsd smartcols json-c ncursesw) || fail "no libraries"
for machine in aarch64-linux-gnu powerpc64-linux-gnu riscv64-linux-gnu s390x-linux-gnu; do
        # Headers of libraries lie among those of this machine; they are the same for all.
        cat >flags <<EOF
--target=$machine -nostdlibinc -isystem /usr/$machine/include -idirafter /usr/include
-idirafter /usr/include/$("${SHMD_TEST_CC:-cc}" -print-multiarch) $(echo "$libraries" | sed 's/-I */-idirafter /g')
-std=gnu11 -O1 -Wall -Wextra -Wno-string-concatenation -Werror -include $SHMD_TEST_BUILDDIR/config.h
-I$SHMD_TEST_SRCDIR/protocol -I$SHMD_TEST_SRCDIR/client -I$SHMD_TEST_SRCDIR/client/scan
-I$SHMD_TEST_SRCDIR/daemon -I$SHMD_TEST_SRCDIR/daemon/core
-DSHMD_DAEMON_PATH=\\"\\" -DSHMD_PRELOAD_PATH=\\"\\"
EOF
        if echo '#include <pthread.h>' | clang @flags -x c -fsyntax-only - 2>log; then
                xargs -P 2 -n 16 clang @flags -fsyntax-only <sources || fail "it can't be compiled for $machine"
        elif [ "$machine" = aarch64-linux-gnu ]; then
                skip_rest "no compiler for $machine: $(head -n 1 log)"
        fi
done
