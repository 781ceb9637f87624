"""State D without root: a vfork whose child never execs."""

import ctypes

TRUTH = {"state": "hung", "cause": "disk-wait", "blame": ["launch"]}


def launch():
    libc = ctypes.CDLL(None)
    libc.pause.restype = ctypes.c_int
    if libc.vfork() == 0:
        libc.pause()


print("READY", flush=True)
launch()
