#!/bin/sh
# shmdctl: every command, exit statuses, JSON, the wording of errors.
# shellcheck disable=SC2016 # variables for programs under `hold`
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

# --- usage: 2, and no daemon: 3 ---

test_usage() {
        expect 2 shmdctl
        expect 2 shmdctl nonsense
        errs_like '^shmdctl: .*nonsense'
        expect 2 shmdctl --nonsense list
        errs_like 'nonsense'
        expect 2 shmdctl list --nonsense
        for command in show create put cat dump chmod chown rename rm hold resize lifetime freeze wait; do
                expect 2 shmdctl "$command"
                [ ! -s "$out" ] || fail "$command: usage errors belong to standard error"
                errs_like '^shmdctl: '
        done
        expect 2 shmdctl show a b
        expect 2 shmdctl create a
        expect 2 shmdctl create a 1 b
        expect 2 shmdctl rename a
        expect 2 shmdctl list -o nonsense
        expect 2 shmdctl hold a
        expect 2 shmdctl lock a
        expect 2 shmdctl lock a --timeout x -- true
        for size in '' 0 0x 1X -1 1.5 K 1KK 99999999999999999999 16E 18446744073709551616; do
                expect 2 shmdctl create a "$size"
        done
        for mode in 8 rw 01777 u+z ''; do
                expect 2 shmdctl create -m "$mode" a 1
        done
        expect 2 shmdctl create --lifetime soon a 1
        expect 2 shmdctl create --lifetime linger a 1
        expect 2 shmdctl create --lifetime linger=x a 1
        expect 2 shmdctl create --label novalue a 1
        expect 2 shmdctl chmod 9 a
        expect 2 shmdctl resize a
        expect 2 shmdctl resize a 0
        expect 2 shmdctl resize a 1 b
        expect 2 shmdctl lifetime a
        expect 2 shmdctl lifetime a soon
        expect 2 shmdctl lifetime a linger
        expect 2 shmdctl wait a b
        expect 2 shmdctl wait a --timeout x
        expect 2 shmdctl wait a --timeout -1
        expect 2 shmdctl watch a b
        expect 2 shmdctl watch --count 0
        expect 2 shmdctl watch --timeout x
        expect 2 shmdctl create a 1 --huge=3M
        expect 2 shmdctl create a 1 --maximum 0
        expect 2 shmdctl create a 1 --file /etc/passwd
        expect 2 shmdctl create a
        expect 2 shmdctl create a 1 --lifetime creator
        errs_like 'PROGRAM'
        expect 0 shmdctl list
        says_nothing
}

says_nothing() {
        [ ! -s "$out" ] || fail "said: $(cat "$out")"
        [ ! -s "$err" ] || fail "said on standard error: $(cat "$err")"
}

