"""One result too many is waited for; the workers log again and again that they have no work."""

import multiprocessing
import os
import queue

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["collect"], "settle_seconds": 1.0}


def work(jobs, results):
    while True:
        try:
            results.put(jobs.get(timeout=0.3))
        except queue.Empty:
            print("no work", flush=True)


def collect(results):
    return [results.get() for _ in range(4)]


def main():
    context = multiprocessing.get_context("fork")
    jobs, results = context.Queue(), context.Queue()
    print("READY", flush=True)
    with open("train.log", "w") as log:
        os.dup2(log.fileno(), 1)
    for _ in range(2):
        context.Process(target=work, args=(jobs, results), daemon=True).start()
    for job in range(3):
        jobs.put(job)
    collect(results)


main()
