"""Sends a large file to a peer that takes it slowly: the sender sleeps while the kernel sends on."""

import os
import socket
import threading
import time

TRUTH = {"state": ["slow", "healthy"], "cause": ["slow-io", "healthy"], "settle_seconds": 1.0}
server = socket.create_server(("127.0.0.1", 0))


def take():
    connection, _ = server.accept()
    while connection.recv(1 << 14):
        time.sleep(0.02)


def upload(data):
    with socket.create_connection(server.getsockname()) as connection:
        connection.sendall(data)


threading.Thread(target=take, daemon=True).start()
print("READY", flush=True)
upload(os.urandom(1 << 20) * 200)