test_help() {
        expect 0 shmdctl --version
        says "shmdctl $(sed -n 's/^#define PACKAGE_VERSION "\(.*\)"/\1/p' "$SHMD_TEST_BUILDDIR/config.h")"
        expect 0 shmdctl --help
        commands=$(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' "$out")
        [ "$(echo "$commands" | wc -l)" -ge 11 ] || fail "too few commands in --help: $commands"
        for command in $commands; do
                expect 0 shmdctl "$command" --help
                grep -q "Usage: shmdctl $command" "$out" || fail "$command --help: no usage"
                [ ! -s "$err" ] || fail "$command --help: on standard error"
        done
}

test_no_daemon() {
        expect 3 shmdctl --socket /nonexistent/shmd.sock list
        errs_like '^shmdctl: .*/nonexistent/shmd.sock'
        expect 3 env SHMD_SOCKET=/nonexistent/shmd.sock "$SHMD_TEST_SHMDCTL" status
        touch file
        expect 3 shmdctl --socket file list
        errs_like 'file'
        expect 2 shmdctl --socket '' list
        errs_like '^shmdctl: --socket needs a path'
        expect 3 env -u XDG_RUNTIME_DIR "$SHMD_TEST_SHMDCTL" --user list
        errs 'shmdctl: no daemon: $XDG_RUNTIME_DIR is not set, where a user'"'"'s own listens'
}

# --- create, list, show ---

test_create() {
        expect 0 shmdctl create plain 4096
        expect 0 shmdctl create video/frames 2M -m 0640 --label role=camera -l 'rate=50 Hz'
        expect 0 shmdctl create 'with space' 1K
        expect 0 shmdctl create größe 1
        expect 0 shmdctl create /slash 3
        expect 1 shmdctl create plain 1
        errs_like '^shmdctl: .*"plain".*exists'
        expect 1 shmdctl create bad//name 1
        errs_like '^shmdctl: .*"bad//name".*empty component'
        expect 1 shmdctl create huge 15E
        errs_like '^shmdctl: .*"huge".*large'

        expect 0 shmdctl --json list
        json '[s["name"] for s in j] == sorted(["plain", "video/frames", "with space", "größe", "slash"])'
        json '{s["name"]: s["size"] for s in j} == {"plain": 4096, "video/frames": 2 << 20, "with space": 1024, "größe": 1, "slash": 3}'
        json 'all(set("id name size resident uid gid mode holders lifetime state backing created_usec".split()) <= set(s) for s in j)'
        json 'all(type(s["holders"]) is int and s["holders"] == 0 for s in j)'
        json 'all(s["state"] == "published" and s["backing"] == "memfd" and s["lifetime"] == "persist" for s in j)'
        json 'len(set(s["id"] for s in j)) == 5'
        expect 0 shmdctl list --json video/
        json 'len(j) == 1 and j[0]["mode"] == "0640" and j[0]["labels"] == {"role": "camera", "rate": "50 Hz"}'
        expect 0 shmdctl --json list nothing
        json 'j == []'
}

test_list() {
        expect 0 shmdctl list --no-headings -o name,size,mode
        [ "$(wc -l <"$out")" -eq 5 ] || fail "list: $(cat "$out")"
        grep -q '^video/frames  *2M .*0640' "$out" || fail "list: $(cat "$out")"
        expect 0 shmdctl list -o name,size -b video/
        head -n 1 "$out" | grep -q 'NAME' || fail "list: no headings"
        grep -q '^video/frames  *2097152' "$out" || fail "list -b: $(cat "$out")"
        expect 0 shmdctl list nothing --no-headings
        says_nothing
        expect 0 shmdctl list -o +labels video/
        grep -q 'camera' "$out" || fail "list -o +labels: $(cat "$out")"
        # A terminal's width is no limit for what is not a terminal.
        expect 0 env COLUMNS=20 "$SHMD_TEST_SHMDCTL" list video/
        grep -q 'video/frames' "$out" || fail "list in 20 columns: $(cat "$out")"
}

test_show() {
        expect 0 shmdctl show video/frames
        for word in video/frames 0640 camera memfd; do
                grep -q "$word" "$out" || fail "show does not tell \"$word\": $(cat "$out")"
        done
        expect 0 shmdctl --json show video/frames
        json 'j["name"] == "video/frames" and j["holders"] == [] and j["size"] == 2 << 20'
        id=$(python3 -c 'import json; print(json.load(open("out"))["id"])')
        expect 0 shmdctl --json show "$id"
        json 'j["name"] == "video/frames"'
        expect 1 shmdctl show nothing
        errs 'shmdctl: cannot show "nothing": no such segment'
        [ ! -s "$out" ] || fail "show of nothing says something"
        expect 1 shmdctl --json show nothing
        expect 1 shmdctl show 1
        errs_like '"1".*no such segment'
}

# --- bytes in and out ---

test_put_and_cat() {
        printf 'Hello, shared memory.\n' >text
        expect 0 shmdctl put greeting text
        expect 0 shmdctl cat greeting
        cmp -s out text || fail "cat gives other bytes"
        expect 1 shmdctl put greeting text
        errs_like '^shmdctl: .*"greeting".*exists'
        expect 0 shmdctl cat greeting
        cmp -s out text || fail "a put that failed has changed what was there"

        shmdctl put piped <text || fail "put of standard input"
        # shellcheck disable=SC2002 # a pipe it shall be
        cat text | shmdctl put from-pipe - || fail "put of a pipe"
        expect 0 shmdctl cat from-pipe
        cmp -s out text || fail "put of a pipe: other bytes"
        expect 1 shmdctl put missing /nonexistent/file
        errs_like '^shmdctl: .*/nonexistent/file.*No such file'
        expect 1 shmdctl put directory /
        : >empty
        expect 1 shmdctl put empty empty
        errs_like '"empty".*empty'
        expect 1 shmdctl cat nothing
        errs 'shmdctl: cannot open "nothing": no such segment'
        expect 0 shmdctl --json put counted text
        json 'j["name"] == "counted" and j["size"] == 22'
        expect 0 shmdctl --json list
        json 'not [s for s in j if s["name"] in ("missing", "directory", "empty")]'
        expect 0 shmdctl rm greeting piped from-pipe counted
}

# 200 MB, byte for byte
test_large_file() {
        head -c 209715200 /dev/urandom >large || fail "no room for 200 MB in $PWD"
        expect 0 shmdctl put large large
        shmdctl cat large | cmp - large || fail "200 MB have changed on their way"
        expect 0 shmdctl --json show large
        json 'j["size"] == 209715200 and j["resident"] == 209715200'
        shmdctl put large-pipe <large || fail "put of 200 MB from standard input"
        shmdctl cat large-pipe >large-out || fail "cat of 200 MB"
        cmp large large-out || fail "200 MB have changed on their way"
        rm large large-out
        # A reader that goes early
        shmdctl cat large 2>err | head -c 10 >/dev/null
        expect 0 shmdctl rm large large-pipe
}

# An interrupted put leaves nothing: it has read most of a pipe's bytes when it is told to end.
test_interrupted_put() {
        mkfifo fifo
        "$SHMD_TEST_SHMDCTL" put interrupted <fifo >out 2>err &
        put=$!
        exec 9>fifo
        # These are more than a pipe holds: when they are written, put has read some.
        head -c 1000000 /dev/zero >&9
        kill -TERM "$put"
        wait "$put"
        status=$?
        exec 9>&-
        [ "$status" -ne 0 ] || fail "an interrupted put says that all is well"
        expect 1 shmdctl show interrupted
}

test_dump() {
        python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)) + b"\0" * 100 + b"end\n")' >bytes
        expect 0 shmdctl put bytes bytes
        expect 0 shmdctl dump bytes
        cp out dump
        python3 - bytes >expected <<'PYTHON'
