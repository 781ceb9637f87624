"""Waits for a thread that knows their queue as its own attribute, and waits for a server itself."""

import queue
import socket
import threading

TRUTH = {"state": "hung", "cause": "socket-read", "blame": ["read_part"]}


class Downloader(threading.Thread):
    def __init__(self, address, parts):
        super().__init__(name="downloader", daemon=True)
        self.address = address
        self.parts = parts

    def read_part(self):
        with socket.create_connection(self.address) as connection:
            connection.sendall(b"GET /part-0\r\n")
            return connection.recv(100)

    def run(self):
        while True:
            self.parts.put(self.read_part())


def main():
    arrived = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as server:
        Downloader(server.getsockname(), arrived).start()
        print("READY", flush=True)
        arrived.get()


main()
