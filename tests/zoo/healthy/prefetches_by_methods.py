"""A prefetcher's thread computes each item for seconds; another method puts it into the queue."""

import queue
import threading

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"]}


class Prefetcher:
    def __init__(self):
        self.ready = queue.Queue(2)
        threading.Thread(target=self.run, daemon=True).start()

    def load(self):
        total = 0
        for number in range(100_000_000):
            total += number
        return total

    def give(self, item):
        self.ready.put(item)

    def run(self):
        while True:
            self.give(self.load())

    def __next__(self):
        return self.ready.get()


def main():
    batches = Prefetcher()
    print("READY", flush=True)
    while True:
        next(batches)


main()
