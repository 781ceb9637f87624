"""Trains in a control group with a limit on CPU that it stays below: nothing throttles it."""

import time

from tests.zoo.pressure.throttled import limit

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress"],
    "needs": ["cpu-cgroup"],
    "keeps": ["cgroup"],
    "settle_seconds": 0.5,
}


def train():
    for step in range(1_000_000):
        sum(number * number for number in range(20_000))
        time.sleep(0.05)


limit(0.5)
print("READY", flush=True)
train()
