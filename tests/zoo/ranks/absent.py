"""Two ranks: one sleeps before the collective that the other waits in."""

import time

TRUTH = {
    "state": "hung",
    "cause": "collective-straggler",
    "blame": ["prepare"],
    "needs": ["torch"],
    "ranks": 2,
    "settle_seconds": 1.0,
}


def prepare():
    time.sleep(3600)


def main():
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        prepare()
    print("READY", flush=True)
    dist.all_reduce(torch.ones(1))


main()