import sys
data = open(sys.argv[1], "rb").read()
last = None
starred = False
for at in range(0, len(data), 16):
    line = data[at:at + 16]
    if line == last and len(line) == 16:
        if not starred:
            print("*")
        starred = True
        continue
    last, starred = line, False
    words = "".join(("%02x " % b) + (" " if i == 7 else "") for i, b in enumerate(line))
    text = "".join(chr(b) if 32 <= b < 127 else "." for b in line)
    print("%08x  %-49s |%s|" % (at, words, text))
print("%08x" % len(data))
PYTHON
        cmp -s dump expected || fail "dump: $(diff dump expected | head -n 10)"
        expect 0 shmdctl dump --offset 0x100 -n 16 bytes
        head -n 1 out | grep -q '^00000100' || fail "dump --offset: $(cat out)"
        expect 0 shmdctl rm bytes
}

# --- changes ---

test_chmod() {
        expect 0 shmdctl chmod 0640 plain
        expect 0 shmdctl --json show plain
        json 'j["mode"] == "0640"'
        expect 0 shmdctl chmod u=rw,g+w,o=r plain
        expect 0 shmdctl --json show plain
        json 'j["mode"] == "0664"'
        expect 0 shmdctl chmod a-w plain
        expect 0 shmdctl --json show plain
        json 'j["mode"] == "0444"'
        expect 1 shmdctl chmod 0600 nothing plain
        errs 'shmdctl: cannot change the mode of "nothing": no such segment'
        expect 0 shmdctl --json show plain
        json 'j["mode"] == "0600"' # the others were done all the same
}

