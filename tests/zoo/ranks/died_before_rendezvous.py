"""Two ranks that a script starts; one is killed before the rendezvous, and the script joins the other."""

import os
import signal
import subprocess
import sys

TRUTH = {
    "state": "hung",
    "cause": "rank-dead",
    "blame": ["setup"],
    "facts": ["has ended by SIGKILL"],
    "needs": ["torch"],
    "settle_seconds": 1.5,
}


def setup():
    import torch.distributed as dist

    if dist.is_available():
        print("READY", flush=True)
    dist.init_process_group("gloo")


def launch():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={
                **os.environ, "RANK": str(rank), "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank in ranks:
        rank.wait()


if os.environ.get("RANK") is None:
    launch()
elif os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)  # as the OOM killer does
else:
    setup()
