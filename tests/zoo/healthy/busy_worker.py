"""The main thread waits on a queue whose producer is busy and fine."""

import queue
import threading

TRUTH = {"state": ["slow", "healthy"], "cause": ["slow-progress", "healthy"]}


def parse(document):
    total = 0
    for value in range(2000):
        total += value ^ document
    return total


def produce(items, documents):
    parsed = []
    for document in range(documents):
        parsed.append(parse(document))
    items.put(parsed)


def main():
    items = queue.Queue()
    threading.Thread(target=produce, args=(items, 10**7), name="parser", daemon=True).start()
    print("READY", flush=True)
    items.get()


main()
