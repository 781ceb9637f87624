"""Waits for a lock file that a child holds."""

import fcntl
import os
import signal
import tempfile

TRUTH = {"state": "hung", "cause": "file-lock", "blame": ["lock"], "facts": ["cache.lock"]}


def lock(file):
    fcntl.flock(file, fcntl.LOCK_EX)


def main():
    path = os.path.join(tempfile.mkdtemp(), "cache.lock")
    ready, done = os.pipe()
    if os.fork() == 0:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.write(done, b".")
            while True:
                signal.pause()
    os.read(ready, 1)
    with open(path) as file:
        print("READY", flush=True)
        lock(file)


main()
