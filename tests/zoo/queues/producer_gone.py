"""Waits on a queue whose producer has ended."""

import queue
import threading

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["train"]}


def produce(items):
    items.put(1)


def train(items):
    while True:
        items.get()


def main():
    items = queue.Queue()
    producer = threading.Thread(target=produce, args=(items,))
    producer.start()
    producer.join()
    print("READY", flush=True)
    train(items)


main()
