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
: >some-file
PATH=$PWD/bin:$PATH
export PATH
for name in video/one video/two 'with blank' audio a:b=c:d 'dol$(lar)' /-dash; do
        shmdctl create "$name" 4K || fail "create"
done

test_command() {
        expect 0 shmdctl complete -- ''
        grep -q '^reclaim	' "$out" && grep -q '^list	' "$out" || fail "commands: $(cat "$out")"
        expect 0 shmdctl complete -- --no-headings list --col
        grep -q '^--columns	' "$out" || fail "options: $(cat "$out")"
        expect 0 shmdctl complete -- create --lifetime ''
        cut -f 1 "$out" | xargs | grep -qx 'persist holders creator linger=' || fail "lifetimes of create: $(cat "$out")"
        expect 0 shmdctl complete -- run --lifetime= # which refuses creator
        cut -f 1 "$out" | xargs | grep -qx -e '--lifetime=persist --lifetime=holders --lifetime=linger=' || fail "of run: $(cat "$out")"
        expect 0 shmdctl complete -- nonsense ''
        [ ! -s "$out" ] || fail "candidates: $(cat "$out")"
        expect 0 env SHMD_SOCKET=/nonexistent/socket "$SHMD_TEST_SHMDCTL" complete -- show ''
        [ ! -s "$err" ] || fail "said: $(cat "$err")"
        expect 0 env SHMD_SOCKET=/nonexistent/socket "$SHMD_TEST_SHMDCTL" complete -- --socket "$SHMD_SOCKET" show a
        grep -q '^audio	' "$out" || fail "with --socket: $(cat "$out")"
        expect 0 shmdctl --help
        ! grep -q ' complete' "$out" || fail "it is not for people"
}

# A shell on a terminal of its own; each line is typed with a tab, and what became of it has to show up: the line is turned
# into "print-words shmdctl ..." after it has been completed, and is executed.
cat >complete.py <<'PYTHON'
import os, pty, select, sys, time
shell, completion = sys.argv[1:3]
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", PS1="> ", ZDOTDIR=os.getcwd(), HOME=os.getcwd(), INPUTRC="/dev/null", HISTFILE="")
    os.execvp(shell, {"zsh": ["zsh", "-f", "-i"], "bash": ["bash", "--norc", "-i"]}[shell])
seen = b""
def wait_for(text):
    global seen
    end = time.monotonic() + 60
    while text not in seen:
        if time.monotonic() > end or not select.select([terminal], [], [], end - time.monotonic())[0]:
            sys.exit("waited in vain for %r in %r" % (text, seen[-1000:]))
        seen += os.read(terminal, 4096)
    seen = seen[seen.index(text) + len(text):]
setup = {"zsh": "fpath=(%s $fpath); autoload -U compinit; compinit -u -D; bindkey -e",
         "bash": "set +H; . %s/shmdctl"}[shell] % completion
os.write(terminal, ("PS1= ; %s; echo re''ady\n" % setup).encode())
wait_for(b"ready")
for line in sys.argv[3:]:
    typed, completed = line.split(" => ")
    os.write(terminal, b"shmdctl " + typed.encode() + b"\t\x01print-words \n")
    wait_for(completed.encode())
PYTHON
printf '#!/bin/sh\nshift\nprintf "<%%s>" "$@"\necho\n' >bin/print-words
chmod +x bin/print-words

# completes SHELL: what all of them have to do, however it is typed
completes() {
        # A sanitizer's shmdctl takes its time, and so may the shell.
        expect 0 python3 complete.py "$1" "$completion" 'lea => <leaks>' 'show au => <show><audio>' 'reclaim --dr => <reclaim><--dry-run>' \
                'leaks --kind po => <leaks><--kind><posix>' 'leaks --kind=po => <leaks><--kind=posix>' \
                'top --sort=re => <top><--sort=resident>' 'rm audio wi => <rm><audio><with blank>' \
                "rm 'wi => <rm><with blank>" 'rm "with b => <rm><with blank>' 'rm with\ b => <rm><with blank>' \
                "rm 'with blank' video/o => <rm><with blank><video/one>" 'show a:b=c: => <show><a:b=c:d>' \
                'show dol => <show><dol$(lar)>' 'show /au => <show></audio>' 'show /-d => <show></-dash>' \
                'chmod 0600 video/o => <chmod><0600><video/one>' 'list -o id,sha => <list><-o><id,sha>' \
                'list -o id,own => <list><-o><id,owner>' 'put new some-f => <put><new><some-file>' \
                'reclaim --rules=some-f => <reclaim><--rules=some-file>' 'leaks --uid=roo => <leaks><--uid=root>' \
                'hold audio -- shmdctl-b => <hold><audio><--><shmdctl-built>'
}

test_bash() {
        command -v bash >/dev/null || { skip "no bash"; return; }
        expect 0 bash --norc -c '. "$1" && complete -p shmdctl' bash "$completion/shmdctl"
        completes bash
}

test_fish() {
        command -v fish >/dev/null || { skip "no fish"; return; }
        HOME=$PWD expect 0 fish --no-config -c '. $argv[1]; complete -C "shmdctl lea"; complete -C "shmdctl show vid"
                complete -C "shmdctl leaks --kind p"; complete -C "shmdctl reclaim --dr"; complete -C "shmdctl rm \"with b"
                complete -C "shmdctl rm with\\ b"; complete -C "shmdctl reclaim --rules=some-f"' "$completion/shmdctl.fish"
        cut -f 1 "$out" >first
        printf '%s\n' leaks video/one video/two posix --dry-run 'with blank' 'with blank' --rules=some-file |
                cmp -s - first || fail "fish: $(cat "$out" "$err")"
        grep -q '^--dry-run	only tell' "$out" || fail "fish tells no meanings: $(cat "$out")"
}

test_zsh() {
        command -v zsh >/dev/null || { skip "no zsh"; return; }
        completes zsh
}

for part in command bash fish zsh; do
        "test_$part"
done
