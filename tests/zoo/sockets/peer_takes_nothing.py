"""Sends to a peer that never reads."""

import socket

TRUTH = {"state": "hung", "cause": "socket-write", "blame": ["upload"], "facts": ["127.0.0.1"]}


def upload(connection):
    connection.setblocking(False)
    try:
        while True:
            connection.send(b"x" * 65536)
    except BlockingIOError:
        connection.setblocking(True)
    print("READY", flush=True)
    connection.sendall(b"x" * 10_000_000)


def main():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    _kept = server.accept()
    upload(client)


main()
