"""Puts into a full queue that nobody takes from."""

import queue

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["fill"]}


def fill(items):
    for number in range(10):
        items.put(number)


def main():
    print("READY", flush=True)
    fill(queue.Queue(maxsize=2))


main()
