#!/bin/sh
# What the service keeps through its own death: SIGKILL, restart, upgrade and watchdog, under the load of several clients of two
# users, who check every byte and every hold afterwards. On a systemd of its own.
# shellcheck source=../support/script.sh disable=SC2016,SC2034,SC2154
script_daemon=no
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"
# shellcheck source=machine.sh
. "$SHMD_TEST_SRCDIR/tests/system/machine.sh"

machine_need
machine_make
cp "$SHMD_TEST_BUILDDIR/tests/system/load" "$root/usr/local/bin/shmd-load" || fail "no client"
machine_start
expect 0 m systemctl start shmd.socket

main_pid() {
        property shmd.service MainPID
}

is_another() {
        [ "$(main_pid)" != "$1" ] && has_property shmd.service SubState running
}

# --- load ---

clients="alice/one alice/two bob/one bob/two"

start_load() {
        mkfifo life
        loads=
        for client in $clients; do
                as "${client%/*}" shmd-load "$1/$client" <life >"load.${client%/*}.${client#*/}" 2>&1 7>&- &
                loads="$loads $!"
        done
        exec 7>life
        await "the load" load_is_ready
}

load_is_ready() {
        for client in $clients; do
                grep -q ready "load.${client%/*}.${client#*/}" || return
        done
}

# Every client goes on, and in the end has found all as it should be.
end_load() {
        exec 7>&-
        for load in $loads; do
                wait "$load" || {
                        journal shmd.service | tail -n 20
                        fail "$1: $(tail -qn 1 load.*)"
                }
        done
        left=0
        for client in $clients; do
                result=$(tail -n 1 "load.${client%/*}.${client#*/}")
                case $result in
                        ok\ *) printf '%s: %s: %s\n' "$1" "$client" "$result" ;;
                        *) fail "$1: $client: $result" ;;
                esac
                result=${result#ok }
                left=$((left + ${result%% *}))
        done
        expect 0 m shmdctl --json list --all
        json "len(j) == $left and all(s['holders'] == 0 for s in j)"
        expect 0 m sh -c 'shmdctl list --no-headings -o name | xargs -r shmdctl rm'
        expect 0 m shmdctl --json list --all
        json 'j == []'
        rm -f life load.*
        ! journal shmd.service | grep -E 'lost|damaged|cannot' | grep -v -E ' 0 lost|loopback' >complaints || fail "$1: $(cat complaints)"
}

# --- deaths ---

kill_daemon() {
        pid=$(main_pid)
        expect 0 m systemctl kill -s KILL shmd.service
        await "a new daemon" is_another "$pid"
}

test_kill() {
        start_load kill
        for _ in 1 2 3 4 5 6; do
                kill_daemon
        done
        end_load "SIGKILL"
}

# As soon as there is a new one, ready or not: it may die while it takes over.
kill_at_once() {
        pid=$(main_pid)
        [ "$pid" -gt 0 ] && [ "$pid" != "$killed" ] && m kill -KILL "$pid" && killed=$pid
}

test_kill_while_restoring() {
        start_load restoring
        killed=0
        for _ in 1 2 3 4 5; do
                await "a daemon to kill" kill_at_once
        done
        await "a new daemon" is_another "$killed"
        end_load "SIGKILL, again and again"
}

test_restart() {
        start_load restart
        for _ in 1 2 3; do
                expect 0 m systemctl restart shmd.service
        done
        end_load "restart"
}

# The program is replaced by one of another version, and back.
test_upgrade() {
        version=$(sed -n 's/^#define PACKAGE_VERSION "\(.*\)"/\1/p' "$SHMD_TEST_BUILDDIR/config.h")
        newer=$(printf '%s' "$version" | tr 0-9 1-90)
        program=$(m sh -c 'command -v shmd')
        expect 0 m sh -c 'sed "s/$1/$2/g" "$3" >"$3.new" && chmod 755 "$3.new" && cp -p "$3" "$3.old"' sh "$version" "$newer" "$program"
        start_load upgrade
        expect 0 m mv "$program.new" "$program"
        expect 0 m systemctl restart shmd.service
        expect 0 m shmdctl --json status
        json "j['version'] == '$newer' and j['segments'] > 0"
        expect 0 m mv "$program.old" "$program"
        kill_daemon
        expect 0 m shmdctl --json status
        json "j['version'] == '$version' and j['segments'] > 0"
        end_load "upgrade"
}

