"""Ranks by torch.multiprocessing.spawn; one waits on a lock file before the collective the other is in."""

import fcntl
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TRUTH = {
    "state": "hung",
    "cause": "collective-straggler",
    "blame": ["prepare"],
    "needs": ["torch"],
    "settle_seconds": 1.0,
}


def prepare(path):
    with open(path) as file:
        print("READY", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def train(rank, world_size, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    if rank == 1:
        prepare(f"{folder}/data.lock")
    dist.all_reduce(torch.ones(1))


def main():
    folder = tempfile.mkdtemp()
    with open(f"{folder}/data.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mp.spawn(train, args=(2, folder), nprocs=2)


if __name__ == "__main__":
    main()
