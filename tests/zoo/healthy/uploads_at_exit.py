"""The program is done, and a thread still uploads what was saved; it advances."""

import threading
import time

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "interpreter-exit"],
    "blame": ["upload"],
    "settle_seconds": 0.3,
}


def upload():
    for part in range(100_000):
        time.sleep(0.1)


threading.Thread(target=upload, name="upload").start()
print("READY", flush=True)
