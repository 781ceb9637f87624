"""A process fills frames in shared memory, each for seconds, and a semaphore tells when one is there."""

import multiprocessing

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress", "lock-wait"]}


def render(full):
    while True:
        frame = 0
        for number in range(100_000_000):
            frame ^= number
        full.release()


def main():
    context = multiprocessing.get_context("fork")
    full = context.Semaphore(0)
    context.Process(target=render, args=(full,), daemon=True).start()
    print("READY", flush=True)
    for _ in range(1000):
        full.acquire()


main()
