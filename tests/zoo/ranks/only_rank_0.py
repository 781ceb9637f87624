"""A collective under `if rank == 0`: the other rank is in the next one."""

import torch
import torch.distributed as dist

TRUTH = {
    "state": "hung",
    "cause": "collective-mismatch",
    "blame": ["evaluate", "train", "train_step"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 1.0,
}


def evaluate():
    print("READY", flush=True)
    loss = torch.ones(1)
    dist.all_reduce(loss)
    return loss / dist.get_world_size()


def train_step():
    gradient = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(gradient, torch.ones(1))


def train():
    for step in range(100):
        train_step()
        if step == 3 and dist.get_rank() == 0:
            evaluate()


dist.init_process_group("gloo")
train()
