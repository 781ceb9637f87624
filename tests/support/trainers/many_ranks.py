"""Ranks as cheap as they can be: each opens its record, does some steps and stands; the seventh is behind.

python many_ranks.py COUNT
"""

import os
import sys
import time

from harness import emit

count = int(sys.argv[1])
for rank in range(count):
    if os.fork() == 0:
        emit.open(rank=rank, world_size=count, total_steps=100)
        emit.stage("train")
        for step in range(1, 13 if rank == 7 else 21):
            emit.step(step, loss=1.0)
        time.sleep(600)
print("up", flush=True)
time.sleep(600)
