"""Polls for a lock that is a folder, left behind by a run that was killed."""

import time
from pathlib import Path

TRUTH = {"state": "hung", "cause": "file-lock", "blame": ["acquire"]}


class FolderLock:
    def __init__(self, path):
        self.path = Path(path)

    def acquire(self):
        while True:
            try:
                self.path.mkdir()
            except FileExistsError:
                time.sleep(0.2)
            else:
                return


def main():
    Path("build.lock").mkdir()
    print("READY", flush=True)
    FolderLock("build.lock").acquire()


main()
