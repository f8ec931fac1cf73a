#!/bin/sh
# shmdctl: the whole life of a segment - sizes, lifetimes, freezing, files, replacing, waiting, watching.
# shellcheck disable=SC2016 # variables for programs under `hold`
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

says_nothing() {
        [ ! -s "$out" ] || fail "said: $(cat "$out")"
        [ ! -s "$err" ] || fail "said on standard error: $(cat "$err")"
}

# --- sizes ---

test_resize() {
        expect 0 shmdctl create sized 4K --maximum 64K
        expect 0 shmdctl resize sized 10000
        says_nothing
        expect 0 shmdctl --json show sized
        json 'j["size"] == 10000 and j["maximum"] == 65536 and j["resizable"] is True'
        expect 0 shmdctl hold --rw sized -- sh -c 'head -c 10000 /dev/zero | tr "\0" x >&$SHMD_FD'
        expect 0 shmdctl resize sized 5
        expect 0 shmdctl cat sized
        [ "$(cat out)" = xxxxx ] || fail "cat of what was shrunk: $(head -c 100 out)"
        expect 0 shmdctl resize sized 64K
        expect 0 shmdctl cat sized
        [ "$(tr -d '\0' <out)" = xxxxx ] || fail "what was cut off has come back"
        expect 1 shmdctl resize sized 65537
        errs_like '^shmdctl: cannot resize "sized": .*64 KiB'
        expect 1 shmdctl resize plain 1
        errs_like '^shmdctl: cannot resize "plain": .*resizable'
        expect 1 shmdctl resize nothing 1
        errs 'shmdctl: cannot resize "nothing": no such segment'
        expect 1 shmdctl create sized/wrong 2K --maximum 1K
        expect 1 shmdctl show sized/wrong
        expect 0 shmdctl rm sized
}

test_memory() {
        expect 0 shmdctl create memory 1M --prealloc
        expect 0 shmdctl --json show memory
        json 'j["resident"] == 1 << 20'
        expect 1 shmdctl create memory/much 64T --prealloc
        errs_like '^shmdctl: cannot create "memory/much": (not enough memory .*64 TiB wanted|over the limit)'
        expect 1 shmdctl create memory/huge 4G --huge
        errs_like '^shmdctl: cannot create "memory/huge": (2 MiB huge pages: 2048 wanted, [0-9]+ free|over the limit)'
        expect 0 shmdctl list --all memory/
        says_nothing
        expect 0 shmdctl rm memory
}

# --- lifetimes ---

test_lifetime() {
        expect 0 shmdctl create living 1
        expect 0 shmdctl lifetime living linger=3600
        says_nothing
        expect 0 shmdctl --json show living
        json 'j["lifetime"] == "linger=3600" and j["linger_usec"] == 3600 * 1000000'
        expect 0 shmdctl hold living -- "$SHMD_TEST_SHMDCTL" lifetime living holders
        until ! shmdctl show living >out 2>err; do :; done
        errs 'shmdctl: cannot show "living": no such segment'
        expect 1 shmdctl lifetime nothing persist
        errs 'shmdctl: cannot change the lifetime of "nothing": no such segment'
        expect 1 shmdctl lifetime plain creator # whose connection has gone
        errs_like 'creator'

        # With a program, for as long as that
        expect 0 shmdctl create brief 1 --lifetime creator -- "$SHMD_TEST_SHMDCTL" --json show brief
        json 'j["lifetime"] == "creator" and j["holder_count"] == 1'
        until ! shmdctl show brief >out 2>err; do :; done
        expect 5 shmdctl create brief 1 --lifetime holders -- sh -c 'exit 5'
        until ! shmdctl show brief >out 2>err; do :; done
}

# --- freezing ---

test_freeze() {
        printf 'for ever' >text
        expect 0 shmdctl put cold text
        cat >inside <<'PYTHON'
import mmap, os, subprocess, sys
memory = mmap.mmap(int(os.environ["SHMD_FD"]), 0)
print(os.getpid())
sys.stdout.flush()
sys.exit(subprocess.run([os.environ["SHMD_TEST_SHMDCTL"], "freeze", "cold"]).returncode)
PYTHON
        # It says who has it mapped.
        expect 1 shmdctl hold --rw cold -- python3 inside
        errs_like '^shmdctl: cannot freeze "cold": in use'
        errs_like "mapped writable by pid $(cat out), python3"
        expect 0 shmdctl freeze cold
        says_nothing
        expect 0 shmdctl --json show cold
        json 'j["state"] == "frozen"'
        expect 0 shmdctl list --no-headings -o name,state cold
        grep -q 'cold  *frozen' out || fail "list of what is frozen: $(cat out)"
        expect 1 shmdctl hold --rw cold -- true
        errs 'shmdctl: cannot open "cold": it is frozen, nobody can write it'
        expect 0 shmdctl hold cold -- sh -c '{ printf no >&$SHMD_FD; } 2>/dev/null || exit 0; exit 1'
        expect 0 shmdctl cat cold
        [ "$(cat out)" = 'for ever' ] || fail "frozen, and yet: $(cat out)"
        expect 0 shmdctl create cold/b 1
        expect 1 shmdctl freeze nothing cold/b
        errs 'shmdctl: cannot freeze "nothing": no such segment'
        expect 0 shmdctl --json show cold/b
        json 'j["state"] == "frozen"' # the others were done all the same
        expect 0 shmdctl rm cold cold/b
}

