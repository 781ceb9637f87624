"""Rank 0 evaluates, batch after batch, while the other rank waits for it at a barrier."""

import time

import torch
import torch.distributed as dist

TRUTH = {
    "state": ["slow", "healthy"],
    "cause": ["slow-progress", "healthy"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 0.5,
}


def evaluate(batches):
    total = 0.0
    for _batch in range(batches):
        total += float(torch.randn(100, 100).sum())
        time.sleep(0.02)
    return total


dist.init_process_group("gloo")
dist.barrier()
if dist.get_rank() == 0:
    print("READY", flush=True)
    evaluate(100_000)
dist.barrier()
