"""Takes a lock file for each shard, waits a little for others, and goes on."""

import fcntl
import os
import tempfile
import time

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"], "settle_seconds": 0.3}


def work(path, shards):
    for shard in range(shards):
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(0.1)


def main():
    path = os.path.join(tempfile.mkdtemp(), "shards.lock")
    if os.fork() == 0:
        work(path, 1_000_000)
    print("READY", flush=True)
    work(path, 1_000_000)


main()
