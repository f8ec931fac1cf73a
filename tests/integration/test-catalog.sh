#!/bin/sh
# The message catalog is one: journalctl takes it, and explains each message.
# shellcheck source=../support/script.sh
script_daemon=no
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

catalog=$SHMD_TEST_BUILDDIR/systemd/shmd.catalog
ids=$(sed -n 's/^MESSAGE([A-Z_]*, "\([0-9a-f]*\)".*/\1/p' "$SHMD_TEST_SRCDIR/daemon/messages.def")
[ "$(echo "$ids" | wc -l)" -ge 9 ] || fail "messages.def could not be read: $ids"
[ "$(grep -c '^-- ' "$catalog")" -eq "$(echo "$ids" | wc -l)" ] || fail "the catalog has more or fewer entries than messages.def"

command -v journalctl >/dev/null || skip_rest "there is no journalctl"
mkdir -p root/usr/lib/systemd/catalog root/var/lib/systemd/catalog
cp "$catalog" root/usr/lib/systemd/catalog/
expect 0 env SYSTEMD_LOG_LEVEL=warning journalctl --root="$PWD/root" --update-catalog
[ ! -s "$err" ] || fail "journalctl complains of the catalog: $(cat "$err")"
for id in $ids; do
        expect 0 journalctl --root="$PWD/root" --dump-catalog "$id"
        grep -q '^Subject: ..*' "$out" || fail "$id has no subject"
        grep -q '^Defined-By: shmd$' "$out" || fail "$id is not ours"
        # What an entry has not, journalctl shows by the field's name.
        ! grep -q '@[A-Z_]*@' "$out" || fail "$id puts fields into its text"
done
