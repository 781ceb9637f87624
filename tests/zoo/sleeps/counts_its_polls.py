"""Polls for a file that never comes, and counts how often: the count is no progress."""

import time
from pathlib import Path

TRUTH = {"state": "hung", "cause": ["sleep", "retry-sleep"], "blame": ["pause", "main"]}


def pause(number):
    time.sleep(0.1 + 0 * number)


def main():
    print("READY", flush=True)
    number = 0
    while not Path("ready").exists():
        pause(number)
        number += 1


main()
