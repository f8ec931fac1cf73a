#!/bin/sh
# shmd.service and shmd.socket on a systemd of their own: activation, readiness, status, reload, watchdog, restarts,
# confinement, the journal, clients of several users, and a user's own instance.
# shellcheck source=../support/script.sh disable=SC2016,SC2034,SC2154
script_daemon=no
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"
# shellcheck source=machine.sh
. "$SHMD_TEST_SRCDIR/tests/system/machine.sh"

machine_need
machine_make
machine_start

main_pid() {
        property shmd.service MainPID
}

# json_of EXPRESSION COMMAND...: true of a command's JSON, which is `j`
json_of() {
        expression=$1
        shift
        "$@" >json.out 2>json.err || return
        python3 -c 'import json, sys
j = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' json.out "$expression" || {
                head -c 1500 json.out
                return 1
        }
}

# --- installation ---

test_installed() {
        expect 0 m getent passwd shmd
        m getent passwd shmd | grep -q nologin || fail "the daemon's user can log in"
        for unit in shmd.socket shmd.service shmd-sysv.socket shmd-sysv@.service; do
                m systemd-analyze verify --man=no "$unit" >verify.log 2>&1 ||
                        fail "systemd-analyze verify $unit: $(cat verify.log)"
                [ ! -s verify.log ] || fail "$unit: $(cat verify.log)"
        done
        expect 0 m systemctl enable shmd.socket
        expect 0 m systemctl is-enabled shmd.socket
}

# --- activation: the first client starts it ---

test_activation() {
        expect 0 m systemctl start shmd.socket
        expect 3 m systemctl is-active shmd.service
        [ "$(m stat -c %a /run/shmd/shmd.sock)" = 666 ] || fail "the socket is not everybody's"
        expect 0 as alice shmdctl create first 4K
        expect 0 m systemctl is-active shmd.service
        json_of 'j["uid"] > 0 and j["watchdog_usec"] == 30000000' as alice shmdctl --json status || fail "status"
        expect 0 as alice shmdctl rm first
}

# The daemon has few rights of its own: those to the kernel's segments are another process's.
test_sysv() {
        expect 0 m systemctl is-active shmd-sysv.socket
        [ "$(m stat -c '%U %G %a' /run/shmd-sysv/sysv.sock)" = "root shmd 660" ] || fail "$(m stat /run/shmd-sysv/sysv.sock)"
        expect 0 as alice shmdctl create brokered 4K --sysv-key 0x4444 --mode 0640
        json_of 'j["backing"] == "sysv" and j["key"] == "0x00004444"' as alice shmdctl --json show brokered || fail "show"
        m ipcs -m | grep -q '^0x00004444 .* alice *640 *4096 *0 ' || fail "$(m ipcs -m)"
        expect 0 as alice shmdctl chmod 0600 brokered
        m ipcs -m | grep -q '^0x00004444 .* alice *600 ' || fail "$(m ipcs -m)"
        expect 1 as bob shmdctl cat brokered
        expect 1 as bob shmdctl rm brokered
        expect 0 m systemctl kill -s KILL shmd.service
        expect 0 as alice shmdctl cat brokered
        expect 0 as alice shmdctl rm brokered
        ! m ipcs -m | grep -q 0x00004444 || fail "not removed: $(m journalctl -b -n 20)"

        # What shmd did not make takes shmd-sysv to be removed, which says so.
        shmid=$(as alice ipcmk -M 4096 -p 0600 | sed 's/.* //')
        expect 0 as alice shmdctl create adopted --sysv-id "$shmid"
        expect 0 as alice shmdctl rm adopted
        await "the segment's end" sh -c '! nsenter -t "$1" -i ipcs -m -i "$2" 2>&1 | grep -q cuid' sh "$leader" "$shmid"
        m journalctl -b | grep -q "shmd-sysv: removed SysV segment $shmid " || fail "the removal is not in the journal"
}

# systemctl start returns when the daemon serves, and only then.
test_ready() {
        expect 0 m systemctl stop shmd.service
        m test -S /run/shmd/shmd.sock || fail "the socket went with the daemon"
        expect 0 m systemctl start shmd.service
        has_property shmd.service SubState running || fail "started, but $(property shmd.service SubState)"
        has_property shmd.service StatusText "0 segments, 0 B, 0 clients" ||
                fail "status at start: $(property shmd.service StatusText)"
        # Its ids go on, by the mark beside the socket, which its user could write.
        expect 0 m test -s /run/shmd/shmd.sock.lock
}

