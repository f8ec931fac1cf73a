#!/bin/sh
# shmdctl leaks and reclaim: a hundred leaked of each kind among a hundred in use, made by programs that SIGKILL ended. All in
# namespaces of their own: IPC, mounts, processes. Nothing of the machine's is looked at, let alone freed.
: "${SHMD_TEST_SRCDIR:?run the tests by make check}"
if [ -z "${LEAKS_INSIDE-}" ]; then
        if ! unshare --ipc --mount --pid --fork --mount-proc true 2>/dev/null; then
                echo "needs root, for namespaces of its own"
                exit 77
        fi
        LEAKS_INSIDE=yes exec unshare --ipc --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
# shellcheck source=../support/script.sh
. "$SHMD_TEST_SRCDIR/tests/support/script.sh"
export SHMD_SOCKET SHMD_TEST_SHMDCTL
mount -t tmpfs -o mode=1777 none /dev/shm || skip_rest "cannot mount a tmpfs"
page=$(getconf PAGESIZE)

# The programs that leak. Each makes N objects, says so, and waits to be killed; those in use have a child that goes on.
cat >leaker.py <<'PYTHON'
import ctypes, mmap, os, signal, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
what, n = sys.argv[1], int(sys.argv[2])
base = int(sys.argv[3], 0) if len(sys.argv) > 3 else 0x1000
kept = []

def posix(name):
    os.makedirs(os.path.dirname("/dev/shm/" + name), exist_ok=True)
    file = open("/dev/shm/" + name, "w+b")
    file.write(b"x" * 4096)
    file.flush()
    return file

def used_posix(i):
    file = posix("used/%d" % i if i % 2 else "used-%d" % i)
    if i % 3 == 0:
        kept.append(file)           # open
    else:
        kept.append(mmap.mmap(file.fileno(), 4096))  # mapped
        if i % 3 == 1:
            file.close()            # and nothing else
        else:
            kept.append(file)

def sysv(i):
    shmid = libc.shmget(base + i, 4096, 0o1600)
    assert shmid >= 0
    return shmid

def attached(i):
    address = libc.shmat(sysv(i), None, 0)
    assert address not in (None, ctypes.c_void_p(-1).value)
    ctypes.memset(address, 1, 4096)

def detached(i):
    shmid = sysv(i)
    if i % 2:
        address = libc.shmat(shmid, None, 0)
        ctypes.memset(address, 1, 4096)

for i in range(n):
    if what == "posix-leak":
        posix("sem.leak-%d" % i if i % 3 == 0 else "sub/leak-%d" % i if i % 3 == 1 else "leak-%d" % i)
    elif what == "posix-used":
        used_posix(i)
    elif what == "sysv-leak":
        detached(i)
    elif what == "sysv-used":
        attached(i)
child = None
if what.endswith("used"):
    child = os.fork()
    if child == 0:
        signal.pause()
print(child or 0, flush=True)
signal.pause()
PYTHON

# leak WHAT N [KEY]: runs one of them until all is made, then kills it. $child: its child that has all of it still
leak() {
        rm -f ready
        mkfifo ready
        python3 leaker.py "$@" >ready &
        maker=$!
        read -r child <ready || fail "leaker.py $*"
        kill -9 "$maker"
        wait "$maker" 2>/dev/null
}

# Nobody need have waited for it.
is_dead() {
        [ ! -e "/proc/$1" ] || grep -q '^State:.*Z' "/proc/$1/status"
}

count() {
        python3 -c 'import json, sys
j = json.load(open(sys.argv[1]))
print(sum(1 for x in j if eval(sys.argv[2])))' "$out" "$1"
}

is_count() {
        [ "$(count "$2")" -eq "$1" ] || fail "not $1 with $2 but $(count "$2"): $(head -c 2000 "$out")"
}

test_nothing() {
        expect 0 shmdctl leaks
        [ ! -s "$out" ] || fail "said: $(cat "$out")"
        expect 0 shmdctl leaks --json
        json 'j == []'
        expect 0 shmdctl reclaim --yes
        expect 2 shmdctl reclaim </dev/null
        errs_like 'no terminal.*--yes'
        expect 2 shmdctl leaks --kind tcp
        expect 2 shmdctl leaks --min-age soon
        expect 2 shmdctl leaks --uid nobody-at-all
        expect 2 shmdctl leaks name
        expect 2 shmdctl reclaim --rules --kind posix
}

