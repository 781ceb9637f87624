"""Joins a worker that has become a program that is no Python: nobody can see what it waits for."""

import multiprocessing
import os

TRUTH = {"state": "hung", "cause": "worker-stuck", "blame": ["main"], "facts": ["tail"]}


def main():
    server = multiprocessing.get_context("fork").Process(
        target=os.execvp, args=("tail", ["tail", "-f", "/dev/null"])
    )
    server.start()
    print("READY", flush=True)
    server.join()


main()