test_status() {
        expect 0 as alice shmdctl create one 3M
        expect 0 as alice shmdctl create two 1M
        await "the totals in the manager's status" has_property shmd.service StatusText "2 segments, 4.0 MiB, 0 clients"
        expect 0 as alice shmdctl rm one two
        await "the totals in the manager's status" has_property shmd.service StatusText "0 segments, 0 B, 0 clients"
}

# --- clients of several users ---

test_users() {
        m sh -c 'echo "alice was here" >/tmp/text'
        expect 0 as alice shmdctl put -m 0600 private /tmp/text
        expect 0 as alice shmdctl put -m 0644 public /tmp/text
        expect 0 as bob shmdctl cat public
        says "alice was here"
        expect 1 as bob shmdctl cat private
        errs 'shmdctl: cannot open "private": permission denied (owner alice, mode 0600)'
        expect 1 as bob shmdctl hold --rw public -- true
        expect 1 as bob shmdctl rm public
        expect 1 as bob shmdctl chmod 0666 public
        expect 0 as alice shmdctl chmod 0666 public
        expect 0 as bob shmdctl hold --rw public -- true
        # The inode is its owner's: the kernel decides as the daemon does.
        expect 0 as alice sh -c 'shmdctl hold --rw private -- sh -c '\''stat -L -c %u:%a "/proc/self/fd/$SHMD_FD"'\'
        says "$alice:600"
        # Root may all, the daemon's own user nothing more than others.
        expect 0 m shmdctl cat private
        expect 1 as shmd shmdctl cat private
        expect 1 as shmd shmdctl rm private
        expect 0 m shmdctl chown bob private
        expect 0 as bob shmdctl cat private
        expect 1 as alice shmdctl cat private
        expect 0 as bob shmdctl rm private
        expect 0 as alice shmdctl rm public
}

# What else people do, as a user and against the confined daemon
test_commands() {
        expect 0 as alice shmdctl create tool/a 64K --maximum 1M --label purpose=test
        expect 0 as alice shmdctl resize tool/a 1M
        expect 0 as alice shmdctl rename tool/a tool/b
        expect 0 as alice shmdctl lifetime tool/b linger=3600
        expect 0 as alice shmdctl wait tool/b --timeout 1
        expect 0 as alice shmdctl dump tool/b
        expect 0 as alice shmdctl freeze tool/b
        expect 1 as alice shmdctl hold --rw tool/b -- true
        json_of 'j["state"] == "frozen" and j["size"] == 1 << 20 and j["labels"] == {"purpose": "test"}' \
                as alice shmdctl --json show tool/b || fail "show: $(cat json.out)"
        json_of '[s["name"] for s in j] == ["tool/b"]' as alice shmdctl --json list tool/ || fail "list"
        expect 0 as alice shmdctl watch tool --snapshot --timeout 0
        expect 0 as alice shmdctl rm tool/b
        m sh -c 'echo in a file >/tmp/file; chown alice /tmp/file'
        expect 0 as alice shmdctl create tool/file --file /tmp/file
        expect 0 as alice shmdctl cat tool/file
        expect 0 as alice shmdctl rm tool/file
}

# Command and unit of a holder are told; his executable would take CAP_SYS_PTRACE.
test_holders() {
        expect 0 as alice shmdctl create held 4K
        expect 0 m systemd-run -q -G --unit=holder --uid=alice shmdctl hold held -- sleep infinity
        await "the holder" json_of 'len(j["holders"]) == 1' as alice shmdctl --json show held
        json_of 'j["holders"][0]["unit"] == "holder.service" and j["holders"][0]["command"] == "shmdctl"' \
                m shmdctl --json show held || fail "the holder: $(cat json.out)"
        expect 0 m systemctl kill -s KILL holder.service
        await "the holder's end" json_of 'j["holders"] == []' as alice shmdctl --json show held
        expect 0 as alice shmdctl rm held
}

gone() {
        [ "$(m shmdctl list --all --no-headings)" = "" ]
}

# A segment of another user's goes with its last holder, and what a mapping alone holds, with that: the kernel's answer.
test_lifetimes() {
        expect 0 m systemd-run -q -G --unit=keeper --uid=alice shmdctl create --lifetime holders brief 4K -- sleep infinity
        await "the segment" as alice shmdctl list brief
        await "the segment" json_of 'len(j) == 1' as alice shmdctl --json list brief
        # The program that shmdctl runs has the descriptor, too; its shmdctl's connection ends first.
        expect 0 m systemctl kill -s KILL --kill-who=main keeper.service
        await "the segment's end with its last holder" gone
        ! journal shmd.service | grep -q 'cannot ask' || fail "$(journal shmd.service)"
}

