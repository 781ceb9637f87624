"""Python stacks by py-spy: one rung of the ladder a call, each with a deadline and killed at its end.

The rungs: `nonblocking` reads the memory of a running process and never waits for it; `blocking` pauses
it for some milliseconds, the only way to locals that can be trusted, and only for a process whose threads
all are in R or S; `native` also walks the C stack. Killing a dump halfway does no harm: py-spy attaches
with PTRACE_SEIZE, which needs no SIGSTOP, and the kernel lets a dead tracer's process run on (tried:
docs/decisions/0005).

Of locals, numbers and classes are kept; text is dropped unless asked for. Not covered: which rung for which
process (`ladder`), what a stack means.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.collect import access
from harness.collect.deadline import Finished, Killed, missing_from, run
from harness.evidence import (
    Frame,
    Local,
    LocalKind,
    Missing,
    Piece,
    Reading,
    StackMethod,
    Stacks,
    ThreadStack,
)

if TYPE_CHECKING:
    from harness.collect.procfs import Proc

MAX_FRAMES = 256
MAX_LOCALS = 64
_MAX_VALUE = 200
NO_PY_SPY = Missing(
    reason="unavailable", detail="py-spy is neither beside the harness nor on PATH: pip install py-spy"
)
NOT_PYTHON = Missing(
    reason="unavailable", detail="not a Python process, or a Python that this py-spy does not know"
)
KERNEL_THREAD = Missing(reason="unavailable", detail="a kernel thread")
ZOMBIE = Missing(reason="unavailable", detail="the process has ended (a zombie has no stack)")
_NOT_TOLD = Missing(reason="unavailable", detail="the dump does not tell")

# Of this process alone, so that nobody can try texts until a mark fits.
_KEY = os.urandom(16)
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*([eE][+-]?\d+)?|nan|NaN|inf|bigint)|0x[0-9a-f]+")
_NUMBERS = re.compile(r"(?:[\[\](){},:.\s\d+-]|[eE](?=[+-]?\d)|nan|NaN|inf|None|True|False)+")
_OBJECT = re.compile(r"<([\w.]+) at 0x[0-9a-f]+>")

_ARGUMENTS: dict[StackMethod, tuple[str, ...]] = {
    "nonblocking": ("--nonblocking",),
    "blocking": ("--locals",),
    "native": ("--locals", "--native"),
}


# ── py-spy's output ─────────────────────────────────────────────────────────────────────────────────────────


def parse(data: bytes, *, text: bool = False) -> tuple[ThreadStack, ...]:
    """The output of `py-spy dump --json`; ValueError for anything else. `text` keeps strings of locals."""
    try:
        raw = json.loads(data)
        return tuple(_thread(each, text, last=index == len(raw)) for index, each in enumerate(raw, 1))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not py-spy's JSON: {type(error).__name__} {error}") from None


def _thread(raw: dict[str, Any], text: bool, *, last: bool) -> ThreadStack:
    tid, pid, name = raw["os_thread_id"], raw.get("pid"), raw["thread_name"] or ""
    # Names are kept by `threading`, which not every program imports, and before Python 3.11 a dump that does
    # not pause cannot tell the thread's id. The main thread has the process's, and stands last: it is oldest.
    if not name and (tid == pid if tid is not None else last):
        name = "MainThread"
    if name == "MainThread" and tid is None:
        tid = pid
    return ThreadStack(
        tid=_NOT_TOLD if tid is None else Reading(value=int(tid)),
        name=str(name),
        active=Reading(value=bool(raw["active"])),
        owns_gil=Reading(value=bool(raw["owns_gil"])),
        frames=tuple(_frame(each, text) for each in raw["frames"][:MAX_FRAMES]),
    )


def _frame(raw: dict[str, Any], text: bool) -> Frame:
    return Frame(
        function=str(raw["name"]),
        file=str(raw["filename"]),
        line=int(raw["line"]),
        # An address that no library owns (code made at run time) has neither a module nor a file.
        native=raw.get("module") is not None or not raw["filename"],
        module=str(raw.get("module") or ""),
        entry=bool(raw.get("is_entry")),
        locals=tuple(_local(each, text) for each in (raw.get("locals") or ())[:MAX_LOCALS]),
    )


def _local(raw: dict[str, Any], text: bool) -> Local:
    shown = str(raw.get("repr") or "")
    kind, content = classify(shown)
    if text and kind in ("text", "container"):
        content = shown[:_MAX_VALUE]
    return Local(
        name=str(raw["name"]),
        argument=bool(raw["arg"]),
        address=int(raw["addr"]),
        kind=kind,
        value=content,
        mark=_mark(shown) if kind in ("text", "container") else "",
    )


def _mark(shown: str) -> str:
    """Something that changes with a text and cannot be turned back into it: the key is never kept."""
    data = shown.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=4, key=_KEY).hexdigest()


def classify(shown: str) -> tuple[LocalKind, str]:
    """The kind of a local from py-spy's repr, and what of it may be kept."""
    if shown == "None":
        return "none", shown
    if shown in ("True", "False"):
        return "bool", shown
    if _NUMBER.fullmatch(shown):
        return "number", shown[:_MAX_VALUE]
    named = _OBJECT.fullmatch(shown)
    if named:
        return "object", named[1][:_MAX_VALUE]
    if shown[:1] in ("[", "(", "{"):
        return ("numbers", shown[:_MAX_VALUE]) if _NUMBERS.fullmatch(shown) else ("container", "")
    return "text", ""


