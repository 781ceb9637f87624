"""Waits for bytes from a server that accepted the connection and says nothing. Prints the server's port."""

import socket


def fetch(connection):
    return connection.recv(16)


def main():
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    connection = socket.create_connection(("127.0.0.1", port))
    accepted, _ = server.accept()
    print("READY", port, flush=True)
    fetch(connection)
    accepted.close()


if __name__ == "__main__":
    main()
