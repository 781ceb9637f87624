"""Reads from a peer that sends slowly."""

import socket
import threading
import time

TRUTH = {"state": "slow", "cause": "slow-io", "facts": ["127.0.0.1"]}


def send(connection):
    while True:
        connection.sendall(b"x" * 100)
        time.sleep(0.05)


def fetch(connection, total):
    received = 0
    while received < total:
        received += len(connection.recv(65536))


def main():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    threading.Thread(target=send, args=(server.accept()[0],), daemon=True).start()
    print("READY", flush=True)
    fetch(client, 10**9)


main()
