"""A DataLoader worker reads from a server that sends nothing."""

import socket

TRUTH = {
    "state": "hung",
    "cause": "socket-read",
    "blame": ["fetch"],
    "facts": ["127.0.0.1"],
    "needs": ["torch"],
    "settle_seconds": 0.5,
}


def fetch(address):
    with socket.create_connection(address) as connection:
        return connection.makefile("rb").readline()


class Remote:
    def __init__(self, address):
        self.address = address

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return fetch(self.address) if index == 5 else index


def main():
    from torch.utils.data import DataLoader

    server = socket.create_server(("127.0.0.1", 0))
    for number, _ in enumerate(DataLoader(Remote(server.getsockname()), num_workers=2)):
        if number == 0:
            print("READY", flush=True)


main()
