"""Reads what a subprocess writes, line after line."""

import subprocess
import sys

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.3,
}
PROGRAM = """
import time
for number in range(1_000_000):
    print(number, flush=True)
    time.sleep(0.2)
"""


def follow():
    total = 0
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            total += int(line)
    return total


print("READY", flush=True)
follow()
