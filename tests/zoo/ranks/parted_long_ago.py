"""Two ranks wait at one line for collectives that they started long before, and one of those differed.

As with NCCL, where the host runs on: no stack shows where they parted. Each rank writes what the flight
recorder has, as torch does when a collective times out.
"""

TRUTH = {
    "state": "hung",
    "cause": "collective-mismatch",
    "blame": ["start"],
    "facts": [
        "flight recorder: rank 0 entered all_reduce [4] as number 3",
        "flight recorder: rank 1 entered barrier as number 3",
    ],
    "needs": ["torch"],
    "ranks": 2,
    "env": {"TORCH_FR_BUFFER_SIZE": "200", "TORCH_FR_DUMP_TEMP_FILE": "fr_trace_rank_"},
    "settle_seconds": 1.5,
}


def start(rank):
    import torch
    import torch.distributed as dist

    started = []
    for step in range(5):
        if step == 2 and rank == 1:
            started.append(dist.barrier(async_op=True))
        else:
            started.append(dist.all_reduce(torch.ones(4), async_op=True))
    return started


def write(rank):
    import os
    import time

    import torch

    time.sleep(1.0)
    with open(f"{os.environ['TORCH_FR_DUMP_TEMP_FILE']}{rank}", "wb") as file:
        file.write(torch._C._distributed_c10d._dump_fr_trace())
    print("READY", flush=True)


def main():
    import threading

    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    threading.Thread(target=write, args=(rank,), daemon=True).start()
    for each in start(rank):
        each.wait()


main()
