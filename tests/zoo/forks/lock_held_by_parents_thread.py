"""A child is forked while a thread of its parent holds a lock."""

import multiprocessing
import threading

TRUTH = {"state": "hung", "cause": "fork-deadlock", "blame": ["transform"], "facts": ["LOCK"]}
LOCK = threading.Lock()


def hold(held, never):
    with LOCK:
        held.set()
        never.wait()


def transform():
    with LOCK:
        return 1


def main():
    held, never = threading.Event(), threading.Event()
    threading.Thread(target=hold, args=(held, never), name="cache", daemon=True).start()
    held.wait()
    process = multiprocessing.get_context("fork").Process(target=transform)
    process.start()
    print("READY", flush=True)
    process.join()


main()
