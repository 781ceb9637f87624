"""Sleeps for an hour."""

import time

TRUTH = {"state": "hung", "cause": "sleep", "blame": ["cool_down"]}


def cool_down():
    time.sleep(3600)


print("READY", flush=True)
cool_down()
