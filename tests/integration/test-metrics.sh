#!/bin/sh
# shmdctl metrics: what it says, read by a strict reader of OpenMetrics text.
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

cat >check.py <<'PYTHON'
# The grammar of the OpenMetrics specification 1.0, as far as gauges have it; which are all that the older text format has of these,
# in which node_exporter's textfile collector reads it.
import re, sys
text = open(sys.argv[1], encoding="utf-8").read()
assert text.endswith("# EOF\n") and text.count("# EOF") == 1, "the end"
families, samples, current = {}, {}, None
for line in text.split("\n")[:-2]:
    m = re.fullmatch(r"# (TYPE|UNIT|HELP) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)", line)
    if m:
        word, name, value = m.groups()
        if name != current:
            assert name not in families, "a family in two parts: " + name
            families[name], current = {}, name
            assert word == "TYPE", "TYPE comes first: " + line
        assert word not in families[name], "twice: " + line
        families[name][word] = value
        assert not any(s[0].startswith(name) and s[0] == name for s in samples), "after a sample: " + line
        if word == "TYPE":
            assert value == "gauge", line
        if word == "UNIT":
            assert name.endswith("_" + value), line
        continue
    m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
                     r'(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*")*)?\})? ([0-9]+(?:\.[0-9]+)?)', line)
    assert m, "neither metadata nor a sample: " + line
    name, labels, value = m.groups()
    assert current and name == current, "out of its family: " + line
    assert (name, labels) not in samples, "twice: " + line
    samples[name, labels] = float(value)
for name, family in families.items():
    assert set(family) >= {"TYPE", "HELP"}, name
v = lambda name, labels=None: samples[name, labels]
assert eval(sys.argv[2]), "not so: %s in\n%s" % (sys.argv[2], text)
PYTHON

# Read by Prometheus' own parsers too, where they are: packages are for the system's own python.
python=python3
for one in /usr/bin/python3 python3; do
        "$one" -c 'import prometheus_client.openmetrics.parser' 2>/dev/null && python=$one
done
if "$python" -c 'import prometheus_client.openmetrics.parser' 2>/dev/null; then
        cat >>check.py <<'PYTHON'
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
for read in parser, openmetrics:
    found = {s.name for family in read.text_string_to_metric_families(text) for s in family.samples}
    assert found == {name for name, labels in samples}, found
    assert all(family.type == "gauge" for family in read.text_string_to_metric_families(text))
PYTHON
else
        skip "no prometheus_client"
fi

# reads FILE EXPRESSION
reads() {
        "$python" check.py "$1" "$2" 2>problem || fail "$(tail -n 30 problem)"
}

shmdctl create a 64K --prealloc || fail "create"
shmdctl create b 4K || fail "create"
shmdctl freeze b || fail "freeze"

expect 0 shmdctl metrics
reads "$out" 'v("shmd_up") == 1 and v("shmd_size_bytes") == 69632 and v("shmd_resident_bytes") >= 65536'
reads "$out" 'v("shmd_segments", "{state=\"published\"}") == 1 and v("shmd_segments", "{state=\"frozen\"}") == 1'
reads "$out" 'v("shmd_segments_unheld") == 2 and v("shmd_connections") >= 1 and 0 < v("shmd_descriptors") < v("shmd_descriptors_limit")'
version=$(shmdctl --version | cut -d ' ' -f 2)
reads "$out" "v('shmd_build_info', '{version=\"$version\"}') == 1 and v('shmd_start_time_seconds') > 1e9"

expect 0 shmdctl hold a -- "$SHMD_TEST_SHMDCTL" metrics
reads "$out" 'v("shmd_segments_unheld") == 1 and v("shmd_holds") == 1'

expect 0 shmdctl metrics --leaks
reads "$out" '(v("shmd_leaks", "{kind=\"shmd\",verdict=\"leaked\"}") == 0 and
        ("shmd_leaks_bytes", "{kind=\"sysv\",verdict=\"unknown\"}") in samples)'

# Without a daemon: that, and what can be known all the same
expect 0 shmdctl --socket /nonexistent/socket metrics --leaks
[ ! -s "$err" ] || fail "said on standard error: $(cat "$err")"
reads "$out" '(v("shmd_up") == 0 and ("shmd_leaks", "{kind=\"posix\",verdict=\"leaked\"}") in samples and
        ("shmd_holds", None) not in samples)'

# A file that is there as a whole, readable for all, whatever the umask
(umask 077 && shmdctl metrics --output figures.prom) || fail "--output"
reads figures.prom 'v("shmd_up") == 1'
[ "$(stat -c %a figures.prom)" = 644 ] || fail "the mode is $(stat -c %a figures.prom)"
expect 0 shmdctl metrics --output figures.prom
[ "$(find . -name 'figures*' | wc -l)" -eq 1 ] || fail "left: $(ls)"
expect 1 shmdctl metrics --output /nonexistent/figures.prom
errs_like 'cannot write "/nonexistent/figures.prom'
expect 1 shmdctl metrics --output .
[ "$(find . -name '*.tmp' | wc -l)" -eq 0 ] || fail "left: $(ls)"
