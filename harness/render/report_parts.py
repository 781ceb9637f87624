"""The parts of a report's page that are tables, lists and strips of colour; every word from outside escaped.

Pure: facts in, HTML out. Not here: curves (`report_charts`), the page around them (`report`).
"""

from __future__ import annotations

import html
import math
import re
from typing import TYPE_CHECKING

from harness.render import report_charts
from harness.render.as_json import timestamp
from harness.render.text import clock, count, duration, harmless, short_seconds, single_line, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.report.facts import IncidentFacts, RankFacts, Report, Span, Verdict

_WORD = 400
_LINE = 4_000
_SPANS = 1_500
STAGE_COLOURS = {
    "train": "blue",
    "eval": "green",
    "checkpoint": "pink",
    "compile": "violet",
    "first_batch": "amber",
    "dataset": "orange",
    "download": "brown",
    "tokenizer": "amber",
    "start": "grey",
    "boot": "grey",
    "import": "slate",
    "model": "teal",
    "resume": "teal",
    "distributed": "violet",
    "finish": "slate",
    "not recorded": "grey",
}
_SPARE = ("brown", "orange", "teal", "violet", "amber")
_DOWN = "not running"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)Z")
_NONE = '<span aria-label="none">\N{EN DASH}</span>'
_STATES = {"hung": "bad", "stopped": "odd", "exited": "bad", "slow": "odd", "healthy": "good"}


def esc(text: str, most: int = _WORD) -> str:
    """One line of a stranger's text, harmless in a terminal and on a page, and not too long."""
    line = single_line(text[: most * 2])
    return html.escape(line if len(line) <= most and len(text) <= most * 2 else f"{line[: most - 1]}…")


def block(text: str) -> str:
    """Several lines of a stranger's text."""
    return html.escape(harmless(text))


def moment(seconds: float) -> str:
    """2026-11-22 08:00:00 UTC."""
    return plain_times(timestamp(seconds))


def plain_times(text: str) -> str:
    """Text with its times as people write them."""
    return _TIME.sub(r"\1 \2 UTC", text)


def numbered(value: int) -> str:
    """12,345."""
    return f"{value:,}"


# ---- remarks


def remark_list(report: Report) -> Iterator[str]:
    """What looked wrong, the worst first; incidents with a link to what is known of them."""
    items = []
    for each in report.incidents[:20]:
        said = each.headline or f"no progress in {each.where}"
        if each.verdict is not None:
            said = f"{each.verdict.cause}: {each.verdict.summary}"
        where = f" at step {each.step:,}" if each.step is not None else ""
        lasted = (
            f" for {duration(each.lasted_seconds)}" if each.lasted_seconds is not None else ", and still does"
        )
        items.append(
            f'<li class="bad"><span class="sign" aria-hidden="true">■</span><div>'
            f'<p><a href="#{incident_id(each)}">Incident {esc(each.name)}</a>: '
            f"it stood still{lasted}{where}.</p>"
            f'<p class="why">{esc(said)}</p></div></li>'
        )
    if report.incident_count > len(items):
        items.append(
            '<li class="bad"><span class="sign" aria-hidden="true">■</span>'
            f"<p>{report.incident_count - len(items):,} more incidents.</p></li>"
        )
    signs = {"bad": ("▲", "bad"), "odd": ("▲", "odd"), "told": ("●", "worth knowing")}
    for remark in report.remarks:
        sign, word = signs[remark.severity]
        why = "; ".join(remark.evidence)
        items.append(
            f'<li class="{remark.severity}"><span class="sign" aria-hidden="true">{sign}</span><div>'
            f'<p><span class="hidden">{word}: </span>{esc(remark.summary)} '
            f"<code>{esc(remark.cause)}</code></p>"
            + (f'<p class="why">{esc(why)}</p>' if why else "")
            + "</div></li>"
        )
    if not items:
        looked = (
            "steps, learning rate, loss, throughput and checkpoints" if report.history.rows else "incidents"
        )
        items.append(
            '<li class="good"><span class="sign" aria-hidden="true">✓</span>'
            f"<p>Nothing, as far as was recorded: {looked} were looked at.</p></li>"
        )
    yield from ('<ul class="remarks">', *items, "</ul>")


