"""Takes from a Manager's queue that nobody fills."""

import multiprocessing

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["take"], "settle_seconds": 0.5}


def take(items):
    return items.get()


def main():
    with multiprocessing.get_context("fork").Manager() as manager:
        items = manager.Queue()
        print("READY", flush=True)
        take(items)


main()
