"""Whose record it is, and in which stage this process stands: the half of the recorder that is seldom called.

Until the process trains (an optimizer exists, and a gradient is computed or a step taken) its base stage is
"command": whoever watches judges it by its log and activity, save within a stage that is known to end. A
failure of ours ends the recording with one line and goes back to that; it never reaches the trainer. A
trainer that calls `harness.emit` itself ends it too.

Only one thread is heard: the main one, or that in which the first gradient was computed. Not here: what
happens within a step (`recorder`).
"""

import sys
from _thread import get_ident
from time import monotonic

from harness import place, wire
from harness.auto.clockwork import NONE, StepClock
from harness.auto.steps import Row, Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, Concatenate, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
    S = TypeVar("S", bound="Stages")

TEXTS = (*(name.encode() for name in wire.PHASES), b"")  # the last one: between two phases


def guarded(
    method: "Callable[Concatenate[S, P], R]",
) -> "Callable[Concatenate[S, P], R | None]":
    """Nothing while the recorder is off; and a failure of ours stays ours."""

    def call(self: "S", /, *args: "P.args", **kwargs: "P.kwargs") -> "R | None":
        if not self.on:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 (never into the trainer)
            self.fail(error)
            return None

    return call


class Scope:
    """A stage that a call is in."""

    __slots__ = ("entered", "handle", "name")

    def __init__(self, name: str, handle: "Any", entered: float) -> None:
        self.name, self.handle, self.entered = name, handle, entered


