"""A module's own endless loop, all of it in calls into C: its variables cannot be read from outside."""

import random

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.5,
}

values = [random.random() for _ in range(300_000)]
print("READY", flush=True)
while True:
    values.sort(key=abs)
    random.shuffle(values)
