# SPDX-License-Identifier: MIT
"""Python's own shared memory between processes, however they are started: shared-memory.py METHOD"""
import multiprocessing
import sys
from multiprocessing import shared_memory


def add(name, barrier):
    shared = shared_memory.SharedMemory(name=name)
    for i in range(1000):
        shared.buf[i] = (shared.buf[i] + i) % 251
    barrier.wait()
    shared.close()


def main():
    context = multiprocessing.get_context(sys.argv[1])
    shared = shared_memory.SharedMemory(create=True, size=1000)
    print(shared.name, flush=True)
    for _ in range(3):
        barrier = context.Barrier(2)
        process = context.Process(target=add, args=(shared.name, barrier))
        process.start()
        barrier.wait()
        process.join()
        assert process.exitcode == 0
    assert all(shared.buf[i] == 3 * i % 251 for i in range(1000))
    shared.close()
    shared.unlink()


if __name__ == "__main__":
    main()
