"""Forks by hand while a thread holds a lock, and waits for the child, which wants it."""

import os
import threading
import time

TRUTH = {"state": "hung", "cause": "fork-deadlock", "blame": ["note"], "settle_seconds": 0.5}


class Journal:
    def __init__(self):
        self.guard = threading.RLock()
        self.lines = []

    def note(self, line):
        with self.guard:
            self.lines.append(line)

    def rotate(self):
        while True:
            with self.guard:
                time.sleep(0.5)


def main():
    journal = Journal()
    threading.Thread(target=journal.rotate, daemon=True).start()
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        journal.note("started")
        os._exit(0)
    print("READY", flush=True)
    os.waitpid(child, 0)


main()
