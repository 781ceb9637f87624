"""Asks a queue again and again without a pause, while a thread beside makes what it will get."""

import queue
import threading

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"]}


def make(made):
    total = 0
    for number in range(10**9):
        total += number * number % 7
    made.put(total)


def take(made):
    return made.get_nowait()


def await_it(made):
    while True:
        try:
            return take(made)
        except queue.Empty:
            pass


def main():
    made = queue.Queue()
    threading.Thread(target=make, args=(made,), daemon=True).start()
    print("READY", flush=True)
    await_it(made)


main()
