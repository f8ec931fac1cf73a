#!/bin/sh
# shmdctl top: once, and on a terminal.
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

shmdctl create small 4K --prealloc || fail "create"
shmdctl create large 1M || fail "create"
shmdctl create middle 64K --prealloc || fail "create"

names() {
        python3 -c 'import json, sys; print(*[s["name"] for s in json.load(open(sys.argv[1]))])' "$out"
}

is_sorted() {
        expect 0 shmdctl --json top --interval 0.1 --sort "$1"
        [ "$(names)" = "$2" ] || fail "by $1: $(names)"
}

is_sorted size 'large middle small'
is_sorted resident 'middle small large'
is_sorted name 'large middle small'
is_sorted id 'small large middle'
expect 0 shmdctl hold small -- "$SHMD_TEST_SHMDCTL" top --once --interval 0.1 --sort holders --no-headings -o name,holders
[ "$(head -n 1 "$out" | tr -s ' ')" = 'small 1' ] || fail "by holders: $(cat "$out")"
expect 0 shmdctl top --once --interval 0.1 mid --no-headings -o name,opens
[ "$(tr -s ' ' <"$out")" = 'middle 1' ] || fail "with a filter: $(cat "$out")"
expect 2 shmdctl top --sort colour --once
expect 2 shmdctl top --once --interval 0
expect 2 shmdctl top </dev/null
errs_like 'no terminal.*--once'
expect 3 shmdctl --socket /nonexistent/socket top --once

# Opens in between: a rate is there.
cat >opener.sh <<'SCRIPT'
while [ -e go ]; do "$SHMD_TEST_SHMDCTL" cat small >/dev/null || exit 1; done
SCRIPT
: >go
sh opener.sh &
opener=$!
expect 0 shmdctl --json top --sort opens --interval 1
rm go
wait "$opener"
json 'j[0]["name"] == "small" and j[0]["opens_per_second"] > 0 and j[1]["opens_per_second"] == 0 and j[0]["opens"] > 1'

# With ten thousand, and an eye on the keys: what each shows has to come up.
cat >screen.py <<'PYTHON'
import fcntl, os, pty, select, signal, struct, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execv(os.environ["SHMD_TEST_SHMDCTL"], ["shmdctl", "top"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
seen = b""
def wait_for(text):
    global seen
    end = time.monotonic() + 60
    while text not in seen:
        if time.monotonic() > end or not select.select([terminal], [], [], end - time.monotonic())[0]:
            sys.exit("waited in vain for %r in %r" % (text, seen[-3000:]))
        seen += os.read(terminal, 65536)
    seen = seen[seen.index(text) + len(text):]
def press(keys, *texts):
    os.write(terminal, keys + b"\x0c") # and all of it anew, as curses writes but what has changed
    for text in texts:
        wait_for(text)
wait_for(b"10004 segments")
wait_for(b"middle")
press(b"n", b"by name", b"large")
press(b"\x1bOF", b"small")              # End
press(b"/many/09", b"names with: many/09", b"many/09")
press(b"77\n", b"many/0977")
press(b"\x1b", b"by name", b"large")
press(b"/hidden\n", b"\\u202ehidden") # not the character itself, which would turn the line
press(b"\x1b", b"by name", b"large")
press(b"R", b"reversed", b"small")
press(b"?", b"names with what follows")
press(b"s", b"by size", b"OWNER      NAME")
# On a narrow terminal it is the names that stay, and what they are sorted by.
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
press(b"r", b"by resident", b"RESIDENT NAME")
press(b"h", b"by holders", b"HOLDERS NAME")
os.write(terminal, b"q")
_, status = os.waitpid(pid, 0)
assert status == 0, status
# Interrupted: it dies of that, and the terminal is as it was.
seen = b""
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execv(os.environ["SHMD_TEST_SHMDCTL"], ["shmdctl", "top"])
wait_for(b"segments")
os.kill(pid, signal.SIGTERM)
wait_for(b"\x1b[?1049l")
_, status = os.waitpid(pid, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
# A terminal on which nothing can be drawn
seen = b""
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "dumb"
    os.execv(os.environ["SHMD_TEST_SHMDCTL"], ["shmdctl", "top"])
wait_for(b"$TERM is \"dumb\": say --once")
_, status = os.waitpid(pid, 0)
assert os.WEXITSTATUS(status) == 1, status
PYTHON
shmdctl create "$(printf '\342\200\256hidden')" 4K || fail "create"
cat >many.c <<'SOURCE'
#include <shmd.h>
#include <stdio.h>
int main(void) {
        struct shmd *shmd;
        if (shmd_connect(NULL, &shmd) < 0)
                return 1;
        for (int i = 0; i < 10000; i++) {
                struct shmd_segment *segment;
                char name[32];
                snprintf(name, sizeof(name), "many/%05d", i);
                if (shmd_create(shmd, name, 4096, 0, NULL, &segment) < 0)
                        return 1;
                shmd_close(segment);
        }
        shmd_disconnect(shmd);
        return 0;
}
SOURCE
case ${SHMD_TEST_SANITIZERS:-no} in
        no) sanitize= ;;
        *) sanitize="-fsanitize=$SHMD_TEST_SANITIZERS" ;;
esac
# shellcheck disable=SC2086 # words
"${SHMD_TEST_CC:-cc}" $sanitize -D_GNU_SOURCE -I"$SHMD_TEST_SRCDIR/client" -o many many.c -L"$SHMD_TEST_BUILDDIR/.libs" \
        -Wl,-rpath,"$SHMD_TEST_BUILDDIR/.libs" -lshmd || fail "many.c"
./many || fail "ten thousand segments"
expect 0 python3 screen.py
