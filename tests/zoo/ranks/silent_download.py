"""One rank of two downloads from a server that sends nothing, before the barrier that the other waits in."""

import socket

import torch.distributed as dist

TRUTH = {
    "state": "hung",
    "cause": "collective-straggler",
    "blame": ["download"],
    "facts": ["rank 1", "barrier"],
    "needs": ["torch"],
    "torchrun": ["--standalone", "--nproc-per-node=2"],
    "settle_seconds": 1.0,
}


def download(address):
    with socket.create_connection(address) as connection:
        return connection.recv(1024)


def main():
    dist.init_process_group("gloo")
    server = socket.create_server(("127.0.0.1", 0))
    if dist.get_rank() == 1:
        print("READY", flush=True)
        download(server.getsockname())
    dist.barrier()


main()
