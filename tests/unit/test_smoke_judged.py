"""What is said of a stage that ran: of several wrong things the one that tells most, and its remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.smoke import expect
from harness.smoke.execution import Ran
from harness.smoke.observed import Observed, SeenIncident
from harness.smoke.plan import Stage
from harness.smoke.runner import judged

DRILL = (
    expect.ExitStatus(allowed=(124,)),
    expect.IncidentFound(causes=("socket-read",), within_seconds=30),
)
PLAIN = (expect.ExitStatus(allowed=(0,)), expect.NoIncident(), expect.StepReached(step=3))
INCIDENT = SeenIncident(
    cause="unknown", headline="HUNG", found_after_seconds=7.0, path="runs/x/incidents/001"
)
HUNG = {"state": "hung", "cause": "sleep", "summary": "It sleeps.", "next_steps": ["wake it", "or wait"]}
UNKNOWN = {"state": "unknown", "cause": "unknown", "summary": "?", "next_steps": ["look again"]}
NO_PY_SPY = {
    "not_checked": [
        {"what": "gpu", "reason": "unavailable", "detail": "no NVIDIA driver"},
        {"what": "stacks", "reason": "denied", "detail": "py-spy is not there: pip install py-spy"},
    ]
}


def outcome(
    expectations: Any, verdict: Any = None, diagnosis: Any = None, remedy: str = "", **seen: Any
) -> Any:
    facts = {"exit_status": 0, "ended_by": "itself", "seconds": 1.0, **seen}
    stage = Stage(
        name="s",
        family="s",
        summary="",
        command=("true",),
        budget_seconds=5.0,
        stall=None,
        needs=(),
        expectations=expectations,
        remedy=remedy,
    )
    return judged(
        stage, Path("none"), Ran(observed=Observed(**facts), verdict=verdict, diagnosis=diagnosis or {})
    )


@pytest.mark.parametrize(
    ("arguments", "reason", "remedy"),
    [
        (
            {"expectations": PLAIN, "verdict": HUNG, "ended_by": "budget", "exit_status": 143},
            "over its budget of 5.0 s · HUNG · sleep: It sleeps.",
            "wake it",
        ),
        (
            {"expectations": PLAIN, "ended_by": "budget"},
            "over its budget of 5.0 s · it could not be looked at",
            "Raise its budget, or give --timeout-scale 2 on a slow machine",
        ),
        (
            {
                "expectations": PLAIN,
                "verdict": HUNG,
                "ended_by": "stall",
                "exit_status": 124,
                "incidents": (INCIDENT,),
            },
            "stalled · HUNG · sleep: It sleeps.",
            "wake it",
        ),
        (
            {"expectations": PLAIN, "exit_status": 1, "last_line": "no text at x", "remedy": "Fetch it"},
            "exit status 1: no text at x",
            "Fetch it",
        ),
        (
            {"expectations": PLAIN, "exit_status": 1},
            "step: no step was reported, expected 3 to be reached",
            "Report steps with harness.emit.step",
        ),
        (
            {
                "expectations": DRILL,
                "verdict": UNKNOWN,
                "diagnosis": NO_PY_SPY,
                "ended_by": "stall",
                "exit_status": 124,
                "incidents": (INCIDENT,),
            },
            "incident: unknown, 7.0 s after the last progress, expected socket-read within 30.0 s",
            "stacks not seen: py-spy is not there: pip install py-spy",
        ),
        (
            {
                "expectations": DRILL,
                "verdict": UNKNOWN,
                "ended_by": "stall",
                "exit_status": 124,
                "incidents": (INCIDENT,),
            },
            "incident: unknown, 7.0 s after the last progress, expected socket-read within 30.0 s",
            "harness explain runs/x/incidents/001",
        ),
        ({"expectations": PLAIN, "ended_by": "interrupt", "exit_status": 130}, "interrupted", ""),
    ],
)
def test_the_reason_and_the_remedy(arguments: dict[str, Any], reason: str, remedy: str) -> None:
    found = outcome(**arguments)
    assert (found.reason, found.remedy) == (reason, remedy)
    assert found.state == ("interrupted" if reason == "interrupted" else "failed")
