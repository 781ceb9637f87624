"""Two ranks that step, one of them slowly: the other waits for it most of the time."""

import time

import torch
import torch.distributed as dist

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 0.5,
}


def train():
    for step in range(100_000):
        if dist.get_rank() == 1:
            time.sleep(0.3)
        dist.all_reduce(torch.ones(1))
        if step == 1:
            print("READY", flush=True)


dist.init_process_group("gloo")
train()
