#!/bin/sh
# Unchanged programs as services: the drop-in of shmd-preload(7), tried as it stands there.
# shellcheck source=../support/script.sh disable=SC2016,SC2034,SC2154
script_daemon=no
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"
# shellcheck source=machine.sh
. "$SHMD_TEST_SRCDIR/tests/system/machine.sh"

machine_need
machine_make
cp "$SHMD_TEST_BUILDDIR/tests/programs/posix-calls" "$root/usr/local/bin/posix-calls" || fail "posix-calls"
library=$(cd "$root" && find usr -name libshmd-preload.so | head -n 1)
[ -n "$library" ] || fail "libshmd-preload.so is not installed"
mkdir -p "$root/etc/systemd/system/simulation.service.d"
cat >"$root/etc/systemd/system/simulation.service" <<'UNIT'
[Service]
User=nobody
PrivateTmp=yes
ProtectSystem=strict
ExecStart=/bin/sh -c "sleep infinity | exec posix-calls stay /simulated 1048576"
UNIT
# The example, with the place where this build is installed
sed -n '/^\.Ss A unit of systemd/,/^\.Ed/{/^\[Unit\]/,/^\.Ed/p}' "$SHMD_TEST_SRCDIR/client/man/shmd-preload.7" | grep -v '^\.' |
        sed "s|/usr/local/lib/shmd/libshmd-preload.so|/$library|" >"$root/etc/systemd/system/simulation.service.d/shmd.conf"
grep -q "LD_PRELOAD=/$library" "$root/etc/systemd/system/simulation.service.d/shmd.conf" || fail "the manual's example is another one"
machine_start

expect 0 m systemctl start simulation.service
await "the service's segment" m shmdctl show simulated
expect 0 m shmdctl --json show simulated
json 'j["size"] == 1048576 and j["lifetime"] == "holders" and j["creator"]["unit"] == "simulation.service"'
# The daemon is killed: the program does not notice, and the segment is there.
expect 0 m systemctl kill -s KILL shmd.service
expect 0 m shmdctl show simulated
expect 0 m systemctl is-active simulation.service
expect 0 m systemctl kill -s KILL simulation.service
await "the segment's end" m sh -c '! shmdctl show simulated'
exit 0
