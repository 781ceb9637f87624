"""Writes into a pipe that its child never reads."""

import os
import signal

TRUTH = {"state": "hung", "cause": "pipe-write", "blame": ["produce"], "facts": ["pipe"]}


def produce(write_end):
    while True:
        os.write(write_end, b"x" * 65536)


def main():
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        while True:
            signal.pause()
    os.close(read_end)
    print("READY", flush=True)
    produce(write_end)


main()
