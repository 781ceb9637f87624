"""What a terminal shows of a plan that runs: a live table; in a pipe, a plain line for each stage.

The words of the end are `summary_lines`, the same in both. A terminal or pipe that is gone is given up, the
stages go on. Not here: any judging.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.render.text import clock, duration, single_line, size
from harness.smoke.observe import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

    from harness.smoke.outcome import Outcome, Report, State
    from harness.smoke.plan import Plan, Stage
    from harness.smoke.runner import Show

_REFRESH_SECONDS = 0.5
_PLAIN_SECONDS = 15.0
_NARROW = 60
_LEAST_WIDTH = 30
_LEAST_NAME = 16
_MARKS = {
    "passed": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "yellow"),
    "interrupted": ("✗", "yellow"),
    "not run": ("-", "dim"),
    "running": ("▸", "bold"),
    "waiting": ("·", "dim"),
}


# For streams that know no more.
_IN_ASCII = str.maketrans(
    {"·": "-", "→": "->", "…": "...", "“": '"', "”": '"', "‘": "'", "’": "'"}  # noqa: RUF001 -- on purpose
)


def show_for(stream: TextIO) -> Show:
    """A live table on a terminal that can draw one, plain lines elsewhere."""
    drawn = stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")
    return LiveTable() if drawn and stream.encoding.lower().startswith("utf") else PlainLines()


class PlainLines:
    """A line for each stage that ended, and one now and then for a long one."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._width = 0

    def begin(self, plan: Plan, stages: Sequence[Stage], folder: Path) -> None:
        """What is to come."""
        self._width = max(len(stage.name) for stage in stages)
        self._say(f"{headline(plan, stages)} · {folder}")

    def started(self, stage: Stage) -> None:  # noqa: ARG002 -- the end is told
        """A stage begins."""
        self._next_at = time.monotonic() + _PLAIN_SECONDS

    def moment(self, stage: Stage, moment: Moment, seconds: float) -> None:
        """A long one tells of itself."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _PLAIN_SECONDS
        at = f" · {moment.at}" if moment.at else ""
        self._say(
            f"  …      {stage.name:<{self._width}}  {clock(seconds)} of {clock(stage.budget_seconds)}{at}"
        )

    def resting(self) -> None:
        """Nothing to clear away."""

    def rested(self) -> None:
        """Nothing to draw."""

    def ended(self, outcome: Outcome) -> None:
        """Its line."""
        word = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}.get(outcome.state, outcome.state)
        parts = [f"{word:<7}  {outcome.name:<{self._width}}"]
        if outcome.seconds is not None:
            memory = f", {size(outcome.resident_peak_bytes)}" if outcome.resident_peak_bytes else ""
            parts.append(f"{duration(outcome.seconds)} of {clock(outcome.budget_seconds)}{memory}")
        if outcome.reason:
            parts.append(single_line(outcome.reason))
        self._say("  ".join(parts))

    def finished(self, report: Report) -> None:
        """The summary."""
        for line in summary_lines(report):
            self._say(line)

    def _say(self, line: str) -> None:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except UnicodeEncodeError:
            with contextlib.suppress(OSError):
                sys.stdout.write(line.translate(_IN_ASCII).encode("ascii", "replace").decode() + "\n")
                sys.stdout.flush()
        except OSError:
            _silence()


class LiveTable:
    """A table that is drawn anew some times a second, and stays when all is over."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._plan: Plan | None = None
        self._stages: Sequence[Stage] = ()
        self._outcomes: dict[str, Outcome] = {}
        self._running: tuple[Stage, Moment, float] | None = None
        self._drawn_at = 0.0
        self._gone = False

    def begin(self, plan: Plan, stages: Sequence[Stage], folder: Path) -> None:
        """The empty table."""
        self._plan, self._stages = plan, stages
        with self._guarded():
            self._console.print(
                Text(f"{headline(plan, stages)} · {folder}"), overflow="fold", highlight=False
            )
        self._show()

    def _show(self) -> None:
        with self._guarded():
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
            )
            self._live.start()
        self._draw()

    def resting(self) -> None:
        """The shell has the terminal, its cursor among it."""
        with self._guarded():
            if self._live is not None:
                self._live.stop()

    def rested(self) -> None:
        """A table anew, where the shell has left the cursor."""
        if self._live is not None:
            self._show()

    def started(self, stage: Stage) -> None:
        """A stage begins."""
        self._running = (stage, Moment(), 0.0)
        self._draw()

    def moment(self, stage: Stage, moment: Moment, seconds: float) -> None:
        """It runs."""
        self._running = (stage, moment, seconds)
        if time.monotonic() - self._drawn_at >= _REFRESH_SECONDS:
            self._draw()

    def ended(self, outcome: Outcome) -> None:
        """It ended."""
        self._running = None
        self._outcomes[outcome.name] = outcome
        self._draw()

    def finished(self, report: Report) -> None:
        """The table as it ended, and the summary."""
        with self._guarded():
            if self._live is not None:
                self._live.stop()
            self._console.print(self._table(whole=True))
            self._console.print()
            style = "bold green" if report.passed else "bold red"
            self._console.print(Text(verdict_line(report), style=style))
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            for label, text in failure_rows(report):
                grid.add_row(Text(f"  {label}", style="dim"), Text(text))
            if grid.row_count:
                self._console.print(grid)

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        with self._guarded():
            if self._live is not None:
                self._live.update(self._table(), refresh=True)

    def _guarded(self) -> contextlib.AbstractContextManager[None]:
        return _giving_up(self)

    def give_up(self) -> None:
        """The terminal is gone."""
        self._gone = True
        self._live = None
        _silence()

    @property
    def gone(self) -> bool:
        """Whether nobody looks any more."""
        return self._gone

    def _table(self, *, whole: bool = False) -> Table:
        width = self._console.width
        # Room for the "^C" that the terminal writes behind it: a line more would be left standing.
        room = max(_LEAST_WIDTH, width - len("^C") - 1)
        table = Table(box=None, padding=(0, 1, 0, 0), width=room, header_style="dim", pad_edge=False)
        table.add_column("", width=1, min_width=1, no_wrap=True)
        longest = max(_LEAST_NAME, room // 3)
        overflow: Literal["fold", "ellipsis"] = "fold" if whole else "ellipsis"
        table.add_column("stage", no_wrap=not whole, max_width=longest, overflow=overflow)
        table.add_column("time", justify="right", min_width=len("59.9 s"), no_wrap=True)
        if width >= _NARROW:
            table.add_column("budget", justify="right", no_wrap=True)
            table.add_column("memory", justify="right", no_wrap=True)
        table.add_column("", ratio=1, no_wrap=not whole, overflow=overflow)
        for stage in self._visible(whole=whole):
            cells = self._cells(stage)
            table.add_row(*(cells if width >= _NARROW else [*cells[:3], cells[5]]))
        return table

    def _visible(self, *, whole: bool) -> Sequence[Stage]:
        """All of them; on a low terminal those around the one that runs."""
        room = max(3, self._console.height - 3)
        if whole or len(self._stages) <= room:
            return self._stages
        done = len(self._outcomes)
        first = min(max(0, done - room + 2), len(self._stages) - room)
        return self._stages[first : first + room]

    def _cells(self, stage: Stage) -> list[Text]:
        outcome = self._outcomes.get(stage.name)
        budget = Text(clock(stage.budget_seconds), style="dim")
        if outcome is not None:
            seconds = "" if outcome.seconds is None else duration(outcome.seconds)
            memory = size(outcome.resident_peak_bytes) if outcome.resident_peak_bytes else ""
            said = _summary(stage)
            if outcome.reason:
                said = Text(single_line(outcome.reason), style=_MARKS[outcome.state][1])
            return self._row(outcome.state, stage, seconds, budget, memory, said)
        if self._running is not None and self._running[0].name == stage.name:
            _, moment, passed = self._running
            memory = size(moment.resident_bytes) if moment.resident_bytes else ""
            at = Text(moment.at or stage.summary)
            return self._row("running", stage, clock(passed), budget, memory, at)
        return self._row("waiting", stage, "", budget, "", _summary(stage))

    def _row(
        self, state: str, stage: Stage, seconds: str, budget: Text, memory: str, said: Text
    ) -> list[Text]:
        mark, style = _MARKS[state]
        named = Text(stage.name, style=style if state in ("failed", "running") else "")
        return [
            Text(mark, style=style),
            named,
            Text(seconds),
            budget,
            Text(memory),
            said,
        ]


def _summary(stage: Stage) -> Text:
    """Cut where there is no room: a reason takes lines, this none."""
    return Text(stage.summary, style="dim", no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def _giving_up(table: LiveTable) -> Iterator[None]:
    if table.gone:
        return
    try:
        yield
    except (OSError, ValueError):  # closed: EPIPE, EIO, "I/O operation on closed file"
        table.give_up()


def _silence() -> None:
    """Nobody reads what we say: say it to nobody, and end with our own status all the same."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def headline(plan: Plan, stages: Sequence[Stage]) -> str:
    """`smoke cpu · 12 stages, at most 6:10`."""
    budget = sum(stage.budget_seconds for stage in stages)
    count = f"{len(stages)} stage{'s' if len(stages) != 1 else ''}"
    left = f" of {len(plan.stages)}" if len(stages) != len(plan.stages) else ""
    return f"smoke {plan.name} · {count}{left}, at most {clock(budget)}"


def summary_lines(report: Report) -> list[str]:
    """How it ended; where it failed first, and what to do."""
    return ["", verdict_line(report), *(f"  {label:<7}{text}" for label, text in failure_rows(report))]


def verdict_line(report: Report) -> str:
    """`failed · 3 passed, 1 failed, 8 skipped in 0:07 · runs/smoke-…/report.json`."""
    counts = [f"{report.count('passed')} passed"]
    others: tuple[State, ...] = ("failed", "interrupted", "skipped", "not run")
    counts.extend(f"{report.count(state)} {state}" for state in others if report.count(state))
    word = "interrupted" if report.interrupted else "passed" if report.passed else "failed"
    return f"{word} · {', '.join(counts)} in {clock(report.seconds)} · {report.folder}/report.json"


def failure_rows(report: Report) -> list[tuple[str, str]]:
    """The first failure: why, what to do, where to look."""
    first = report.first_failure
    if first is None:
        return []
    rows = [("first", f"{first.name}: {single_line(first.reason)}")]
    if first.remedy:
        rows.append(("do", single_line(first.remedy)))
    if all(check.passed for check in first.checks if check.what == "exit"):
        # Of a command that died, the rest only follows.
        failed = [check.sentence for check in first.checks if not check.passed]
        rows.extend(("also", single_line(each)) for each in failed if each not in first.reason)
    if first.log:
        rows.append(("log", first.log))
    rows.append(("again", f"{report.again} --from {first.name}"))
    return rows
