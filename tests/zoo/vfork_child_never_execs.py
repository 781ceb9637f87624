"""State D without root: a vfork waits, uninterruptibly, for a child that neither execs nor exits.

Prints the child's pid; ending the child ends the wait, and the program goes on to say RESUMED.
"""

import ctypes
import os
import platform
import signal

CLONE_VFORK = 0x4000
CLONE = {"x86_64": 56, "aarch64": 220}[platform.machine()]


def wait_for_child(libc):
    # clone(CLONE_VFORK) without CLONE_VM: the child has memory of its own, and cannot spoil ours.
    return libc.syscall(CLONE, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0)


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    if wait_for_child(libc) == 0:
        os.write(1, b"READY %d\n" % os.getpid())
        while True:
            signal.pause()
    print("RESUMED", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
