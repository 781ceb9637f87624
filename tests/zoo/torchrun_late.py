"""Ranks with two DataLoader workers each; the last one sleeps before the collective of the others.

TRUTH is read by `harness diagnose`'s benchmark: eight ranks are too many for the tests.
"""

import os
import time

TRUTH = {
    "state": "hung",
    "cause": "collective-straggler",
    "blame": ["prepare"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node", "8"],
    "ready": 7,
    "settle_seconds": 2.0,
}


class Images:
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        return index


def prepare():
    time.sleep(3600)


def train(rank, batches):
    import torch
    import torch.distributed as dist

    for step, _ in enumerate(batches):
        if step == 3 and rank == dist.get_world_size() - 1:
            prepare()
        elif step == 3:
            print("READY", flush=True)
        dist.all_reduce(torch.ones(1))


def main():
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train(int(os.environ["RANK"]), torch.utils.data.DataLoader(Images(), num_workers=2))


if __name__ == "__main__":
    main()
