"""The zoo's programs, run and diagnosed one by one, with what other tools say of the same processes.

Not here: figures (`zoo`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import zoo
from tests.support.env import clean_env
from tests.support.zoo import several_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_OTHER_SECONDS = 10.0


@dataclass(frozen=True)
class Record:
    """One program, diagnosed. `error`: it could not be run, which says nothing about the diagnosis."""

    name: str
    digest: str
    expected: dict[str, Any]
    state: str = ""
    cause: str = ""
    blamed: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""

    def right(self, what: str) -> bool:
        """Whether nothing is wrong with its state, cause, blame or facts."""
        beginnings = {"blame": "blames", "facts": "does not mention"}
        return not any(each.startswith(beginnings.get(what, what)) for each in self.wrong)

    @property
    def progresses(self) -> bool:
        """Whether it must not be called hung."""
        return set(several_of(self.expected["state"])) <= {"healthy", "slow"}


# ── running programs ────────────────────────────────────────────────────────────────────────────────────────


class Records:
    """Outcomes as they come; in a file too, so that a run that ended early can go on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Record] = {}
        for line in path.read_text().splitlines() if path is not None and path.exists() else ():
            record = Record(**json.loads(line))
            self._known[record.name, record.digest] = record

    def known(self, name: str, digest: str) -> Record | None:
        """Of the same program, from an earlier run."""
        found = self._known.get((name, digest))
        return None if found is None or found.error else found

    def add(self, record: Record) -> None:
        """Keep one."""
        with self._lock:
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps(asdict(record)) + "\n")


def run_all(paths: Sequence[Path], args: argparse.Namespace, *, jobs: int, beside: bool) -> list[Record]:
    """A record for each, `jobs` at a time; those that there are on Ctrl-C."""
    records, done = Records(args.records), []
    todo: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for path in paths:
        todo.put(path)
    ends = threading.Event()
    began = time.monotonic()

    def work() -> None:
        while not ends.is_set():
            try:
                path = todo.get_nowait()
            except queue.Empty:
                return
            record = one(path, records, beside=beside)
            done.append(record)
            left = (time.monotonic() - began) / len(done) * (len(paths) - len(done))
            words = record.error or "; ".join(record.wrong) or f"{record.state}/{record.cause}"
            mark = "ERROR" if record.error else "WRONG" if record.wrong else "ok"
            print(
                f"{len(done)}/{len(paths)}, {left / 60:.0f} min left: {mark:5} {record.name}: {words}",
                file=sys.stderr,
                flush=True,
            )

    workers = [threading.Thread(target=work) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        print("ending: those that run are waited for", file=sys.stderr)
        args.ended = True
        ends.set()
        for worker in workers:
            worker.join()
    return sorted(done, key=lambda each: each.name)


def one(path: Path, records: Records, *, beside: bool) -> Record:
    text = path.read_bytes()
    name, digest = zoo.name(path), hashlib.sha256(text + bytes([beside])).hexdigest()[:16]
    known = records.known(name, digest)
    if known is not None:
        return known
    expected = {
        key: value for key, value in zoo.truth(path).items() if key in ("state", "cause", "blame", "facts")
    }
    look = functools.partial(others, path, expected) if beside else None
    try:
        found = zoo.outcome(path, beside=look)
    except Exception as error:  # noqa: BLE001 - a program that does not run is a record too
        record = Record(name, digest, expected, error=f"{type(error).__name__}: {error}"[:300])
    else:
        verdict, blame = found.verdict, found.verdict.get("blame") or {}
        record = Record(
            name=name,
            digest=digest,
            expected=expected,
            state=verdict["state"],
            cause=verdict["cause"],
            blamed=f"{blame.get('function', '')}:{blame.get('line', '')}",
            seconds=found.seconds,
            wrong=found.wrong,
            others=found.others,
        )
    records.add(record)
    return record


# ── what others say of the same process ─────────────────────────────────────────────────────────────────────


def tools() -> dict[str, list[str]]:
    """Their commands, as far as they are installed."""
    found = {}
    for name, program, arguments in (
        ("py-spy dump", "py-spy", ["dump", "--pid"]),
        ("py-spy dump --subprocesses", "py-spy", ["dump", "--subprocesses", "--pid"]),
        ("pystack remote", "pystack", ["remote"]),
    ):
        beside = Path(sys.executable).parent / program
        where = str(beside) if beside.exists() else shutil.which(program)
        if where:
            found[name] = [where, *arguments]
    return found


def others(path: Path, expected: dict[str, Any], pid: int) -> dict[str, dict[str, Any]]:
    """Does a line that may be blamed appear anywhere in what they print; is a cause named."""
    found = {}
    for name, command in tools().items():
        began = time.monotonic()
        try:
            done = subprocess.run(
                [*command, str(pid)],
                capture_output=True,
                timeout=_OTHER_SECONDS,
                env=clean_env(),
                check=False,
                start_new_session=True,
            )
            text, ended = done.stdout.decode("utf-8", "replace"), done.returncode == 0
        except subprocess.TimeoutExpired:
            text, ended = "", False
        found[name] = {
            "line": shows(text, path.name, expected.get("blame", ())),
            "cause": names_cause(text),
            "answered": ended,
            "seconds": time.monotonic() - began,
        }
    return found


def shows(text: str, file: str, functions: Sequence[str]) -> bool:
    """A frame of these functions: `fetch (loader.py:31)`, or `File "…/loader.py", line 31, in fetch`."""
    return any(
        re.search(rf"\b{re.escape(each)} \([^)]*{re.escape(file)}:\d+\)", text)
        or re.search(rf"{re.escape(file)}\", line \d+, in ([\w.]*\.)?{re.escape(each)}\b", text)
        for each in functions
    )


def names_cause(text: str) -> bool:
    """Any word for a cause in a line that is no frame: generously read."""
    said = [
        line
        for line in text.splitlines()
        if not re.search(r"\.py:\d+\)|File \"|^\s{8,}\S", line) and not line.startswith("Process ")
    ]
    words = "deadlock|stuck|hung|hangs|stopped|waiting for|blocked|garbage collect|holder|dead\\b|zombie"
    return bool(re.search(words, "\n".join(said), re.IGNORECASE))
