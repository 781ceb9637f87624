"""Several consumers, one of which forgets task_done() for what it leaves out."""

import queue
import threading

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["flush"], "facts": ["task_done"]}


def consume(items):
    while True:
        item = items.get()
        if item % 7 == 0:
            continue
        items.task_done()


def flush(items):
    print("READY", flush=True)
    items.join()


items = queue.Queue()
for number in range(3):
    threading.Thread(target=consume, args=(items,), daemon=True, name=f"writer-{number}").start()
for number in range(20):
    items.put(number)
flush(items)