test_huge_pages() {
        # The pool is the machine's: who changes it takes this lock, as test-memory does.
        exec 5</proc/sys/vm/nr_hugepages
        flock 5
        before=$(cat /proc/sys/vm/nr_hugepages)
        echo $((before + 4)) >/proc/sys/vm/nr_hugepages
        if [ "$(cat /proc/sys/vm/nr_hugepages)" -lt $((before + 2)) ]; then
                skip "huge pages: the machine has no memory left for them"
        else
                expect 0 as alice shmdctl create huge 2M --huge=2M
                expect 0 as alice shmdctl hold --rw huge -- true
                expect 0 as alice shmdctl rm huge
        fi
        echo "$before" >/proc/sys/vm/nr_hugepages
        exec 5<&-
}

# --- reload ---

limit_is() {
        json_of "j['account']['segments']['maximum'] == $1" as alice shmdctl --json status
}

test_reload() {
        expect 0 m sh -c 'mkdir -p /etc/shmd; printf "[limits]\nsegments = 7\n" >/etc/shmd/shmd.conf'
        pid=$(main_pid)
        expect 0 m systemctl reload shmd.service
        await "the new limit" limit_is 7
        expect 0 m sh -c 'printf "[limits]\nsegments = many\n" >/etc/shmd/shmd.conf'
        expect 0 m systemctl reload shmd.service
        await "the mistake in the manager's status" has_property shmd.service StatusText \
                "0 segments, 0 B, 0 clients; the configuration has errors and is not applied"
        journal shmd.service | grep -q '/etc/shmd/shmd.conf:2: .*many' || fail "the journal does not tell the mistake"
        limit_is 7 || fail "a mistake changed a limit"
        has_property shmd.service ActiveState active || fail "a mistake ended it"
        expect 0 m rm /etc/shmd/shmd.conf
        expect 0 m kill -HUP "$pid"
        await "the limit as it was" limit_is 65536
        [ "$(main_pid)" = "$pid" ] || fail "a reload restarted it"
}

# --- death ---

is_another() {
        [ "$(main_pid)" != "$1" ] && has_property shmd.service SubState running
}

test_kill() {
        pid=$(main_pid)
        expect 0 m systemctl kill -s KILL shmd.service
        await "a new daemon" is_another "$pid"
        expect 0 as alice shmdctl create again 4K
        expect 0 as alice shmdctl rm again
}

# A loop that stands still: no end of its own, so the watchdog makes one.
test_watchdog() {
        expect 0 m sh -c 'mkdir -p /run/systemd/system/shmd.service.d
                printf "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n" >/run/systemd/system/shmd.service.d/watchdog.conf'
        expect 0 m systemctl daemon-reload
        expect 0 m systemctl restart shmd.service
        json_of 'j["watchdog_usec"] == 1000000' as alice shmdctl --json status || fail "status: $(cat json.out)"
        pid=$(main_pid)
        expect 0 m kill -STOP "$pid"
        await "a new daemon" is_another "$pid"
        [ "$(property shmd.service NRestarts)" -ge 1 ] || fail "it was not the manager who restarted it"
        expect 0 as alice shmdctl list
        expect 0 m rm -r /run/systemd/system/shmd.service.d
        expect 0 m systemctl daemon-reload
        expect 0 m systemctl restart shmd.service
}

# A daemon that can't start is not started for ever; when it can again, all is there that the manager keeps.
test_crash_loop() {
        echo text | as alice shmdctl put looped || fail "put"
        expect 0 m sh -c 'mkdir -p /run/systemd/system/shmd.service.d
                printf "[Unit]\nStartLimitBurst=5\n[Service]\nExecStart=\nExecStart=/bin/false\n" \
                        >/run/systemd/system/shmd.service.d/loop.conf'
        expect 0 m systemctl daemon-reload
        m systemctl restart shmd.service 2>/dev/null
        await "the end of a crash loop" has_property shmd.service SubState failed
        has_property shmd.service Result start-limit-hit || has_property shmd.service Result exit-code ||
                fail "ended by $(property shmd.service Result)"
        expect 0 m rm -r /run/systemd/system/shmd.service.d
        expect 0 m systemctl daemon-reload
        expect 0 m systemctl reset-failed shmd.service shmd.socket
        expect 0 m systemctl restart shmd.socket
        expect 0 m systemctl start shmd.service
        if keeps_descriptors; then
                expect 0 as alice shmdctl cat looped
                says text
        fi
}

