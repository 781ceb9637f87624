"""Waits for a lock on a file that its own child holds. Prints the child's pid."""

import fcntl
import os
import signal
import sys


def acquire(file):
    fcntl.flock(file, fcntl.LOCK_EX)


def main():
    path = sys.argv[1]
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        held = open(path, "w")  # noqa: SIM115
        acquire(held)
        os.write(write_end, b"x")
        while True:
            signal.pause()
    os.read(read_end, 1)
    # Said before the wait begins, which no program can say from within it: a moment later it stands.
    print("READY", child, flush=True)
    acquire(open(path, "w"))  # noqa: SIM115


if __name__ == "__main__":
    main()