test_chown() {
        expect 0 shmdctl chown ":$(id -g)" plain
        expect 0 shmdctl chown "$(id -u)" plain
        expect 1 shmdctl chown "$(id -u)" nothing
        errs_like '"nothing": no such segment'
        status=0
        shmdctl chown no-such-user-here plain >out 2>err || status=$?
        [ "$status" -eq 1 ] || [ "$status" -eq 2 ] || fail "chown to nobody: $status"
        errs_like 'no-such-user-here'
        if [ "$(id -u)" -ne 0 ]; then
                skip "chown to others: needs root"
                return
        fi
        expect 0 shmdctl chown 61001:61002 plain
        expect 0 shmdctl --json show plain
        json 'j["uid"] == 61001 and j["gid"] == 61002'
        expect 0 shmdctl chown 0:0 plain
}

test_rename() {
        expect 0 shmdctl rename plain simple/plain
        expect 1 shmdctl show plain
        expect 0 shmdctl show simple/plain
        expect 1 shmdctl rename simple/plain video/frames
        errs_like '"(simple/plain|video/frames)".*exists'
        expect 1 shmdctl rename nothing something
        errs_like '"nothing": no such segment'
        expect 0 shmdctl rename simple/plain plain
}

test_rm() {
        expect 0 shmdctl create rm/a 1
        expect 0 shmdctl create rm/b 1
        expect 1 shmdctl rm rm/a nothing rm/b
        errs 'shmdctl: cannot remove "nothing": no such segment'
        expect 0 shmdctl list rm/
        says_nothing
        expect 0 shmdctl create /-dash 1
        expect 0 shmdctl rm -- -dash
}

# --- hold ---

test_hold() {
        printf 'held bytes' >text
        expect 0 shmdctl put held text
        expect 0 shmdctl hold held -- sh -c 'cat <&$SHMD_FD; echo " $SHMD_SIZE"'
        says 'held bytes 10'
        expect 0 shmdctl hold held --rw -- sh -c 'printf HELD >&$SHMD_FD'
        expect 0 shmdctl cat held
        [ "$(cat out)" = 'HELD bytes' ] || fail "hold --rw: $(cat out)"
        # Read-only, without --rw
        expect 0 shmdctl hold held -- sh -c '{ printf no >&$SHMD_FD; } 2>/dev/null || exit 0; exit 1'
        # It is a holder, seen as one
        expect 0 shmdctl hold held --rw -- "$SHMD_TEST_SHMDCTL" --json show held
        json 'j["holder_count"] == 1 and len(j["holders"]) == 1'
        json 'j["holders"][0]["access"] == "rw" and j["holders"][0]["uid"] == j["uid"]'
        expect 0 shmdctl --json show held
        json 'j["holders"] == []'

        # The program's own exit status
        expect 7 shmdctl hold held -- sh -c 'exit 7'
        expect 143 shmdctl hold held -- sh -c 'kill -TERM $$'
        expect 127 shmdctl hold held -- /nonexistent/program
        errs_like '/nonexistent/program'
        expect 126 shmdctl hold held -- /
        expect 1 shmdctl hold nothing -- true
        errs 'shmdctl: cannot open "nothing": no such segment'
}

# Removed while it is held, it stays for who holds it, and is seen with --all.
test_unlinked_while_held() {
        cat >inside <<'SCRIPT'
"$SHMD_TEST_SHMDCTL" rm held || exit 1
"$SHMD_TEST_SHMDCTL" show held 2>/dev/null && exit 2
"$SHMD_TEST_SHMDCTL" list held | grep -q . && exit 3
"$SHMD_TEST_SHMDCTL" list --all --no-headings -o name,state held | grep -q 'held.*unlinked' || exit 4
[ "$(cat <&$SHMD_FD)" = 'HELD bytes' ] || exit 5
SCRIPT
        expect 0 shmdctl hold held -- sh inside
        expect 0 shmdctl list --all held
        says_nothing
}

# --- lock ---

# Writes to the first pipe when it has the lock, keeps it until the second one says something.
lock_in_background() {
        shmdctl lock "$@" -- sh -c 'echo $$ >entered; read -r answer <leave; exit "$answer"' 2>background.err &
        background=$!
        read -r program <entered
}