def explain(errors: str) -> Missing:
    """Why py-spy could not, from what it wrote to stderr."""
    lowered = errors.lower()
    if "permission denied" in lowered or "operation not permitted" in lowered:
        return Missing(reason="denied", detail="ptrace is denied")
    if "failed to find python version" in lowered or "failed to find a python" in lowered:
        return NOT_PYTHON
    if "failed to suspend process" in lowered:
        detail = "the process could not be paused (it is stopped already, or traced)"
        return Missing(reason="unavailable", detail=detail)
    if "no such process" in lowered or "check that the process is running" in lowered:
        return Missing(reason="unavailable", detail="the process has ended")
    said = errors.split("Stack backtrace", maxsplit=1)[0]
    causes = re.findall(r"^\s*(?:\d+:|Error:)\s*(.+)$", said, re.MULTILINE)
    detail = f"py-spy: {'; '.join(causes) or said.strip() or 'no output'}"
    return Missing(reason="unavailable", detail=detail[:300])


# ── running it ──────────────────────────────────────────────────────────────────────────────────────────────


def find_py_spy() -> str | None:
    """The py-spy that came with us, else the one on PATH."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def dump(
    proc: Proc,
    pid: int,
    start_time_ticks: int,
    method: StackMethod,
    *,
    seconds: float,
    py_spy: str | None,
    text: bool = False,
) -> Piece[Stacks]:
    """One dump of one process. It never raises, and never takes much longer than `seconds`."""
    if py_spy is None:
        return NO_PY_SPY
    if seconds <= 0:
        return Missing(reason="timed_out", detail="no time was left for a dump")
    try:
        before = proc.same(pid, start_time_ticks)
        if before.state in "ZX":
            return ZOMBIE
        if before.kernel_thread:
            return KERNEL_THREAD
        command = [py_spy, "dump", "--json", "--full-filenames", "--pid", str(pid), *_ARGUMENTS[method]]
        done = run(command, seconds)
        if isinstance(done, Killed):
            return Missing(reason="timed_out", detail=f"a {method} dump {done.why} and was killed")
        # Were it another process by now, the stack would be a stranger's.
        after = proc.same(pid, start_time_ticks)
        return _result(done, method, text, denied_by=lambda: _denial(proc, after.pid))
    except Exception as error:  # noqa: BLE001 - whatever the target does, a dump is a value
        return missing_from(error)


def _result(done: Finished, method: StackMethod, text: bool, denied_by: Any) -> Piece[Stacks]:
    if done.status != 0:
        missing = explain(done.errors.decode("utf-8", "replace"))
        return Missing(reason="denied", detail=denied_by()) if missing.reason == "denied" else missing
    try:
        threads = parse(done.output, text=text)
    except ValueError as error:
        return Missing(reason="unavailable", detail=str(error)[:300])
    if not threads:
        detail = "py-spy saw no Python thread: the interpreter starts or ends"
        return Missing(reason="unavailable", detail=detail)
    return Reading(value=Stacks(method=method, took_seconds=done.took_seconds, threads=threads))


def _denial(proc: Proc, pid: int) -> str:
    uid = int(proc.status(pid)["Uid"].split()[0])
    return access.why_denied(access.rights(proc, uid))
