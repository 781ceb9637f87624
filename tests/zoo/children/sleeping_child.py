"""Waits for a subprocess that does not end."""

import subprocess

TRUTH = {"state": "hung", "cause": "child-wait", "blame": ["preprocess"], "facts": ["sleep 3600"]}


def preprocess():
    subprocess.run(["sleep", "3600"], check=True)


print("READY", flush=True)
preprocess()
