"""Ends while it is looked at: once a dump of its stacks has begun."""

import os
import time

TRUTH = {"state": "exited", "cause": "exited"}


def looked_at():
    """Whether a py-spy has this pid on its command line."""
    own = str(os.getpid()).encode()
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"py-spy") and own in words:
            return True
    return False


print("READY", flush=True)
while not looked_at():
    time.sleep(0.01)
