"""Two ranks that torch.multiprocessing starts, by the method named: spawn or fork."""

from __future__ import annotations

import sys

import torch
import torch.multiprocessing

METHOD, MEETING = sys.argv[1:]


def rank(number, count):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{MEETING}", rank=number, world_size=count
    )
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(2, 8)).square().mean().backward()
        optimizer.step()
    torch.distributed.barrier()
    del model  # before its group, as in plain.py
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(rank, args=(2,), nprocs=2, start_method=METHOD)
