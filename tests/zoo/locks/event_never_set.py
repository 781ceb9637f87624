"""Waits for an event that nobody will set."""

import threading

TRUTH = {"state": "hung", "cause": "event-wait", "blame": ["wait_for_data"]}


def wait_for_data(ready):
    ready.wait()


def main():
    print("READY", flush=True)
    wait_for_data(threading.Event())


main()