# --- files ---

test_file() {
        printf 'bytes of a file' >data
        expect 0 shmdctl create file --file data --label kind=file
        expect 0 shmdctl --json show file
        json 'j["backing"] == "file" and j["size"] == 15 and j["truncated"] is False and j["labels"] == {"kind": "file"}'
        expect 0 shmdctl hold --rw file -- sh -c 'printf BYTES >&$SHMD_FD'
        [ "$(cat data)" = 'BYTES of a file' ] || fail "the file has: $(cat data)"
        expect 0 shmdctl cat file
        cmp -s out data || fail "cat of a file gives other bytes"
        expect 0 truncate -s 5 data
        expect 0 shmdctl --json show file
        json 'j["truncated"] is True and j["size"] == 15'
        # What is left is written, but that is not all.
        for command in cat dump; do
                expect 1 shmdctl "$command" file
                grep -q BYTES out || fail "$command of what is left: $(cat out)"
                errs 'shmdctl: of "file" only 5 of 15 bytes are left: somebody has made its file shorter'
        done
        expect 1 shmdctl freeze file
        errs 'shmdctl: cannot freeze "file": it is made of a file'
        expect 0 shmdctl rm file
        [ -e data ] || fail "rm has removed the file"

        printf 'read me' >data
        chmod 0444 data
        expect 0 shmdctl create file --file data --read-only
        expect 1 shmdctl hold --rw file -- true
        errs_like '^shmdctl: cannot open "file": permission denied'
        expect 0 shmdctl cat file
        [ "$(cat out)" = 'read me' ] || fail "cat of a read-only file: $(cat out)"
        expect 1 shmdctl create file --file data --read-only
        errs_like '"file".*exists'
        expect 0 shmdctl rm file
        expect 1 shmdctl create file --file /nonexistent/file
        errs_like '^shmdctl: .*"/nonexistent/file".*No such file'
        : >empty
        expect 1 shmdctl create file --file empty
        errs_like 'empty'
        expect 1 shmdctl create file --file / --read-only
        errs_like 'regular file'
        mkfifo queue
        expect 1 timeout 10 "$SHMD_TEST_SHMDCTL" create file --file queue --read-only
        errs_like 'regular file'
        expect 1 shmdctl show file
}

# --- put ---

# Who opens the name has the old bytes or the new ones, all of them; who has the old ones keeps them.
test_put_replace() {
        head -c 300000 /dev/zero | tr '\0' a >old
        head -c 200000 /dev/zero | tr '\0' b >new
        expect 0 shmdctl put news old --replace
        expect 1 shmdctl put news new
        errs_like '^shmdctl: .*"news".*exists'
        expect 0 shmdctl --json show news
        json 'j["size"] == 300000'
        id=$(python3 -c 'import json; print(json.load(open("out"))["id"])')
        cat >inside <<'SCRIPT'
"$SHMD_TEST_SHMDCTL" put --replace news new || exit 1
cat <&$SHMD_FD | cmp - old
SCRIPT
        expect 0 shmdctl hold news -- sh inside
        expect 0 shmdctl cat news
        cmp -s out new || fail "put --replace: other bytes"
        expect 1 shmdctl show "$id"
        : >stop
        (while [ -e stop ]; do
                shmdctl put --replace news old && shmdctl put --replace news new || exit 1
        done) 2>err2 &
        replacer=$!
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
                expect 0 shmdctl cat news
                cmp -s out old || cmp -s out new || fail "cat while it is replaced gives something else"
        done
        rm stop
        wait "$replacer" || fail "put --replace again and again: $(cat err2)"
        # What fails leaves what was there.
        expect 1 shmdctl put --replace news /nonexistent/file
        expect 0 shmdctl cat news
        cmp -s out new || fail "a put --replace that failed has changed what was there"
        expect 0 shmdctl rm news
        expect 0 shmdctl list --all news
        says_nothing
}

