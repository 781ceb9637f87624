"""Writes into a pipe that its child holds open and never reads. Prints the child's pid."""

import os
import signal


def produce(write_end):
    while True:
        os.write(write_end, b"x" * 65536)


def main():
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        while True:
            signal.pause()
    os.close(read_end)
    print("READY", child, flush=True)
    produce(write_end)


if __name__ == "__main__":
    main()
