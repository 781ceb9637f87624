"""A Diagnosis as the one JSON document of the contract: `harness.diagnosis/1`.

Later versions may add keys, never change these. JSON's own escapes make control characters harmless. Not
covered: writing it anywhere.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import TYPE_CHECKING, Any

from harness import codec
from harness.evidence import Reading
from harness.findings import SCHEMA
from harness.rules import say
from harness.rules.scene import Scene
from harness.rules.view import View

if TYPE_CHECKING:
    from harness.evidence import Case, Frame
    from harness.findings import Blame, Diagnosis, Finding, Link
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView

MAX_FRAMES = 64


def document(case: Case, diagnosis: Diagnosis) -> dict[str, Any]:
    """The document, as plain data."""
    scene = Scene(View(case))
    return {
        "schema": SCHEMA,
        "pid": diagnosis.pid,
        "taken_at": timestamp(diagnosis.taken_at_seconds),
        "took_seconds": round(diagnosis.took_seconds, 3),
        "verdict": finding(diagnosis.verdict),
        "findings": [finding(each) for each in diagnosis.findings],
        "notes": [
            {"cause": each.cause, "summary": each.summary, "evidence": list(each.evidence)}
            for each in diagnosis.notes
        ],
        "not_checked": [
            {"what": each.what, "reason": each.reason, "detail": each.detail}
            for each in diagnosis.not_checked
        ],
        "processes": [process(scene, each) for each in scene.view.processes],
    }


def error_document(pid: int | None, message: str, diagnosis: dict[str, Any] | None = None) -> dict[str, Any]:
    """The document of a mistake, or of a process that could not be looked at."""
    return {**(diagnosis or {"schema": SCHEMA, "pid": pid}), "error": message}


def text(found: dict[str, Any]) -> str:
    """The document as text."""
    return json.dumps(_plain(found), allow_nan=False)


def finding(found: Finding) -> dict[str, Any]:
    """One finding."""
    return {
        "state": found.state,
        "cause": found.cause,
        "confidence": found.confidence,
        "summary": found.summary,
        "blame": blame(found.blame),
        "chain": [link(each) for each in found.chain],
        "evidence": list(found.evidence),
        "next_steps": list(found.next_steps),
    }


def blame(found: Blame | None) -> dict[str, Any] | None:
    """The line to look at."""
    if found is None:
        return None
    return {
        "pid": found.pid,
        "tid": found.tid,
        "thread": found.thread,
        "file": found.file,
        "line": found.line,
        "function": found.function,
    }


def link(found: Link) -> dict[str, Any]:
    """One waiter."""
    return {
        "pid": found.pid,
        "tid": found.tid,
        "thread": found.thread,
        "rank": found.rank,
        "waits_for": found.waits_for,
        "file": found.file,
        "line": found.line,
        "function": found.function,
    }


def process(scene: Scene, found: ProcessView) -> dict[str, Any]:
    """One process with its threads."""
    return {
        "pid": found.pid,
        "ppid": found.process.ppid,
        "rank": found.rank,
        "role": found.role,
        "state": found.state,
        "command": found.command_text,
        "cpu_percent": None if found.cpu_cores is None else round(found.cpu_cores * 100, 1),
        "threads": [_thread(scene, each) for each in found.threads],
    }


def _thread(scene: Scene, thread: ThreadView) -> dict[str, Any]:
    call = thread.syscall
    on = say.waits_for(scene.wait(thread)) if thread.frames else ""
    return {
        "tid": thread.tid,
        "name": thread.name,
        "state": thread.state,
        "cpu_percent": None if thread.cpu_cores is None else round(thread.cpu_cores * 100, 1),
        "holds_gil": thread.holds_gil,
        "wait": {"syscall": call.name if call is not None else None, "on": on},
        "frames": [_frame(each) for each in thread.frames[:MAX_FRAMES]],
    }


def _frame(frame: Frame) -> dict[str, Any]:
    return {"function": frame.function, "file": frame.file, "line": frame.line, "native": frame.native}


def timestamp(seconds: float) -> str:
    """`2026-11-22T08:00:00Z`."""
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(found: ProcessView) -> float | None:
    """How long a process has run."""
    piece = found.process.age_seconds
    return piece.value if isinstance(piece, Reading) else None


def _plain(value: Any) -> Any:
    """Without what JSON has no word for, and without lone surrogates, which UTF-8 has none for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else codec.encode(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
