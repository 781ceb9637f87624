"""The report's page: complete in itself, harmless whatever the run held, and right about what it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from harness.cli.report import assets
from harness.errors import RecordError, UsageError
from harness.render import report as renderer
from harness.report.gather import gather
from tests.support import reports
from tests.support.reports import BEGAN, attempt, rows, run_dir

ASSETS = assets()
_VOID = {"meta", "link", "br", "img", "input", "hr"}
_ELEMENTS = re.compile(
    "html|head|meta|title|style|body|header|main|section|nav|footer|article|figure|figcaption|h[123]|p|a|ul|ol|li"
    "|dl|dt|dd|div|span|small|b|i|code|pre|details|summary|table|caption|thead|tbody|tr|th|td|svg|rect|line|text"
    "|button|output|noscript|script"
)
_ODD_FIELDS = (
    *("attempt", "step", "rank", "last_progress_at_seconds", "limit_seconds", "closed_after_seconds"),
    *("headline", "where"),
)


class Outline(HTMLParser):
    """What a browser would make of a page: elements, attributes, scripts, text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.words += data


def made(run):
    report = gather(run.path)
    page = renderer.page(report, ASSETS)
    return report, page, Outline(page)


def data_of(outline):
    (found,) = [each for each in outline.scripts if each.startswith('{"axes"')]
    return json.loads(found)


@pytest.fixture
def run(tmp_path):
    return run_dir(tmp_path / "run", attempt(), metrics=rows(range(1, 401)))


def test_the_page_asks_nobody_for_anything(run):
    _, page, outline = made(run)
    for tag, attributes in outline.elements:
        assert _ELEMENTS.fullmatch(tag), tag
        assert not {"src", "style", "srcset", "action", "onclick"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    assert "@import" not in page
    assert not re.search(r"url\((?!data:)", page)


def test_its_policy_allows_its_own_scripts_and_styles_alone(run):
    _, page, outline = made(run)
    (policy,) = [each["content"] for tag, each in outline.elements if "http-equiv" in each]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    for kind, texts in (("script", outline.scripts[1:]), ("style", styles)):
        (allowed,) = re.findall(rf"{kind}-src ([^;]*)", policy)
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts]
        assert allowed.split() == hashes
        assert len(hashes) == 2


def test_what_a_stranger_wrote_is_text_and_nothing_else(tmp_path):
    _, page, outline = made(reports.nasty(tmp_path / "run"))
    assert all(_ELEMENTS.fullmatch(tag) for tag, _ in outline.elements)
    for _, attributes in outline.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert len(outline.scripts) == 3
    assert not any("pwned=" in each for each in outline.scripts[1:])
    assert "pwned=1" in str(data_of(outline))
    assert not set("<>&") & set(outline.scripts[0])
    assert "pwned=1" in outline.words  # it is shown
    assert not any(each in script for script in outline.scripts for each in "\u2028\u2029")
    for hidden in ("\u202e", "\x00", "\x1b", "\x07", "\ud800"):
        assert hidden not in page
    assert "SESAME" not in page
    assert "hf_abcdefghijklmnop" not in page
    assert len(page) < 2_000_000


def test_curves_are_the_rows(run):
    report, _, outline = made(run)
    found = data_of(outline)
    assert found["axes"]["step"] == list(range(1, 401))
    charts = {each["id"]: each for each in found["charts"]}
    assert set(charts) == {"loss", "lr", "tokens_per_second", "grad_norm", "phases", "memory"}
    loss = charts["loss"]["lines"][0]
    assert loss["mean"][99] == pytest.approx(reports.row(100)["loss"], rel=1e-4)
    assert "low" not in loss
    planned = charts["lr"]["lines"][1]["mean"]
    assert planned[9] == pytest.approx(5e-4)
    assert planned[399] == pytest.approx(1e-4, rel=0.01)
    assert report.state == "finished"
    assert renderer.summary(report).startswith("finished · 400 steps in 0:40 · loss 6.95 → 2.09")


