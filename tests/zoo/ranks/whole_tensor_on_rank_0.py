"""One rank asks for the whole of a sharded tensor, as one does to log or to save it; all have to."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

TRUTH = {
    "state": "hung",
    "cause": "collective-mismatch",
    "blame": ["main", "log_norm"],
    "facts": ["functional collective"],
    "needs": ["torch"],
    "ranks": 2,
    "settle_seconds": 1.0,
}


def log_norm(weight):
    if dist.get_rank() == 0:
        print("norm", weight.full_tensor().norm(), flush=True)


def main():
    mesh = init_device_mesh("cpu", (2,))
    weight = distribute_tensor(torch.ones(8, 4), mesh, [Shard(0)])
    print("READY", flush=True)
    log_norm(weight)
    dist.barrier()


main()
