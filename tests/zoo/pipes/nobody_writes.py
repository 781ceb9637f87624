"""Reads from a pipe that a child holds open and never writes to."""

import os
import signal

TRUTH = {"state": "hung", "cause": "pipe-read", "blame": ["consume"], "facts": ["pipe"]}


def consume(read_end):
    return os.read(read_end, 1024)


def main():
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        while True:
            signal.pause()
    os.close(write_end)
    print("READY", flush=True)
    consume(read_end)


main()
