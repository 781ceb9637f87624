"""An event loop that waits for a subprocess, which works."""

import asyncio
import sys

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress", "child-wait"]}
WORK = "number = 0\nwhile number < 10**12: number += 1"


async def pack():
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", WORK)
    print("READY", flush=True)
    await child.wait()


asyncio.run(pack())
