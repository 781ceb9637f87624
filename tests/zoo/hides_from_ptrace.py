"""Forbids ptrace to all but root (PR_SET_DUMPABLE 0), after taking another user id if one is given.

With HARNESS_RUN_DIR it keeps a heartbeat, and with it a faulthandler that answers a signal.
"""

import ctypes
import os
import pathlib
import sys
import time

from harness import emit

PR_SET_DUMPABLE = 4


def hide():
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def wait():
    print("READY", flush=True)
    while True:
        time.sleep(3600)


def main():
    # Before the change of user: Python itself may lie where the other one cannot read.
    emit.open(rank=0, world_size=1)
    emit.stage("train")
    if len(sys.argv) > 1:
        uid = int(sys.argv[1])
        for path in pathlib.Path(os.environ["HARNESS_RUN_DIR"]).rglob("*"):
            os.chown(path, uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    hide()
    wait()


if __name__ == "__main__":
    main()
