"""Recorded Cases get today what they were recorded with: a diagnosis is a pure function of a Case."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from harness import bundle
from harness.render import as_json, html, markdown, terminal
from harness.rules import diagnose
from tests.support import readme
from tests.support.env import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

CASES = sorted(path.parent for path in (REPOSITORY / "tests" / "cases").glob("*/*/case.json"))


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_a_recorded_case_keeps_its_verdict(folder: Path):
    expected = json.loads((folder / "expected.json").read_text())
    verdict = diagnose(bundle.load(folder)).verdict
    blame = verdict.blame
    found = {
        "state": verdict.state,
        "cause": verdict.cause,
        "blame": blame.function if blame else None,
        "line": blame.line if blame else None,
    }
    assert found == expected


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_every_renderer_shows_it_and_the_document_has_its_shape(folder: Path):
    case = bundle.load(folder)
    found = diagnose(case)
    document = json.loads(as_json.text(as_json.document(case, found)))
    assert document["schema"] == "harness.diagnosis/1"
    assert set(document) == {
        "schema", "pid", "taken_at", "took_seconds", "verdict", "findings", "notes",
        "not_checked", "processes",
    }  # fmt: skip
    assert document["findings"][0] == document["verdict"]
    assert set(document["verdict"]) == {
        "state", "cause", "confidence", "summary", "blame", "chain", "evidence", "next_steps",
    }  # fmt: skip
    if document["verdict"]["blame"]:
        assert set(document["verdict"]["blame"]) == {"pid", "tid", "thread", "file", "line", "function"}
    for width in (30, 80, 200):
        lines = terminal.screen(case, found, width=width)
        assert all(len(line) <= max(width, 30) + 16 for line in lines)
        assert "\x1b" not in "".join(lines)
    assert found.verdict.cause in html.page(case, found)
    assert found.verdict.cause in "\n".join(markdown.lines(case, found))


def test_the_more_is_missing_the_less_is_said():
    import dataclasses

    from harness.evidence import Missing

    denied = Missing(reason="denied", detail="ptrace is denied")
    case = bundle.load(next(folder for folder in CASES if folder.name == "two_locks"))
    blind = dataclasses.replace(
        case,
        samples=tuple(
            dataclasses.replace(
                sample, processes=tuple(dataclasses.replace(each, stacks=denied) for each in sample.processes)
            )
            for sample in case.samples
        ),
    )
    found = diagnose(blind)
    assert found.verdict.state == "unknown"
    assert found.exit_status == 3
    assert ("Python stacks", "denied") in {(each.what, each.reason) for each in found.not_checked}
    without_source = diagnose(dataclasses.replace(case, sources=()))
    assert without_source.verdict.cause != "lock-deadlock"


def test_a_case_without_anything_is_an_exited_process():
    from tests.support.cases import case

    assert diagnose(case(processes=())).verdict.cause == "exited"


def test_the_readme_shows_the_screen_that_the_recorded_run_gets_today():
    case = bundle.load(REPOSITORY / "tests" / "cases" / "m7c" / "replay")
    shown = "\n".join(terminal.screen(case, diagnose(case)))
    assert readme.shape(shown) == readme.shape(readme.screen())