test_find() {
        leak posix-leak 100
        leak posix-used 100
        posix_child=$child
        leak sysv-leak 100 0x1000
        leak sysv-used 100 0x2000
        sysv_child=$child
        for i in $(seq 100); do
                echo "shmd/leak-$i"
        done | xargs -P 4 -I{} "$SHMD_TEST_SHMDCTL" create {} 64K || fail "create"
        rm -f held
        mkfifo held
        mkfifo held2
        # A hundred processes, each with one
        for i in $(seq 0 99); do
                shmdctl create "shmd/used-$i" 4K || fail "create"
        done
        shmdctl hold shmd/used-0 -- sh -c 'exec 3<&$SHMD_FD; for i in $(seq 1 99); do
                "$SHMD_TEST_SHMDCTL" hold "shmd/used-$i" -- sleep 1000 & pids="$pids $!"; done
                echo ready >held; read -r x <held2; kill $pids' &
        holder=$!
        read -r _ <held
        until [ "$(shmdctl --json list shmd/used | python3 -c 'import json, sys
print(sum(1 for s in json.load(sys.stdin) if s["holders"] > 0))')" -eq 100 ]; do :; done

        ln -s /etc/passwd /dev/shm/link
        mkfifo /dev/shm/fifo
        expect 0 shmdctl leaks --json --min-age 0
        is_count 100 'x["kind"] == "posix" and "leak-" in x["name"]'
        is_count 100 'x["kind"] == "sysv" and 0x1000 <= int(x["key"], 16) < 0x2000'
        is_count 100 'x["kind"] == "shmd" and x["name"].startswith("shmd/leak-")'
        is_count 300 'True'
        is_count 200 'x["certainty"] == "certain" and x["kind"] != "shmd"'
        is_count 300 'x["verdict"] == "leaked" and x["reason"] and x["age_usec"] < 600e6 and x["uid"] == 0'
        is_count 100 'x["kind"] == "posix" and x["size"] == 4096 and x["resident"] == '"$page"' and x["mode"] == "0644"'
        is_count 50 'x["kind"] == "sysv" and x["resident"] == '"$page"' and x["last_pid"] == x["creator_pid"] > 0'
        expect 0 shmdctl leaks --json # an hour is not over
        is_count 200 'x["kind"] != "shmd"'
        expect 0 shmdctl leaks --json --kind sysv
        is_count 100 'True'
        expect 0 shmdctl leaks --json --uid 1234
        is_count 0 'True'
        expect 0 shmdctl leaks --json --min-age 1h
        is_count 0 'True'
        expect 0 shmdctl leaks --no-headings -o kind,name,sure --kind posix
        grep -q '^posix  *sem.leak-0  *certain$' "$out" || fail "the table: $(head -n 5 "$out")"
}

test_without_rights() {
        # Not his, and no process of root's can be looked into: it is said, nothing is guessed.
        chmod 0755 "$SHMD_TEST_DIRECTORY" 2>/dev/null
        expect 0 setpriv --reuid=1234 --regid=1234 --clear-groups "$SHMD_TEST_SHMDCTL" leaks --json --kind posix
        is_count 200 'x["verdict"] == "unknown" and "no right" in x["reason"]'
        expect 0 setpriv --reuid=1234 --regid=1234 --clear-groups "$SHMD_TEST_SHMDCTL" reclaim --yes --kind posix
        expect 1 setpriv --reuid=1234 --regid=1234 --clear-groups "$SHMD_TEST_SHMDCTL" reclaim --yes --kind sysv --uid 0
        errs_like 'not freed: sysv .*no right'
        expect 1 setpriv --reuid=1234 --regid=1234 --clear-groups "$SHMD_TEST_SHMDCTL" reclaim --yes leak-2
        errs_like "cannot reclaim \"leak-2\": whether it is leaked can't be said"
        # His own are his to judge, and to free.
        setpriv --reuid=1234 --regid=1234 --clear-groups sh -c 'umask 077; echo mine >/dev/shm/his; echo mine >/dev/shm/his2'
        expect 0 setpriv --reuid=1234 --regid=1234 --clear-groups "$SHMD_TEST_SHMDCTL" leaks --json --kind posix --uid 1234
        is_count 2 'x["verdict"] == "leaked" and x["certainty"] == "certain"'
        expect 0 setpriv --reuid=1234 --regid=1234 --clear-groups "$SHMD_TEST_SHMDCTL" reclaim --yes --kind posix
        [ ! -e /dev/shm/his ] || fail "his own was not freed: $(cat "$out")"
        expect 0 shmdctl leaks --json
        is_count 200 'True'
}

test_reclaim() {
        expect 0 shmdctl reclaim --dry-run --json --min-age 0
        json 'len(j["objects"]) == 300 and j["freed"] == 0 and all(x["result"] == "would-free" for x in j["objects"])'
        expect 0 shmdctl reclaim --dry-run --min-age 0
        expect 0 shmdctl leaks --json --min-age 0
        is_count 300 'True'

        expect 1 shmdctl reclaim --yes nothing-there
        errs_like 'nothing-there'
        expect 1 shmdctl reclaim --yes used-0
        errs_like 'cannot reclaim "used-0": in use'
        expect 1 shmdctl reclaim --yes 0x2001
        errs_like 'cannot reclaim "0x2001": in use: 1 attached'
        expect 0 shmdctl reclaim --yes /dev/shm/leak-2 0x1001 shmd/leak-1
        grep -q '^3 freed, 8K came back$' "$out" || fail "said: $(cat "$out")"

        # While others make, use and remove things at full speed
        python3 - <<'PYTHON' &
import os
while not os.path.exists("stop"):
    fd = os.open("/dev/shm/busy", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.ftruncate(fd, 4096)
    again = os.open("/dev/shm/busy", os.O_RDWR)
    os.close(fd)
    assert os.fstat(again).st_nlink == 1, "removed in use"
    os.unlink("/dev/shm/busy")
    os.close(again)
open("well", "w").close()
PYTHON
        busy=$!
        # And segments: some of the program's own, and one of another's, who is dead, that it attaches again and again
        leak sysv-leak 1 0x2700
        python3 - <<'PYTHON' &
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
IPC_RMID, FAILED = 0, ctypes.c_void_p(-1).value
other = libc.shmget(0x2700, 0, 0)
def use(shmid):
    address = libc.shmat(shmid, None, 0)
    assert address != FAILED, "removed in use"
    ctypes.memset(address, 1, 4096)
    return ctypes.c_void_p(address)
libc.shmdt(use(other))
open("attaching", "w").close()
while not os.path.exists("stop"):
    own = libc.shmget(0x2701, 4096, 0o1600)
    address = use(own)
    assert libc.shmget(0x2701, 0, 0) == own, "its key was taken while it was attached"
    libc.shmdt(address)
    assert libc.shmctl(own, IPC_RMID, None) == 0, "removed while its creator lived"
    libc.shmdt(use(other))
libc.shmctl(other, IPC_RMID, None)
open("well-attached", "w").close()
PYTHON
        attacher=$!
        until [ -e attaching ]; do :; done
        expect 0 shmdctl reclaim --yes --json --min-age 0
        json 'len(j["objects"]) == 297'
        json 'all(x["result"] == "freed" and x["freed"] == x["resident"] for x in j["objects"])'
        for _ in 1 2 3 4 5 6 7 8 9 10; do
                expect 0 shmdctl reclaim --yes --min-age 0
                [ ! -s "$out" ] || fail "freed: $(cat "$out")"
        done
        : >stop
        wait "$busy" "$attacher"
        [ -e well ] && [ -e well-attached ] || fail "reclaim removed what was in use"

        expect 0 shmdctl leaks --json --min-age 0
        is_count 0 'True'
        [ "$(find /dev/shm -name 'used*' -type f | wc -l)" -eq 50 ] && [ "$(find /dev/shm/used -type f | wc -l)" -eq 50 ] ||
                fail "files in use are gone: $(find /dev/shm)"
        [ -L /dev/shm/link ] && [ -p /dev/shm/fifo ] || fail "what is no file is gone"
        [ "$(grep -c . /proc/sysvipc/shm)" -eq 101 ] || fail "segments in use are gone: $(cat /proc/sysvipc/shm)"
        expect 0 shmdctl --json list shmd/
        is_count 100 'x["holders"] > 0'

        # Only a child had them. With it they are leaked.
        kill -9 "$posix_child" "$sysv_child"
        until is_dead "$posix_child" && is_dead "$sysv_child"; do :; done
        expect 0 shmdctl leaks --json
        is_count 200 'x["verdict"] == "leaked"'
        expect 0 shmdctl reclaim --yes --kind posix
        grep -q '^100 freed, 400K came back$' "$out" || fail "said: $(tail -n 1 "$out")"
        expect 0 shmdctl reclaim --yes --kind sysv
        expect 0 shmdctl leaks
        [ ! -s "$out" ] || fail "left: $(cat "$out")"
        echo >held2
        wait "$holder"
}

# What shmd looks after is its own business: nothing of the kernel's that could be freed behind its back.
test_adopted() {
        leak sysv-leak 2 0x2800
        expect 0 shmdctl leaks --json --kind sysv
        is_count 2 'True'
        shmid=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["shmid"])' "$out")
        expect 0 shmdctl create adopted --sysv-id "$shmid"
        expect 0 shmdctl leaks --json --kind sysv
        is_count 1 "x['shmid'] != $shmid"
        expect 0 shmdctl reclaim --yes --kind sysv
        expect 1 shmdctl reclaim --yes "$shmid"
        expect 0 shmdctl show --json adopted
        json "j['backing'] == 'sysv' and j['shmid'] == $shmid and j['key'] == '0x00002800' and j['attached'] == 0"
        grep -q "^ *10240 *$shmid " /proc/sysvipc/shm || fail "reclaimed behind its back"
        # As one of shmd's own segments it can leak, too.
        expect 0 shmdctl leaks --json --kind shmd --min-age 0
        is_count 1 'x["name"] == "adopted"'
        expect 0 shmdctl reclaim --yes --kind shmd --min-age 0
        expect 0 shmdctl leaks --json --kind sysv
        is_count 0 'True'
        ! grep -q "^ *[0-9]* *$shmid " /proc/sysvipc/shm || fail "not removed"
}

# Another process has the number of the creator by now.
test_pid_reused() {
        leak sysv-leak 2 0x3000
        expect 0 shmdctl leaks --json --kind sysv
        is_count 2 'x["certainty"] == "certain"'
        made=$(date +%s)
        until [ "$(date +%s)" -gt $((made + 4)) ]; do :; done
        cat >reuse.py <<'PYTHON'
import os, signal, sys
pid = int(sys.argv[1])
for _ in range(1000):
    open("/proc/sys/kernel/ns_last_pid", "w").write(str(pid - 1))
    child = os.fork()
    if child == 0:
        signal.pause()
    if child == pid:
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(child, flush=True)
PYTHON
        python3 reuse.py "$maker" >reused
        [ "$(cat reused)" = "$maker" ] || fail "pid $maker could not be had again"
        expect 0 shmdctl leaks --json --kind sysv
        is_count 2 'x["verdict"] == "leaked" and x["certainty"] == "likely" and "another process has its number" in x["reason"]'
        # Where creator or last user lives, nothing is leaked.
        rm -f ready
        mkfifo ready
        python3 leaker.py sysv-leak 2 0x4000 >ready &
        maker2=$!
        read -r _ <ready
        expect 0 shmdctl leaks --json --kind sysv
        is_count 2 'True'
        kill -9 "$maker2" "$maker"
        expect 0 shmdctl reclaim --yes --kind sysv --min-age 1h
        expect 0 shmdctl leaks --json --kind sysv
        wait "$maker2" 2>/dev/null
        expect 0 shmdctl reclaim --yes --kind sysv
        expect 0 shmdctl leaks --json --kind sysv
        is_count 0 'True'
}

# By the time it is freed it may be used, or another one.
test_rechecked() {
        echo one >/dev/shm/again
        cat >slow.py <<'PYTHON'
# Answers the question only after the object has been changed.
import os, pty, subprocess, sys
action = sys.argv[1]
main, side = pty.openpty()
tool = subprocess.Popen([os.environ["SHMD_TEST_SHMDCTL"], "reclaim", "--kind", sys.argv[2]], stdin=side, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE, text=True)
text = ""
while "[y/N]" not in text:
    text += tool.stderr.read(1)
exec(action)
os.write(main, b"y\n")
out, err = tool.communicate()
print(out, err)
sys.exit(tool.returncode)
PYTHON
        expect 1 python3 slow.py 'f = open("/dev/shm/again")' posix
        grep -q 'not freed: posix again: somebody uses it' "$out" || fail "said: $(cat "$out")"
        expect 1 python3 slow.py 'os.unlink("/dev/shm/again"); open("/dev/shm/again", "w").write("two")' posix
        grep -q 'not freed: posix again: it has been used, or replaced' "$out" || fail "said: $(cat "$out")"
        expect 1 python3 slow.py 'open("/dev/shm/again", "a").write("more")' posix
        grep -q 'not freed: posix again: it has been used' "$out" || fail "said: $(cat "$out")"
        expect 0 python3 slow.py 'os.unlink("/dev/shm/again")' posix
        [ ! -e /dev/shm/again ] || fail "unlinked, and there"
        echo one >/dev/shm/again
        expect 0 python3 slow.py 'pass' posix
        [ ! -e /dev/shm/again ] || fail "not freed"
        leak sysv-leak 1 0x5000
        expect 1 python3 slow.py 'import ctypes; libc = ctypes.CDLL(None); libc.shmat(libc.shmget(0x5000, 0, 0), None, 0)' sysv
        grep -q 'not freed: sysv .*: somebody uses it' "$out" || fail "said: $(cat "$out")"
        expect 0 shmdctl reclaim --yes --kind sysv
        # Another name keeps the memory.
        echo one >/dev/shm/again
        ln /dev/shm/again /dev/shm/other
        expect 0 shmdctl reclaim --yes --kind posix again
        grep -q '^1 freed, 0B came back$' "$out" || fail "said: $(cat "$out")"
        expect 0 shmdctl reclaim --yes --kind posix other
        grep -q '^1 freed, 4K came back$' "$out" || fail "said: $(cat "$out")"
}

# It may look after any of them.
test_stopped_daemon() {
        "$SHMD_TEST_DAEMON" --socket "$SHMD_TEST_DIRECTORY/stopped.sock" 2>stopped.log &
        stopped=$!
        until shmdctl --socket "$SHMD_TEST_DIRECTORY/stopped.sock" status >"$out" 2>&1; do :; done
        kill -STOP "$stopped"
        : >/dev/shm/leaked
        leak sysv-leak 1 0x3900
        expect 3 timeout 60 "$SHMD_TEST_SHMDCTL" --socket "$SHMD_TEST_DIRECTORY/stopped.sock" reclaim --yes --kind sysv
        errs_like 'the daemon does not answer'
        expect 3 timeout 60 "$SHMD_TEST_SHMDCTL" --socket "$SHMD_TEST_DIRECTORY/stopped.sock" metrics
        errs_like 'the daemon does not answer'
        expect 0 shmdctl --socket "$SHMD_TEST_DIRECTORY/stopped.sock" reclaim --yes --kind posix
        grep -q '^1 freed' "$out" || fail "said: $(cat "$out")"
        kill -CONT "$stopped"
        expect 0 shmdctl --socket "$SHMD_TEST_DIRECTORY/stopped.sock" reclaim --yes --kind sysv
        grep -q '^1 freed' "$out" || fail "said: $(cat "$out")"
        kill "$stopped"
        wait "$stopped"
}

# What others put there to be stumbled over.
test_traps() {
        # A directory that can be listed, and no more
        setpriv --reuid=1234 --regid=1234 --clear-groups sh -c 'mkdir -m 0744 /dev/shm/shut; echo x >/dev/shm/shut/file'
        expect 0 setpriv --reuid=1235 --regid=1235 --clear-groups "$SHMD_TEST_SHMDCTL" leaks --json --kind posix
        json '[(x["name"], x["uid"], x["verdict"]) for x in j] == [("shut", 1234, "unknown")]'
        json 'j[0]["age_usec"] < 600e6'
        rm -r /dev/shm/shut
        # A program that may not be read, and runs
        setpriv --reuid=1234 --regid=1234 --clear-groups sh -c 'cp "$(command -v sleep)" /dev/shm/program; chmod 0733 /dev/shm/program
                exec /dev/shm/program 1000' &
        program=$!
        until [ "$(readlink /proc/$program/exe)" = /dev/shm/program ]; do :; done
        expect 0 setpriv --reuid=1235 --regid=1235 --clear-groups "$SHMD_TEST_SHMDCTL" leaks --json --kind posix
        is_count 0 'True'
        expect 0 shmdctl leaks --json --kind posix
        is_count 0 'True'
        kill "$program"
        rm /dev/shm/program
        # Another file mounted on a file
        echo precious >"$SHMD_TEST_DIRECTORY/precious"
        : >/dev/shm/mounted
        mount --bind "$SHMD_TEST_DIRECTORY/precious" /dev/shm/mounted
        expect 0 shmdctl leaks --json --kind posix
        is_count 0 'True'
        umount /dev/shm/mounted
        rm /dev/shm/mounted
        # What a terminal would obey
        : >"/dev/shm/$(printf 'a\n\033[31mb')"
        expect 0 shmdctl leaks --kind posix
        ! grep -q "$(printf '\033')" "$out" && grep -q 'a\\x0a\\x1b\[31mb' "$out" || fail "said: $(cat -A "$out")"
        expect 0 shmdctl reclaim --yes --kind posix
        ! grep -q "$(printf '\033')" "$out" || fail "said: $(cat -A "$out")"
}

# A file system in user space that never answers, where others have their /dev/shm, or on the way to it, or on a file
test_silent_server() {
        cat >silent.py <<'PYTHON'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
mode = "40000" if os.path.isdir(sys.argv[1]) else "100000"
options = b"fd=%d,rootmode=%s,user_id=0,group_id=0,allow_other" % (fd, mode.encode())
assert libc.mount(b"silent", sys.argv[1].encode(), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
print("ready", flush=True)
os.read(0, 1)
PYTHON
        [ -c /dev/fuse ] || { skip "file systems in user space: no /dev/fuse here"; return; }
        rm -f ready stop4
        mkfifo ready stop4
        for place in /dev/shm /dev /dev/shm/file; do
                unshare --mount sh -c 'mount -t tmpfs none /dev/shm; : >/dev/shm/file; exec 0<stop4
                        exec python3 silent.py "$0" >ready' "$place" &
                server=$!
                exec 8>stop4
                read -r said <ready || said=nothing
                [ "$said" = ready ] || { skip "file systems in user space: none can be mounted"; exec 8>&-; wait "$server"; return; }
                expect 0 timeout 20 "$SHMD_TEST_SHMDCTL" leaks --json --kind posix --all-namespaces
                case $place in
                /dev/shm)
                        is_count 1 'x["name"] == "." and x["verdict"] == "unknown" and "fuse" in x["reason"] and x["namespace"]["pid"] > 0'
                        ;;
                /dev) is_count 1 'x["name"] == "." and x["verdict"] == "unknown" and "may never answer" in x["reason"]' ;;
                *) is_count 0 'True' ;;
                esac
                exec 8>&-
                wait "$server"
        done
}

