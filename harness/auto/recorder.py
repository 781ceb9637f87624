"""What the hooks see, made into stages, phases and steps: the one place that talks to `harness.emit`.

    enter, leave                     a call that is a stage of its own: import, dataset, eval, checkpoint …
    waits, waited                    the data loader
    backward_begins, backward_ends   and the scalar that it was called on
    optimizer_begins, optimizer_ends one step of the leading optimizer is one step
    clipped, scaled, zeroed          what else makes a step's numbers

Until the process trains (an optimizer exists, and a gradient is computed or a step taken) its base stage is
"command": whoever watches judges it by its log and activity, save within a stage that is known to end. A
failure in here ends the recording with one line and goes back to that; it never reaches the trainer. A
trainer that calls `harness.emit` itself ends it too: known by `emit.open`, or by rows that are not ours.

Only one thread is heard: the main one, or that in which the first gradient was computed. Not here: what is
wrapped (`torch_hooks`, `frameworks`), and how values are read (`reading`).
"""

import sys
import weakref
from _thread import get_ident
from time import monotonic

from harness import place, wire
from harness.auto import clockwork, reading
from harness.auto.clockwork import StepClock
from harness.auto.steps import Steps, was_skipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, Concatenate, ParamSpec, TypeVar

    from harness.auto.steps import Row

    P = ParamSpec("P")
    R = TypeVar("R")

_PATIENCE_BACKWARDS = 1024  # without a step: its steps are hidden from us


def guarded(
    method: "Callable[Concatenate[Recorder, P], R]",
) -> "Callable[Concatenate[Recorder, P], R | None]":
    """Nothing while the recorder is off; and a failure of ours stays ours."""

    def call(self: "Recorder", /, *args: "P.args", **kwargs: "P.kwargs") -> "R | None":
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


