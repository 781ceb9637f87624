"""FSDP2 over two gloo ranks, started by torchrun; prints, as JSON, rank, step, loss and rate of each step."""

from __future__ import annotations

import json
import sys

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def main():
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))  # joins the process group, too
    rank = torch.distributed.get_rank()
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    for each in (model[0], model[2], model):
        fully_shard(each, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(1, 6):
        optimizer.zero_grad()
        loss = model(torch.full((4, 8), step / 10 + rank)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # a DTensor: to read it is to communicate
        said = [rank, step, loss.item(), optimizer.param_groups[0]["lr"]]
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        optimizer.step()
    del model, optimizer  # before the group, as in plain.py
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
