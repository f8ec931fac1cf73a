#!/bin/sh
# The programs of the textbooks, as they are, on shmd: between the two of each pair the daemon has what they share.
# Their keys are everybody's, so this has a namespace of its own, the daemon in it.
if [ -z "${SHMD_TEST_DIRECTORY-}" ] && [ -z "${textbook_contained-}" ] && [ "$(id -u)" -eq 0 ] && unshare -i true 2>/dev/null; then
        textbook_contained=yes exec unshare -i "$0" "$@"
fi
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

case ${SHMD_TEST_SANITIZERS:-no} in
        no) ;;
        *) skip_rest "test-preload.sh does it with sanitizers" ;;
esac

# Each in a process of its own, which has ended when the other begins
textbook() {
        expect 0 shmdctl run --required -- "$SHMD_TEST_BUILDDIR/tests/programs/textbook" "$1"
        [ ! -s "$err" ] || fail "$1 said on standard error: $(cat "$err")"
}

nothing_is_left() {
        expect 0 shmdctl --no-headings list --all
        [ ! -s "$out" ] || fail "left: $(cat "$out")"
}

test_posix() {
        textbook producer
        expect 0 shmdctl --json show shm-example
        json 'j["size"] == 4096 and j["mode"] == "0644" and j["lifetime"] == "persist" and j["posix"] and j["resident"] == 4096'
        [ ! -e /dev/shm/shm-example ] || fail "it is in /dev/shm"
        textbook consumer
        says 'Learning operating systems is fun!'
        nothing_is_left
}

test_numbers() {
        textbook numbers-writer
        shmid=$(cat "$out")
        expect 0 shmdctl --json show "sysv/$shmid"
        json 'j["size"] == 8 and j["backing"] == "sysv" and j["mode"] == "0666" and j["shmid"] == '"$shmid"' and j["key"] != "0x00000000"'
        textbook numbers-reader
        says 42
        nothing_is_left
}

test_greeting() {
        textbook greeting-writer
        shmid=$(cat "$out")
        expect 0 shmdctl --json show "sysv/$shmid"
        json 'j["size"] == 4096 and j["key"] == "0x00000044" and j["shmid"] == '"$shmid"
        textbook greeting-reader
        says 'hello, world'
        # Nobody removes it, as in the book.
        expect 0 shmdctl rm "sysv/$shmid"
        nothing_is_left
        expect 1 shmdctl run -- "$SHMD_TEST_BUILDDIR/tests/programs/textbook" greeting-reader
}

umask 022
if [ -z "${textbook_contained-}" ]; then
        skip "what is under keys that are everybody's: this takes root"
        test_posix
        exit 0
fi
test_posix
test_numbers
test_greeting
exit 0