test_watchdog() {
        expect 0 m sh -c 'mkdir -p /run/systemd/system/shmd.service.d
                printf "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n" >/run/systemd/system/shmd.service.d/watchdog.conf'
        expect 0 m systemctl daemon-reload
        start_load watchdog
        expect 0 m systemctl restart shmd.service
        pid=$(main_pid)
        expect 0 m kill -STOP "$pid"
        await "a new daemon" is_another "$pid"
        end_load "watchdog"
        expect 0 m rm -r /run/systemd/system/shmd.service.d
        expect 0 m systemctl daemon-reload
}

# The manager itself starts anew, as in its own upgrade: what it keeps goes with it.
test_manager_reexec() {
        start_load reexec
        expect 0 m systemctl daemon-reexec
        kill_daemon
        end_load "daemon-reexec"
}

# Nobody notices a mistake in the configuration until the daemon starts again: that must not be its last start.
test_mistake() {
        expect 0 as alice shmdctl create mistaken 4K
        expect 0 m sh -c 'mkdir -p /etc/shmd; printf "[limits]\nsegment = 7\n" >/etc/shmd/shmd.conf'
        kill_daemon
        expect 0 as alice shmdctl show mistaken
        journal shmd.service | grep -q '/etc/shmd/shmd.conf:2: ' || fail "the journal does not tell the mistake"
        expect 0 m rm /etc/shmd/shmd.conf
        expect 0 as alice shmdctl rm mistaken
}

# A socket-activated daemon that was stopped for good and is wanted again; without a store that is preserved (before systemd 257)
# the segments end then, and with one they do not. Either way it serves.
test_stop() {
        echo text | as alice shmdctl put stopped || fail "put"
        if keeps_descriptors; then
                expect 0 m shmdctl stop
                expect 0 as alice shmdctl cat stopped
                says text
        else
                expect 1 m shmdctl stop
                expect 0 as alice shmdctl show stopped
        fi
        m systemctl stop shmd.service 2>/dev/null
        ! keeps_descriptors || expect 0 as alice shmdctl cat stopped
        expect 0 as alice shmdctl list --no-headings
        expect 0 as alice shmdctl create afterwards 4K
        m sh -c 'shmdctl list --no-headings -o name | xargs -r shmdctl rm'
}

# How long it takes; no more than told, as machines differ.
test_many() {
        number=10000
        limit=$(m sh -c 'grep "Max open files" "/proc/$1/limits"' sh "$(main_pid)" | awk '{ print $5 }')
        [ "$limit" -gt $((number * 3 / 2)) ] || number=$((limit / 2))
        expect 0 m shmd-load --many "$number" many
        before=$(m awk '{ print $14 + $15 }' /proc/1/stat)
        pid=$(main_pid)
        expect 0 m systemctl kill -s KILL shmd.service
        await "a new daemon" is_another "$pid"
        after=$(m awk '{ print $14 + $15 }' /proc/1/stat)
        expect 0 m shmdctl --json status
        json "j['segments'] == $number"
        started=$(property shmd.service ExecMainStartTimestampMonotonic)
        active=$(property shmd.service ActiveEnterTimestampMonotonic)
        printf '%d segments: served %d ms after the start, process 1 busy for %d ticks of 10 ms\n' "$number" \
                $(((active - started) / 1000)) $((after - before))
}

test_kill
test_kill_while_restoring
test_restart
test_upgrade
test_watchdog
test_manager_reexec
test_mistake
test_stop
test_many
