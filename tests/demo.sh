#!/bin/bash
# demo.sh BUILDDIR: what shmd does, on a private daemon in a temporary directory.
# Leaves nothing behind, however it ends, SIGKILL apart.
set -u

if [[ $# -ne 1 || ! -x $1/shmdctl || ! -x $1/tests/demo/producer ]]; then
        echo "usage: $0 BUILDDIR (where everything is built)" >&2
        exit 2
fi
build=$(cd "$1" && pwd -P) || exit 2
segment=demo/greeting
page=demo/page
mebibytes=64

# --- what is started here ends here ---

directory=
pids=() # of background processes that have not been waited for
noted=  # the last of them that is in the list

note_started() {
        noted=$!
        pids+=("$noted")
}

# forget PID: waits for the end of one. The shell would tell that it was killed: that is known.
forget() {
        local pid left=()
        wait "$1" 2>/dev/null
        for pid in "${pids[@]}"; do
                [[ $pid == "$1" ]] || left+=("$pid")
        done
        pids=("${left[@]+"${left[@]}"}")
}

clean_up() {
        local status=$? pid
        trap '' INT TERM HUP PIPE
        trap - EXIT
        # A signal may have come between the start of a process and its note.
        [[ ${!:-} == "$noted" ]] || note_started
        for pid in "${pids[@]+"${pids[@]}"}"; do
                kill "$pid" 2>/dev/null
        done
        for pid in "${pids[@]+"${pids[@]}"}"; do
                wait "$pid" 2>/dev/null
        done
        if [[ -n $directory ]]; then
                [[ $status -ne 1 ]] || sed 's/^/the daemon said: /' "$directory/log" >&2
                rm -rf "$directory"
        fi
        exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
trap 'exit 141' PIPE

# --- telling ---

say() {
        printf '\n'
        printf '%s\n' "$@"
}

die() {
        printf 'demo: %s\n' "$*" >&2
        exit 1
}

show_command() {
        printf '%s$ %s%s\n' "$bold" "$*" "$plain"
}

# Shows a command and runs it.
run() {
        show_command "$@"
        "$@" || die "that should have worked"
}

# heard DESCRIPTOR: prints the line that a program writes now.
heard() {
        local line
        IFS= read -r -t 20 -u "$1" line || die "no answer from a program"
        printf '%s\n' "$line"
}

# within_seconds N COMMAND...: until it succeeds
within_seconds() {
        local end=$((SECONDS + $1))
        shift
        until "$@"; do
                [[ $SECONDS -lt $end ]] || return 1
                sleep 0.02
        done
}

shmem() {
        awk '$1 == "Shmem:" { print int($2 / 1024) }' /proc/meminfo
}

# --- a segment that is replaced ---

put_version() {
        head -c 1M /dev/zero | tr '\0' "$1" | shmdctl put --replace "$page"
}

# The digits of which the segment consists, a line a look, until it is killed.
looks() {
        while :; do
                printf '%s\n' "$(shmdctl cat "$page" | tr -s 0-9)"
        done
}

has_seen() {
        grep -q "^$1\$" "$directory/looks"
}

# --- conditions that take a moment ---

daemon_answers() {
        kill -0 "$daemon" 2>/dev/null || die "the daemon has ended"
        shmdctl status >/dev/null 2>&1
}

holders_are() {
        [[ $(shmdctl list "$segment" -o holders --no-headings | tr -d ' ') == "$1" ]]
}

nothing_is_left() {
        [[ -z $(shmdctl list --all --no-headings) ]]
}

# --- the demonstration ---

bold='' plain=''
if [[ -t 1 && ${TERM:-dumb} != dumb ]]; then
        bold=$'\e[1m' plain=$'\e[0m'
fi

# The path of a socket has 107 bytes at most.
temporary=${TMPDIR:-/tmp}
[[ ${#temporary} -lt 80 ]] || temporary=/tmp
directory=$(mktemp -d "$temporary/shmd-demo.XXXXXX") || die "no temporary directory"
for pipe in to-producer from-producer to-consumer from-consumer; do
        mkfifo "$directory/$pipe" || die "no pipe"
done
exec 4<>"$directory/to-producer" 5<>"$directory/from-producer" 6<>"$directory/to-consumer" 7<>"$directory/from-consumer"

export PATH=$build:$build/tests/demo:$PATH
export SHMD_SOCKET=$directory/shmd.sock SHMD_AUTOSTART=0

printf '%s\n' "A private daemon, on a socket in a temporary directory. It owns the segments; programs ask it for" \
        "them over the socket, get a file descriptor each and map it. The data never pass through the daemon."
# shellcheck disable=SC2016 # shown as it would be typed
show_command 'shmd --socket "$SHMD_SOCKET" &'
shmd --socket "$SHMD_SOCKET" 2>"$directory/log" </dev/null 4<&- 5<&- 6<&- 7<&- &
note_started
daemon=$noted
within_seconds 20 daemon_answers || die "the daemon does not answer"

shmem_before=$(shmem)
say "A producer (tests/demo/producer.c) makes a segment of $mebibytes MiB, fills it, and goes on holding it."
show_command "producer $segment $mebibytes 'Hello, shared memory.' &"
producer "$segment" "$mebibytes" 'Hello, shared memory.' <"$directory/to-producer" >"$directory/from-producer" \
        4<&- 5<&- 6<&- 7<&- &
note_started
producer=$noted
heard 5

say "A consumer (tests/demo/consumer.c) opens it by its name, maps it read-only, and prints what is in it."
show_command "consumer $segment &"
consumer "$segment" <"$directory/to-consumer" >"$directory/from-consumer" 4<&- 5<&- 6<&- 7<&- &
note_started
consumer=$noted
heard 7

say "Which segments are there? And who holds this one?"
run shmdctl list
echo
run shmdctl show "$segment"

say "The producer is killed: no chance to clean up. Its hold is gone all the same."
show_command "kill -KILL $producer   # the producer"
kill -KILL "$producer"
forget "$producer"
within_seconds 10 holders_are 1 || die "its hold is still there"
run shmdctl list -o id,name,holders,state
id=$(shmdctl list "$segment" -o id --no-headings | tr -d ' ')

say "The segment is removed while the consumer still has it mapped. That takes the name away, at once:" \
        "it could be made anew. The memory stays for who holds it; the segment is still listed, by its number $id."
run shmdctl rm "$segment"
run shmdctl list
run shmdctl list --all
echo "(the consumer prints again)"
echo >&6
heard 7
printf 'Shared memory of this machine: %d MiB before, %d MiB now.\n' "$shmem_before" "$(shmem)"

say "The consumer ends. It was the last one: now the memory goes."
exec 6>&-
forget "$consumer"
within_seconds 10 nothing_is_left || die "the segment is still there"
run shmdctl list --all
show_command shmdctl show "$id"
shmdctl show "$id" 2>&1 && die "the segment is still there"
printf 'Shared memory of this machine: %d MiB.\n' "$(shmem)"

say "A segment is replaced nine times while a reader looks at it again and again. Nobody sees it half filled, nor" \
        "does its name go missing: each look finds one version, whole. (Each is 1 MiB of one digit; so is what is seen.)"
put_version 0 || die "that should have worked"
show_command "for version in 1 2 3 4 5 6 7 8 9; do ... | shmdctl put --replace $page; done"
show_command "shmdctl cat $page | tr -s 0-9   # meanwhile, again and again; how often it saw what:"
looks >"$directory/looks" &
note_started
reader=$noted
for version in 1 2 3 4 5 6 7 8 9; do
        within_seconds 20 has_seen $((version - 1)) || die "the reader sees nothing"
        put_version "$version" || die "that should have worked"
done
within_seconds 20 has_seen 9 || die "the reader sees nothing"
kill "$reader"
forget "$reader"
sort "$directory/looks" | uniq -c
[[ $(sort -u "$directory/looks" | tr -d '\n') == 0123456789 ]] || die "that was not one whole version each"
run shmdctl rm "$page"

say "That was it: nothing to clean up, however programs end. More: shmdctl --help, README.md"
