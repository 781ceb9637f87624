"""A learner gets gradients over TCP from processes of its own, which compute each for seconds."""

import multiprocessing
from multiprocessing.connection import Client, Listener

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress", "socket-read"]}


def work(address):
    connection = Client(address)
    while True:
        connection.recv()
        total = 0
        for number in range(100_000_000):
            total += number
        connection.send(total)


def main():
    listener = Listener(("127.0.0.1", 0))
    context = multiprocessing.get_context("fork")
    context.Process(target=work, args=(listener.address,), daemon=True).start()
    connection = listener.accept()
    print("READY", flush=True)
    while True:
        connection.send("weights")
        connection.recv()


main()
