"""Trains in a control group that gives it a twentieth of a CPU, as a container with a small limit does."""

import os
import pathlib
import time

TRUTH = {
    "state": "slow",
    "cause": "memory-pressure",
    "blame": ["train", "<genexpr>"],
    "facts": ["throttled"],
    "needs": ["cpu-cgroup"],
    "keeps": ["cgroup"],
    "settle_seconds": 1.0,
}


def limit(cores):
    """Into a new control group of version 1 or 2."""
    first = pathlib.Path("/sys/fs/cgroup/cpu")
    root = first if first.is_dir() else pathlib.Path("/sys/fs/cgroup")
    folder = root / f"zoo-{os.getpid()}"
    folder.mkdir()
    if first.is_dir():
        (folder / "cpu.cfs_period_us").write_text("100000")
        (folder / "cpu.cfs_quota_us").write_text(str(int(cores * 100_000)))
    else:
        (folder / "cpu.max").write_text(f"{int(cores * 100_000)} 100000")
    remove_when_empty(folder)
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def remove_when_empty(folder):
    """By a process of its own, that outlives this one."""
    training = os.getpid()
    if (child := os.fork()) == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
        os.closerange(0, 3)
        while os.path.exists(f"/proc/{training}/stat"):
            time.sleep(0.3)
        folder.rmdir()
        os._exit(0)
    os.waitpid(child, 0)


def train():
    for step in range(1_000_000):
        sum(number * number for number in range(400_000))


if __name__ == "__main__":
    limit(0.05)
    print("READY", flush=True)
    train()
