#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""make-corpus.py DIRECTORY: writes the seeds of the corpus that test-replay replays.

A file is a sequence of records: size (16 bits), descriptors to send along (8), connection (8), then the
message. Run it again where operations are added; what a fuzzer or a bug report finds is added by hand.
"""
import os
import struct
import sys

HELLO, CREATE, OPEN, RELEASE, RESUME, UNLINK, STAT, LIST, HOLDERS, CHMOD, CHOWN, RENAME, STATUS = range(1, 14)
NONE = 0xFFFFFFFF


def header(operation, status=0, serial=7):
    return struct.pack("=HHI", operation, status, serial)


def target(name=b"", number=0):
    return struct.pack("=QH6x", number, len(name))


def create(name, size=4096, flags=1, mode=0o600, lifetime=0, linger=0, labels=b""):
    body = struct.pack("=QQIIIHH", size, linger, mode, flags, lifetime, len(name), len(labels))
    return header(CREATE) + body + name + labels


def open_(name, flags=0):
    return header(OPEN) + target(name) + struct.pack("=II", flags, 0) + name


def named(operation, name, body=b""):
    return header(operation) + target(name) + body + name


def lists(prefix=b"", after=b"", flags=0, after_id=0):
    return header(LIST) + struct.pack("=QIHH", after_id, flags, len(prefix), len(after)) + prefix + after


def record(message, descriptors=0, connection=0):
    return struct.pack("=HBB", len(message), descriptors, connection) + message


FILES = {
    "life": [create(b"a"), open_(b"a", 1), named(STAT, b"a"), lists(), named(HOLDERS, b"a", struct.pack("=Q", 0)),
             named(CHMOD, b"a", struct.pack("=II", 0o640, 0)), named(CHOWN, b"a", struct.pack("=II", NONE, NONE)),
             header(RENAME) + target(b"a") + struct.pack("=H6x", 1) + b"ab",
             named(UNLINK, b"b"), header(STATUS) + bytes(8)],
    "lifetimes": [create(b"l/%d" % n, lifetime=n, linger=n == 2) for n in range(4)] + [lists(b"l/")],
    "posix": [create(b"p", size=0, flags=7), open_(b"p", 0x31), open_(b"p", 0x11), named(UNLINK, b"p")],
    "labels": [create(b"k", labels=b"a=b\nc=d\n"), create(b"m", labels=b"a=b"), create(b"n", labels=b"=\n"),
               create(b"o", labels=b"a=\xff\n")],
    "names": [create(n) for n in (b"", b"/", b"//", b"..", b"a/../b", b"\xff" * 255, b"n" * 256, b"a\0b", b"\x1b[2J",
                                  b"\xc0\xaf", b"\xf0\x9f\x90\x8b")],
    "sizes": [create(b"s", size=n) for n in (0, 1, 1 << 47, (1 << 47) + 1, 1 << 62, (1 << 63) - 1, 1 << 63,
                                             (1 << 64) - 1)],
    "truncated": [create(b"a")[:n] for n in range(0, 42, 3)],
    "lengths": [named(STAT, b"abc")[:-1], named(STAT, b"abc") + b"d", header(STAT) + target(b"x" * 65535),
                lists(b"x" * 10, b"y" * 10)[:-1], header(STAT) + struct.pack("=QH6x", 1, 1) + b"a"],
    "padding": [header(STATUS) + b"\1" + bytes(7), header(STAT) + struct.pack("=QHH4x", 0, 1, 1) + b"a",
                open_(b"a", 0x80000000), header(STATUS, status=1) + bytes(8)],
    "unknown": [header(n) + bytes(16) for n in (0, 14, 255, 256, 65535)],
}
WITH_DESCRIPTORS = {
    "resume": [(header(RESUME) + struct.pack("=QII", n, access, 0), count)
               for n in (0, 1, (1 << 64) - 1) for access in (0, 1, 2) for count in (0, 1, 2)],
    "descriptors": [(create(b"d"), 1), (create(b"d"), 253), (header(STATUS) + bytes(8), 7), (b"", 0),
                    (header(HELLO) + struct.pack("=IIQ", 1, 1, 0), 3)],
}


def main():
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)
    files = {name: [(message, 0) for message in messages] for name, messages in FILES.items()}
    files.update(WITH_DESCRIPTORS)
    for name, messages in files.items():
        with open(os.path.join(directory, name), "wb") as file:
            for number, (message, descriptors) in enumerate(messages):
                file.write(record(message, descriptors, number % 5 == 4))


main()
