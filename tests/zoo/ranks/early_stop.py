"""Two ranks: one left the loop early and waits in a barrier, the other in all_reduce."""

TRUTH = {
    "state": "hung",
    "cause": "collective-mismatch",
    "blame": ["train", "main"],
    "needs": ["torch"],
    "ranks": 2,
    "settle_seconds": 1.0,
}


def train(rank):
    import torch
    import torch.distributed as dist

    for step in range(100):
        if rank == 1 and step == 3:
            break
        if step == 3:
            print("READY", flush=True)
        dist.all_reduce(torch.ones(1))
    dist.barrier()


def main():
    import torch.distributed as dist

    dist.init_process_group("gloo")
    train(dist.get_rank())


main()
