"""A report as JSON and as JUnit XML. Pure, but for the writing, which is whole or not at all.

The JSON document is described in docs/how-to/smoke.md; later versions may add keys, never change these.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.render.text import harmless

if TYPE_CHECKING:
    from pathlib import Path

    from harness.smoke.outcome import Outcome, Report

SCHEMA = "harness.smoke/1"


def document(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    first = report.first_failure
    return {
        "schema": SCHEMA,
        "plan": report.plan,
        "name": report.name,
        "started_at": report.started_at,
        "seconds": round(report.seconds, 3),
        "passed": report.passed,
        "interrupted": report.interrupted,
        "first_failure": first.name if first is not None else None,
        "folder": report.folder,
        "stages": [_stage(outcome) for outcome in report.outcomes],
    }


def _stage(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "summary": outcome.summary,
        "state": outcome.state,
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 3),
        "budget_seconds": outcome.budget_seconds,
        "reason": outcome.reason or None,
        "remedy": outcome.remedy or None,
        "memory_peak_bytes": outcome.resident_peak_bytes,
        "gpu_memory_peak_bytes": outcome.gpu_peak_bytes,
        "measured": dict(outcome.measured),
        "checks": [
            {
                "what": check.what,
                "passed": check.passed,
                "seen": check.seen,
                "expected": check.expected,
                "remedy": check.remedy or None,
            }
            for check in outcome.checks
        ],
        "verdict": outcome.verdict,
        "run_dir": outcome.run_dir,
        "log": outcome.log,
        "command": list(outcome.command),
    }


def as_json(report: Report) -> str:
    """One document."""
    return json.dumps(_finite(document(report)), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value


def as_junit(report: Report) -> str:
    """JUnit XML, as CI servers read it."""
    failures = report.count("failed") + report.count("interrupted")
    skipped = report.count("skipped") + report.count("not run")
    counts = {
        "tests": str(len(report.outcomes)),
        "failures": str(failures),
        "errors": "0",
        "skipped": str(skipped),
        "time": f"{report.seconds:.3f}",
    }
    suites = ET.Element("testsuites", {"name": "harness smoke", **counts})
    suite = ET.SubElement(
        suites,
        "testsuite",
        {"name": _legal(report.name), "timestamp": report.started_at.rstrip("Z"), **counts},
    )
    for outcome in report.outcomes:
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": f"smoke.{_legal(report.name)}",
                "name": outcome.name,
                "time": f"{outcome.seconds or 0.0:.3f}",
            },
        )
        if outcome.state in ("failed", "interrupted"):
            failure = ET.SubElement(
                case, "failure", {"message": _legal(outcome.reason), "type": outcome.state}
            )
            failure.text = _legal("\n".join(_failure_lines(outcome)))
        elif outcome.state != "passed":
            ET.SubElement(case, "skipped", {"message": _legal(outcome.reason)})
        if outcome.measured:
            out = ET.SubElement(case, "system-out")
            out.text = _legal(json.dumps(_finite(dict(outcome.measured))))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _failure_lines(outcome: Outcome) -> list[str]:
    lines = [outcome.reason]
    if outcome.remedy:
        lines.append(outcome.remedy)
    lines.extend(check.sentence for check in outcome.checks if not check.passed)
    if outcome.log:
        lines.append(f"log: {outcome.log}")
    return lines


def _legal(text: str) -> str:
    """What XML 1.0 can hold."""
    return (
        "".join(each for each in harmless(text) if each >= " " or each in "\n\t")
        .replace("\ufffe", "")
        .replace("\uffff", "")
    )


def check_writable(path: Path, option: str) -> None:
    """UsageError now, and not after the last stage."""
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder", remedy="Name a file")
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: no folder {folder}", remedy="Make it, or name another file")
    target = path if path.exists() else folder
    if not os.access(target, os.W_OK):
        raise UsageError(
            f"{option} {path}: cannot be written", remedy="Mend its rights, or name another file"
        )


def write(path: Path, text: str) -> str | None:
    """Write `text`; what went wrong, or None."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        return f"{path}: not written: {error.strerror or error}"
    return None
