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

from harness import wire
from harness.auto import clockwork, reading
from harness.auto.clockwork import StepClock
from harness.auto.reading import Late, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, Concatenate, ParamSpec, TypeVar

    from harness.auto.reading import Scalar

    P = ParamSpec("P")
    R = TypeVar("R")

_MAX_PENDING = 8  # rows whose values are still on their way from a device
_PATIENCE_STEPS = 64  # of other optimizers, before one of them leads
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


class _Row:
    """A step that was done, and values of which some may still be on their way."""

    __slots__ = ("losses", "norm", "number", "phase_seconds", "rates", "tokens")

    def __init__(self, number: int, losses: "list[Scalar]", norm: "Scalar") -> None:
        self.number, self.losses, self.norm = number, losses, norm
        self.rates: list[float] | None = None
        self.tokens: int | None = None
        self.phase_seconds: dict[str, float] = {}

    def complete(self) -> bool:
        """Whether every value is here."""
        return all(_arrived(each) for each in self.losses) and _arrived(self.norm)

    def loss(self) -> float | None:
        """The sum of what `backward` was called on; None where a part of it is not known."""
        values = [_value(each) for each in self.losses]
        known = [value for value in values if value is not None]
        return sum(known) if known and len(known) == len(values) else None


class Recorder:
    """One process, as its hooks see it."""

    def __init__(self, emit: "ModuleType | Any") -> None:
        self._emit = emit
        self.on = True
        self.reader = Reader()
        self._thread = get_ident()
        self._base = wire.COMMAND_STAGE
        self._scopes: list[Scope] = []
        self._clock = StepClock(monotonic())
        self._last = ""  # the phase that the last event began
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
        self._optimizers = 0
        self._leader: weakref.ref[Any] | None = None
        self._fresh: list[weakref.ref[Any]] = []  # made since the leader stepped: another training begins
        self._others = 0
        self._steps = 0  # of any optimizer
        self._seen: set[int] = set()  # which have stepped since the leader leads
        self._losses: list[Scalar] = []
        self._norms: list[Scalar] = []
        self._rates: list[float] | None = None
        self._scaling: tuple[weakref.ref[Any], Any] | None = None
        self._scaled = False
        self._tokens: int | None = None
        self._pending: list[_Row] = []
        self._rows = 0
        self._number = 0
        self._at_finish = False
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
            self._scopes, self._pending = [], []

    def wake(self) -> None:
        """It joins a process group: it is a rank."""
        if self._asleep:
            self.on, self._asleep = True, False
            self._thread = get_ident()

    def hand_over(self) -> None:
        """The trainer speaks for itself from here on: as if it had begun the record."""
        if self.on:
            self.on = False
            self._pending = []
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

    # ── phases ─────────────────────────────────────────────────────────────────────────────────────────────

    def _event(self, phase: str, begins: str | None) -> bool:
        """The time until now was `phase`, and `begins` is what comes; whether it counts at all."""
        if self._base != "train" or self._scopes:
            self._emit.progress()
            return False
        self._clock.account(phase, monotonic())
        self._last = begins or ""
        self._phase = begins
        self._emit.phase(begins)
        return True

    @guarded
    def waits(self) -> "Scope | bool":
        """The data loader is asked for a batch; what `waited` wants back."""
        if self._waiting or get_ident() != self._thread:
            return False
        self._waiting = True
        self._stepping = None  # a step that failed halfway has no end
        if self._pending:
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
            if self._optimizers == 0 or self._backwards > _PATIENCE_BACKWARDS:
                return False
            self._begin_training()
        if get_ident() != self._thread:
            return False
        self._in_backward = True
        if self._pending:
            self._flush(wait=True)
        self._backwards += 1
        if self._backwards > _PATIENCE_BACKWARDS:
            self._set_base(wire.COMMAND_STAGE)  # its steps are hidden from us
        if self._stepping is not None:
            self._inner += 1
        if gradients is None:
            self._note_loss(tensors)
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
            leader = self._leader() if self._leader is not None else None
            if well:
                self._complete(leader if any(each is leader for each in inside) else inside[0])

    def _note_loss(self, tensors: "Any") -> None:
        if isinstance(tensors, tuple | list) and len(tensors) == 1:
            tensors = tensors[0]
        scaling, self._scaling = self._scaling, None
        if scaling is not None and scaling[0]() is tensors:
            self._losses.append(self.reader.scalar(scaling[1]))
        elif self._scaled:
            self._losses.append(None)  # scaled by something that we did not see
        else:
            self._losses.append(self.reader.scalar(tensors))

    @guarded
    def scaled(self, outputs: "Any", result: "Any") -> None:
        """A GradScaler made `result` of `outputs`."""
        if result is not outputs and get_ident() == self._thread:
            self._scaled = True
            if hasattr(outputs, "detach"):
                self._scaling = (weakref.ref(result), outputs.detach())

    @guarded
    def clipped(self, norm: "Any") -> None:
        """What a `clip_grad_norm_` returned."""
        if get_ident() == self._thread and self._base == "train":
            self._norms.append(self.reader.scalar(norm))

    @guarded
    def zeroed(self) -> None:
        """Gradients were thrown away: so is what was known of them."""
        if self._losses and not self._in_backward and self._stepping is None and not self._stepped_inside:
            # Of several optimizers' gradients it is not known which.
            self._losses = [None] if len(self._seen) > 1 else []
            self._norms = []

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────

    @guarded
    def optimizer_made(self, optimizer: "Any") -> None:
        """An optimizer was constructed."""
        self._optimizers += 1
        self._fresh.append(weakref.ref(optimizer))

    @guarded
    def optimizer_begins(self, optimizer: "Any", *, closure: bool) -> None:
        """`optimizer.step` was called."""
        if self._is_hidden():
            return
        if self._in_backward and self._stepping is None:
            if not self._stepped_inside:
                self._rates = self._rates_of(optimizer)
            self._stepped_inside.append(weakref.ref(optimizer))
            return
        if self._base != "train":
            self._begin_training()
        if get_ident() != self._thread or self._stepping not in (None, id(optimizer)):
            return
        self._stepping = id(optimizer)
        self._inner = 0
        self._rates = self._rates_of(optimizer)
        begins = clockwork.FORWARD if closure else clockwork.OPTIMIZER
        self._event(clockwork.OTHER, begins)

    @guarded
    def optimizer_ends(self, optimizer: "Any") -> None:
        """It returned."""
        if self._stepping != id(optimizer) or get_ident() != self._thread:
            return
        self._stepping = None
        self._steps += 1
        self._event(clockwork.OPTIMIZER, None)
        if self._inner > 1:
            # A closure was evaluated again and again. The first time was at the parameters that the step
            # began with, which is what LBFGS returns; of other optimizers it is not known.
            lbfgs = type(optimizer).__name__ == "LBFGS"
            self._losses = self._losses[: len(self._losses) - self._inner + 1] if lbfgs else [None]
        if _was_skipped(optimizer):
            self._forget()
            return
        self._complete(optimizer)

    @guarded
    def steps_so_far(self) -> int:
        """How many steps of any optimizer there were: to tell later whether there was one more."""
        return self._steps

    @guarded
    def scaler_stepped(self, before: int | None) -> None:
        """A GradScaler stepped; where it found infinities, no optimizer did."""
        if before == self._steps and get_ident() == self._thread:
            self._forget()

    def _is_hidden(self) -> bool:
        """Whether the steps of this run are made of something else than what we see.

        DeepSpeed steps its inner optimizer for each part of the parameters; a CUDA graph that is being
        captured is replayed later, without us.
        """
        if "deepspeed.runtime.engine" in sys.modules or self.reader.is_capturing():
            if self._base != wire.COMMAND_STAGE:
                self._set_base(wire.COMMAND_STAGE)
            return True
        return False

    def _complete(self, optimizer: "Any") -> None:
        """A step of `optimizer` was done: a row, if it leads."""
        if self._base != "train":
            self._begin_training()
        self._backwards = 0
        leader = self._leader() if self._leader is not None else None
        self._seen.add(id(optimizer))
        if leader is not optimizer:
            self._others += 1
            fresh = any(each() is optimizer for each in self._fresh)
            if leader is not None and not fresh and self._others < _PATIENCE_STEPS:
                self._forget()
                self._emit.progress()
                return
            self._leader = weakref.ref(optimizer)
            self._seen = {id(optimizer)}
        self._others = 0
        self._fresh.clear()
        self._number = self._number + 1 if self.number is None else self.number()
        row = _Row(self._number, self._losses, self._norms[0] if len(self._norms) == 1 else None)
        row.rates, row.tokens = self._rates, self._tokens
        row.phase_seconds = self._clock.take(host=not self.reader.on_device)
        self._forget()
        self._pending.append(row)
        self._flush(wait=True)

    def _forget(self) -> None:
        """The next step's numbers begin here."""
        self._losses, self._norms, self._rates, self._tokens = [], [], None, None
        self._scaled = False

    def _rates_of(self, optimizer: "Any") -> "list[float]":
        rates = [self.reader.rate(group.get("lr")) for group in optimizer.param_groups[: wire.MAX_RATES]]
        return [wire.ABSENT if rate is None else rate for rate in rates]

    def _flush(self, *, wait: bool) -> None:
        """Write the rows whose values are here; the oldest without them where too many wait."""
        while self._pending:
            row = self._pending[0]
            if wait and not row.complete() and len(self._pending) <= _MAX_PENDING:
                return
            del self._pending[0]
            if not self._is_ours():
                self.hand_over()
                return
            self._emit.step(
                row.number,
                loss=row.loss(),
                lr=row.rates,
                grad_norm=_value(row.norm),
                tokens=row.tokens,
                memory=self.reader.memory(),
                phase_seconds=row.phase_seconds,
            )
            self._rows += 1

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
            self._tokens = (self._tokens or 0) + tokens

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


def _arrived(value: "Scalar") -> bool:
    return not isinstance(value, Late) or value.get() is not None


def _value(value: "Scalar") -> float | None:
    return value.get() if isinstance(value, Late) else value


def _was_skipped(optimizer: "Any") -> bool:
    """Whether a fused optimizer, told so by a GradScaler, left the parameters as they were; on the host."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and found.device.type == "cpu" and bool(found.item())
