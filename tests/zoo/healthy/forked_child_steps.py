"""Joins a forked process that trains and is fine."""

import multiprocessing
import time

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"], "settle_seconds": 0.3}


def train():
    for step in range(1_000_000):
        time.sleep(0.05)


def main():
    process = multiprocessing.get_context("fork").Process(target=train)
    process.start()
    print("READY", flush=True)
    process.join()


main()
