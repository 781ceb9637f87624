"""Threads that take turns with one lock, and go on."""

import threading
import time

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"], "settle_seconds": 0.3}
LOCK = threading.Lock()


def load(shards):
    for shard in range(shards):
        with LOCK:
            time.sleep(0.1)
        time.sleep(0.01)


def train(steps):
    for step in range(steps):
        with LOCK:
            time.sleep(0.05)
        time.sleep(0.01)


threading.Thread(target=load, args=(1_000_000,), daemon=True).start()
print("READY", flush=True)
train(1_000_000)
