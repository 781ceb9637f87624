"""Spins on a flag that another thread would set, which itself waits for ever."""

import threading

TRUTH = {"state": "hung", "cause": "python-spin", "blame": ["synchronize"], "settle_seconds": 1}
FLAG = [0]
arrived = threading.Event()


def device():
    arrived.wait()
    FLAG[0] += 1


def synchronize():
    while FLAG[0] == 0:
        pass


threading.Thread(target=device, name="device", daemon=True).start()
print("READY", flush=True)
synchronize()
