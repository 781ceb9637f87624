"""When is silence too long? A limit per rank and stage, learned from the run itself.

Pure: no clock, no files, no processes; `now` is handed in. What a stall *is* (which thread waits for what)
is not decided here: a Suspicion only says "no progress for T seconds, and T is over this stage's limit".

How a limit is learned. A *gap* is the time between two movements of progress (steps, phases, what
`emit.progress` counts) in one place (a stage, or, in `train`, the phases `checkpoint` and `eval`, which are
stages to us). Over the last `WINDOW` gaps of the place:

    limit = max(floor, MEDIAN_FACTOR x median, SPREAD_FACTOR x second largest, STEP_FACTOR x median step)

The second largest, not the largest: what happened once (a compile, a stall that resolved itself) teaches
nothing, what happened twice is this run's habit (an evaluation inside every 50th step). Hence the *learned
spread*: any gap up to `SPREAD_FACTOR` times the second largest of the last `WINDOW` gaps. No gap within it
raises a suspicion. The first step (compile, warm-up, cold caches) and stages seen too seldom have generous
fixed limits; so have loops of fewer than `MIN_GAPS` steps.

Time in which we did not look (Ctrl-Z on the whole run, a supervisor starved of CPU) is not the trainer's
idleness: of the time between two observations at most `MAX_TICK_SECONDS` count. A suspended machine needs
nothing: CLOCK_MONOTONIC stands still.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.limits import LOG_MIN_GAPS, MIN_GAPS, RULES, UNKNOWN_STAGE, Limit, Overrides, words

if TYPE_CHECKING:
    from harness.watch.progress import Progress

__all__ = ["Detector", "Limit", "Overrides", "Suspicion"]

WINDOW = 256
MEDIAN_FACTOR = 10.0
SPREAD_FACTOR = 3.0
# A long step of many short phases: one of them may take a while longer than the others ever did.
STEP_FACTOR = 2.0
MAX_TICK_SECONDS = 2.0
# Between the first step and MIN_GAPS: recompilations and cold caches are still likely.
YOUNG_FLOOR_SECONDS = 60.0
# A silent log is suspicious after its limit where the tree has been idle for as long, or for this long ...
IDLE_TREE_SECONDS = 120.0
# ... and where it is busy only much later: long computations print nothing.
BUSY_FLOOR_SECONDS = 600.0
BUSY_FACTOR = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """No progress for `idle_seconds`, which is over the limit of the place it is in."""

    rank: int | None
    stages: tuple[str, ...]
    stage: str
    phase: str | None
    step: int | None
    idle_seconds: float
    limit_seconds: float
    why: str
    since_wall_seconds: float
    summary: str

    @property
    def where(self) -> str:
        """The place as the terminal names it: `train/data`."""
        return "/".join((*self.stages, self.phase) if self.phase else self.stages) or self.stage


@dataclass(slots=True)
class _Habit:
    """The gaps of one place of one rank, newest last, bounded."""

    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    step_times: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    steps: int = 0
    _learned: tuple[float, float, float] | None = None

    def learn(self, gap: float, steps: int, step_seconds: float | None) -> None:
        """Add a gap, in which `steps` were done: the mean of so many, since looks are coarser than steps."""
        self.gaps.extend([gap / max(1, steps)] * min(max(1, steps), WINDOW))
        self._learned = None
        if steps:
            self.steps += steps
            self.step_times.append(gap / steps if step_seconds is None else step_seconds)

    def step_median(self) -> float:
        """What a step takes; 0 where none was seen."""
        return sorted(self.step_times)[len(self.step_times) // 2] if self.step_times else 0.0

    def figures(self) -> tuple[float, float, float]:
        """Median, second largest and largest gap."""
        if self._learned is None:
            ordered = sorted(self.gaps)
            self._learned = (
                ordered[len(ordered) // 2],
                ordered[-2] if len(ordered) > 1 else ordered[-1],
                ordered[-1],
            )
        return self._learned


@dataclass(slots=True)
class _Track:
    """What is known of one rank."""

    incarnation: tuple[int, int]
    progress: Progress
    place: str
    seen_at: float
    since: float  # when the present silence began
    habits: dict[str, _Habit] = field(default_factory=dict)
    blind_seconds: float = 0.0  # within the present silence: time in which nobody looked
    alarmed: bool = False
    excused_seconds: float = 0.0  # of the present silence: looked into


class Detector:
    """Learns each rank's habits and says, once per stall, when one is broken."""

    def __init__(self, overrides: Overrides | None = None) -> None:
        self._overrides = overrides or Overrides()
        # Below this nothing is ever suspected: keeps the common case (a rank that moves) cheap.
        self._never_below = min([RULES["train"].floor_seconds, *self._overrides.values()])
        self._tracks: dict[int | None, _Track] = {}

    def observe(self, progress: Progress, now: float) -> Suspicion | None:
        """Take note of where a rank stands; a Suspicion when its silence just went over the limit."""
        place = _place(progress)
        track = self._tracks.get(progress.rank)
        if track is None or track.incarnation != progress.incarnation:
            moved_at = progress.moved_at_monotonic_seconds
            track = _Track(progress.incarnation, progress, place, seen_at=now, since=moved_at)
            self._tracks[progress.rank] = track
        else:
            self._follow(track, progress, place, now)
        if track.alarmed:
            return None
        idle = self._idle(track, now)
        if idle < self._never_below:
            return None
        suspicion = self._judge(track, idle)
        track.alarmed = suspicion is not None
        return suspicion

    def excuse(self, rank: int | None) -> None:
        """The present silence was looked into and is no stall: suspicious again when it is twice as long."""
        track = self._tracks.get(rank)
        if track is not None and track.alarmed:
            track.alarmed = False
            track.excused_seconds = self._idle(track, track.seen_at)

    def forget(self, rank: int | None) -> None:
        """Drop a rank that ended, or the whole command's track once heartbeats tell more."""
        self._tracks.pop(rank, None)

    def limit(self, rank: int | None = None) -> Limit | None:
        """The limit in force for a rank where it stands now; None for a rank never observed."""
        track = self._tracks.get(rank)
        if track is None:
            return None
        limit = self._limit(track)
        if not track.excused_seconds:
            return limit
        seconds = _after_excuse(track.excused_seconds, limit.seconds)
        return Limit(seconds=seconds, why=f"{limit.why}; looked into and no stall")

    def idle_seconds(self, rank: int | None, now: float) -> float | None:
        """For how long a rank has been silent while we looked."""
        track = self._tracks.get(rank)
        return self._idle(track, now) if track else None

    @staticmethod
    def _idle(track: _Track, now: float) -> float:
        return max(0.0, now - track.since - track.blind_seconds)

    @staticmethod
    def _follow(track: _Track, progress: Progress, place: str, now: float) -> None:
        before = track.progress
        unseen = max(0.0, now - track.seen_at - MAX_TICK_SECONDS)
        moved = progress.moved_at_monotonic_seconds > before.moved_at_monotonic_seconds
        if moved or progress.count != before.count or place != track.place:
            # Entering a phase need not move the record's clock; the silence begins anew all the same.
            began = progress.moved_at_monotonic_seconds if moved else now
            # Of the unseen time, the part after the movement belongs to the silence that begins now.
            after = min(unseen, max(0.0, now - began))
            gap = began - track.since - track.blind_seconds - (unseen - after)
            # What passed until now passed where it stood before. The first step teaches nothing.
            if gap > 0 and track.place != "first_step":
                steps = max(0, progress.steps - before.steps)
                track.habits.setdefault(track.place, _Habit()).learn(gap, steps, progress.step_seconds)
            track.since, track.blind_seconds = began, after
            track.alarmed, track.excused_seconds = False, 0.0
        else:
            track.blind_seconds += unseen
        track.progress, track.place, track.seen_at = progress, place, now

    def _limit(self, track: _Track) -> Limit:
        by_hand = self._overrides.limit(track.place)
        if by_hand is not None:
            return by_hand
        rule = RULES.get(track.place, UNKNOWN_STAGE)
        habit = track.habits.get(track.place)
        if habit is None:
            return Limit(seconds=rule.first_seconds, why=f"usual for {words(track.place)}")
        if habit.steps >= MIN_GAPS:
            rule = RULES["train"]  # a loop of steps under another name, or under none
        median, second, largest = habit.figures()
        if track.place == "train" and habit.steps < MIN_GAPS:
            seconds = max(YOUNG_FLOOR_SECONDS, MEDIAN_FACTOR * largest)
            return Limit(seconds=seconds, why=f"after only {_steps(habit.steps)}")
        if len(habit.gaps) < rule.min_gaps:
            seconds = max(rule.first_seconds, SPREAD_FACTOR * second)
            return Limit(seconds=seconds, why=f"usual for {words(track.place)}")
        usual = max(rule.floor_seconds, MEDIAN_FACTOR * median, STEP_FACTOR * habit.step_median())
        seconds = max(usual, SPREAD_FACTOR * second)
        # A rare long gap, where it set the limit, is what readers would wonder about.
        rare = f", up to {_seconds(second)}" if seconds > usual else ""
        return Limit(seconds=seconds, why=_learned_from(track.place, habit, median) + rare)

    def _judge(self, track: _Track, idle: float) -> Suspicion | None:
        limit = self._limit(track)
        progress = track.progress
        now = track.seen_at
        summary = f"no progress for {idle:.1f} s"
        if progress.source != "heartbeat":
            idle_since = progress.idle_since_monotonic_seconds
            # Unseen time is nobody's idleness here either.
            tree_idle = min(idle, now - idle_since) if idle_since is not None else 0.0
            if tree_idle >= min(IDLE_TREE_SECONDS, limit.seconds):
                silent = "" if progress.source == "activity" else f"no log line for {idle:.0f} s, "
                summary = f"{silent}no CPU used for {tree_idle:.0f} s"
            else:
                limit = self._busy_limit(track, limit)
                summary = f"no log line for {idle:.0f} s, though it uses CPU"
        if idle < _after_excuse(track.excused_seconds, limit.seconds):
            return None
        return Suspicion(
            rank=progress.rank,
            stages=progress.stages,
            stage=track.place if track.place != "first_step" else "train",
            phase=progress.phase,
            step=progress.step,
            idle_seconds=idle,
            limit_seconds=limit.seconds,
            why=limit.why,
            since_wall_seconds=progress.moved_at_wall_seconds,
            summary=summary,
        )

    def _busy_limit(self, track: _Track, idle_limit: Limit) -> Limit:
        """A log that fell silent while CPU is used: a spin, or a long computation. Far more patience.

        Without a rhythm there is nothing to tell the two apart by, and no suspicion.
        """
        by_hand = self._overrides.limit("busy")
        if by_hand is not None:
            return by_hand
        habit = track.habits.get("log")
        if track.place != "log" or habit is None or len(habit.gaps) < LOG_MIN_GAPS:
            return Limit(seconds=math.inf, why="it uses CPU, and its log has no rhythm to judge by")
        return Limit(seconds=max(BUSY_FLOOR_SECONDS, BUSY_FACTOR * idle_limit.seconds), why=idle_limit.why)


def _after_excuse(excused_seconds: float, limit_seconds: float) -> float:
    """When to look again: looking pauses a long computation for an instant, so each time half as often."""
    return max(excused_seconds + limit_seconds, 2 * excused_seconds)


def _place(progress: Progress) -> str:
    """Where progress stands, as far as limits go."""
    if progress.source != "heartbeat":
        return progress.source
    if progress.closed:
        return "finish"  # it said goodbye, and yet it runs: threads and atexit hooks get a while
    if progress.stage != "train":
        return progress.stage
    if progress.phase in {"checkpoint", "eval"}:
        return progress.phase
    return "train" if progress.steps > 0 else "first_step"


def _learned_from(place: str, habit: _Habit, median: float) -> str:
    if habit.steps >= MIN_GAPS:
        return f"from {_steps(min(habit.steps, WINDOW))} of {_seconds(habit.step_median())}"
    if place == "log":
        return f"from {len(habit.gaps)} log intervals of {_seconds(median)}"
    return f"from {len(habit.gaps)} intervals of {_seconds(median)} in {place}"


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
