"""One thread takes the same lock twice."""

import threading

TRUTH = {"state": "hung", "cause": "lock-deadlock", "blame": ["flush"], "facts": ["LOCK"]}
LOCK = threading.Lock()


def flush():
    with LOCK:
        pass


def step():
    with LOCK:
        flush()


def main():
    print("READY", flush=True)
    step()


main()
