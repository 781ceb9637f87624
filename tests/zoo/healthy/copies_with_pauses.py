"""Copies a file at a limited rate: between the portions it sleeps."""

import shutil
import time
from pathlib import Path

TRUTH = {
    "state": ["slow", "healthy"],
    "cause": ["slow-io", "slow-progress", "healthy"],
    "settle_seconds": 0.5,
}


class Limited:
    def __init__(self, file, bytes_per_second):
        self.file = file
        self.bytes_per_second = bytes_per_second

    def read(self, _):
        time.sleep(0.1)
        return self.file.read(self.bytes_per_second // 10)


def stage(source, target):
    with open(source, "rb") as read, open(target, "wb", buffering=0) as written:
        print("READY", flush=True)
        shutil.copyfileobj(Limited(read, 200_000), written)


with Path("shard").open("wb") as file:
    file.truncate(100_000_000)
stage("shard", "copy")
