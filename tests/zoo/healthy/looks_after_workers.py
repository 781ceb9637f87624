"""The program looks every two seconds how far its processes are, which compute; nothing else moves in it."""

import multiprocessing
import time

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"]}


def count(results, key):
    for number in range(1_000_000):
        results[key, number % 4] = sum(part * part for part in range(400_000))


def main():
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        results = manager.dict()
        for key in range(2):
            context.Process(target=count, args=(results, key), daemon=True).start()
        print("READY", flush=True)
        while len(results) < 100:
            time.sleep(2)


main()
