"""Is stopped."""

import os
import signal

TRUTH = {"state": "stopped", "cause": "stopped", "facts": ["CONT"]}


print("READY", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
