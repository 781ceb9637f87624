"""A call in a thread of the event loop's executor gets no answer; the program listens on a socket as well."""

import asyncio
import socket

TRUTH = {"state": "hung", "cause": "socket-read", "blame": ["score"]}


def score(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /score HTTP/1.0\r\n\r\n")
        return connection.recv(100)


async def main():
    with socket.create_server(("127.0.0.1", 0)) as server:
        print("READY", flush=True)
        await asyncio.to_thread(score, server.getsockname())


asyncio.run(main())
