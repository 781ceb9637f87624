"""Ranks keep in step by a store; one of them was killed, and the other waits for its word."""

import datetime as dt
import os
import signal
import subprocess
import sys

TRUTH = {
    "state": "hung",
    "cause": "rank-dead",
    "blame": ["wait_for_others"],
    "facts": ["has ended by SIGKILL"],
    "needs": ["torch"],
    "settle_seconds": 1.0,
}


def wait_for_others(store, step):
    store.wait([f"rank 1 has done step {step}"], dt.timedelta(hours=1))


def train(rank, port):
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, 2, rank == 0)
    for step in range(10):
        store.set(f"rank {rank} has done step {step}", "1")
        if rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 0:
            if step == 4:
                print("READY", flush=True)
            wait_for_others(store, step)


def launch():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, port], env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
        )
        for rank in range(2)
    ]
    for rank in ranks:
        rank.wait()


if os.environ.get("RANK") is None:
    launch()
else:
    train(int(os.environ["RANK"]), int(sys.argv[1]))