def test_of_many_steps_every_extreme_is_on_the_page(tmp_path):
    text = rows(range(1, 30_001)).decode().splitlines()
    text[12_344] = json.dumps(reports.row(12_345, loss=77.5))
    text[20_000] = json.dumps(reports.row(20_001, loss="NaN"))
    run = run_dir(tmp_path / "run", attempt(), metrics="\n".join(text).encode() + b"\n", target_steps=30_000)
    _, page, outline = made(run)
    loss = data_of(outline)["charts"][0]
    assert max(loss["lines"][0]["high"]) == 77.5
    assert len(loss["bad"]) == 1
    assert len(loss["lines"][0]["mean"]) <= 2_000
    assert "77.5 <small>step 12,345</small>" in page
    assert "NaN or infinite at 1 step, first at step 20,001" in page


def test_attempts_that_went_back_are_shown_as_they_were(tmp_path):
    run = run_dir(
        tmp_path / "run",
        attempt(1, end=20, exit_status=137, ended_by="SIGKILL"),
        attempt(2, 22.0, 60.0),
        metrics=rows(range(1, 201)) + rows(range(101, 401), 2),
    )
    report, page, outline = made(run)
    found = data_of(outline)
    assert found["laps"] == [[0, 200, 1], [200, 500, 2]]
    assert [(mark["kind"], mark["step"]) for mark in found["marks"]] == [("attempt", 101)]
    assert report.attempts[1].repeated == 100
    assert "steps that were done again are drawn faintly" in page


def test_a_run_that_died_half_way_says_so(tmp_path):
    run = run_dir(
        tmp_path / "run",
        attempt(end=20, exit_status=1),
        metrics=rows(range(1, 201)) + b'{"time": 17950',
    )
    run.output_log.write_text("RuntimeError: the data is bad\n")
    reports.events(run, "rank-00000.jsonl", {"event": "checkpoint", "time": BEGAN + 15, "step": 150})
    report, page, _ = made(run)
    assert renderer.summary(report).startswith("died · 200 of 400 steps")
    assert "the 50 steps after it have to be done again" in page
    assert "<details open><summary>The last 1 lines" in page
    assert "RuntimeError: the data is bad" in page


def test_a_run_without_anything_is_a_page_too(tmp_path):
    report, page, outline = made(run_dir(tmp_path / "run", schedule=None))
    assert not outline.scripts
    assert "never called harness.emit" in page
    assert report.remarks == ()


def test_rows_without_values_are_a_page_too(tmp_path):
    text = b'{"step": 1, "time": 1795000000}\n{"step": 2, "time": 1795000001}\n'
    _, page, outline = made(run_dir(tmp_path / "run", attempt(), metrics=text))
    assert 'id="plot-' not in page
    assert not outline.scripts


def test_an_incident_is_told_with_its_verdict_and_stacks(run):
    reports.incident(run)
    _, page, outline = made(run)
    assert "stood still for 12.0 s at step 100" in outline.words
    assert "fetch (fetch.py:31)" in page
    assert "stood still 12.0 s in all" in outline.words


def test_evidence_that_cannot_be_read_costs_its_own_verdict_only(run):
    reports.incident(run)
    reports.incident(run, 2, evidence=False)
    (run.incidents / "001" / "case.json").write_text("{")
    (run.incidents / "003").mkdir()
    (run.incidents / "003" / "incident.json").write_text('{"schema": "harness.incident/1"}')
    report, _, outline = made(run)
    assert len(report.incidents) == 2
    assert "not JSON that the harness wrote" in outline.words
    assert "dropped to make room" in outline.words


@pytest.mark.parametrize("odd", ["x", None, 1e300, [], {}, True])
def test_an_incident_with_odd_values_is_no_mishap(run, odd):
    reports.incident(run, evidence=False, **dict.fromkeys(_ODD_FIELDS, odd))
    made(run)


def test_what_is_no_run_is_an_error_in_a_line(tmp_path):
    with pytest.raises(UsageError, match="no run\\.json in it"):
        gather(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RecordError):
        gather(tmp_path)


def test_very_many_ranks_attempts_and_returns_stay_readable(tmp_path):
    attempts = [attempt(n, 10.0 * n, 10.0 * n + 5) for n in range(1, 301)]
    metrics = b"".join(rows(range(n, n + 3), n) for n in range(1, 301))
    report, page, outline = made(run_dir(tmp_path / "run", *attempts, metrics=metrics))
    assert data_of(outline)["only"] == "time"
    assert 'data-mode="step"' not in page
    assert len(report.history.laps) <= 100
    assert len(page) < 1_000_000
