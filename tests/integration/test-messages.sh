#!/bin/sh
# What shmdctl says when it does not do what it is told: which thing, why, and what to do about it.
# shellcheck source=../support/script.sh disable=SC2016,SC2154
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

shmd=$SHMD_TEST_SHMDCTL

# --- locks ---

test_lock() {
        shmdctl create lock 1 || fail "create"
        expect 1 shmdctl lock lock -- "$shmd" lock --timeout 0 lock -- true
        errs_like '^shmdctl: cannot lock "lock": pid [0-9]+, [a-z]+, has the lock$'
        expect 1 shmdctl lock --shared lock -- "$shmd" lock --timeout 0 lock -- true
        errs_like '^shmdctl: cannot lock "lock": pid [0-9]+, [a-z]+, has the lock, shared$'
}

# --- SysV segments: made under a key that no other test takes, and removed whatever happens ---

test_sysv() {
        [ "$(id -u)" -eq 0 ] || { skip "SysV segments under a name: this takes root"; return; }
        key=$(printf '0x5e%06x' "$(($$ % 0x1000000))")
        trap 'ipcrm -M "$key" 2>/dev/null' EXIT
        expect 0 shmdctl create brokered 4K --sysv-key "$key"
        shmid=$(shmdctl list brokered -o shmid --no-headings | tr -d ' ')
        expect 1 shmdctl create other 4K --sysv-key "$key"
        errs "shmdctl: cannot create SysV segment $key as \"other\": a SysV segment with this key exists"
        expect 1 shmdctl create other --sysv-id "$shmid"
        errs "shmdctl: cannot adopt SysV segment $shmid as \"other\": that SysV segment has another name already"
        expect 1 shmdctl freeze brokered
        errs 'shmdctl: cannot freeze "brokered": it is a SysV segment, which the kernel lets nobody freeze'
        # Whoever has attached it last is this daemon: that would say nothing.
        expect 1 shmdctl reclaim --yes --kind sysv "$key"
        errs "shmdctl: cannot reclaim \"$key\": in use: shmd looks after it, as \"brokered\""
        expect 0 shmdctl rm brokered
        expect 1 shmdctl create other --sysv-id 2147483647
        errs 'shmdctl: cannot adopt SysV segment 2147483647 as "other": no such SysV segment'
        trap - EXIT
}

# --- what is to be freed ---

test_reclaim() {
        # Nobody is asked who can't see what for.
        expect 2 shmdctl --json reclaim
        errs_like '^shmdctl: with --json nobody is asked: say --yes'
        expect 0 shmdctl --json reclaim --dry-run --kind shmd
        # One's name is another one's id.
        shmdctl create first 4K || fail "create"
        id=$(shmdctl list first -o id --no-headings | tr -d ' ')
        shmdctl create "/$id" 4K || fail "create"
        expect 2 shmdctl reclaim --kind shmd --yes "$id"
        errs_like "^shmdctl: \"$id\" is one's name and another one's id: say which by its id, or its name with a slash"
        expect 0 shmdctl reclaim --kind shmd --yes "/$id" first
        [ "$(wc -l <"$out")" -eq 3 ] || fail "freed: $(cat "$out")"
}

# --- a narrow terminal ---

# Who is asked whether to free something has to see what.
test_narrow() {
        shmdctl create a-name-of-24-characters- 4K || fail "create"
        cat >narrow.py <<'PYTHON'
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 44, 0, 0))
    os.execv(os.environ["SHMD_TEST_SHMDCTL"], ["shmdctl", "reclaim", "--kind", "shmd", "--min-age", "0"])
seen = b""
while b"[y/N]" not in seen:
    seen += os.read(terminal, 4096)
os.write(terminal, b"n\n")
print(seen.decode())
PYTHON
        expect 0 timeout 60 python3 narrow.py
        grep -q 'a-name-of-24-characters- ' "$out" || fail "said: $(cat "$out")"
        expect 0 shmdctl rm a-name-of-24-characters-
}

# --- without a daemon ---

test_no_daemon() {
        for command in leaks 'reclaim --dry-run'; do
                # shellcheck disable=SC2086
                expect 0 env SHMD_SOCKET="$PWD/nobody" "$shmd" $command
                errs "shmdctl: no daemon listens on $PWD/nobody: no such socket
shmdctl: segments of shmd are left out"
        done
}

for part in lock sysv reclaim narrow no_daemon; do
        "test_$part"
done
