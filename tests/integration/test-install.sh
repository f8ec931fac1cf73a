#!/bin/sh
# What others get: `make install` into an empty directory, found through pkg-config; programs in C11 and C++ built
# against it and run with the installed daemon; the exported symbols; `make uninstall`.
# shellcheck source=../support/script.sh
script_daemon=no
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

unset MAKEFLAGS MAKELEVEL MFLAGS SHMD_SOCKET
destination=$SHMD_TEST_DIRECTORY/destination
sources=$SHMD_TEST_SRCDIR/tests/integration/installed
case ${SHMD_TEST_SANITIZERS:-no} in
        no) sanitize= ;;
        *) sanitize="-fsanitize=$SHMD_TEST_SANITIZERS" ;;
esac

make_quietly() {
        "${MAKE:-make}" -C "$SHMD_TEST_BUILDDIR" "$@" DESTDIR="$destination" >make.log 2>&1 ||
                fail "make $*: $(tail -n 20 make.log)"
}

find_one() {
        found=$(find "$destination" -name "$1")
        found=$(find "$destination" -name "$1" ! -type d)
        [ "$(echo "$found" | wc -l)" -eq 1 ] || fail "$1 is installed more than once: $found"
        echo "$found"
}

make_quietly install
pc=$(find_one libshmd.pc) || exit 1
header=$(find_one shmd.h) || exit 1
daemon=$(find_one shmd) || exit 1
tool=$(find "$destination" -path '*/bin/shmdctl')
[ -x "$tool" ] || fail "shmdctl is not installed"
for file in bash-completion/completions/shmdctl _shmdctl shmdctl.fish; do
        [ -n "$(find "$destination" -path "*/${file#\*/}" -type f)" ] || fail "$file is not installed"
done
for unit in shmd-reclaim.service shmd-reclaim.timer shmd-metrics.service shmd-metrics.timer; do
        file=$(find_one "$unit") || exit 1
        ! grep -q '@' "$file" || fail "$unit: $(grep '@' "$file")"
done
find_one shmd.8 >/dev/null || exit 1
find_one shmdctl.1 >/dev/null || exit 1
find_one libshmd.3 >/dev/null || exit 1
find_one shmd-protocol.7 >/dev/null || exit 1
find_one shmd-preload.7 >/dev/null || exit 1
find_one shmd-messages.7 >/dev/null || exit 1
find_one shmd.catalog >/dev/null || exit 1
[ "$(find "$destination" -name '*.h' | wc -l)" -eq 1 ] || fail "more than one header is installed"
library=$(dirname "$(find "$destination" -name 'libshmd.so')")
[ "$library" != . ] || fail "libshmd.so is not installed"

# --- what the library exports is what its map says, and what the header declares ---

nm -D --defined-only "$library/libshmd.so" | sed -n 's/^[0-9a-f]* [TDBRV] \(shmd_[a-z_]*\)\(@@.*\)*$/\1/p' | sort >exported
sed -n 's/^ *\(shmd_[a-z_]*\);$/\1/p' "$SHMD_TEST_SRCDIR/client/libshmd.map" | sort >mapped
cmp -s exported mapped || fail "exported is not what the map has: $(diff exported mapped)"
sed 's,/\*.*\*/,,' "$header" | sed -n 's/^[a-z].*[ *]\(shmd_[a-z_]*\)(.*/\1/p' | sort -u >declared
cmp -s exported declared || fail "exported is not what the header declares: $(diff exported declared)"
nm -D --defined-only "$library/libshmd.so" | grep -v ' A ' | grep -v shmd_ | grep -E ' [TDBRV] ' >foreign || :
# The sanitizers' own helpers aside
if [ -z "$sanitize" ] && [ -s foreign ]; then
        fail "other symbols are exported: $(cat foreign)"
fi

# --- programs of others ---

PKG_CONFIG_PATH=$(dirname "$pc")
PKG_CONFIG_SYSROOT_DIR=$destination
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
flags=$(pkg-config --cflags --libs libshmd) || fail "pkg-config does not know libshmd"
[ "$(pkg-config --modversion libshmd)" = "$("$SHMD_TEST_SHMDCTL" --version | cut -d' ' -f2)" ] ||
        fail "the version in libshmd.pc is another one"

# compile COMPILER SOURCE PROGRAM FLAG...
compile() {
        compiler=$1 source=$2 program=$3
        shift 3
        # shellcheck disable=SC2086 # words
        $compiler "$@" -Wall -Wextra -Werror -pedantic $sanitize -o "$program" "$source" $flags 2>cc.log ||
                fail "$source: $(cat cc.log)"
}

cc=${SHMD_TEST_CC:-cc}
cxx=${SHMD_TEST_CXX:-c++}
compile "$cc" "$sources/producer.c" producer -std=c11 -D_GNU_SOURCE
compile "$cc" "$sources/consumer.c" consumer -std=c11
compile "$cxx" "$sources/header.cc" header -std=c++11
printf '#include <shmd.h>\nint main(void) { return shmd_version() == 0; }\n' >alone.c
compile "$cc" alone.c alone -std=c11
compile "$cc" alone.c alone -std=gnu17 -Wshadow -Wstrict-prototypes -Wold-style-definition

LD_LIBRARY_PATH=$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
cat >run <<'SCRIPT'
#!/bin/sh
# Under with-daemon, with the installed one.
mkfifo ready quit || exit 1
# In this order: each waits for the other end.
./producer numbers/squares 1000 <quit >ready &
producer=$!
exec 9>quit
read -r id <ready || exit 1
[ "$(./consumer numbers/squares)" = "332833500 of 4000" ] || exit 2
"$TOOL" --json list | grep -q "$id" || exit 3
./header || exit 4
./producer numbers/squares 1 </dev/null 2>refused && exit 5
grep -q 'exists' refused || exit 6
exec 9>&-
wait "$producer" || exit 7
[ "$(./consumer numbers/squares)" = "332833500 of 4000" ] || exit 8
"$TOOL" rm numbers/squares || exit 9
./consumer numbers/squares 2>refused
[ $? -eq 1 ] || exit 10
SCRIPT
chmod +x run
env TOOL="$tool" SHMD_TEST_DAEMON="$daemon" "$SHMD_TEST_BUILDDIR/tests/support/with-daemon" ./run >run.log 2>&1 ||
        fail "$(cat run.log)"

# --- and away with it ---

make_quietly uninstall
left=$(find "$destination" ! -type d)
[ -z "$left" ] || fail "uninstall leaves: $left"
