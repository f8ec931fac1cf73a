#!/bin/sh
# Unchanged programs on shmd: what a program sees is what it sees natively; what the daemon sees is that it served it.
# shellcheck disable=SC2016 # variables for programs under `run`
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

calls=$SHMD_TEST_BUILDDIR/tests/programs/posix-calls
case ${SHMD_TEST_SANITIZERS:-no} in
        no) sanitized=no ;;
        *) # whose library has to be the first
                sanitized=yes
                LD_PRELOAD=$("${SHMD_TEST_CC:-cc}" -print-file-name=libasan.so)
                export LD_PRELOAD
                # In all programs that this script runs: what sed(1) leaks is not ours.
                ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
                export ASAN_OPTIONS
                ;;
esac

# Natively, where possible in a /dev/shm of its own: what a failed run leaves behind shall not be in the way.
if [ "$(id -u)" -eq 0 ] && unshare -m true 2>/dev/null; then
        native() {
                unshare -m sh -c 'mount -t tmpfs -o mode=1777 none /dev/shm && exec "$@"' sh "$@"
        }
else
        native() {
                "$@"
        }
fi

served() {
        shmdctl run -- "$@"
}

watch_events

# --- the same calls, natively and served ---

test_calls() {
        daemon=$(shmdctl --json status | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])') || fail "status"
        for scenario in flags flags-threaded names names-differ data identity rights user-namespace limit lowest close-all processes \
                fds fork-inside race threads signals cancel others; do
                if [ "$sanitized" = yes ]; then
                        case $scenario in
                                processes | signals | limit | lowest) # what a sanitizer does in between is not ours to judge
                                        skip "$scenario, with sanitizers"
                                        continue
                                        ;;
                        esac
                fi
                expect 0 native "$calls" "$scenario" "/calls-$scenario"
                mv "$out" native
                expect 0 env STOP_PID="$daemon" "$SHMD_TEST_SHMDCTL" run -- "$calls" "$scenario" "/calls-$scenario"
                errs_nothing
                cmp -s native "$out" || fail "$scenario: natively < and served >: $(diff native "$out" | head -n 6)"
                case $scenario in
                        names*) await_event "created.*posix-calls|created.*calls-$scenario" ;;
                        *) await_event "created.*calls-$scenario" ;;
                esac
        done
        expect 0 shmdctl --no-headings list --all
        says_nothing
        expect 0 served "$calls" names
        await_event 'created.* posix-calls%FF%FE$'
        await_event 'created.* posix-calls%2541$'
        await_event 'created.* posix-calls%0A%09%7F$'
        await_event 'created.* posix-callsé$'
}

errs_nothing() {
        [ ! -s "$err" ] || fail "said on standard error: $(cat "$err")"
}

says_nothing() {
        [ ! -s "$out" ] || fail "said: $(cat "$out")"
}

# --- a program that stays until it is told to go ---

# stay NAME BYTES OPTION...: its process id is in $program
stay() {
        name=$1 bytes=$2
        shift 2
        mkfifo go told
        "$SHMD_TEST_SHMDCTL" run "$@" -- "$calls" stay "/$name" "$bytes" <go >told &
        program=$!
        exec 7>go
        read -r word <told
        [ "$word" = made ] || fail "it did not start"
        rm go told
}

# kill NUMBER
end() {
        kill "$1" "$program"
        wait "$program" 2>/dev/null
        exec 7>&-
}