# ---- where the time went


def stage_colour(name: str | None, names: Sequence[str | None] = ()) -> str:
    """Always the same for a known stage."""
    if name is None:
        return "down"
    if name in STAGE_COLOURS:
        return STAGE_COLOURS[name]
    others = [each for each in names if each is not None and each not in STAGE_COLOURS]
    return _SPARE[others.index(name) % len(_SPARE)] if name in others else "grey"


def timeline(report: Report) -> Iterator[str]:
    """Stages over time as a strip, with incidents and checkpoints above it; and their sums as a table."""
    if not report.spans:
        return
    begin, whole = report.begin_seconds, max(report.end_seconds - report.begin_seconds, 1e-9)
    names = list(dict.fromkeys(each.stage for each in report.spans))

    def x(seconds: float) -> float:
        return round(100 * min(1.0, max(0.0, (seconds - begin) / whole)), 3)

    yield '<div class="strips"><svg class="strip" height="62" role="img" aria-label="Stages over time">'
    for span in _drawn(report.spans):
        wide = max(x(span.end_seconds) - x(span.begin_seconds), 0.12)
        took = duration(span.end_seconds - span.begin_seconds)
        title = f"{span.stage or _DOWN} · {took} from {clock(span.begin_seconds - begin)}"
        yield (
            f'<rect class="k-{stage_colour(span.stage, names)}" x="{x(span.begin_seconds)}%" y="18" '
            f'width="{wide:.3f}%" height="22"><title>{esc(title)}</title></rect>'
        )
    for seconds, step in report.checkpoints[-400:]:
        title = f"checkpoint{f' of step {step:,}' if step is not None else ''} at {clock(seconds - begin)}"
        yield f'<rect class="k-pink" x="{x(seconds)}%" y="11" width="2" height="5">'
        yield f"<title>{esc(title)}</title></rect>"
    for each in report.incidents:
        until = (
            each.begin_seconds + each.lasted_seconds
            if each.lasted_seconds is not None
            else report.end_seconds
        )
        wide = max(x(until) - x(each.begin_seconds), 0.25)
        title = f"incident {each.name} at {clock(each.begin_seconds - begin)}"
        yield (
            f'<rect class="k-red" x="{x(each.begin_seconds)}%" y="3" width="{wide:.3f}%" height="6">'
            f"<title>{esc(title)}</title></rect>"
        )
    for share in (0, 25, 50, 75, 100):
        anchor = {0: "start", 100: "end"}.get(share, "middle")
        yield (
            f'<line x1="{share}%" x2="{share}%" y1="40" y2="45"></line>'
            f'<text x="{share}%" y="58" text-anchor="{anchor}">{clock(whole * share / 100)}</text>'
        )
    yield "</svg></div>"
    yield from _stage_table(report.spans, names, whole)


def _drawn(spans: Sequence[Span]) -> list[Span]:
    """The longest, in order of time; the stage with most time first, so that short ones lie on top of it."""
    kept = sorted(spans, key=lambda each: each.begin_seconds - each.end_seconds)[:_SPANS]
    totals: dict[str | None, float] = {}
    for each in spans:
        totals[each.stage] = totals.get(each.stage, 0.0) + each.end_seconds - each.begin_seconds
    longest = max(totals, key=lambda name: totals[name])
    return sorted(kept, key=lambda each: (each.stage != longest, each.begin_seconds))


def _stage_table(spans: Sequence[Span], names: Sequence[str | None], whole: float) -> Iterator[str]:
    totals = {
        name: [each.end_seconds - each.begin_seconds for each in spans if each.stage == name]
        for name in names
    }
    ordered = sorted(totals.items(), key=lambda each: -sum(each[1]))[:24]
    rows = [
        (
            _swatch(stage_colour(name, names), name or _DOWN),
            _numbers(
                duration(sum(each)), f"{100 * sum(each) / whole:.1f} %", f"{len(each):,}", duration(max(each))
            ),
        )
        for name, each in ordered
    ]
    yield from table(
        "Stages of rank 0" + (f", the longest of {len(totals):,}" if len(totals) > len(ordered) else ""),
        ("stage", "n:time", "n:share", "n:times", "n:longest"),
        rows,
    )


