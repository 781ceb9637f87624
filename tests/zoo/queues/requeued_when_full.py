"""Workers put failed jobs back into the full queue that only they take from; the main thread waits for it."""

import queue
import threading

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["again"]}


class Jobs:
    def __init__(self):
        self.waiting = queue.Queue(maxsize=4)

    def again(self, job):
        self.waiting.put(job)

    def work(self):
        while True:
            job = self.waiting.get()
            self.again(job)
            self.again(job)
            self.waiting.task_done()


jobs = Jobs()
for number in range(4):
    jobs.waiting.put(number)
for number in range(2):
    threading.Thread(target=jobs.work, name=f"worker-{number}", daemon=True).start()
print("READY", flush=True)
jobs.waiting.join()
