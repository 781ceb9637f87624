"""The report in a real browser: it draws, obeys, complains of nothing, and runs no stranger's code."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from harness.cli.report import assets
from harness.render import report as renderer
from harness.report.gather import gather
from tests.support import chromium, reports
from tests.support.reports import attempt, rows, run_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.rundir import RunDirectory

pytestmark = pytest.mark.needs("chromium")

_READY = "document.documentElement.dataset.ready === '1'"
# How many pixels of a canvas are not empty.
_INK = """(id => {
    const canvas = document.querySelector(`#plot-${id} canvas`);
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let count = 0;
    for (let i = 3; i < pixels.length; i += 4) count += pixels[i] > 0;
    return count;
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    with chromium.Browser() as found:
        yield found


def page_of(run: RunDirectory, path: Path) -> Path:
    path.write_text(renderer.page(gather(run.path), assets()))
    return path


def full(path: Path) -> RunDirectory:
    """A run with everything: two attempts, a hole, an incident, NaN, evaluations, stages."""
    text = (rows(range(1, 201)) + rows(range(101, 401), 2)).decode().splitlines()
    text[50] = json.dumps(reports.row(51, loss="NaN"))
    text.insert(300, '{"gap": [210, 220], "rows": 11, "attempt": 2}')
    run = run_dir(
        path,
        attempt(1, end=20, exit_status=137, ended_by="SIGKILL"),
        attempt(2, 22.0, 60.0),
        metrics="\n".join(text).encode() + b"\n",
    )
    reports.incident(run)
    names = ("boot", "dataset", "train", "eval", "train")
    reports.events(
        run,
        "stages.jsonl",
        *(
            {"time": reports.BEGAN + 4 * n, "event": "stage", "rank": 0, "attempt": 1, "stage": name}
            for n, name in enumerate(names)
        ),
    )
    reports.events(
        run, "rank-00000.jsonl", {"event": "eval", "time": reports.BEGAN + 9, "step": 90, "loss": 3.5}
    )
    return run


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_draws_in_any_window_and_complains_of_nothing(browser, tmp_path, width, dark):
    shown = browser.open(page_of(full(tmp_path / "run"), tmp_path / "page.html"), width=width, dark=dark)
    shown.wait(_READY)
    ids = shown.evaluate("[...document.querySelectorAll('[data-chart]')].map(each => each.dataset.chart)")
    assert ids == ["loss", "lr", "tokens_per_second", "grad_norm", "phases", "memory"]
    for chart in ids:
        assert shown.evaluate(f"{_INK}('{chart}')") > 500, chart
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.console == []
    assert [each for each in shown.requests if not each.startswith(("file:", "data:"))] == []
    assert len(shown.requests) == 1


def test_its_controls_do_what_they_say(browser, tmp_path):
    shown = browser.open(page_of(full(tmp_path / "run"), tmp_path / "page.html"))
    shown.wait(_READY)
    before = shown.evaluate(f"{_INK}('loss')")
    shown.evaluate("document.querySelector('[data-mode=time]').click()")
    assert shown.evaluate("document.querySelector('[data-mode=time]').ariaPressed") == "true"
    assert shown.evaluate("document.querySelector('[data-mode=step]').ariaPressed") == "false"
    assert shown.evaluate(f"{_INK}('loss')") != before
    shown.evaluate("document.querySelector('[data-log=\"1\"]').click()")
    assert shown.evaluate(f"{_INK}('loss')") > 500
    # A pointer over one chart: every chart tells its value there.
    box = shown.evaluate("JSON.stringify(document.querySelector('#plot-lr .u-over').getBoundingClientRect())")
    box = json.loads(box)
    x, y = box["x"] + box["width"] * 0.6, box["y"] + 20
    shown.evaluate("scrollTo(0, 0)")
    shown.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    shown.wait("document.querySelector('#key-loss output').textContent !== ''")
    # Dragging looks closer, in all of them; the button goes back.
    for kind, at in (("mousePressed", x), ("mouseMoved", x + 80), ("mouseReleased", x + 80)):
        shown.call("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1)
    shown.wait("!document.getElementById('unzoom').hidden")
    shown.evaluate("document.getElementById('unzoom').click()")
    assert shown.evaluate("document.getElementById('unzoom').hidden")
    assert shown.console == []


def test_on_paper_it_is_light_its_curves_fit_and_the_screen_is_as_before(browser, tmp_path):
    shown = browser.open(page_of(full(tmp_path / "run"), tmp_path / "page.html"), dark=True)
    shown.wait(_READY)
    card = "getComputedStyle(document.documentElement).getPropertyValue('--card').trim()"
    widths = "[...document.querySelectorAll('.plot')].map(each => each.querySelector('canvas').clientWidth)"
    rooms = "[...document.querySelectorAll('.plot')].map(each => each.clientWidth)"
    dark, wide = shown.evaluate(card), shown.evaluate(widths)
    # What was true while it was printed is kept, for the page is as before when the call returns.
    shown.evaluate(
        "addEventListener('beforeprint', () => { globalThis.seen = {"
        f"card: {card}, widths: {widths}, rooms: {rooms}, "
        "page: document.querySelector('main').clientWidth } })"
    )
    paper = base64.b64decode(shown.call("Page.printToPDF")["data"])
    assert paper.startswith(b"%PDF")
    seen = shown.evaluate("globalThis.seen")
    assert seen["card"] == "#ffffff" != dark
    assert seen["widths"] == seen["rooms"]
    assert seen["page"] <= 720
    shown.wait("!document.documentElement.hasAttribute('data-print')")
    assert (shown.evaluate(card), shown.evaluate(widths)) == (dark, wide)
    assert shown.console == []


def test_what_was_done_again_is_in_a_stack_once(browser, tmp_path):
    shown = browser.open(page_of(full(tmp_path / "run"), tmp_path / "page.html"))
    shown.wait(_READY)
    # The fill of the lowest phase where steps 101 to 200 were done twice, and where they were not.
    pixel = """(share => {
        const canvas = document.querySelector("#plot-phases canvas"), box = canvas.getBoundingClientRect();
        const over = document.querySelector("#plot-phases .u-over").getBoundingClientRect();
        const x = over.left - box.left + over.width * share, y = over.bottom - box.top - 4;
        return canvas.getContext("2d").getImageData(x, y, 1, 1).data.join();
    })"""
    twice, once = shown.evaluate(f"{pixel}(0.4)"), shown.evaluate(f"{pixel}(0.9)")
    assert twice == once != "0,0,0,0"


def test_a_long_pause_does_not_hide_what_a_step_is_made_of(browser, tmp_path):
    text = rows(range(1, 401)).decode().splitlines()
    row = reports.row(200)
    text[199] = json.dumps({**row, "phases": {**row["phases"], "checkpoint": 60.0}})
    run = run_dir(tmp_path / "run", attempt(), metrics="\n".join(text).encode() + b"\n")
    shown = browser.open(page_of(run, tmp_path / "page.html"), height=2400)
    shown.wait(_READY)
    cut = "document.getElementById('cut-phases')"
    assert shown.evaluate(f"{cut}.textContent") == " · cut at 300 ms"
    # A usual step, 0.1 s of 0.3, fills a third of its chart; without the cut it would be a hair.
    assert shown.evaluate(f"{_INK}('phases')") > 20_000
    box = json.loads(
        shown.evaluate(
            "JSON.stringify(document.querySelector('#plot-phases .u-over').getBoundingClientRect())"
        )
    )
    x, y = box["x"] + box["width"] * 0.3, box["y"] + 20
    for kind, at in (("mousePressed", x), ("mouseMoved", x + 150), ("mouseReleased", x + 150)):
        shown.call("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1)
    shown.wait("!document.getElementById('unzoom').hidden")
    assert shown.evaluate(f"{cut}.hidden"), "who looks closer sees all of it"
    usual = browser.open(
        page_of(run_dir(tmp_path / "b", attempt(), metrics=rows(range(1, 401))), tmp_path / "b.html")
    )
    usual.wait(_READY)
    assert usual.evaluate(f"{cut}.textContent") == ""
    assert shown.console == usual.console == []


def test_nothing_of_a_stranger_runs(browser, tmp_path):
    shown = browser.open(page_of(reports.nasty(tmp_path / "run"), tmp_path / "page.html"))
    shown.wait(_READY)
    for button in ("[data-mode=time]", "[data-mode=step]"):
        shown.evaluate(f"document.querySelector('{button}').click()")
    shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert shown.evaluate("typeof globalThis.pwned") == "undefined"
    assert shown.evaluate(
        "document.querySelectorAll('img, b, base, iframe, object').length"
    ) == shown.evaluate("document.querySelectorAll('figcaption > b').length")
    assert shown.evaluate("document.querySelectorAll('script').length") == 3
    assert shown.console == []
    assert len(shown.requests) == 1


def test_the_policy_stops_what_would_get_through(browser, tmp_path):
    page = page_of(full(tmp_path / "run"), tmp_path / "page.html")
    page.write_text(page.read_text().replace("<main>", "<main><script>globalThis.pwned=1</script>", 1))
    shown = browser.open(page)
    shown.wait(_READY)
    assert shown.evaluate("typeof globalThis.pwned") == "undefined"
    assert any("Content Security Policy" in each for each in shown.console)


def test_many_steps_are_drawn_with_their_band(browser, tmp_path):
    run = run_dir(tmp_path / "run", attempt(end=3000), metrics=rows(range(1, 20_001)), target_steps=20_000)
    shown = browser.open(page_of(run, tmp_path / "page.html"))
    shown.wait(_READY)
    assert shown.evaluate(f"{_INK}('loss')") > 500
    assert shown.console == []


def test_without_curves_there_is_no_script(browser, tmp_path):
    shown = browser.open(page_of(run_dir(tmp_path / "run", attempt()), tmp_path / "page.html"))
    assert shown.evaluate("document.querySelectorAll('script').length") == 0
    assert shown.console == []
