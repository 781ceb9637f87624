"""A trainer whose step sleeps and whose counter is an attribute: no local number moves."""

import time

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.3,
}


class Trainer:
    def __init__(self):
        self.global_step = 0

    def fit(self, module, batches):
        for batch in batches():
            module(batch)
            self.global_step += 1


def batches():
    while True:
        yield [0.5] * 1000


def module(batch):
    time.sleep(0.05)
    return sum(batch)


print("READY", flush=True)
Trainer().fit(module, batches)