leave_lock() {
        echo "$1" >leave
        status=0
        wait "$background" || status=$?
        [ "$status" -eq "$1" ] || fail "lock: exit status $status instead of $1: $(cat background.err)"
}

test_lock() {
        mkfifo entered leave
        expect 1 shmdctl lock job -- true
        errs_like '^shmdctl: cannot open "job": '
        expect 7 shmdctl lock job --create -- sh -c 'test "$SHMD_SIZE" -eq 1 && exit 7'
        expect 0 shmdctl lock job --create --shared -- true
        lock_in_background job --create
        expect 1 shmdctl lock job --timeout 0 -- touch too-early
        errs_like '^shmdctl: cannot lock "job": pid [0-9]+, [a-z-]+, has the lock$'
        expect 1 shmdctl lock job --shared --timeout 0.01 -- touch too-early
        [ ! -e too-early ] || fail 'lock: two at a time'
        expect 0 shmdctl --json show job
        json 'j["lock"]["state"] == "consistent" and j["lock"]["waiters"] == []'
        json '[h["shared"] for h in j["lock"]["holders"]] == [False] and j["lock"]["holders"][0]["confirmed"]'
        json 'j["lock"]["holders"][0]["pid"] == j["holders"][0]["pid"]'
        expect 0 shmdctl show job
        grep -q '^ *[0-9]* *[0-9]* .*shmdctl.*exclusive *holds *yes$' "$out" || fail "show: $(cat "$out")"
        leave_lock 3

        expect 0 shmdctl create job 1
        lock_in_background job --shared
        expect 0 shmdctl lock job --shared --timeout 0 -- true
        expect 1 shmdctl lock job --timeout 0 -- true
        leave_lock 0

        # It dies, and the program with it.
        lock_in_background job
        expect 0 shmdctl --json show job
        python3 -c 'import json, os, signal; os.kill(json.load(open("out"))["lock"]["holders"][0]["pid"], signal.SIGKILL)'
        { wait "$background"; } 2>/dev/null
        while kill -0 "$program" 2>/dev/null; do :; done
        expect 0 shmdctl lock job -- true
        errs 'shmdctl: "job": who had the lock before has died; going on'
        expect 0 shmdctl lock job -- true
        says_nothing
        expect 0 shmdctl rm job
        rm entered leave
}

# --- status ---

test_status() {
        expect 0 shmdctl status
        grep -q '^segments:  *5' out || fail "status: $(cat out)"
        grep -q '^store:  *off: ' out || fail "status: $(cat out)"
        grep -q '^watchdog:  *off' out || fail "status: $(cat out)"
        instance=$(sed -n 's/^instance:  *//p' out)
        expect 0 shmdctl --json status
        json "j['instance'] == '$instance' and j['watchdog_usec'] is None"
        json 'not j["store"] and j["store_state"] == "off" and j["store_failure"] is None and j["store_failing_since_usec"] is None'
        json 'j["segments"] == 5 and j["socket"] == __import__("os").environ["SHMD_SOCKET"]'
        json 'j["bytes"] == (2 << 20) + 4096 + 1024 + 1 + 3' # those of test_create
        json 'set(j["account"]) == {"bytes", "segments", "holds", "connections", "watches"}'
        json 'j["account"]["segments"]["used"] == j["segments"]'
}

# --- errors in words ---

test_denied() {
        if [ "$(id -u)" -ne 0 ] || ! command -v setpriv >/dev/null; then
                skip "another user's errors: needs root and setpriv"
                return
        fi
        expect 0 shmdctl create secret/thing 1 -m 0600
        expect 1 setpriv --reuid=61001 --regid=61001 --clear-groups "$SHMD_TEST_SHMDCTL" cat secret/thing
        errs 'shmdctl: cannot open "secret/thing": permission denied (owner root, mode 0600)'
        expect 1 setpriv --reuid=61001 --regid=61001 --clear-groups "$SHMD_TEST_SHMDCTL" rm secret/thing
        errs_like '^shmdctl: cannot remove "secret/thing": .*owner'
        expect 0 setpriv --reuid=61001 --regid=61001 --clear-groups "$SHMD_TEST_SHMDCTL" --json show secret/thing
        json 'j["holders"] == [] or j["holders_hidden"] is True'
        expect 1 setpriv --reuid=61001 --regid=61001 --clear-groups "$SHMD_TEST_SHMDCTL" stop
        errs 'shmdctl: cannot stop the daemon: only an administrator may do this'
        expect 0 shmdctl rm secret/thing
}

