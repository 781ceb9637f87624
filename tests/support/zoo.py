"""The zoo: starts a victim, waits for its hang, diagnoses it with the command, compares with its truth.

    python -m tests.support.zoo [NAME...]      those whose path holds one of the names, as a table

A victim is tests/zoo/<family>/<name>.py, a plain program that prints READY and has a literal TRUTH:
state, cause (each a value or a list of such), blame (functions that may be blamed), facts (what the answer
has to mention), needs, ranks (run as so many ranks, under a launcher), torchrun (run under torchrun with
these arguments), ready ("listening": when the launcher's port is open, for no rank ever starts; or how often
READY has to be said), started ("shell" by a script, "module" by `python -m`, "program" by one that is no
Python, "import" by `python -c`), env, stdin, settle_seconds,
keeps (fields of a Case that its record needs, though others are recorded without them).
READY 4711 asks for the diagnosis of that pid instead of the program's own.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import needs
from tests.support.env import clean_env
from tests.support.victims import ZOO, end
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    ranks, torchrun = wanted.get("ranks", 0), wanted.get("torchrun")
    env = clean_env(**wanted.get("env", {}))
    command = [sys.executable, str(path)]
    port = _free_port()
    if ranks:
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(ZOO / "launcher.py"), str(ranks), "--", *command]
    elif torchrun:
        words = [word.replace("{port}", str(port)) for word in torchrun]
        program = ["-m", f"program.{path.stem}"] if wanted.get("started") == "module" else [str(path)]
        command = [str(Path(sys.executable).parent / "torchrun"), *words, *program]
    with tempfile.TemporaryDirectory() as folder:
        if wanted.get("started"):
            command = _started(wanted["started"], command, path, Path(folder))
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if wanted.get("stdin") else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # a line kept back in a buffer would not wake `select`
            env=env,
            cwd=folder,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            pid = process.pid
            if wanted.get("ready") == "listening":
                wait_for(lambda: _listens(port), READY_SECONDS, what="the launcher to listen")
            else:
                said, wished = 0, wanted.get("ready", 1)
                while said < wished:
                    line = _line(process)
                    said += line.count("READY")  # two may say it in one line
                    assert "READY" in line or line == "\n", f"{name(path)} said {line!r}"
                    asked = re.search(r"READY (\d+)", line)
                    pid = int(asked[1]) if asked else pid
            time.sleep(wanted.get("settle_seconds", 0.2))  # between the word and the deed
            yield pid
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
    others: dict[str, Any] = field(default_factory=dict)

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
        start_new_session=True,  # a Ctrl-C at the runner is not meant for it
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout), time.monotonic() - started


def outcome(path: Path, *arguments: str, beside: Callable[[int], dict[str, Any]] | None = None) -> Outcome:
    """Run one victim and compare; `beside` looks at the same process afterwards."""
    with running(path) as pid:
        status, document, seconds = diagnose(pid, *arguments)
        others = beside(pid) if beside is not None else {}
    found = wrong(truth(path), document) + misplaced(path, document)
    return Outcome(name(path), seconds, status, document, found, others)


def wrong(expected: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """What of an answer does not fit the truth."""
    verdict = document["verdict"]
    found = [
        f"{key} {verdict[key]!r}, expected {expected[key]!r}"
        for key in ("state", "cause")
        if verdict[key] not in several_of(expected[key])
    ]
    blame = verdict["blame"] or {}
    if expected.get("blame") and blame.get("function") not in expected["blame"]:
        found.append(f"blames {blame.get('function')!r}, expected one of {expected['blame']}")
    said = json.dumps([verdict, document["notes"]])
    return found + [f"does not mention {fact!r}" for fact in expected.get("facts", ()) if fact not in said]


def misplaced(path: Path, document: dict[str, Any]) -> list[str]:
    """Whether the blamed line is none of the victim's, though its function's name is right."""
    blame = document["verdict"].get("blame") or {}
    if blame.get("function") not in truth(path).get("blame", ()) or blame["function"].startswith("<"):
        return []  # a comprehension is not found by its name
    beside = path.with_name(Path(blame["file"]).name)  # a victim may have modules of its own
    source = beside if beside.exists() else path
    spans = [
        (node.lineno, node.end_lineno)
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == blame["function"]
    ]
    inside = any(first <= blame["line"] <= last for first, last in spans)
    there = Path(blame["file"]).name == source.name
    return [] if there and inside else [f"blames {blame['file']}:{blame['line']}, not this function's lines"]


def several_of(value: Any) -> list[Any]:
    """What a TRUTH allows, which may be one thing."""
    return value if isinstance(value, list) else [value]


def _started(how: str, command: list[str], path: Path, folder: Path) -> list[str]:
    """By a shell script that does something afterwards, as a module, by a program that is no Python."""
    if how == "program":
        words = folder / "words"
        words.write_text("\n".join(command[1:]))
        return ["xargs", "-d", "\\n", "-a", str(words), command[0]]
    if how in ("module", "import"):
        package = folder / "program"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / path.name).write_text(path.read_text())
        if how == "import":
            return [command[0], "-c", f"import program.{path.stem}"]
        return [*command[:-1], "-m", f"program.{path.stem}"] if command[-1] == str(path) else command
    script = folder / "run.sh"
    script.write_text(f"#!/bin/sh\n{shlex.join(command)}\nstatus=$?\necho done: $status\nexit $status\n")
    return ["/bin/sh", str(script)]


def _line(process: subprocess.Popen[bytes]) -> str:
    """The next line that a victim says, unless it says nothing for too long."""
    assert process.stdout is not None
    said, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
    return process.stdout.readline().decode() if said else "nothing in time"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
