"""The program is done, but a task of its executor waits on a socket."""

import socket
from concurrent.futures import ThreadPoolExecutor

TRUTH = {"state": "hung", "cause": "interpreter-exit", "blame": ["upload"]}


def upload(connection):
    connection.recv(1)


server = socket.create_server(("127.0.0.1", 0))
executor = ThreadPoolExecutor(2)
executor.submit(upload, socket.create_connection(server.getsockname()))
print("READY", flush=True)