test_lifetimes() {
        stay stays 4096
        expect 0 shmdctl --json show stays
        json 'j["holder_count"] == 1 and j["lifetime"] == "persist" and j["posix"] is True and j["uid"] == '"$(id -u)"
        json 'j["creator"]["pid"] == '"$program"
        end -9
        expect 0 shmdctl show stays
        expect 0 served "$calls" use /stays
        expect 0 served "$calls" unlink /stays
        expect 1 shmdctl show stays

        stay goes 1073741824 --lifetime holders --prefix job-7/
        expect 0 shmdctl --json show job-7/goes
        json 'j["resident"] == 1 << 30 and j["lifetime"] == "holders"'
        expect 0 shmdctl run --prefix job-7/ -- "$calls" use /goes
        expect 1 served "$calls" use /goes
        end -9
        until ! shmdctl show job-7/goes >"$out" 2>"$err"; do :; done
        until [ -z "$(shmdctl --no-headings list --all)" ]; do :; done

        # What nobody has open can be opened again while the program lives that was run; then it is gone.
        expect 0 shmdctl run --lifetime holders -- sh -c 'printf c | "$1" obey /kept && "$1" use /kept && "$1" use /kept' sh "$calls"
        await_event 'freed.* kept$' # without anybody asking for it
        expect 0 shmdctl run --lifetime holders -- sh -c \
                'printf c | env SHMD_PRELOAD_KEEPER=1 "$1" obey /kept; until ! "$2" show kept; do :; done' sh "$calls" "$SHMD_TEST_SHMDCTL"

        # In a container its number is another one than the daemon knows it by.
        if [ "$(id -u)" -eq 0 ] && unshare -p --fork --mount-proc true 2>/dev/null; then
                expect 0 unshare -p --fork --mount-proc "$SHMD_TEST_SHMDCTL" run --lifetime holders --prefix contained/ -- \
                        sh -c 'printf c | "$1" obey /kept && "$1" use /kept && "$1" use /kept' sh "$calls"
                await_event 'freed.* contained/kept$'
        else
                skip "a namespace of processes: this takes root"
        fi

        stay lingers 4096 --lifetime linger=1234.5
        expect 0 shmdctl --json show lingers
        json 'j["linger_usec"] == 1234500000'
        end -TERM
        expect 0 shmdctl rm lingers
        stay lingers 4096 --lifetime linger=18446744073709.551615 # all that shmdctl takes is taken
        expect 0 shmdctl --json show lingers
        json 'j["lifetime"].startswith("linger") and j["linger_usec"] == (1 << 64) - 1'
        end -TERM
        expect 0 shmdctl rm lingers
}

# --- SysV ---

in_kernel() {
        awk -v id="$1" '$2 == id { found = 1 } END { exit !found }' /proc/sysvipc/shm
}

test_sysv() {
        expect 0 native "$calls" sysv
        mv "$out" native
        expect 0 served "$calls" sysv
        errs_nothing
        cmp -s native "$out" || fail "sysv: natively < and served >: $(diff native "$out" | head -n 6)"
        await_event 'created.* sysv/[0-9]+$'

        expect 0 served "$calls" sysv-race

        expect 0 served "$calls" sysv-leave
        shmid=$(cat "$out")
        expect 0 shmdctl --json show "sysv/$shmid"
        json 'j["backing"] == "sysv" and j["lifetime"] == "persist"'
        expect 0 shmdctl rm "sysv/$shmid"
        while in_kernel "$shmid"; do :; done

        expect 0 shmdctl run --lifetime holders -- sh -c '"$1" sysv-leave >id && read -r id <id && "$2" show "sysv/$id"' \
                sh "$calls" "$SHMD_TEST_SHMDCTL"
        shmid=$(cat id)
        while in_kernel "$shmid"; do :; done

        # What of it is in memory the kernel tells, but not to the daemon, nor in another IPC namespace than its own.
        expect 0 served python3 -c 'import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
shmid = libc.shmget(0, 131072, 0o1600)
ctypes.memset(libc.shmat(shmid, None, 0), 1, 65536)
print(shmid)'
        shmid=$(cat "$out")
        expect 0 shmdctl --json show "sysv/$shmid"
        json 'j["resident"] == 65536 and j["inode"] == 0'
        expect 0 shmdctl --no-headings list -o resident,id "sysv/$shmid"
        grep -Eq '^ *64K ' "$out" || fail "list: $(cat "$out")"
        expect 0 shmdctl --json top --once --interval 0.1 "sysv/$shmid"
        json 'j[0]["resident"] == 65536'
        if [ "$(id -u)" -eq 0 ] && unshare -i true 2>/dev/null; then
                expect 0 unshare -i "$SHMD_TEST_SHMDCTL" --json list "sysv/$shmid"
                json 'j[0]["resident"] is None and j[0]["inode"] == 0'
                expect 0 unshare -i "$SHMD_TEST_SHMDCTL" --no-headings list -o resident "sysv/$shmid"
                grep -Eq '^ *-$' "$out" || fail "list: $(cat "$out")"
                expect 0 unshare -i "$SHMD_TEST_SHMDCTL" show "sysv/$shmid"
                grep -Eq '^resident: +-$' "$out" || fail "show: $(cat "$out")"
        fi
        expect 0 shmdctl rm "sysv/$shmid"
        while in_kernel "$shmid"; do :; done

        if [ "$(id -u)" -eq 0 ] && unshare -i true 2>/dev/null; then
                expect 0 unshare -i "$SHMD_TEST_SHMDCTL" run -- "$calls" sysv
                errs 'libshmd-preload: the daemon is in another IPC namespace, and does not look after SysV segments of this one'
                cmp -s native "$out" || fail "in another namespace: $(diff native "$out" | head -n 6)"
        else
                skip "another IPC namespace: this takes root"
        fi
}

