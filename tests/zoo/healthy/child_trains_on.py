"""The program has come to its end, and waits for its process, which trains."""

import multiprocessing

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"], "settle_seconds": 0.5}


def train():
    weights = [1.0] * 1000
    while True:
        weights = [weight * 0.999 + 0.0005 for weight in weights]


multiprocessing.get_context("fork").Process(target=train).start()
print("READY", flush=True)
