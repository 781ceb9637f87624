"""Waits for a lock whose holder waits for something else."""

import threading

TRUTH = {"state": "hung", "cause": "lock-wait", "blame": ["refresh"], "facts": ["refresher"]}


def refresh(lock, ready, never):
    with lock:
        ready.set()
        never.wait()


def train(lock):
    with lock:
        pass


def main():
    lock, ready, never = threading.Lock(), threading.Event(), threading.Event()
    threading.Thread(target=refresh, args=(lock, ready, never), name="refresher", daemon=True).start()
    ready.wait()
    print("READY", flush=True)
    train(lock)


main()
