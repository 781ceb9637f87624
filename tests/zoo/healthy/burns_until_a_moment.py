"""Warms up for some minutes by the clock: a loop that nothing but time ends."""

import time

TRUTH = {"state": ["slow", "healthy"], "cause": ["slow-progress", "healthy"]}


def warm_up(seconds):
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
    return rounds


print("READY", flush=True)
warm_up(300)
