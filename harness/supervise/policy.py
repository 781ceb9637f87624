"""What to do about a stall or an ended command: report, terminate, restart. Pure decisions.

`report` (the default) never touches the command. `terminate` ends its whole tree once evidence is on disk.
`restart` does so too, then starts it again in the same run directory; deaths that a restart may mend (a
signal, an exit status of failure) are restarted as well, those that it cannot mend are not:

- the command ended well, or was asked to stop (by Ctrl-C or SIGTERM, to us or to it), or says 75: stopped on
  request, state saved;
- exit 2, 126, 127: its usage is wrong, or it cannot be executed;
- `STUCK_ATTEMPTS` attempts in a row did not get past the same step: a restart does not help;
- `--max-restarts` is used up.

Not here: how a tree is ended (`tree`), how long the loop waits (it is told), and what a stall is (`detect`).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

OnStall = Literal["report", "terminate", "restart"]
ON_STALL: tuple[OnStall, ...] = get_args(OnStall)
DEFAULT_MAX_RESTARTS = 3
STUCK_ATTEMPTS = 3
STALLED_EXIT_STATUS = 124
BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 60.0
# SIGTERM, then this long for a trainer to save its state, then SIGKILL.
TERM_GRACE_SECONDS = 15.0

_NOT_MENDED = {
    2: "its usage or its configuration is wrong",
    75: "it stopped on request, its state saved",
    126: "it cannot be executed",
    127: "it was not found",
}
_ASKED_TO_STOP = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one attempt ended. `exit_status` is 128 + N by signal N; `last_step` the last that was reported."""

    exit_status: int
    killed_by: int | None = None  # the signal's number
    stalled: bool = False  # we ended it, because of a stall
    asked_to_stop: bool = False  # a signal to stop came through us
    last_step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user chose."""

    on_stall: OnStall = "report"
    max_restarts: int = DEFAULT_MAX_RESTARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """Leave the command alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndTree:
    """SIGTERM to the whole tree, then SIGKILL."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start the command again after a pause."""

    after_seconds: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The run is over; `why` is a line for the terminal where the user might have expected a restart."""

    exit_status: int
    why: str | None = None


AfterStall: TypeAlias = GoOn | EndTree
AfterEnding: TypeAlias = Restart | End


def after_stall(settings: Settings) -> AfterStall:
    """What to do once an incident is open and its evidence taken."""
    if settings.on_stall == "report":
        return GoOn()
    return EndTree(why=f"stalled, and --on-stall is {settings.on_stall}")


def after_ending(settings: Settings, endings: Sequence[Ending]) -> AfterEnding:
    """What to do once an attempt ended; `endings` are those of this supervisor, the newest last."""
    last = endings[-1]
    status = STALLED_EXIT_STATUS if last.stalled else last.exit_status
    if settings.on_stall != "restart" or (status == 0 and not last.stalled):
        return End(exit_status=status)
    if last.asked_to_stop:
        return End(exit_status=last.exit_status)
    if not last.stalled:
        if last.killed_by in _ASKED_TO_STOP:
            name = signal.Signals(last.killed_by).name
            return End(exit_status=status, why=f"not restarted: somebody asked it to stop ({name})")
        if last.exit_status in _NOT_MENDED:
            reason = _NOT_MENDED[last.exit_status]
            return End(exit_status=status, why=f"not restarted: exit {last.exit_status} means that {reason}")
    restarts = len(endings) - 1
    if restarts >= settings.max_restarts:
        return End(exit_status=status, why=f"not restarted: --max-restarts {settings.max_restarts} used up")
    stuck, step = _stuck(endings)
    if stuck >= STUCK_ATTEMPTS:
        return End(
            exit_status=status, why=f"not restarted: {stuck} attempts in a row did not get past {_at(step)}"
        )
    pause = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** (stuck - 1))
    return Restart(
        after_seconds=pause, why=f"restart {restarts + 1} of {settings.max_restarts}, in {pause:g} s"
    )


def secret_lost(last: Ending) -> End:
    """Instead of a restart, where the command that was taken up held a secret, which was not kept."""
    return End(
        exit_status=STALLED_EXIT_STATUS if last.stalled else last.exit_status,
        why="not restarted: its command held a secret, which was not kept; give the command again",
    )


def _stuck(endings: Sequence[Ending]) -> tuple[int, int | None]:
    """The furthest step reached, and how many attempts ended there or before it since, the first included."""
    furthest, count = endings[0].last_step, 0
    for ending in endings:
        gained = ending.last_step is not None and (furthest is None or ending.last_step > furthest)
        furthest, count = (ending.last_step, 1) if gained else (furthest, count + 1)
    return count, furthest


def _at(step: int | None) -> str:
    return "their start" if step is None else f"step {step}"
