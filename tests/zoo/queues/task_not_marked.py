"""Joins a queue whose consumer leaves out task_done() for some items."""

import queue
import threading

TRUTH = {
    "state": "hung",
    "cause": "queue-wait",
    "blame": ["finish"],
    "facts": ["task_done"],
    "settle_seconds": 0.4,
}


def consume(items):
    while True:
        item = items.get()
        if item % 10 == 9:
            continue
        items.task_done()


def finish(items):
    items.join()


def main():
    items = queue.Queue()
    threading.Thread(target=consume, args=(items,), daemon=True).start()
    for item in range(50):
        items.put(item)
    print("READY", flush=True)
    finish(items)


main()
