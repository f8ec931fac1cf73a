#!/bin/sh
# Containers with users of their own (user namespaces) that share nothing but the directory of the daemon's socket.
# shellcheck source=../support/script.sh disable=SC2016,SC2034,SC2154
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"
# shellcheck source=machine.sh
. "$SHMD_TEST_SRCDIR/tests/system/machine.sh"

machine_need
machine_make
sockets=$(dirname "$SHMD_SOCKET")

# container NUMBER COMMAND...: in a fresh one, with its own file system, processes, network, and users from NUMBER * 2^20 on
container() {
        number=$1
        shift
        (exec_in_new_cgroups systemd-nspawn -q -D "$root" --machine="${place##*/shmd-}-$number" --register=no --keep-unit --pipe \
                --volatile=overlay --private-network --private-users=$((number << 20)):65536 --private-users-ownership=off \
                --bind-ro="$sockets:/run/shmd" "$@")
}

test_by_name() {
        expect 0 container 1 sh -c 'echo from one | shmdctl put -m 0644 public && echo secret | shmdctl put -m 0600 private'
        expect 0 container 2 shmdctl cat public
        says "from one"
        # The root of a container is nobody special, and the root of another one is somebody else.
        expect 1 container 2 shmdctl cat private
        errs_like '^shmdctl: cannot open "private": permission denied .owner 1048576, mode 0600.$'
        expect 1 container 2 shmdctl rm public
        expect 1 container 2 shmdctl hold --rw public -- true
        expect 0 shmdctl create hosts 4K -m 0600
        expect 1 container 1 shmdctl cat hosts
        expect 1 container 1 shmdctl rm hosts
        expect 0 shmdctl --json show private
        json 'j["uid"] == 1 << 20 and j["gid"] == 1 << 20'
        # In its own container it is root's.
        expect 0 container 1 shmdctl hold private -- sh -c 'stat -L -c %u "/proc/self/fd/$SHMD_FD"'
        says 0
        # A user of a container is yet another one.
        expect 1 container 1 setpriv --reuid=1 --regid=1 --clear-groups shmdctl cat private
        expect 0 container 1 shmdctl rm public private
        expect 0 shmdctl rm hosts
}

# While both have it: one writes what the other reads; and it goes with the container that held it, killed as a whole.
test_memory() {
        mkfifo input
        container 1 shmdctl create --lifetime holders -m 0644 live 4K -- sh -c \
                'printf "written in one" 1<>"/proc/self/fd/$SHMD_FD"; echo ready; cat' <input >output 2>&1 8>&- &
        one=$!
        exec 7>input
        await "the first container" grep -q ready output
        expect 0 container 2 shmdctl hold live -- sh -c 'head -c 14 "/proc/self/fd/$SHMD_FD"; echo'
        says "written in one"
        kill_first_process "$one"
        wait "$one"
        exec 7>&-
        await "the end of what the container held" nothing_left
}

children() {
        cat "/proc/$1/task/$1/children"
}

# Of the container that a shell waits for: all others end with it.
kill_first_process() {
        for nspawn in $(children "$1"); do
                for first in $(children "$nspawn"); do
                        kill -KILL "$first"
                done
        done
}

nothing_left() {
        [ -z "$(shmdctl list --all --no-headings)" ]
}

# Its lines, but with our containers, socket and tool
test_readme() {
        sed -n '/^## Containers/,/^## /p' "$SHMD_TEST_SRCDIR/README.md" | sed -n '/^```sh$/,/^```$/p' | grep -v '^```' >readme
        [ "$(wc -l <readme)" -eq 4 ] || fail "README has no four lines on containers"
        sed -e '/^systemctl /d' -e 's/systemd-nspawn -q -D "$ONE" --bind-ro=.run.shmd --pipe/container 1/' \
                -e 's/systemd-nspawn -q -D "$OTHER" --bind-ro=.run.shmd --pipe/container 2/' readme >lines
        ! grep -q nspawn lines || fail "README's lines are not what this test knows"
        # shellcheck disable=SC1091
        . ./lines >said 2>&1 || fail "README: $(cat said)"
        grep -q "^Hello from one\.$" said || fail "README: $(cat said)"
}

test_by_name
test_memory
test_readme