# A segment that nobody has attached may be used all the same: through a descriptor, as shmd gives them. Also when shmd is not there.
test_by_descriptor() {
        cat >descriptor.py <<'PYTHON'
import ctypes, mmap, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
shmid = libc.shmget(0x7800, 8192, 0o1600)
address = libc.shmat(shmid, None, 0)
fd = os.open("/proc/self/map_files/%x-%x" % (address, address + 8192), os.O_RDWR)
libc.shmdt(ctypes.c_void_p(address))
if os.fork() == 0:
    if sys.argv[1] == "mapped":
        mapped = mmap.mmap(fd, 8192)
        os.close(fd)
    if sys.argv[1] == "elsewhere":
        os.unshare(0x08000000) if hasattr(os, "unshare") else libc.unshare(0x08000000)
    print(os.getpid(), flush=True)
    signal.pause()
os._exit(0)
PYTHON
        for how in open mapped elsewhere; do
                rm -f ready
                mkfifo ready
                python3 descriptor.py "$how" >ready 2>/dev/null &
                read -r child <ready || { skip "descriptors of SysV segments: no CAP_CHECKPOINT_RESTORE here"; return; }
                wait $!
                expect 0 shmdctl --socket /nonexistent leaks --json --kind sysv
                if [ "$how" = elsewhere ]; then
                        is_count 1 'x["verdict"] == "unknown" and "another IPC namespace" in x["reason"]'
                else
                        is_count 0 'True'
                fi
                expect 1 shmdctl --socket /nonexistent reclaim --yes --kind sysv 0x7800
                kill -9 "$child"
                until is_dead "$child"; do :; done
                expect 0 shmdctl --socket /nonexistent reclaim --yes --kind sysv 0x7800
                grep -q '^1 freed' "$out" || fail "said: $(cat "$out")"
        done
}