# All of it is restarted, as at an upgrade of the package.
test_restart_with_socket() {
        echo text | as alice shmdctl put upgraded || fail "put"
        m systemctl restart shmd.socket shmd.service
        has_property shmd.service ActiveState active || fail "the daemon does not run: $(property shmd.service SubState)"
        if keeps_descriptors; then
                expect 0 as alice shmdctl cat upgraded
                says text
        fi
        expect 0 m systemctl stop shmd.socket
        has_property shmd.service ActiveState inactive || fail "the daemon goes on without its socket"
        expect 0 m systemctl start shmd.service
        m sh -c 'shmdctl list --no-headings -o name | xargs -r shmdctl rm'
        has_property shmd.socket ActiveState active || fail "the socket did not come back with it"
}

# It goes when it is idle, is not restarted for that, and is back for the next client.
test_idle_exit() {
        expect 0 m sh -c 'mkdir -p /run/systemd/system/shmd.service.d
                printf "[Service]\nExecStart=\nExecStart=%s --system --idle-exit 0\n" "$(command -v shmd)" \
                        >/run/systemd/system/shmd.service.d/idle.conf'
        expect 0 m systemctl daemon-reload
        expect 0 m systemctl restart shmd.service
        await "the idle daemon's end" has_property shmd.service ActiveState inactive
        has_property shmd.service Result success || fail "an idle exit is a failure: $(property shmd.service Result)"
        expect 0 as alice shmdctl list
        await "the idle daemon's end" has_property shmd.service ActiveState inactive
        has_property shmd.socket ActiveState active || fail "the socket went with it"
        # It stays for a segment's sake where systemd would not keep that; else it goes, and the segment is there all the same.
        echo text | as alice shmdctl put kept || fail "put"
        if keeps_descriptors; then
                await "the idle daemon's end" has_property shmd.service ActiveState inactive
        else
                has_property shmd.service ActiveState active || fail "it went, and the segment with it"
        fi
        expect 0 as alice shmdctl cat kept
        says text
        expect 0 as alice shmdctl rm kept
        expect 0 m rm -r /run/systemd/system/shmd.service.d
        expect 0 m systemctl daemon-reload
        expect 0 m systemctl start shmd.service
}

# --- confinement ---

test_confined() {
        score=$(m systemd-analyze security --no-pager shmd.service | sed -n 's/.*exposure level for shmd.service: \([0-9.]*\) .*/\1/p')
        awk "BEGIN { exit !(${score:-10} <= 1.5) }" || fail "systemd-analyze security: ${score:-no score}"

        pid=$(main_pid)
        [ "$(m ps -o user= -p "$pid")" = shmd ] || fail "it is not its own user"
        # CHOWN, DAC_OVERRIDE, FOWNER, SYS_RESOURCE, LEASE (linux/capability.h), as far as the machine has them to give
        capabilities=$(m sed -n 's/^CapEff:[[:space:]]*//p' "/proc/$pid/status")
        given=$(m sed -n 's/^CapBnd:[[:space:]]*//p' /proc/1/status)
        [ "$((0x$capabilities))" -eq "$(((1 << 0 | 1 << 1 | 1 << 3 | 1 << 24 | 1 << 28) & 0x$given))" ] ||
                fail "capabilities: $capabilities"
        # What CAP_DAC_OVERRIDE could reach is not there.
        m nsenter -t "$pid" -m sh -c 'ls -A /run /run/systemd /var /home' >seen
        ! grep -q -E '^(dbus|private|log|lib|alice)$' seen || fail "it sees $(cat seen)"
        expect 2 m nsenter -t "$pid" -m sh -c 'exec 2>/dev/null; echo >/etc/passwd'
        [ -z "$(m nsenter -t "$pid" -m cat /etc/shadow 2>/dev/null)" ] || fail "it can read /etc/shadow"
        # Nothing of what it does was refused by the filter.
        ! journal shmd.service | grep -E 'not permitted|cannot' | grep -v -E 'loopback|keeping' >complaints ||
                fail "$(cat complaints)"
}

test_journal() {
        # A client that breaks the rules is cut off, which is worth a line; and there it says who it was.
        pid=$(main_pid)
        expect 0 as alice python3 -c '
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("/run/shmd/shmd.sock")
s.send(b"\xff" * 64)
s.recv(1)'
        m journalctl -o json --no-pager -u shmd.service >journal.json
        python3 - "$pid" $alice <<'PYTHON' || fail "the journal's fields: $(tail -n 3 journal.json)"
import json, sys
lines = [json.loads(line) for line in open("journal.json")]
assert all(line.get("PRIORITY") is not None for line in lines)
# Of the line that a client caused, the daemon itself says of which.
about = [line for line in lines if "disconnecting" in str(line.get("MESSAGE"))]
assert about and about[-1]["_PID"] == sys.argv[1] and about[-1]["_SYSTEMD_UNIT"] == "shmd.service", about
assert about[-1]["SHMD_UID"] == sys.argv[2] and int(about[-1]["SHMD_PID"]) > 1, about
PYTHON
}

