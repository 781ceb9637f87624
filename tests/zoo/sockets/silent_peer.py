"""Reads from a peer that never sends."""

import socket

TRUTH = {"state": "hung", "cause": "socket-read", "blame": ["fetch"], "facts": ["127.0.0.1", "ESTABLISHED"]}


def fetch(connection):
    return connection.recv(16)


def main():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    print("READY", flush=True)
    fetch(client)


main()
