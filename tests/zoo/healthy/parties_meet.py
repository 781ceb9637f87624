"""Threads that meet at a barrier, each after a while of its own."""

import threading
import time

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.5,
}


def act(number, barrier):
    while True:
        time.sleep(0.1 * (number + 1))
        barrier.wait()


barrier = threading.Barrier(3)
actors = [threading.Thread(target=act, args=(number, barrier), name=f"actor-{number}") for number in range(3)]
for actor in actors:
    actor.start()
print("READY", flush=True)
for actor in actors:
    actor.join()
