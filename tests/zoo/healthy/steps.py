"""A training loop that steps along and rests between steps."""

import time

TRUTH = {"state": "healthy", "cause": "healthy"}


def train(steps):
    for step in range(steps):
        time.sleep(0.05)


print("READY", flush=True)
train(10**6)
