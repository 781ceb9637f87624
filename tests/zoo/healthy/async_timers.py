"""An event loop whose tasks hand batches to each other between timers."""

import asyncio

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"], "settle_seconds": 0.5}


async def produce(queue):
    while True:
        await asyncio.sleep(0.05)
        await queue.put(list(range(60_000)))


async def train(queue):
    while True:
        batch = await queue.get()
        sum(number * number for number in batch)


async def main():
    queue = asyncio.Queue(4)
    print("READY", flush=True)
    await asyncio.gather(produce(queue), train(queue))


asyncio.run(main())
