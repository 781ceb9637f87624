"""What makes a step: whose it is, and its loss, rates, norm and tokens, gathered until it is done.

The *leader* is the optimizer whose steps are the run's. Values may still be on their way from a device when a
step is done; rows then wait for them, in order, and at most `MAX_PENDING` of them. Not here: when things
happen and who is told (`recorder`).
"""

import weakref

from harness import wire
from harness.auto.reading import Late, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from harness.auto.reading import Scalar

MAX_PENDING = 8
PATIENCE_STEPS = 64  # of other optimizers, before one of them leads


class Row:
    """A step that was done, and values of which some may still be on their way."""

    __slots__ = ("losses", "norm", "number", "phase_seconds", "rates", "tokens")

    def __init__(self, number: int, losses: "list[Scalar]", norm: "Scalar") -> None:
        self.number, self.losses, self.norm = number, losses, norm
        self.rates: float | list[float] | None = None
        self.tokens: int | None = None
        self.phase_seconds: list[float] = []

    def complete(self) -> bool:
        """Whether every value is here."""
        return _arrived(self.norm) and all(map(_arrived, self.losses))

    def loss(self) -> float | None:
        """The sum of what `backward` was called on; None where a part of it is not known."""
        if len(self.losses) == 1:
            return _value(self.losses[0])
        values = [_value(each) for each in self.losses]
        known = [value for value in values if value is not None]
        return sum(known) if known and len(known) == len(values) else None

    def grad_norm(self) -> float | None:
        """The norm, if there was one and it is here."""
        return _value(self.norm)


class Steps:
    """Gathers the numbers of the step under way, and keeps the rows that wait for theirs."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.pending: list[Row] = []
        self.made = 0  # optimizers, ever
        self._number = 0
        self._leader: weakref.ref[Any] | None = None
        self._fresh: list[weakref.ref[Any]] = []  # made since the leader stepped: another training begins
        self._others = 0  # steps of others since
        self._seen: set[int] = set()  # which have stepped since the leader leads
        self._scaling: tuple[weakref.ref[Any], Any] | None = None
        self.forget()

    def forget(self) -> None:
        """The next step's numbers begin here."""
        self.losses: list[Scalar] = []
        self._norms: list[Scalar] = []
        self._rates: float | list[float] | None = None
        self._tokens: int | None = None
        self._scaled = False

    # ── numbers ────────────────────────────────────────────────────────────────────────────────────────────

    def note_loss(self, tensors: "Any") -> None:
        """`backward` is called on this."""
        if isinstance(tensors, tuple | list) and len(tensors) == 1:
            tensors = tensors[0]
        scaling, self._scaling = self._scaling, None
        if scaling is not None and scaling[0]() is tensors:
            self.losses.append(self.reader.scalar(scaling[1]))
        elif self._scaled:
            self.losses.append(None)  # scaled by something that we did not see
        else:
            self.losses.append(self.reader.scalar(tensors))

    def note_scaled(self, outputs: "Any", result: "Any") -> None:
        """A GradScaler made `result` of `outputs`."""
        self._scaled = True
        if hasattr(outputs, "detach"):
            self._scaling = (weakref.ref(result), outputs.detach())

    def note_norm(self, norm: "Any") -> None:
        """Gradients were clipped; more than once in a step there is no norm of all."""
        self._norms.append(self.reader.scalar(norm))

    def note_rates(self, optimizer: "Any") -> None:
        """The rates that a step is about to use."""
        groups = optimizer.param_groups
        if len(groups) == 1:
            rate = groups[0].get("lr")
            self._rates = rate if rate.__class__ is float else self.reader.rate(rate)
        else:
            self._rates = [self.reader.rate(group.get("lr")) for group in groups[: wire.MAX_RATES]]

    def note_tokens(self, tokens: int) -> None:
        """So many more are trained on."""
        self._tokens = (self._tokens or 0) + tokens

    def drop(self) -> None:
        """Gradients are thrown away, and what is known of them; of several optimizers, nobody knows which."""
        if self.losses:
            self.losses = [None] if len(self._seen) > 1 else []
            self._norms = []

    def evaluated(self, times: int, optimizer: "Any") -> None:
        """A closure was evaluated more than once within a step.

        The first time was at the parameters that the step began with, which is what LBFGS returns; of other
        optimizers it is not known.
        """
        lbfgs = type(optimizer).__name__ == "LBFGS"
        self.losses = self.losses[: len(self.losses) - times + 1] if lbfgs else [None]

    # ── whose step it is ───────────────────────────────────────────────────────────────────────────────────

    def optimizer_made(self, optimizer: "Any") -> None:
        """An optimizer was constructed."""
        self.made += 1
        self._fresh.append(weakref.ref(optimizer))

    def leading(self, optimizers: "list[Any]") -> "Any":
        """Of optimizers that stepped as one, the one whose step it is."""
        leader = self._leader() if self._leader is not None else None
        return leader if any(each is leader for each in optimizers) else optimizers[0]

    def leads(self, optimizer: "Any") -> bool:
        """Whether the step that it took is one of the run's."""
        leader = self._leader() if self._leader is not None else None
        if leader is not optimizer:
            self._seen.add(id(optimizer))
            self._others += 1
            fresh = any(each() is optimizer for each in self._fresh)
            if leader is not None and not fresh and self._others < PATIENCE_STEPS:
                return False
            self._leader = weakref.ref(optimizer)
            self._seen = {id(optimizer)}
        self._others = 0
        self._fresh.clear()
        return True

    # ── rows ───────────────────────────────────────────────────────────────────────────────────────────────

    def done(self, number: int | None, phase_seconds: list[float]) -> Row | None:
        """A step of the run was done; `number` is a framework's own. Its row, if nothing is to wait for."""
        self._number = self._number + 1 if number is None else number
        row = Row(self._number, self.losses, self._norms[0] if len(self._norms) == 1 else None)
        row.rates, row.tokens, row.phase_seconds = self._rates, self._tokens, phase_seconds
        self.forget()
        if not self.pending and not self.reader.on_device:
            return row
        self.pending.append(row)
        return None

    def take(self, *, wait: bool) -> Row | None:
        """The next row whose values are here; the oldest as it is where too many wait, or none may."""
        if not self.pending:
            return None
        too_many = len(self.pending) > MAX_PENDING
        return self.pending.pop(0) if too_many or not wait or self.pending[0].complete() else None


def _arrived(value: "Scalar") -> bool:
    return value.__class__ is not Late or value.get() is not None


def _value(value: "Scalar") -> float | None:
    return value.get() if value.__class__ is Late else value  # type: ignore[return-value]


def was_skipped(optimizer: "Any") -> bool:
    """Whether a fused optimizer, told so by a GradScaler, left the parameters as they were; on the host."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and found.device.type == "cpu" and bool(found.item())
