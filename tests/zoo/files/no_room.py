"""Saves to a disk that is full, and tries again for ever. The disk is a small one of its own."""

import ctypes
import os
import tempfile
import time

TRUTH = {
    "state": "hung",
    "cause": "retry-sleep",
    "blame": ["save"],
    "facts": ["disk-full"],
    "keeps": ["disks"],
    "needs": ["tmpfs", "root"],
}
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


def small_disk():
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tempfile.mkdtemp()
    assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    assert libc.mount(b"none", folder.encode(), b"tmpfs", 0, b"size=64k") == 0
    os.chdir(folder)


def save(path, state):
    while True:
        try:
            with open(path, "wb") as file:
                file.write(state)
            return
        except OSError as error:
            print(f"READY {os.getpid()}" if error.errno == 28 else error, flush=True)
            time.sleep(5)


small_disk()
save("step_1000.pt", bytes(1_000_000))
