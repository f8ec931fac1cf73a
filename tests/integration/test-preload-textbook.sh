#!/bin/sh
# The textbooks' programs, natively and on shmd: each writer has ended before its reader starts, and in between the daemon
# tells what it has. And what the kernel has back when a program with a gigabyte is killed.

# They have fixed names and keys: in namespaces of their own, the daemon with them.
if [ -z "${SHMD_TEST_NAMESPACES-}" ] && [ "$(id -u)" -eq 0 ] && unshare -im true 2>/dev/null; then
        SHMD_TEST_NAMESPACES=own exec unshare -im sh -c 'mount -t tmpfs -o mode=1777 none /dev/shm && exec "$0"' "$0"
fi
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

programs=$SHMD_TEST_BUILDDIR/tests/programs
if [ "${SHMD_TEST_SANITIZERS:-no}" != no ]; then # whose library has to be the first
        LD_PRELOAD=$("${SHMD_TEST_CC:-cc}" -print-file-name=libasan.so)
        ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
        export LD_PRELOAD ASAN_OPTIONS
fi

key_of_kernel() { # KEY: its shmid, if it is there
        awk -v key="$(($1))" '$1 == key { print $2 }' /proc/sysvipc/shm
}

if [ -e /dev/shm/shm-example ] || [ -n "$(key_of_kernel 0x44)" ]; then
        skip_rest "somebody has made /shm-example or a segment of key 0x44: this takes root, or their removal"
fi

errs_nothing() {
        [ ! -s "$err" ] || fail "said on standard error: $(cat "$err")"
}

# served PROGRAM OPTION...
served() {
        program=$1
        shift
        expect 0 shmdctl run --required "$@" -- "$programs/$program"
        errs_nothing
}

native() {
        expect 0 "$programs/$1"
        errs_nothing
}

test_posix() {
        native posix-producer
        [ "$(stat -c %s /dev/shm/shm-example)" -eq 4096 ] || fail "not natively"
        native posix-consumer
        says 'Hello World! '

        served posix-producer
        [ ! -e /dev/shm/shm-example ] || fail "it was not served"
        expect 0 shmdctl --json show shm-example
        json 'j["size"] == 4096 and j["posix"] is True and j["backing"] == "memfd" and j["holder_count"] == 0'
        json 'j["mode"] == "0644" and j["lifetime"] == "persist" and j["uid"] == '"$(id -u)"
        served posix-consumer
        says 'Hello World! '
        await_nothing
        expect 1 shmdctl run --required -- "$programs/posix-consumer"
        errs 'shm_open: No such file or directory'
}

# sysv_listed KEY SIZE: what the daemon tells about it is what the kernel has
sysv_listed() {
        shmid=$(key_of_kernel "$1")
        [ -n "$shmid" ] || fail "the kernel has no segment of key $1"
        expect 0 shmdctl --json show "sysv/$shmid"
        json 'j["backing"] == "sysv" and int(j["key"], 16) == '"$(($1))"' and j["shmid"] == '"$shmid"' and j["size"] == '"$2"
        json 'j["mode"] == "0666" and j["holder_count"] == 0 and j["uid"] == '"$(id -u)"
}

test_ftok() {
        # As ftok(3) makes it of "./" and 66
        key=$(python3 -c 'import os; st = os.stat("./"); print(66 << 24 | (st.st_dev & 0xff) << 16 | st.st_ino & 0xffff)')
        native ftok-writer
        native ftok-reader
        says '10 + 20 = 30'
        expect 0 shmdctl --no-headings list --all
        [ ! -s "$out" ] || fail "natively, and listed: $(cat "$out")"

        served ftok-writer
        sysv_listed "$key" 8
        served ftok-reader
        says '10 + 20 = 30'
        await_nothing
        [ -z "$(key_of_kernel "$key")" ] || fail "the kernel still has it"
        expect 1 shmdctl run --required -- "$programs/ftok-reader"
        errs 'shmget: No such file or directory'
}

test_key() {
        native key-writer
        native key-reader
        says 'hello, world'
        ipcrm -M 0x44

        served key-writer
        sysv_listed 0x44 4096
        served key-reader
        says 'hello, world'
        native key-reader # the very same segment
        says 'hello, world'
        expect 0 shmdctl rm "sysv/$shmid"
        await_nothing
        until [ -z "$(key_of_kernel 0x44)" ]; do :; done

        served key-writer --lifetime holders # nobody removes it: shmd does
        await_nothing
        until [ -z "$(key_of_kernel 0x44)" ]; do :; done
}

shmem_kib() {
        awk '$1 == "Shmem:" { print $2 }' /proc/meminfo
}

now_msec() {
        date +%s%3N
}

# Other tests make and free shared memory at the same time: so this waits until it is as much less as it has to be. What it
# took is printed; the promise is a second on a machine that has nothing else to do.
test_killed() {
        gib=1048576
        if [ "$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)" -lt $((3 * gib)) ]; then
                skip "a gigabyte: there is too little memory"
                return 0
        fi
        mkfifo go told
        "$SHMD_TEST_SHMDCTL" run --required --lifetime holders -- "$programs/posix-calls" stay /gigabyte $((gib * 1024)) \
                <go >told 2>"$err" &
        victim=$!
        exec 7>go
        read -r word <told
        [ "$word" = made ] || fail "it did not start: $(cat "$err")"
        expect 0 shmdctl --json show gigabyte
        json 'j["size"] == 1 << 30 and j["resident"] == 1 << 30 and j["holder_count"] == 1 and j["creator"]["pid"] == '"$victim"
        before=$(shmem_kib)
        [ "$before" -ge "$gib" ] || fail "Shmem is $before kiB, and a gigabyte is resident"
        start=$(now_msec)
        kill -KILL "$victim"
        until [ "$(shmem_kib)" -le $((before - gib + gib / 64)) ]; do
                [ $(($(now_msec) - start)) -lt 60000 ] || fail "Shmem was $before kiB, and is $(shmem_kib) kiB"
        done
        printf 'killed with a gigabyte: the memory is back after %d ms\n' $(($(now_msec) - start))
        exec 7>&-
        wait "$victim" 2>/dev/null
        await_nothing
}

test_posix
test_ftok
test_key
test_killed
exit 0
