"""The main thread only looks whether the thread that trains is still alive."""

import threading
import time

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.5,
}


def train():
    state = {"loss": 1.0}
    while True:
        state["loss"] += sum(value * 1e-9 for value in range(100_000))


trainer = threading.Thread(target=train, name="train", daemon=True)
trainer.start()
print("READY", flush=True)
while trainer.is_alive():
    time.sleep(10)
