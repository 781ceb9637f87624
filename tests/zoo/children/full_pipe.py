"""Waits for a child whose output nobody reads."""

import subprocess
import sys

TRUTH = {"state": "hung", "cause": "child-wait", "blame": ["convert"], "facts": ["pipe"]}


def convert():
    child = subprocess.Popen([sys.executable, "-c", "print('x' * 1000000)"], stdout=subprocess.PIPE)
    print("READY", flush=True)
    child.wait()


convert()
