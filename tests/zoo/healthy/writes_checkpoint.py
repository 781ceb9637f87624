"""Writes a long checkpoint."""

import os
import tempfile

TRUTH = {"state": "slow", "cause": "slow-io"}


def save(file):
    chunk = b"x" * 1_000_000
    while True:
        file.write(chunk)
        if file.tell() > 50_000_000:
            file.seek(0)


def main():
    with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR")) as file:
        print("READY", flush=True)
        save(file)


main()
