"""A process of a ProcessPoolExecutor sleeps; the main process waits for its future."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

TRUTH = {"state": "hung", "cause": "sleep", "blame": ["preprocess"], "settle_seconds": 0.5}


def preprocess(shard):
    if shard == 2:
        time.sleep(3600)
    return shard


def main():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        futures = [executor.submit(preprocess, shard) for shard in range(4)]
        print("READY", flush=True)
        for future in futures:
            future.result()


if __name__ == "__main__":
    main()
