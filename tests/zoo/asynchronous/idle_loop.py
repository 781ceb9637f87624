"""An event loop in which nothing is left to happen."""

import asyncio

TRUTH = {"state": "hung", "cause": "async-wait", "blame": ["main"]}


async def fetch():
    await asyncio.get_running_loop().create_future()


def main():
    print("READY", flush=True)
    asyncio.run(fetch())


main()
