"""Steps over batches that are no numbers, and rests after each."""

import time

TRUTH = {"state": "healthy", "cause": "healthy"}


def train(batches):
    for batch in batches:
        time.sleep(0.1)


def read():
    kept = []
    for _ in range(100_000):
        kept.append([0] * 100)
        yield kept[-1]


print("READY", flush=True)
train(read())
