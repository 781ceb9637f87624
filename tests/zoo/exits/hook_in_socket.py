"""Is done, but an exit hook asks a server that does not answer."""

import atexit
import socket

TRUTH = {"state": "hung", "cause": "interpreter-exit", "blame": ["flush"], "settle_seconds": 0.4}
server = socket.create_server(("127.0.0.1", 0))


class Run:
    def flush(self):
        with socket.create_connection(server.getsockname()) as connection:
            connection.sendall(b"finish")
            connection.recv(10)


atexit.register(Run().flush)
print("READY", flush=True)
