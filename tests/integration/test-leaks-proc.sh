#!/bin/sh
# shmdctl leaks without the right to ask the kernel: what /proc tells, and what it does not. In namespaces of its own for mounts and
# IPC, but among all processes of the machine: in another pid namespace there may always be some that are not seen.
: "${SHMD_TEST_SRCDIR:?run the tests by make check}"
if [ -z "${LEAKS_INSIDE-}" ]; then
        if ! unshare --ipc --mount true 2>/dev/null; then
                echo "needs root, for namespaces of its own"
                exit 77
        fi
        LEAKS_INSIDE=yes exec unshare --ipc --mount "$0" "$@"
fi
script_daemon=no
# shellcheck source=../support/script.sh
. "$SHMD_TEST_SRCDIR/tests/support/script.sh"
mount -t tmpfs -o mode=1777 none /dev/shm || skip_rest "cannot mount a tmpfs"
first_namespace=no
[ "$(readlink /proc/self/ns/pid)" != 'pid:[4026531836]' ] || first_namespace=yes
# On some machines there are processes that not even root may look into.
reason='any(words in x["reason"] for words in ("on their way in sockets", "does not show", "nor to look into"))'

blind_leaks() {
        expect 0 setpriv --bounding-set=-lease --inh-caps=-lease "$SHMD_TEST_SHMDCTL" --socket /nonexistent leaks --json --kind posix
}

# file NAME: another user's, so that it takes CAP_LEASE to ask about it
file() {
        : >"/dev/shm/$1"
        chown 1234 "/dev/shm/$1"
}

cat >keeper.py <<'PYTHON'
import ctypes, os, socket, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
CLONE_FILES = 0x400

def by_thread(ready):
    assert libc.unshare(CLONE_FILES) == 0
    os.open("/dev/shm/thread", os.O_RDWR)
    ready.set()
    threading.Event().wait()

# Descriptors of a thread's own
ready = threading.Event()
threading.Thread(target=by_thread, args=(ready,), daemon=True).start()
ready.wait()

# In the queue of a connection that nobody has accepted
server = socket.socket(socket.AF_UNIX)
server.bind("queue")
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect("queue")
fd = os.open("/dev/shm/flying", os.O_RDWR)
if sys.argv[1] == "flying":
    socket.send_fds(client, [b"x"], [fd])
os.close(fd)
print("ready", flush=True)
os.read(0, 1)
PYTHON

# keep WHAT: runs it; what is there meanwhile is asked about, then it is ended
keep() {
        rm -f ready stop queue
        mkfifo ready stop
        python3 keeper.py "$1" <stop >ready &
        keeper=$!
        exec 9>stop
        read -r _ <ready || fail "keeper.py $1"
        blind_leaks
        exec 9>&-
        wait "$keeper"
}

file thread
file flying
file idle

keep flying
json '"thread" not in [x["name"] for x in j]'
json "len(j) == 2 and all(x['verdict'] == 'unknown' and $reason for x in j)"
[ $first_namespace = no ] || json 'not any("does not show" in x["reason"] for x in j)'

# Other programs of the machine may have descriptors on their way, too.
keep nothing
json '"thread" not in [x["name"] for x in j] and len(j) == 2'
json "all(x['certainty'] == 'likely' or $reason for x in j)"

# A /proc that hides processes
blind='exec setpriv --reuid=1235 --regid=1235 --clear-groups "$SHMD_TEST_SHMDCTL" --socket /nonexistent leaks --json --kind posix'
chmod 0755 "$SHMD_TEST_DIRECTORY"
chmod 0666 /dev/shm/idle
if unshare --mount sh -c 'mount -t proc -o hidepid=invisible proc /proc' 2>/dev/null; then
        expect 0 unshare --mount sh -c "mount -t proc -o hidepid=invisible proc /proc; $blind"
        json 'len(j) == 3 and all(x["verdict"] == "unknown" and "/proc does not show" in x["reason"] for x in j)'
else
        skip "a /proc that hides processes: cannot be mounted"
fi
