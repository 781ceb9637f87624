"""A task waits for another task of the same executor, which has one worker."""

from concurrent.futures import ThreadPoolExecutor

TRUTH = {"state": "hung", "cause": "future-wait", "blame": ["outer", "main"]}


def inner():
    return 1


def outer(executor):
    return executor.submit(inner).result()


def main():
    executor = ThreadPoolExecutor(max_workers=1)
    future = executor.submit(outer, executor)
    print("READY", flush=True)
    future.result()


main()
