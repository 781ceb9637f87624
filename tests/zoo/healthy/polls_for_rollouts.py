"""A learner that polls for each rollout's file and then trains on it: always asleep when looked at."""

import sys
import tempfile
import threading
import time
from pathlib import Path

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.5,
}


def act(folder):
    number = 0
    while True:
        time.sleep(0.1)
        (folder / f"{number}.rollout").write_text("x" * 100)
        number += 1


def wait_for(path):
    while not path.exists():
        time.sleep(0.02)


def learn(path):
    path.unlink()


def main():
    folder = Path(tempfile.mkdtemp(dir="."))
    threading.Thread(target=act, args=(folder,), daemon=True).start()
    print("READY", file=sys.stdout, flush=True)
    step = 0
    while True:
        path = folder / f"{step}.rollout"
        wait_for(path)
        learn(path)
        step += 1


main()