# --- leaks and figures, by the manager's timers ---

test_reclaim_unit() {
        expect 0 m systemctl start shmd.service
        expect 0 m mkdir -p /etc/shmd
        m sh -c 'printf "[reclaim test]\nkind = all\npattern = leaked-*\nage = 0\naction = reclaim\n" >/etc/shmd/shmd.conf'
        as alice sh -c 'echo x >/dev/shm/leaked-file; echo y >/dev/shm/kept-file'
        m systemctl start shmd-reclaim.service || fail "$(m journalctl -b -u shmd-reclaim.service --no-pager)"
        m test ! -e /dev/shm/leaked-file || fail "the leaked file is still there"
        m test -e /dev/shm/kept-file || fail "a file went that no rule is about"
        m journalctl --sync
        [ "$(journal shmd-reclaim.service | grep -c leaked-file)" -eq 1 ] || fail "logged: $(journal shmd-reclaim.service)"
        m rm /etc/shmd/shmd.conf /dev/shm/kept-file
        expect 0 m systemctl reset-failed
}

test_metrics_unit() {
        expect 0 as alice shmdctl create counted 64K
        expect 0 m mkdir -p /var/lib/prometheus/node-exporter
        expect 0 m systemctl start shmd-metrics.service
        m grep -q '^shmd_segments' /var/lib/prometheus/node-exporter/shmd.prom || fail "no figures were written"
        [ "$(m tail -n 1 /var/lib/prometheus/node-exporter/shmd.prom)" = "# EOF" ] || fail "the figures are incomplete"
        expect 0 as alice shmdctl rm counted
}

# --- a user's own ---

test_user_instance() {
        runtime=/run/user/$alice
        own() {
                as alice env XDG_RUNTIME_DIR="$runtime" "$@"
        }
        # As a unit: a later logind judges who asks by his cgroup, and ours is not in the machine.
        expect 0 m systemd-run --quiet --wait loginctl enable-linger alice
        await "the user's manager" own systemctl --user is-system-running
        expect 0 own systemctl --user start shmd.socket
        [ "$(m stat -c %a:%U "$runtime/shmd/shmd.sock")" = 600:alice ] || fail "the user's socket: $(m ls -l "$runtime/shmd")"
        expect 0 own shmdctl --user create mine 64K
        expect 0 own systemctl --user is-active shmd.service
        json_of "j['uid'] == $alice and j['watchdog_usec'] == 30000000" own shmdctl --user --json status || fail "status"
        # It is another one than the system's, and nobody else's.
        expect 0 as alice shmdctl --system list mine --no-headings
        [ ! -s "$out" ] || fail "the system's daemon has it: $(cat "$out")"
        expect 1 as bob env SHMD_SOCKET="$runtime/shmd/shmd.sock" shmdctl list
        expect 0 own shmdctl --user hold --rw mine -- true
        expect 0 own shmdctl --user chmod 0644 mine
        expect 0 own shmdctl --user create --lifetime holders passing 4K -- true
        json_of '[s["name"] for s in j] == ["mine"]' own shmdctl --user --json list || fail "list: $(cat json.out)"
        pid=$(own systemctl --user show -P MainPID shmd.service)
        m grep -q '^Seccomp:[[:space:]]*2' "/proc/$pid/status" || fail "no filter of system calls"
        m grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$pid/status" || fail "new privileges"
        expect 0 own shmdctl --user rm mine
        own systemctl --user kill -s KILL shmd.service
        await "a new daemon" own sh -c "[ \"\$(systemctl --user show -P SubState shmd.service)\" = running ] &&
                [ \"\$(systemctl --user show -P MainPID shmd.service)\" != $pid ]"
        expect 0 own shmdctl --user list
        expect 0 own systemctl --user stop shmd.service
        expect 0 m systemd-run --quiet --wait loginctl disable-linger alice
}

test_stop() {
        expect 0 m systemctl stop shmd.service shmd.socket
        has_property shmd.service Result success || fail "stopped: $(property shmd.service Result)"
        expect 3 as alice env SHMD_AUTOSTART=0 shmdctl --system list
}

test_installed
test_activation
test_ready
test_sysv
test_status
test_users
test_commands
test_holders
test_lifetimes
test_huge_pages
test_reload
test_kill
test_watchdog
test_confined
test_journal
test_crash_loop
test_restart_with_socket
test_idle_exit
test_reclaim_unit
test_metrics_unit
test_user_instance
test_stop
