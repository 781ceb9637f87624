"""An event loop that gets a rollout from an environment's process now and then, and goes on."""

import asyncio
import sys

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "settle_seconds": 0.3,
}
ENVIRONMENT = """
import time
for episode in range(1_000_000):
    print(episode, flush=True)
    time.sleep(0.1)
"""


async def train():
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ENVIRONMENT, stdout=asyncio.subprocess.PIPE
    )
    print("READY", flush=True)
    while await child.stdout.readline():
        pass


asyncio.run(train())
