"""A worker's exception cannot be unpickled: that ends the pool's thread that takes results."""

import multiprocessing

TRUTH = {
    "state": "hung",
    "cause": "event-wait",
    "blame": ["tokenize_all"],
    "facts": ["thread that takes results"],
    "settle_seconds": 1.0,
}


class ShardError(Exception):
    def __init__(self, shard, reason):
        super().__init__(f"{shard}: {reason}")


def tokenize(shard):
    if shard == 3:
        raise ShardError(shard, "truncated")
    return shard


def tokenize_all(pool):
    return pool.map(tokenize, range(8), chunksize=1)


def main():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print("READY", flush=True)
        tokenize_all(pool)


main()
