"""Connects to a server whose backlog is full: the handshake never ends."""

import socket

TRUTH = {"state": "hung", "cause": "socket-connect", "blame": ["join_cluster"], "facts": ["127.0.0.1"]}


def join_cluster(address):
    return socket.create_connection(address, timeout=3600)


def main():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    waiting = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(server.getsockname())
        waiting.append(client)
    for client in waiting[2:]:
        client.close()
    print("READY", flush=True)
    join_cluster(server.getsockname())


main()