def phase_table(report: Report) -> Iterator[str]:
    """A step's time by phase: a strip, and a table."""
    totals, names = report_charts.phase_totals(report), report_charts.phase_names(report)
    rows = sum(bucket.phase_rows for bucket in report.history.buckets)
    whole = sum(totals.values())
    if not names or not rows or whole <= 0:
        return
    yield '<div class="strips"><svg class="strip" height="22" role="img" aria-label="A step by phase">'
    at = 0.0
    for name in names:
        share = 100 * totals[name] / whole
        yield (
            f'<rect class="k-{report_charts.phase_colour(name, names)}" x="{at:.3f}%" y="0" '
            f'width="{share:.3f}%" height="22"><title>{esc(name)} · {share:.1f} %</title></rect>'
        )
        at += share
    yield "</svg></div>"
    yield from table(
        "Phases of rank 0, over all steps",
        ("phase", "n:a step", "n:share", "n:in all"),
        [
            (
                _swatch(report_charts.phase_colour(name, names), name),
                _numbers(
                    short_seconds(totals[name] / rows),
                    f"{100 * totals[name] / whole:.1f} %",
                    duration(totals[name]),
                ),
            )
            for name in names
        ],
    )


# ---- ranks


def rank_table(report: Report) -> Iterator[str]:
    """The ranks side by side, the slowest step and the laggard in sight."""
    shown = report.ranks
    names = list(dict.fromkeys(name for each in shown for name in each.phase_seconds))
    longest = max((sum(each.phase_seconds.values()) for each in shown), default=0.0)
    columns = ["rank", "state", "stage", "n:step", "n:a step", "n:tokens/s", "n:loss", "n:last progress"]
    with_memory = any(each.peak_bytes is not None for each in shown)
    columns += ["n:GPU peak"] if with_memory else []
    columns += ["where a step's time goes"] if longest > 0 else []
    rows = []
    for each in shown:
        cells = [
            f"<td>{esc(each.state)}</td><td>{esc(each.stage)}</td>",
            _number_cell(numbered(each.step) if each.step is not None else None),
            _number_cell(short_seconds(each.step_seconds) if each.step_seconds is not None else None),
            _number_cell(count(each.tokens_per_second) if each.tokens_per_second is not None else None),
            _number_cell(_loss(each.loss) if each.loss is not None else None),
            _number_cell(_when(each, report)),
        ]
        if with_memory:
            cells.append(_number_cell(size(each.peak_bytes) if each.peak_bytes is not None else None))
        if longest > 0:
            cells.append(f"<td>{_rank_phases(each, names, longest)}</td>")
        late = ' class="late"' if each.behind else ""
        behind = ' <span class="hidden">behind</span>' if each.behind else ""
        rows.append((f'<th scope="row">{each.rank}{behind}</th>', "".join(cells), late))
    caption = "From each rank's own record; a step is the median of its last ones"
    if report.rank_count > len(shown):
        caption += f". {len(shown)} of {report.rank_count:,}: those furthest behind, and the first"
    yield from table(caption, columns, rows)
    if longest > 0:
        keys = "".join(
            f'<span><i class="k-{report_charts.phase_colour(name, names)}"></i>{esc(name)}</span>'
            for name in names[:12]
        )
        yield f'<div class="key note">{keys}</div>'


def _when(rank: RankFacts, report: Report) -> str:
    ago = max(0.0, report.taken_seconds - rank.last_progress_seconds)
    if rank.state == "running":
        return f"{duration(ago)} ago"
    return f"at {clock(max(0.0, rank.last_progress_seconds - report.begin_seconds))}"