# --- a daemon that does not admit all ---

# another_daemon OPTION...: its socket is $PWD/another, its process id is in $another
another_daemon() {
        "$SHMD_TEST_DAEMON" --socket "$PWD/another" "$@" 2>another.log 7>&- 8<&- &
        another=$!
        until shmdctl --socket "$PWD/another" list >"$out" 2>"$err"; do kill -0 "$another" || fail "$(cat another.log)"; done
}

another_daemon_end() {
        kill "$another"
        wait "$another" || fail "the other daemon: $(cat another.log)"
}

test_full() {
        if [ "$(id -u)" -ne 0 ]; then
                skip "limits: this takes root, and another user"
                return 0
        fi
        printf '[limits]\nsegments = 2\n' >limits.conf
        another_daemon --config "$PWD/limits.conf"
        expect 0 setpriv --reuid 65534 --regid 65534 --clear-groups \
                "$SHMD_TEST_SHMDCTL" --socket "$PWD/another" run --required -- "$calls" full
        errs_nothing
        another_daemon_end
}

# --- a daemon that is killed, and leaves nothing to the next ---

test_killed() {
        another_daemon
        mkfifo go told
        "$SHMD_TEST_SHMDCTL" --socket "$PWD/another" run -- "$calls" obey /killed <go >told &
        program=$!
        exec 7>go 8<told
        printf ch >&7
        [ "$(head -c 2 <&8)" = 00 ] || fail "it has not made its object"
        kill -9 "$another"
        wait "$another"
        another_daemon
        printf word >word
        expect 0 shmdctl --socket "$PWD/another" put killed word
        printf r >&7 # what has the name now, not what it has open
        [ "$(head -c 1 <&8)" = 0 ] || fail "it has not found the new object"
        exec 7>&- 8<&-
        wait "$program" || fail "it has failed"
        rm go told
        another_daemon_end
}

# --- which daemon ---

test_which() {
        mkdir -p "$PWD/runtime/shmd"
        expect 1 env XDG_RUNTIME_DIR="$PWD/runtime" SHMD_AUTOSTART=0 SHMD_PRELOAD_DAEMON=user SHMD_PRELOAD_REQUIRED=1 \
                LD_PRELOAD="${LD_PRELOAD-} $SHMD_PRELOAD_LIBRARY" "$calls" data /which-user
        ln -s "$SHMD_SOCKET" "$PWD/runtime/shmd/shmd.sock"
        expect 0 env XDG_RUNTIME_DIR="$PWD/runtime" SHMD_AUTOSTART=0 SHMD_PRELOAD_DAEMON=user SHMD_PRELOAD_REQUIRED=1 \
                SHMD_SOCKET="$PWD/nobody" LD_PRELOAD="${LD_PRELOAD-} $SHMD_PRELOAD_LIBRARY" "$calls" data /which-user
        await_event 'created.* which-user$'
}

# --- without a daemon ---

