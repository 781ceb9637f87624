"""Spins on a flag that another thread sets now and then, as code that waits for a device does."""

import threading
import time

TRUTH = {"state": ["slow", "healthy"], "cause": ["slow-progress", "healthy"], "settle_seconds": 1}
FLAG = [0]
seen = 0


def device():
    while True:
        time.sleep(0.3)
        FLAG[0] += 1


def synchronize():
    global seen
    while FLAG[0] == seen:
        pass
    seen = FLAG[0]


threading.Thread(target=device, name="device", daemon=True).start()
print("READY", flush=True)
while True:
    synchronize()