test_full_disk() {
        [ -e /dev/full ] || return 0
        for command in 'list' '--json list' 'show video/frames' 'cat video/frames' 'status' '--help' 'dump video/frames'; do
                status=0
                # shellcheck disable=SC2086 # words
                shmdctl $command >/dev/full 2>err || status=$?
                [ "$status" -eq 1 ] || fail "$command into a full disk: exit status $status"
                errs_like '^shmdctl: .*No space left'
        done
}

# Whatever Unicode has that is not seen, or turns the direction of writing: not on a terminal, and unharmed in JSON.
test_hidden() {
        cat >hidden.py <<'PYTHON'
import subprocess, sys, unicodedata
shmdctl = sys.argv[1]
seen = set(map(chr, [*range(0x600, 0x606), 0x6dd, 0x70f, 0x890, 0x891, 0x8e2, 0x110bd, 0x110cd, *range(0x13430, 0x13440)]))
hidden = [chr(i) for i in range(0xa0, 0x110000) if unicodedata.category(chr(i)) in ("Cf", "Zl", "Zp") and chr(i) not in seen]
hidden += ["\u034f", "\u115f", "\u180b", "\u3164", "\ufe0f", "\U000e0100"]
names = ["hidden/" + "".join(hidden[i:i + 12]) for i in range(0, len(hidden), 12)]
def run(*words, status=0):
    done = subprocess.run([shmdctl, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert done.returncode == status, (words, done)
    return done.stdout
def check(text, *wanted):
    raw = [hex(ord(c)) for c in hidden if c in text]
    assert not raw and all(w in text for w in wanted), (raw, text)
for name in names:
    run("create", name, "4K")
check(run("list", "-o", "name", "hidden/"), "hidden/\\u00ad\\u061c", "\\u202e", "\\ufeff", "\\U000e0001")
watch = subprocess.Popen([shmdctl, "watch", "--snapshot", "hidden/"], stdout=subprocess.PIPE, encoding="utf-8")
told = ""
while "snapshot-end" not in told:
    told += watch.stdout.readline()
watch.kill()
watch.wait()
check(told, "\\u00ad", "\\u200b")
check(run("top", "--once", "--interval", "0.1", "hidden/"), "\\u00ad")
check(run("show", names[0]), "\\u00ad")
check(run("rm", "a\u202eb", status=1), '"a\\u202eb"')
check(run("complete", "--", "show", "hidden/"))
check(run("leaks", "--kind", "shmd", "--min-age", "0"))
listed = run("--json", "list", "hidden/")
assert all(name in listed for name in names), listed
run("rm", *names)
run("create", "größe नमस्ते ❤ עברית", "4K") # what is seen is not
assert "größe नमस्ते ❤ עברית" in run("list", "-o", "name")
run("rm", "größe नमस्ते ❤ עברית")
PYTHON
        expect 0 python3 hidden.py "$SHMD_TEST_SHMDCTL"
}

test_broken_pipe() {
        status=$( (shmdctl cat video/frames; echo $? >status) 2>err | :; cat status)
        [ "$status" -ne 0 ] || fail "cat into a closed pipe says that all is well"
}

test_usage
test_help
test_no_daemon
test_create
test_list
test_show
test_put_and_cat
test_large_file
test_interrupted_put
test_dump
test_chmod
test_chown
test_rename
test_rm
test_hold
test_unlinked_while_held
test_lock
test_status
test_denied
test_full_disk
test_hidden
test_broken_pipe
expect 0 shmdctl rm plain video/frames 'with space' größe slash
