"""The table of `harness smoke` at any width: marks, times and causes are not cut away."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.smoke.observe import Moment
from harness.smoke.outcome import Outcome, Report
from harness.smoke.plan import Plan, Stage
from harness.smoke.screen import LiveTable

LONG = "a-stage-with-a-name-of-forty-letters-or-s"
REASON = "over its budget of 5.0 s · HUNG · socket-read: it waits for a peer"


def stage(name: str) -> Stage:
    return Stage(
        name=name,
        family=name,
        summary="a summary with a good many words, too many for some",
        command=("true",),
        budget_seconds=4000.0,
        stall=None,
        needs=(),
        expectations=(),
    )


def drawn(width: int) -> str:
    out = io.StringIO()
    table = LiveTable(Console(file=out, width=width, height=24, force_terminal=False))
    stages = [stage("hello"), stage(LONG), stage("last")]
    table.begin(Plan(path="p", name="demo", stages=tuple(stages)), stages, Path("runs/smoke-1"))
    table.started(stages[0])
    table.moment(stages[0], Moment(at="train · step 3", resident_bytes=10**9), 3.0)
    outcomes = (
        Outcome(name="hello", state="passed", budget_seconds=4000, seconds=59.9, resident_peak_bytes=10**9),
        Outcome(name=LONG, state="failed", budget_seconds=4000, seconds=3723.0, reason=REASON),
        Outcome(name="last", state="skipped", budget_seconds=4000, reason=f"needs {LONG}, which failed"),
    )
    for outcome in outcomes:
        table.ended(outcome)
    table.resting()
    table.rested()
    table.finished(
        Report(
            plan="p",
            name="demo",
            folder="runs/smoke-1",
            again="harness smoke p",
            started_at="2026-11-23T00:00:00Z",
            seconds=60.0,
            outcomes=outcomes,
        )
    )
    return out.getvalue()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_nothing_that_matters_is_cut_at_any_width(width: int) -> None:
    text = drawn(width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line[:1] in ("✓", "✗", "-") and line[1:2] == " "]
    assert [row[0] for row in rows] == ["✓", "✗", "-"]
    assert " 59.9 s " in rows[0]
    assert " 1:02:03 " in rows[1]
    # Broken into lines where it must be, and whole.
    squeezed = "".join(text.split())
    assert "".join(f"first{LONG}: {REASON}".split()) in squeezed
    assert "".join(f"againharness smoke p --from {LONG}".split()) in squeezed
    assert "runs/smoke-1/report.json" in squeezed
    assert ("budget" in lines[1] or "budget" in lines[2]) is (width >= 60)