class Recorder:
    """One process, as its hooks see it."""

    def __init__(self, emit: "ModuleType | Any") -> None:
        self._emit = emit
        self.on = True
        self._thread = get_ident()
        self._base = wire.COMMAND_STAGE
        self._scopes: list[Scope] = []
        self._clock = StepClock(monotonic())
        self._phase: str | None = None
        self._claimed = False
        self._asleep = False
        self._waiting = False
        self._in_backward = False
        self._stepped_inside: list[weakref.ref[Any]] = []  # within a backward pass
        self._inner = 0  # backward passes within the optimizer's step
        self._stepping: int | None = None
        self._batches = False
        self._backwards = 0
        self._steps = Steps()
        self._ended = 0  # steps of any optimizer
        self._stale = False  # the step under way may have failed
        self._rows = 0
        self._at_finish = False
        self._hidden = False
        self.number: Callable[[], int] | None = None  # a framework's own count of steps done

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
            if self._phase is not None and self._base != wire.COMMAND_STAGE:
                self._emit.phase(self._phase)

    def _set_base(self, name: str) -> None:
        while self._scopes:
            self._scopes.pop().handle.__exit__(None, None, None)
        self._base, self._phase = name, None
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

    # ── phases ─────────────────────────────────────────────────────────────────────────────────────────────

    def _event(self, phase: str, begins: str | None, *, shown: bool = True) -> bool:
        """The time until now was `phase`, and `begins` is what comes; whether it counts at all."""
        if self._base != "train" or self._scopes:
            self._emit.progress()
            return False
        self._clock.account(phase, monotonic())
        self._phase = begins
        if shown:
            self._emit.phase(begins)
        return True

    @guarded
    def waits(self) -> "Scope | bool":
        """The data loader is asked for a batch; what `waited` wants back."""
        if self._waiting or get_ident() != self._thread:
            return False
        self._waiting = True
        self._stale = True  # a step that failed halfway has no end
        if self._steps.pending:
            self._flush(wait=True)
        if self._base == "train":
            self._event(clockwork.OTHER, clockwork.DATA)
            return True
        return True if self._batches else self.enter("first_batch") or True

    @guarded
    def waited(self, scope: "Scope | bool | None", *, batch: bool) -> None:
        """It gave one, or has no more."""
        if not scope:
            return
        self._waiting = False
        self._batches = self._batches or batch
        if isinstance(scope, Scope):
            self.leave(scope)
        else:
            self._event(clockwork.DATA, clockwork.FORWARD if batch else None)

    # ── gradients ──────────────────────────────────────────────────────────────────────────────────────────

    @guarded
    def backward_begins(self, tensors: "Any", gradients: "Any") -> bool:
        """Gradients are about to be computed; whether `backward_ends` is due."""
        if self._in_backward or self._is_hidden():
            return False
        if self._base != "train":
            if self._steps.made == 0 or self._backwards > _PATIENCE_BACKWARDS:
                return False
            self._begin_training()
        if get_ident() != self._thread:
            return False
        self._in_backward = True
        if self._steps.pending:
            self._flush(wait=True)
        self._backwards += 1
        if self._backwards > _PATIENCE_BACKWARDS:
            self._set_base(wire.COMMAND_STAGE)  # its steps are hidden from us
        if self._stepping is not None:
            self._inner += 1
        if gradients is None:
            self._steps.note_loss(tensors)
        self._event(clockwork.FORWARD, clockwork.BACKWARD)
        return True

    @guarded
    def backward_ends(self, *, well: bool) -> None:
        """They were computed, or `backward` failed."""
        self._in_backward = False
        self._event(clockwork.BACKWARD, clockwork.OPTIMIZER if self._stepping is not None else None)
        if self._stepped_inside:
            inside = [each() for each in self._stepped_inside]
            self._stepped_inside = []
            if well:
                self._complete(self._steps.leading(inside))

    @guarded
    def scaled(self, outputs: "Any", result: "Any") -> None:
        """A GradScaler made `result` of `outputs`."""
        if result is not outputs and get_ident() == self._thread:
            self._steps.note_scaled(outputs, result)

    @guarded
    def clipped(self, norm: "Any") -> None:
        """What a `clip_grad_norm_` returned."""
        if get_ident() == self._thread and self._base == "train":
            self._steps.note_norm(norm)

    @guarded
    def zeroed(self) -> None:
        """Gradients were thrown away: so is what was known of them."""
        if not self._in_backward and self._stepping is None:
            self._steps.drop()

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────

    @guarded
    def optimizer_made(self, optimizer: "Any") -> None:
        """An optimizer was constructed."""
        self._steps.optimizer_made(optimizer)

    @guarded
    def optimizer_begins(self, optimizer: "Any", *, closure: bool) -> None:
        """`optimizer.step` was called."""
        if self._is_hidden():
            return
        if self._in_backward and self._stepping is None:
            if not self._stepped_inside:
                self._steps.note_rates(optimizer)
            self._stepped_inside.append(weakref.ref(optimizer))
            return
        if self._base != "train":
            self._begin_training()
        nested = self._stepping not in (None, id(optimizer)) and not self._stale
        if get_ident() != self._thread or nested:
            return
        self._stepping, self._stale, self._inner = id(optimizer), False, 0
        self._steps.note_rates(optimizer)
        begins = clockwork.FORWARD if closure else clockwork.OPTIMIZER
        self._event(clockwork.OTHER, begins)

    @guarded
    def optimizer_ends(self, optimizer: "Any") -> None:
        """It returned."""
        if self._stepping != id(optimizer) or get_ident() != self._thread:
            return
        self._stepping = None
        self._ended += 1
        self._event(clockwork.OPTIMIZER, None, shown=False)
        if self._inner > 1:
            self._steps.evaluated(self._inner, optimizer)
        skipped = was_skipped(optimizer)
        if skipped:
            self._steps.forget()
        if skipped or not self._complete(optimizer):  # a row ends the phase by itself
            self._emit.phase(None)

    @guarded
    def steps_so_far(self) -> int:
        """How many steps of any optimizer there were: to tell later whether there was one more."""
        return self._ended

    @guarded
    def scaler_stepped(self, before: int | None) -> None:
        """A GradScaler stepped; where it found infinities, no optimizer did."""
        if before == self._ended and get_ident() == self._thread:
            self._steps.forget()

    def hide(self) -> None:
        """This process's steps are made of something else than what we see."""
        self._hidden = True

    def _is_hidden(self) -> bool:
        """Whether the steps of this run are made of something else than what we see.

        DeepSpeed steps its inner optimizer for each part of the parameters; a CUDA graph that is being
        captured is replayed later, without us.
        """
        if self._hidden or (self._steps.reader.on_device and self._steps.reader.is_capturing()):
            if self._base != wire.COMMAND_STAGE:
                self._set_base(wire.COMMAND_STAGE)
            return True
        return False

    def _complete(self, optimizer: "Any") -> bool:
        """A step of `optimizer` was done: a row, if it leads; whether one was written."""
        if self._base != "train":
            self._begin_training()
        self._backwards = 0
        if not self._steps.leads(optimizer):
            self._steps.forget()
            self._emit.progress()
            return False
        number = None if self.number is None else self.number()
        row = self._steps.done(number, self._clock.take(host=not self._steps.reader.on_device))
        return self._write(row) if row is not None else self._flush(wait=True)

    def _flush(self, *, wait: bool) -> bool:
        """Write the rows whose values are here, the oldest as it is where too many wait; whether any was."""
        written = False
        while row := self._steps.take(wait=wait):
            written = self._write(row)
        return written

    def _write(self, row: "Row") -> bool:
        """Write a row, if the record is ours yet."""
        if not self._is_ours():
            self.hand_over()
            return False
        self._rows += 1
        self._emit.step(
            row.number,
            loss=row.loss(),
            lr=row.rates,
            grad_norm=row.grad_norm(),
            tokens=row.tokens,
            memory=self._steps.reader.memory(),
            phase_seconds=row.phase_seconds,
        )
        return True

    def _is_ours(self) -> bool:
        """Whether nobody but us wrote into the record, and nobody began another one beside us."""
        record = self._emit._record  # noqa: SLF001
        if record is not None and record.rows != self._rows:
            return False
        other = sys.modules.get("harness.emit")
        return other is None or other is self._emit or not getattr(other, "enabled", False)

    # ── what frameworks tell ───────────────────────────────────────────────────────────────────────────────

    @guarded
    def batch(self, inputs: "Any") -> None:
        """A batch that is trained on: how many tokens it has, where it says so."""
        tokens = reading.tokens(inputs)
        if tokens is not None and get_ident() == self._thread:
            self._steps.note_tokens(tokens)

    @guarded
    def training_ended(self) -> None:
        """A framework's training is over: whatever comes now is the script's own."""
        self.number = None
        self._flush(wait=False)
        if self._base == "train" and get_ident() == self._thread:
            self._set_base(wire.COMMAND_STAGE)

    @guarded
    def declare(self, *, total_steps: int | None) -> None:
        """How many steps there will be."""
        if self._claimed and total_steps is not None and total_steps > 0:
            self._emit._speak_for(  # noqa: SLF001
                self.hand_over, total_steps=total_steps, provisional=self._base == wire.COMMAND_STAGE
            )