# Times from before the machine's start: its clock has been set. Nobody can say who had a number then.
test_clock() {
        leak sysv-leak 1 0x3800
        made=$(date +%s)
        until [ "$(date +%s)" -gt $((made + 4)) ]; do :; done
        python3 reuse.py "$maker" >reused
        [ "$(cat reused)" = "$maker" ] || fail "pid $maker could not be had again"
        expect 0 shmdctl leaks --json --kind sysv
        is_count 1 'x["verdict"] == "leaked" and x["certainty"] == "likely"'
        uptime=$(cut -d. -f1 /proc/uptime)
        if unshare --time --boottime -$((uptime - 1)) true 2>/dev/null; then
                expect 0 unshare --time --boottime -$((uptime - 1)) "$SHMD_TEST_SHMDCTL" leaks --json --kind sysv
                is_count 1 'x["verdict"] == "unknown" and "the clock was set" in x["reason"]'
        else
                skip "a clock that was set: no time namespaces here"
        fi
        kill -9 "$maker"
        expect 0 shmdctl reclaim --yes --kind sysv
}

# Killed between two steps of removing a file: the next one goes on, and what is in use meanwhile has its name again.
test_interrupted() {
        kill_library=$SHMD_TEST_BUILDDIR/tests/support/.libs/preload-kill.so
        [ "$SHMD_TEST_SANITIZERS" = no ] || { skip "a reclaim that is killed: nothing can be preloaded beside sanitizers"; return; }
        for moment in rename +rename unlink +unlink; do
                mkdir -p /dev/shm/sub
                echo one >/dev/shm/sub/victim
                expect 137 env LD_PRELOAD="$kill_library" SHMD_TEST_KILL=$moment "$SHMD_TEST_SHMDCTL" reclaim --yes --kind posix
                [ "$moment" = +unlink ] || [ "$(cat /dev/shm/sub/.shmd-reclaim-* /dev/shm/sub/victim 2>/dev/null)" = one ] ||
                        fail "$moment: $(ls -lA /dev/shm/sub)"
                expect 0 shmdctl reclaim --dry-run --kind posix
                if [ "$moment" = +rename ]; then
                        # Somebody has it by now.
                        exec 7<"$(echo /dev/shm/sub/.shmd-reclaim-*)"
                        expect 0 shmdctl reclaim --yes --kind posix
                        grep -q '^given back its name: posix sub/victim' "$out" || fail "said: $(cat "$out")"
                        [ "$(ls -A /dev/shm/sub)" = victim ] || fail "not given back: $(ls -lA /dev/shm/sub)"
                        exec 7<&-
                fi
                expect 0 shmdctl reclaim --yes --kind posix
                [ -z "$(ls -A /dev/shm/sub)" ] || fail "$moment: left $(ls -lA /dev/shm/sub)"
        done
        # The former name is another's by now: both stay what they are, and are judged as any others.
        echo one >/dev/shm/victim
        expect 137 env LD_PRELOAD="$kill_library" SHMD_TEST_KILL=unlink "$SHMD_TEST_SHMDCTL" reclaim --yes --kind posix
        exec 7>/dev/shm/victim
        expect 0 shmdctl reclaim --yes --kind posix
        grep -q '^1 freed, 4K came back$' "$out" || fail "said: $(cat "$out")"
        [ "$(ls -A /dev/shm | grep -c victim)" -eq 1 ] || fail "left: $(ls -lA /dev/shm)"
        exec 7<&-
        rm /dev/shm/victim
        # What only looks like it
        : >/dev/shm/.shmd-reclaim-0123456789abcdef-
        : >/dev/shm/.shmd-reclaim-0123456789abcdeX-name
        : >/dev/shm/.shmd-reclaim-0123456789abcdef-..
        long=$(printf %0250d 0)
        : >/dev/shm/$long
        expect 0 shmdctl reclaim --yes --kind posix
        grep -q '^4 freed' "$out" && ! grep -q 'given back' "$out" || fail "said: $(cat "$out")"
}