test_no_daemon() {
        expect 0 native "$SHMD_TEST_SHMDCTL" --socket "$PWD/nobody" run -- "$calls" others
        errs_like '^shmdctl: no daemon .*nobody.*; ".*posix-calls" has the system.s own shared memory$'
        [ "$(wc -l <"$err")" -eq 1 ] || fail "more than a line: $(cat "$err")"
        expect 3 shmdctl --socket "$PWD/nobody" run --required -- "$calls" others
        expect 3 env SHMD_PRELOAD_REQUIRED=1 "$SHMD_TEST_SHMDCTL" --socket "$PWD/nobody" run -- "$calls" others
        expect 0 native env SHMD_SOCKET="$PWD/nobody" LD_PRELOAD="${LD_PRELOAD-} $SHMD_PRELOAD_LIBRARY" "$calls" data
        errs "libshmd-preload: no daemon, so shared memory is the system's own: no such socket: $PWD/nobody"
        expect 1 env SHMD_PRELOAD_REQUIRED=1 SHMD_SOCKET="$PWD/nobody" LD_PRELOAD="${LD_PRELOAD-} $SHMD_PRELOAD_LIBRARY" "$calls" data
        errs "libshmd-preload: no daemon, but it is required: no such socket: $PWD/nobody"
        grep -q 'Connection refused' "$out" || fail "said: $(cat "$out")"
        expect 0 native env SHMD_SOCKET="$PWD/nobody" LD_PRELOAD="${LD_PRELOAD-} $SHMD_PRELOAD_LIBRARY" "$calls" undecided
        errs "libshmd-preload: no daemon, so shared memory is the system's own: no such socket: $PWD/nobody"
        # Whoever has closed its standard error, or made something else of it, has nothing written there.
        expect 0 native env SHMD_SOCKET="$PWD/nobody" LD_PRELOAD="${LD_PRELOAD-} $SHMD_PRELOAD_LIBRARY" \
                sh -c 'exec "$1" data 2>&-' sh "$calls"
}

test_usage() {
        expect 2 shmdctl run
        expect 2 shmdctl run --lifetime creator -- true
        errs_like 'creator'
        expect 2 shmdctl run --lifetime never -- true
        expect 2 shmdctl run --prefix a//b -- true
        expect 2 shmdctl run --prefix ../x -- true
        expect 127 shmdctl run -- "$PWD/no-such-program"
        expect 126 shmdctl run -- "$PWD"
        expect 7 shmdctl run -- sh -c 'exit 7'
        expect 1 env SHMD_PRELOAD_LIBRARY="$PWD/nothing" "$SHMD_TEST_SHMDCTL" run -- true
        errs_like 'cannot preload'
        expect 0 env SHMD_PRELOAD_LIFETIME=never SHMD_PRELOAD_PREFIX=a//b "$SHMD_TEST_SHMDCTL" run -- "$calls" data
        errs_like '^libshmd-preload: not one of persist.*, holders, so.*never$'
        for seconds in . '' 1.2.3 -1 18446744073710 9999999999999999999; do
                expect 0 env SHMD_PRELOAD_LIFETIME=linger=$seconds "$SHMD_TEST_SHMDCTL" run -- "$calls" data
                errs_like "^libshmd-preload: not a number of seconds up to 18446744073709.* linger=$seconds\$"
                expect 2 shmdctl run --lifetime "linger=$seconds" -- true
                errs_like 'not a number of seconds up to 18446744073709'
        done
        for setting in SHMD_PRELOAD_DAEMON=mine SHMD_PRELOAD_REQUIRED=yes; do
                expect 0 env "$setting" "$SHMD_TEST_SHMDCTL" run -- "$calls" data
                errs_like "^libshmd-preload: neither .*\\\$${setting%=*} is ${setting#*=}$"
        done
        # However long, it is a line.
        long=$(printf '%0600d' 0)
        expect 0 env SHMD_PRELOAD_PREFIX="$long" "$SHMD_TEST_SHMDCTL" run -- "$calls" data
        errs_like '^libshmd-preload: not the beginning of a name.*000$'
        [ "$(wc -l <"$err")" -eq 1 ] || fail "no line: $(cat "$err")"
        expect 0 shmdctl run -- "$SHMD_TEST_SHMDCTL" list
}

