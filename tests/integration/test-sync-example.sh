#!/bin/sh
# The example of libshmd-sync(7), taken from the page: a producer and several consumers, one of them killed.
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

cat >extract.py <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read().partition("\n.Sh EXAMPLES\n")[2]
code = re.search(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", text, re.S | re.M).group(1)
open(sys.argv[2], "w").write(code.replace("\\e", "\\").replace("\\&", "").replace("\\-", "-"))
PYTHON
python3 extract.py "$SHMD_TEST_SRCDIR/client/man/libshmd-sync.7" ring.c || fail "the page could not be read"

set -- -std=gnu11 -Wall -Wextra -Werror -I"$SHMD_TEST_SRCDIR/client" ring.c -o ring -L"$SHMD_TEST_BUILDDIR/.libs" -lshmd
[ "$SHMD_TEST_SANITIZERS" = no ] || set -- "$@" -fsanitize="$SHMD_TEST_SANITIZERS"
"${SHMD_TEST_CC:-cc}" "$@" 2>cc.log || fail "the example does not compile: $(head -n 5 cc.log)"
LD_LIBRARY_PATH=$SHMD_TEST_BUILDDIR/.libs
export LD_LIBRARY_PATH

# sum FILE...: of the numbers in them
sum() {
        cat "$@" | awk '{ n += $1 } END { printf "%d\n", n }'
}

for number in 1 2 3; do
        ./ring consume >"consumer.$number" &
        eval "pid_$number=\$!"
done
expect 0 ./ring produce 5000
for number in 1 2 3; do
        eval "wait \$pid_$number" || fail "consumer $number failed"
done
[ "$(sum consumer.1 consumer.2 consumer.3)" -eq $((5000 * 5001 / 2)) ] ||
        fail "the consumers got $(cat consumer.*)"
shmdctl rm example/ring || fail "the ring could not be removed"

# One dies, whatever it does just then; what it got is lost with it, and the others go on.
for number in 1 2 3; do
        ./ring consume >"consumer.$number" &
        eval "pid_$number=\$!"
done
# shellcheck disable=SC2154 # set by eval
{
        ./ring produce 20000 &
        producer=$!
        kill -KILL "$pid_2"
        wait "$pid_2"
        wait "$producer" || fail "the producer failed"
        wait "$pid_1" || fail "consumer 1 failed"
        wait "$pid_3" || fail "consumer 3 failed"
} 2>kill.log
[ "$(sum consumer.1 consumer.3)" -le $((20000 * 20001 / 2)) ] || fail "something came twice: $(cat consumer.1 consumer.3)"
[ "$(sum consumer.1 consumer.3)" -gt 0 ] || fail "the others did not go on"
