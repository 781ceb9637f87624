"""One rank saves for long; the other waits for it in a barrier, as it should."""

import torch
import torch.distributed as dist

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 1.0,
}


def save(state):
    print("READY", flush=True)
    while True:
        torch.save(state, "model.pt")


def main():
    dist.init_process_group("gloo")
    state = {f"layer.{number}": torch.zeros(1 << 20) for number in range(40)}
    if dist.get_rank() == 0:
        save(state)
    dist.barrier()


main()
