"""DistributedDataParallel; one rank gathers a metric where the other is in backward."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

TRUTH = {
    "state": "hung",
    "cause": "collective-mismatch",
    "blame": ["log_metric", "train_step"],
    "facts": ["backward"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 1.0,
}


def log_metric(loss):
    print("READY", flush=True)
    every = [torch.zeros(()) for _ in range(dist.get_world_size())]
    dist.all_gather(every, loss)


def train_step(model):
    loss = model(torch.randn(2, 4)).sum()
    loss.backward()
    return loss.detach()


def main():
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(4, 4))
    for step in range(10):
        loss = train_step(model)
        if step == 3 and dist.get_rank() == 1:
            log_metric(loss)


main()
