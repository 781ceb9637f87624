"""Asks before it overwrites, under nohup: nobody is there to answer."""

import os
import sys

TRUTH = {"state": "hung", "cause": "stdin-read", "blame": ["prepare"], "stdin": "pipe"}


def prepare(folder):
    print("READY", flush=True)
    if input(f"{folder} exists. Overwrite? [y/N] ") != "y":
        sys.exit(1)


if len(sys.argv) == 1:
    os.execvp("nohup", ["nohup", sys.executable, __file__, "train"])
prepare("out/run-1")
