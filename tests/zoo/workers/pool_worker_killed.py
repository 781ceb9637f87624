"""A Pool's worker is killed with a task in its hands; the pool starts another, and the task is lost."""

import multiprocessing
import os
import signal
import time

TRUTH = {"state": "hung", "cause": "worker-dead", "blame": ["main"], "settle_seconds": 1.0}


def work(number):
    if number == 3:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def main():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print("READY", flush=True)
        pool.map(work, range(8), chunksize=1)


if __name__ == "__main__":
    main()
