"""Done, but an exit hook waits."""

import atexit
import threading

TRUTH = {"state": "hung", "cause": "interpreter-exit", "blame": ["upload_logs"]}


def upload_logs():
    threading.Event().wait()


atexit.register(upload_logs)
print("READY", flush=True)
