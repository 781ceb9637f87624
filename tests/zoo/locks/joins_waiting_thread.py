"""Joins a thread that waits on a socket."""

import socket
import threading

TRUTH = {"state": "hung", "cause": "socket-read", "blame": ["pull"], "facts": ["127.0.0.1"]}


def pull(connection):
    connection.recv(1)


def main():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    thread = threading.Thread(target=pull, args=(client,), name="puller", daemon=True)
    thread.start()
    print("READY", flush=True)
    thread.join()


main()
