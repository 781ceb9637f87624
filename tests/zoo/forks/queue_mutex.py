"""Forks while a thread holds a queue's mutex; the child then puts into that queue."""

import multiprocessing
import queue
import threading
import time

TRUTH = {"state": "hung", "cause": "fork-deadlock", "blame": ["report"], "settle_seconds": 0.5}
events = queue.Queue()


def watch():
    while True:
        with events.mutex:
            time.sleep(0.5)


def report():
    events.put("started")


def main():
    threading.Thread(target=watch, daemon=True).start()
    time.sleep(0.1)
    worker = multiprocessing.get_context("fork").Process(target=report)
    worker.start()
    print("READY", flush=True)
    worker.join()


main()
