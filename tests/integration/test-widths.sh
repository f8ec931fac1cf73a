#!/bin/sh
# Programs of 32 and of 64 bits on the locks, conditions, snapshots and bells of one segment.
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

compiler=${SHMD_TEST_CC:-cc}
[ "$SHMD_TEST_SANITIZERS" = no ] || skip_rest "sanitizers are for one width"
echo 'int main(void) { return sizeof(long) != 4; }' >width.c
"$compiler" -m32 width.c -o width 2>width.log || skip_rest "no compiler for 32 bits: $(head -n 1 width.log)"
./width || skip_rest "programs of 32 bits do not run here, or are all there are"

# build PROGRAM FLAG...: the library's own sources and the program
sources_of libclient_la libproc_la libprotocol_la >sources
[ "$(wc -l <sources)" -gt 20 ] || fail "the library's sources are not where they were in Makefile.am"
echo "$SHMD_TEST_SRCDIR/tests/programs/sync-widths.c" >>sources
build() {
        program=$1
        shift
        mkdir "$program.d"
        (cd "$program.d" && xargs "$compiler" "$@" -c -std=gnu11 -O1 -Wno-psabi -Wall -Wextra -Werror \
                -include "$SHMD_TEST_BUILDDIR/config.h" \
                -I"$SHMD_TEST_SRCDIR/protocol" -I"$SHMD_TEST_SRCDIR/client" -DSHMD_DAEMON_PATH='""' <../sources) ||
                fail "it can't be compiled with $*"
        "$compiler" "$@" "$program.d"/*.o -o "$program" -pthread || fail "it can't be linked with $*"
}
# Headers of libraries may lie among those of the own width alone; they are the same for both.
build narrow -m32 -idirafter "/usr/include/$("$compiler" -print-multiarch)"
build wide -m64

# begin COMMAND...: starts it, and waits until it says something; its pid is in $one
mkfifo said || fail "no pipe"
begin() {
        "$@" >said &
        one=$!
        read -r word <said || fail "it said nothing: $*"
}

for pair in 'narrow wide' 'wide narrow'; do
        # shellcheck disable=SC2086 # two words
        set -- $pair

        "./$1" count 20000 &
        one=$!
        expect 0 "./$2" count 20000
        wait "$one" || fail "$1 did not count beside $2"

        # Killed with the lock, before the other one wants it, and while it waits
        for when in before after; do
                begin "./$1" hold
                expect 0 "./$2" try
                if [ "$when" = after ]; then
                        "./$2" take >taken &
                        two=$!
                fi
                kill -KILL "$one"
                wait "$one" 2>/dev/null
                if [ "$when" = before ]; then
                        "./$2" take >taken || fail "$2 did not get the lock of $1"
                else
                        wait "$two" || fail "$2 waited in vain for $1"
                fi
                [ "$(cat taken)" = dead ] || fail "$2 was not told that $1 had died"
        done
        begin "./$1" hold 2
        "./$2" take >taken &
        two=$!
        kill -KILL "$one"
        wait "$one" 2>/dev/null
        wait "$two" || fail "$2 waited in vain for $1, who shared the lock"
        [ "$(cat taken)" = clean ] || fail "$2 took $1, who shared the lock, for a writer"
        expect 0 "./$1" take-slowly

        "./$1" turns 0 &
        one=$!
        expect 0 "./$2" turns 1
        wait "$one" || fail "$1 did not take turns with $2"
        shmdctl rm widths || fail "the segment could not be removed"

        begin "./$1" hear 20000
        expect 0 "./$2" ring 10000
        expect 0 "./$1" ring 10000
        wait "$one" || fail "$1 did not hear $2"

        begin "./$1" write
        expect 0 "./$2" read 20000
        kill -KILL "$one"
        wait "$one" 2>/dev/null
        shmdctl rm widths || fail "the segment could not be removed"
done
