"""Done, but a thread that is no daemon runs on."""

import threading

TRUTH = {"state": "hung", "cause": "interpreter-exit", "blame": ["report"], "facts": ["reporter"]}


def report(never):
    never.wait()


threading.Thread(target=report, args=(threading.Event(),), name="reporter").start()
print("READY", flush=True)
