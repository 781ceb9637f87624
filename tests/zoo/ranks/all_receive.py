"""Two stages of a pipeline that each receive first: nobody sends."""

import torch
import torch.distributed as dist

TRUTH = {
    "state": "hung",
    "cause": "collective-mismatch",
    "blame": ["exchange"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 1.0,
}


def exchange(activations, peer):
    received = torch.empty_like(activations)
    dist.recv(received, src=peer)
    dist.send(activations, dst=peer)
    return received


dist.init_process_group("gloo")
print("READY", flush=True)
exchange(torch.ones(4), peer=1 - dist.get_rank())