class Stages:
    """One process: its record, its stages, and the rows that are written into it."""

    def __init__(self, emit: "ModuleType | Any") -> None:
        self._emit = emit
        self._mark: Callable[[bytes, float], None] = emit._mark  # noqa: SLF001 (made for this)
        self.on = True
        self._thread = get_ident()
        self._base = wire.COMMAND_STAGE
        self._scopes: list[Scope] = []
        self._clock = StepClock(monotonic())
        self._phase = NONE
        self._claimed = False
        self._asleep = False
        self._waiting = False
        self._in_backward = False
        self._stepping: int | None = None
        self._batches = False
        self._steps = Steps()
        self._rows = 0
        self._at_finish = False

    # ── whose record ───────────────────────────────────────────────────────────────────────────────────────

    @guarded
    def claim(self, *, rank: int | None = None, world_size: int | None = None) -> None:
        """Take the rank's record, or learn that another process has it; tell again where we stand."""
        provisional = self._base == wire.COMMAND_STAGE and rank is None
        before = self._emit._record  # noqa: SLF001
        self._claimed = self._emit._speak_for(  # noqa: SLF001 (made for this)
            self.hand_over, rank=rank, world_size=world_size, provisional=provisional
        )
        if self._claimed and self._emit._record is not before:  # noqa: SLF001
            self._rows = self._emit._record.rows  # noqa: SLF001
            scopes, self._scopes = self._scopes, []
            self._emit.stage(self._base)
            for scope in scopes:
                self._enter(scope.name)

    def sleep(self) -> None:
        """In a fork or a helper: nothing, until it joins a process group."""
        if self.on:
            self.on, self._asleep = False, True
            self._claimed = self._waiting = self._in_backward = self._batches = False
            self._base, self._stepping = wire.COMMAND_STAGE, None
            self._scopes, self._steps = [], Steps()

    def wake(self) -> None:
        """It joins a process group: it is a rank."""
        if self._asleep:
            self.on, self._asleep = True, False
            self._thread = get_ident()

    def hand_over(self) -> None:
        """The trainer speaks for itself from here on: as if it had begun the record."""
        if self.on:
            self.on = False
            self._steps.pending.clear()
            while self._scopes:
                self._scopes.pop().handle.__exit__(None, None, None)
            if self._base == wire.COMMAND_STAGE:
                self._emit.stage("boot")

    def fail(self, error: Exception) -> None:
        """The last word of ours."""
        if not self.on:
            return
        self.on = False
        try:
            while self._scopes:
                self._scopes.pop().handle.__exit__(None, None, None)
            if self._claimed:
                self._emit.stage(wire.COMMAND_STAGE)
            text = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
            sys.stderr.write(f"harness: instrumentation is off from here on, the run goes on ({text})\n")
        except Exception:  # noqa: BLE001, S110 (stderr may be anything)
            pass

    # ── stages ─────────────────────────────────────────────────────────────────────────────────────────────

    @guarded
    def enter(self, name: str) -> Scope | None:
        """Begin a call that is a stage; None where it is part of one of that name, or not our thread's."""
        if get_ident() != self._thread or any(each.name == name for each in self._scopes):
            return None
        return self._enter(name)

    def _enter(self, name: str) -> Scope:
        handle = self._emit.stage(name)
        handle.__enter__()
        scope = Scope(name, handle, monotonic())
        self._scopes.append(scope)
        return scope

    @guarded
    def leave(self, scope: Scope | None) -> None:
        """End it, and whatever is left open in it."""
        if scope is None or not any(each is scope for each in self._scopes):
            return
        while self._scopes:
            inner = self._scopes.pop()
            if inner is scope:
                break
        scope.handle.__exit__(None, None, None)
        if not self._scopes:
            self._clock.nested(scope.name, monotonic() - scope.entered)
            if self._phase != NONE and self._base != wire.COMMAND_STAGE:
                self._mark(TEXTS[self._phase], monotonic())

    def _set_base(self, name: str) -> None:
        while self._scopes:
            self._scopes.pop().handle.__exit__(None, None, None)
        self._base, self._phase = name, NONE
        self._emit.stage(name)

    def _begin_training(self) -> None:
        """From here on this process is judged by its record."""
        self._thread = get_ident()
        self._base = "train"
        if not self._claimed:
            self.claim()
        else:
            self._emit._speak_for(self.hand_over, provisional=False)  # noqa: SLF001
        self._set_base("train")
        self._clock.restart(monotonic())
        if not self._at_finish:
            self._at_finish = True
            threading: Any = sys.modules.get("threading")
            register = getattr(threading, "_register_atexit", None)  # before its threads are joined
            if register is not None:
                register(self.finish)

    @guarded
    def finish(self) -> None:
        """The interpreter is about to end."""
        if self._base == "train":
            self._flush(wait=False)
            self._set_base("finish")
        if place.is_worker():  # a rank that multiprocessing forked calls nothing more than this
            self.ended()

    def ended(self) -> None:
        """The interpreter is at its end; with which status it exits is not known here.

        Except for one that an exception ends: its record stays open, as a crash leaves it, and as `os._exit`
        and a signal do.
        """
        try:
            ours = self._claimed and self._emit._told is not None  # noqa: SLF001
            if ours and not hasattr(sys, "last_value"):
                self._emit.close(wire.ENDED)
        except Exception:  # noqa: BLE001 (never into the trainer)
            return

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────

    def _flush(self, *, wait: bool) -> bool:
        """Write the rows whose values are here, the oldest as it is where too many wait; whether any was."""
        written = False
        while row := self._steps.take(wait=wait):
            written = self._write(row)
        return written

    def _write(self, row: "Row") -> bool:
        """Write a row, if nobody but us wrote into the record, and nobody began another one beside us."""
        emit, reader = self._emit, self._steps.reader
        record, other = emit._record, sys.modules.get("harness.emit")  # noqa: SLF001
        ours = record is None or record.rows == self._rows
        if not ours or (other is not None and other is not emit and getattr(other, "enabled", False)):
            self.hand_over()
            return False
        self._rows += 1
        if record is not None:
            record.add_measured(row.phase_seconds)
        loss, norm = row.numbers()
        emit.step(
            row.number,
            loss=loss,
            lr=row.rates,
            grad_norm=norm,
            tokens=row.tokens,
            memory=reader.memory() if reader.on_device else None,
        )
        return True
