"""A trainer installed as a package: no frame of it is "the user's", and its wait is followed all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed

if TYPE_CHECKING:
    from pathlib import Path

TRAINER = """
import queue, socket, threading

class Loader:
    def __init__(self):
        self.items = queue.Queue()
        self.server = socket.create_server(("127.0.0.1", 0))

    def read(self):
        put = self.items.put
        peer = socket.create_connection(self.server.getsockname())
        self.taken = self.server.accept()
        print("ready", flush=True)
        while True:
            self.offer(put, self.fetch(peer))

    def fetch(self, peer):
        return peer.recv(1)

    def offer(self, put, item):
        put(item)

    def next(self):
        return self.items.get()

def idle(event):
    event.wait()

loader = Loader()
threading.Thread(target=idle, args=(threading.Event(),), name="monitor", daemon=True).start()
threading.Thread(target=loader.read, name="reader", daemon=True).start()
loader.next()
"""


def test_the_chain_goes_through_a_package(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TRAINER)
    target = subprocess.Popen(
        [sys.executable, "-m", "trainer"],
        cwd=tmp_path,
        env=clean_env(PYTHONPATH=f"{package.parent}:{REPOSITORY}"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert target.stdout is not None
        assert target.stdout.readline() == "ready\n"
        done = completed([sys.executable, "-m", "harness", "diagnose", str(target.pid), "--json"])
        verdict = json.loads(done.stdout)["verdict"]
        assert verdict["cause"] == "socket-read", verdict
        assert (verdict["blame"]["thread"], verdict["blame"]["function"]) == ("reader", "fetch")
        assert [link["function"] for link in verdict["chain"]] == ["next", "fetch"]
    finally:
        target.kill()
        target.communicate()
