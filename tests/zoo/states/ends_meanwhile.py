"""Ends while it is looked at: once a dump of its stacks has begun."""

import os
import time

TRUTH = {"state": "exited", "cause": "exited"}


def looked_at():
    """Whether a py-spy has this pid on its command line."""
    own = str(os.getpid()).encode()
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/comm", "rb") as file:
                if file.read() != b"py-spy\n":
                    continue
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if own in file.read().split(b"\0"):
                    return True
        except OSError:
            continue
    return False


print("READY", flush=True)
while not looked_at():
    time.sleep(0.001)  # a dump may take no longer than some milliseconds
