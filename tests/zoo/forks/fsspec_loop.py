"""fsspec's event loop is a thread of the parent; a forked child asks it for a file, and nobody answers."""

import multiprocessing

TRUTH = {
    "state": "hung",
    "cause": "fork-deadlock",
    "blame": ["read_shard"],
    "needs": ["fsspec"],
    "settle_seconds": 0.5,
}


async def fetch(name):
    return name


def read_shard(loop, name):
    from fsspec.asyn import sync

    return sync(loop, fetch, name)


def main():
    from fsspec.asyn import get_loop

    loop = get_loop()
    read_shard(loop, "shard-0")
    worker = multiprocessing.get_context("fork").Process(target=read_shard, args=(loop, "shard-1"))
    print("READY", flush=True)
    worker.start()
    worker.join()


main()