test_rules() {
        cat >rules.conf <<'RULES'
[limits]
segments = 100
[reclaim scratch]
kind = posix
pattern = scratch-*
age = 0
action = reclaim
[reclaim rest]
kind = posix
age = 0s
[reclaim his]
kind = sysv
user = 1234
age = 0
action = reclaim
RULES
        for name in scratch-1 scratch-2 kept; do
                echo text >"/dev/shm/$name"
        done
        leak sysv-leak 2 0x6000
        expect 0 shmdctl reclaim --rules=rules.conf --dry-run --json
        json 'sorted((x["name"], x["rule"], x["result"]) for x in j["objects"]) == [("kept", "rest", "report"),
("scratch-1", "scratch", "would-free"), ("scratch-2", "scratch", "would-free")]'
        expect 0 shmdctl reclaim --rules=rules.conf
        grep -q '^freed posix scratch-1, 4K$' "$out" && grep -q '^leaked posix kept, 4K' "$out" &&
                grep -q '^2 freed, 8K came back$' "$out" || fail "said: $(cat "$out")"
        [ -e /dev/shm/kept ] && [ ! -e /dev/shm/scratch-1 ] && [ ! -e /dev/shm/scratch-2 ] || fail "freed the wrong ones"
        expect 0 shmdctl leaks --json --kind sysv
        is_count 2 'True'
        printf '[reclaim a]\nkind = posix\n[reclaim b]\naction = reclaim\n' >rules.conf
        expect 1 shmdctl reclaim --rules=rules.conf
        errs 'shmdctl: rules.conf:4: the section [reclaim b] says no kind'
        expect 1 "$SHMD_TEST_DAEMON" --socket "$SHMD_TEST_DIRECTORY/other.sock" --config rules.conf
        errs_like 'rules.conf:4: the section \[reclaim b\] says no kind'
        printf '[reclaim a]\nkind = posix\nage = never\n' >rules.conf
        expect 1 shmdctl reclaim --rules=rules.conf
        errs_like '^shmdctl: rules.conf:3: age takes a time.*never'
        # One that would be read as two, the second as a value that takes the place of the first
        printf '[reclaim a]\nkind = posix\naction = reclaim\npattern = %0260d\n' 0 | sed 's/0\{20\}$/ kept/' >rules.conf
        expect 1 shmdctl reclaim --rules=rules.conf
        errs 'shmdctl: rules.conf:4: the line is too long'
        expect 1 shmdctl reclaim --rules=/nonexistent
        rm /dev/shm/kept
        expect 0 shmdctl reclaim --yes --kind sysv
}