def _rank_phases(rank: RankFacts, names: Sequence[str], longest: float) -> str:
    parts, at = [], 0.0
    for name in names[:12]:
        seconds = rank.phase_seconds.get(name, 0.0)
        share = 100 * seconds / longest
        if share > 0:
            colour = report_charts.phase_colour(name, names)
            parts.append(
                f'<rect class="k-{colour}" x="{at:.2f}%" width="{share:.2f}%" height="12">'
                f"<title>{esc(name)} {short_seconds(seconds)}</title></rect>"
            )
        at += share
    said = ", ".join(f"{name} {short_seconds(rank.phase_seconds.get(name, 0.0))}" for name in names[:12])
    return f'<svg class="mini" role="img" aria-label="{esc(said)}">{"".join(parts)}</svg>'


# ---- incidents


def incident_id(incident: IncidentFacts) -> str:
    """Its anchor on the page."""
    return (
        "incident-"
        + "".join(each if each.isalnum() and each.isascii() else "-" for each in incident.name)[:60]
    )


def incident(found: IncidentFacts, report: Report) -> Iterator[str]:
    """One incident: what stood still, since when, why, and the evidence."""
    verdict = found.verdict
    state = _STATES.get(verdict.state, "told") if verdict is not None else "told"
    pill = f'<span class="pill {state}">{esc(verdict.heading)}</span>' if verdict is not None else ""
    cause = f"<code>{esc(verdict.cause)}</code>" if verdict is not None else ""
    yield f'<article class="card incident" id="{incident_id(found)}">'
    yield f"<h3>Incident {esc(found.name)} {pill} {cause}</h3>"
    lasted = duration(found.lasted_seconds) if found.lasted_seconds is not None else "still open"
    parts = [
        f"in {found.where}",
        f"step {found.step:,}" if found.step is not None else "",
        f"rank {', '.join(map(str, found.ranks[:8]))}{' …' if len(found.ranks) > 8 else ''}"
        if found.ranks
        else "",
        f"{clock(max(0.0, found.begin_seconds - report.begin_seconds))} into the run",
        f"stood still: {lasted}",
        f"ended: {found.ending}" if found.ending else "",
        f"limit {duration(found.limit_seconds)} ({found.why})",
    ]
    yield f'<p class="sub">{esc(" · ".join(each for each in parts if each))}</p>'
    if verdict is None:
        yield f"<p>{esc(found.headline)}</p>" if found.headline else ""
        yield f'<p class="note">No verdict: {esc(found.problem or "nothing was kept")}</p>'
    else:
        yield from _verdict(verdict)
    yield "</article>"


def _verdict(verdict: Verdict) -> Iterator[str]:
    yield f'<p class="say">{esc(verdict.summary, _LINE)}</p>'
    if verdict.where is not None:
        yield f"<p>Look at <code>{esc(verdict.where, _LINE)}</code></p>"
        if verdict.source:
            # No line ends between the lines: the marked one is a block of its own.
            parts = []
            for number, text in verdict.source:
                line = html.escape(f"{number:>5}  {harmless(text[:_WORD])}")
                parts.append(f'<span class="at">{line}</span>' if number == verdict.line else f"{line}\n")
            yield f"<pre>{''.join(parts)}</pre>"
    yield '<dl class="pairs">'
    yield from _pair("wait chain", verdict.chain, "ol", ' class="chain"')
    yield from _pair("because", verdict.because)
    yield from _pair("next", verdict.next_steps)
    yield from _pair("perhaps", verdict.others)
    yield from _pair("also", verdict.notes)
    yield from _pair("unchecked", verdict.not_checked)
    yield "</dl>"
    if verdict.stacks:
        more = f"\n… and {verdict.stacks_left_out:,} lines more" if verdict.stacks_left_out else ""
        text = "\n".join(html.escape(harmless(line[:_LINE])) for line in verdict.stacks)
        yield "<details><summary>Stacks of all processes, merged</summary>"
        yield f'<pre tabindex="0">{text}{more}</pre></details>'


