"""Joins a worker process that waits on a socket."""

import multiprocessing
import socket

TRUTH = {"state": "hung", "cause": "socket-read", "blame": ["work"], "facts": ["127.0.0.1"]}


def work(connection):
    connection.recv(1)


def main():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    process = multiprocessing.get_context("fork").Process(target=work, args=(client,))
    process.start()
    print("READY", flush=True)
    process.join()


main()
