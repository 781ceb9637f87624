"""Retries for ever, with pauses."""

import socket
import time

TRUTH = {"state": "hung", "cause": "retry-sleep", "blame": ["fetch"]}


def fetch(address):
    attempt = 0
    while True:
        try:
            return socket.create_connection(address)
        except OSError:
            attempt += 1
            time.sleep(5)


def main():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
    print("READY", flush=True)
    fetch(address)


main()
