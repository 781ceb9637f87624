"""A loop as in PyTorch's own tutorials; prints, as JSON, step, loss and rate of each step.

python plain.py [--stall-at STEP] [--workers N] [--ranks]      --ranks: one of a process group
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

BATCH = 4


class Numbers(Dataset):
    def __init__(self, stall_at):
        self.stall_at = stall_at

    def __len__(self):
        return 40 * BATCH

    def __getitem__(self, index):
        if self.stall_at is not None and index >= self.stall_at * BATCH:
            time.sleep(600)  # the planted line
        time.sleep(0.002)
        return torch.full((8,), index / 100), torch.ones(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stall-at", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--ranks", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    if args.ranks:
        torch.distributed.init_process_group("gloo")
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for step, (x, y) in enumerate(DataLoader(Numbers(args.stall_at), BATCH, num_workers=args.workers), 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        # One write a line: torchrun starts python with -u, where print makes two, and ranks share the log.
        sys.stdout.write(json.dumps([step, loss.item(), optimizer.param_groups[0]["lr"]]) + "\n")
        sys.stdout.flush()
        optimizer.step()
        schedule.step()
    torch.save(model.state_dict(), "model.pt")
    if args.ranks:
        # torch 2.13, with a harness or without: gloo's thread takes the GIL to free the last allreduce. A DDP
        # that outlives the group joins that thread with the GIL held: a hang, at five ends of thirteen under
        # load. An interpreter that ends meanwhile ends the thread within a destructor: "terminate called
        # without an active exception". So DDP goes first, and then the group, which waits for the thread.
        del model
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
