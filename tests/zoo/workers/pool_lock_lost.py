"""A Pool's worker was killed while it held the lock of the task queue: no other can take a task."""

import multiprocessing
import os
import signal
import time

TRUTH = {"state": "hung", "cause": "worker-dead", "blame": ["main"], "settle_seconds": 0.5}


def work(number):
    return number


def main():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(work, range(4))
        for worker in list(pool._pool):  # the OOM killer takes the one that waits with the lock in its hand
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.05)
        time.sleep(0.3)
        print("READY", flush=True)
        pool.map(work, range(64), chunksize=1)


if __name__ == "__main__":
    main()
