"""The main thread waits for a queue that another thread fills, slowly."""

import queue
import threading
import time

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"], "settle_seconds": 0.3}


def produce(batches):
    for number in range(1_000_000):
        time.sleep(0.25)
        batches.put(number)


def train(batches):
    while True:
        batch = batches.get()
        if batch is None:
            return


def main():
    batches = queue.Queue(4)
    threading.Thread(target=produce, args=(batches,), name="prefetch", daemon=True).start()
    print("READY", flush=True)
    train(batches)


main()