# --- what is not served has what it always had ---

test_not_served() {
        cat >plugin.c <<'C'
#include <fcntl.h>
#include <sys/mman.h>
int plugin_open(const char *name) { return shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600); }
C
        cat >host.c <<'C'
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
        void *plugin = dlopen("./plugin.so", argc > 1 ? RTLD_NOW | RTLD_DEEPBIND : RTLD_NOW);
        int (*call)(const char *) = plugin ? (int (*)(const char *)) dlsym(plugin, "plugin_open") : 0;
        int fd = shm_open("/not-served", O_RDWR | O_CREAT | O_EXCL, 0600), other = call ? call("/not-served") : -2;
        printf("%s\n", fd < 0 || other == -2 ? "failed" : other < 0 ? "the same" : "another");
        shm_unlink("/not-served");
        (void) argv;
        return 0;
}
C
        cc=${SHMD_TEST_CC:-cc}
        "$cc" -D_GNU_SOURCE -shared -fPIC -o plugin.so plugin.c && "$cc" -D_GNU_SOURCE -o host host.c || fail "cc"
        if [ "$sanitized" = no ]; then
                expect 0 native env SHMDCTL="$SHMD_TEST_SHMDCTL" sh -c '"$SHMDCTL" run -- ./host'
                says 'the same'
                expect 0 native env SHMDCTL="$SHMD_TEST_SHMDCTL" sh -c '"$SHMDCTL" run -- ./host deep && test -e /dev/shm/not-served'
                says 'another'
                rm -f /dev/shm/not-served
        fi
        if "$cc" -static -D_GNU_SOURCE -include config.h -I"$SHMD_TEST_BUILDDIR" -o static \
                "$SHMD_TEST_SRCDIR/tests/programs/posix-calls.c" 2>cc.log; then
                expect 0 native env SHMDCTL="$SHMD_TEST_SHMDCTL" sh -c '"$SHMDCTL" run -- ./static data'
                errs_nothing
        else
                skip "static programs: they can't be made here"
        fi
}

# --- programs that can't be served as they are, or insist on something ---

test_other_kinds() {
        cat >kinds.c <<'C'
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
        int fd = shm_open("/kinds", O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd < 0 || ftruncate(fd, 4096) < 0)
                return 1;
        puts("made");
        return shm_unlink("/kinds") < 0;
}
C
        [ "$sanitized" = no ] || return 0
        if "$cc" -D_GNU_SOURCE -fsanitize=address -o kinds kinds.c 2>cc.log; then
                expect 0 shmdctl run --prefix asan/ --required -- ./kinds
                says made
                errs_nothing
                await_event 'created.*asan/kinds$'
                # What the user says about it counts.
                expect 0 env ASAN_OPTIONS=detect_leaks=1 "$SHMD_TEST_SHMDCTL" run -- sh -c 'echo "$ASAN_OPTIONS"'
                says verify_asan_link_order=0:detect_leaks=1
        else
                skip "AddressSanitizer: it is not installed"
        fi
        if ! command -v musl-gcc >/dev/null; then
                skip "programs of another C library: musl-gcc is not installed"
                return 0
        fi
        mkdir -p elsewhere
        musl-gcc -D_GNU_SOURCE -o elsewhere/kinds-musl kinds.c
        expect 0 native env PATH="$PWD/elsewhere:$PATH" "$SHMD_TEST_SHMDCTL" run -- kinds-musl
        says made
        errs 'shmdctl: "kinds-musl" has another C library, musl, and the system'"'s own shared memory"
        expect 1 shmdctl run --required -- elsewhere/kinds-musl
        says_nothing
        expect 1 env SHMD_PRELOAD_REQUIRED=1 "$SHMD_TEST_SHMDCTL" run -- elsewhere/kinds-musl
        says_nothing
}

# --- a container: another root, with the socket's directory and the library in it, and nothing else of ours ---

