"""What the hooks see within a step, made into phases and rows: the one place that talks to `harness.emit`.

    enter, leave                     a call that is a stage of its own: import, dataset, eval, checkpoint …
    waits, waited                    the data loader
    backward_begins, backward_ends   and the scalar that it was called on
    optimizer_begins, optimizer_ends one step of the leading optimizer is one step
    clipped, scaled, zeroed          what else makes a step's numbers

What is called in each step is written out: a step leaves the caches cold, and there each function more that a
hook enters, and each object that it makes, costs a microsecond.

Not here: whose record it is, and stages (`stages`); what is wrapped (`torch_hooks`, `frameworks`); how values
are read (`reading`) and whose step it is (`steps`).
"""

import weakref
from _thread import get_ident
from time import monotonic

from harness import wire
from harness.auto import reading
from harness.auto.clockwork import BACKWARD, DATA, FORWARD, NONE, OPTIMIZER, OTHER
from harness.auto.stages import TEXTS, Scope, Stages, guarded
from harness.auto.steps import was_skipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_PATIENCE_BACKWARDS = 1024  # without a step: its steps are hidden from us


class Recorder(Stages):
    """One process, as its hooks see it."""

    def __init__(self, emit: "ModuleType | Any") -> None:
        super().__init__(emit)
        self._stepped_inside: list[weakref.ref[Any]] = []  # within a backward pass
        self._inner = 0  # backward passes within the optimizer's step
        self._backwards = 0
        self._ended = 0  # steps of any optimizer
        self._stale = False  # the step under way may have failed
        self._hidden = False
        self.number: Callable[[], int] | None = None  # a framework's own count of steps done

    # ── phases ─────────────────────────────────────────────────────────────────────────────────────────────

    def _event(self, phase: int, begins: int) -> None:
        """The time until now was `phase`, and `begins` is what comes."""
        if self._base != "train" or self._scopes:
            self._emit.progress()
            return
        now = monotonic()
        self._clock.account(phase, now)
        self._phase = begins
        self._mark(TEXTS[begins], now)

    def waits(self) -> "Scope | bool":
        """The data loader is asked for a batch; what `waited` wants back."""
        if not self.on or self._waiting or get_ident() != self._thread:
            return False
        try:
            self._waiting = True
            self._stale = True  # a step that failed halfway has no end
            if self._steps.pending:
                self._flush(wait=True)
            if self._base == "train":
                self._event(OTHER, DATA)
                return True
            return True if self._batches else self.enter("first_batch") or True
        except Exception as error:  # noqa: BLE001 (never into the trainer)
            self.fail(error)
            return False

    def waited(self, scope: "Scope | bool", *, batch: bool) -> None:
        """It gave one, or has no more."""
        if not scope or not self.on:
            return
        try:
            self._waiting = False
            if batch:
                self._batches = True
            if scope is not True:
                self.leave(scope)
            else:
                self._event(DATA, FORWARD if batch else NONE)
        except Exception as error:  # noqa: BLE001 (as in `waits`)
            self.fail(error)

    # ── gradients ──────────────────────────────────────────────────────────────────────────────────────────

    def backward_begins(self, tensors: "Any", gradients: "Any") -> bool:
        """Gradients are about to be computed; whether `backward_ends` is due."""
        if not self.on or self._in_backward:
            return False
        try:
            steps = self._steps
            if (self._hidden or steps.reader.on_device) and self._is_hidden():
                return False
            if self._base != "train":
                if steps.made == 0 or self._backwards > _PATIENCE_BACKWARDS:
                    return False
                self._begin_training()
            if get_ident() != self._thread:
                return False
            self._in_backward = True
            if steps.pending:
                self._flush(wait=True)
            self._backwards += 1
            if self._backwards > _PATIENCE_BACKWARDS:
                self._set_base(wire.COMMAND_STAGE)  # its steps are hidden from us
            if self._stepping is not None:
                self._inner += 1
            if gradients is None:
                steps.note_loss(tensors)
            self._event(FORWARD, BACKWARD)
            return True
        except Exception as error:  # noqa: BLE001 (as in `waits`)
            self.fail(error)
            return False

    def backward_ends(self, *, well: bool) -> None:
        """They were computed, or `backward` failed."""
        if not self.on:
            return
        try:
            self._in_backward = False
            self._event(BACKWARD, OPTIMIZER if self._stepping is not None else NONE)
            if self._stepped_inside:
                inside = [each() for each in self._stepped_inside]
                self._stepped_inside = []
                if well:
                    self._complete(self._steps.leading(inside))
        except Exception as error:  # noqa: BLE001 (as in `waits`)
            self.fail(error)

    @guarded
    def scaled(self, outputs: "Any", result: "Any") -> None:
        """A GradScaler made `result` of `outputs`."""
        if result is not outputs and get_ident() == self._thread:
            self._steps.note_scaled(outputs, result)

    def clipped(self, norm: "Any") -> None:
        """What a `clip_grad_norm_` returned."""
        if self.on and self._base == "train" and get_ident() == self._thread:
            try:
                self._steps.note_norm(norm)
            except Exception as error:  # noqa: BLE001 (as in `waits`)
                self.fail(error)

    def zeroed(self) -> None:
        """Gradients were thrown away: so is what was known of them."""
        if self.on and self._steps.row.losses and not self._in_backward and self._stepping is None:
            self._steps.drop()

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────

    @guarded
    def optimizer_made(self, optimizer: "Any") -> None:
        """An optimizer was constructed."""
        self._steps.optimizer_made(optimizer)

    def optimizer_begins(self, optimizer: "Any", *, closure: bool) -> None:
        """`optimizer.step` was called."""
        if not self.on:
            return
        try:
            steps = self._steps
            if (self._hidden or steps.reader.on_device) and self._is_hidden():
                return
            if self._in_backward and self._stepping is None:
                if not self._stepped_inside:
                    steps.note_rates(optimizer)
                self._stepped_inside.append(weakref.ref(optimizer))
                return
            if self._base != "train":
                self._begin_training()
            nested = self._stepping not in (None, id(optimizer)) and not self._stale
            if nested or get_ident() != self._thread:
                return
            self._stepping, self._stale, self._inner = id(optimizer), False, 0
            steps.note_rates(optimizer)
            self._event(OTHER, FORWARD if closure else OPTIMIZER)
        except Exception as error:  # noqa: BLE001 (as in `waits`)
            self.fail(error)

    def optimizer_ends(self, optimizer: "Any") -> None:
        """It returned."""
        if not self.on or self._stepping != id(optimizer) or get_ident() != self._thread:
            return
        try:
            self._stepping = None
            self._ended += 1
            now = monotonic()
            within = self._base == "train" and not self._scopes
            if within:
                self._clock.account(OPTIMIZER, now)
                self._phase = NONE
            else:
                self._emit.progress()
            if self._inner > 1:
                self._steps.evaluated(self._inner, optimizer)
            found_inf = vars(optimizer).get("found_inf")
            skipped = found_inf is not None and was_skipped(found_inf)
            if skipped:
                self._steps.forget()
            if (skipped or not self._complete(optimizer)) and within:  # a row ends the phase by itself
                self._mark(b"", now)
        except Exception as error:  # noqa: BLE001 (as in `waits`)
            self.fail(error)

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
