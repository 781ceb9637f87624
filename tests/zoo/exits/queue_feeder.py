"""The program is done, but what it put into a queue was never taken: the feeder thread holds it."""

import multiprocessing

TRUTH = {"state": "hung", "cause": "interpreter-exit", "facts": ["feeder"], "settle_seconds": 0.5}


def main():
    queue = multiprocessing.get_context("fork").Queue()
    for _ in range(64):
        queue.put(bytes(10_000))
    print("READY", flush=True)
    return queue


kept = main()
