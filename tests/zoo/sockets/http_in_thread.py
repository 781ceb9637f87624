"""The main thread waits on a queue, whose producer waits for an HTTP server that accepts and says nothing."""

import queue
import socket
import threading
import urllib.request

TRUTH = {"state": "hung", "cause": "socket-read", "blame": ["download"], "facts": ["127.0.0.1"]}


def download(url, items):
    with urllib.request.urlopen(url) as answer:
        items.put(answer.read())


def main():
    server = socket.create_server(("127.0.0.1", 0))
    items = queue.Queue(maxsize=2)
    url = f"http://127.0.0.1:{server.getsockname()[1]}/shard-0"
    threading.Thread(target=download, args=(url, items), name="prefetch-0", daemon=True).start()
    connection, _ = server.accept()
    connection.recv(1000)
    print("READY", flush=True)
    items.get()


main()
