"""Joins a process that cannot end before its queue is drained."""

import multiprocessing

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["main"]}


def produce(items):
    items.put(b"x" * 10_000_000)


def main():
    context = multiprocessing.get_context("fork")
    items = context.Queue()
    process = context.Process(target=produce, args=(items,))
    process.start()
    print("READY", flush=True)
    process.join()


main()
