# shellcheck shell=sh
# What the scripts share; sourced first. Runs the script anew under with-daemon, in a directory of its own,
# unless it says `script_daemon=no` before.
#
#   expect STATUS COMMAND...   runs a command whose exit status must be that; its output is in $out and $err (files)
#   says TEXT / errs TEXT      its output, its standard error is exactly that
#   errs_like PATTERN          its standard error matches an extended regular expression
#   fail TEXT                  ends the script as failed
#   skip TEXT / skip_rest TEXT a part is left out / the whole script can't be run here
#   sources_of TARGET...       what Makefile.am makes its targets of (patterns, such as libclient_la), a path a line

set -u
LC_ALL=C.UTF-8
export LC_ALL

: "${SHMD_TEST_BUILDDIR:?run the tests by make check}"

if [ "${script_daemon-yes}" = yes ] && [ -z "${SHMD_TEST_DIRECTORY-}" ]; then
        exec "$SHMD_TEST_BUILDDIR/tests/support/with-daemon" "$0" "$@"
fi
if [ -z "${SHMD_TEST_DIRECTORY-}" ]; then
        SHMD_TEST_DIRECTORY=$(mktemp -d "/tmp/shmd-test.XXXXXX") || exit 1
        trap 'rm -rf "$SHMD_TEST_DIRECTORY"' EXIT
        trap 'exit 1' HUP INT TERM
fi
cd "$SHMD_TEST_DIRECTORY" || exit 1

out=$SHMD_TEST_DIRECTORY/out
err=$SHMD_TEST_DIRECTORY/err

shmdctl() {
        "$SHMD_TEST_SHMDCTL" "$@"
}

fail() {
        printf 'FAILED: %s\n' "$*" >&2
        exit 1
}

skip() {
        printf 'skipped: %s: %s\n' "$(basename "$0")" "$*"
}

skip_rest() {
        printf '%s\n' "$*"
        exit 77
}

sources_of() {
        for target; do
                sed -n "/^${target}_SOURCES =/,/^\$/p" "$SHMD_TEST_SRCDIR/Makefile.am"
        done | sed -n "s|.*[[:space:]]\([a-z0-9_/]*\.c\)\([[:space:]].*\)\{0,1\}\$|$SHMD_TEST_SRCDIR/\1|p" | sort -u
}

expect() {
        expected=$1
        shift
        status=0
        "$@" >"$out" 2>"$err" || status=$?
        [ "$status" -eq "$expected" ] || fail "exit status $status instead of $expected: $* ($(head -c 500 "$err"))"
        if grep -E 'AddressSanitizer|LeakSanitizer|runtime error:' "$err" >/dev/null; then
                cat "$err" >&2
                fail "a sanitizer has reported: $*"
        fi
}

says() {
        printf '%s\n' "$1" | cmp -s - "$out" || fail "said: $(head -c 500 "$out"); expected: $1"
}

errs() {
        printf '%s\n' "$1" | cmp -s - "$err" || fail "said on standard error: $(head -c 500 "$err"); expected: $1"
}

errs_like() {
        grep -E -q -- "$1" "$err" || fail "said on standard error: $(head -c 500 "$err"); expected something like: $1"
}

# json PYTHON-EXPRESSION: of the last output, which is `j`; must be true
json() {
        python3 -c 'import json, sys
j = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' "$out" "$1" || fail "not so: $1: $(head -c 1500 "$out")"
}

# Notes what the daemon tells of segments, from what there is now on; until the script ends, whose trap it takes.
watch_events() {
        "$SHMD_TEST_SHMDCTL" watch --snapshot >events &
        watch=$!
        trap 'kill "$watch" 2>/dev/null; wait "$watch"' EXIT
        until grep -q snapshot-end events; do :; done
}

# await_event REGEX: until it has told of that
await_event() {
        until grep -E -q -- "$1" events; do
                kill -0 "$watch" || fail "watch has ended"
        done
}

# Until there is no segment any more, be it without a name
await_nothing() {
        until [ -z "$(shmdctl --no-headings list --all)" ]; do :; done
}