test_namespaces() {
        rm -f ready
        mkfifo ready
        rm -f stop2
        mkfifo stop2
        unshare --ipc --mount sh -c 'mount -t tmpfs none /dev/shm; echo text >/dev/shm/elsewhere
                python3 -c "import ctypes; ctypes.CDLL(None).shmget(0x77, 4096, 0o1600)"; echo >ready; read -r x <stop2' &
        read -r _ <ready
        expect 0 shmdctl leaks --json
        is_count 0 'True'
        expect 0 shmdctl leaks --json --all-namespaces
        is_count 1 'x["name"] == "elsewhere" and x["namespace"]["pid"] > 0 and x["certainty"] == "certain"'
        is_count 1 'x["kind"] == "sysv" and x["key"] == "0x00000077" and x["namespace"]["unit"]'
        is_count 2 'True'
        expect 0 shmdctl reclaim --yes --all-namespaces
        grep -q '^2 freed, 4K came back$' "$out" || fail "said: $(cat "$out")"
        expect 0 shmdctl leaks --json --all-namespaces
        is_count 0 'True'
        # A process of another pid namespace has no number here.
        unshare --pid --fork python3 -c 'import ctypes; ctypes.CDLL(None).shmget(0x78, 4096, 0o1600)'
        expect 0 unshare --pid --fork --mount-proc "$SHMD_TEST_SHMDCTL" leaks --json --kind sysv
        is_count 1 'x["verdict"] == "unknown" and "another pid namespace" in x["reason"]'
        expect 0 unshare --pid --fork --mount-proc "$SHMD_TEST_SHMDCTL" reclaim --kind sysv --yes
        expect 0 shmdctl leaks --json --kind sysv
        is_count 1 'True'
        expect 0 shmdctl reclaim --yes --kind sysv
        echo >stop2
}

