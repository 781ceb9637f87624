"""A pool of a forkserver's processes: one is killed in its task, and nobody tells the pool."""

import multiprocessing
import os
import signal
import time

TRUTH = {"state": "hung", "cause": "worker-dead", "blame": ["main"], "settle_seconds": 1.0}


def work(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return item


def main():
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        print("READY", flush=True)
        pool.map(work, range(8), chunksize=1)


if __name__ == "__main__":
    main()