def _pair(label: str, items: Sequence[str], kind: str = "ul", more: str = "") -> Iterator[str]:
    if items:
        inner = "".join(f"<li>{esc(each, _LINE)}</li>" for each in items[:20])
        if len(items) == 1:
            inner = esc(items[0], _LINE)
            yield f"<dt>{label}</dt><dd>{inner}</dd>"
        else:
            yield f"<dt>{label}</dt><dd><{kind}{more}>{inner}</{kind}></dd>"


# ---- attempts, facts, files


def attempt_table(report: Report) -> Iterator[str]:
    """Every start of the command, and what was done twice."""
    rows = []
    for each in report.attempts[-200:]:
        took = (each.end_seconds or report.taken_seconds) - each.begin_seconds
        steps = f"{each.steps[0]:,} to {each.steps[1]:,}" if each.steps else None
        done_again = numbered(each.repeated) if each.repeated else None
        cells = (
            f"<td>{moment(each.begin_seconds)}</td>",
            _numbers(duration(max(0.0, took))),
            f"<td>{esc(each.ending)}</td>",
            _numbers(steps, done_again),
        )
        rows.append((f'<th scope="row">{each.attempt}</th>', "".join(cells)))
    caption = "Starts of the command. Steps that an earlier attempt had done already are drawn faintly"
    if len(report.attempts) > 200:
        caption += f". The last 200 of {len(report.attempts):,}"
    yield from table(
        caption, ("attempt", "began", "n:took", "ended", "n:steps recorded", "n:done again"), rows
    )


def facts_table(report: Report) -> Iterator[str]:
    """Command, commit, versions, environment."""
    rows = [
        (f'<th scope="row">{esc(name)}</th>', f"<td>{esc(value, _LINE)}</td>") for name, value in report.facts
    ]
    yield '<div class="scroll" tabindex="0" role="region" aria-label="How it was run"><table class="facts">'
    yield "<caption>What ran. Secrets are struck out</caption><tbody>"
    yield from (f"<tr>{name}{value}</tr>" for name, value in rows)
    yield "</tbody></table></div>"


def extremes_table(report: Report) -> Iterator[str]:
    """Every recorded column in numbers."""
    rows = []
    for name, title in report_charts.TITLES.items():
        found = report.history.extremes.get(name)
        if found is None:
            continue
        say = report_charts.value_words(name)
        cells = [
            _number_cell(f"{say(each[1])} <small>step {each[0]:,}</small>" if each is not None else None)
            for each in (found.first, found.last, found.low, found.high)
        ]
        rows.append(
            (
                f'<th scope="row">{title}</th>',
                "".join(cells) + _number_cell(numbered(found.nonfinite) if found.nonfinite else None),
            )
        )
    if rows:
        yield from table(
            "Every recorded step counts here, also where a curve shows means",
            ("", "n:first", "n:last", "n:lowest", "n:highest", "n:NaN or infinite"),
            rows,
        )


def table(caption: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A table that scrolls sideways where it has to: `n:` marks a column of numbers.

    A row is its head, its cells and, if need be, its attributes.
    """
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}">'
    yield f"<table><caption>{esc(caption)}</caption><thead><tr>"
    for each in columns:
        kind, _, name = each.rpartition(":")
        yield f'<th scope="col"{" class=n" if kind == "n" else ""}>{esc(name)}</th>'
    yield "</tr></thead><tbody>"
    for row in rows:
        attributes = row[2] if len(row) > 2 else ""
        yield f"<tr{attributes}>{row[0]}{row[1]}</tr>"
    yield "</tbody></table></div>"


def _number_cell(text: str | None) -> str:
    """A number, or a dash that is read as none."""
    return f'<td class="n">{_NONE if text is None else text}</td>'


def _numbers(*texts: str | None) -> str:
    return "".join(map(_number_cell, texts))


def _swatch(colour: str, name: str) -> str:
    return f'<th scope="row"><span class="swatch k-{colour}"></span>{esc(name)}</th>'


def _loss(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "NaN" if math.isnan(value) else "infinite"
