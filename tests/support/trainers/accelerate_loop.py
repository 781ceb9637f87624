"""A loop as in Accelerate's own guide: accumulation, clipping, a schedule.

Prints, as JSON, rank, step, mean loss, rate and norm of each step.

python accelerate_loop.py [--stall-at STEP], or accelerate launch … accelerate_loop.py
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

BATCH, ACCUMULATED, STEPS = 4, 2, 12


class Numbers(Dataset):
    def __init__(self, stall_at):
        self.stall_at = stall_at

    def __len__(self):
        return STEPS * ACCUMULATED * BATCH * 2  # of two ranks, each has that many steps

    def __getitem__(self, index):
        if self.stall_at is not None and index >= self.stall_at * ACCUMULATED * BATCH:
            time.sleep(600)  # the planted line
        return torch.full((8,), index / 100), torch.ones(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stall-at", type=int)
    args = parser.parse_args()
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    loader = DataLoader(Numbers(args.stall_at), BATCH)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    step, losses = 0, []
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = torch.nn.functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            losses.append(loss.item())
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                step += 1
                mean = sum(each / ACCUMULATED for each in losses)
                seen = [accelerator.process_index, step, mean, schedule.get_last_lr()[0], norm.item()]
                print(json.dumps(seen), flush=True)
                losses = []
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step == STEPS:
            break
    accelerator.wait_for_everyone()
    accelerator.save_state("state")
    model, optimizer = accelerator.free_memory(model, optimizer)  # before the group, as in plain.py
    accelerator.end_training()


if __name__ == "__main__":
    main()
