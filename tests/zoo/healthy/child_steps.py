"""Waits for a subprocess that trains, as a script that sweeps over settings does."""

import subprocess
import sys
import time

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "child-wait"],
    "settle_seconds": 0.5,
}


def train(rate):
    for step in range(1_000_000):
        time.sleep(0.05)


def sweep():
    print("READY", flush=True)
    for rate in ("1e-3", "1e-4"):
        subprocess.run([sys.executable, __file__, rate], check=True)


train(sys.argv[1]) if len(sys.argv) > 1 else sweep()
