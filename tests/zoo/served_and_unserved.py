"""The main thread waits for items that come all the time, another for an event that never comes."""

import queue
import threading
import time

items: queue.Queue[int] = queue.Queue()


def feed():
    while True:
        time.sleep(0.02)
        items.put(1)


threading.Thread(target=feed, name="feed", daemon=True).start()
threading.Thread(target=threading.Event().wait, name="waits", daemon=True).start()
print("READY", flush=True)
while True:
    items.get()
