"""A Report as one self-contained HTML file: no request, a policy that allows none, nothing foreign unescaped.

The script and the styles stand in the page and are named in its Content-Security-Policy by their hashes; no
other script can run, wherever a stranger's text might land. Without scripts the page has all but the curves.
Pure: the assets are handed in. Not here: reading a run (`harness.report`), the parts (`report_parts`,
`report_charts`).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.render import report_charts as charts
from harness.render import report_parts as parts
from harness.render.text import clock, count, duration, short_seconds, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.render.report_charts import Chart
    from harness.report.facts import Report

_PILLS = {
    "finished": "good",
    "running": "told",
    "starting": "told",
    "stalled": "bad",
    "died": "bad",
    "lost": "bad",
    "unsupervised": "odd",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """The texts of what lies in `render/assets`."""

    uplot_script: str
    uplot_style: str
    script: str
    style: str


def summary(report: Report) -> str:
    """`finished · 700 steps in 2:03 · loss 6.98 → 4.13 · 1 incident`."""
    found = [report.state]
    took = report.end_seconds - report.begin_seconds
    step = report.history.last_step
    if step is None:
        found.append(f"after {clock(took)}")
    else:
        of = f" of {report.target_steps:,}" if report.target_steps not in (None, step) else ""
        found.append(f"{step:,}{of} steps in {clock(took)}")
    loss = report.history.extremes.get("loss")
    if loss is not None and loss.first is not None and loss.last is not None:
        found.append(f"loss {loss.first[1]:.3g} → {loss.last[1]:.3g}")
    if report.incident_count:
        found.append(f"{report.incident_count:,} incident{'s' if report.incident_count > 1 else ''}")
    wrong = sum(each.severity != "told" for each in report.remarks)
    if wrong:
        found.append(f"{wrong} thing{'s' if wrong > 1 else ''} looked wrong")
    return " · ".join(found)


def page(report: Report, assets: Assets) -> str:
    """The whole file."""
    shown = charts.charts(report)
    data = charts.script_text(charts.document(report, shown)) if shown else ""
    return "\n".join(_page(report, assets, shown, data)) + "\n"


def _page(report: Report, assets: Assets, shown: list[Chart], data: str) -> Iterator[str]:
    styles = [assets.uplot_style, assets.style] if shown else [assets.style]
    scripts = [assets.uplot_script, assets.script] if shown else []
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_hashes(styles)}; script-src {_hashes(scripts)}"
    )
    title = parts.esc(f"{report.name} · {report.state}", 120)
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
    yield f"<title>{title}</title>"
    yield from (f"<style>{each}</style>" for each in styles)
    yield "</head><body>"
    yield from _head(report)
    yield "<main>"
    yield from _figures(report)
    yield '<section id="wrong"><h2>What looked wrong</h2><div class="card">'
    yield from parts.remark_list(report)
    yield "</div></section>"
    yield from _curves(report, shown)
    yield from _time(report)
    if report.ranks:
        yield '<section id="ranks"><h2>Ranks</h2><div class="card">'
        yield from parts.rank_table(report)
        yield "</div></section>"
    if report.incidents:
        more = report.incident_count - len(report.incidents)
        left = (
            f"<small>the newest {len(report.incidents)} of {report.incident_count:,}</small>"
            if more > 0
            else ""
        )
        yield f'<section id="incidents"><h2>Incidents{left}</h2>'
        for each in report.incidents:
            yield from parts.incident(each, report)
        yield "</section>"
    yield from _run(report)
    yield "</main>"
    yield from _foot(report)
    if shown:
        yield f'<script type="application/json" id="data">{data}</script>'
        yield from (f"<script>{each}</script>" for each in scripts)
    yield "</body></html>"


def _hashes(texts: list[str]) -> str:
    found = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{each}'" for each in found) or "'none'"


def _head(report: Report) -> Iterator[str]:
    kind = _PILLS.get(report.state, "told")
    first, _, rest = summary(report).partition(" · ")
    links = [("wrong", "What looked wrong")]
    links += [("curves", "Curves")] if report.history.rows else []
    links += [("time", "Time")] if report.spans or report.history.rows else []
    links += [("ranks", "Ranks")] if report.ranks else []
    links += [("incidents", "Incidents")] if report.incidents else []
    links += [("run", "Run")]
    links += [("log", "Log")] if report.log else []
    yield '<header class="top">'
    yield f'<div class="name"><h1>{parts.esc(report.name, 120)}</h1>'
    yield f'<span class="pill {kind}">{parts.esc(first)}</span></div>'
    yield f'<p class="verdict">{parts.esc(rest)}</p>'
    yield (
        f'<p class="sub">{parts.esc(parts.plain_times(report.sentence))} · began '
        f"{parts.moment(report.begin_seconds)} on {parts.esc(report.host, 80)} · seen "
        f"{parts.moment(report.taken_seconds)}</p>"
    )
    yield '<nav aria-label="Parts of this page">'
    yield from (f'<a href="#{anchor}">{words}</a>' for anchor, words in links)
    yield "</nav></header>"


def _figures(report: Report) -> Iterator[str]:
    """The key figures, each with what it stands on."""
    history = report.history
    tiles: list[tuple[str, str, str]] = []
    step, target = history.last_step, report.target_steps
    if step is not None:
        share = f"{100 * step / target:.0f} % of {target:,}" if target else "no target was declared"
        tiles.append(("Steps", f"{step:,}", share))
    took = report.end_seconds - report.begin_seconds
    attempts = f"{len(report.attempts)} attempts" if len(report.attempts) > 1 else "one attempt"
    tiles.append(("Time", clock(took), attempts))
    loss = history.extremes.get("loss")
    if loss is not None and loss.last is not None and loss.low is not None:
        tiles.append(("Loss", f"{loss.last[1]:.4g}", f"lowest {loss.low[1]:.4g} at step {loss.low[0]:,}"))
    if report.evaluations:
        best = min(report.evaluations, key=lambda each: each.loss)
        tiles.append(("Best evaluation", f"{best.loss:.4g}", f"at step {best.step:,}"))
    totals = [bucket.values["step_seconds"] for bucket in history.buckets if "step_seconds" in bucket.values]
    if totals:
        mean = sum(each.total for each in totals) / max(1, sum(each.count for each in totals))
        speeds = [bucket.values.get("tokens_per_second") for bucket in history.buckets]
        known = [each for each in speeds if each is not None]
        rate = (
            sum(each.total for each in known) / max(1, sum(each.count for each in known)) if known else None
        )
        words = f"{count(rate)} tokens/s" if rate is not None else ""
        tiles.append(("A step", short_seconds(mean), words))
    for name, words in (
        ("gpu_peak_bytes", "GPU, the allocator's peak"),
        ("resident_bytes", "resident, rank 0"),
    ):
        found = history.extremes.get(name)
        if found is not None and found.high is not None:
            tiles.append(("Peak memory", size(found.high[1]), words))
            break
    if report.checkpoints:
        seconds, at = report.checkpoints[-1]
        words = (
            f"last of step {at:,}" if at is not None else f"last at {clock(seconds - report.begin_seconds)}"
        )
        tiles.append(("Checkpoints", f"{len(report.checkpoints):,}", words))
    stood = sum(each.lasted_seconds or 0.0 for each in report.incidents)
    words = f"stood still {duration(stood)} in all" if stood else ""
    tiles.append(("Incidents", f"{report.incident_count:,}", words))
    yield '<dl class="figures">'
    for name, value, words in tiles:
        small = f"<small>{parts.esc(words)}</small>" if words else ""
        yield f"<div><dt>{name}</dt><dd>{parts.esc(value)}{small}</dd></div>"
    yield "</dl>"


def _curves(report: Report, shown: list[Chart]) -> Iterator[str]:
    if not shown:
        return
    only_time = len(report.history.laps) > charts.MAX_LAPS
    yield '<section id="curves"><div class="bar"><h2>Curves</h2><div class="tools">'
    yield '<span class="hint">drag to look closer</span>'
    yield '<button type="button" id="unzoom" hidden>whole run</button>'
    yield '<span class="seg" role="group" aria-label="Horizontal axis">'
    if not only_time:
        yield '<button type="button" data-mode="step" aria-pressed="true">step</button>'
    yield f'<button type="button" data-mode="time" aria-pressed="{str(only_time).lower()}">time</button>'
    yield "</span></div></div>"
    yield '<noscript><p class="card">The curves are drawn by a script, which is off here. '
    yield "The table below has their numbers.</p></noscript>"
    yield '<div class="charts">'
    for each in shown:
        yield from _figure(each)
    yield "</div>"
    yield from (f'<p class="note">{words}</p>' for words in _honesty(report))
    yield '<div class="card numbers"><h3 class="hidden">The curves in numbers</h3>'
    yield from parts.extremes_table(report)
    yield "</div></section>"


def _figure(chart: Chart) -> Iterator[str]:
    """One chart: its caption and key, and a place for the script to draw in."""
    cut = f'<span id="cut-{chart.id}"></span>'  # the script says there where the axis ends before a spike
    words = f'<span class="unit">{parts.esc(chart.unit_words)}{cut}</span>' if chart.unit_words else ""
    yield f'<figure class="card" data-chart="{chart.id}"><figcaption><b>{chart.title}</b>{words}'
    yield f'<span class="unit" id="at-{chart.id}"></span>'
    if chart.data["log"]:
        yield (
            f'<span class="seg" role="group" aria-label="Vertical axis of {chart.title}">'
            '<button type="button" data-log="0" aria-pressed="true">linear</button>'
            '<button type="button" data-log="1" aria-pressed="false">log</button></span>'
        )
    yield "</figcaption>"
    keys = []
    for number, line in enumerate(chart.lines):
        label = f'{parts.esc(line["label"], 40)}<output data-line="{number}"></output>'
        style = " dash" if line.get("dash") else " faint" if number == 0 and chart.has_trend else ""
        keys.append(f'<span><i class="k-{line["colour"]}{style}"></i>{label}</span>')
    points = chart.data.get("points")
    if points is not None:
        keys.append(f'<span><i class="dot k-{points["colour"]}"></i>{points["label"]}</span>')
    if chart.data["bad"]:
        keys.append('<span><i class="k-red"></i>NaN or infinite</span>')
    yield f'<div class="key" id="key-{chart.id}">{"".join(keys)}</div>'
    said = parts.esc(chart.description)
    yield f'<div class="plot" id="plot-{chart.id}" role="img" aria-label="{said}"></div></figure>'


def _honesty(report: Report) -> Iterator[str]:
    """What the curves do not show as it was."""
    history = report.history
    if history.width > 1:
        yield (
            f"{history.rows:,} steps: each point is the mean of {history.width:,} in a row, the band around "
            "it goes from their least to their greatest, so no extreme is lost."
        )
    marks = []
    if report.incidents:
        marks.append("red lines are incidents")
    if len(report.attempts) > 1:
        marks.append("dashed lines are where an attempt began")
    if history.lap_count > 1:
        marks.append("steps that were done again are drawn faintly, the last time strongly")
    if marks:
        yield f"{'; '.join(marks).capitalize()}."
    if history.rows_lost:
        yield f"{history.rows_lost:,} steps were never recorded: there the curves have a hole."
    if history.hidden_breaks:
        yield f"{history.hidden_breaks:,} more holes or returns are too short to be drawn."
    if history.unreadable_lines:
        yield f"{history.unreadable_lines:,} lines of metrics.jsonl could not be read and are left out."
    if report.schedule is not None and "lr" in history.extremes and len(report.attempts) > 1:
        yield "The schedule is the one that the last attempt declared."


def _time(report: Report) -> Iterator[str]:
    stages, phases = list(parts.timeline(report)), list(parts.phase_table(report))
    if not stages and not phases:
        return
    yield '<section id="time"><h2>Where the time went</h2><div class="two">'
    for rows in (stages, phases):
        if rows:
            yield '<div class="card">'
            yield from rows
            yield "</div>"
    yield "</div></section>"


def _run(report: Report) -> Iterator[str]:
    yield '<section id="run"><h2>How it was run</h2><div class="card">'
    yield from parts.facts_table(report)
    yield "</div>"
    if len(report.attempts) > 0:
        yield '<div class="card">'
        yield from parts.attempt_table(report)
        yield "</div>"
    for file in report.files:
        note = f" <small>{parts.esc(file.note)}</small>" if file.note else ""
        yield f'<div class="card"><details><summary>Configuration: {parts.esc(file.name, 120)}{note}'
        yield "</summary>"
        yield f'<pre tabindex="0">{parts.block(file.text)}</pre></details></div>'
    if report.missing:
        yield '<div class="card">'
        yield from parts.table(
            "What is not on this page, and why",
            ("", "reason"),
            [
                (f'<th scope="row">{parts.esc(what)}</th>', f"<td>{parts.esc(why)}</td>")
                for what, why in report.missing
            ],
        )
        yield "</div>"
    yield "</section>"
    if report.log:
        opened = " open" if report.state in ("died", "lost", "stalled") else ""
        text = "\n".join(report.log)
        yield '<section id="log"><h2>Log</h2><div class="card">'
        yield f"<details{opened}><summary>The last {len(report.log)} lines that the command wrote</summary>"
        yield f'<pre tabindex="0">{parts.block(text)}</pre></details></div></section>'


def _foot(report: Report) -> Iterator[str]:
    yield "<footer>"
    yield (
        f"<p>Made by <code>harness report</code> {parts.esc(report.harness_version, 40)} from "
        f"<code>{parts.esc(report.where)}</code>, {parts.moment(report.taken_seconds)}. Times are UTC; "
        "steps, losses and times are rank 0's unless a table says otherwise. What the causes mean: "
        "<code>docs/causes</code>.</p>"
    )
    yield "<p>Curves: uPlot, © 2022 Leon Sorokin, MIT license.</p></footer>"
