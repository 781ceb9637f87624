"""A signal comes while the main thread puts into a queue, and its handler puts into the same one."""

import os
import queue
import signal

TRUTH = {"state": "hung", "cause": "lock-deadlock", "blame": ["on_preemption"]}


class Events(queue.Queue):
    def _put(self, item):
        super()._put(item)
        if item == 3:  # this is when the scheduler asks for the machine
            print("READY", flush=True)
            os.kill(os.getpid(), signal.SIGUSR1)


EVENTS = Events()


def on_preemption(signum, frame):
    EVENTS.put(-signum)


def train():
    for step in range(10):
        EVENTS.put(step)


signal.signal(signal.SIGUSR1, on_preemption)
train()
