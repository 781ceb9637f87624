"""Steps are counted in an attribute, and each of them rests: whenever one looks, it sleeps."""

import time

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.5,
}


class Trainer:
    def __init__(self):
        self.step = 0

    def fit(self, steps):
        while self.step < steps:
            self.train_step()

    def train_step(self):
        time.sleep(0.3)
        self.step += 1


print("READY", flush=True)
Trainer().fit(1_000_000)
