"""A training that has ended; what started it never asks how."""

import os
import signal

TRUTH = {"state": "exited", "cause": "exited", "facts": ["zombie", "status 3"]}

child = os.fork()
if child == 0:
    os._exit(3)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print("READY", child, flush=True)
signal.pause()
