"""Run directories made by hand, for reports: as a supervisor leaves them, and as nobody should."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from harness import bundle
from harness.evidence import Reading
from harness.rundir import Attempt, RunDirectory, RunRecord, host_name, utc
from tests.support.cases import PID, case, frame, process, process_sample, sample, stack

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BEGAN = 1_795_000_000.0
SCHEDULE = {"kind": "cosine", "peak": 1e-3, "warmup": 20, "total": 400, "floor": 0.1}

# Strings that would end an attribute, an element, a script or a comment, run as code, or reorder a line.
NASTY = (
    "</script><script>globalThis.pwned=1</script>",
    "<!--<script>",
    "]]><svg/onload=globalThis.pwned=2>",
    "\"'><img src=x onerror=globalThis.pwned=3>",
    "</title></style></pre><b>",
    "&lt;&#60;&amp;",
    "${globalThis.pwned=4}`{{7*7}}",
    "javascript:globalThis.pwned=5",
    "\u2028\u2029\u202e\x00\x1b]0;t\x07\r\n\ud800",
    "\N{PILE OF POO}" * 50,
    "x" * 5_000,
)
EVERYTHING = "".join(NASTY)


def row(step: int, attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "time": BEGAN + 0.1 * step,
        "step": step,
        "loss": 2 + 5 * math.exp(-step / 100),
        "lr": [1e-3, 1e-3],
        "grad_norm": 1.0,
        "tokens": 1024,
        "step_seconds": 0.1,
        "attempt": attempt,
        "phases": {"data": 0.01, "forward": 0.04, "backward": 0.05},
        "resident_bytes": 900_000_000 + step,
        **changes,
    }


def rows(steps: Iterable[int], attempt: int = 1, **changes: Any) -> bytes:
    """Lines of metrics.jsonl."""
    return b"".join(json.dumps(row(step, attempt, **changes)).encode() + b"\n" for step in steps)


def attempt(number: int = 1, begin: float = 0.0, end: float | None = 40.0, **changes: Any) -> Attempt:
    """A start of the command, in seconds after BEGAN."""
    values: dict[str, Any] = {
        "attempt": number,
        "started_at": utc(BEGAN + begin),
        "command": ("python", "train.py"),
        "ended_at": utc(BEGAN + end) if end is not None else None,
        "exit_status": 0 if end is not None else None,
        "ended_by": "itself" if end is not None else None,
    }
    return Attempt(**{**values, **changes})


def run_dir(path: Path, *attempts: Attempt, metrics: bytes = b"", **changes: Any) -> RunDirectory:
    """A run directory with a record and these rows."""
    run = RunDirectory(path)
    run.make_folders()
    values: dict[str, Any] = {
        "run_id": "run-1",
        "name": "quickstart",
        "created_at": utc(BEGAN),
        "host": host_name(),
        "cwd": "/home/u",
        "command": ("python", "train.py"),
        "attempt": len(attempts),
        "attempts": attempts,
        "schedule": SCHEDULE,
        "target_steps": 400,
    }
    run.record.write_text(RunRecord(**{**values, **changes}).to_json(), errors="surrogatepass")
    if metrics:
        run.metrics.write_bytes(metrics)
    return run


def events(run: RunDirectory, name: str, *found: dict[str, Any]) -> None:
    """A file of events."""
    text = "".join(json.dumps(each) + "\n" for each in found)
    (run.events / name).write_text(text)


def incident(
    run: RunDirectory, number: int = 1, *, evidence: bool = True, text: str = "fetch", **changes: Any
) -> None:
    """An incident, with a Case whose frames are called `text`."""
    folder = run.incidents / f"{number:03d}"
    folder.mkdir()
    if evidence:
        where = frame(function=text, file=f"/home/u/{text[:900]}.py")
        seen = [
            sample(process_sample(at=at, stacks=(stack(where, name=text),)), at=at) for at in (0.0, 1.0, 2.0)
        ]
        named = process(PID, command=Reading(value=("python", text)), name=text)
        bundle.save(case(*seen, processes=(named,)), folder)
    document = {
        "schema": "harness.incident/1",
        "number": number,
        "attempt": 1,
        "opened_at": utc(BEGAN + 12),
        "stage": "train",
        "where": "train/data",
        "phase": "data",
        "step": 100,
        "rank": 0,
        "ranks": [0],
        "last_progress_at_seconds": BEGAN + 10,
        "idle_seconds": 8.4,
        "limit_seconds": 6.0,
        "why": "from 100 steps of 0.1 s",
        "summary": "no progress for 8.4 s",
        "headline": "socket-read: it waits",
        "cause": "socket-read",
        "evidence": "whole" if evidence else "dropped",
        "closed_at": utc(BEGAN + 22),
        "closed_after_seconds": 12.0,
        "how": "progress again",
        **changes,
    }
    (folder / "incident.json").write_text(json.dumps(document))


def nasty(path: Path) -> RunDirectory:
    """A run of which every text is a stranger's worst."""
    bad = EVERYTHING
    run = run_dir(
        path,
        attempt(1, command=(bad,), ended_by=bad, exit_status=1),
        attempt(2, 41.0, 60.0, command=(bad,)),
        metrics=rows(range(1, 200), phases={each[:40]: 0.01 for each in NASTY})
        + rows(range(150, 300), 2)
        + bad.encode("utf-8", "surrogatepass"),
        name=bad,
        run_id=bad,
        host=bad,
        cwd=bad,
        command=(bad, "--hf-token", "hf_abcdefghijklmnop"),
        git={"commit": bad, "dirty": True},
        environment={bad: bad},
        versions={"harness": bad, "command": {"python": bad, "interpreter": bad, "packages": {bad: bad}}},
        schedule={"kind": bad},
    )
    run.configuration.mkdir()
    (run.configuration / "a.yaml").write_text(f"a: {bad}\ntoken: SESAME\n", errors="surrogatepass")
    (run.configuration / NASTY[1].replace("/", "_")).write_text(bad, errors="surrogatepass")
    run.output_log.write_text(f"{bad}\npassword=SESAME\n" * 30, errors="surrogatepass")
    stages = [
        {"time": BEGAN + n, "event": "stage", "rank": 0, "attempt": 1, "stage": each}
        for n, each in enumerate(NASTY)
    ]
    events(run, "stages.jsonl", *stages)
    events(run, "rank-00000.jsonl", {"event": "eval", "time": BEGAN + 5, "step": 50, "loss": 4.0, bad: bad})
    incident(run, text=bad, where=bad, why=bad, headline=bad, how=bad)
    incident(run, 2, evidence=False, where=bad, why=bad, headline=bad, how=bad)
    return run
