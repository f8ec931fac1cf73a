#!/bin/sh
# Completion in the shells themselves: commands, options, their arguments, names of segments.
# shellcheck disable=SC2016 # code for other shells
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

completion=$SHMD_TEST_SRCDIR/client/completion
mkdir bin
ln -s "$SHMD_TEST_SHMDCTL" bin/shmdctl-built
printf '#!/bin/sh\nexec "%s" "$@"\n' "$SHMD_TEST_SHMDCTL" >bin/shmdctl
chmod +x bin/shmdctl
PATH=$PWD/bin:$PATH
export PATH
for name in video/one video/two 'with blank' audio; do
        shmdctl create "$name" 4K || fail "create"
done

# answers TEXT: the candidates were these, a word a line, in any order
answers() {
        printf '%s\n' "$1" | tr '|' '\n' | sort >wanted
        sort "$out" >sorted
        cmp -s wanted sorted || fail "candidates: $(head -c 1000 "$out"); expected: $1"
}

test_command() {
        expect 0 shmdctl complete -- ''
        grep -q '^reclaim	' "$out" && grep -q '^list	' "$out" || fail "commands: $(cat "$out")"
        expect 0 shmdctl complete -- --no-headings list --col
        grep -q '^--columns	' "$out" || fail "options: $(cat "$out")"
        expect 0 shmdctl complete -- nonsense ''
        [ ! -s "$out" ] || fail "candidates: $(cat "$out")"
        expect 0 env SHMD_SOCKET=/nonexistent/socket "$SHMD_TEST_SHMDCTL" complete -- show ''
        [ ! -s "$err" ] || fail "said: $(cat "$err")"
        expect 0 env SHMD_SOCKET=/nonexistent/socket "$SHMD_TEST_SHMDCTL" complete -- --socket "$SHMD_SOCKET" show a
        grep -q '^audio	' "$out" || fail "with --socket: $(cat "$out")"
        expect 0 shmdctl --help
        ! grep -q ' complete' "$out" || fail "it is not for people"
}

# bash_completes CANDIDATES WORD...
bash_completes() {
        wanted=$1
        shift
        expect 0 bash --norc -c 'shopt -s progcomp; . "$1" || exit 1
                shift; COMP_WORDS=(shmdctl "$@") COMP_CWORD=$#
                _shmdctl; printf "%s\n" "${COMPREPLY[@]}"' bash "$completion/shmdctl" "$@"
        answers "$wanted"
}

test_bash() {
        command -v bash >/dev/null || { skip "no bash"; return; }
        expect 0 bash --norc -c '. "$1" && complete -p shmdctl' bash "$completion/shmdctl"
        bash_completes 'leaks' lea
        bash_completes '--kind' leaks --k
        bash_completes 'shmd|sysv' leaks --kind s
        bash_completes 'posix' leaks --kind = po
        bash_completes 'shmd|posix|sysv|all' reclaim --kind =
        bash_completes 'video/one|video/two' show v
        bash_completes 'with\ blank' rm audio wi
        bash_completes 'video/one' chmod 0600 video/o
        bash_completes 'id,shmid|id,size|id,state' list -o id,s
        bash_completes 'shmdctl-built' hold audio -- shmdctl-b
        : >some-file
        bash_completes 'some-file' put new some-f
}

test_fish() {
        command -v fish >/dev/null || { skip "no fish"; return; }
        HOME=$PWD expect 0 fish --no-config -c '. $argv[1]; complete -C "shmdctl lea"; complete -C "shmdctl show vid"
                complete -C "shmdctl leaks --kind p"; complete -C "shmdctl reclaim --dr"' "$completion/shmdctl.fish"
        cut -f 1 "$out" >first
        printf '%s\n' leaks video/one video/two posix --dry-run | cmp -s - first || fail "fish: $(cat "$out" "$err")"
        grep -q '^--dry-run	only tell' "$out" || fail "fish tells no meanings: $(cat "$out")"
}

test_zsh() {
        command -v zsh >/dev/null || { skip "no zsh"; return; }
        cat >complete.py <<'PYTHON'
# A zsh on a terminal of its own; each line is typed with a tab, and its completed form has to show up.
import os, pty, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", PS1="> ", ZDOTDIR=os.getcwd(), HOME=os.getcwd())
    os.execvp("zsh", ["zsh", "-f", "-i"])
seen = b""
def wait_for(text):
    global seen
    end = time.monotonic() + 60
    while text not in seen:
        if time.monotonic() > end or not select.select([terminal], [], [], end - time.monotonic())[0]:
            sys.exit("waited in vain for %r in %r" % (text, seen[-1000:]))
        seen += os.read(terminal, 4096)
    seen = seen[seen.index(text) + len(text):]
def run(line):
    os.write(terminal, line + b"\n")
run(b"PS1= ; fpath=(%s $fpath); autoload -U compinit; compinit -u -D; bindkey -e; echo re''ady" % sys.argv[1].encode())
wait_for(b"ready")
# What is completed is executed: its output says what it was.
for typed, completed in ((b"lea", b"<leaks>"), (b"show au", b"<show><audio>"), (b"reclaim --dr", b"<reclaim><--dry-run>"),
                         (b"leaks --kind po", b"<leaks><--kind><posix>"), (b"rm wi", b"<rm><with blank>")):
    os.write(terminal, b"shmdctl " + typed + b"\t")
    os.write(terminal, b"\x01print-words \n")
    wait_for(completed)
PYTHON
        # The line is turned into "print-words shmdctl ..." after it has been completed.
        printf '#!/bin/sh\nshift\nprintf "<%%s>" "$@"\necho\n' >bin/print-words
        chmod +x bin/print-words
        expect 0 python3 complete.py "$completion"
}

for part in command bash fish zsh; do
        "test_$part"
done
