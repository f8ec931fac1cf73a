#!/bin/sh
# Nothing without its manual: functions, commands, options, operations. And what the manuals show works.
# shellcheck source=../support/script.sh
script_daemon=no
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

source=$SHMD_TEST_SRCDIR
failed=0

complain() {
        printf 'FAILED: %s\n' "$*" >&2
        failed=1
}

# --- a page for each exported function, which names it and gives its declaration ---

functions=$(sed -n 's/^[[:space:]]*\(shmd_[a-z_]*\);$/\1/p' "$source/client/libshmd.map")
[ "$(echo "$functions" | wc -l)" -ge 31 ] || fail "the map could not be read: $functions"
for function in $functions; do
        page=$source/client/man/$function.3
        if [ ! -e "$page" ]; then
                complain "$function has no manual page client/man/$function.3"
                continue
        fi
        # A page may stand for another one
        target=$(sed -n 's/^\.so man3\///p' "$page")
        [ -z "$target" ] || page=$source/client/man/$target
        grep -q "^\.Nm $function\( ,\)*\$" "$page" || complain "$function is not in the NAME of $page"
        grep -q "^\.Fn $function " "$page" || grep -q "^\.Fo $function\$" "$page" ||
                complain "$function is not in the SYNOPSIS of $page"
done
for page in "$source"/client/man/shmd_*.3; do
        function=$(basename "$page" .3)
        echo "$functions" | grep -q -x "$function" || complain "$page is about a function that is not exported"
done

# --- commands and options, as --help tells of them ---

# options: the long options in a help text on standard input
options() {
        grep -o -E '^ +(-[a-zA-Z], )? *--[a-z-]+' | grep -o -E -e '--[a-z-]+' | sort -u
}

# In mdoc a long option is `Fl Fl name`.
has_option() {
        grep -q -E "Fl Fl ${2#--}( |\$)" "$1"
}

tool=$source/client/shmdctl.1
expect 0 shmdctl --help
commands=$(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' "$out")
[ "$(echo "$commands" | wc -l)" -ge 11 ] || fail "--help could not be read: $commands"
for command in $commands; do
        grep -q -E "^\.It Cm $command( |\$)" "$tool" || complain "shmdctl.1 does not describe $command"
        expect 0 shmdctl "$command" --help
        for option in $(options <"$out"); do
                has_option "$tool" "$option" || complain "shmdctl.1 does not describe $option of $command"
        done
done

daemon=$source/daemon/shmd.8
expect 0 "$SHMD_TEST_DAEMON" --help
[ -n "$(options <"$out")" ] || fail "shmd --help could not be read"
for option in $(options <"$out"); do
        has_option "$daemon" "$option" || complain "shmd.8 does not describe $option"
done

# --- the interposer's environment ---

preload=$source/client/man/shmd-preload.7
variables=$(grep -h -o '"SHMD_[A-Z_]*"' "$source/client/preload/preload.c" "$source/client/shmdctl/cmd_run.c" | tr -d '"' | sort -u)
[ "$(echo "$variables" | wc -l)" -ge 5 ] || fail "the interposer's environment could not be found: $variables"
for variable in $variables; do
        grep -q "^\.It Ev $variable\$" "$preload" || complain "shmd-preload.7 does not tell of $variable"
done

# --- operations ---

protocol=$SHMD_TEST_BUILDDIR/protocol/shmd-protocol.7
[ -e "$protocol" ] || protocol=$source/protocol/shmd-protocol.7
for operation in $(sed -n 's/^OPERATION([0-9]*, \([A-Z_]*\),.*/\1/p' "$source/protocol/operations.def"); do
        grep -q -w "$operation" "$protocol" || complain "shmd-protocol.7 does not tell of $operation"
done
for status in $(sed -n 's/^ *STATUS([0-9]*, \([A-Z_]*\),.*/\1/p' "$source/protocol/status.h"); do
        grep -q -w "SHMD_$status" "$protocol" || complain "shmd-protocol.7 does not tell of the status $status"
done

# --- messages ---

messages=$SHMD_TEST_BUILDDIR/daemon/shmd-messages.7
[ -e "$messages" ] || messages=$source/daemon/shmd-messages.7
ids=$(sed -n 's/^MESSAGE([A-Z_]*, "\([0-9a-f]*\)".*/\1/p' "$source/daemon/messages.def")
[ "$(echo "$ids" | wc -l)" -ge 9 ] || fail "messages.def could not be read: $ids"
for id in $ids; do
        grep -q "^\.Li MESSAGE_ID=$id\$" "$messages" || complain "shmd-messages.7 does not tell of $id"
done
# What the examples look for
for id in $(sed -n '/^\.Sh EXAMPLES/,$s/.*MESSAGE_ID=\([0-9a-f]*\).*/\1/p' "$messages"); do
        echo "$ids" | grep -q -x "$id" || complain "an example of shmd-messages.7 has an id of no message: $id"
done

# --- well-formed pages ---

if command -v mandoc >/dev/null; then
        for page in "$source"/client/man/*.[37] "$tool" "$daemon" "$protocol" "$messages"; do
                mandoc -T lint -W warning "$page" >lint 2>&1 || complain "$(head -n 5 lint)"
        done
else
        skip "the pages' markup: there is no mandoc"
fi

# --- examples in C compile ---

cat >examples.py <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read()
section = text.partition("\n.Sh EXAMPLES\n")[2].partition("\n.Sh ")[0]
for n, block in enumerate(re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", section, re.S | re.M)):
    code = "\n".join(line for line in block.split("\n") if not line.startswith(".\\\""))
    code = code.replace("\\e", "\\").replace("\\&", "").replace("\\-", "-")
    if "int main(" in code:
        open("%s.%d.c" % (sys.argv[2], n), "w").write(code)
PYTHON
for page in "$source"/client/man/*.3; do
        name=$(basename "$page" .3)
        python3 examples.py "$page" "$name" || fail "$page could not be read"
        for example in "$name".*.c; do
                [ -e "$example" ] || continue
                "${SHMD_TEST_CC:-cc}" -std=gnu11 -Wall -Wextra -Werror -fsyntax-only -D_GNU_SOURCE \
                        -I"$source/client" "$example" 2>cc.log || complain "$page: $(head -n 5 cc.log)"
        done
done
[ "$(find . -name 'shmd_*.c' | wc -l)" -ge 20 ] || complain "too few examples in the manuals: $(ls ./*.c)"

exit "$failed"
