"""Environments in processes of their own, asked by pipes: one is lost in a regular expression."""

import multiprocessing
import re

TRUTH = {"state": "hung", "cause": "native-spin", "blame": ["environment"], "settle_seconds": 1.0}


def environment(connection):
    while True:
        size = connection.recv()
        connection.send(bool(re.match(r"(a|aa)+$", "a" * size + "b")))


def main():
    context = multiprocessing.get_context("fork")
    ends = []
    for _ in range(3):
        ours, theirs = context.Pipe()
        context.Process(target=environment, args=(theirs,), daemon=True).start()
        ends.append(ours)
    for end, size in zip(ends, (3, 60, 3), strict=True):
        end.send(size)
    print("READY", flush=True)
    print([end.recv() for end in ends])


main()
