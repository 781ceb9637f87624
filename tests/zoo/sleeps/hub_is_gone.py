"""datasets streams from a hub that has gone away: it tries again and again, with pauses in between."""

import os
import subprocess
import sys
import tempfile

TRUTH = {
    "state": "hung",
    "cause": "retry-sleep",
    "blame": ["train"],
    "needs": ["datasets"],
    "settle_seconds": 1.0,
}
SERVER = """
import sys
from tests.support.hub import Hub
with Hub({"sample/0.jsonl": b"".join(b'{"text": "%060000d"}\\n' % n for n in range(800))}) as hub:
    print(hub.endpoint, flush=True)
    sys.stdin.read()
"""


def train(rows, hub):
    for number, _ in enumerate(rows):
        if number == 10:
            hub.kill()
            print("READY", flush=True)


def main():
    hub = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.environ.update(HF_ENDPOINT=hub.stdout.readline().strip(), HF_HOME=tempfile.mkdtemp())
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a call home that has nothing to do with it
    url = "hf://datasets/someone/some-text@main/sample/0.jsonl"
    train(datasets.load_dataset("json", data_files=[url], split="train", streaming=True), hub)


main()
