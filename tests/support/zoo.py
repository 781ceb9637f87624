"""The zoo: starts a victim, waits for its hang, diagnoses it with the command, compares with its truth.

    python -m tests.support.zoo [NAME...]      those whose path holds one of the names, as a table

A victim is tests/zoo/<family>/<name>.py, a plain program that prints READY and has a literal TRUTH:
state, cause (each a value or a list of such), blame (functions that may be blamed), facts (what the answer
has to mention), needs, ranks (run as so many ranks, under a launcher), env, stdin, settle_seconds.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import needs
from tests.support.env import clean_env
from tests.support.victims import ZOO, end
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_SECONDS = 60.0
DIAGNOSE_SECONDS = 60.0


def programs() -> list[Path]:
    """Every victim that has a TRUTH."""
    return sorted(path for path in ZOO.glob("*/*.py") if truth(path))


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def truth(path: Path) -> dict[str, Any]:
    """The literal TRUTH of a victim; nothing of it is run."""
    for node in ast.parse(path.read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "TRUTH"
        ):
            return ast.literal_eval(node.value)
    return {}


def missing(path: Path) -> str | None:
    return needs.check(*truth(path).get("needs", ()), "py-spy")


@contextlib.contextmanager
def running(path: Path) -> Iterator[int]:
    """The pid of a victim, or of its launcher, once it is in its hang."""
    wanted = truth(path)
    ranks = wanted.get("ranks", 0)
    env = clean_env(**wanted.get("env", {}))
    command = [sys.executable, str(path)]
    if ranks:
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        command = [sys.executable, str(ZOO / "launcher.py"), str(ranks), "--", *command]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if wanted.get("stdin") else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            cwd=folder,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            said, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
            line = process.stdout.readline().decode() if said else "nothing in time"
            assert "READY" in line, f"{name(path)} said {line!r}"
            time.sleep(wanted.get("settle_seconds", 0.2))  # between the word and the deed
            yield process.pid
        finally:
            end(process)
            with contextlib.suppress(ProcessLookupError):  # a pool may have begun a worker meanwhile
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdin is not None:
                process.stdin.close()


@dataclass(frozen=True)
class Outcome:
    name: str
    seconds: float
    status: int
    document: dict[str, Any]
    wrong: list[str]

    @property
    def verdict(self) -> dict[str, Any]:
        return self.document.get("verdict", {})


def diagnose(pid: int, *arguments: str) -> tuple[int, dict[str, Any], float]:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "harness", "diagnose", str(pid), "--json", *arguments],
        capture_output=True,
        env=clean_env(),
        timeout=DIAGNOSE_SECONDS,
        check=False,
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout), time.monotonic() - started


def outcome(path: Path, *arguments: str) -> Outcome:
    """Run one victim and compare."""
    with running(path) as pid:
        status, document, seconds = diagnose(pid, *arguments)
    return Outcome(name(path), seconds, status, document, wrong(truth(path), document))


def wrong(expected: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """What of an answer does not fit the truth."""
    verdict = document["verdict"]
    found = [
        f"{key} {verdict[key]!r}, expected {expected[key]!r}"
        for key in ("state", "cause")
        if verdict[key] not in _several(expected[key])
    ]
    blame = verdict["blame"] or {}
    if expected.get("blame") and blame.get("function") not in expected["blame"]:
        found.append(f"blames {blame.get('function')!r}, expected one of {expected['blame']}")
    said = json.dumps([verdict, document["notes"]])
    return found + [f"does not mention {fact!r}" for fact in expected.get("facts", ()) if fact not in said]


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_running(pid: int) -> None:
    """Until no dump holds it any more: state R or S."""

    def runs() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "RS"

    wait_for(runs, what="the target to run on")


def main() -> None:
    right = 0
    chosen = [
        each for each in programs() if not sys.argv[1:] or any(word in name(each) for word in sys.argv[1:])
    ]
    for path in chosen:
        reason = missing(path)
        if reason:
            print(f"skip   {name(path)}: {reason}")
            continue
        try:
            found = outcome(path)
        except Exception as error:
            print(f"ERROR  {name(path)}: {error}", flush=True)
            continue
        right += not found.wrong
        words = f"{found.verdict['state']}/{found.verdict['cause']} {found.verdict['confidence']}"
        print(
            f"{'ok    ' if not found.wrong else 'WRONG '} {found.name:34} {found.seconds:4.1f} s  {words}",
            flush=True,
        )
        for each in found.wrong:
            print(f"         {each}")
        if found.wrong and os.environ.get("VERBOSE"):
            print(json.dumps(found.document["findings"], indent=1))
    print(f"{right} of {len(chosen)} right")


if __name__ == "__main__":
    main()
