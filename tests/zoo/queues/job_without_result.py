"""A worker answers every job but one; then both wait on their queues."""

import multiprocessing

TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["collect"], "settle_seconds": 0.5}


def work(jobs, results):
    for job in iter(jobs.get, None):
        if job != 3:
            results.put(job * job)


def collect(results, count):
    return [results.get() for _ in range(count)]


def main():
    context = multiprocessing.get_context("fork")
    jobs, results = context.Queue(), context.Queue()
    context.Process(target=work, args=(jobs, results), daemon=True).start()
    for job in range(6):
        jobs.put(job)
    print("READY", flush=True)
    collect(results, 6)


main()