test_container() {
        if [ "$(id -u)" -ne 0 ] || ! unshare -mp --fork true 2>/dev/null; then
                skip "a container: this takes root and namespaces"
                return 0
        fi
        [ "$sanitized" = no ] || return 0
        mkdir root
        cat >contain <<'SH'
set -e
mount -t tmpfs none root
cd root
mkdir -p usr proc tmp run/shmd dev/shm program
for directory in bin lib lib64; do ln -s "usr/$directory" "$directory"; done
mount --bind -o ro /usr usr
mount -t proc none proc
mount --bind "$(dirname "$SHMD_SOCKET")" run/shmd
mount --bind "$(dirname "$1")" program
touch libshmd-preload.so
mount --bind "$SHMD_PRELOAD_LIBRARY" libshmd-preload.so
program=/program/$(basename "$1")
shift
exec chroot . /usr/bin/env SHMD_SOCKET="/run/shmd/$(basename "$SHMD_SOCKET")" LD_PRELOAD=/libshmd-preload.so \
        SHMD_PRELOAD_PREFIX=container-1/ SHMD_PRELOAD_REQUIRED=1 "$program" "$@"
SH
        expect 0 unshare -mp --fork sh contain "$calls" data /contained
        await_event 'created.*container-1/contained$'
}

# --- SysV in Python, killed, and with all its descriptors closed ---

cat >sysv.py <<'PY'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
CREAT, EXCL, RMID = 0o1000, 0o2000, 0

def call(function, *arguments):
    ctypes.set_errno(12345)
    result = function(*arguments)
    return result, 0 if result >= 0 and ctypes.get_errno() == 12345 else ctypes.get_errno()

key = int(sys.argv[1], 0)
print("absent", call(libc.shmget, key, 0, 0))
shmid, error = call(libc.shmget, key, 8192, CREAT | EXCL | 0o600)
print("made", shmid >= 0, error)
print("again", call(libc.shmget, key, 8192, CREAT | EXCL | 0o600))
print("found", call(libc.shmget, key, 0, 0)[0] == shmid)
print("too large", call(libc.shmget, key, 8193, 0))
libc.shmat(shmid, None, 0)
if sys.argv[2] == "die":
    os.kill(os.getpid(), 9)
child = os.fork()
if child == 0:
    os._exit(libc.shmget(key, 0, 0) != shmid)
print("child", os.waitpid(child, 0)[1])
if sys.argv[2] == "close":
    os.closerange(3, 1024)
    pipes = [os.pipe() for n in range(60)]
private = call(libc.shmget, 0, 4096, 0o600)[0]
print("private", private >= 0)
if sys.argv[3:] == ["tidy"]: # else shmd is to remove it
    libc.shmctl(private, RMID, None)
print("removed", call(libc.shmctl, shmid, RMID, None))
print("removed again", call(libc.shmctl, shmid, RMID, None)[0])
if sys.argv[2] == "close":
    for r, w in pipes:
        os.set_blocking(r, False)
        try:
            print("somebody wrote into a pipe", os.read(r, 100))
        except BlockingIOError:
            pass
PY

key=$(printf '0x5a%06x' $(($$ & 0xffffff)))

kernel_has() {
        ipcs -m | grep -q "^$key "
}

test_sysv_python() {
        if [ "$sanitized" = yes ]; then
                skip "test_sysv_python, with sanitizers: python is not built with them"
                return
        fi
        for how in plain close; do
                expect 0 python3 sysv.py "$key" "$how" tidy
                mv "$out" native
                expect 0 shmdctl run --lifetime holders -- python3 sysv.py "$key" "$how"
                cmp -s native "$out" || fail "SysV, $how: $(diff native "$out")"
                await_event 'unlinked.*sysv/'
        done
        expect 137 shmdctl run --lifetime holders -- sh -c 'python3 sysv.py "$1" die' sh "$key"
        while kernel_has; do :; done
}

test_calls
test_sysv_python
test_lifetimes
test_sysv
test_full
test_killed
test_which
test_no_daemon
test_usage
test_not_served
test_other_kinds
test_container
exit 0