# Ten thousand of each; how long it takes is told, not judged.
test_many() {
        python3 - <<'PYTHON'
import ctypes
for i in range(10000):
    open("/dev/shm/many-%d" % i, "w").close()
libc = ctypes.CDLL(None)
try:
    open("/proc/sys/kernel/shmmni", "w").write("10100")
except OSError:
    pass
n = sum(libc.shmget(0x100000 + i, 4096, 0o1600) >= 0 for i in range(10000))
open("n", "w").write(str(n))
PYTHON
        started=$(date +%s%N)
        expect 0 shmdctl leaks --json
        echo "leaks among 10,000 files and $(cat n) segments took $((($(date +%s%N) - started) / 1000000)) ms"
        is_count 10000 'x["kind"] == "posix"'
        is_count "$(cat n)" 'x["kind"] == "sysv"'
        started=$(date +%s%N)
        expect 0 shmdctl reclaim --yes --json
        echo "reclaim took $((($(date +%s%N) - started) / 1000000)) ms"
        expect 0 shmdctl leaks --json
        is_count 0 'True'
}

# Without the right to ask the kernel: a thousand processes, each with ten of ten thousand files, and as many that
# nobody has.
test_processes() {
        cat >crowd.py <<'PYTHON'
import mmap, os, signal
for i in range(20000):
    fd = os.open("/dev/shm/crowd-%d" % i, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    os.close(fd)
pids = []
for n in range(1000):
    pid = os.fork()
    if pid == 0:
        kept = []
        for i in range(10):
            fd = os.open("/dev/shm/crowd-%d" % (10 * n + i), os.O_RDWR)
            if i < 5:
                kept.append(mmap.mmap(fd, 4096))
                os.close(fd)
        os.write(write, b"x")
        signal.pause()
    pids.append(pid)
PYTHON
        sed -i 's/^pids = .*/read, write = os.pipe()\n&/' crowd.py
        cat >>crowd.py <<'PYTHON'
for n in range(1000):
    os.read(read, 1)
for i in range(20000):
    os.chown("/dev/shm/crowd-%d" % i, 1, 1)
print("ready", flush=True)
os.read(0, 1)
for pid in pids:
    os.kill(pid, signal.SIGKILL)
for pid in pids:
    os.waitpid(pid, 0)
PYTHON
        rm -f ready stop3
        mkfifo ready stop3
        python3 crowd.py <stop3 >ready &
        crowd=$!
        exec 9>stop3
        read -r _ <ready
        started=$(date +%s%N)
        expect 0 setpriv --bounding-set=-lease --inh-caps=-lease "$SHMD_TEST_SHMDCTL" leaks --json --kind posix
        echo "leaks among 20,000 files and 1,000 processes, by /proc, took $((($(date +%s%N) - started) / 1000000)) ms"
        # Which nobody has as far as can be seen; but this is not the first pid namespace: test-leaks-proc.sh.
        is_count 10000 'int(x["name"][6:]) >= 10000 and x["verdict"] == "unknown" and "does not show" in x["reason"]'
        is_count 10000 'True'
        expect 1 setpriv --bounding-set=-lease --inh-caps=-lease "$SHMD_TEST_SHMDCTL" reclaim --yes --kind posix crowd-10000
        errs_like "cannot reclaim \"crowd-10000\": whether it is leaked can't be said"
        started=$(date +%s%N)
        expect 0 shmdctl leaks --json --kind posix
        echo "and by leases $((($(date +%s%N) - started) / 1000000)) ms"
        is_count 10000 'int(x["name"][6:]) >= 10000 and x["certainty"] == "certain"'
        is_count 10000 'True'
        exec 9>&-
        wait "$crowd"
        expect 0 shmdctl reclaim --yes --json --kind posix
        json 'len(j["objects"]) == 20000'
}

for part in nothing find without_rights reclaim adopted pid_reused clock rechecked interrupted stopped_daemon traps by_descriptor \
        rules namespaces silent_server many processes; do
        "test_$part"
done
