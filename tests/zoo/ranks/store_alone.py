"""Waits at the rendezvous for a rank that never comes."""

import os

TRUTH = {
    "state": "hung",
    "cause": "rendezvous-wait",
    "blame": ["setup"],
    "needs": ["torch"],
    "settle_seconds": 1.0,
}


def setup():
    import torch.distributed as dist

    print("READY", flush=True)
    dist.init_process_group("gloo")


def main():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    import torch  # noqa: F401

    os.environ.update(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    setup()


main()
