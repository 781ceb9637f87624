"""Polls for a lock that another process holds, in a loop of its own."""

import fcntl
import os
import time

TRUTH = {"state": "hung", "cause": "file-lock", "blame": ["acquire"], "facts": ["cache.lock", "holds it"]}


def acquire(path):
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.2)
        else:
            return file


def main():
    told, tells = os.pipe()
    if os.fork() == 0:
        with open("cache.lock", "w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(tells, b".")
            time.sleep(1_000)
    os.read(told, 1)
    print("READY", flush=True)
    acquire("cache.lock")


main()
