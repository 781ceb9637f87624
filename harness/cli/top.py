"""`harness top`: a live view of a run in a terminal, from its directory alone.

Options, the terminal, and the JSON document; reading is `harness.top.gather`, drawing `harness.render.top`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import locale
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import options
from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.text import Text

    from harness.render.pieces import Line
    from harness.top.model import TopView

SCHEMA = "harness.top/1"
_LEAST_SECONDS = 0.1
_SHARE = 0.04  # of a core, at most: where a look costs much (a thousand ranks), the next one comes later

_EPILOG = """\
Nothing of the run has to be alive, and nothing is asked of it: a dead one is shown as it was left. Ctrl-C
leaves the view; the run goes on. Where standard output is no terminal, one view is printed, as with --once.

examples:
  harness top                     runs/latest
  harness top runs/2026-11-22T09-14-quickstart
  harness top 4711                the run that this process belongs to
  harness top --all               every run below runs/
  harness top --once --json       one view, for programs

exit status: 0; 2 where there is no run to show."""


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "top",
        usage="harness top [options] [RUN_DIR | PID]",
        description="A live view of a run: stage, step, curves, ranks, incidents and the end of its log.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target", nargs="?", metavar="RUN_DIR | PID", help="a run directory or a process (runs/latest)"
    )
    parser.add_argument("--all", action="store_true", help="every run of a folder, a line each")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="that folder, with --all (runs)"
    )
    parser.add_argument("--once", action="store_true", help="print one view and end")
    parser.add_argument("--json", action="store_true", help="one JSON document, and end")
    parser.add_argument(
        "--interval",
        type=options.seconds,
        default=0.5,
        metavar="SECONDS",
        help="between two looks (0.5); more where a look costs much",
    )


def run(args: argparse.Namespace) -> int:
    """Show it."""
    try:
        if args.all and args.target is not None:
            raise UsageError(
                f"{args.target}: with --all no run is named", remedy=f"A folder of runs: --runs {args.target}"
            )
        look, close = _all(args.runs) if args.all else _one(args.target)
    except HarnessError as error:
        if args.json:
            print(json.dumps({"schema": SCHEMA, "error": str(error)}))
        print(f"harness top: {error}", file=sys.stderr)
        return 2
    try:
        if args.json:
            print(json.dumps(_document(look(None, None)[1]), indent=1))
        elif args.once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb"):
            _print(look)
        else:
            _follow(look, max(_LEAST_SECONDS, args.interval))
    finally:
        close()
    return 0


def _one(named: str | None) -> tuple[Any, Callable[[], None]]:
    from harness.render import top
    from harness.top.gather import Source

    source = Source(_path(named))

    def look(width: int | None, height: int | None) -> tuple[list[Line], TopView]:
        view = source.poll()
        if width is None:
            return [], view
        return top.screen(view, width, height, plain_ascii=_plain_ascii()), view

    return look, source.close


def _all(folder: Path) -> tuple[Any, Callable[[], None]]:
    from harness.render.run_lines import run_lines
    from harness.top.gather import runs

    try:
        next(folder.iterdir(), None)
    except OSError as error:
        why = "no such folder of runs" if isinstance(error, FileNotFoundError) else error.strerror
        raise UsageError(f"{folder}: {why}", remedy="Name a folder of runs with --runs DIR") from None

    def look(width: int | None, height: int | None) -> tuple[list[Line], Any]:
        found = runs(folder)
        return [] if width is None else run_lines(found, width, height, plain_ascii=_plain_ascii()), found

    return look, lambda: None


def _path(named: str | None) -> Path:
    """The run directory that is meant."""
    if named is None:
        return options.LATEST_RUN
    if not named.isdecimal() or Path(named).is_dir():
        return Path(named)
    from harness.watch import foreign

    found = foreign.find(int(named)).run_dir
    if found is None:
        raise UsageError(
            f"process {named} belongs to no run of the harness",
            remedy=f"Why it does not move: harness diagnose {named}. To look after it: harness watch {named}",
        )
    return found


def _plain_ascii() -> bool:
    encoding = sys.stdout.encoding or locale.getpreferredencoding(False)
    try:
        "━╸·→←…▁█".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def _print(look: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    lines, _ = look(console.width if console.is_terminal else max(console.width, 100), None)
    for line in lines:
        console.print(_text(line), soft_wrap=True)


def _follow(look: Any, interval_seconds: float) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)

    def drawn() -> Group:
        lines, _ = look(console.width, console.height)
        return Group(*(_text(line) for line in lines))

    with (
        _stopped_gently() as stopped,
        Live(drawn(), console=console, screen=True, auto_refresh=False, redirect_stdout=False) as live,
    ):
        next_at, cost_seconds = time.monotonic(), 0.0
        while not stopped():
            next_at = max(next_at + interval_seconds, time.monotonic() + cost_seconds / _SHARE)
            time.sleep(max(0.0, next_at - time.monotonic()))
            if not stopped():
                began = time.process_time()
                live.update(drawn(), refresh=True)
                cost_seconds = time.process_time() - began


@contextlib.contextmanager
def _stopped_gently() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the view between two drawings, so that the terminal is left as it was."""
    heard: list[int] = []

    class _HeardError(Exception):
        pass

    def hear(number: int, _frame: object) -> None:
        heard.append(number)
        raise _HeardError

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.suppress(_HeardError):
            yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _text(line: Line) -> Text:
    from rich.text import Text

    styles = {"strong": "bold", "faint": "dim", "good": "green", "warn": "yellow", "bad": "bold red"}
    return Text.assemble(
        *((piece.text, styles.get(piece.tone, "")) for piece in line), no_wrap=True, overflow="crop"
    )


def _document(found: Any) -> dict[str, Any]:
    """Later versions may add keys, never change these."""
    if isinstance(found, tuple):
        return {"schema": SCHEMA, "runs": [_plain(dataclasses.asdict(each)) for each in found]}
    view: TopView = found
    past = view.history
    return {
        "schema": SCHEMA,
        "state": view.state,
        "summary": view.sentence,
        "run_dir": view.path,
        "name": view.name,
        "attempt": view.attempt,
        "steps": view.view.steps,
        "scheduled_learning_rate": _plain(view.scheduled_rate),
        "history": {
            "step": list(past.steps),
            "loss": _plain(past.loss),
            "learning_rate": _plain(past.learning_rate),
            "grad_norm": _plain(past.grad_norm),
            "tokens_per_second": _plain(past.tokens_per_second),
            "step_seconds": _plain(past.step_seconds),
        },
        "phase_seconds": _plain(dict(past.phase_seconds)),
        "ranks": [
            {
                "rank": each.rank,
                "alive": each.alive,
                "stage": each.heartbeat.stage,
                "phase": each.heartbeat.phase,
                "step": each.heartbeat.step,
                "last_progress_age_seconds": max(
                    0.0, view.view.taken_wall_seconds - each.heartbeat.last_progress_wall_seconds
                ),
                "resident_bytes": each.resident_bytes,
            }
            for each in view.view.ranks
        ],
        "gpus": [_plain(dataclasses.asdict(each)) for each in view.view.gpus],
        "incidents": [_plain(dataclasses.asdict(each)) for each in view.incidents],
        "incident_count": view.incident_count,
        "log": list(view.log),
        "notes": list(view.notes),
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN: those are words, as in metrics.jsonl."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
