"""A Process for each rank; one was killed before the rendezvous, and the program joins the first."""

import multiprocessing
import os
import signal
import tempfile

TRUTH = {
    "state": "hung",
    "cause": "rank-dead",
    "blame": ["setup"],
    "facts": ["has ended by SIGKILL"],
    "needs": ["torch"],
    "settle_seconds": 1.0,
}


def setup(rank, world_size, folder):
    import torch.distributed as dist

    print("READY", flush=True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)


def train(rank, world_size, folder):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # as the OOM killer does
    setup(rank, world_size, folder)


def main():
    folder = tempfile.mkdtemp()
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=train, args=(rank, 2, folder)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()


if __name__ == "__main__":
    main()