# Killed in the middle: there is a segment already, without its name; then there is none.
test_killed_put() {
        truncate -s 800M sparse || fail "no sparse file in $PWD"
        for number in KILL TERM; do
                caught=no
                for _ in 1 2 3 4 5 6; do
                        "$SHMD_TEST_SHMDCTL" put killed sparse >/dev/null 2>&1 &
                        put=$!
                        until shmdctl list --all --no-headings killed | grep -q . || ! kill -0 "$put" 2>/dev/null; do :; done
                        kill -"$number" "$put" 2>/dev/null
                        wait "$put" 2>/dev/null
                        if shmdctl show killed >/dev/null 2>&1; then # it was done before
                                expect 0 shmdctl rm killed
                                continue
                        fi
                        caught=yes
                        break
                done
                [ "$caught" = yes ] || skip "put ended by SIG$number: it was always faster"
                until ! shmdctl list --all --no-headings killed | grep -q .; do :; done
                expect 1 shmdctl show killed
        done
        rm sparse
}

# --- wait and watch ---

test_wait() {
        expect 0 shmdctl wait plain
        says_nothing
        expect 0 shmdctl --json wait plain
        json 'j["name"] == "plain"'
        expect 1 shmdctl wait nothing --timeout 0.01
        errs 'shmdctl: cannot wait for "nothing": not published in time'
        expect 1 shmdctl wait nothing --timeout 0
        printf 'awaited' >text
        waiters=
        for n in 1 2 3 4 5; do
                ("$SHMD_TEST_SHMDCTL" wait awaited --timeout 100 && "$SHMD_TEST_SHMDCTL" cat awaited >"waiter.$n") &
                waiters="$waiters $!"
        done
        until expect 0 shmdctl --json status && python3 -c 'import json, sys
sys.exit(json.load(open("out"))["account"]["watches"]["used"] != 5)'; do :; done
        expect 0 shmdctl put awaited text
        for waiter in $waiters; do
                wait "$waiter" || fail "wait: exit status $?"
        done
        for n in 1 2 3 4 5; do
                cmp -s "waiter.$n" text || fail "a waiter has seen: $(cat "waiter.$n")"
        done
        expect 0 shmdctl rm awaited
}

# Reads lines of the watch until one has that event.
await_event() {
        while read -r line <&8; do
                printf '%s\n' "$line" >>lines
                case $line in
                *"\"event\": \"$1\""*) return ;;
                esac
        done
        fail "watch has ended before $1: $(cat lines err2)"
}

test_watch() {
        mkfifo events
        "$SHMD_TEST_SHMDCTL" --json watch seen/ --snapshot >events 2>err2 &
        watcher=$!
        exec 8<events
        : >lines
        await_event snapshot-end
        expect 0 shmdctl create unseen 1
        expect 0 shmdctl rm unseen
        expect 0 shmdctl create seen/a 4K --maximum 8K
        await_event published
        expect 0 shmdctl resize seen/a 5000
        await_event resized
        expect 0 shmdctl freeze seen/a
        await_event frozen
        expect 0 shmdctl rename seen/a seen/b
        await_event renamed
        expect 0 shmdctl rm seen/b
        await_event unlinked
        await_event freed
        kill -TERM "$watcher"
        wait "$watcher" || fail "watch, ended by SIGTERM: exit status $?"
        exec 8<&-
        python3 - lines <<'PYTHON' || fail "watch --json: $(cat lines)"
import json, sys
events = [json.loads(line) for line in open(sys.argv[1])]
kinds = [e["event"] for e in events]
assert kinds[0] == "snapshot-end", kinds
assert [k for k in kinds[1:] if k != "created"] == ["published", "resized", "frozen", "renamed", "unlinked", "freed"], kinds
assert all(type(e["time_usec"]) is int and e["time_usec"] > 0 for e in events)
assert all(e["name"].startswith("seen/") for e in events[1:])
assert len({e["id"] for e in events[1:]}) == 1
assert [e["size"] for e in events if e["event"] == "resized"] == [5000]
PYTHON
        # What is there already comes first.
        "$SHMD_TEST_SHMDCTL" --json watch --snapshot pla >events 2>err2 &
        watcher=$!
        exec 8<events
        : >lines
        await_event snapshot-end
        kill -TERM "$watcher"
        wait "$watcher" || fail "watch, ended by SIGTERM: exit status $?"
        exec 8<&-
        python3 -c 'import json
lines = [json.loads(line) for line in open("lines")]
assert [l["event"] for l in lines] == ["present", "snapshot-end"] and lines[0]["name"] == "plain"' || fail "watch --snapshot: $(cat lines)"
        expect 1 shmdctl watch --count 1 --timeout 0.01 seen/
        errs_like '0 of 1'
        expect 0 shmdctl watch --timeout 0 --no-headings seen/
        says_nothing
}

expect 0 shmdctl create plain 4096
test_resize
test_memory
test_lifetime
test_freeze
test_file
test_put_replace
test_killed_put
test_wait
test_watch
expect 0 shmdctl rm plain
expect 0 shmdctl list --all
says_nothing
