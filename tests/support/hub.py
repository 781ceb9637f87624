"""A small server that speaks the hub's endpoints, with faults on order.

Covers what `datasets` and `huggingface_hub` ask for when they stream a dataset: its card and commit, its
tree, paths-info, and files by range through a redirect to a "CDN"; and the files of one model. Not the whole
hub: no auth, no Xet.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPOSITORY = "someone/some-text"
SUBSET = "sample"
MODEL = "openai-community/gpt2"
COMMIT = hashlib.sha1(b"first").hexdigest()
_WORDS = re.findall(
    r"\w+", "the trained model reads what a person wrote about rivers, bread, copper, slow trains"
)


@dataclass
class Fault:
    """What to do to requests that match, after letting `after` of them pass, `times` times."""

    path: str  # a regular expression; "^/cdn/" for a file's bytes, "^/api/" for questions
    action: str  # "status", "silence", "stall" and "cut" (in mid-answer), "whole" (ignores ranges), "drip"
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    times: int = 1
    seen: int = 0


class Hub:
    """Serves `files` (path in the repository → bytes) on a free port of this machine; a context manager."""

    def __init__(self, files: dict[str, bytes], *, card_configs: list[dict[str, Any]] | None = None) -> None:
        self.files = files
        self.configs = card_configs or [
            {"config_name": "other", "data_files": [{"split": "train", "path": "other/*"}]},
            {"config_name": SUBSET, "data_files": [{"split": "train", "path": "sample/*"}]},
        ]
        self.commit = COMMIT
        # A model's repository: name of the file → bytes.
        self.model_files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None]] = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def restart(self, files: dict[str, bytes]) -> None:
        """As new: answers that were held back are let go, faults and requests forgotten."""
        self.released.set()
        self.released = threading.Event()
        self.files, self.commit, self.faults = files, COMMIT, []
        self.requests.clear()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:  # noqa: PYI034 - typing.Self came with Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if re.search(fault.path, path):
                    fault.seen += 1
                    if fault.after < fault.seen <= fault.after + fault.times:
                        return fault
        return None

    def asked(self, pattern: str) -> int:
        return sum(re.search(pattern, path) is not None for _, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    server_hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.posted = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("range")))
        fault = hub.fault(path)
        try:
            if fault is not None and fault.action == "status":
                self._send(fault.status, b"not now", fault.headers)
            elif fault is not None and fault.action == "silence":
                hub.released.wait(60)
                self.close_connection = True
            elif path.startswith("/cdn/"):
                self._bytes(hub.files[path.removeprefix("/cdn/")], fault)
            else:
                self._question(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _question(self, path: str) -> None:
        hub = self.server_hub
        if match := re.fullmatch(rf"/api/datasets/{REPOSITORY}(?:/revision/(.+))?", path):
            if match.group(1) not in (None, "main", hub.commit, COMMIT):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            sha = hub.commit if match.group(1) in (None, "main") else match.group(1)
            self._json({"_id": "1", "id": REPOSITORY, "sha": sha, "cardData": {"configs": hub.configs},
                        "siblings": [{"rfilename": name} for name in hub.files], "private": False, "tags": [],
                        "downloads": 0, "likes": 0})  # fmt: skip
        elif match := re.fullmatch(rf"/api/datasets/{REPOSITORY}/tree/([^/]+)(?:/(.*))?", path):
            folder = match.group(2) or ""
            entries = [_entry(name, data) for name, data in hub.files.items() if name.startswith(folder)]
            self._json(entries)
        elif re.fullmatch(rf"/api/datasets/{REPOSITORY}/paths-info/([^/]+)", path):
            text = unquote(self.posted.decode())
            self._json([_entry(name, data) for name, data in hub.files.items() if name in text])
        elif match := re.fullmatch(rf"/datasets/{REPOSITORY}/resolve/([^/]+)/(.+)", path):
            name = match.group(2)
            if name not in hub.files:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            location = f"{hub.endpoint}/cdn/{name}?signature=x"
            size = str(len(hub.files[name]))
            self._send(302, b"", {"Location": location, "X-Repo-Commit": match[1], "X-Linked-Size": size})
        elif hub.model_files and re.fullmatch(rf"/api/models/{MODEL}(/revision/.+)?", path):
            self._json({"_id": "2", "id": MODEL, "sha": COMMIT, "siblings": [], "private": False, "tags": []})
        elif hub.model_files and path.startswith(f"/api/models/{MODEL}/tree/"):
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif hub.model_files and (match := re.fullmatch(rf"/{MODEL}/resolve/[^/]+/(.+)", path)):
            data = hub.model_files.get(match[1])
            if data is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                self._send(200, data, {"X-Repo-Commit": COMMIT, "ETag": hashlib.sha1(data).hexdigest()})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _bytes(self, data: bytes, fault: Fault | None) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or "")
        action = fault.action if fault is not None else ""
        if wanted and action != "whole":
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            body = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            body = data
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if action in ("stall", "cut"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if action == "stall":
                self.server_hub.released.wait(60)
            self.close_connection = True
            return
        if action == "drip":
            for position in range(0, len(body), 64):
                self.wfile.write(body[position : position + 64])
                if self.server_hub.released.wait(0.1):
                    return
        self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def texts(seed: int, count: int, words: int) -> Iterator[str]:
    """Text made up of a few words; different for each seed."""
    generator = random.Random(seed)
    for number in range(count):
        yield f"{seed}/{number}: " + " ".join(generator.choices(_WORDS, k=words))


def parquet(rows: list[str], folder: Path, *, row_group_size: int) -> bytes:
    """`rows` as a parquet file with a few of FineWeb-Edu's columns, uncompressed: as large as its text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": rows, "id": [str(n) for n in range(len(rows))], "score": [1.0] * len(rows)})
    path = folder / f"{time.monotonic_ns()}.parquet"
    pq.write_table(table, path, row_group_size=row_group_size, compression="none", use_dictionary=False)
    data = path.read_bytes()
    path.unlink()
    return data
