"""DistributedDataParallel, and one rank has a batch more: it waits in backward, the other is done."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

TRUTH = {
    "state": "hung",
    "cause": "collective-mismatch",
    "blame": ["main", "train"],
    "facts": ["backward"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 1.0,
}


def train(model, batches):
    for batch in batches:
        model(batch).sum().backward()


def main():
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(4, 4))
    train(model, torch.randn(3 + dist.get_rank(), 2, 4))
    print("READY", flush=True)
    dist.barrier()


main()
