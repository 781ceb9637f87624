"""Rests between tries in an object's method, asked by the loop that caught the failure."""

import time

TRUTH = {"state": "hung", "cause": "retry-sleep", "blame": ["rest", "fetch"]}


class Backoff:
    def __init__(self, seconds):
        self.seconds = seconds

    def rest(self):
        time.sleep(self.seconds)
        self.seconds *= 2


def request(shard):
    raise TimeoutError(shard)


def fetch(shard, backoff):
    while True:
        try:
            return request(shard)
        except TimeoutError:
            backoff.rest()


print("READY", flush=True)
fetch("shard-0001", Backoff(20.0))
